"""The whole of KD-NAS: the families side by side, then round 2 across them, then the test split."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace

from agentkd.datasets.opening import Opened
from agentkd.datasets.samples import images_of
from agentkd.experiment import Experiment
from agentkd.names import NO_DIGEST, Digest, TaskKey
from agentkd.pipeline.choosing import Answers, Chooser, Question
from agentkd.pipeline.drafting import Drafts
from agentkd.pipeline.families import FamilyOutlook, FamilyPlan, Wanted, outcome_of
from agentkd.pipeline.own import OwnParts
from agentkd.pipeline.searching import Results
from agentkd.pipeline.stages import Entrant, PlannedTask, RoundLesson, Stage, Standing, Tested
from agentkd.search.selection import Choice
from agentkd.search.study import Trial
from agentkd.search.suggestions import Suggestions
from agentkd.task import DataSource, Evaluate, Task

Asked = Mapping[str, Mapping[int, tuple[int, ...]]]


@dataclass(frozen=True)
class Outlook:
    """What is wanted now, and what is known.

    Args:
        steps: tasks to be done, in order of preference; none of them is recorded yet.
        tests: per family, the final network evaluated on the test split.
        tested: by task, every network that was; also those of the table's other rows, if that is wanted.
        choice: why the winner, and why none of the other families' networks.
        is_finished: nothing is left to be done.
        failure: why the experiment cannot go on, or an empty text.
        wanted: in parts, every task that is wanted, or was; ``keys`` are all of them.
        asks: by study, trials that are asked for now, with the trials whose results they see. To be recorded before the tasks
            are given, and to be told to every later outlook. Empty in strict order. A study is called as its family; for that of
            another seed see ``study_name``.
        questions: what a user's own rules are to be asked. To be answered, recorded, and told to every later outlook.
        repeats: the same with the other seeds, if there are several. ``steps``, ``wanted``, ``asks``, ``questions`` are of all.
    """

    steps: tuple[PlannedTask, ...]
    rows: tuple[Standing, ...]
    lessons: tuple[RoundLesson, ...]
    trials: dict[str, tuple[Trial, ...]]
    trial_keys: dict[str, tuple[TaskKey, ...]]
    tests: dict[str, Tested] = field(default_factory=dict)
    tested: dict[TaskKey, Tested] = field(default_factory=dict)
    winner: Entrant | None = None
    choice: Choice | None = None
    is_finished: bool = False
    failure: str = ""
    wanted: tuple[Set[TaskKey], ...] = ()
    asks: dict[str, dict[int, tuple[int, ...]]] = field(default_factory=dict)
    questions: tuple[Question, ...] = ()
    seed: int = 0
    repeats: "tuple[Outlook, ...]" = ()

    @property
    def keys(self) -> frozenset[TaskKey]:
        """Every task that is wanted, or was."""
        return frozenset().union(*self.wanted)

    @property
    def studies(self) -> dict[str, tuple[str, tuple[TaskKey, ...]]]:
        """Family and trials' tasks of every study, those of other seeds too, by what a study is called."""
        own = {family: (family, keys) for family, keys in self.trial_keys.items()}
        others = ((one.seed, family, keys) for one in self.repeats for family, keys in one.trial_keys.items())
        return own | {study_name(family, seed): (family, keys) for seed, family, keys in others}


def study_name(family: str, seed: int) -> str:
    """What the study of a family is called that is done again with another seed."""
    return f"{family}@{seed}"


class Planner:
    """Plans an experiment on a dataset. The same records always give the same outlook.

    Args:
        dataset: that of the experiment.
        pretrained: stored weights by family.
        own: what of it is a user's own. Nothing of that is run here.
        revisions: by family that of the run's records, see ``recorded_revisions``; others are of what is built here.
        suggestions: what samplers suggested before; what they suggest now is added.
    """

    def __init__(
        self,
        experiment: Experiment,
        dataset: Opened,
        pretrained: Mapping[str, Digest] | None = None,
        own: OwnParts | None = None,
        revisions: Mapping[str, int] | None = None,
        suggestions: Suggestions | None = None,
    ) -> None:
        self.experiment, self.dataset = experiment, dataset
        self.suggestions = Suggestions() if suggestions is None else suggestions
        self.own = own or OwnParts()
        data = experiment.data
        self.source = DataSource(
            spec=data.dataset,
            content_digest=dataset.digest,
            train=data.train,
            validation=data.validation,
            code=dataset.code,
        )
        self.test_split = data.test if data.test in dataset.splits else data.validation
        given, known = pretrained or {}, revisions or {}
        self.families = {
            family: FamilyPlan(
                Drafts(
                    experiment,
                    family,
                    len(dataset.classes),
                    images_of(dataset),
                    self.source,
                    given.get(family, NO_DIGEST),
                    self.own,
                    known.get(family),
                ),
                self.suggestions,
            )
            for family in experiment.families
        }
        others = range(experiment.seed + 1, experiment.seed + experiment.seeds)
        self.repeats = [
            Planner(experiment.replace(seed=seed, seeds=1), dataset, pretrained, self.own, revisions, self.suggestions)
            for seed in others
        ]

    def check_revisions(self) -> None:
        """Checks that what is still to be done can be: a run goes on with the networks with which it began, or not at all.

        Raises:
            ConfigError: this version of agentkd builds another revision of a family.
        """
        for plan in self.families.values():
            plan.drafts.check_revision()

    def outlook(self, results: Results, asked: Asked | None = None, answers: Answers | None = None) -> Outlook:
        """What is to be done next.

        Args:
            results: recorded so far, by task.
            asked: the asks recorded so far, by study and trial.
            answers: of users' own rules, recorded so far, by question.
        """
        known = asked or {}
        own = self.of_one_seed(results, known, answers or {})
        repeats = []
        for planner in self.repeats:
            seed = planner.experiment.seed
            names = {family: study_name(family, seed) for family in self.families}
            told = {family: known[name] for family, name in names.items() if name in known}
            found = planner.of_one_seed(results, told, answers or {})
            steps = tuple(replace(step, label=f"{step.label}, seed {seed}") for step in found.steps)
            repeats.append(replace(found, steps=steps, asks={names[family]: asks for family, asks in found.asks.items()}))
        every = [own, *repeats]
        return replace(
            own,
            steps=tuple(step for one in every for step in one.steps),
            is_finished=all(one.is_finished for one in every),
            failure=next((one.failure for one in every if one.failure), ""),
            wanted=tuple(keys for one in every for keys in one.wanted),
            asks={study: asks for one in every for study, asks in one.asks.items()},
            questions=tuple(question for one in every for question in one.questions),
            repeats=tuple(repeats),
        )

    def of_one_seed(self, results: Results, known: Asked, answers: Answers) -> Outlook:
        """Of this seed alone."""
        chooser = Chooser(self.experiment.select, self.own.rules, answers)
        found = {family: plan.outlook(results, chooser, known.get(family)) for family, plan in self.families.items()}
        winners = {family: outlook.winner for family, outlook in found.items() if outlook.winner is not None}
        across = {family: Wanted() for family in found}
        final = self._round2(results, across, winners, chooser) if len(winners) == len(found) else {}
        chosen = chooser.choose(final.values()) if final else None
        tested = self._test(results, found, across, final) if chosen else {}
        every: list[Wanted] = [one for family, outlook in found.items() for one in (outlook, across[family])]
        steps = {step.key: step for one in every for step in one.steps}
        return Outlook(
            steps=tuple(steps.values()),
            rows=tuple(row for one in every for row in one.rows),
            lessons=tuple(lesson for one in every for lesson in one.lessons),
            trials={family: outlook.trials for family, outlook in found.items()},
            trial_keys={family: outlook.trial_keys for family, outlook in found.items()},
            tests={family: tested[entrant.key] for family, entrant in final.items() if entrant.key in tested},
            tested=tested,
            winner=chosen.entrant if chosen else None,
            choice=chosen.choice if chosen else None,
            is_finished=bool(tested) and not steps,
            failure=next((outlook.failure for outlook in found.values() if outlook.failure), ""),
            wanted=tuple(one.keys for one in every),
            asks={family: outlook.asks for family, outlook in found.items() if outlook.asks},
            questions=tuple(chooser.questions),
            seed=self.experiment.seed,
        )

    def _round2(
        self, results: Results, across: dict[str, Wanted], winners: dict[str, Entrant], chooser: Chooser
    ) -> dict[str, Entrant]:
        """Across families: what each goes on as, or nothing while lessons are still to be given."""
        config = self.experiment.round2
        entrants = list(winners.values())
        lead = chooser.lead(entrants, config)
        final: dict[str, Entrant] = {}
        for family, student in winners.items():
            if len(entrants) == 1 or (config.has_one_teacher and family == lead.family):
                final[family] = student
                continue
            teachers = chooser.teachers_of(student, entrants, lead, config)
            plan = self.families[family]
            lesson = plan.teach(student, teachers, Stage.ROUND2, config, results, across[family], chooser)
            if lesson is not None:
                across[family].lessons.append(lesson)
                final[family] = outcome_of(lesson)
        if len(final) < len(winners):
            return {}
        for family, entrant in final.items():
            across[family].rows.append(Standing(family, Stage.ROUND2, entrant))
        return final

    def _test(
        self, results: Results, found: dict[str, FamilyOutlook], across: dict[str, Wanted], final: dict[str, Entrant]
    ) -> dict[TaskKey, Tested]:
        """The test split is looked at when nothing is left to be chosen: by the final networks, and by all that are compared."""
        wanted = list(final.values())
        if self.experiment.test_every_stage and self.test_split != self.source.validation:
            for family, outlook in found.items():
                wanted += [row.entrant for row in (*outlook.rows, *across[family].rows)]
                lessons = (*outlook.lessons, *across[family].lessons)
                wanted += [entrant for lesson in lessons for entrant in (lesson.taught, lesson.alone) if entrant]
        tested = {}
        for entrant in {entrant.key: entrant for entrant in wanted}.values():
            task = Evaluate(
                architecture=entrant.architecture,
                data=self.source.replace(validation=self.test_split),
                initial_weights=entrant.result.weights,
                arithmetic=self.experiment.evaluation,
            )
            key = task.key
            across[entrant.family].keys.add(key)
            if key in results:
                tested[entrant.key] = Tested(entrant.family, key, task, results[key])
            else:
                label = f"{entrant.label} on {self.test_split}"
                across[entrant.family].want(PlannedTask(key, task, entrant.family, Stage.TEST, label))
        return tested


def recorded_revisions(tasks: Iterable[Task]) -> dict[str, int]:
    """By family the revision of a run's recorded tasks, all of which are of that of the first."""
    found: dict[str, int] = {}
    for task in tasks:
        found.setdefault(task.architecture.family, task.architecture.revision)
    return found
