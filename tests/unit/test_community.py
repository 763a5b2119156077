"""What a script's calls become as tasks, without any process."""

import shlex
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from noting import Recording

from agentkd.artifacts.run_folder import RunFolder
from agentkd.community.community import Community
from agentkd.community.futures import Derived, Lesson
from agentkd.community.handles import AgentHandle
from agentkd.community.mutual import mutual
from agentkd.errors import ChannelClosedError, ConfigError, ContractError, TrainingError
from agentkd.launch.launcher import Contact
from agentkd.messages.bodies import TaskProgressEvent
from agentkd.task import Status, TaskResult


@pytest.fixture
def community() -> Recording:
    return Recording()


def handle(community: Recording, name: str) -> AgentHandle:
    return AgentHandle(community, name, "unet", num_classes=5)


def test_training_goes_on_from_the_newest_weights(community: Recording) -> None:
    agent = handle(community, "a")
    agent.train("s", epochs=1)
    agent.train("s", epochs=2)
    assert [task.initial_weights for task in community.tasks] == ["", "w1"]
    assert [task.recipe.optimizer for task in community.tasks] == ["adamw", "adamw"]


@pytest.mark.parametrize(("start", "initial"), [("own", "w2"), ("scratch", ""), ("inherit", "")])
def test_a_student_starts_where_the_distillation_says(community: Recording, start: str, initial: str) -> None:
    teacher, student = handle(community, "t"), handle(community, "s")
    teacher.train("s")
    student.train("s")
    student.distill(teacher, "s", start=start)
    task = community.tasks[-1]
    assert (task.kind, task.initial_weights, task.teachers[0].weights) == ("distill", initial, "w1")


def test_networks_of_different_names_have_different_seeds_and_the_same_views(community: Recording) -> None:
    for name in "ab":
        handle(community, name).train("s")
    first, second = community.tasks
    assert first.seed != second.seed and first.view_seed == second.view_seed


def test_an_evaluation_names_the_split(community: Recording) -> None:
    agent = handle(community, "a")
    agent.train("s")
    agent.evaluate("s", split="exam")
    assert (community.tasks[-1].data.validation, community.tasks[-1].initial_weights) == ("exam", "w1")


def test_an_invitation_can_be_pasted_whatever_the_key(tmp_path) -> None:
    community, key = Community(devices="cpu:1", record=tmp_path), "-$(k)!&" + "k" * 33
    community._works = SimpleNamespace(
        agents=SimpleNamespace(contact=Contact(("ipc:///a b", "tcp://127.0.0.1:5555"), key, "auto", 30, 1)),
        start=lambda: None,
        close=lambda: None,
    )
    assert shlex.split(community.invitation) == ["--join=ipc:///a b", "--join=tcp://127.0.0.1:5555", f"--coordinator-key={key}"]


def test_a_closed_community_says_so(tmp_path) -> None:
    for name, is_used in (("never", False), ("used", True)):
        community = Community(devices="none", record=tmp_path / name)
        if is_used:
            community.start()
        community.close()
        with pytest.raises(ChannelClosedError, match="with-block"):
            community.agent("a", "unet", num_classes=5).train("generated:seed=1,size=32x32,train=8")


def test_without_a_block_it_begins_when_something_is_asked_and_ends_when_it_is_told(tmp_path) -> None:
    community = Community(devices="none", record=tmp_path)
    assert "closed" in repr(community)
    lesson = community.agent("a", "unet", num_classes=5).train("generated:seed=1,size=32x32,train=8")
    assert "open" in repr(community) and not lesson.done()
    with community:  # what has begun may be closed by a block
        pass
    with pytest.raises(ChannelClosedError):
        lesson.result(timeout=60)


SCRIPT = """
import agentkd
community = agentkd.Community(devices="none", record="kept")
community.agent("a", "unet", num_classes=5).train("generated:seed=1,size=32x32,train=8")
print(community, community.invitation)
"""


def test_a_community_that_nobody_closes_ends_with_its_process(tmp_path) -> None:
    ended = subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0 and not ended.stderr and "open" in ended.stdout, ended
    assert not (tmp_path / "kept" / "community.json").exists() and not RunFolder(tmp_path / "kept").contact.exists()
    with Community(devices="none", record=tmp_path / "kept"):
        pass  # its lock is free


def test_progress_ends_with_the_task_and_can_be_read_again() -> None:
    lesson = Lesson()
    events = [TaskProgressEvent(task="ab" * 32, attempt=1, step=step, steps=2, loss=0.5) for step in (1, 2)]
    for event in events:
        lesson.note(event)
    lesson.set_result(TaskResult(status=Status.COMPLETED))
    assert list(lesson.progress()) == events and list(lesson.progress()) == []


def test_progress_ends_with_a_failed_task_too() -> None:
    lesson = Lesson()
    lesson.set_exception(TrainingError("no"))
    assert list(lesson.progress()) == []
    with pytest.raises(TrainingError):
        lesson.result()


def test_what_is_made_of_a_future_has_its_errors() -> None:
    given: Future[int] = Future()
    doubled, broken = Derived(given, lambda value: 2 * value), Derived(given, lambda value: 1 // 0)
    assert not doubled.done()
    with pytest.raises(TimeoutError):
        doubled.result(timeout=0)
    given.set_result(4)
    assert doubled.result() == 8
    with pytest.raises(ZeroDivisionError):
        broken.result()


def test_a_refused_lesson_leaves_a_network_as_it_was(community: Recording) -> None:
    teacher, student = handle(community, "t"), handle(community, "s")
    teacher.train("s")
    teacher.classes = ("E",)
    with pytest.raises(ContractError):
        student.distill(teacher, "s")
    assert student.classes == () and student.weights == ""


def test_averages_are_of_networks_that_belong_together(community: Recording) -> None:
    a, b = handle(community, "a"), handle(community, "b")
    a.train("s")
    b.train("s")
    with pytest.raises(ConfigError, match="needs networks"):
        a.average([])
    b.classes = ("E",)
    with pytest.raises(ContractError, match="classes"):
        a.average([a, b])


def test_a_budget_of_divergence_is_part_of_the_task(community: Recording) -> None:
    teacher, student = handle(community, "t"), handle(community, "s")
    teacher.train("s")
    student.distill(teacher, "s", codec="auto", max_kl=1e-3)
    assert community.tasks[-1].distillation.max_kl == 1e-3


def test_a_network_takes_its_number_of_classes_from_the_first_data_it_meets(community: Recording) -> None:
    agent = AgentHandle(community, "a", "unet")
    with pytest.raises(ConfigError, match="number of classes"):
        agent.architecture  # noqa: B018
    agent.train("s")
    assert agent.architecture.num_classes == 5


def test_shares_of_teachers_are_part_of_the_task(community: Recording) -> None:
    a, b, student = (handle(community, name) for name in "abs")
    a.train("s")
    b.train("s")
    student.distill([a, b], "s", shares=[1, 3])
    assert [teacher.share for teacher in community.tasks[-1].teachers] == [1.0, 3.0]
    with pytest.raises(ConfigError, match="one for each"):
        student.distill([a, b], "s", shares=[1])


def test_other_classes_are_refused_by_name_unless_a_map_says_which_is_which(community: Recording) -> None:
    teacher, student = handle(community, "t"), handle(community, "s")
    teacher.train("s")
    teacher.classes = ("E", "D", "C", "B", "A")
    with pytest.raises(ContractError, match="classes"):
        student.distill(teacher, "s")
    with pytest.raises(ContractError, match="class_map"):
        student.distill(teacher, "s", class_map={"a": "A"})
    student.distill(teacher, "s", class_map={name: name.upper() for name in "abcde"})
    assert community.tasks[-1].teachers[0].class_order == (4, 3, 2, 1, 0)


def test_an_untrained_network_cannot_teach_or_be_looked_at(community: Recording) -> None:
    student, teacher = handle(community, "s"), handle(community, "t")
    for act in (lambda: student.distill(teacher, "s"), lambda: teacher.assess("s"), lambda: teacher.evaluate("s")):
        with pytest.raises(ConfigError, match="no weights yet"):
            act()


def test_new_kinds_of_tasks_leave_the_digests_of_others_alone(community: Recording) -> None:
    handle(community, "a").train("s")
    assert not {"home", "views", "taps", "partners", "consolidation"} & set(community.tasks[0].canonical())


def test_a_setting_that_is_not_one_is_refused_with_the_one_that_was_meant_or_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"record_lesson: unknown key; did you mean 'record_lessons'"):
        Community(devices="cpu:1", record_lesson=True)
    with pytest.raises(ConfigError, match=r"wibble: unknown key; known: .*record_lessons"):
        Community(devices="cpu:1", wibble=True)


def test_a_mistaken_recipe_or_distillation_is_told_with_all_its_problems_and_nothing_is_begun(community: Recording) -> None:
    student, teacher = handle(community, "a"), handle(community, "b")
    teacher.train("s")
    with pytest.raises(ConfigError, match=r"(?s)a: 2 problems.*batch_size: .*found 0.*epoch: unknown key; did you mean 'epochs'"):
        student.train("s", epoch=3, batch_size=0)
    with pytest.raises(ConfigError, match=r"(?s)a\.distill: 2 problems.*alpha: .*found 3.*codec: .*'float16'.*found 'zip'"):
        student.distill(teacher, "s", alpha=3, codec="zip")
    with pytest.raises(ConfigError, match=r"alpha: .*found 3"):
        mutual(student, teacher, data="s", alpha=3)
    assert len(community.tasks) == 1 and student.weights == ""


def test_teachers_are_measured_in_the_same_validation_as_their_student(community: Recording) -> None:
    student, teacher = handle(community, "student"), handle(community, "teacher")
    teacher.train("data", epochs=1).result()
    lesson = student.distill(teacher, "data", epochs=1)
    assert len(community.tasks) == 2, "nothing is measured unless somebody asks"
    assert lesson.teacher_miou() == [0.0]
    lesson_task, measured = community.tasks[1:]
    assert (measured.kind, measured.initial_weights, measured.data) == ("evaluate", teacher.weights, lesson_task.data)


@pytest.mark.parametrize("shares", [[1, -1], [1, 0], [float("nan"), 1], [float("inf"), 1], [1, "2"], [10**400, 1]])
def test_a_share_that_is_no_weight_is_refused_before_anything_begins(shares: list[Any]) -> None:
    community = Recording()
    student, *others = (AgentHandle(community, name, "unet") for name in "abc")
    for other in others:
        other.train("s")
    begun = len(community.tasks)
    for call in (lambda: student.average(others, shares=shares), lambda: student.distill(others, "s", shares=shares)):
        with pytest.raises(ConfigError, match="a share is"):
            call()
    assert len(community.tasks) == begun


@pytest.mark.parametrize(
    ("route", "told"),
    [
        ("tile", "route 'tile': there are shares, tiles, classes"),
        ([(0,)], "parts for 1 of 2 teachers"),
        ([(0,), (1,), (2,)], "parts for 3 of 2 teachers"),
        ([(0,), ()], "give each one"),
        ([(0,), (1,)], "the data have 3"),
        ([(0, 1), (1, 2)], "each of them once"),
        ([(0, 1), (2, 3)], "the data have 3"),
        (None, "route is None"),
        (0.5, "route is 0.5"),
        ([0, 1], "route is .0, 1."),
        ([(0,), ("a",)], "route is"),
        ([(0, 2), (1.0,)], "route is"),
        ([(False, 2), (True,)], "route is"),
        ([([0],), (1, 2)], "route is"),
    ],
)
def test_a_route_gives_every_part_of_the_data_to_one_teacher(route: Any, told: str) -> None:
    community = Recording()
    student, *others = (AgentHandle(community, name, "unet") for name in "abc")
    for other in others:
        other.train("s")
    with pytest.raises(ConfigError, match=told):
        student.distill(others, "joined:x|y|z", route=route)
    student.distill(others, "joined:x|y|z", route=[(2,), [0, 1]])
    assert [teacher.parts for teacher in community.tasks[-1].teachers] == [(2,), (0, 1)]


@pytest.mark.parametrize("teachers", ["bc", None, ["b", "c"]])
def test_who_teaches_is_a_network(teachers: Any) -> None:
    student = AgentHandle(Recording(), "a", "unet")
    for call in (lambda: student.distill(teachers, "s"), lambda: student.average(list(teachers or [None]))):
        with pytest.raises(ConfigError, match="is no network; give what community"):
            call()


@pytest.mark.parametrize("number", [-1, 1, 1001, "a", 2.5])
def test_a_number_of_classes_that_is_none_is_told_so(tmp_path: Path, number: object) -> None:
    with Community(devices="none", record=tmp_path) as community, pytest.raises(ConfigError, match=r"num_classes: .*, got"):
        community.agent("a", "unet", num_classes=number)  # type: ignore[arg-type]


def test_data_splits_and_devices_that_are_none_are_told_so(tmp_path: Path) -> None:
    with Community(devices="none", record=tmp_path) as community:
        network = community.agent("a", "unet", num_classes=5)
        for data in (5, None, ["generated:"]):
            with pytest.raises(ConfigError, match=r"expected a specification, or what agentkd\.open_dataset returned"):
                network.train(data)  # type: ignore[arg-type]
        for look in (network.evaluate, network.assess):
            with pytest.raises(ConfigError, match="the split is 5"):
                look("generated:seed=1,size=32x32", 5)  # type: ignore[arg-type]
    for devices in (5, None, ["cpu:1"]):
        with pytest.raises(ConfigError, match="expected text, such as auto"):
            Community(devices=devices, record=tmp_path)  # type: ignore[arg-type]


def test_shares_may_be_numbers_of_any_kind() -> None:
    community = Recording()
    first, second = handle(community, "first"), handle(community, "second")
    for one in (first, second):
        one.train("s")
    first.average([first, second], shares=[np.float32(1), np.int64(2)])
    assert [teacher.share for teacher in community.tasks[-1].teachers] == [1.0, 2.0]


def test_an_argument_that_is_no_list_is_told_so() -> None:
    community = Recording()
    student, teacher = handle(community, "student"), handle(community, "teacher")
    teacher.train("s")
    calls: list[Any] = [
        lambda: student.average(teacher),
        lambda: student.average(5),
        lambda: student.average([teacher], shares=0.5),
        lambda: student.distill(teacher, "s", 5),
        lambda: student.distill(teacher, "s", None),
        lambda: mutual(student, teacher, data="s", objectives=5),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match="is no list"):
            call()
    with pytest.raises(ConfigError, match="takes networks"):
        mutual([student, teacher], data="s")


def test_a_map_to_classes_that_nobody_knows_is_refused() -> None:
    community = Recording()
    student, loaded = handle(community, "student"), handle(community, "loaded")
    loaded.start_from("a" * 64)
    with pytest.raises(ConfigError, match=r"say so first: teacher\.classes"):
        student.distill(loaded, "s", class_map={"nonsense": "rubbish"})


def test_a_network_that_cannot_tell_all_classes_apart_is_refused() -> None:
    with pytest.raises(ContractError, match="cannot tell all classes of the data apart"):
        AgentHandle(Recording(), "small", "unet", num_classes=2).train("generated:seed=1,size=32x32,train=8")


def test_what_is_no_task_is_refused_and_harms_nobody(tmp_path) -> None:
    with Community(devices="none", record=tmp_path) as community:
        with pytest.raises(ConfigError, match="'x' is no task"):
            community.submit(("x", "y"))
        assert community._works.is_open


@pytest.mark.parametrize("class_map", [[], "sky", [("sky", "Sky")]])
def test_a_class_map_is_a_dictionary(class_map: Any) -> None:
    community = Recording()
    student, teacher = handle(community, "student"), handle(community, "teacher")
    teacher.train("s")
    with pytest.raises(ConfigError, match=r"class_map is .* it is a dictionary"):
        student.distill(teacher, "s", class_map=class_map)


def test_a_community_is_entered_once_and_may_be_left_without_having_been(tmp_path) -> None:
    Community(devices="none", record=tmp_path / "never").__exit__(None, None, None)
    with Community(devices="none", record=tmp_path) as community, pytest.raises(ConfigError, match="entered once"), community:
        pass
    with pytest.raises(ConfigError, match="entered once"), community:
        pass


def test_a_script_that_comes_knows_how_many_agents_there_are(tmp_path) -> None:
    with Community(devices="none", record=tmp_path), Community.connect(tmp_path) as visitor:
        assert visitor.num_learners is None, "as many as guests come"
    with Community(devices="cpu:1", record=tmp_path) as host, Community.connect(tmp_path) as visitor:
        assert visitor.num_learners == host.num_learners == 1
        students = [visitor.agent(name, "unet", num_classes=5) for name in "ab"]
        with pytest.raises(ConfigError, match="need as many agents, and there are 1"):
            mutual(*students, data="generated:seed=1,size=32x32,train=8")
