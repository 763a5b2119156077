"""What is told of tasks under way, and of those that are done or given up."""

import pytest

from agentkd.architecture import Architecture
from agentkd.coordinator.events import GiveUp, Start
from agentkd.coordinator.state import Bench, Condition, Member
from agentkd.coordinator.underway import Finished, Underway
from agentkd.coordinator.watching import Activity
from agentkd.messages.bodies import ErrorReply, TaskProgressEvent
from agentkd.recipe import Distillation
from agentkd.task import DataSource, Distill, Status, Task, TaskResult, TeacherReference, Train

DATA = DataSource(spec="s", content_digest="d")
ARCHITECTURE = Architecture(family="unet", num_classes=2)
TASK = Train(architecture=ARCHITECTURE, data=DATA)
GOOD = TaskResult(status=Status.COMPLETED, miou=0.5)


@pytest.fixture
def underway() -> Underway:
    made = Underway()
    made.labels |= {"a": "the task", "b": "another"}
    return made


def lesson(*weights: str) -> Task:
    teachers = tuple(TeacherReference(architecture=ARCHITECTURE, weights=w) for w in weights)
    return Distill(architecture=ARCHITECTURE, data=DATA, teachers=teachers, distillation=Distillation())


def failed(code: str, text: str) -> TaskResult:
    return TaskResult(status=Status.FAILED, error_code=code, error_text=text)


def test_of_an_agent_that_learns_it_is_told_what_and_how_far_it_is(underway: Underway) -> None:
    member = Member("agent-1", Bench.LEARNING, 0, Condition.BUSY, task="a")
    doing = underway.begin(Start("agent-1", "a", 1), TASK, ())
    assert underway.activity(member, "cpu", ()) == Activity("agent-1", "cpu", "the task", 0, 0, None, None)
    doing.progress = TaskProgressEvent(task="0" * 64, attempt=1, step=3, steps=4, loss=0.5, miou=0.25)
    assert underway.activity(member, "cpu", ()) == Activity("agent-1", "cpu", "the task", 3, 4, 0.5, 0.25)


@pytest.mark.parametrize(
    ("bench", "condition", "students", "doing"),
    [
        (Bench.TEACHING, Condition.TEACHING, ("agent-2", "agent-3"), "teaches agent-2, agent-3"),
        (Bench.TEACHING, Condition.TEACHING, (), "ready to teach"),
        (Bench.TEACHING, Condition.STARTING, (), "starting to teach"),
        (Bench.LEARNING, Condition.STARTING, (), "starting"),
        (Bench.LEARNING, Condition.IDLE, (), "idle"),
    ],
)
def test_of_an_agent_without_a_task_it_is_told_whether_and_whom_it_teaches(
    underway: Underway, bench: Bench, condition: Condition, students: tuple[str, ...], doing: str
) -> None:
    member = Member("agent-1", bench, 0, condition)
    assert underway.activity(member, "cpu", students) == Activity("agent-1", "cpu", doing, 0, 0, None, None)


def test_what_is_accepted_names_who_did_it_and_who_taught_it(underway: Underway) -> None:
    doing = underway.begin(Start("agent-1", "a", 2, (("w2", "agent-3"), ("w1", "agent-2"))), lesson("w1", "w2", "w3"), ())
    doing.result = GOOD
    taught = (("w1", "agent-2"), ("w2", "agent-3"))  # all that the third said was recorded
    assert underway.accept("a") == Finished("a", GOOD, "agent-1", 2, taught)
    assert underway.find("a") is None


def test_what_is_said_of_an_earlier_attempt_or_by_another_agent_is_void(underway: Underway) -> None:
    doing = underway.begin(Start("agent-1", "a", 2), TASK, ())
    assert underway.current("agent-1", "a", 2) is doing is underway.find("a")
    assert underway.current("agent-1", "a", 1) is underway.current("agent-1", "b", 2) is None
    assert underway.current("agent-2", "a", 2) is None


def test_recordings_are_in_use_while_anybody_learns_from_them(underway: Underway) -> None:
    underway.begin(Start("agent-1", "a", 1), TASK, ("r1", "r2"))
    underway.begin(Start("agent-2", "b", 1), TASK, ("r3",)).result = GOOD
    assert list(underway.recordings_in_use()) == ["r1", "r2", "r3"]
    underway.accept("b")
    assert list(underway.recordings_in_use()) == ["r1", "r2"]


def test_a_task_is_given_up_with_the_error_that_was_heard_last(underway: Underway) -> None:
    underway.begin(Start("agent-1", "a", 3), TASK, ()).error = ErrorReply(code="out_of_memory", text="x" * 5000)
    assert underway.give_up(GiveUp("a")) == Finished("a", failed("out_of_memory", "x" * 2000), "agent-1", 3, ())
    underway.could_not_adopt("w1", ErrorReply(code="not_found", text="no such weights"))
    assert underway.give_up(GiveUp("b", untaught="w1")).result == failed("not_found", "no such weights")


@pytest.mark.parametrize(
    ("action", "text"),
    [
        (GiveUp("a", because="b"), "another failed, without which it cannot be done"),
        (GiveUp("a", untaught="0123456789abcdef"), "no agent could be made to teach the weights 0123456789ab"),
        (GiveUp("a"), "its agents were lost, or did not do what they were asked"),
    ],
)
def test_a_task_that_nobody_said_anything_of_is_given_up_with_the_reason(underway: Underway, action: GiveUp, text: str) -> None:
    assert underway.give_up(action) == Finished("a", failed("exchange", text), "", 0, ())
