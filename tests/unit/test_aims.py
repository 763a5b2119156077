"""What a search looks for: lessons inside trials, costs, several objectives at once, latency, inherited weights."""

import random
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import torch
from experiments import EXPERIMENT
from planning import ONE, end_of, experiment, invented, planner, play
from pydantic import ValidationError

from agentkd.checks import room
from agentkd.checks import searching as searching_checks
from agentkd.checks.before import CHECKS, look_at
from agentkd.coordinator import own_parts
from agentkd.coordinator.run import describe_result
from agentkd.errors import ConfigError
from agentkd.launch.devices import Slot
from agentkd.launch.settings import LaunchConfig
from agentkd.networks.latency import measure_latency_ms
from agentkd.pipeline.aims import scores_of
from agentkd.pipeline.plan import Outlook, Planner
from agentkd.pipeline.stages import PlannedTask, Stage
from agentkd.search.lining import is_exhausted
from agentkd.search.selection import Candidate, choose, pareto_set
from agentkd.search.settings import SearchConfig, Select
from agentkd.search.space import Choices
from agentkd.search.study import Trial, TrialOutcome, suggest
from agentkd.search.view import write_view
from agentkd.task import Distill, Status, TaskResult, Train, read_task

FAMILY = "tiny_networks:tiny"
SPACE = {"architecture.width": Choices(values=(8, 10, 12, 16, 24, 32))}


def searching(**changes: object) -> dict[str, object]:
    return {"search": EXPERIMENT["search"] | changes} | ONE


def trial_steps(outlooks: list[Outlook]) -> dict[str, PlannedTask]:
    return {s.label: s for o in outlooks for s in o.steps if s.stage is Stage.SEARCH}


def number_of(step: PlannedTask) -> int:
    return int(step.label.rpartition(" ")[2]) if step.label.startswith("trial") else -1


# A trial is a lesson


def test_a_trial_is_a_lesson_by_the_familys_baseline_within_the_limits_of_a_trial() -> None:
    pruning = {"startup_trials": 1, "warmup_epochs": 0}
    outlooks = list(play(planner(**searching(objective="distilled_miou", lag=1, pruning=pruning))))
    baseline = next(row.entrant for row in outlooks[-1].rows if row.stage is Stage.BASELINE)
    steps = trial_steps(outlooks)
    assert len(steps) == 3 and outlooks[-1].is_finished
    for label, step in steps.items():
        assert isinstance(step.task, Distill)
        assert [teacher.weights for teacher in step.task.teachers] == [baseline.result.weights]
        assert step.task.recipe.epochs == EXPERIMENT["search"]["epochs"] and not step.task.initial_weights
        assert step.task.max_deploy_parameters == (0 if label == "trial 0" else 1200)
        assert read_task(step.task.canonical()).key == step.key
    assert not steps["trial 0"].task.prune_below and steps["trial 1"].task.prune_below
    assert {row.stage for row in outlooks[-1].rows} >= {Stage.SEARCH, Stage.ROUND1}


def test_the_lesson_is_that_of_round_1_or_the_searchs_own() -> None:
    def taught(**changes: object) -> set[float]:
        given = searching(objective="distilled_miou", **changes) | {"round1": {"epochs": 1, "distillation": {"alpha": 0.25}}}
        return {step.task.distillation.alpha for step in trial_steps(list(play(planner(**given)))).values()}

    assert taught() == {0.25} and taught(lesson={"alpha": 0.75}) == {0.75}


def test_a_lesson_begins_with_the_familys_pretrained_layers_and_measures_latency_as_any_trial() -> None:
    given = experiment(**searching(objective="distilled_miou") | {"select": {"count": "latency"}})
    own, dataset = own_parts.take_up(given)
    steps = trial_steps(list(play(Planner(given, dataset, {FAMILY: "d" * 64}, own), lambda s: invented(s, latency_ms=1.0))))
    assert len(steps) == 3 and {(s.task.pretrained, s.task.measures_latency) for s in steps.values()} == {("d" * 64, True)}


def test_an_own_objective_of_a_lesson_has_its_code() -> None:
    own = {"kind": "own", "path": "own.objectives:Absolute", "sends": [{}]}
    steps = trial_steps(list(play(planner(**searching(objective="distilled_miou", lesson={"objectives": [own]})))))
    assert steps and all(len(o.code) == 64 for step in steps.values() for o in step.task.distillation.objectives)


# What the sampler is told


def told(outlook: Outlook) -> list[tuple[float, ...]]:
    return [trial.scores for trial in outlook.trials[FAMILY]]


def test_scalarized_is_the_miou_less_a_weight_times_the_cost_relative_to_the_baselines() -> None:
    def outcome(step: PlannedTask) -> TaskResult:
        size = {"num_parameters_total": 400, "num_macs": 50} if step.stage is Stage.SEARCH else {}
        return invented(step, 0.5, **({"num_parameters_total": 1600, "num_macs": 100} | size))

    one = end_of(play(planner(**searching(objective="scalarized", cost_weight=0.2)), outcome))
    assert told(one) == [pytest.approx((0.5 - 0.2 * 0.25,))] * 3
    two = end_of(play(planner(**searching(objective="scalarized", cost_weight=0.2, costs=["macs", "total"])), outcome))
    assert told(two) == [pytest.approx((0.5 - 0.2 * 0.375,))] * 3
    assert told(end_of(play(planner(**searching())))) == [()] * 3


def test_what_is_told_and_not_the_miou_is_what_the_sampler_learns_from_and_what_patience_looks_at() -> None:
    def history(width: int) -> list[Trial]:
        """mIoU says the widest, and what is told says another."""
        widths = (8, 10, 12, 16, 24, 32)
        made = []
        for number in range(36):
            w = widths[number % 6]
            score = 1.0 - abs(widths.index(w) - widths.index(width)) / 6
            made.append(Trial(number, {"architecture.width": w}, TrialOutcome.COMPLETED, w / 40, scores=(score,)))
        return made

    for width in (8, 16):
        found = [suggest(SPACE, history(width), [], number=n, seed=1)["architecture.width"] for n in range(50, 62)]
        assert found.count(width) >= 5, (width, found)
    falling = [Trial(n, {}, TrialOutcome.COMPLETED, n / 10, scores=(-float(n),)) for n in range(4)]
    assert is_exhausted(falling, patience=3, max_infeasible=9)
    assert not is_exhausted(falling[::-1], patience=1, max_infeasible=9)


def pair(number: int, miou: float, *costs: float, outcome: TrialOutcome = TrialOutcome.COMPLETED) -> Trial:
    return Trial(number, {"architecture.width": 8}, outcome, miou, scores=(miou, *costs))


def test_patience_of_several_objectives_is_without_a_new_one_on_the_front() -> None:
    front = [pair(0, 0.5, 1.0), pair(1, 0.4, 0.5), pair(2, 0.6, 2.0)]
    assert not is_exhausted(front, patience=1, max_infeasible=9)
    beaten = [*front, pair(3, 0.4, 0.6), pair(4, 0.5, 1.0)]
    assert is_exhausted(beaten, patience=2, max_infeasible=9) and not is_exhausted(beaten, patience=3, max_infeasible=9)
    assert not is_exhausted([*beaten, pair(5, 0.3, 0.4)], patience=1, max_infeasible=9)


def test_several_objectives_are_learned_from_at_once_up_and_down() -> None:
    """Wide ones are no better and cost more: only the narrowest is on the front, then only the widest, if size is no cost."""

    def found(cost: float) -> list[int]:
        widths = (8, 10, 12, 16, 24, 32)
        made = [
            Trial(n, {"architecture.width": (w := widths[n % 6])}, TrialOutcome.COMPLETED, 0.5, scores=(0.5, cost * w))
            for n in range(36)
        ]
        return [suggest(SPACE, made, [], number=n, seed=1, num_costs=1)["architecture.width"] for n in range(50, 62)]

    up, down = found(1.0), found(-1.0)
    assert up.count(8) >= 6 and down.count(32) >= 6, (up, down)


def test_a_suggestion_of_several_objectives_is_pure_and_takes_every_outcome() -> None:
    history = [pair(n, n / 30, n / 10) for n in range(15)]
    history += [pair(15, 0.0, 3.0, outcome=TrialOutcome.INFEASIBLE), pair(16, 0.0, 1.0, outcome=TrialOutcome.FAILED)]
    pending = [Trial(17, {"architecture.width": 8}, TrialOutcome.RUNNING)]
    one = suggest(SPACE, history, pending, number=18, seed=1, num_costs=1)
    assert one == suggest(SPACE, history, pending, number=18, seed=1, num_costs=1)
    assert suggest(SPACE, [], [], number=1, seed=1, num_costs=2).keys() == SPACE.keys()


def test_trials_drawn_by_lot_are_as_many_as_the_experiment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[object] = []

    class Told(optuna.samplers.TPESampler):
        def __init__(self, **options: object) -> None:
            counts.append(options.get("n_startup_trials"))
            super().__init__(**options)  # type: ignore[arg-type]

    monkeypatch.setattr(optuna.samplers, "TPESampler", Told)
    end_of(play(planner(**searching(startup_trials=3))))
    assert {count for count in counts if count is not None} == {3}
    counts.clear()
    end_of(play(planner(**searching())))
    assert {count for count in counts if count is not None} == {10}


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_optunas_tools_show_a_front_also_after_what_is_looked_for_was_corrected(tmp_path: Path) -> None:
    def shown() -> optuna.Study:
        return optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/study.db")

    write_view(tmp_path / "study.db", "s", SPACE, [Trial(0, {}, TrialOutcome.COMPLETED, 0.5)])
    for _ in range(2):
        write_view(tmp_path / "study.db", "s", SPACE, [pair(0, 0.5, 2.0), pair(1, 0.4, 1.0), pair(2, 0.4, 3.0)], num_costs=1)
    assert [d.name for d in shown().directions] == ["MAXIMIZE", "MINIMIZE"] and len(shown().trials) == 3
    assert sorted(t.values for t in shown().best_trials) == [[0.4, 1.0], [0.5, 2.0]]
    write_view(tmp_path / "study.db", "s", SPACE, [Trial(0, {}, TrialOutcome.COMPLETED, 0.5)])
    assert shown().best_value == 0.5


# Candidates are the front


def front_of(
    costs: list[str], outcomes: list[tuple[float, int]], more: dict[str, object] | None = None, **select: object
) -> tuple[Outlook, list[PlannedTask]]:
    """A search whose trials come out as told, as (mIoU, total parameters); MACs all the same."""

    def outcome(step: PlannedTask) -> TaskResult:
        number = number_of(step)
        miou, size = outcomes[number] if step.stage is Stage.SEARCH and number >= 0 else (0.3, 4000)
        return invented(step, miou, num_parameters_total=size, num_parameters_deploy=5, num_macs=7)

    given = (
        searching(objective="pareto", costs=costs, trials=len(outcomes), lag=1, patience=0) | {"select": select} | (more or {})
    )
    outlooks = list(play(planner(**given), outcome))
    return outlooks[-1], list(trial_steps(outlooks).values())


def test_of_several_objectives_the_front_are_the_candidates_and_nothing_is_pruned() -> None:
    outlook, steps = front_of(["total"], [(0.5, 1000), (0.4, 500), (0.6, 2000), (0.45, 1500), (0.35, 600)], rule="best")
    assert told(outlook)[:2] == [pytest.approx((0.5, 0.25)), pytest.approx((0.4, 0.125))]
    keys = outlook.trial_keys[FAMILY]
    row = next(row for row in outlook.rows if row.stage is Stage.SEARCH)
    front = {keys[0], keys[1], keys[2]}
    others = {key: reason for key, reason in row.choice.reasons.items() if key not in front} if row.choice else {}
    assert len(others) == 3 and all("not on the front" in reason for reason in others.values()), "the baseline too"
    assert all(not step.task.prune_below for step in steps)
    teachers = {teacher.key for lesson in outlook.lessons for teacher in lesson.teachers}
    students = {lesson.student.key for lesson in outlook.lessons if lesson.stage is Stage.ROUND1}
    assert teachers == {keys[2]} and students == {keys[0], keys[2]} - {keys[2]} | {keys[1]}


def test_what_is_counted_is_what_select_counts_unless_it_is_said() -> None:
    outcomes = [(0.5, 1000), (0.4, 500), (0.6, 2000)]
    by_select, _ = front_of([], outcomes, rule="best", count="macs")
    row = next(row for row in by_select.rows if row.stage is Stage.SEARCH)
    front = [key for key, reason in row.choice.reasons.items() if "front" not in reason] if row.choice else []
    assert front == [by_select.trial_keys[FAMILY][2]], "MACs are all the same"
    both, _ = front_of(["total", "macs"], outcomes, rule="best", count="macs")
    assert [len(scores) for scores in told(both)] == [3] * 3


def test_the_set_that_goes_on_to_round_1_is_the_same_front() -> None:
    """All have the same deploy parameters and MACs, by which only the best would be in the set."""
    ensemble = {"round1": {"epochs": 1, "teachers": "ensemble", "students": 1}}
    outlook, _ = front_of(["total"], [(0.5, 1000), (0.4, 500), (0.6, 2000), (0.45, 1500)], ensemble, rule="best")
    keys = outlook.trial_keys[FAMILY]
    (lesson,) = outlook.lessons
    assert {lesson.student.key, *(teacher.key for teacher in lesson.teachers)} == set(keys[:3])


def test_a_pareto_set_counts_what_it_is_told_to() -> None:
    def candidate(task: str, miou: float, total: int, macs: int) -> Candidate:
        return Candidate(task, miou, total, 1, macs)  # type: ignore[arg-type]

    a, b = candidate("a", 0.6, 9, 1), candidate("b", 0.5, 1, 9)
    assert pareto_set([a, b], ["total"]) == [a, b] and pareto_set([a, b], ["macs"]) == [a]
    assert pareto_set([a, b]) == [a], "deploy parameters and MACs"


def test_several_objectives_are_not_pruned_and_asking_for_it_is_refused() -> None:
    assert SearchConfig.model_validate({"objective": "pareto"}).pruning is None
    given = SearchConfig.model_validate({"objective": "pareto"})
    assert SearchConfig.model_validate(given.canonical()) == given
    for pruning in ({}, {"kind": "halving"}, {"startup_trials": 3}):
        with pytest.raises(ConfigError, match=r"search: objective pareto .* write pruning: null"):
            experiment(search=EXPERIMENT["search"] | {"objective": "pareto", "pruning": pruning})


@pytest.mark.parametrize(
    "wrong",
    [
        {"objective": "accuracy"},
        {"costs": ["total"]},
        {"objective": "distilled_miou", "costs": ["total"]},
        {"objective": "pareto", "costs": ["total", "total"]},
        {"objective": "pareto", "costs": ["flops"]},
        {"lesson": {"alpha": 0.5}},
        {"objective": "scalarized", "cost_weight": -1},
        {"startup_trials": 0},
        {"confirm": -1},
        {"confirm_seeds": 0},
    ],
)
def test_what_goes_not_together_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SearchConfig.model_validate(wrong)


# Latency


def with_latency(**changes: object) -> list[Outlook]:
    def outcome(step: PlannedTask) -> TaskResult:
        latency = 10.0 + number_of(step) if getattr(step.task, "measures_latency", False) else 0.0
        return invented(step, 0.5, num_parameters_total=100 - number_of(step), latency_ms=latency)

    return list(play(planner(**searching() | {"select": {"count": "latency"}} | changes), outcome))


def test_latency_is_measured_where_a_choice_counts_it_and_nowhere_else() -> None:
    tasks = [step.task for outlook in with_latency() for step in outlook.steps if step.stage is not Stage.TEST]
    assert tasks and all(task.measures_latency for task in tasks)
    plain = [step.task for outlook in play(planner(**searching())) for step in outlook.steps if step.stage is not Stage.TEST]
    assert not any(task.measures_latency for task in plain)
    aimed = searching(objective="pareto", costs=["latency"]) | {"select": {"count": "total"}}
    assert all(step.task.measures_latency for step in trial_steps(with_latency(**aimed)).values())


def test_what_is_too_slow_for_its_baseline_is_told_the_sampler_by_how_much() -> None:
    told: dict[int, TaskResult] = {}

    def outcome(step: PlannedTask) -> TaskResult:
        is_slow = number_of(step) == 1
        over = {"status": Status.INFEASIBLE, "latency_ms": 30.0} if is_slow else {"latency_ms": 10.0}
        if step.stage is Stage.SEARCH:
            assert step.task.max_latency_ms == (20.0 if number_of(step) else 0.0)
        return told.setdefault(number_of(step), invented(step, 0.5)).model_copy(update=over)

    outlooks = list(play(planner(**searching(max_latency_ratio=2.0, max_deploy_ratio=0)), outcome))
    assert all(step.task.measures_latency for outlook in outlooks for step in outlook.steps if step.stage is not Stage.TEST)
    trials = {trial.number: trial for trial in outlooks[-1].trials[FAMILY]}
    assert (trials[1].outcome, trials[1].violation) == (TrialOutcome.INFEASIBLE, 0.5)
    assert trials[2].outcome is TrialOutcome.COMPLETED and trials[2].violation <= 0


def test_the_fastest_within_the_tolerance_goes_on_by_what_is_recorded() -> None:
    outlook = with_latency()[-1]
    row = next(row for row in outlook.rows if row.stage is Stage.SEARCH)
    assert row.entrant.result.latency_ms == min(9.0, 10.0) and row.choice and "milliseconds" in row.choice.reason
    fast, slow = (Candidate(name, 0.5, 9, 9, 9, latency_ms=ms) for name, ms in (("a", 0.25), ("b", 0.75)))  # type: ignore[arg-type]
    for rule in ("smallest_within", "pareto_knee"):
        assert choose([slow, fast], Select(rule=rule, count="latency")).task == fast.task
    reasons = choose([slow, fast], Select(count="latency")).reasons
    assert reasons[slow.task] == "3.00 times the milliseconds of the one chosen; 0.75 ms", "also below a millisecond"
    step = next(iter(trial_steps(with_latency()).values()))
    assert ", 0.0125 ms, " in describe_result(step, invented(step, latency_ms=0.0125, seconds=1.0))


def test_a_record_of_before_says_nothing_of_latency_and_keeps_its_digest() -> None:
    result = TaskResult(status=Status.COMPLETED, miou=0.5)
    assert "latency_ms" not in result.canonical() and TaskResult.model_validate(result.canonical()) == result
    told = result.replace(latency_ms=2.5)
    assert told.canonical()["latency_ms"] == 2.5 and TaskResult.model_validate(told.canonical()) == told


@pytest.mark.parametrize("kind", [Train, Distill])
def test_a_task_says_what_it_has_got_since_only_where_it_says_something(kind: type[Train] | type[Distill]) -> None:
    objective = "distilled_miou" if kind is Distill else "miou"
    task = trial_steps(list(play(planner(**searching(objective=objective, max_deploy_ratio=0)))))["trial 1"].task
    assert isinstance(task, kind) and not task.measures_latency
    new = {"measures_latency", "max_latency_ms"} | ({"pretrained", "max_num_macs", "prune_below"} if kind is Distill else set())
    assert not new & task.model_dump(mode="json").keys()
    measured = task.replace(measures_latency=True, max_latency_ms=2.5, pretrained="d" * 64, max_num_macs=3, prune_below=(0.5,))
    assert new <= measured.model_dump(mode="json").keys() and measured.key != task.key
    assert read_task(measured.canonical()) == measured


def test_what_was_too_large_to_be_measured_is_not_thought_fast() -> None:
    baseline = Candidate("b", 0.5, 10, 10, 10, latency_ms=4.0)  # type: ignore[arg-type]
    trial = Candidate("t", 0.0, 20, 20, 20)  # type: ignore[arg-type]
    given = experiment(search=EXPERIMENT["search"] | {"objective": "pareto", "costs": ["latency"]})
    assert scores_of(given, trial, baseline, violation=0.5) == (0.0, 1.5)


class Slow(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.modes: list[tuple[bool, bool, tuple[int, ...]]] = []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.modes.append((self.training, torch.is_grad_enabled(), tuple(image.shape)))
        for _ in range(2 + len(self.modes) % 2):
            torch.mm(torch.ones(200, 200), torch.ones(200, 200))
        return image


def test_a_latency_is_of_one_image_in_inference_form_and_changes_nothing() -> None:
    network = Slow().train()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert 0 < measure_latency_ms(network, 24, 40, torch.device("cpu")) < 1000
    assert torch.equal(torch.get_rng_state(), state) and network.training
    assert len(network.modes) >= 10 and set(network.modes) == {(False, False, (1, 3, 24, 40))}


# A child inherits


def inheriting(seed: int, **changes: object) -> tuple[dict[str, PlannedTask], list[float], list[Outlook]]:
    drawn = random.Random(seed)
    scores = [round(drawn.random() * 3) / 4 for _ in range(8)]  # of equals the first

    def outcome(step: PlannedTask) -> TaskResult:
        number = number_of(step) if step.stage is Stage.SEARCH else -1
        status = Status.FAILED if number == 3 else Status.COMPLETED
        return invented(step, scores[number] if number >= 0 else 0.99, status=status)

    aims = {name: changes.pop(name) for name in ("objective",) if name in changes}
    given = searching(trials=8, lag=3, patience=0, inherit_weights=True, pruning=None, **aims) | changes
    outlooks = list(play(planner(**given), outcome))
    return trial_steps(outlooks), scores, outlooks


@pytest.mark.parametrize("objective", ["miou", "distilled_miou"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_trial_inherits_the_weights_of_the_best_completed_trial_that_it_sees(objective: str, seed: int) -> None:
    steps, scores, outlooks = inheriting(seed, objective=objective)
    for number in range(8):
        visible = [n for n in range(number - 2) if n != 3]
        best = max(visible, key=lambda n: scores[n], default=None)
        expected = "" if best is None else steps[f"trial {best}"].key[::-1]
        assert steps[f"trial {number}"].task.pretrained == expected, number
        if expected:
            assert ("inherits weights", expected) in list(steps[f"trial {number}"].task.reads())
    entrant = next(row.entrant for row in outlooks[-1].rows if row.stage is Stage.SEARCH)
    assert entrant.epochs_in_all >= entrant.result.epochs


def test_a_long_line_of_inheritance_is_counted_whole() -> None:
    entrant = end_of(play(planner(**searching()))).rows[0].entrant
    line = entrant
    for _ in range(5000):
        line = replace(entrant, before=line)
    assert line.epochs_in_all == 5001 * entrant.result.epochs
    steps, scores, outlooks = inheriting(4, select={"rule": "best", "baseline": False})
    best = max((n for n in range(8) if n != 3), key=lambda n: scores[n])
    row = next(row.entrant for row in outlooks[-1].rows if row.stage is Stage.SEARCH)
    assert row.key == steps[f"trial {best}"].key and best > 3, "a child"
    assert row.before is not None and row.before.result.weights == steps[f"trial {best}"].task.pretrained


def test_without_it_every_trial_begins_as_before() -> None:
    assert {step.task.pretrained for step in trial_steps(list(play(planner(**searching(trials=6))))).values()} == {""}


# What is checked before


def concerns(**changes: object) -> dict[str, tuple[str, bool]]:
    return {c.path: (c.text, c.is_error) for c in look_at(experiment(**changes)).concerns}


def test_latency_on_several_kinds_of_devices_is_doubtful(monkeypatch: pytest.MonkeyPatch) -> None:
    named = property(lambda launch: [Slot(device, 1) for device in launch.devices.split(",")])
    monkeypatch.setattr(LaunchConfig, "slots", named)
    mixed, equal = ({"launch": {"devices": devices}} for devices in ("cuda:0,cpu", "cuda:0,cuda:1"))
    counted: dict[str, object] = {"select": {"count": "latency"}}
    plan = look_at(experiment(**ONE)).plan
    assert plan is not None

    def found(**changes: object) -> list[str]:
        given = replace(plan, experiment=experiment(**ONE | changes))
        return [c.path for c in searching_checks.check_latency(given) if not c.is_error]

    assert found(**mixed, **counted) == ["select.count"] and not found(**equal, **counted) and not found(**mixed)
    search = EXPERIMENT["search"] | {"objective": "scalarized", "costs": ["latency"]}
    assert found(**mixed, search=search) == ["search.costs"]
    limited = EXPERIMENT["search"] | {"max_latency_ratio": 1.5}
    assert found(**mixed, search=limited) == ["search.max_latency_ratio"]
    assert searching_checks.check_latency in {check for check, _, _ in CHECKS}


def test_the_taps_of_a_searchs_lesson_are_looked_for() -> None:
    lesson = {"objectives": [{"kind": "features", "taps": {"nowhere": "nowhere"}}]}
    found = concerns(**searching(objective="distilled_miou", lesson=lesson))
    text, is_error = found["search.lesson.objectives"]
    assert is_error and "no module 'nowhere'" in text


def test_disk_is_reckoned_with_what_is_trained_again() -> None:
    def most(**changes: object) -> int:
        plan = look_at(experiment(**searching(**changes)), Path("/tmp/none")).plan
        found = room.disk(plan) if plan else None
        assert found is not None
        return found.most

    each = (most(trials=4) - most(trials=3)) * 6
    assert most(confirm=3, confirm_seeds=2) - most() == each > 0
