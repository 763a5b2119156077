"""Successive halving: at a rung those are stopped whom Optuna's own pruner stops, by nothing but what a trial sees."""

import optuna
import pytest
from experiments import EXPERIMENT
from hypothesis import given, settings
from hypothesis import strategies as st
from planning import ONE, experiment, invented, planner, play
from pydantic import ValidationError

from agentkd.errors import ConfigError
from agentkd.pipeline.stages import PlannedTask, Stage
from agentkd.search.pruning import prune_bounds, rungs
from agentkd.search.settings import Halving, Pruning, SearchConfig
from agentkd.search.study import Trial, TrialOutcome
from agentkd.task import EpochResult, Status, TaskResult
from agentkd.training.loop import is_below

EPOCHS = 12
CURVES = st.lists(st.lists(st.integers(0, 9).map(lambda n: n / 10), min_size=EPOCHS, max_size=EPOCHS), min_size=1, max_size=10)


def every(epoch: int) -> bool:
    return True


def seen(*curves: tuple[float, ...], outcome: TrialOutcome = TrialOutcome.COMPLETED) -> list[Trial]:
    return [Trial(number, {}, outcome, max(curve), curve) for number, curve in enumerate(curves)]


def so_far(curve: list[float]) -> list[float]:
    return [max(curve[: epoch + 1]) for epoch in range(len(curve))]


def stopped_by_optuna(curves: list[list[float]], halving: Halving) -> list[int]:
    """After which epoch Optuna's pruner stops each trial, one after the other; 0 for never."""
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=halving.first_epoch, reduction_factor=halving.factor)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    found = []
    for curve in curves:
        trial, stopped = study.ask(), 0
        for epoch, best in enumerate(so_far(curve)[: EPOCHS - 1], 1):  # there is nothing to be saved after the last one
            trial.report(best, epoch)
            if trial.should_prune():
                stopped = epoch
                break
        study.tell(trial, None if stopped else max(curve), state=optuna.trial.TrialState.PRUNED if stopped else None)
        found.append(stopped)
    return found


def stopped_by_bounds(curves: list[list[float]], halving: Halving) -> list[int]:
    trials: list[Trial] = []
    found = []
    for number, curve in enumerate(curves):
        bounds, best = prune_bounds(trials, halving, EPOCHS), so_far(curve)
        stopped = next((epoch for epoch in range(1, EPOCHS + 1) if is_below(bounds, epoch, best[epoch - 1])), 0)
        outcome = TrialOutcome.PRUNED if stopped else TrialOutcome.COMPLETED
        trials.append(Trial(number, {}, outcome, max(curve), tuple(curve[: stopped or EPOCHS])))
        found.append(stopped)
    return found


@settings(max_examples=40, deadline=None)
@given(CURVES, st.integers(1, 4), st.integers(2, 4))
def test_halving_stops_exactly_those_whom_optunas_pruner_stops(curves: list[list[float]], first: int, factor: int) -> None:
    halving = Halving(kind="halving", first_epoch=first, factor=factor)
    assert stopped_by_bounds(curves, halving) == stopped_by_optuna(curves, halving)


def test_the_best_of_each_rung_go_on_also_of_those_that_were_stopped_later() -> None:
    halving = Halving(kind="halving", first_epoch=1, factor=2)
    completed = seen((0.5, 0.6, 0.7, 0.8), (0.4, 0.4, 0.4, 0.4))
    pruned = seen((0.6, 0.1), outcome=TrialOutcome.PRUNED)
    # Of four at the first rung two go on, of four at the second (epoch 2) likewise; the fourth epoch is the last one.
    assert prune_bounds([*completed, *pruned], halving, 4) == (0.5, 0.6, 0.0, 0.0)
    failed = seen((0.9, 0.9, 0.9), outcome=TrialOutcome.FAILED) + seen((0.9,), outcome=TrialOutcome.INFEASIBLE)
    assert prune_bounds([*completed, *pruned, *failed], halving, 4) == (0.5, 0.6, 0.0, 0.0)
    assert prune_bounds([], halving, 4) == () and prune_bounds(completed, None, 4) == ()


def test_nobody_is_stopped_at_a_rung_before_enough_have_come_there() -> None:
    halving = Halving(kind="halving", first_epoch=1, factor=2, startup_trials=3)
    two = seen((0.5, 0.5, 0.5), (0.6, 0.6, 0.6))
    assert prune_bounds(two, halving, 3) == ()
    assert prune_bounds([*two, *seen((0.1,), outcome=TrialOutcome.PRUNED)], halving, 3) == (0.5, 0.0, 0.0)


def test_a_rung_is_where_the_trial_is_validated_and_the_last_epoch_is_none() -> None:
    halving = Halving(kind="halving", first_epoch=2, factor=2)
    assert rungs(halving, 20, every) == [2, 4, 8, 16]
    assert rungs(halving, 16, every) == [2, 4, 8]
    assert rungs(halving, 20, lambda epoch: epoch % 5 == 0) == [5, 10]
    assert rungs(halving, 4, lambda epoch: epoch % 5 == 0) == []
    curve = tuple(epoch / 100 for epoch in range(1, 21))
    bounds = prune_bounds(seen(curve), halving, 20, lambda epoch: epoch % 5 == 0)
    assert {epoch: bound for epoch, bound in enumerate(bounds, 1) if bound} == {5: 0.05, 10: 0.10}


def test_a_plan_gives_the_bounds_to_the_tasks_by_what_each_trial_sees() -> None:
    def outcome(step: PlannedTask) -> TaskResult:
        number = int(step.label.rpartition(" ")[2]) if step.stage is Stage.SEARCH else 0
        curve = (0.3 + number / 10, 0.9, 0.9)
        return invented(
            step,
            0.9,
            history=tuple(EpochResult(epoch=e, loss=1, miou=miou, seconds=1) for e, miou in enumerate(curve, 1)),
            status=Status.PRUNED if number == 1 else Status.COMPLETED,
        )

    pruning = {"kind": "halving", "first_epoch": 1, "factor": 2}
    search = EXPERIMENT["search"] | {"trials": 4, "lag": 1, "patience": 0, "pruning": pruning}
    plan = planner(search=search, **ONE)
    bounds = {s.label: s.task.prune_below for o in play(plan, outcome) for s in o.steps if s.stage is Stage.SEARCH}
    assert bounds["trial 0"] == () and bounds["trial 1"] == (0.3, 0.9, 0.0)
    assert bounds["trial 2"] == (0.4, 0.9, 0.0), "of two and itself one goes on"
    assert bounds["trial 3"] == (0.4, 0.9, 0.0), "of three and itself two go on: who is as good as the second"


def test_a_bound_is_not_applied_where_the_recipe_does_not_validate() -> None:
    pruning = {"kind": "halving", "first_epoch": 1, "factor": 2}
    search = EXPERIMENT["search"] | {"epochs": 5, "trials": 3, "lag": 1, "patience": 0, "pruning": pruning}
    recipe = EXPERIMENT["recipe"] | {"validate_every": 2}
    history = tuple(EpochResult(epoch=e, loss=1, miou=0.5, seconds=1) for e in range(1, 6))
    steps = [
        s
        for o in play(planner(search=search, recipe=recipe, **ONE), lambda step: invented(step, history=history))
        for s in o.steps
        if s.label == "trial 2"
    ]
    assert steps and steps[0].task.prune_below == (0.0, 0.5, 0.0, 0.5, 0.0)


def test_pruning_is_read_by_its_kind_and_records_of_before_name_none() -> None:
    assert SearchConfig().pruning == Pruning() == SearchConfig.model_validate({"pruning": {"startup_trials": 5}}).pruning
    halving = SearchConfig.model_validate({"pruning": {"kind": "halving", "factor": 4}})
    assert halving.pruning == Halving(kind="halving", factor=4)
    assert SearchConfig.model_validate(halving.canonical()) == halving
    for wrong in ({"kind": "wilcoxon"}, {"kind": "median", "factor": 2}, {"kind": "halving", "factor": 1}, 3):
        with pytest.raises(ValidationError):
            SearchConfig.model_validate({"pruning": wrong})


def test_a_mistake_in_it_is_told_with_its_place_in_the_file() -> None:
    with pytest.raises(ConfigError, match=r"search\.pruning\.facto: unknown key; did you mean 'factor'"):
        experiment(search=EXPERIMENT["search"] | {"pruning": {"kind": "halving", "facto": 2}})
    with pytest.raises(ConfigError, match=r"search\.pruning: expected kind: median or halving"):
        experiment(search=EXPERIMENT["search"] | {"pruning": {"kind": "hyperband"}})
