"""The stages inside one family: baseline, search, and round 1."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agentkd import seeding
from agentkd.architecture import Architecture, Normalization, Setting
from agentkd.experiment import Experiment, RoundConfig, build_recipe
from agentkd.names import NO_DIGEST, Digest, TaskKey
from agentkd.networks import families
from agentkd.networks.spaces import EDITION, FIRST_EDITION
from agentkd.pipeline import aims, confirming
from agentkd.pipeline.choosing import Chooser
from agentkd.pipeline.own import OwnParts
from agentkd.pipeline.spaces import search_space, written
from agentkd.pipeline.stages import Entrant, PlannedTask, RoundLesson, Stage, Standing
from agentkd.recipe import Recipe
from agentkd.search import study
from agentkd.search.pruning import prune_bounds
from agentkd.search.selection import pareto_set, rank
from agentkd.search.space import Space, Values, is_searched, split_values
from agentkd.search.study import Trial, TrialOutcome
from agentkd.task import DataSource, Distill, Status, TaskResult, Train, Training

Results = Mapping[TaskKey, TaskResult]
OUTCOMES = {
    Status.COMPLETED: TrialOutcome.COMPLETED,
    Status.PRUNED: TrialOutcome.PRUNED,
    Status.INFEASIBLE: TrialOutcome.INFEASIBLE,
    Status.FAILED: TrialOutcome.FAILED,
}


@dataclass
class _Searching:
    """How a family is searched, and what is known of it already.

    Args:
        edition: of the search spaces.
        space: made when it is asked for.
        suggested: values by trial; pure, but it takes a moment to compute them.
        fields: by the key of a task those fields of its recipe that are not the experiment's.
    """

    edition: int
    space: Space | None = None
    suggested: dict[int, Values] = field(default_factory=dict)
    fields: dict[TaskKey, dict[str, Any]] = field(default_factory=dict)


@dataclass
class FamilyOutlook:
    """Where one family stands. ``winner`` is set once round 1 is done.

    Args:
        keys: every task that was ever wanted.
        asks: trials asked for now, with the numbers of those whose results they see; only in the order ``as_completed``.
    """

    family: str
    steps: list[PlannedTask] = field(default_factory=list)
    rows: list[Standing] = field(default_factory=list)
    lessons: list[RoundLesson] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)
    trial_keys: list[TaskKey] = field(default_factory=list)
    winner: Entrant | None = None
    failure: str = ""
    keys: set[TaskKey] = field(default_factory=set)
    asks: dict[int, tuple[int, ...]] = field(default_factory=dict)


class FamilyPlan:
    """Plans one family.

    A run keeps the edition of the search spaces with which it began, which is known from its records: as in an earlier one are
    those that more of them are of.

    Args:
        revision: of the family in the run's records; ``None`` for what is built here.
    """

    def __init__(
        self,
        experiment: Experiment,
        family: str,
        num_classes: int,
        images: Normalization,
        data: DataSource,
        pretrained: Digest,
        own: OwnParts,
        revision: int | None = None,
    ) -> None:
        self.own, self.revision = own, revision
        self.experiment, self.family, self.num_classes, self.data = experiment, family, num_classes, data
        self.images = images
        self.pretrained = pretrained
        self.seed = seeding.derive(experiment.seed, "train", family)
        self.view_seed = seeding.derive(experiment.seed, "views")
        self._search_now = _Searching(EDITION)
        self._search_before: _Searching | None = _Searching(FIRST_EDITION)

    @property
    def edition(self) -> int:
        """The edition of the search spaces in which the family is searched: that with which its run was begun."""
        return self._search_now.edition

    @property
    def space(self) -> Space:
        """What the family's study searches."""
        now = self._search_now
        if now.space is None:
            now.space = search_space(self.experiment, self.family, self.own, self._as_it_is(), edition=now.edition)
        return now.space

    def outlook(self, results: Results, chooser: Chooser, asked: Mapping[int, tuple[int, ...]] | None = None) -> FamilyOutlook:
        """What is to be done next in this family. ``asked`` says what earlier trials saw, as ``FamilyOutlook.asks`` did."""
        mine = chooser.anew()
        found = self._outlook(results, mine, asked)
        if self._search_before is not None and results:
            if any(key in results for key in found.trial_keys[1:]):
                self._search_before = None
            else:
                theirs = chooser.anew()
                before = self._searched_before(results, theirs, asked)
                if len(before.keys & results.keys()) > len(found.keys & results.keys()):
                    self._search_now, self._search_before = self._search_before, None
                    found, mine = before, theirs
        chooser.questions += mine.questions
        return found

    def _searched_before(self, results: Results, chooser: Chooser, asked: Mapping[int, tuple[int, ...]] | None) -> FamilyOutlook:
        """The same as an earlier version plans it, whose run this may be."""
        assert self._search_before is not None
        now, self._search_now = self._search_now, self._search_before
        try:
            return self._outlook(results, chooser, asked)
        finally:
            self._search_now = now

    def _outlook(self, results: Results, chooser: Chooser, asked: Mapping[int, tuple[int, ...]] | None) -> FamilyOutlook:
        found = FamilyOutlook(self.family)
        baseline = self._baseline(results, found)
        finished = self._search(results, found, baseline, asked or {}) if baseline else None
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
        task = self._training(self._own_architecture(), {}, self.experiment.baseline.epochs)
        entrant = self._done(task, Stage.BASELINE, "baseline", results, found)
        if entrant is None:
            return None
        if entrant.result.status is not Status.COMPLETED:
            found.failure = f"the baseline of {self.family} failed: {entrant.result.error_text}"
            return None
        found.rows.append(Standing(self.family, Stage.BASELINE, entrant))
        return entrant

    def _search(
        self, results: Results, found: FamilyOutlook, baseline: Entrant, asked: Mapping[int, tuple[int, ...]]
    ) -> list[Entrant] | None:
        """Asks for trials as far as the order allows; once the study is over all that was finished, the best first."""
        entrants: dict[int, Entrant] = {}
        while (seen := self._visible(found, asked)) is not None:
            number = len(found.trials)
            pending = [trial for trial in found.trials if trial not in seen]
            parent = self._parent(seen, entrants)
            task = self._trial_task(number, seen, pending, baseline, parent)
            entrant = self._done(task, Stage.SEARCH, f"trial {number}", results, found, before=parent)
            if entrant is not None:
                entrants[number] = entrant
            found.trials.append(self._as_trial(number, entrant, task, baseline))
            found.trial_keys.append(task.key)
        if any(trial.outcome is TrialOutcome.RUNNING for trial in found.trials):
            return None
        completed = [entrants[t.number] for t in found.trials if t.outcome is TrialOutcome.COMPLETED]
        if self.experiment.select.baseline or not completed:
            completed.append(baseline)
        by_key = {entrant.key: entrant for entrant in completed}
        return [by_key[candidate.task] for candidate in rank(e.candidate for e in completed)]

    def _parent(self, seen: list[Trial], entrants: Mapping[int, Entrant]) -> Entrant | None:
        """Whose weights a trial inherits: those of the best completed trial that it sees, of equals the first."""
        completed = [trial for trial in seen if trial.outcome is TrialOutcome.COMPLETED]
        if not self.experiment.search.inherit_weights or not completed:
            return None
        return entrants[max(completed, key=lambda trial: (trial.objectives[0], -trial.number)).number]

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

    def _visible(self, found: FamilyOutlook, asked: Mapping[int, tuple[int, ...]]) -> list[Trial] | None:
        """The trials whose results the next trial may see; ``None`` if none is to be asked for now."""
        search, number = self.experiment.search, len(found.trials)
        if number in asked:
            return [found.trials[index] for index in asked[number]]
        if search.order == "strict":
            limit = study.visible_limit(found.trials, number, lag=search.lag, num_trials=self.experiment.trials(self.family))
            seen = None if limit is None else found.trials[: limit + 1]
        else:
            seen = study.visible_now(found.trials, lag=search.lag, num_trials=self.experiment.trials(self.family))
        if seen is None or study.is_exhausted(seen, patience=search.patience, max_infeasible=search.max_infeasible):
            return None
        if search.order == "as_completed":
            found.asks[number] = tuple(trial.number for trial in seen)
        return seen

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
        found: FamilyOutlook,
        chooser: Chooser,
    ) -> RoundLesson | None:
        """The lesson's outcome, or ``None`` while it is still to be done (it is then among the wanted steps) or weighed."""
        if not teachers:
            return None
        fields = self._search_now.fields.get(student.key, {}) | config.recipe
        start = config.distillation.start
        knows = all(len(teacher.result.class_iou) == self.num_classes for teacher in teachers)
        by_class = config.teachers == "competence" and len(teachers) > 1 and knows
        task = Distill(
            architecture=student.architecture,
            data=self.data,
            recipe=self._recipe(fields, config.epochs),
            seed=seeding.derive(self.experiment.seed, stage, student.key),
            view_seed=self.view_seed,
            initial_weights=student.result.weights if start == "own" else NO_DIGEST,
            teachers=tuple(teacher.as_teacher(by_class=by_class) for teacher in teachers),
            distillation=config.distillation.with_code(self.own.objective),
            measures_latency=aims.measures_latency(self.experiment),
        )
        self._search_now.fields.setdefault(task.key, fields)
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

    def _alone(self, lesson: Distill, student: Entrant, stage: Stage, results: Results, found: FamilyOutlook) -> Entrant | None:
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
        found: FamilyOutlook,
        *,
        name: str = "",
        before: Entrant | None = None,
    ) -> Entrant | None:
        """The finished task as an entrant; otherwise the task is put among the wanted steps."""
        key = task.key
        found.keys.add(key)
        if key in results:
            return Entrant(self.family, name or f"{self.family} {label}", key, task, results[key], before)
        if all(step.key != key for step in found.steps):
            found.steps.append(PlannedTask(key, task, self.family, stage, label))
        return None

    def _trial_task(
        self, number: int, seen: list[Trial], pending: list[Trial], baseline: Entrant, parent: Entrant | None
    ) -> Train | Distill:
        """The published settings first, then what the sampler suggests from exactly the results that are visible."""
        search, suggested = self.experiment.search, self._search_now.suggested
        if number not in suggested:
            running = [Trial(trial.number, trial.values, TrialOutcome.RUNNING) for trial in pending]
            suggested[number] = (
                study.suggest(
                    self.space,
                    seen,
                    running,
                    number=number,
                    seed=self.seed,
                    startup_trials=search.startup_trials,
                    num_costs=aims.num_costs(self.experiment),
                )
                if number or not search.published_first
                else self._published_values()
            )
        settings, fields = split_values(suggested[number])
        is_published = number == 0 and search.published_first
        pruning = None if is_published else search.pruning
        given = self.experiment.families[self.family].settings
        alone = self._training(self._architecture({**given, **settings}), fields, search.epochs)
        if self.edition > FIRST_EDITION:
            suggested[number] = self._settled(suggested[number], alone)
        task: Train | Distill = alone
        if search.objective == "distilled_miou":
            task = aims.as_lesson(alone, baseline, aims.distillation_of(self.experiment).with_code(self.own.objective))
        if parent:
            task = task.replace(pretrained=parent.result.weights)
        limits = {
            "max_deploy_parameters": int(search.max_deploy_ratio * baseline.result.num_parameters_deploy),
            "max_num_macs": int(search.max_macs_ratio * baseline.result.num_macs),
            "max_latency_ms": search.max_latency_ratio * baseline.result.latency_ms,
            "prune_below": prune_bounds(seen, pruning, search.epochs, alone.recipe.validates),
        }
        task = task if is_published else task.replace(**limits)
        self._search_now.fields.setdefault(task.key, fields)
        return task

    def _published_values(self) -> Values:
        """What the study would suggest to have the family as it is."""
        found = self._as_it_is()
        return {name: found[name] for name in self.space if name in found}

    def _as_it_is(self) -> Values:
        """Every setting of the family and every field of its recipe, by the names that a study has."""
        return written(self._own_architecture(), self._recipe({}, self.experiment.search.epochs))

    def _settled(self, values: Values, task: Train) -> Values:
        """Of the values of a trial those that make a difference, as they are written: the sampler is to learn from no others."""
        known = written(task.architecture, task.recipe)
        found = {name: known.get(name, value) for name, value in values.items() if name in self.space}
        return {name: value for name, value in found.items() if is_searched(self.space, name, known)}

    def _as_trial(self, number: int, entrant: Entrant | None, task: Train | Distill, baseline: Entrant) -> Trial:
        values = self._search_now.suggested[number]
        if entrant is None:
            return Trial(number, values, TrialOutcome.RUNNING)
        result = entrant.result
        limits: list[tuple[float, float]] = [
            (result.num_parameters_deploy, task.max_deploy_parameters),
            (result.num_macs, task.max_num_macs),
        ]
        if result.status is Status.INFEASIBLE:  # what was trained was fast enough, whatever it took when it was gone on with
            limits.append((result.latency_ms, task.max_latency_ms))
        excess = [value / limit - 1 for value, limit in limits if limit]
        violation = max(excess, default=0.0)
        return Trial(
            number=number,
            values=values,
            outcome=OUTCOMES[result.status],
            judged_by=result.judged_by,
            judged_by_epoch=tuple(epoch.judged_by for epoch in result.history),
            violation=violation,
            scores=aims.scores_of(self.experiment, entrant.candidate, baseline.candidate, violation=violation),
        )

    def _own_architecture(self) -> Architecture:
        return self._architecture(dict(self.experiment.families[self.family].settings))

    def check_revision(self) -> None:
        """Checks that what the run's records are of can be executed here.

        Raises:
            ConfigError: this version of agentkd builds another revision of the family.
        """
        settings = dict(self.experiment.families[self.family].settings)
        families.check_revision(self._architecture(settings), self._as_built(settings).revision)

    def _architecture(self, settings: dict[str, Setting]) -> Architecture:
        built = self._as_built(settings)
        return built if self.revision is None else built.replace(revision=self.revision)

    def _as_built(self, settings: dict[str, Setting]) -> Architecture:
        if families.is_own(self.family):
            return self.own.family(self.family).architecture(self.num_classes, settings, self.images)
        return families.resolve(
            self.family, self.num_classes, settings, images=self.images, as_written=self.edition == FIRST_EDITION
        )

    def _recipe(self, fields: Mapping[str, Any], epochs: int) -> Recipe:
        as_written = self.edition == FIRST_EDITION
        return build_recipe(self.experiment, self.family, as_written=as_written, **{**fields, "epochs": epochs})

    def _training(self, architecture: Architecture, fields: dict[str, Any], epochs: int) -> Train:
        """A training; which fields of the recipe are its own is remembered, for what is learned after it."""
        task = Train(
            architecture=architecture,
            data=self.data,
            recipe=self._recipe(fields, epochs),
            seed=self.seed,
            view_seed=self.view_seed,
            pretrained=self.pretrained,
            measures_latency=aims.measures_latency(self.experiment),
        )
        self._search_now.fields.setdefault(task.key, fields)
        return task


def outcome_of(lesson: RoundLesson) -> Entrant:
    """What a student goes on as: taught, or as it was if the lesson failed or was not kept."""
    return lesson.taught if lesson.taught is not None and lesson.is_kept else lesson.student
