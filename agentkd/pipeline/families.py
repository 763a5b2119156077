"""The stages inside one family: baseline, search, and round 1."""

from dataclasses import dataclass, field, replace

from agentkd import seeding
from agentkd.experiment import RoundConfig
from agentkd.names import NO_DIGEST, NO_TASK, TaskKey
from agentkd.networks.spaces import FIRST_EDITION
from agentkd.pipeline import aims, confirming
from agentkd.pipeline.choosing import Answers, Chooser, Question
from agentkd.pipeline.drafting import Drafts
from agentkd.pipeline.searching import Asks, Results, Search
from agentkd.pipeline.stages import Entrant, PlannedTask, RoundLesson, Stage, Standing
from agentkd.search.selection import pareto_set, rank
from agentkd.search.space import Space
from agentkd.search.study import Trial
from agentkd.search.suggestions import Suggestions
from agentkd.task import Distill, Status, Train, Training


@dataclass
class Wanted:
    """What has come up while a stage was looked at.

    Args:
        steps: tasks to be done, none of which is recorded yet.
        keys: of all tasks that are wanted, or were.
    """

    steps: list[PlannedTask] = field(default_factory=list)
    keys: set[TaskKey] = field(default_factory=set)
    rows: list[Standing] = field(default_factory=list)
    lessons: list[RoundLesson] = field(default_factory=list)

    def want(self, step: PlannedTask) -> None:
        """Has a task done, once."""
        if all(other.key != step.key for other in self.steps):
            self.steps.append(step)


@dataclass
class FamilyOutlook(Wanted):
    """Where one family stands. ``winner`` is set once round 1 is done.

    Args:
        asks: trials asked for now, with the numbers of those whose results they see; only in the order ``as_completed``.
        questions: what a user's own rules are to be asked.
    """

    family: str = ""
    trials: tuple[Trial, ...] = ()
    trial_keys: tuple[TaskKey, ...] = ()
    winner: Entrant | None = None
    failure: str = ""
    asks: dict[int, tuple[int, ...]] = field(default_factory=dict)
    questions: list[Question] = field(default_factory=list)


@dataclass(frozen=True)
class _Stands:
    """An outlook, and what it was made of: it stands until one of its steps is done, or something else is told."""

    outlook: FamilyOutlook
    results: Results
    num_results: int
    answers: Answers
    num_told: int

    def holds(self, results: Results, answers: Answers, told: Asks) -> bool:
        """Whether nothing that the outlook depends on has changed. Of a mapping of results it is known that they are added."""
        is_same = results is self.results and answers == self.answers and len(told) == self.num_told
        if not is_same or len(results) < self.num_results or self.outlook.questions:
            return False
        return all(step.key not in results for step in self.outlook.steps)


class FamilyPlan:
    """Plans one family.

    A run keeps the edition of the search spaces with which it began, which is known from its records: as in an earlier one are
    those that more of them are of.

    Args:
        drafts: makes the family's tasks.
        suggestions: what the sampler suggested before.
    """

    def __init__(self, drafts: Drafts, suggestions: Suggestions) -> None:
        self.experiment, self.family = drafts.experiment, drafts.family
        self._search_now = Search(drafts, suggestions)
        self._search_before: Search | None = Search(replace(drafts, edition=FIRST_EDITION), suggestions)
        self._stands: _Stands | None = None

    @property
    def drafts(self) -> Drafts:
        """What makes the family's tasks, in the edition of its search."""
        return self._search_now.drafts

    @property
    def edition(self) -> int:
        """The edition of the search spaces in which the family is searched: that with which its run was begun."""
        return self.drafts.edition

    @property
    def space(self) -> Space:
        """What the family's study searches."""
        return self._search_now.space

    def outlook(self, results: Results, chooser: Chooser, asked: Asks | None = None) -> FamilyOutlook:
        """What is to be done next in this family. ``asked`` says what earlier trials saw, as ``FamilyOutlook.asks`` did."""
        told = asked or {}
        if self._stands is None or not self._stands.holds(results, chooser.answers, told):
            found = self._looked_at(results, chooser, told)
            self._stands = _Stands(found, results, len(results), chooser.answers, len(told))
        chooser.questions += self._stands.outlook.questions
        return self._stands.outlook

    def _looked_at(self, results: Results, chooser: Chooser, told: Asks) -> FamilyOutlook:
        found = self._outlook(results, chooser.anew(), told)
        if self._search_before is not None and results:
            if any(key in results for key in found.trial_keys[1:]):
                self._search_before = None
            else:
                before = self._searched_before(results, chooser.anew(), told)
                if len(before.keys & results.keys()) > len(found.keys & results.keys()):
                    self._search_now, self._search_before = self._search_before, None
                    found = before
        return found

    def _searched_before(self, results: Results, chooser: Chooser, told: Asks) -> FamilyOutlook:
        """The same as an earlier version plans it, whose run this may be."""
        assert self._search_before is not None
        now, self._search_now = self._search_now, self._search_before
        try:
            return self._outlook(results, chooser, told)
        finally:
            self._search_now = now

    def _outlook(self, results: Results, chooser: Chooser, told: Asks) -> FamilyOutlook:
        found = FamilyOutlook(family=self.family, questions=chooser.questions)
        baseline = self._baseline(results, found)
        finished = self._search(results, found, baseline, told) if baseline else None
        candidates = aims.candidates_of(self.experiment, finished) if finished else None
        contenders = self._confirm(results, found, candidates, chooser) if candidates else None
        chosen = chooser.choose(contenders) if contenders else None
        if finished and candidates and contenders and chosen:
            choice = confirming.with_the_others(chosen.choice, contenders, candidates, finished)
            found.rows.append(Standing(self.family, Stage.SEARCH, chosen.entrant, choice))
            known = {entrant.key: entrant for entrant in (*candidates, *contenders)}
            ranked = [known[candidate.task] for candidate in rank(e.candidate for e in known.values())]
            self._round1(results, found, ranked, chosen.entrant, chooser)
        return found

    def _baseline(self, results: Results, found: FamilyOutlook) -> Entrant | None:
        key, task = self.drafts.baseline
        entrant = self._done(task, Stage.BASELINE, "baseline", results, found, key=key)
        if entrant is None:
            return None
        if entrant.result.status is not Status.COMPLETED:
            found.failure = f"the baseline of {self.family} failed: {entrant.result.error_text}"
            return None
        found.rows.append(Standing(self.family, Stage.BASELINE, entrant))
        return entrant

    def _search(self, results: Results, found: FamilyOutlook, baseline: Entrant, told: Asks) -> list[Entrant] | None:
        """Once the search is over all that was finished, the best first."""
        searched = self._search_now.look(results, baseline, told)
        found.trials, found.trial_keys = searched.trials, searched.keys
        found.keys.update(found.trial_keys)
        found.asks = searched.asks
        for one in searched.running:
            found.want(PlannedTask(one.key, one.task, self.family, Stage.SEARCH, one.label))
        return searched.finished

    def _confirm(
        self, results: Results, found: FamilyOutlook, candidates: list[Entrant], chooser: Chooser
    ) -> list[Entrant] | None:
        """Those among which the search's winner is chosen; ``None`` while some are still to be trained again."""
        search = self.experiment.search
        leading = confirming.leading(chooser, candidates, search.confirm) if search.confirm else candidates
        if leading is None or not search.confirm:
            return leading
        contenders: list[Entrant] = []
        is_done = True
        for entrant in leading:
            label = entrant.label.removeprefix(f"{self.family} ")
            repeated = [
                self._done(confirming.again(entrant, number), Stage.SEARCH, f"{label} again, seed {number}", results, found)
                for number in range(1, search.confirm_seeds + 1)
            ]
            is_done = is_done and None not in repeated
            contenders += filter(None, [confirming.confirmed(entrant, list(filter(None, repeated)))])
        return (contenders or candidates) if is_done else None

    def _round1(self, results: Results, found: FamilyOutlook, ranked: list[Entrant], winner: Entrant, chooser: Chooser) -> None:
        config = self.experiment.round1
        by_key = {entrant.key: entrant for entrant in ranked}
        front = pareto_set((e.candidate for e in ranked), aims.front_counts(self.experiment))
        pareto = [by_key[c.task] for c in front][: self.experiment.search.candidates]
        lead = chooser.lead(pareto, config)
        students = chooser.students(lead, winner, pareto, ranked, config.students)
        finished = []
        for student in students:
            teachers = chooser.teachers_of(student, pareto, lead, config)
            lesson = self.teach(student, teachers, Stage.ROUND1, config, results, found, chooser)
            if lesson is not None:
                finished.append(lesson)
        if len(finished) < len(students):
            return
        found.lessons += finished
        taught = [outcome_of(lesson) for lesson in finished]
        is_taught = any(student.key == winner.key for student in students)
        chosen = chooser.choose(taught if is_taught or not config.keep_best else [winner, *taught])
        if chosen is not None:
            found.winner = chosen.entrant
            found.rows.append(Standing(self.family, Stage.ROUND1, chosen.entrant, chosen.choice))

    def teach(
        self,
        student: Entrant,
        teachers: list[Entrant],
        stage: Stage,
        config: RoundConfig,
        results: Results,
        found: Wanted,
        chooser: Chooser,
    ) -> RoundLesson | None:
        """The lesson's outcome, or ``None`` while it is still to be done (it is then among the wanted steps) or weighed."""
        if not teachers:
            return None
        fields = self.drafts.fields.get(student.key, {}) | config.recipe
        start = config.distillation.start
        knows = all(len(teacher.result.class_iou) == self.drafts.num_classes for teacher in teachers)
        by_class = config.teachers == "competence" and len(teachers) > 1 and knows
        task = Distill(
            architecture=student.architecture,
            data=self.drafts.data,
            recipe=self.drafts.recipe(fields, config.epochs),
            seed=seeding.derive(self.experiment.seed, stage, student.key),
            view_seed=self.drafts.view_seed,
            initial_weights=student.result.weights if start == "own" else NO_DIGEST,
            teachers=tuple(teacher.as_teacher(by_class=by_class) for teacher in teachers),
            distillation=config.distillation.with_code(self.drafts.own.objective),
            measures_latency=aims.measures_latency(self.experiment),
        )
        self.drafts.fields.setdefault(task.key, fields)
        names = " + ".join(teacher.label for teacher in teachers)
        name, before = f"{student.label}, {stage}", student if start == "own" else None
        entrant = self._done(task, stage, f"{names} teaches {student.label}", results, found, name=name, before=before)
        alone = self._alone(task, student, stage, results, found) if self.experiment.control else None
        if entrant is None:
            return None
        if entrant.result.status is not Status.COMPLETED:
            return RoundLesson(stage, tuple(teachers), student, None, is_kept=False, reason="the lesson failed", alone=alone)
        verdict = chooser.weigh(student, entrant)
        if verdict is None:
            return None
        kept = verdict.is_kept or not config.keep_best
        return RoundLesson(stage, tuple(teachers), student, entrant, is_kept=kept, reason=verdict.reason, alone=alone)

    def _alone(self, lesson: Distill, student: Entrant, stage: Stage, results: Results, found: Wanted) -> Entrant | None:
        """The control arm: what a lesson's student becomes without the teacher, all else being equal."""
        recipe = lesson.recipe
        if lesson.distillation.hard_loss == "cross_entropy":
            recipe = recipe.replace(loss="cross_entropy")
        task = Train(**lesson.with_or_without_teachers | {"recipe": recipe})
        name, before = f"{student.label}, {stage} alone", student if lesson.initial_weights else None
        entrant = self._done(task, stage, f"{student.label} alone", results, found, name=name, before=before)
        return entrant if entrant and entrant.result.status is Status.COMPLETED else None

    def _done(
        self,
        task: Training,
        stage: Stage,
        label: str,
        results: Results,
        found: Wanted,
        *,
        name: str = "",
        before: Entrant | None = None,
        key: TaskKey = NO_TASK,
    ) -> Entrant | None:
        """The finished task as an entrant; otherwise the task is put among the wanted steps. ``key`` is its key, if known."""
        key = key or task.key
        found.keys.add(key)
        if key in results:
            return Entrant(self.family, name or f"{self.family} {label}", key, task, results[key], before)
        found.want(PlannedTask(key, task, self.family, stage, label))
        return None


def outcome_of(lesson: RoundLesson) -> Entrant:
    """What a student goes on as: taught, or as it was if the lesson failed or was not kept."""
    return lesson.taught if lesson.taught is not None and lesson.is_kept else lesson.student
