"""Who does what: events in, actions out."""

import re
from dataclasses import replace

import pytest
import torch

from agentkd.agents.blaming import as_reply
from agentkd.architecture import Architecture
from agentkd.coordinator.blame import FATAL
from agentkd.coordinator.dispatch import Dispatcher, retell
from agentkd.coordinator.events import (
    Accept,
    Action,
    Arrived,
    Cancel,
    Dismiss,
    Ended,
    Failed,
    GiveUp,
    Idle,
    Joined,
    Launch,
    Lost,
    Move,
    Ready,
    Start,
    Teach,
    TeachingFailed,
)
from agentkd.coordinator.state import GUEST_SLOT, Bench, Condition, Member, Running, State
from agentkd.coordinator.story import CHAPTER
from agentkd.errors import OutOfMemoryError
from agentkd.messages.bodies import TaskRequest
from agentkd.recipe import Distillation, Recipe
from agentkd.task import DataSource, Distill, Mutual, Partner, Task, TeacherReference, Train

DATA = DataSource(spec="s", content_digest="d")
ARCHITECTURE = Architecture(family="unet", num_classes=2)
TEACHER = TeacherReference(architecture=ARCHITECTURE, weights="w1")
OTHER = TeacherReference(architecture=ARCHITECTURE, weights="w2")


def task(*teachers: TeacherReference) -> Task:
    if not teachers:
        return Train(architecture=ARCHITECTURE, data=DATA)
    return Distill(architecture=ARCHITECTURE, data=DATA, teachers=teachers, distillation=Distillation())


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


def test_a_task_that_failed_somewhere_is_tried_elsewhere_and_there_again_if_there_is_nobody_else() -> None:
    dispatcher = with_agents(2, {"a": task()}, max_attempts=3)
    dispatcher.handle(Joined("agent-1"))
    assert dispatcher.handle(Failed("agent-1", "a", 1, retryable=True)) == [Start("agent-1", "a", 2)], "nobody else is here"
    dispatcher = with_agents(2, {"a": task(), "b": task(), "c": task()}, max_attempts=3)
    dispatcher.handle(Joined("agent-1"))
    dispatcher.handle(Joined("agent-2"))
    assert dispatcher.handle(Failed("agent-1", "a", 1, retryable=True)) == [Start("agent-1", "c", 1)], "a waits for the other one"
    assert dispatcher.handle(Ended("agent-2", "b", 1)) == [Accept("b"), Start("agent-2", "a", 2)]
    assert dispatcher.handle(Ended("agent-1", "c", 1)) == [Accept("c")]
    assert dispatcher.handle(Failed("agent-2", "a", 2, retryable=True)) == [Start("agent-1", "a", 3)], "it has failed at both"
    assert dispatcher.handle(Failed("agent-1", "a", 3, retryable=True)) == [GiveUp("a")]
    assert dispatcher.want([("a", task())]) == [Start("agent-1", "a", 4)], "who wants it again begins anew"
    dispatcher.check()


def test_a_teacher_is_prepared_while_a_lesson_that_failed_somewhere_waits_for_an_agent_elsewhere() -> None:
    dispatcher = Dispatcher(1, max_attempts=2)
    dispatcher.handle(Arrived("ann", teaches="w1", learns=False))
    assert dispatcher.want([("a", task(TEACHER))]) == [Launch("agent-1", "learning", 0)]
    assert dispatcher.handle(Arrived("bob", teaches="", learns=True)) == [Start("bob", "a", 1, (("w1", "ann"),))]
    assert dispatcher.handle(Failed("bob", "a", 1, retryable=True)) == [], "agent-1 will be here soon"
    assert dispatcher.handle(Arrived("ann", teaches="w2", learns=False)) == [Launch("agent-2", "teaching", 0)]
    dispatcher.check()
    assert dispatcher.handle(Joined("agent-2")) == [Teach("agent-2", TEACHER, DATA)]
    assert dispatcher.handle(Ready("agent-2", "w1")) == []
    assert dispatcher.handle(Joined("agent-1")) == [Start("agent-1", "a", 2, (("w1", "agent-2"),))]
    dispatcher.check()


def test_lessons_that_begin_at_once_are_shared_out_among_the_copies_of_their_teacher() -> None:
    dispatcher = Dispatcher(2, max_copies=2)
    dispatcher.handle(Arrived("tim", teaches="w1", learns=False))
    dispatcher.handle(Arrived("una", teaches="w1", learns=False))
    for name in ("ann", "bob"):
        dispatcher.handle(Arrived(name, teaches="", learns=True))
    actions = dispatcher.want([("a", task(TEACHER)), ("b", task(TEACHER))])
    assert [action.teachers for action in actions if isinstance(action, Start)] == [(("w1", "tim"),), (("w1", "una"),)]
    dispatcher.check()


def test_no_more_agents_are_started_than_there_is_work() -> None:
    dispatcher = Dispatcher(4)
    assert dispatcher.want([("a", task())]) == [Launch("agent-1", "learning", 0)]
    assert dispatcher.want([("a", task())]) == []


def test_a_task_of_a_lost_agent_goes_to_its_replacement_with_a_new_attempt() -> None:
    dispatcher = with_agents(1, {"a": task()})
    dispatcher.handle(Joined("agent-1"))
    assert dispatcher.handle(Lost("agent-1")) == [Launch("agent-2", "learning", 0)]
    assert dispatcher.handle(Joined("agent-2")) == [Start("agent-2", "a", 2)]


def test_a_result_of_an_earlier_attempt_is_void() -> None:
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


def test_what_surroundings_do_to_a_task_is_none_of_its_failures() -> None:
    dispatcher = with_agents(1, {"a": task()}, max_attempts=2, max_losses=3)
    dispatcher.handle(Joined("agent-1"))
    dispatcher.handle(Failed("agent-1", "a", 1, retryable=True))
    dispatcher.handle(Lost("agent-1"))
    assert dispatcher.handle(Joined("agent-2")) == [Start("agent-2", "a", 3)]
    assert dispatcher.handle(Failed("agent-2", "a", 3, retryable=True, is_fault=False)) == [Start("agent-2", "a", 4)]
    assert dispatcher.handle(Failed("agent-2", "a", 4, retryable=True)) == [GiveUp("a")], "it has failed twice"
    dispatcher.check()


def test_a_task_that_is_taken_from_its_agents_again_and_again_is_given_up_without_being_to_blame() -> None:
    dispatcher = with_agents(1, {"a": task()}, max_losses=3)
    names = iter(f"agent-{number}" for number in range(1, 9))

    def lose(**how: bool) -> list[Action]:
        name = next(names)
        dispatcher.handle(Joined(name))
        return dispatcher.handle(Lost(name, **how))

    lose()
    lose()
    assert lose(got_further=True) == [Launch("agent-4", "learning", 0)], "it is not in vain"
    lose()
    assert lose() == [GiveUp("a", is_fault=False)]
    assert dispatcher.want([("a", task())]) == [Launch("agent-6", "learning", 0)], "who wants it again tries again"
    lose()
    assert lose() == [Launch("agent-8", "learning", 0)]
    dispatcher.check()


def test_a_task_under_which_every_agent_crashes_is_to_blame() -> None:
    dispatcher = with_agents(1, {"a": task()}, max_attempts=2)
    dispatcher.handle(Joined("agent-1"))
    dispatcher.handle(Lost("agent-1", is_crash=True))
    dispatcher.handle(Joined("agent-2"))
    assert dispatcher.handle(Lost("agent-2", is_crash=True)) == [GiveUp("a")]


def test_a_lesson_starts_once_its_teacher_is_ready() -> None:
    dispatcher = with_agents(1, {"a": task(TEACHER)})
    assert dispatcher.handle(Joined("agent-1")) == [Launch("agent-2", "teaching", 0)]
    assert dispatcher.handle(Joined("agent-2")) == [Teach("agent-2", TEACHER, DATA)]
    assert dispatcher.handle(Ready("agent-2", "w9")) == [], "it was asked to teach others"
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


def test_what_failed_at_every_guest_is_given_to_an_agent_that_is_started_for_it() -> None:
    dispatcher = Dispatcher(1)
    dispatcher.handle(Arrived("ann", learns=True))
    dispatcher.handle(Arrived("bob", learns=True))
    assert dispatcher.want([("a", task())]) == [Start("ann", "a", 1)]
    assert dispatcher.handle(Failed("ann", "a", 1, retryable=True)) == [Start("bob", "a", 2)], "another guest comes first"
    assert dispatcher.handle(Failed("bob", "a", 2, retryable=True)) == [Launch("agent-1", "learning", 0)]
    assert dispatcher.handle(Joined("agent-1")) == [Start("agent-1", "a", 3)]
    nobody = Dispatcher(0)
    nobody.handle(Arrived("ann", learns=True))
    nobody.want([("a", task())])
    assert nobody.handle(Failed("ann", "a", 1, retryable=True)) == [Start("ann", "a", 2)], "there is nobody else"


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
    assert dispatcher.state.members["js"].weights == "w9", "a guest is not told to adopt other weights"


def test_a_guest_that_neither_learns_nor_teaches_gets_nothing_to_do() -> None:
    dispatcher = Dispatcher(0)
    dispatcher.want([("a", task())])
    assert dispatcher.handle(Arrived("ann", learns=False)) == [] and dispatcher.state.members == {}


def test_a_task_that_was_given_up_can_be_wanted_again_with_a_later_attempt() -> None:
    dispatcher = with_agents(1, {"a": task()}, max_attempts=2)
    dispatcher.handle(Joined("agent-1"))
    assert dispatcher.handle(Failed("agent-1", "a", 1, retryable=False)) == [GiveUp("a")]
    assert dispatcher.want([("a", task())]) == [Start("agent-1", "a", 2)]
    assert dispatcher.handle(Failed("agent-1", "a", 2, retryable=True)) == [Start("agent-1", "a", 3)]
    assert dispatcher.handle(Failed("agent-1", "a", 3, retryable=True)) == [GiveUp("a")]


def test_attempts_that_were_not_made_do_not_count_when_a_task_is_wanted_again() -> None:
    dispatcher = with_agents(1, {"a": task(TEACHER)}, max_attempts=1)
    dispatcher.handle(Joined("agent-1"))
    dispatcher.handle(Joined("agent-2"))
    assert dispatcher.handle(TeachingFailed("agent-2", retryable=False)) == [GiveUp("a", untaught="w1")]
    dispatcher.want([("a", task(TEACHER))])
    assert dispatcher.handle(Ready("agent-2", "w1")) == [Start("agent-1", "a", 1, (("w1", "agent-2"),))]
    assert dispatcher.handle(Failed("agent-1", "a", 1, retryable=True)) == [GiveUp("a")]


def test_an_agent_teaches_about_other_data_once_it_was_told_of_them() -> None:
    elsewhere = DataSource(spec="elsewhere", content_digest="e")
    lesson = Distill(architecture=ARCHITECTURE, data=elsewhere, teachers=(TEACHER,), distillation=Distillation())
    dispatcher = with_agents(2, {"a": task(TEACHER), "b": lesson})
    for event in (Joined("agent-1"), Joined("agent-2"), Joined("agent-3")):
        dispatcher.handle(event)
    assert dispatcher.handle(Ready("agent-3", "w1")) == [
        Start("agent-1", "a", 1, (("w1", "agent-3"),)),
        Teach("agent-3", TEACHER, elsewhere),
    ]
    assert dispatcher.handle(Ready("agent-3", "w1")) == [Start("agent-2", "b", 1, (("w1", "agent-3"),))]


def test_one_teacher_is_started_for_weights_that_lack_one_whatever_others_are_taught() -> None:
    dispatcher = Dispatcher(3)
    dispatcher.want([("a", task(TEACHER))])
    for event in (Joined("agent-1"), Joined("agent-2"), Ready("agent-2", "w1")):
        dispatcher.handle(event)
    dispatcher.want([("b", task(OTHER))])
    assert dispatcher.handle(Joined("agent-3")) == [Launch("agent-4", "teaching", 1)]


def test_who_learned_what_a_guest_taught_before_is_no_student_of_it_any_more() -> None:
    lessons = {key: task(TeacherReference(architecture=None, weights=weights)) for key, weights in (("a", "w8"), ("b", "w9"))}
    dispatcher = with_agents(2, lessons)
    for event in (Joined("agent-1"), Joined("agent-2"), Arrived("tim", learns=False, teaches="w8")):
        dispatcher.handle(event)
    assert dispatcher.handle(Arrived("tim", learns=False, teaches="w9")) == [Start("agent-2", "b", 1, (("w9", "tim"),))]
    assert dispatcher.handle(Arrived("ann", learns=False, teaches="w9")) == []
    dispatcher.check()


def test_a_teacher_beside_a_lost_student_does_not_take_its_place() -> None:
    dispatcher = with_agents(1, {"a": task(TEACHER)})
    assert dispatcher.handle(Joined("agent-1")) == [Launch("agent-2", "teaching", 0)]
    assert dispatcher.handle(Lost("agent-1")) == [Launch("agent-3", "learning", 0)]


def test_who_is_ready_to_teach_in_an_ensemble_is_not_taken_for_another_teacher_of_it() -> None:
    dispatcher = with_agents(1, {"a": task(TEACHER, OTHER)})
    dispatcher.handle(Joined("agent-1"))
    assert dispatcher.handle(Joined("agent-2")) == [Teach("agent-2", TEACHER, DATA)]
    assert dispatcher.handle(Ready("agent-2", "w1")) == []
    assert dispatcher.handle(Joined("agent-3")) == [Teach("agent-3", OTHER, DATA)]


def test_while_somebody_adopts_what_nobody_needs_any_more_no_other_is_started_beside_it() -> None:
    dispatcher = with_agents(1, {"a": task(TEACHER), "b": task(OTHER)})
    dispatcher.handle(Joined("agent-1"))
    assert dispatcher.handle(Joined("agent-2")) == [Teach("agent-2", TEACHER, DATA)]
    assert dispatcher.spare({"a": frozenset({"w1"})}) == [Start("agent-1", "a", 1)]
    assert dispatcher.handle(Ended("agent-1", "a", 1)) == [Accept("a")]
    assert dispatcher.handle(Ready("agent-2", "w1")) == [Teach("agent-2", OTHER, DATA)]


def cohort() -> dict[str, Task]:
    """Two students that teach each other, by digest."""
    first = Mutual(
        architecture=ARCHITECTURE,
        data=DATA,
        seed=1,
        distillation=Distillation(),
        partners=(Partner(architecture=ARCHITECTURE, recipe=Recipe(), seed=2),),
    )
    (second,) = first.partner_tasks()
    assert second.partner_tasks() == (first,)
    return {first.key: first, second.key: second}


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


def test_a_student_of_a_cohort_that_failed_somewhere_begins_again_elsewhere() -> None:
    tasks = cohort()
    a, b = tasks
    dispatcher = with_agents(2, tasks)
    for number in (1, 2):
        dispatcher.handle(Joined(f"agent-{number}"))
    assert dispatcher.handle(Arrived("guest", learns=True, teaches="")) == []
    again = dispatcher.handle(Failed("agent-1", a, 1, retryable=True))
    assert Start("guest", a, 2, ((b, "agent-2"),)) in again
    dispatcher.check()


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
    ], "both agents are free again, and the attempts go on"


@pytest.mark.parametrize("error", [MemoryError("host"), torch.OutOfMemoryError("device")])
def test_too_little_memory_is_told_as_such_and_tried_again_before_it_is_given_up(error: Exception) -> None:
    request = TaskRequest(task=task(), attempt=1)
    told = as_reply(error, request)
    assert told.code == OutOfMemoryError.code and told.code not in FATAL and told.task == request.key
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


def test_a_student_of_a_cohort_that_was_given_up_is_not_tried_again_when_its_agent_is_lost() -> None:
    tasks = cohort()
    a, b = tasks
    dispatcher = with_agents(2, {**tasks, "later": task()}, max_attempts=2)
    dispatcher.handle(Joined("agent-1"))
    dispatcher.handle(Joined("agent-2"))
    given_up = dispatcher.handle(Failed("agent-1", a, 1, retryable=False))
    assert given_up == [GiveUp(a), Cancel("agent-2", b, 1), GiveUp(b, because=a), Start("agent-1", "later", 1)]
    assert dispatcher.handle(Lost("agent-2")) == [], "nobody wants what it was doing"
    assert dispatcher.handle(Ended("agent-1", "later", 1)) == [Accept("later")]
    dispatcher.check()


def test_an_agent_that_is_lost_with_a_task_called_off_does_not_take_it_from_whoever_has_it_now() -> None:
    tasks = cohort()
    a, b = tasks
    dispatcher = Dispatcher(0, max_attempts=3)
    dispatcher.want(tasks.items())
    for name in ("ann", "bob"):
        dispatcher.handle(Arrived(name, learns=True))
    dispatcher.handle(Failed("ann", a, 1, retryable=False))
    dispatcher.handle(Arrived("cem", learns=True))
    assert dispatcher.want(tasks.items()) == [Start("ann", a, 2, ((b, "cem"),)), Start("cem", b, 2, ((a, "ann"),))]
    assert dispatcher.handle(Lost("bob")) == []
    assert dispatcher.state.running[b].agent == "cem"
    dispatcher.check()


def test_a_second_greeting_of_a_busy_agent_leaves_it_busy() -> None:
    dispatcher = with_agents(1, {"a": task(), "b": task()})
    dispatcher.handle(Joined("agent-1"))
    assert dispatcher.handle(Joined("agent-1")) == []
    dispatcher.check()


def test_students_of_a_cohort_that_are_wanted_apart_hear_of_each_other() -> None:
    (a, first), (b, second) = cohort().items()
    dispatcher = Dispatcher(2)
    dispatcher.want([(a, first)])
    dispatcher.handle(Joined("agent-1"))
    assert dispatcher.want([(b, second)]) == [Launch("agent-2", "learning", 1)]
    assert dispatcher.handle(Joined("agent-2")) == [Start("agent-2", b, 1, ((a, "agent-1"),)), Move("agent-1", b, "agent-2")]
    assert dispatcher.handle(Ended("agent-1", a, 1)) == []
    assert dispatcher.handle(Ended("agent-2", b, 1)) == [Accept(b), Accept(a)]


def test_the_rest_of_a_cohort_does_not_wait_for_those_accepted_in_an_earlier_session() -> None:
    (_, _), (b, second) = cohort().items()
    dispatcher = with_agents(1, {b: second})
    assert dispatcher.handle(Joined("agent-1")) == [Start("agent-1", b, 1)]
    assert dispatcher.handle(Ended("agent-1", b, 1)) == [Accept(b)]


def test_of_a_cohort_of_which_somebody_is_done_the_rest_is_given_up_together() -> None:
    partners = sorted(
        (Partner(architecture=ARCHITECTURE, recipe=Recipe(), seed=seed) for seed in (2, 3)), key=lambda one: one.digest
    )
    first = Mutual(architecture=ARCHITECTURE, data=DATA, seed=1, distillation=Distillation(), partners=tuple(partners))
    _, third = first.partner_tasks()
    dispatcher = with_agents(2, {first.key: first, third.key: third}, max_attempts=1)
    dispatcher.handle(Joined("agent-1"))
    dispatcher.handle(Joined("agent-2"))
    assert dispatcher.handle(Lost("agent-1", is_crash=True))[:3] == [
        GiveUp(first.key),
        Cancel("agent-2", third.key, 1),
        GiveUp(third.key, because=first.key),
    ]


def test_a_cohort_for_which_there_are_too_few_agents_lets_others_pass() -> None:
    dispatcher = with_agents(1, {**cohort(), "later": task()})
    assert dispatcher.handle(Joined("agent-1")) == [Start("agent-1", "later", 1)]
    dispatcher.handle(Ended("agent-1", "later", 1))
    starts = dispatcher.handle(Arrived("ann", learns=True))
    assert [action.agent for action in starts if isinstance(action, Start)] == ["agent-1", "ann"], "guests are enough"


def test_a_guest_that_teaches_does_not_stand_in_the_way_of_another_teacher() -> None:
    dispatcher = with_agents(1, {"a": task(TEACHER)})
    dispatcher.handle(Arrived("js", learns=False, teaches="w9"))
    assert dispatcher.handle(Joined("agent-1")) == [Launch("agent-2", "teaching", 0)]


def test_a_lesson_that_lacks_what_only_a_guest_has_is_not_prepared_before_the_guest_comes() -> None:
    foreign = TeacherReference(architecture=None, weights="w9")
    dispatcher = with_agents(1, {"a": task(foreign, TEACHER)})
    assert dispatcher.handle(Joined("agent-1")) == []
    assert dispatcher.handle(Arrived("js", learns=False, teaches="w9")) == [Launch("agent-2", "teaching", 0)]
    dispatcher.check()


def test_teachers_are_started_for_as_many_lessons_as_there_are_free_agents() -> None:
    weights = [f"w{number}" for number in range(20)]
    dispatcher = with_agents(1, {w: task(TeacherReference(architecture=ARCHITECTURE, weights=w)) for w in weights})
    assert dispatcher.handle(Joined("agent-1")) == [Launch("agent-2", "teaching", 0)], "one, and not twenty"


def test_a_copy_that_is_no_longer_needed_teaches_something_else() -> None:
    dispatcher = Dispatcher(2, max_copies=2)
    dispatcher.want([("a", task(TEACHER)), ("b", task(TEACHER)), ("c", task(OTHER))])
    for number in (1, 2, 3, 4):
        dispatcher.handle(Joined(f"agent-{number}"))
    dispatcher.handle(Ready("agent-3", "w1"))
    assert dispatcher.handle(Ready("agent-4", "w1")) == [Move("agent-1", "w1", "agent-4")]
    assert dispatcher.handle(Ended("agent-1", "a", 1)) == [Accept("a"), Teach("agent-4", OTHER, DATA)]
    dispatcher.check()


def test_students_stay_where_they_are_when_nothing_changes() -> None:
    dispatcher = Dispatcher(3, max_copies=2)
    dispatcher.want((name, task(TEACHER)) for name in "abc")
    for number in range(1, 6):
        dispatcher.handle(Joined(f"agent-{number}"))
    dispatcher.handle(Ready("agent-4", "w1"))
    dispatcher.handle(Ready("agent-5", "w1"))
    shared = dispatcher.students()
    assert sorted(len(students) for students in shared.values()) == [1, 2]
    for event in (Joined("agent-1"), Ended("nobody", "a", 1), Ready("agent-4", "w1"), Ended("agent-1", "a", 9)):
        assert dispatcher.handle(event) == [] and dispatcher.students() == shared
    dispatcher.check()


def test_a_guest_that_comes_back_with_other_weights_shares_their_students_at_once() -> None:
    foreign = TeacherReference(architecture=None, weights="w9")
    dispatcher = with_agents(2, {"a": task(TEACHER), "b": task(TEACHER, foreign)})
    for name, weights in (("una", "w1"), ("tim", "w9"), ("ann", "w9")):
        dispatcher.handle(Arrived(name, learns=False, teaches=weights))
    dispatcher.handle(Joined("agent-1"))
    assert dispatcher.handle(Joined("agent-2")) == [Start("agent-2", "b", 1, (("w1", "una"), ("w9", "tim")))]
    assert dispatcher.handle(Arrived("tim", learns=False, teaches="w1")) == [
        Move("agent-1", "w1", "tim"),
        Move("agent-2", "w9", "ann"),
    ], "whoever learned something else from it does not count"
    dispatcher.check()


def test_weights_that_could_not_be_adopted_are_tried_again_at_once_and_their_students_given_up_in_the_end() -> None:
    dispatcher = with_agents(1, {"a": task(TEACHER), "b": task()}, max_attempts=2)
    dispatcher.handle(Joined("agent-1"))
    assert dispatcher.state.running.keys() == {"b"}
    dispatcher.handle(Joined("agent-2"))
    assert dispatcher.handle(Ended("agent-1", "b", 1)) == [Accept("b"), Teach("agent-2", TEACHER, DATA)]
    assert dispatcher.handle(TeachingFailed("agent-2", retryable=True)) == [Teach("agent-2", TEACHER, DATA)]
    assert dispatcher.handle(TeachingFailed("agent-2", retryable=True)) == [GiveUp("a", untaught="w1")]
    assert dispatcher.want([("a", task(TEACHER))]) == [Teach("agent-2", TEACHER, DATA)], "who wants it again tries again"
    assert dispatcher.handle(Ready("agent-2", "w1")) == [Start("agent-1", "a", 1, (("w1", "agent-2"),))]


def test_weights_that_surroundings_kept_from_being_adopted_are_no_failure_of_their_students() -> None:
    dispatcher = with_agents(1, {"a": task(TEACHER)}, max_attempts=1, max_losses=2)
    dispatcher.handle(Joined("agent-1"))
    dispatcher.handle(Joined("agent-2"))
    hindered = TeachingFailed("agent-2", retryable=True, is_fault=False)
    assert dispatcher.handle(hindered) == [Teach("agent-2", TEACHER, DATA)]
    assert dispatcher.handle(hindered) == [GiveUp("a", untaught="w1", is_fault=False)]
    assert dispatcher.want([("a", task(TEACHER))]) == [Teach("agent-2", TEACHER, DATA)]
    assert dispatcher.handle(hindered) == [Teach("agent-2", TEACHER, DATA)], "that is forgotten then"
    dispatcher.check()


def test_weights_that_an_agent_refuses_to_read_about_are_not_tried_again() -> None:
    dispatcher = with_agents(1, {"a": task(TEACHER)})
    dispatcher.handle(Joined("agent-1"))
    dispatcher.handle(Joined("agent-2"))
    assert dispatcher.handle(TeachingFailed("agent-2", retryable=False)) == [GiveUp("a", untaught="w1")]


def test_a_student_that_comes_back_to_a_teacher_that_nobody_can_replace_is_given_up() -> None:
    dispatcher = with_agents(1, {"a": task(TEACHER)}, max_attempts=3)
    for event in (Joined("agent-1"), Joined("agent-2"), Ready("agent-2", "w1"), Lost("agent-2"), Joined("agent-3")):
        dispatcher.handle(event)
    assert dispatcher.handle(TeachingFailed("agent-3", retryable=False)) == [], "it may do without the rest of the lesson"
    assert dispatcher.handle(Failed("agent-1", "a", 1, retryable=True)) == [GiveUp("a", untaught="w1")]


def test_a_task_whose_agent_says_for_long_that_it_is_idle_is_tried_again() -> None:
    dispatcher = with_agents(1, {"a": task()}, max_losses=2)
    assert dispatcher.handle(Idle("agent-1")) == [], "it is only starting"
    dispatcher.handle(Joined("agent-1"))
    assert dispatcher.handle(Idle("agent-1")) == [Cancel("agent-1", "a", 1), Start("agent-1", "a", 2)]
    assert dispatcher.handle(Failed("agent-1", "a", 1, retryable=True)) == [], "the answer to the cancellation"
    assert dispatcher.handle(Idle("agent-1")) == [Cancel("agent-1", "a", 2), GiveUp("a", is_fault=False)]
    assert dispatcher.handle(Idle("agent-1")) == [], "and so it is"


def test_an_agent_that_is_idle_after_its_task_was_called_off_is_free() -> None:
    tasks = cohort()
    dispatcher = with_agents(2, tasks)
    dispatcher.handle(Joined("agent-1"))
    dispatcher.handle(Joined("agent-2"))
    dispatcher.handle(Failed("agent-1", next(iter(tasks)), 1, retryable=False))
    dispatcher.want([("later", task()), ("last", task())])
    assert dispatcher.handle(Idle("agent-2")) == [Start("agent-2", "last", 1)]


def test_an_agent_that_is_idle_instead_of_adopting_is_asked_again() -> None:
    dispatcher = with_agents(1, {"a": task(TEACHER)})
    dispatcher.handle(Joined("agent-1"))
    dispatcher.handle(Joined("agent-2"))
    assert dispatcher.handle(Idle("agent-2")) == [Teach("agent-2", TEACHER, DATA)]


def test_a_lesson_starts_once_its_teacher_need_not_be_there() -> None:
    foreign = TeacherReference(architecture=None, weights="w9")
    dispatcher = with_agents(1, {"a": task(foreign)})
    assert dispatcher.handle(Joined("agent-1")) == []
    assert dispatcher.spare({"a": frozenset({"w9"})}) == [Start("agent-1", "a", 1)]
    assert dispatcher.spare({"a": frozenset({"w9"})}) == []


def test_a_story_can_be_read_and_told_again() -> None:
    dispatcher = with_agents(1, {"a" * 64: task(TEACHER)})
    dispatcher.handle(Joined("agent-1"))
    dispatcher.handle(Joined("agent-2"))
    story = dispatcher.story()
    assert str(story).splitlines() == [
        "Wanted(((aaaaaaaaaaaa, distill))) -> Launch(agent-1, learning, 0)",
        "Joined(agent-1) -> Launch(agent-2, teaching, 0)",
        "Joined(agent-2) -> Teach(agent-2, w1, s)",
    ]
    again = retell(story)
    assert again.story() == story and again.state == dispatcher.state
    assert again.handle(Ready("agent-2", "w1")) == dispatcher.handle(Ready("agent-2", "w1")) != []


def test_a_story_tells_of_what_need_not_be_taught() -> None:
    dispatcher = Dispatcher(0)
    dispatcher.spare({"k" * 64: frozenset({"w" * 64})})
    assert str(dispatcher.story()) == f"Spared(({'k' * 12}: ({'w' * 12}))) -> nothing"


def test_of_a_long_story_the_beginning_is_forgotten_and_the_rest_can_still_be_told_again() -> None:
    dispatcher = Dispatcher(0)
    for number in range(3 * CHAPTER):
        dispatcher.want([(str(number), task())])
        dispatcher.handle(Arrived("ann", learns=True))
    story = dispatcher.story()
    assert CHAPTER <= len(story.told) <= 2 * CHAPTER
    again = retell(story)
    assert again.state == dispatcher.state and again.story() == story


def corrupt(state: State, what: str) -> None:
    """A state in which one thing is wrong."""
    member, running = state.members["agent-1"], state.running["a"]
    if what == "runs at agent-1, who is idle":
        member.condition, member.task = Condition.IDLE, ""
    elif what == "is idle and has the task":
        state.members["ann"] = Member("ann", Bench.LEARNING, GUEST_SLOT, Condition.IDLE, "b")
    elif what == "on the bench of teachers":
        member.bench = Bench.TEACHING
    elif what == "on the bench of learners":
        state.members["agent-3"].bench, state.members["agent-3"].slot = Bench.LEARNING, 1
    elif what == "is teaching and has the weights ''":
        state.members["agent-3"].weights = ""
    elif what == "about 0 datasets":
        state.members["agent-3"].data = ()
    elif what == "the guest agent-3 is adopting":
        state.members["agent-3"].slot, state.members["agent-3"].condition = GUEST_SLOT, Condition.ADOPTING
    elif what == "2 learning agents have slot 0":
        state.members["agent-2"].slot = 0
    elif what == "has slot 2 of 2":
        member.slot = 2
    elif what == "2 agents teach w1, more than 1":
        state.members["copy"] = replace(state.members["agent-3"], name="copy")
    elif what == "a is ['waiting', 'running']":
        state.waiting["a"] = state.tasks["a"]
    elif what == "is ['running'] and not known":
        del state.tasks["b"]
    elif what == "z is nowhere":
        state.tasks["z"] = task()
    elif what == "c waits after 3 attempts":
        state.attempts["c"] = 3
    elif what == "so has everybody whom it waits for":
        state.ended["e"], state.tasks["e"], state.cohorts["e"] = "agent-1", task(), ("e",)
    elif what == "who is gone":
        del state.members["agent-1"]
    elif what == "a runs in attempt 1 after 2 attempts":
        state.attempts["a"] = 2
    elif what == "a runs in attempt 1 after 0 attempts, of which 0 do not count":
        del state.attempts["a"]
    elif what == "which it does not name":
        running.teachers["w2"] = "agent-3"
    elif what == "who does not teach w1 any more":
        running.teachers["w1"] = "agent-2"
    elif what == "who has 2 students":
        state.max_copies = 2
        state.members["copy"] = replace(state.members["agent-3"], name="copy")
    elif what == "and it runs at":
        state.tasks |= cohort()
        first, second = cohort()
        state.cohorts |= {first: (first, second), second: (second, first)}
        state.running[first] = Running("agent-1", 1, {second: "agent-1"})
        state.running[second] = Running("agent-2", 1, {first: "agent-2"})
        state.attempts |= {first: 1, second: 1}
    elif what == "c waits for w2, and nobody is to teach it":
        state.members["ann"] = Member("ann", Bench.LEARNING, GUEST_SLOT, Condition.IDLE)
    elif what == "c waits for w2, tried too often":
        state.unadopted["w2"] = 3
    else:
        assert what == "it would be decided: Start"
        state.waiting = {"d": task(), **state.waiting}
        state.tasks["d"] = state.waiting["d"]
        state.cohorts["d"] = ("d",)
        state.members["ann"] = Member("ann", Bench.LEARNING, GUEST_SLOT, Condition.IDLE)


@pytest.mark.parametrize(
    "what",
    [
        "runs at agent-1, who is idle",
        "is idle and has the task",
        "on the bench of teachers",
        "on the bench of learners",
        "is teaching and has the weights ''",
        "about 0 datasets",
        "the guest agent-3 is adopting",
        "2 learning agents have slot 0",
        "has slot 2 of 2",
        "2 agents teach w1, more than 1",
        "a is ['waiting', 'running']",
        "is ['running'] and not known",
        "z is nowhere",
        "c waits after 3 attempts",
        "so has everybody whom it waits for",
        "who is gone",
        "a runs in attempt 1 after 2 attempts",
        "a runs in attempt 1 after 0 attempts, of which 0 do not count",
        "which it does not name",
        "who does not teach w1 any more",
        "who has 2 students",
        "and it runs at",
        "c waits for w2, and nobody is to teach it",
        "c waits for w2, tried too often",
        "it would be decided: Start",
    ],
)
def test_a_state_that_cannot_be_is_named(what: str) -> None:
    dispatcher = Dispatcher(2)
    dispatcher.want([("a", task(TEACHER)), ("b", task(TEACHER)), ("c", task(OTHER))])
    for event in (Joined("agent-1"), Joined("agent-2"), Joined("agent-3"), Ready("agent-3", "w1")):
        dispatcher.handle(event)
    assert dispatcher.state.running.keys() == {"a", "b"}
    dispatcher.check()
    corrupt(dispatcher.state, what)
    with pytest.raises(AssertionError, match=re.escape(what)):
        dispatcher.check()


def test_by_default_a_task_is_tried_three_times() -> None:
    dispatcher = with_agents(1, {"a": task()})
    dispatcher.handle(Joined("agent-1"))
    for attempt in (1, 2):
        assert dispatcher.handle(Failed("agent-1", "a", attempt, retryable=True)) == [Start("agent-1", "a", attempt + 1)]
    assert dispatcher.handle(Failed("agent-1", "a", 3, retryable=True)) == [GiveUp("a")]


OWN = Architecture(family="mine:net", num_classes=2, code="c" * 64)


def test_who_has_run_own_code_is_ended_and_the_next_task_has_an_agent_that_has_not() -> None:
    own, plain = Train(architecture=OWN, data=DATA), task()
    dispatcher = with_agents(1, {"a": own, "b": plain})
    assert dispatcher.handle(Joined("agent-1")) == [Start("agent-1", "a", 1)]
    assert dispatcher.handle(Ended("agent-1", "a", 1)) == [Accept("a"), Dismiss("agent-1"), Launch("agent-2", "learning", 0)]
    assert dispatcher.handle(Joined("agent-2")) == [Start("agent-2", "b", 1)]
    assert dispatcher.handle(Ended("agent-2", "b", 1)) == [Accept("b")], "who has not may go on"
    dispatcher.check()


@pytest.mark.parametrize("end", [Failed("agent-1", "a", 1, retryable=True), Idle("agent-1")])
def test_so_is_who_failed_at_it_or_does_not_do_it(end: Failed | Idle) -> None:
    dispatcher = with_agents(1, {"a": Train(architecture=OWN, data=DATA)})
    dispatcher.handle(Joined("agent-1"))
    assert dispatcher.handle(end)[-2:] == [Dismiss("agent-1"), Launch("agent-2", "learning", 0)]
    assert dispatcher.handle(Joined("agent-2")) == [Start("agent-2", "a", 2)]


def test_a_guest_that_has_run_own_code_stays() -> None:
    dispatcher = Dispatcher(0)
    dispatcher.handle(Arrived("ann", learns=True))
    assert dispatcher.want([("a", Train(architecture=OWN, data=DATA)), ("b", task())]) == [Start("ann", "a", 1)]
    assert dispatcher.handle(Ended("ann", "a", 1)) == [Accept("a"), Start("ann", "b", 1)]
