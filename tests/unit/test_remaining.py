"""Counts and the time left while a run goes on are true: at no moment too few, and none at the end."""

import pytest
from experiments import EXPERIMENT
from planning import ONE, invented, planner, play

from agentkd.coordinator.watching import Snapshot
from agentkd.pipeline.counting import task_counts
from agentkd.pipeline.plan import Outlook, Planner
from agentkd.pipeline.remaining import Left, Pace, pace_of, remaining, seconds_left
from agentkd.pipeline.stages import PlannedTask, Stage
from agentkd.report.live import PLAIN_STATUS_EVERY_S, PlainWatcher, searched_text, status_line
from agentkd.search.study import Trial, TrialOutcome
from agentkd.task import Status, TaskResult

SEARCH = EXPERIMENT["search"]
WAYS = {
    "as_it_is": {},
    "one_family": ONE,
    "control": {"control": True},
    "ensemble": {"round2": {"epochs": 2, "teachers": "ensemble"}},
    "seeds": {"seeds": 2},
    "confirmed": {"search": SEARCH | {"confirm": 2, "confirm_seeds": 2}},
    "final_tests_alone": {"test_every_stage": False},
    "no_test_split": {"data": EXPERIMENT["data"] | {"test": "validation"}},
    "patience": {"search": SEARCH | {"trials": 8, "patience": 1, "lag": 1}},
}


def counts(plan: Planner, outlook: Outlook) -> int:
    return sum(one.num_tasks for one in remaining(plan, outlook))


@pytest.mark.parametrize("way", WAYS)
def test_what_is_left_is_never_less_than_what_comes_and_is_nothing_at_the_end(way: str) -> None:
    plan = planner(**WAYS[way])
    outlooks = list(play(plan))
    for done, outlook in enumerate(outlooks):
        assert counts(plan, outlook) >= len(outlooks) - 1 - done
    assert counts(plan, outlooks[-1]) == 0
    last = [one for one in outlooks if all(seed.winner for seed in (one, *one.repeats))]
    last = [one for one in last if all(step.stage is Stage.TEST for step in one.steps)]
    assert [counts(plan, one) for one in last] == [len(one.steps) for one in last], "and no guess is left then"


@pytest.mark.parametrize("way", [way for way in WAYS if way != "no_test_split"])
def test_before_anything_is_done_it_is_what_is_said_to_be_planned(way: str) -> None:
    plan = planner(**WAYS[way])
    assert counts(plan, plan.outlook({})) == sum(task_counts(plan.experiment).values())


def infeasible_at_first(step: PlannedTask) -> TaskResult:
    if step.stage is Stage.SEARCH and step.label in {f"trial {number}" for number in range(1, 12)}:
        return invented(step, status=Status.INFEASIBLE, weights="", history=())
    return invented(step)


def test_infeasible_trials_are_counted_apart_from_those_that_there_are_to_be() -> None:
    """A search of three trials that meets eleven infeasible ones was said to be at 14/14."""
    plan = planner(**ONE)
    outlook = list(play(plan, infeasible_at_first))[-1]
    trials = outlook.trials["tiny_networks:tiny"]
    assert len(trials) == 14
    assert searched_text(trials, plan.experiment.trials("tiny_networks:tiny")).startswith("3/3, and 11 infeasible, best ")


def test_a_trial_that_runs_is_not_finished_and_a_pruned_one_is_never_the_best() -> None:
    trials = [
        Trial(0, {}, TrialOutcome.COMPLETED, 0.5),
        Trial(1, {}, TrialOutcome.PRUNED, 0.9),
        Trial(2, {}, TrialOutcome.RUNNING),
    ]
    assert (
        searched_text(trials, 8) == "2/8, best 50.0"
        and searched_text([], 8) == "-"
        and searched_text(trials, 0) == "2, best 50.0"
    )


def test_tasks_that_are_begun_are_left_in_part() -> None:
    plan = planner(**ONE)
    outlook = plan.outlook({})
    [first] = [one for one in remaining(plan, outlook, {outlook.steps[0].key: 0.75}) if one.stage is Stage.BASELINE]
    assert (first.num_tasks, first.num_wholes, first.least) == (1, 0.25, 0.25)
    assert Left("x", Stage.SEARCH, "train", 1, 2, (0.75,)).least == 1, "one has not begun"


def took(step: PlannedTask, seconds: float) -> TaskResult:
    return invented(step, seconds=seconds)


def pace(plan: Planner, seconds: float) -> Pace:
    """Of a baseline of each family, in which each epoch took so long."""
    steps = plan.outlook({}).steps
    return pace_of((step.task, took(step, seconds * step.task.recipe.epochs)) for step in steps)


def test_the_time_left_is_not_known_before_something_was_done() -> None:
    plan = planner()
    left = remaining(plan, plan.outlook({}))
    assert seconds_left(plan.experiment, left, Pace(), num_agents=2) is None
    assert seconds_left(plan.experiment, [], Pace(), num_agents=2) == 0


def test_the_time_left_counts_epochs_and_not_tasks() -> None:
    """A search of one epoch a trial, before one lesson of 100: by tasks it is nearly over, by time it has hardly begun."""
    plan = planner(search=SEARCH | {"epochs": 1, "trials": 10}, round1={"epochs": 100}, **ONE)
    found = seconds_left(plan.experiment, remaining(plan, plan.outlook({})), pace(plan, 1.0), num_agents=1)
    assert found == 2 + 10 * 1 + 2 * 100


def test_what_comes_one_after_the_other_is_not_shared_among_agents() -> None:
    plan = planner(search=SEARCH | {"epochs": 1, "trials": 10, "lag": 1}, round1={"epochs": 10, "students": 1}, **ONE)
    left = remaining(plan, plan.outlook({}))
    assert seconds_left(plan.experiment, left, pace(plan, 1.0), num_agents=100) == 2 + 10 * 1 + 10


def test_what_one_family_takes_says_nothing_about_another() -> None:
    """A U-Net beside networks of a thousand parameters was said to take as long as they do."""
    plan = planner()
    known = Pace()
    step = plan.outlook({}).steps[0]
    known.note(step.task, took(step, 6.0))
    assert known.seconds(Left("another", Stage.BASELINE, "train", 2, 1)) is None
    assert known.seconds(Left(step.family, Stage.ROUND1, "distill", 4, 1)) == 12.0, "but its epochs do about each other"
    assert known.seconds(Left(step.family, Stage.TEST, "evaluate", 0, 1)) is None
    assert seconds_left(plan.experiment, remaining(plan, plan.outlook({})), known, num_agents=2) is None


@pytest.mark.parametrize("status", [Status.INFEASIBLE, Status.FAILED])
def test_what_was_not_trained_says_nothing_about_how_long_training_takes(status: Status) -> None:
    step = planner().outlook({}).steps[0]
    assert pace_of([(step.task, invented(step, status=status, seconds=0.1))]).num_tasks == 0


def snapshot(outlook: Outlook, left_s: float | None, num_recorded: int = 5) -> Snapshot:
    return Snapshot("x", 75.0, num_recorded, 12, left_s, outlook, ())


def test_a_status_line_never_says_that_no_time_is_left_before_the_end() -> None:
    outlooks = list(play(planner()))
    assert status_line(snapshot(outlooks[-2], 0.0)).startswith("5 of at most 12 tasks, 1:15 so far, less than 10 s left; best ")
    assert "time left not known yet" in status_line(snapshot(outlooks[0], None))
    done = status_line(snapshot(outlooks[-1], 0.0, 12))
    assert done.startswith("all 12 tasks are done, 1:15 in this sitting; best ") and "left" not in done


def test_lines_end_with_the_state_however_soon_it_comes() -> None:
    import io

    from rich.console import Console

    stream = io.StringIO()
    outlooks, watcher = list(play(planner())), PlainWatcher(Console(file=stream, width=20))
    watcher.show(snapshot(outlooks[-2], 1.0))
    assert stream.getvalue() == "" and PLAIN_STATUS_EVERY_S > 1
    for _ in range(2):  # a run shows its end as it comes, and for certain
        watcher.show(snapshot(outlooks[-1], 0.0, 12))
    assert "all 12 tasks are done" in stream.getvalue() and stream.getvalue().count("\n") == 1, (
        "and it is not broken at 20 columns"
    )
