"""What of an experiment is left to be done, and how long that may take by what was recorded. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from agentkd.experiment import Experiment
from agentkd.names import TaskKey
from agentkd.pipeline.plan import Outlook, Planner
from agentkd.pipeline.stages import ROUNDS, PlannedTask, Stage
from agentkd.search.study import TrialOutcome
from agentkd.task import Distill, Status, Task, TaskResult, Train, Training

TRAIN, DISTILL, EVALUATE = "train", "distill", "evaluate"


@dataclass(frozen=True)
class Left:
    """Tasks of one family in one stage that are still to be done.

    Args:
        kind: of these tasks.
        epochs: of each; 0 of evaluations.
        num_tasks: how many, at most; infeasible trials come on top.
        begun: of those that are under way, the share that is done.
    """

    family: str
    stage: Stage
    kind: str
    epochs: int
    num_tasks: int
    begun: tuple[float, ...] = ()

    @property
    def num_wholes(self) -> float:
        """What is left, in whole tasks."""
        return max(0.0, self.num_tasks - sum(self.begun))

    @property
    def least(self) -> float:
        """What is left of the one task that is furthest behind, in whole tasks."""
        if self.num_tasks > len(self.begun):
            return 1.0
        return 1 - min(self.begun, default=0.0) if self.num_tasks else 0.0


def remaining(planner: Planner, outlook: Outlook, progress: Mapping[TaskKey, float] | None = None) -> list[Left]:
    """What is left by family and stage, of all seeds.

    Args:
        planner: of the experiment.
        outlook: how it stands.
        progress: of tasks under way the share that is done, in [0, 1].
    """
    elsewhere = {step.key for one in outlook.repeats for step in one.steps}
    own = tuple(step for step in outlook.steps if step.key not in elsewhere)
    found = list(_of_one_seed(planner, outlook, own, progress or {}))
    for one in outlook.repeats:
        found += _of_one_seed(planner, one, one.steps, progress or {})
    return [left for left in found if left.num_tasks]


def _of_one_seed(
    planner: Planner, one: Outlook, steps: Sequence[PlannedTask], progress: Mapping[TaskKey, float]
) -> Iterator[Left]:
    experiment = planner.experiment
    standing = {(row.family, row.stage) for row in one.rows}
    waiting: dict[tuple[str, Stage], list[TaskKey]] = defaultdict(list)
    for step in steps:
        waiting[step.family, step.stage].append(step.key)
    is_compared = experiment.test_every_stage and planner.test_split != planner.source.validation
    is_second = all((family, Stage.ROUND1) in standing for family in experiment.families)
    for number, family in enumerate(experiment.families):
        second = _round2(experiment, number)
        alone = sum(
            len(waiting[family, stage]) for stage in ROUNDS
        )  # once there is a winner no lesson is left but what is learned alone
        tests = 1 + is_compared * (1 + experiment.round1.students * _arms(experiment) + second)
        expected = {
            Stage.BASELINE: 1,
            Stage.SEARCH: _search(experiment, family, one),
            Stage.ROUND1: 0 if (family, Stage.SEARCH) in standing else experiment.round1.students * _arms(experiment),
            Stage.ROUND2: 0 if is_second else second,
            Stage.TEST: len(waiting[family, Stage.TEST]) + is_compared * alone if one.winner else tests,
        }
        for stage, (kind, epochs) in _kinds(experiment).items():
            there = waiting[family, stage]
            num_tasks = len(there) if (family, stage) in standing else max(len(there), expected[stage])
            begun = tuple(progress[key] for key in there if key in progress)
            yield Left(family, stage, kind, epochs, num_tasks, begun)


def _kinds(experiment: Experiment) -> dict[Stage, tuple[str, int]]:
    taught = experiment.search.objective == "distilled_miou"
    return {
        Stage.BASELINE: (TRAIN, experiment.baseline.epochs),
        Stage.SEARCH: (DISTILL if taught else TRAIN, experiment.search.epochs),
        Stage.ROUND1: (DISTILL, experiment.round1.epochs),
        Stage.ROUND2: (DISTILL, experiment.round2.epochs),
        Stage.TEST: (EVALUATE, 0),
    }


def _arms(experiment: Experiment) -> int:
    return 2 if experiment.control else 1


def _search(experiment: Experiment, family: str, one: Outlook) -> int:
    """Trials, and trainings that confirm the best of them, if it is not over: then what is left of it is all asked for."""
    trials = one.trials.get(family, ())
    num_running = sum(trial.outcome is TrialOutcome.RUNNING for trial in trials)
    if trials and not num_running:
        return 0
    num_feasible = sum(trial.outcome not in (TrialOutcome.RUNNING, TrialOutcome.INFEASIBLE) for trial in trials)
    again = experiment.search.confirm * experiment.search.confirm_seeds
    return max(num_running, experiment.trials(family) - num_feasible) + again


def _round2(experiment: Experiment, number: int) -> int:
    """Tasks of a family, by its place; who teaches all others is not known before."""
    if len(experiment.families) == 1 or (experiment.round2.has_one_teacher and number == 0):
        return 0
    return _arms(experiment)


@dataclass
class Pace:
    """How long tasks took, by family, kind and epochs: what an estimate rests on."""

    num_tasks: int = 0
    _took: dict[tuple[str, str, int], tuple[float, int]] = field(default_factory=dict)

    def note(self, task: Task, result: TaskResult) -> None:
        """One more that was done. What was refused before it was trained, or failed, says nothing."""
        if result.status not in (Status.COMPLETED, Status.PRUNED) or result.seconds <= 0:
            return
        kind = DISTILL if isinstance(task, Distill) else TRAIN if isinstance(task, Train) else EVALUATE
        key = (task.architecture.family, kind, task.recipe.epochs if isinstance(task, Training) else 0)
        total_s, count = self._took.get(key, (0.0, 0))
        self._took[key] = (total_s + result.seconds, count + 1)
        self.num_tasks += 1

    def note_epoch(self, family: str, seconds: float) -> None:
        """How long an epoch of a training took that was timed, and not recorded."""
        self._took[family, TRAIN, 1] = (seconds, 1)
        self.num_tasks += 1

    def seconds(self, left: Left) -> float | None:
        """How long one task takes.

        Best from the same family with as many epochs, then from its epochs in other tasks. ``None`` if nothing is known of the
        family: what others take says nothing about it.
        """
        if same := self._took.get((left.family, left.kind, left.epochs)):
            return same[0] / same[1]
        known = [key for key in self._took if key[0] == left.family and (key[2] == 0) == (left.epochs == 0)]
        used = [key for key in known if key[1] == left.kind] or known
        total_s = sum(self._took[key][0] for key in used)
        num_epochs = sum(self._took[key][1] * max(1, key[2]) for key in used)
        return total_s / num_epochs * max(1, left.epochs) if num_epochs else None


def pace_of(done: Iterable[tuple[Task, TaskResult]]) -> Pace:
    """The pace of tasks that are done."""
    pace = Pace()
    for task, result in done:
        pace.note(task, result)
    return pace


def seconds_left(experiment: Experiment, left: Sequence[Left], pace: Pace, *, num_agents: int) -> float | None:
    """How long it may take: all the work shared among the agents, or the longest way through the stages if that is more.

    ``None`` while it is not known of every family how long a training takes. Evaluations, which take a small part of one, count
    as nothing until one was done.
    """
    agents = max(1, num_agents)
    work = 0.0
    ways: dict[str, float] = defaultdict(float)
    ends: dict[Stage, dict[str, float]] = {Stage.ROUND2: defaultdict(float), Stage.TEST: defaultdict(float)}
    for one in left:
        each = pace.seconds(one)
        if each is None:
            if one.kind != EVALUATE:
                return None
            each = 0.0
        work += each * one.num_wholes
        width = min(agents, experiment.search.lag) if one.stage is Stage.SEARCH else agents
        time = each * max(one.num_wholes / width, one.least)
        ends.get(one.stage, ways)[one.family] += time
    way = max(ways.values(), default=0.0) + sum(max(parts.values(), default=0.0) for parts in ends.values())
    return max(work / agents, way)
