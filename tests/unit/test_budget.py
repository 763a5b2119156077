"""How much one sitting of a run may do: time, tasks, epochs. Decided without a clock."""

import pytest
import typer
from planning import planner

from agentkd.cli.typed import duration
from agentkd.coordinator.budget import UNLIMITED, Budget, Spending, epochs_of
from agentkd.pipeline.stages import PlannedTask


@pytest.fixture(scope="module")
def wanted() -> list[PlannedTask]:
    """The baselines of three families, of two epochs each."""
    families = ["tiny_networks:tiny", "tiny_networks:other", "unet"]
    return list(planner(families=families).outlook({}).steps)


def test_without_a_budget_all_that_is_wanted_is_begun(wanted: list[PlannedTask]) -> None:
    spending = Spending(UNLIMITED, num_slots=1)
    assert spending.take(wanted, elapsed_s=1e9, num_open=7) == wanted and not spending.is_spent
    assert spending.take([], elapsed_s=1e9, num_open=0) == [] and not spending.is_spent


def test_so_many_tasks_are_begun_and_no_more(wanted: list[PlannedTask]) -> None:
    spending = Spending(Budget(num_tasks=2), num_slots=8)
    assert spending.take(wanted[:1], elapsed_s=0, num_open=0) == wanted[:1] and not spending.is_spent
    assert spending.take(wanted[1:], elapsed_s=0, num_open=1) == wanted[1:2] and spending.is_spent
    assert "it has begun the 2 tasks that it may" in spending.reason
    assert spending.take(wanted[2:], elapsed_s=0, num_open=0) == []


def test_a_budget_that_is_just_enough_is_not_spent_before_something_more_is_wanted(wanted: list[PlannedTask]) -> None:
    spending = Spending(Budget(num_tasks=3, num_epochs=6), num_slots=8)
    assert spending.take(wanted, elapsed_s=0, num_open=0) == wanted and not spending.is_spent


def test_the_first_training_that_has_too_many_epochs_ends_it_with_the_reason(wanted: list[PlannedTask]) -> None:
    assert [epochs_of(step) for step in wanted] == [2, 2, 2]
    spending = Spending(Budget(num_epochs=5), num_slots=8)
    assert spending.take(wanted, elapsed_s=0, num_open=0) == wanted[:2]
    assert spending.reason == ("it has begun 4 of the 5 epochs that it may, and the next task (baseline of unet) has 2")
    nothing = Spending(Budget(num_epochs=1), num_slots=8)
    assert nothing.take(wanted, elapsed_s=0, num_open=0) == [] and nothing.is_spent


def test_a_time_that_is_over_lets_no_task_begin_though_it_was_wanted_before(wanted: list[PlannedTask]) -> None:
    """What is given out begins sooner or later: so no more is than is done at a time."""
    spending = Spending(Budget(seconds=60), num_slots=2)
    assert spending.take(wanted, elapsed_s=59, num_open=0) == wanted[:2] and not spending.is_spent
    assert spending.take(wanted[2:], elapsed_s=59.9, num_open=2) == [] and not spending.is_spent
    assert spending.take(wanted[2:], elapsed_s=60, num_open=1) == [] and spending.is_spent
    assert "(60 s) is over" in spending.reason


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h", 7200), ("90m", 5400), ("1h30m", 5400), ("45s", 45), ("1.5h", 5400), ("1d2h3m4s", 93784), (" 5m ", 300)],
)
def test_times_are_written_with_units(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "0s", "-1h", "1h 30m", "30m1h", "nan", "1e3s", "٣h", "2 hours", "9" * 400 + "h"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="expected one such as 2h"):
        duration(text)
