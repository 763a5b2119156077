"""The coordinator: turns the outlook into messages and results into records. All decisions are elsewhere and pure.

The plan says which tasks are wanted, the crew has them done, the journal says what is done. Knowledge never passes
through here; weights and soft targets go from agent to agent.
"""

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from agentkd.artifacts.journal import Journal
from agentkd.artifacts.making import made_of
from agentkd.artifacts.run_folder import RunFolder
from agentkd.checks.before import LOOKED_AT, Foreseen, look_at
from agentkd.coordinator import choices, generations, own_parts
from agentkd.coordinator.budget import UNLIMITED, Budget, Spending
from agentkd.coordinator.crew import Crew
from agentkd.coordinator.data_places import bases, found_here
from agentkd.coordinator.desk import Desk, Done, Order, desk_with_agents
from agentkd.coordinator.generations import Generation
from agentkd.coordinator.narration import narrated
from agentkd.coordinator.reusing import Lender, first_lenders, lenders
from agentkd.coordinator.watching import Noting, Silent, Snapshot, Watcher
from agentkd.datasets.opening import Opened
from agentkd.durable import discard
from agentkd.errors import ArtifactError, ArtifactNotFoundError, SearchError, TrainingError, must_be
from agentkd.experiment import Experiment
from agentkd.names import TaskKey
from agentkd.pipeline import aims
from agentkd.pipeline.choosing import Answers
from agentkd.pipeline.plan import Outlook, Planner
from agentkd.pipeline.remaining import Pace, pace_of, remaining, seconds_left
from agentkd.pipeline.stages import PlannedTask
from agentkd.search.view import Period, write_view
from agentkd.task import Status, TaskResult

SHOW_EVERY_S = 0.25
MAX_OPEN_ASKS = 10_000

log = logging.getLogger(__name__)


def run_experiment(
    experiment: Experiment,
    folder: RunFolder | Path | str,
    watcher: Watcher | None = None,
    *,
    foreseen: Foreseen | None = None,
    budget: Budget = UNLIMITED,
    reuse: Sequence[Path | str] = (),
) -> Outlook:
    """Runs an experiment in a folder, or goes on with it; returns the finished outlook, or that with which its budget was spent.

    Args:
        experiment: from ``agentkd.load_experiment``.
        folder: of the run; it is made if it is not there.
        watcher: who is told how it goes; nobody if it is not given.
        foreseen: what ``agentkd.checks`` found out about it; it is looked at here if that is not given.
        budget: what may be begun (``agentkd.coordinator.budget.Budget``). What was begun is done and recorded when this returns;
            running it again goes on.
        reuse: folders of other runs, whose recorded tasks are taken over where they are the same, with what they made.

    Raises:
        ConfigError: it cannot go well, see ``agentkd.checks``. Nothing was started, and nothing is recorded.
        AgentKDError: why it stopped. What was finished is recorded; running it again goes on from there.
    """
    must_be(experiment, Experiment, "the experiment", "what agentkd.load_experiment returned")
    folder = folder if isinstance(folder, RunFolder) else RunFolder(folder)
    watcher = narrated(folder, Noting(watcher or Silent()))
    foreseen = foreseen or look_at(experiment, folder.place, in_full=False)
    for concern in foreseen.warnings:
        log.warning("%s", concern.problem)
    own = foreseen.must_be_sound().own
    others = lenders(reuse, folder)
    slots = experiment.launch.slots
    with desk_with_agents(folder, slots, experiment.launch, watcher, is_forgiving=False) as desk:
        results = _recorded_results(desk.journal, folder)
        generation, said = generations.adopt(experiment, own, foreseen.dataset, folder, desk.journal, results)
        for line in said:
            watcher.tell(line)
        if desk.journal.get_meta(LOOKED_AT, str) != foreseen.key:
            desk.journal.set_meta(LOOKED_AT, foreseen.key)
        planner = generation.planner(foreseen.dataset, generations.suggestions_of(desk.journal))
        coordinator = _Coordinator(experiment, planner, desk, watcher, results, budget, others)
        if not coordinator.outlook.is_finished:
            planner.check_revisions()
        try:
            coordinator.run()
        finally:
            write_study_view(folder, experiment, planner, coordinator.outlook, _periods(desk.journal, results))
        return coordinator.outlook


def read_run(
    folder: RunFolder, *, trusting: bool = True, looks_for_data: bool = True
) -> tuple[Experiment, Planner, Outlook, Journal]:
    """A run as it stands, for reports: what was recorded, and the outlook that follows from it. Own code is not run.

    Its data need not be here, or may be others by now: then the planner's dataset is an outline.

    Args:
        folder: of the run.
        trusting: what is noted of samplers' suggestions, instead of asking the samplers again.
        looks_for_data: whether its data are opened if they are here, for which all of them may be read.

    Raises:
        ArtifactError: the folder holds no experiment's run, or one of whose records no plan can be made.
        DatasetError: an older agentkd began it, which noted nothing of its data, and they are not here.
    """
    with contextlib.ExitStack() as opened:
        journal = opened.enter_context(Journal(folder.must_exist().journal, read_only=True))
        records = list(journal.records())
        generation = generations.present(journal, [record.task for record in records])
        if generation is None:
            raise ArtifactError(f"{folder.place} is no run of an experiment: its journal notes none")
        with made_of(folder.place, "plan"):
            suggestions = generations.suggestions_of(journal) if trusting else None
            dataset = dataset_as_it_was(generation, journal, folder) if looks_for_data or generation.data is None else None
            planner = generation.planner(dataset, suggestions)
            results = {record.task.key: record.result for record in records}
            asks = journal.asks()
            if sum(map(len, asks.values())) > len(results) + MAX_OPEN_ASKS:
                raise ValueError("more trials were asked for than were done")
            outlook = planner.outlook(results, asks, generation.answers)
        opened.pop_all()
        return generation.experiment, planner, outlook, journal


def dataset_as_it_was(generation: Generation, journal: Journal, folder: RunFolder) -> Opened | None:
    """The dataset of a state of an experiment if it is here as it was then, else ``None``. Own code is not run for this."""
    experiment, data = generation.experiment, generation.data
    if generation.own.data is not None:
        opened = own_parts.dataset_of(experiment, generation.own)
        return opened if data is None or opened.digest == data.content_digest else None
    if data is None:
        return None
    return found_here(experiment.data.dataset, data.content_digest, bases(journal, folder.place))[0]


def write_study_view(
    folder: RunFolder, experiment: Experiment, planner: Planner, outlook: Outlook, periods: Mapping[TaskKey, Period]
) -> None:
    """Writes the studies for optuna-dashboard. A view only: if it cannot be written it is dropped, and made again next time."""
    try:
        for one in (outlook, *outlook.repeats):
            mark = f"-seed-{one.seed}" if one.seed != experiment.seed else ""
            for family, trials in one.trials.items():
                name, space = f"{experiment.name}-{family}{mark}", planner.families[family].space
                numbered = enumerate(one.trial_keys[family])
                when = {number: periods[key] for number, key in numbered if key in periods}
                write_view(folder.study, name, space, trials, num_costs=aims.num_costs(experiment), periods=when)
    except SearchError as error:
        log.warning("%s", error)
        discard(folder.study)


def _periods(journal: Journal, results: Mapping[TaskKey, TaskResult]) -> dict[TaskKey, Period]:
    """When each task was done: it ended when it was recorded, and began as long before as it took."""
    found = {}
    for row in journal.rows():
        if row.task in results:
            ended = datetime.fromisoformat(row.at).astimezone().replace(tzinfo=None)  # the time of the place, as Optuna's own
            found[row.task] = Period(ended - timedelta(seconds=results[row.task].seconds), ended)
    return found


class _Coordinator:
    """Has done what the plan wants, and tells the plan what was done."""

    def __init__(
        self,
        experiment: Experiment,
        planner: Planner,
        desk: Desk[Crew],
        watcher: Watcher,
        results: dict[TaskKey, TaskResult],
        budget: Budget,
        others: Sequence[Lender],
    ) -> None:
        self.experiment, self.planner, self.desk, self.watcher, self.results = experiment, planner, desk, watcher, results
        self.others = others
        self.asks = desk.journal.asks()
        self.answers: Answers = choices.noted(desk.journal)
        self.outlook = self._look()
        self.steps: dict[TaskKey, PlannedTask] = {}
        self.started_at = time.monotonic()
        self.num_agents = len(experiment.launch.slots)
        self.spending, self.open = Spending(budget, self.num_agents), set[TaskKey]()
        self.pace: Pace = pace_of((record.task, record.result) for record in desk.journal.records())
        self._shown_at = 0.0

    def run(self) -> None:
        """Works until nothing is left to be done, or no more may be begun and what was is done."""
        self._note()
        self._want()
        while not self.outlook.is_finished and not (self.spending.is_spent and not self.open):
            for done in self.desk.turn():
                self._take(done)
            self._show()
        self._show(now=True)
        if not self.outlook.is_finished:
            self.watcher.tell(f"{self.spending.reason}; what it has begun is recorded")

    def _look(self) -> Outlook:
        """The outlook now; what it leaves to a user's own rules is asked and written down first."""
        outlook = self.planner.outlook(self.results, self.asks, self.answers)
        while outlook.questions:
            self.answers = choices.ask(outlook.questions, self.desk.journal)
            outlook = self.planner.outlook(self.results, self.asks, self.answers)
        return outlook

    def _want(self) -> None:
        """Has the steps done that are wanted, but for those that another run has done."""
        self._take_over()
        wanted = [step for step in self.outlook.steps if step.key not in self.steps]
        elapsed_s = time.monotonic() - self.started_at
        new = self.spending.take(wanted, elapsed_s=elapsed_s, num_open=len(self.open))
        self.steps |= {step.key: step for step in new}
        self.open |= {step.key for step in new}
        self.desk.submit(Order(step.task, describe_step(step), keeps_failure=not step.stage.traits.is_vital) for step in new)

    def _note(self) -> None:
        """What new trials saw, and what was suggested, is written down before they are done."""
        generations.note_suggestions(self.planner.suggestions, self.desk.journal)
        if self.outlook.asks:
            self.desk.journal.note_asks(self.outlook.asks)
            self.asks = self.desk.journal.asks()

    def _take_over(self) -> None:
        """What another run has recorded of the steps that are wanted is recorded here too, and so on with those that follow."""
        counts: Counter[Lender] = Counter()
        while found := first_lenders(self.others, (step.key for step in self.outlook.steps if step.key not in self.steps)):
            for (lender, _), records in found.items():
                for record in records:
                    lender.hand_over(record, self.desk.folder.store)
                self.desk.take_over(records, lender.provenance(records[0]))
                counts[lender] += len(records)
                for record in records:
                    self.results[record.task.key] = record.result
                    self.pace.note(record.task, record.result)
            self.outlook = self._look()
            self._note()
        for lender, count in counts.items():
            self.watcher.tell(
                f"taken over from {lender.folder.place}: {count:,} recorded tasks, and what they made, each byte verified"
            )

    def _take(self, done: Done) -> None:
        """A failed trial or lesson is a result like any other; a failed baseline stops the run and is not recorded."""
        key, result = done.task.key, done.result
        step = self.steps[key]
        self.open.discard(key)
        if result.status is Status.FAILED and step.stage.traits.is_vital:
            text = f"{step.stage} of {step.family} failed in attempt {done.attempts} ({result.error_code}): {result.error_text}"
            raise TrainingError(text)
        self.results[key] = result
        self.pace.note(done.task, result)
        self.watcher.tell(describe_result(step, result))
        self.outlook = self._look()
        if self.outlook.failure:
            raise TrainingError(self.outlook.failure)
        self._note()
        self._want()

    def _show(self, *, now: bool = False) -> None:
        if not now and time.monotonic() - self._shown_at < SHOW_EVERY_S:
            return
        self._shown_at = time.monotonic()
        left = remaining(self.planner, self.outlook, self.desk.shares())
        num_done = self._num_done()
        snapshot = Snapshot(
            self.experiment.name,
            elapsed_s=self._shown_at - self.started_at,
            num_recorded=num_done,
            num_expected=num_done + sum(one.num_tasks for one in left),
            left_s=seconds_left(self.experiment, left, self.pace, num_agents=self.num_agents),
            outlook=self.outlook,
            activities=self.desk.activities(),
            num_trials={family: self.experiment.trials(family) for family in self.experiment.families},
        )
        self.watcher.show(snapshot)

    def _num_done(self) -> int:
        """Tasks that are done and wanted: not what was done before a correction."""
        return len(self.outlook.keys & self.results.keys())


def describe_step(step: PlannedTask) -> str:
    """What a task is for."""
    return f"{step.stage} of {step.family}: {step.label}"


def describe_result(step: PlannedTask, result: TaskResult) -> str:
    """One line on a finished task."""
    head = f"{step.family} {step.stage}, {step.label}: "
    if result.status is Status.INFEASIBLE:
        return head + f"infeasible ({result.num_parameters_deploy:,} deploy parameters, {result.num_macs:,} MACs)"
    if result.status is Status.FAILED:
        return head + f"failed ({result.error_code}): {result.error_text.splitlines()[0] if result.error_text else ''}"
    pruned = " (pruned)" if result.status is Status.PRUNED else ""
    missing = ", ".join(result.uncounted_operations)
    uncounted = f"; MACs do not count {missing}" if missing else ""
    size = f"{result.num_parameters_deploy:,} parameters" + (f", {result.latency_ms:.3g} ms" if result.latency_ms else "")
    return head + f"{result.measure.text(result)}{pruned}, {size}, {result.seconds:.0f} s{uncounted}"


def _recorded_results(journal: Journal, folder: RunFolder) -> dict[TaskKey, TaskResult]:
    """What is recorded, after a look that the weights it names are there."""
    results = {}
    for record in journal.records():
        for digest in record.result.artifacts:
            if digest not in folder.store:
                raise ArtifactNotFoundError(digest, folder.store.place)
        results[record.task.key] = record.result
    return results
