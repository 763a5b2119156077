"""What a script's calls become as tasks, without any process."""

from concurrent.futures import Future

import pytest

from agentkd.community import AgentHandle, Community
from agentkd.errors import ChannelClosedError
from agentkd.networks.families import resolve
from agentkd.task import DataSource, Status, Task, TaskKind, TaskResult


class Recording(Community):
    """A community that notes tasks and answers at once."""

    def __init__(self) -> None:
        self.seed = 1
        self.tasks: list[Task] = []

    def source(self, spec: str) -> DataSource:
        return DataSource(spec=spec, content_digest="d")

    def submit(self, task: Task, label: str) -> "Future[TaskResult]":
        self.tasks.append(task)
        done: Future[TaskResult] = Future()
        done.set_result(TaskResult(status=Status.COMPLETED, weights=f"w{len(self.tasks)}"))
        return done


@pytest.fixture
def community() -> Recording:
    return Recording()


def handle(community: Recording, name: str) -> AgentHandle:
    return AgentHandle(community, name, resolve("unet", 5))


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
    assert (task.kind, task.initial_weights, task.teachers[0].weights) == (TaskKind.DISTILL, initial, "w1")


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


def test_a_closed_community_says_so(tmp_path) -> None:
    agent = Community(devices="cpu:1", out=tmp_path).agent("a", "unet", num_classes=5)
    with pytest.raises(ChannelClosedError, match="with-block"):
        agent.train("generated:seed=1,size=32x32,train=8")
