"""The whole of KD-NAS: the families side by side, then round 2 across them, then the test split."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agentkd.config import Experiment
from agentkd.datasets.opening import Opened
from agentkd.names import NO_DIGEST, Digest, TaskKey
from agentkd.pipeline.families import FamilyOutlook, FamilyPlan, Results, best_of, choose_teacher, outcome_of
from agentkd.pipeline.own import OwnParts
from agentkd.pipeline.stages import Entrant, PlannedTask, RoundLesson, Stage, Standing, Tested
from agentkd.search.study import Trial
from agentkd.task import DataSource, Evaluate, Task


@dataclass(frozen=True)
class Outlook:
    """What is wanted now, and what is known.

    Args:
        steps: tasks to be done, in order of preference; none of them is recorded yet.
        tests: per family, the final network evaluated on the test split.
        is_finished: nothing is left to be done.
        failure: why the experiment cannot go on, or an empty text.
        keys: every task that is wanted, or was.
        asks: by family, trials that are asked for now, with the trials whose results they see. To be recorded before the tasks
            are given, and to be told to every later outlook. Empty in strict order.
    """

    steps: tuple[PlannedTask, ...]
    rows: tuple[Standing, ...]
    lessons: tuple[RoundLesson, ...]
    trials: dict[str, tuple[Trial, ...]]
    trial_keys: dict[str, tuple[TaskKey, ...]]
    tests: dict[str, Tested] = field(default_factory=dict)
    winner: Entrant | None = None
    is_finished: bool = False
    failure: str = ""
    keys: frozenset[TaskKey] = frozenset()
    asks: dict[str, dict[int, tuple[int, ...]]] = field(default_factory=dict)


class Planner:
    """Plans an experiment on a dataset. The same records always give the same outlook.

    Args:
        dataset: that of the experiment.
        pretrained: stored weights by family.
        own: what of it is a user's own. Nothing of that is run here.
        revisions: by family that of the run's records, see ``recorded_revisions``; others are of what is built here.
    """

    def __init__(
        self,
        experiment: Experiment,
        dataset: Opened,
        pretrained: Mapping[str, Digest] | None = None,
        own: OwnParts | None = None,
        revisions: Mapping[str, int] | None = None,
    ) -> None:
        self.experiment, self.dataset = experiment, dataset
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
                experiment,
                family,
                len(dataset.classes),
                self.source,
                given.get(family, NO_DIGEST),
                own or OwnParts(),
                known.get(family),
            )
            for family in experiment.families
        }

    def check_revisions(self) -> None:
        """Checks that what is still to be done can be: a run goes on with the networks with which it began, or not at all.

        Raises:
            ConfigError: this version of agentkd builds another revision of a family.
        """
        for plan in self.families.values():
            plan.check_revision()

    def outlook(self, results: Results, asked: Mapping[str, Mapping[int, tuple[int, ...]]] | None = None) -> Outlook:
        """What is to be done next, given the results and the asks recorded so far (by task; by family and trial)."""
        known = asked or {}
        found = {family: plan.outlook(results, known.get(family)) for family, plan in self.families.items()}
        winners = {family: outlook.winner for family, outlook in found.items() if outlook.winner is not None}
        tests: dict[str, Tested] = {}
        final: dict[str, Entrant] = {}
        if len(winners) == len(found):
            final = self._round2(results, found, winners)
            tests = self._test(results, found, final)
        steps = [step for outlook in found.values() for step in outlook.steps]
        failure = next((outlook.failure for outlook in found.values() if outlook.failure), "")
        return Outlook(
            steps=tuple(steps),
            rows=tuple(row for outlook in found.values() for row in outlook.rows),
            lessons=tuple(lesson for outlook in found.values() for lesson in outlook.lessons),
            trials={family: tuple(outlook.trials) for family, outlook in found.items()},
            trial_keys={family: tuple(outlook.trial_keys) for family, outlook in found.items()},
            tests=tests,
            winner=best_of(list(final.values())) if final else None,
            is_finished=len(tests) == len(found),
            failure=failure,
            keys=frozenset(key for outlook in found.values() for key in outlook.keys),
            asks={family: outlook.asks for family, outlook in found.items() if outlook.asks},
        )

    def _round2(self, results: Results, found: dict[str, FamilyOutlook], winners: dict[str, Entrant]) -> dict[str, Entrant]:
        """Across families: what each goes on as, or nothing while lessons are still to be given."""
        config = self.experiment.round2
        entrants = list(winners.values())
        chosen = choose_teacher(entrants, config)
        final: dict[str, Entrant] = {}
        for family, student in winners.items():
            others = [e for e in entrants if e.family != family]
            teachers = others if config.teachers == "ensemble" else [chosen]
            if (family == chosen.family and config.teachers != "ensemble") or not teachers:
                final[family] = student
                continue
            lesson = self.families[family].teach(student, teachers, Stage.ROUND2, config, results, found[family])
            if lesson is not None:
                found[family].lessons.append(lesson)
                final[family] = outcome_of(lesson)
        if len(final) < len(winners):
            return {}
        for family, entrant in final.items():
            found[family].rows.append(Standing(family, Stage.ROUND2, entrant))
        return final

    def _test(self, results: Results, found: dict[str, FamilyOutlook], final: dict[str, Entrant]) -> dict[str, Tested]:
        tests = {}
        for family, entrant in final.items():
            task = Evaluate(
                architecture=entrant.architecture,
                data=self.source.replace(validation=self.test_split),
                initial_weights=entrant.result.weights,
            )
            key = task.key
            found[family].keys.add(key)
            if key in results:
                tests[family] = Tested(family, key, task, results[key])
            else:
                found[family].steps.append(PlannedTask(key, task, family, Stage.TEST, f"test on {self.test_split}"))
        return tests


def recorded_revisions(tasks: Iterable[Task]) -> dict[str, int]:
    """By family the revision of a run's recorded tasks, all of which are of that of the first."""
    found: dict[str, int] = {}
    for task in tasks:
        found.setdefault(task.architecture.family, task.architecture.revision)
    return found
