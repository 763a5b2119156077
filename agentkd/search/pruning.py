"""Which trials are stopped early: bounds per epoch, decided when a trial is asked for from the trials that it sees. Pure.

The bounds are part of the task, so the agent stops by itself, and a search that is done again stops the same trials.
"""

import statistics
from collections.abc import Callable, Sequence

from agentkd.search.settings import Halving, Pruning
from agentkd.search.study import Trial, TrialOutcome


def prune_bounds(
    seen: Sequence[Trial],
    pruning: Pruning | Halving | None,
    epochs: int,
    validates: Callable[[int], bool] = lambda epoch: True,
) -> tuple[float, ...]:
    """Per epoch, the score under which a trial is to stop if that is its best so far.

    Args:
        seen: the trials whose results the trial may see.
        pruning: how.
        epochs: of the trial.
        validates: whether the trial is validated after an epoch, from 1: it can be stopped there only.
    """
    if isinstance(pruning, Halving):
        return _halving(seen, pruning, epochs, validates)
    return _median(seen, pruning, epochs)


def rungs(halving: Halving, epochs: int, validates: Callable[[int], bool]) -> list[int]:
    """The epochs, from 1, after which a trial may be stopped: each rung at the first validated epoch from it on, but the last."""
    found: list[int] = []
    rung = halving.first_epoch
    while rung < epochs:
        at = next(epoch for epoch in range(rung, epochs + 1) if validates(epoch) or epoch == epochs)
        if at < epochs and at not in found:
            found.append(at)
        rung *= halving.factor
    return found


def _median(seen: Sequence[Trial], pruning: Pruning | None, epochs: int) -> tuple[float, ...]:
    """The median over completed trials of the best so far."""
    if pruning is None:
        return ()
    completed = [trial for trial in seen if trial.outcome is TrialOutcome.COMPLETED]
    if len(completed) < pruning.startup_trials:
        return ()
    best_so_far = [_running_best(trial.judged_by_epoch) for trial in completed]
    bounds = []
    for epoch in range(epochs):
        reached = [curve[min(epoch, len(curve) - 1)] for curve in best_so_far if curve]
        bounds.append(statistics.median(reached) if reached and epoch >= pruning.warmup_epochs else 0.0)
    return tuple(bounds)


def _halving(seen: Sequence[Trial], halving: Halving, epochs: int, validates: Callable[[int], bool]) -> tuple[float, ...]:
    """At each rung the score of the last one that would go on beside the trial: who is as good goes on too.

    As ``optuna.pruners.SuccessiveHalvingPruner`` decides, whose rule only depends on the trials that came to the rung before:
    of n of them and the trial itself the best (n + 1) // factor go on, one at least.
    """
    curves = [_running_best(t.judged_by_epoch) for t in seen if t.outcome in (TrialOutcome.COMPLETED, TrialOutcome.PRUNED)]
    bounds = [0.0] * epochs
    for rung in rungs(halving, epochs, validates):
        reached = sorted((curve[rung - 1] for curve in curves if len(curve) >= rung), reverse=True)
        if len(reached) >= halving.startup_trials:
            bounds[rung - 1] = reached[max((len(reached) + 1) // halving.factor, 1) - 1]
    return tuple(bounds) if any(bounds) else ()


def _running_best(curve: Sequence[float | None]) -> list[float]:
    best, values = 0.0, []
    for value in curve:
        best = max(best, value or 0.0)
        values.append(best)
    return values
