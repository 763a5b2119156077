"""One study: what to try next.

A suggestion is a pure function of (space, history, seed, trial number): each ask has a sampler of its own, seeded by the
trial number, that is told exactly the history that the order allows. Trial *n* sees the results of trials up
to *n - lag*, whatever the timing, so a parallel search that was interrupted and resumed is the same search. In the other order,
``as_completed``, it sees what is finished when it is asked for; what that was is recorded, and decides from then on.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from agentkd import canonical, seeding
from agentkd.names import Digest
from agentkd.search.space import Choices, Parameter, Space, Values, is_searched
from agentkd.search.suggestions import Suggestions

optuna.logging.set_verbosity(optuna.logging.WARNING)
NUM_STARTUP_TRIALS = 10


class TrialOutcome(StrEnum):
    """How a trial ended, or that it has not."""

    RUNNING = "running"
    COMPLETED = "completed"
    PRUNED = "pruned"
    INFEASIBLE = "infeasible"
    FAILED = "failed"


@dataclass(frozen=True)
class Trial:
    """A trial as the search sees it.

    Args:
        judged_by: its validation score: mIoU, or the accuracy of a classifier.
        judged_by_epoch: the same after each epoch, ``None`` where it was not validated.
        violation: by how much the constraint is broken (fraction above the limit); at most 0 if it is kept.
        scores: what is looked for, the first of which is to go up and all others down; empty where that is ``judged_by`` alone.
    """

    number: int
    values: Values
    outcome: TrialOutcome
    judged_by: float = 0.0
    judged_by_epoch: tuple[float | None, ...] = ()
    violation: float = 0.0
    scores: tuple[float, ...] = ()

    @property
    def objectives(self) -> tuple[float, ...]:
        """What the sampler is told."""
        return self.scores or (self.judged_by,)

    def is_as_good_as(self, other: "Trial") -> bool:
        """Whether it is not behind in anything that is looked for."""
        pairs = list(zip(self.objectives, other.objectives, strict=True))
        return pairs[0][0] >= pairs[0][1] and all(ours <= theirs for ours, theirs in pairs[1:])


class Suggester:
    """Suggests what to try next, from exactly the results that a trial sees: TPE with every option explicit.

    Bergstra et al. 2011, multivariate and grouped; with costs as further objectives multi-objective TPE (Ozaki et al. 2022).
    In a conditional space a parameter that makes no difference is left out. The sampler learns from each set of parameters that
    trials had together by itself (that is the group), so nothing is learned from a value that nobody used.

    What was told once is kept while later trials see more: to tell Optuna anew takes ten times as long as to ask it. What is
    suggested is the same.

    Args:
        seed: of the study.
        startup_trials: trials drawn by lot before the sampler learns from results.
        num_costs: objectives besides the first.
        known: what was suggested before, which is not asked for again, and where new suggestions are noted.
    """

    def __init__(
        self,
        space: Space,
        *,
        seed: int,
        startup_trials: int = NUM_STARTUP_TRIALS,
        num_costs: int = 0,
        known: Suggestions | None = None,
    ) -> None:
        self._space, self._seed, self._startup_trials, self._num_costs = space, seed, startup_trials, num_costs
        self._known = Suggestions() if known is None else known
        study = [[name, type(one).__name__, one.canonical()] for name, one in space.items()]
        self._history = [canonical.digest([study, seed, startup_trials, num_costs])]  # and after each of those
        self._seen: list[Trial] = []
        self._forget()

    def suggest(self, seen: Sequence[Trial], pending: Sequence[Trial], *, number: int) -> Values:
        """Values for trial ``number``, which sees the results of some trials, and that others run."""
        key = canonical.digest([self._after(seen), [_listed(trial) for trial in pending], number])
        values = self._known.find(key, self._space)
        if values is None:
            values = self._ask(seen, pending, number)
            self._known.note(key, self._space, values)
        return values

    def _after(self, seen: Sequence[Trial]) -> Digest:
        """A digest of the study and of these trials."""
        if list(seen[: len(self._seen)]) != self._seen:
            del self._history[1:]
            self._seen = []
        for trial in seen[len(self._seen) :]:
            self._history.append(canonical.digest([self._history[-1], _listed(trial)]))
            self._seen.append(trial)
        return self._history[len(seen)]

    def _ask(self, seen: Sequence[Trial], pending: Sequence[Trial], number: int) -> Values:
        self._tell(seen)
        running = [self._add(trial) for trial in pending]
        self._study.sampler = self._sampler(number)
        asked = self._study.ask()
        values: Values = {}
        for name, parameter in self._space.items():
            if is_searched(self._space, name, values):
                values[name] = _suggest(asked, name, parameter)
        self._num_known += 1
        for one in (*running, asked.number):  # for the next one others run; what failed teaches nothing
            self._study.tell(one, state=TrialState.FAIL)
        return values

    def _tell(self, seen: Sequence[Trial]) -> None:
        """The sampler is to know these, in this order."""
        if list(seen[: len(self._told)]) != self._told:
            self._forget()
        for trial in seen[len(self._told) :]:
            self._add(trial)
            self._told.append(trial)

    def _add(self, trial: Trial) -> int:
        """Tells of a trial; returns the number that it has there."""
        self._study.add_trial(frozen(self._space, trial))
        self._num_known += 1
        return self._num_known - 1

    def _forget(self) -> None:
        """Begins with a sampler that knows nothing."""
        self._told: list[Trial] = []
        self._study = optuna.create_study(directions=directions(self._num_costs))
        self._num_known = 0

    def _sampler(self, number: int) -> optuna.samplers.TPESampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(
                n_startup_trials=self._startup_trials,
                n_ei_candidates=24,
                multivariate=True,
                group=True,
                constant_liar=True,
                seed=seeding.derive("trial", self._seed, number) % 2**32,
            )


def suggest(
    space: Space,
    seen: Sequence[Trial],
    pending: Sequence[Trial],
    *,
    number: int,
    seed: int,
    startup_trials: int = NUM_STARTUP_TRIALS,
    num_costs: int = 0,
) -> Values:
    """What a ``Suggester`` says that was told nothing before."""
    fresh = Suggester(space, seed=seed, startup_trials=startup_trials, num_costs=num_costs)
    return fresh.suggest(seen, pending, number=number)


def _suggest(asked: optuna.Trial, name: str, parameter: Parameter) -> Any:
    if isinstance(parameter, Choices):
        return asked.suggest_categorical(name, list(parameter.values))
    if parameter.integer:
        return asked.suggest_int(name, int(parameter.low), int(parameter.high), log=parameter.log)
    return asked.suggest_float(name, parameter.low, parameter.high, log=parameter.log)


def distribution(parameter: Parameter) -> BaseDistribution:
    """Optuna's form of a parameter."""
    if isinstance(parameter, Choices):
        return CategoricalDistribution(list(parameter.values))
    if parameter.integer:
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)


def directions(num_costs: int) -> list[Literal["maximize", "minimize"]]:
    """Up, and each cost down."""
    costs: list[Literal["maximize", "minimize"]] = ["minimize"] * num_costs
    return ["maximize", *costs]


def _listed(trial: Trial) -> list[Any]:
    """All that the sampler may look at."""
    return [trial.number, trial.values, trial.outcome, trial.judged_by_epoch, trial.violation, trial.objectives]


def frozen(space: Space, trial: Trial) -> FrozenTrial:
    """Enqueued published settings may lie outside the space; such a parameter is left out of what TPE learns from."""
    inside = {name: value for name, value in trial.values.items() if name in space and _is_inside(space[name], value)}
    states = {
        TrialOutcome.RUNNING: TrialState.RUNNING,
        TrialOutcome.COMPLETED: TrialState.COMPLETE,
        TrialOutcome.INFEASIBLE: TrialState.COMPLETE,
        TrialOutcome.PRUNED: TrialState.PRUNED,
        TrialOutcome.FAILED: TrialState.FAIL,
    }
    state = states[trial.outcome]
    return create_trial(
        state=state,
        values=list(trial.objectives) if state in (TrialState.COMPLETE, TrialState.PRUNED) else None,
        params=inside,
        distributions={name: distribution(space[name]) for name in inside},
        intermediate_values={epoch: value for epoch, value in enumerate(trial.judged_by_epoch) if value is not None},
        user_attrs={"number": trial.number, "outcome": trial.outcome.value},
        constraints={"size": trial.violation} if state is TrialState.COMPLETE else None,
    )


def _is_inside(parameter: Parameter, value: Any) -> bool:
    if isinstance(parameter, Choices):
        return value in parameter.values
    return bool(parameter.low <= value <= parameter.high)
