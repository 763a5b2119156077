"""The whole of KD-NAS without a process: records in, wanted tasks and table out."""

import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
from experiments import EXPERIMENT
from planning import ONE, Outcome, end_of, invented, planner, play

from agentkd.coordinator.watching import Snapshot
from agentkd.pipeline.plan import Outlook
from agentkd.pipeline.stages import ROUNDS, TABLE_STAGES, PlannedTask, Stage
from agentkd.report import figures, live
from agentkd.report.table import COLUMNS, csv_table, latex_table, markdown_table, table_rows
from agentkd.report.texts import short_count
from agentkd.search.space import Values
from agentkd.search.study import Suggester, Trial, TrialOutcome
from agentkd.task import Distill, EpochResult, Evaluate, Status, TaskResult, Train, read_task


def test_every_family_goes_through_every_stage() -> None:
    outlook = end_of(play(planner()))
    stages = [(row.family, row.stage) for row in outlook.rows]
    for family in EXPERIMENT["families"]:
        assert [stage for f, stage in stages if f == family] == [Stage.BASELINE, Stage.SEARCH, Stage.ROUND1, Stage.ROUND2]
    assert set(outlook.tests) == set(EXPERIMENT["families"])
    assert outlook.winner is not None


def test_the_order_in_which_tasks_finish_changes_nothing() -> None:
    first, last = end_of(play(planner())), end_of(play(planner(), pick=lambda steps: steps[-1]))
    assert csv_table(first) == csv_table(last)
    assert first.trial_keys == last.trial_keys


def test_a_planner_made_anew_from_the_records_goes_on_as_if_nothing_had_happened() -> None:
    whole = list(play(planner()))
    for results_so_far in range(0, len(whole), 3):
        results: dict[str, TaskResult] = {}
        for outlook in whole[:results_so_far]:
            results[outlook.steps[0].key] = invented(outlook.steps[0])
        assert planner().outlook(results).steps == whole[results_so_far].steps


def test_the_search_never_names_the_test_split() -> None:
    for outlook in play(planner()):
        for step in outlook.steps:
            assert (step.task.data.validation == "test") == (step.stage is Stage.TEST)
            assert step.task.data.train == "train"


def test_trials_are_limited_to_the_baselines_parameters_but_the_published_one_is_not() -> None:
    steps = [s for o in play(planner()) for s in o.steps if s.stage is Stage.SEARCH]
    assert {s.task.max_deploy_parameters for s in steps if s.label == "trial 0"} == {0}
    assert {s.task.max_deploy_parameters for s in steps if s.label != "trial 0"} == {1200, 1600}


def test_the_published_trial_is_the_baseline_if_the_epochs_agree() -> None:
    outlook = end_of(play(planner(baseline={"epochs": 3})))
    baselines = {row.entrant.key for row in outlook.rows if row.stage is Stage.BASELINE}
    assert baselines == {keys[0] for keys in outlook.trial_keys.values()}


def test_teachers_of_round_1_are_better_and_their_students_smaller() -> None:
    outlook = end_of(play(planner(search=EXPERIMENT["search"] | {"trials": 8})))
    lessons = [lesson for lesson in outlook.lessons if lesson.stage is Stage.ROUND1]
    assert lessons
    for lesson in lessons:
        teacher = lesson.teachers[0]
        assert teacher.result.miou >= lesson.student.result.miou
        is_itself = teacher.key == lesson.student.key
        assert is_itself or teacher.result.num_parameters_deploy > lesson.student.result.num_parameters_deploy


def by_policy(policy: str) -> Outlook:
    """Round 2 with a ``tiny`` family that is always better and an ``other`` that is always larger."""

    def outcome(step: PlannedTask) -> TaskResult:
        is_tiny = step.family.endswith("tiny")
        return invented(step, 0.6 if is_tiny else 0.4, num_parameters_total=100 if is_tiny else 900)

    return end_of(play(planner(round2={"epochs": 1, "teachers": policy}), outcome))


@pytest.mark.parametrize(("policy", "teacher"), [("largest", "other"), ("best", "tiny")])
def test_round_2_follows_the_teacher_policy(policy: str, teacher: str) -> None:
    lessons = [lesson for lesson in by_policy(policy).lessons if lesson.stage is Stage.ROUND2]
    assert [[t.family for t in lesson.teachers] for lesson in lessons] == [[f"tiny_networks:{teacher}"]]
    assert lessons[0].student.family != lessons[0].teachers[0].family


def test_in_an_ensemble_everybody_is_taught_by_all_others() -> None:
    families = set(EXPERIMENT["families"])
    lessons = [lesson for lesson in by_policy("ensemble").lessons if lesson.stage is Stage.ROUND2]
    assert {lesson.student.family for lesson in lessons} == set(EXPERIMENT["families"])
    assert all([t.family for t in lesson.teachers] == [*families - {lesson.student.family}] for lesson in lessons)


@pytest.mark.parametrize("keep", [True, False])
def test_the_gate_keeps_the_better_weights_and_records_the_lesson_either_way(keep: bool) -> None:
    def outcome(step: PlannedTask) -> TaskResult:
        return invented(step, 0.1 if isinstance(step.task, Distill) else 0.5)

    rounds = {name: {"epochs": 1, "keep_best": keep} for name in ("round1", "round2")}
    outlook = end_of(play(planner(**rounds), outcome))
    final = {
        row.entrant.result.miou for row in outlook.rows if row.stage is Stage.ROUND2 and isinstance(row.entrant.task, Distill)
    }
    assert final == (set() if keep else {0.1})
    assert {row.entrant.result.miou for row in outlook.rows if row.stage is Stage.ROUND1} == {0.5 if keep else 0.1}
    assert all(lesson.taught is not None and lesson.is_kept is not keep for lesson in outlook.lessons)


def test_a_student_that_is_as_good_as_before_keeps_what_it_was_taught() -> None:
    outlook = end_of(play(planner(), lambda step: invented(step, 0.5)))
    assert outlook.lessons and all(lesson.is_kept for lesson in outlook.lessons)


def test_a_failed_trial_and_a_failed_lesson_are_results_and_a_failed_baseline_is_not() -> None:
    def failing(stage: Stage) -> Outcome:
        return lambda step: TaskResult(status=Status.FAILED, error_text="why") if step.stage is stage else invented(step)

    for stage in (Stage.SEARCH, Stage.ROUND1, Stage.ROUND2):
        end = end_of(play(planner(), failing(stage)))
        failed = [lesson for lesson in end.lessons if lesson.stage is stage]
        assert end.is_finished and not any(lesson.taught or lesson.is_kept for lesson in failed)
    for stage in Stage:
        end = end_of(play(planner(), failing(stage)))
        has_scores = not end.failure and all(test.result.status is Status.COMPLETED for test in end.tests.values())
        assert has_scores is not stage.traits.is_vital, "a run ends where there is nothing to go on with, or to report"
    assert "the baseline of tiny_networks:tiny failed: why" in end_of(play(planner(), failing(Stage.BASELINE))).failure


def test_infeasible_trials_are_replaced_and_bounded() -> None:
    def outcome(step: PlannedTask) -> TaskResult:
        is_trial = step.stage is Stage.SEARCH and step.label != "trial 0"
        return TaskResult(status=Status.INFEASIBLE, num_parameters_deploy=10**9) if is_trial else invented(step)

    search = EXPERIMENT["search"] | {"max_infeasible": 5}
    outlook = end_of(play(planner(search=search), outcome))
    assert outlook.is_finished
    assert {len(trials) for trials in outlook.trials.values()} <= {6, 7}


def test_tasks_of_one_run_share_the_seed_of_their_views_so_that_teachers_answer_once() -> None:
    seeds = {step.task.view_seed for outlook in play(planner()) for step in outlook.steps if not isinstance(step.task, Evaluate)}
    assert len(seeds) == 1


def test_a_task_survives_its_canonical_form() -> None:
    for outlook in play(planner()):
        for step in outlook.steps:
            assert read_task(step.task.canonical()).key == step.key


class TestTable:
    outlook = end_of(play(planner()))

    def test_it_has_the_columns_and_a_row_for_each_family_and_stage(self) -> None:
        lines = csv_table(self.outlook).splitlines()
        assert lines[0] == ",".join(COLUMNS)
        assert lines[0] == (
            "family,stage,miou,test_miou,epochs,epochs_in_all,num_parameters_total,num_parameters_network,num_parameters_deploy,num_macs,seconds,"
            "peak_memory_bytes,seed,task"
        )
        assert len(lines) == 1 + 4 * 2
        assert all(0 <= row["miou"] <= 1 and not math.isnan(row["miou"]) for row in table_rows(self.outlook))

    def test_its_forms_for_people_hold_percent_and_mark_the_winner(self) -> None:
        text = markdown_table(self.outlook)
        assert text.count("**") == 4 and f"{100 * self.outlook.winner.result.miou:.2f}" in text
        assert latex_table(self.outlook).count(r"\\") == 2 + 2

    @pytest.mark.parametrize(
        ("count", "text"), [(18_408_758, "18.4M"), (6_942_117, "6.94M"), (123_456_789, "123M"), (2_345, "2.35k"), (7, "7")]
    )
    def test_counts_are_printed_as_in_the_paper(self, count: int, text: str) -> None:
        assert short_count(count) == text


TRIALS_ALONE = {"rule": "best", "count": "deploy", "baseline": False}
AS_COMPLETED = EXPERIMENT["search"] | {"order": "as_completed", "trials": 18, "lag": 4, "patience": 0}
Played = tuple[dict[str, TaskResult], dict[str, dict[int, tuple[int, ...]]], Outlook]


def play_as_completed(seed: int, **changes: object) -> Played:
    """A search whose trials finish in an order drawn by lot, with a planner made anew now and then: (results, asks, end)."""
    drawn = random.Random(seed)
    search = AS_COMPLETED | changes
    plan, results, asks = planner(search=search, **ONE), {}, {}
    for _ in range(400):
        outlook = plan.outlook(results, asks)
        for family, asked in outlook.asks.items():
            assert not asks.setdefault(family, {}).keys() & asked.keys(), "what was asked is asked once"
            asks[family] |= asked
        if outlook.is_finished:
            return results, asks, outlook
        if drawn.random() < 0.2:
            plan = planner(search=search, **ONE)
            assert plan.outlook(results, asks).steps == outlook.steps
        step = drawn.choice(outlook.steps)
        results[step.key] = invented(step)
    raise AssertionError("the experiment does not end")


def test_as_completed_what_a_trial_saw_decides_and_the_records_give_the_same_search_again() -> None:
    ends = [play_as_completed(seed) for seed in range(1, 9)]
    assert len({str(sorted(results)) for results, _, _ in ends}) > 1, "here the order in which trials finish makes a difference"
    for results, asks, end in ends:
        again = planner(search=AS_COMPLETED, **ONE)
        outlook = again.outlook(results, asks)
        assert outlook.is_finished and not outlook.asks and outlook.keys == results.keys()
        assert csv_table(outlook) == csv_table(end)
        for asked in asks.values():
            assert asked[0] == () and max(len(seen) for seen in asked.values()) >= 14
            assert all(number - len(seen) <= 3 for number, seen in asked.items()), "four side by side at most"


def test_patience_ends_a_search_as_completed_too() -> None:
    results, asks, outlook = play_as_completed(4, patience=3, trials=40)
    assert all(len(trials) < 40 for trials in outlook.trials.values())
    assert outlook.keys == results.keys() and set(asks) == set(ONE["families"])


def test_as_completed_a_front_inherited_weights_and_other_seeds_come_out_of_the_records_again() -> None:
    changes = {"objective": "pareto", "costs": ["macs"], "inherit_weights": True, "confirm": 2, "trials": 9}
    results, asks, end = play_as_completed(1, **changes)
    outlook = planner(search=AS_COMPLETED | changes, **ONE).outlook(results, asks)
    assert outlook.is_finished and outlook.keys == results.keys() and csv_table(outlook) == csv_table(end)
    inherited = {step for trials in outlook.trial_keys.values() for step in trials}
    assert len(inherited) == 9 and any(row.entrant.scores for row in outlook.rows)


def test_fifty_trials_are_twenty_five_and_twenty_five() -> None:
    search = EXPERIMENT["search"] | {"trials": 50, "patience": 0, "lag": 4}
    whole = list(play(planner(search=search, **ONE)))
    half, records = len(whole) // 2, {}
    for outlook in whole[:half]:
        records[outlook.steps[0].key] = invented(outlook.steps[0])
    anew = planner(search=search, **ONE)
    for expected in whole[half:]:
        outlook = anew.outlook(records)
        assert outlook.steps == expected.steps
        if outlook.steps:
            records[outlook.steps[0].key] = invented(outlook.steps[0])
    assert csv_table(anew.outlook(records)) == csv_table(whole[-1])
    assert all(len(trials) == 50 for trials in whole[-1].trials.values())


def search_of(outcome: Outcome, **search: object) -> Outlook:
    return end_of(play(planner(search=EXPERIMENT["search"] | search, **ONE), outcome))


def test_by_how_much_a_trial_is_over_its_limit_is_known_to_the_search() -> None:
    """The baseline has 1200 parameters and 12,000 MACs; the larger excess of the two counts."""

    def outcome(step: PlannedTask) -> TaskResult:
        if step.stage is not Stage.SEARCH or step.label == "trial 0":
            return invented(step)
        over = {"num_parameters_deploy": 1800, "num_macs": 12_600 if step.label == "trial 1" else 24_000}
        return invented(step).model_copy(update=over | {"status": Status.INFEASIBLE})

    trials = search_of(outcome, max_infeasible=2, max_macs_ratio=1.0).trials["tiny_networks:tiny"]
    assert [trial.violation for trial in trials[:3]] == pytest.approx([0.0, 0.5, 1.0])
    trials = search_of(outcome, max_infeasible=2, max_deploy_ratio=2.0, max_macs_ratio=4.0).trials["tiny_networks:tiny"]
    assert [trial.violation for trial in trials[:3]] == pytest.approx([0.0, -0.25, -0.25])


def test_trials_are_stopped_below_the_median_of_the_best_so_far_of_those_that_they_see() -> None:
    """Three trials whose score rises and falls; the bound of the second epoch is that of the first."""

    def outcome(step: PlannedTask) -> TaskResult:
        number = int(step.label.rpartition(" ")[2]) if step.stage is Stage.SEARCH else 0
        curve = (0.4 + number / 100, 0.2, 0.1)
        history = tuple(EpochResult(epoch=e, loss=1, miou=miou, seconds=1) for e, miou in enumerate(curve, 1))
        return invented(step, max(curve), history=history)

    pruning = {"startup_trials": 3, "warmup_epochs": 1}
    plan = planner(search=EXPERIMENT["search"] | {"trials": 5, "lag": 1, "patience": 0, "pruning": pruning}, **ONE)
    bounds = {s.label: s.task.prune_below for o in play(plan, outcome) for s in o.steps if s.stage is Stage.SEARCH}
    assert bounds["trial 0"] == bounds["trial 2"] == ()
    assert bounds["trial 3"] == pytest.approx((0.0, 0.41, 0.41)) and bounds["trial 4"] == pytest.approx((0.0, 0.415, 0.415))


@pytest.mark.parametrize("stage", Stage)
def test_a_stage_stands_in_every_report_as_its_row_says(stage: Stage) -> None:
    outlook, title = end_of(play(planner())), stage.traits.title
    shown = Snapshot("x", 0.0, 1, 1, None, outlook, ())
    heads = [str(column.header) for column in live._stages(shown).columns]
    where = [title in markdown_table(outlook), title in latex_table(outlook), stage.value in heads]
    where += [stage in figures.MARKERS, stage in figures.LINES, stage in {row.stage for row in outlook.rows}]
    assert where == [stage.traits.is_in_table] * len(where)
    assert (stage in {lesson.stage for lesson in outlook.lessons}) == stage.traits.is_round
    assert tuple(Stage)[:-1] == TABLE_STAGES and ROUNDS == (Stage.ROUND1, Stage.ROUND2)
    assert Stage(stage.value) is stage and f"{stage}" == stage.value, "the text is part of seeds"
    assert len({figures.MARKERS[stage] for stage in TABLE_STAGES}) == len(TABLE_STAGES)


@pytest.mark.parametrize("status", [Status.PRUNED, Status.FAILED])
def test_a_trial_that_was_not_completed_is_no_candidate_however_good_it_was(status: Status) -> None:
    def outcome(step: PlannedTask) -> TaskResult:
        if step.stage is Stage.SEARCH and step.label == "trial 1":
            return invented(step, 0.99, status=status)
        return invented(step, 0.5)

    outlook = search_of(outcome)
    assert outlook.trials["tiny_networks:tiny"][1].judged_by == 0.99
    assert [row.entrant.result.miou for row in outlook.rows if row.stage is Stage.SEARCH] == [0.5]
    assert all(teacher.result.miou == 0.5 for lesson in outlook.lessons for teacher in lesson.teachers)


@pytest.mark.parametrize("policy", ["largest", "best", "ensemble"])
def test_round_1_follows_the_teacher_policy(policy: str) -> None:
    """Four trials, each larger and better than the one before, but the last, which is no candidate."""

    def outcome(step: PlannedTask) -> TaskResult:
        number = int(step.label.rpartition(" ")[2]) if step.stage is Stage.SEARCH else 0
        size = {"num_parameters_deploy": 100 + number, "num_macs": 1000 - 100 * number} if number < 3 else {}
        return invented(step, 0.5 + (number / 100 if number < 3 else -0.4), **size)

    search = EXPERIMENT["search"] | {"trials": 4, "max_deploy_ratio": 0}
    given = {"search": search, "select": TRIALS_ALONE, "round1": {"epochs": 1, "teachers": policy, "students": 3}}
    outlook = end_of(play(planner(**given, **ONE), outcome))
    keys = outlook.trial_keys["tiny_networks:tiny"]
    taught = {keys.index(lesson.student.key): [keys.index(t.key) for t in lesson.teachers] for lesson in outlook.lessons}
    assert taught == ({1: [2, 0], 0: [2, 1]} if policy == "ensemble" else {1: [2], 0: [2]})
    assert all(lesson.taught and lesson.taught.label == f"{lesson.student.label}, round1" for lesson in outlook.lessons)
    assert {lesson.student.label for lesson in outlook.lessons} == {f"tiny_networks:tiny trial {n}" for n in taught}


def test_who_has_nobody_else_in_an_ensemble_teaches_itself() -> None:
    search = EXPERIMENT["search"] | {"trials": 1}
    alone = planner(search=search, select=TRIALS_ALONE, round1={"epochs": 1, "teachers": "ensemble"}, **ONE)
    outlook = end_of(play(alone))
    assert outlook.lessons and all(lesson.teachers == (lesson.student,) for lesson in outlook.lessons)


def test_a_familys_own_ranges_are_searched_beside_the_experiments_and_begin_as_published() -> None:
    own = {"tiny_networks:tiny": {"recipe_space": {"momentum": {"values": [0.8, 0.9]}}}, "tiny_networks:other": {}}
    plan = planner(families=own)
    tiny, other = (plan.families[family] for family in own)
    assert tiny.space.keys() == other.space.keys() | {"recipe.momentum"}
    first = plan.outlook({step.key: invented(step) for step in planner(families=own).outlook({}).steps}).trials
    recipe = {"recipe.learning_rate": 0.05}
    assert first["tiny_networks:tiny"][0].values == {"architecture.width": 12, "recipe.momentum": 0.9} | recipe
    assert first["tiny_networks:other"][0].values == {"architecture.width": 16} | recipe


def test_a_task_that_two_trials_are_is_wanted_once() -> None:
    """One width and one learning rate: after the published trial all are the same."""
    search = EXPERIMENT["search"] | {"recipe_space": {}}
    families = {"tiny_networks:tiny": {"space": {"width": [8]}}}
    outlooks = list(play(planner(search=search, families=families)))
    assert outlooks[-1].is_finished and all(len({s.key for s in o.steps}) == len(o.steps) for o in outlooks)
    (keys,) = outlooks[-1].trial_keys.values()
    assert keys[0] != keys[1] == keys[2]


def test_the_sampler_is_told_of_what_a_trial_sees_and_of_what_still_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[int, tuple[list[int], list[int]]] = {}

    class Heard(Suggester):
        def suggest(self, seen: Sequence[Trial], pending: Sequence[Trial], *, number: int) -> Values:
            assert all(trial.outcome is TrialOutcome.RUNNING for trial in pending)
            told[number] = [trial.number for trial in seen], [trial.number for trial in pending]
            return super().suggest(seen, pending, number=number)

    monkeypatch.setattr("agentkd.pipeline.searching.Suggester", Heard)
    search_of(invented, trials=5, lag=3, patience=0)
    assert told == {1: ([], [0]), 2: ([], [0, 1]), 3: ([0], [1, 2]), 4: ([0, 1], [2, 3])}


@pytest.mark.parametrize("order", ["strict", "as_completed"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"seeds": 2, "families": ["tiny_networks:tiny"]},
        {"search": EXPERIMENT["search"] | {"inherit_weights": True, "confirm": 1, "confirm_seeds": 1}, "control": True},
        {"search": EXPERIMENT["search"] | {"trials": 5, "lag": 3, "max_macs_ratio": 0.9, "patience": 2}},
    ],
    ids=["plain", "seeds", "inherits and confirms", "limits and patience"],
)
def test_what_is_known_of_earlier_records_changes_no_outlook(order: str, changes: dict[str, Any]) -> None:
    """A plan that looks at what came in alone says what one says that sees all records for the first time."""
    given = changes | {"search": changes.get("search", EXPERIMENT["search"]) | {"order": order}}
    plan, results, asks = planner(**given), dict[str, TaskResult](), dict[str, dict[int, tuple[int, ...]]]()
    lot = random.Random(1)
    for _ in range(200):
        outlook = plan.outlook(results, asks)
        assert outlook == planner(**given).outlook(dict(results), asks) and plan.outlook(results, asks) == outlook
        for study_of, told in outlook.asks.items():
            asks[study_of] = asks.get(study_of, {}) | told
        if outlook.is_finished:
            break
        step = lot.choice(outlook.steps)
        is_over = (
            step.task.max_num_macs and invented(step).num_macs > step.task.max_num_macs if isinstance(step.task, Train) else 0
        )
        outcome = {"status": Status.INFEASIBLE} if is_over else {}
        results[step.key] = invented(step).model_copy(update=outcome)
    assert outlook.is_finished and outlook.keys == results.keys()
    others = {key: result.model_copy(update={"miou": 1 - result.miou}) for key, result in results.items()}
    begun = dict(list(others.items())[: 2 * len(results) // 3])
    assert plan.outlook(begun, {}) == planner(**given).outlook(begun, {}), "other results, as many as there were"
    fewer = {key: results[key] for key in list(results)[: len(results) // 2]}
    assert plan.outlook(fewer, asks) == planner(**given).outlook(fewer, asks), "other results, the same plan"


def test_the_failure_of_any_family_is_told() -> None:
    def outcome(step: PlannedTask) -> TaskResult:
        return TaskResult(status=Status.FAILED, error_text="why") if step.family.endswith("other") else invented(step)

    end = end_of(play(planner(), outcome, pick=lambda steps: steps[-1]))
    assert end.failure == "the baseline of tiny_networks:other failed: why"


@pytest.mark.parametrize("start", ["own", "scratch", "inherit"])
def test_a_student_begins_with_its_own_weights_if_it_is_to(start: str) -> None:
    rounds = {name: {"epochs": 1, "distillation": {"start": start}} for name in ("round1", "round2")}
    lessons = end_of(play(planner(**rounds))).lessons
    given = {lesson.taught.task.initial_weights == lesson.student.result.weights for lesson in lessons if lesson.taught}
    assert given == {start == "own"}
    assert start == "own" or not any(lesson.taught and lesson.taught.task.initial_weights for lesson in lessons)
