"""Who does what: events in, actions out."""

import pytest
import torch

from agentkd.agents.agent import _as_reply
from agentkd.agents.crew import FATAL_CODES
from agentkd.agents.dispatch import (
    Accept,
    Arrived,
    Cancel,
    Dispatcher,
    Ended,
    Failed,
    GiveUp,
    Joined,
    Launch,
    Lost,
    Move,
    Ready,
    Start,
    Teach,
)
from agentkd.architecture import Architecture
from agentkd.errors import OutOfMemoryError
from agentkd.messages.bodies import TaskRequest
from agentkd.recipe import Distillation, Recipe
from agentkd.task import DataSource, Partner, Task, TaskKind, TeacherReference

DATA = DataSource(spec="s", content_digest="d")
ARCHITECTURE = Architecture(family="unet", num_classes=2)
TEACHER = TeacherReference(architecture=ARCHITECTURE, weights="w1")
OTHER = TeacherReference(architecture=ARCHITECTURE, weights="w2")


def task(*teachers: TeacherReference) -> Task:
    kind = TaskKind.DISTILL if teachers else TaskKind.TRAIN
    return Task(kind=kind, architecture=ARCHITECTURE, data=DATA, teachers=teachers)


def with_agents(num_slots: int, tasks: dict[str, Task], **options: int) -> Dispatcher:
    dispatcher = Dispatcher(num_slots, **options)
    launches = dispatcher.want(tasks.items())
    assert launches == [Launch(f"agent-{i + 1}", "learning", i) for i in range(min(num_slots, len(tasks)))]
    return dispatcher


def test_tasks_go_to_agents_in_order() -> None:
    dispatcher = with_agents(2, {"a": task(), "b": task(), "c": task()})
    assert dispatcher.handle(Joined("agent-2")) == [Start("agent-2", "a", 1)]
    assert dispatcher.handle(Joined("agent-1")) == [Start("agent-1", "b", 1)]
    assert dispatcher.handle(Ended("agent-2", "a", 1)) == [Accept("a"), Start("agent-2", "c", 1)]


def test_no_more_agents_are_started_than_there_is_work() -> None:
    dispatcher = Dispatcher(4)
    assert dispatcher.want([("a", task())]) == [Launch("agent-1", "learning", 0)]
    assert dispatcher.want([("a", task())]) == []


def test_a_task_of_a_lost_agent_goes_to_its_replacement_with_a_new_epoch() -> None:
    dispatcher = with_agents(1, {"a": task()})
    dispatcher.handle(Joined("agent-1"))
    assert dispatcher.handle(Lost("agent-1")) == [Launch("agent-2", "learning", 0)]
    assert dispatcher.handle(Joined("agent-2")) == [Start("agent-2", "a", 2)]


def test_a_result_of_an_earlier_epoch_is_void() -> None:
    dispatcher = with_agents(1, {"a": task()})
    dispatcher.handle(Joined("agent-1"))
    dispatcher.handle(Lost("agent-1"))
    dispatcher.handle(Joined("agent-2"))
    assert dispatcher.handle(Ended("agent-1", "a", 1)) == []
    assert dispatcher.handle(Ended("agent-2", "a", 1)) == []
    assert dispatcher.handle(Ended("agent-2", "a", 2)) == [Accept("a")]


def test_a_result_counts_once() -> None:
    dispatcher = with_agents(1, {"a": task()})
    dispatcher.handle(Joined("agent-1"))
    assert dispatcher.handle(Ended("agent-1", "a", 1)) == [Accept("a")]
    assert dispatcher.handle(Ended("agent-1", "a", 1)) == []


def test_a_task_is_given_up_after_its_attempts_and_at_once_if_trying_again_is_pointless() -> None:
    dispatcher = with_agents(1, {"a": task(), "b": task()}, max_attempts=2)
    dispatcher.handle(Joined("agent-1"))
    assert dispatcher.handle(Failed("agent-1", "a", 1, retryable=True)) == [Start("agent-1", "a", 2)]
    assert dispatcher.handle(Failed("agent-1", "a", 2, retryable=True)) == [GiveUp("a"), Start("agent-1", "b", 1)]
    assert dispatcher.handle(Failed("agent-1", "b", 1, retryable=False)) == [GiveUp("b")]


def test_a_lesson_starts_once_its_teacher_is_ready() -> None:
    dispatcher = with_agents(1, {"a": task(TEACHER)})
    assert dispatcher.handle(Joined("agent-1")) == [Launch("agent-2", "teaching", 0)]
    assert dispatcher.handle(Joined("agent-2")) == [Teach("agent-2", TEACHER, DATA)]
    assert dispatcher.handle(Ready("agent-2", "w1")) == [Start("agent-1", "a", 1, (("w1", "agent-2"),))]


def test_one_teacher_serves_several_students() -> None:
    dispatcher = with_agents(2, {"a": task(TEACHER), "b": task(TEACHER)})
    dispatcher.handle(Joined("agent-1"))
    dispatcher.handle(Joined("agent-2"))
    dispatcher.handle(Joined("agent-3"))
    starts = dispatcher.handle(Ready("agent-3", "w1"))
    assert starts == [Start("agent-1", "a", 1, (("w1", "agent-3"),)), Start("agent-2", "b", 1, (("w1", "agent-3"),))]


def test_students_are_told_when_their_teacher_is_replaced() -> None:
    dispatcher = with_agents(1, {"a": task(TEACHER)})
    for event in (Joined("agent-1"), Joined("agent-2"), Ready("agent-2", "w1")):
        dispatcher.handle(event)
    assert dispatcher.handle(Lost("agent-2")) == [Launch("agent-3", "teaching", 0)]
    assert dispatcher.handle(Joined("agent-3")) == [Teach("agent-3", TEACHER, DATA)]
    assert dispatcher.handle(Ready("agent-3", "w1")) == [Move("agent-1", "w1", "agent-3")]
    assert dispatcher.handle(Ended("agent-1", "a", 1)) == [Accept("a")]


def test_copies_of_a_teacher_share_its_students_and_stand_in_for_each_other() -> None:
    dispatcher = Dispatcher(2, max_copies=2)
    dispatcher.want([("a", task(TEACHER)), ("b", task(TEACHER))])
    dispatcher.handle(Joined("agent-1"))
    dispatcher.handle(Joined("agent-2"))
    assert dispatcher.handle(Joined("agent-3"))[0] == Teach("agent-3", TEACHER, DATA)
    both = dispatcher.handle(Ready("agent-3", "w1"))
    assert both == [Start("agent-1", "a", 1, (("w1", "agent-3"),)), Start("agent-2", "b", 1, (("w1", "agent-3"),))]
    assert dispatcher.handle(Joined("agent-4")) == [Teach("agent-4", TEACHER, DATA)]
    assert dispatcher.handle(Ready("agent-4", "w1")) == [Move("agent-1", "w1", "agent-4")]
    assert dispatcher.handle(Lost("agent-4"))[0] == Move("agent-1", "w1", "agent-3"), "at once, since a copy is left"


def test_one_student_needs_no_copies() -> None:
    dispatcher = Dispatcher(2, max_copies=2)
    dispatcher.want([("a", task(TEACHER)), ("b", task())])
    launched = [dispatcher.handle(Joined(f"agent-{number}")) for number in (1, 2, 3)]
    assert sum(isinstance(action, Launch) for actions in launched for action in actions) == 1


def test_a_teacher_that_nobody_needs_any_more_adopts_other_weights() -> None:
    dispatcher = with_agents(1, {"a": task(TEACHER), "b": task(OTHER)})
    for event in (Joined("agent-1"), Joined("agent-2"), Ready("agent-2", "w1")):
        dispatcher.handle(event)
    assert dispatcher.handle(Ended("agent-1", "a", 1)) == [Accept("a"), Teach("agent-2", OTHER, DATA)]
    assert dispatcher.handle(Ready("agent-2", "w2")) == [Start("agent-1", "b", 1, (("w2", "agent-2"),))]


def test_an_ensemble_waits_for_all_its_teachers() -> None:
    dispatcher = with_agents(1, {"a": task(TEACHER, OTHER)})
    assert dispatcher.handle(Joined("agent-1")) == [Launch("agent-2", "teaching", 0), Launch("agent-3", "teaching", 0)]
    dispatcher.handle(Joined("agent-2"))
    dispatcher.handle(Joined("agent-3"))
    assert dispatcher.handle(Ready("agent-2", "w1")) == []
    assert dispatcher.handle(Ready("agent-3", "w2")) == [Start("agent-1", "a", 1, (("w1", "agent-2"), ("w2", "agent-3")))]


def test_events_of_unknown_agents_are_ignored() -> None:
    assert Dispatcher(1).handle(Ended("nobody", "a", 1)) == []


def test_a_guest_that_learns_does_tasks_and_what_it_left_is_done_by_others() -> None:
    dispatcher = Dispatcher(0)
    assert dispatcher.want([("a", task())]) == []
    assert dispatcher.handle(Arrived("ann", learns=True)) == [Start("ann", "a", 1)]
    assert dispatcher.handle(Arrived("bob", learns=True)) == []
    assert dispatcher.handle(Lost("ann")) == [Start("bob", "a", 2)]
    assert dispatcher.handle(Arrived("ann", learns=True)) == []
    assert dispatcher.handle(Ended("bob", "a", 2)) == [Accept("a")]


def test_a_guest_that_was_started_again_has_lost_its_task() -> None:
    dispatcher = Dispatcher(0)
    dispatcher.want([("a", task())])
    dispatcher.handle(Arrived("ann", learns=True))
    assert dispatcher.handle(Arrived("ann", learns=True)) == [Start("ann", "a", 2)]


def test_weights_that_only_a_guest_holds_are_waited_for_and_never_replaced() -> None:
    dispatcher, foreign = Dispatcher(1), TeacherReference(architecture=None, weights="w9")
    assert dispatcher.want([("a", task(foreign))]) == [Launch("agent-1", "learning", 0)]
    assert dispatcher.handle(Joined("agent-1")) == []
    assert dispatcher.handle(Arrived("js", learns=False, teaches="w9")) == [Start("agent-1", "a", 1, (("w9", "js"),))]
    assert dispatcher.students() == {"js": ("agent-1",)}
    assert dispatcher.handle(Arrived("js", learns=False, teaches="w9")) == [Move("agent-1", "w9", "js")]
    assert dispatcher.handle(Ended("agent-1", "a", 1)) == [Accept("a")]
    dispatcher.want([("b", task(TEACHER))])
    assert dispatcher.members["js"].weights == "w9", "a guest is not told to adopt other weights"


def test_a_guest_that_neither_learns_nor_teaches_gets_nothing_to_do() -> None:
    dispatcher = Dispatcher(0)
    dispatcher.want([("a", task())])
    assert dispatcher.handle(Arrived("ann", learns=False)) == [] and dispatcher.members == {}


def test_a_task_that_was_given_up_can_be_wanted_again_with_a_later_epoch() -> None:
    dispatcher = with_agents(1, {"a": task()}, max_attempts=2)
    dispatcher.handle(Joined("agent-1"))
    assert dispatcher.handle(Failed("agent-1", "a", 1, retryable=False)) == [GiveUp("a")]
    assert dispatcher.want([("a", task())]) == [Start("agent-1", "a", 2)]
    assert dispatcher.handle(Failed("agent-1", "a", 2, retryable=True)) == [Start("agent-1", "a", 3)]
    assert dispatcher.handle(Failed("agent-1", "a", 3, retryable=True)) == [GiveUp("a")]


def cohort() -> dict[str, Task]:
    """Two students that teach each other, by digest."""
    first = Task(
        kind=TaskKind.MUTUAL,
        architecture=ARCHITECTURE,
        data=DATA,
        seed=1,
        distillation=Distillation(),
        partners=(Partner(architecture=ARCHITECTURE, recipe=Recipe(), seed=2),),
    )
    (second,) = first.partner_tasks()
    assert second.partner_tasks() == (first,)
    return {first.digest: first, second.digest: second}


def test_students_that_teach_each_other_start_together_and_are_accepted_together() -> None:
    tasks = cohort()
    a, b = tasks
    dispatcher = with_agents(2, {**tasks, "later": task()})
    assert dispatcher.handle(Joined("agent-1")) == [], "one alone would wait, and a later task would take its place"
    assert dispatcher.handle(Joined("agent-2")) == [
        Start("agent-1", a, 1, ((b, "agent-2"),)),
        Start("agent-2", b, 1, ((a, "agent-1"),)),
    ]
    assert dispatcher.students() == {"agent-1": ("agent-2",), "agent-2": ("agent-1",)}
    assert dispatcher.handle(Ended("agent-1", a, 1)) == [Start("agent-1", "later", 1)]
    assert dispatcher.handle(Ended("agent-2", b, 1)) == [Accept(b), Accept(a)]


def test_a_student_of_a_cohort_that_is_lost_begins_again_and_the_other_is_told_where() -> None:
    tasks = cohort()
    a, b = tasks
    dispatcher = with_agents(2, tasks)
    dispatcher.handle(Joined("agent-1"))
    dispatcher.handle(Joined("agent-2"))
    assert dispatcher.handle(Lost("agent-1")) == [Launch("agent-3", "learning", 0)]
    assert dispatcher.handle(Joined("agent-3")) == [
        Start("agent-3", a, 2, ((b, "agent-2"),)),
        Move("agent-2", a, "agent-3"),
    ]
    assert dispatcher.handle(Ended("agent-3", a, 2)) == []
    assert dispatcher.handle(Lost("agent-2")) == [Start("agent-3", b, 2, ((a, "agent-3"),)), Launch("agent-4", "learning", 1)][:1]


def test_a_cohort_is_given_up_together_and_who_still_works_at_it_is_stopped() -> None:
    tasks = cohort()
    a, b = tasks
    dispatcher = with_agents(2, tasks, max_attempts=1)
    dispatcher.handle(Joined("agent-1"))
    dispatcher.handle(Joined("agent-2"))
    assert dispatcher.handle(Failed("agent-1", a, 1, retryable=True)) == [
        GiveUp(a),
        Cancel("agent-2", b, 1),
        GiveUp(b, because=a),
    ]
    assert dispatcher.handle(Failed("agent-2", b, 1, retryable=True)) == []
    assert dispatcher.want(tasks.items()) == [
        Start("agent-1", a, 2, ((b, "agent-2"),)),
        Start("agent-2", b, 2, ((a, "agent-1"),)),
    ], "both agents are free again, and the epochs go on"


@pytest.mark.parametrize("error", [MemoryError("host"), torch.OutOfMemoryError("device")])
def test_too_little_memory_is_told_as_such_and_tried_again_before_it_is_given_up(error: Exception) -> None:
    request = TaskRequest(task=task(), epoch=1)
    told = _as_reply(error, request)
    assert told.code == OutOfMemoryError.code and told.code not in FATAL_CODES and told.task == request.key
    dispatcher = Dispatcher(1, max_attempts=2)
    dispatcher.want([("a", task())])
    dispatcher.handle(Joined("agent-1"))
    assert dispatcher.handle(Failed("agent-1", "a", 1, retryable=True)) == [Start("agent-1", "a", 2)]
    assert dispatcher.handle(Failed("agent-1", "a", 2, retryable=True)) == [GiveUp("a")]


def test_copies_that_cannot_be_evened_out_further_leave_their_students_where_they_are() -> None:
    dispatcher = Dispatcher(3, max_copies=2)
    dispatcher.want([(key, task(TEACHER)) for key in "abc"])
    for number in (1, 2, 3):
        dispatcher.handle(Joined(f"agent-{number}"))
    dispatcher.handle(Joined("agent-4"))
    assert len(dispatcher.handle(Ready("agent-4", "w1"))) >= 3, "all three start with the one teacher that there is"
    dispatcher.handle(Joined("agent-5"))
    assert dispatcher.handle(Ready("agent-5", "w1")) == [Move("agent-1", "w1", "agent-5")]
    assert dispatcher.students() == {"agent-4": ("agent-2", "agent-3"), "agent-5": ("agent-1",)}
    for _ in range(3):
        assert dispatcher.handle(Ready("agent-5", "w1")) == [], "two and one stay two and one"


def test_weights_that_need_not_be_taught_are_not_waited_for() -> None:
    dispatcher = Dispatcher(1)
    dispatcher.spare({"a": frozenset({"w1"})})
    dispatcher.want([("a", task(TEACHER))])
    assert dispatcher.handle(Joined("agent-1")) == [Start("agent-1", "a", 1, ())]


def test_an_agent_that_could_not_adopt_weights_is_free_for_others() -> None:
    dispatcher = with_agents(1, {"a": task(TEACHER)})
    dispatcher.handle(Joined("agent-1"))
    assert dispatcher.handle(Joined("agent-2")) == [Teach("agent-2", TEACHER, DATA)]
    dispatcher.teaching_failed("agent-2")
    assert dispatcher.want([]) == [Teach("agent-2", TEACHER, DATA)], "it is asked again"
    dispatcher.handle(Ready("agent-2", "w1"))
    dispatcher.teaching_failed("agent-2")
    dispatcher.teaching_failed("nobody")
    assert dispatcher.handle(Ended("agent-1", "a", 1)) == [Accept("a")], "who teaches already is left alone"


def test_by_default_a_task_is_tried_three_times() -> None:
    dispatcher = with_agents(1, {"a": task()})
    dispatcher.handle(Joined("agent-1"))
    for attempt in (1, 2):
        assert dispatcher.handle(Failed("agent-1", "a", attempt, retryable=True)) == [Start("agent-1", "a", attempt + 1)]
    assert dispatcher.handle(Failed("agent-1", "a", 3, retryable=True)) == [GiveUp("a")]
