"""The search of one family: asks for trials as far as the order allows, and says what came of them. Pure.

While records are added to those of before, only what they change is looked at again, so a search takes as long a record at its
end as at its beginning.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agentkd.names import TaskKey
from agentkd.networks.spaces import FIRST_EDITION
from agentkd.pipeline import aims
from agentkd.pipeline.drafting import Drafts
from agentkd.pipeline.spaces import search_space, written
from agentkd.pipeline.stages import Entrant
from agentkd.search.lining import TrialLine, is_exhausted
from agentkd.search.pruning import prune_bounds
from agentkd.search.selection import rank
from agentkd.search.space import Space, Values, is_searched, split_values
from agentkd.search.study import Suggester, Trial, TrialOutcome
from agentkd.search.suggestions import Suggestions
from agentkd.task import Distill, Status, TaskResult, Train

Results = Mapping[TaskKey, TaskResult]
Asks = Mapping[int, tuple[int, ...]]
OUTCOMES = {
    Status.COMPLETED: TrialOutcome.COMPLETED,
    Status.PRUNED: TrialOutcome.PRUNED,
    Status.INFEASIBLE: TrialOutcome.INFEASIBLE,
    Status.FAILED: TrialOutcome.FAILED,
}


@dataclass(frozen=True)
class AskedTrial:
    """A trial that was asked for, and its task."""

    number: int
    key: TaskKey
    task: Train | Distill
    parent: Entrant | None

    @property
    def label(self) -> str:
        """How it is called."""
        return f"trial {self.number}"


@dataclass
class _Known:
    """What is known of the trials by these results, to which some may be added; and by this baseline.

    Args:
        suggested: values by trial.
        entrants: the trials that are finished.
        finished: of the search, once it is over.
    """

    results: Results
    baseline: Entrant
    num_results: int = 0
    line: TrialLine = field(default_factory=TrialLine)
    keys: list[TaskKey] = field(default_factory=list)
    running: dict[int, AskedTrial] = field(default_factory=dict)
    suggested: dict[int, Values] = field(default_factory=dict)
    entrants: dict[int, Entrant] = field(default_factory=dict)
    asks: dict[int, tuple[int, ...]] = field(default_factory=dict)
    finished: list[Entrant] | None = None


@dataclass(frozen=True)
class Searched:
    """Where a search stands.

    Args:
        keys: of the tasks of all trials so far.
        running: those that are still to be done.
        asks: trials asked for now, with the numbers of those whose results they see; only in the order ``as_completed``.
        finished: once the search is over all that was finished, the best first.
    """

    trials: tuple[Trial, ...]
    keys: tuple[TaskKey, ...]
    running: list[AskedTrial]
    asks: dict[int, tuple[int, ...]]
    finished: list[Entrant] | None


class Search:
    """The search of one family in one edition of the spaces."""

    def __init__(self, drafts: Drafts, suggestions: Suggestions) -> None:
        self.drafts, self._suggestions = drafts, suggestions
        self._space: Space | None = None
        self._suggester: Suggester | None = None
        self._known: _Known | None = None

    @property
    def space(self) -> Space:
        """What the study searches."""
        if self._space is None:
            drafts = self.drafts
            fixed = drafts.as_it_is()
            self._space = search_space(drafts.experiment, drafts.family, drafts.own, fixed, edition=drafts.edition)
        return self._space

    def look(self, results: Results, baseline: Entrant, told: Asks) -> Searched:
        """How the search stands.

        Args:
            results: recorded so far, by task. The same mapping may be given again, with more in it.
            baseline: of the family.
            told: the asks recorded so far, by trial.
        """
        known = self._begin(results, baseline)
        for one in list(known.running.values()):
            self._settle(known, one)
        while (seen := self._visible(known, told)) is not None:
            self._ask(known, seen)
        if known.line.is_running:
            known.finished = None
        elif known.finished is None:
            known.finished = self._finished(known)
        asks = {number: seen for number, seen in known.asks.items() if number not in told}
        known.asks = dict(asks)
        return Searched(tuple(known.line.trials), tuple(known.keys), list(known.running.values()), asks, known.finished)

    def _begin(self, results: Results, baseline: Entrant) -> _Known:
        """What is known already; nothing if these are other results than those of before."""
        known = self._known
        is_same = known is not None and known.results is results and known.num_results <= len(results)
        if known is None or not is_same or known.baseline.key != baseline.key:
            known = self._known = _Known(results, baseline)
        known.num_results = len(results)
        return known

    def _ask(self, known: _Known, seen: list[Trial]) -> None:
        """Has one more trial done, which sees the results of these."""
        parent = self._parent(seen, known.entrants)
        task = self._task(known, seen, parent)
        one = AskedTrial(len(known.keys), task.key, task, parent)
        known.keys.append(one.key)
        known.running[one.number] = one
        known.line.add(Trial(one.number, known.suggested[one.number], TrialOutcome.RUNNING))
        self._settle(known, one)

    def _settle(self, known: _Known, one: AskedTrial) -> None:
        """Takes note of what came of a trial, if something has."""
        result = known.results.get(one.key)
        if result is None:
            return
        family = self.drafts.family
        entrant = Entrant(family, f"{family} {one.label}", one.key, one.task, result, one.parent)
        del known.running[one.number]
        known.entrants[one.number] = entrant
        known.line.settle(self._trial(known, one, entrant))

    def _finished(self, known: _Known) -> list[Entrant]:
        completed = [known.entrants[t.number] for t in known.line.trials if t.outcome is TrialOutcome.COMPLETED]
        if self.drafts.experiment.select.baseline or not completed:
            completed.append(known.baseline)
        by_key = {entrant.key: entrant for entrant in completed}
        return [by_key[candidate.task] for candidate in rank(e.candidate for e in completed)]

    def _parent(self, seen: list[Trial], entrants: Mapping[int, Entrant]) -> Entrant | None:
        """Whose weights a trial inherits: those of the best completed trial that it sees, of equals the first."""
        if not self.drafts.experiment.search.inherit_weights:
            return None
        completed = [trial for trial in seen if trial.outcome is TrialOutcome.COMPLETED]
        best = max(completed, key=lambda trial: (trial.objectives[0], -trial.number), default=None)
        return entrants[best.number] if best else None

    def _visible(self, known: _Known, told: Asks) -> list[Trial] | None:
        """The trials whose results the next trial may see; ``None`` if none is to be asked for now."""
        experiment, line, number = self.drafts.experiment, known.line, len(known.keys)
        search, num_trials = experiment.search, experiment.trials(self.drafts.family)
        ends = {"patience": search.patience, "max_infeasible": search.max_infeasible}
        if number in told:
            return [line.trials[index] for index in told[number]]
        if search.order == "strict":
            limit = line.visible_limit(lag=search.lag, num_trials=num_trials)
            if limit is None or line.is_exhausted(limit, **ends):
                return None
            return list(line.trials[: limit + 1])
        seen = line.finished() if line.has_room(lag=search.lag, num_trials=num_trials) else None
        if seen is None or is_exhausted(seen, **ends):
            return None
        known.asks[number] = tuple(trial.number for trial in seen)
        return seen

    def _task(self, known: _Known, seen: list[Trial], parent: Entrant | None) -> Train | Distill:
        """The published settings first, then what the sampler suggests from exactly the results that are visible."""
        drafts, number, baseline = self.drafts, len(known.keys), known.baseline
        experiment, search = drafts.experiment, drafts.experiment.search
        suggested = self._suggest(known, seen, number)
        settings, fields = split_values(suggested)
        is_published = number == 0 and search.published_first
        given = experiment.families[drafts.family].settings
        architecture, recipe = drafts.architecture({**given, **settings}), drafts.recipe(fields, search.epochs)
        known.suggested[number] = (
            self._settled(suggested, written(architecture, recipe)) if drafts.edition > FIRST_EDITION else suggested
        )
        limits: dict[str, Any] = {
            "max_deploy_parameters": int(search.max_deploy_ratio * baseline.result.num_parameters_deploy),
            "max_num_macs": int(search.max_macs_ratio * baseline.result.num_macs),
            "max_latency_ms": search.max_latency_ratio * baseline.result.latency_ms,
            "prune_below": prune_bounds(seen, search.pruning, search.epochs, recipe.validates),
        }
        inherited: dict[str, Any] = {"pretrained": parent.result.weights} if parent else {}
        alone = drafts.training(architecture, recipe, **inherited, **({} if is_published else limits))
        task: Train | Distill = alone
        if search.objective == "distilled_miou":
            task = aims.as_lesson(alone, baseline, aims.distillation_of(experiment).with_code(drafts.own.objective))
        drafts.fields.setdefault(task.key, fields)
        return task

    def _suggest(self, known: _Known, seen: list[Trial], number: int) -> Values:
        """Values for a trial, to which those that it does not see are running."""
        search = self.drafts.experiment.search
        if number == 0 and search.published_first:
            found = self.drafts.as_it_is()
            return {name: found[name] for name in self.space if name in found}
        trials, count = known.line.trials, len(seen)
        is_beginning = not count or seen[-1].number == count - 1  # as always in strict order
        visible = set() if is_beginning else {trial.number for trial in seen}
        pending = [trial for trial in trials[count if is_beginning else 0 :] if trial.number not in visible]
        if self._suggester is None:
            told = {"startup_trials": search.startup_trials, "num_costs": aims.num_costs(self.drafts.experiment)}
            self._suggester = Suggester(self.space, seed=self.drafts.seed, known=self._suggestions, **told)
        running = [Trial(trial.number, trial.values, TrialOutcome.RUNNING) for trial in pending]
        return self._suggester.suggest(seen, running, number=number)

    def _settled(self, values: Values, known: Values) -> Values:
        """Of the values of a trial those that make a difference, as they are written: the sampler is to learn from no others."""
        found = {name: known.get(name, value) for name, value in values.items() if name in self.space}
        return {name: value for name, value in found.items() if is_searched(self.space, name, known)}

    def _trial(self, known: _Known, one: AskedTrial, entrant: Entrant) -> Trial:
        """A trial that has come out."""
        task, result, experiment = one.task, entrant.result, self.drafts.experiment
        limits: list[tuple[float, float]] = [
            (result.num_parameters_deploy, task.max_deploy_parameters),
            (result.num_macs, task.max_num_macs),
        ]
        if result.status is Status.INFEASIBLE:  # what was trained was fast enough, whatever it took when it was gone on with
            limits.append((result.latency_ms, task.max_latency_ms))
        violation = max((value / limit - 1 for value, limit in limits if limit), default=0.0)
        return Trial(
            number=one.number,
            values=known.suggested[one.number],
            outcome=OUTCOMES[result.status],
            judged_by=result.judged_by,
            judged_by_epoch=tuple(epoch.judged_by for epoch in result.history),
            violation=violation,
            scores=aims.scores_of(experiment, entrant.candidate, known.baseline.candidate, violation=violation),
        )
