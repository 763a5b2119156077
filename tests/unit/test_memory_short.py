"""A device whose memory is short has one agent less: no task fails for what others take."""

import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from experiments import SPEC
from scripted import ARCHITECTURE, DATA, GOOD, TASK, Behavior, ScriptedAgent, ScriptedLauncher

from agentkd.agents import room
from agentkd.agents.blaming import as_reply
from agentkd.artifacts.run_folder import RunFolder
from agentkd.coordinator.crew import Crew
from agentkd.coordinator.crowding import who_teaches_nobody
from agentkd.coordinator.dispatch import Dispatcher
from agentkd.coordinator.events import (
    Accept,
    Dismiss,
    Ended,
    Failed,
    GiveUp,
    Joined,
    Launch,
    Lost,
    Ready,
    Start,
    Teach,
    TeachingFailed,
)
from agentkd.coordinator.state import Bench
from agentkd.coordinator.watching import Silent
from agentkd.datasets.opening import open_dataset
from agentkd.errors import ConfigError, DatasetError, OutOfMemoryError, RemoteAgentError
from agentkd.exchange.post import Delivery
from agentkd.launch.devices import Slot
from agentkd.launch.killings import Killings
from agentkd.launch.settings import LaunchConfig
from agentkd.messages.bodies import CancelRequest, ErrorReply, TaskReply, TaskRequest
from agentkd.recipe import Distillation, Recipe
from agentkd.shortage import lacks_memory
from agentkd.task import DataSource, Distill, Evaluate, Mutual, Partner, Status, Task, TeacherReference, Train
from agentkd.training import memory

TEACHER, OTHER = (TeacherReference(architecture=ARCHITECTURE, weights=name) for name in ("w1", "w2"))


def lesson(*teachers: TeacherReference) -> Task:
    return Distill(architecture=ARCHITECTURE, data=DATA, teachers=teachers or (TEACHER,), distillation=Distillation())


def out_of_memory(agent: str, key: str, attempt: int) -> Failed:
    return Failed(agent, key, attempt, retryable=True, lacks_memory=True)


def with_agents(num_slots: int, tasks: dict[str, Task], *devices: str, max_attempts: int = 3) -> Dispatcher:
    """A dispatcher whose agents are on these devices, with nothing started yet but the learning agents."""
    dispatcher = Dispatcher(num_slots, max_attempts=max_attempts)
    dispatcher.want(tasks.items())
    for number, device in enumerate(devices, start=1):
        dispatcher.handle(Joined(f"agent-{number}", device))
    return dispatcher


def test_who_runs_out_of_memory_beside_others_is_ended_and_its_task_is_tried_again_with_more_room() -> None:
    dispatcher = with_agents(2, {"a": TASK, "b": TASK}, "gpu", "gpu", max_attempts=1)
    assert dispatcher.handle(out_of_memory("agent-2", "b", 1)) == [Dismiss("agent-2")], "b waits, and no attempt is spent"
    dispatcher.check()
    assert dispatcher.handle(Ended("agent-1", "a", 1)) == [Accept("a"), Start("agent-1", "b", 2)]
    assert dispatcher.handle(out_of_memory("agent-1", "b", 2)) == [GiveUp("b")], "it was alone"
    assert dispatcher.want([("c", TASK), ("d", TASK)]) == [Start("agent-1", "c", 1)], "one agent is enough from now on"
    assert dispatcher.handle(Lost("agent-1", is_crash=True)) == [GiveUp("c"), Launch("agent-3", "learning", 0)]
    dispatcher.check()


def test_only_agents_on_the_same_device_make_room() -> None:
    dispatcher = with_agents(3, {"a": TASK, "b": TASK, "c": TASK}, "gpu 0", "gpu 1", "gpu 1", max_attempts=2)
    assert dispatcher.handle(out_of_memory("agent-1", "a", 1)) == [], "another may have more memory"
    assert dispatcher.handle(out_of_memory("agent-3", "c", 1)) == [Dismiss("agent-3"), Start("agent-1", "c", 2)]
    assert dispatcher.state.closed == {2} and dispatcher.state.num_open == 2
    dispatcher.check()


def test_an_agent_whose_device_is_not_known_counts_as_alone() -> None:
    dispatcher = with_agents(2, {"a": TASK, "b": TASK}, "", "", max_attempts=1)
    assert dispatcher.handle(out_of_memory("agent-1", "a", 1)) == [GiveUp("a")]


def test_an_agent_that_cannot_hold_what_it_is_to_teach_has_one_that_learns_ended() -> None:
    dispatcher = with_agents(3, {"a": lesson(), "b": TASK, "c": TASK}, "gpu", "gpu", "other", max_attempts=1)
    assert dispatcher.state.running.keys() == {"b", "c"} and "agent-4" in dispatcher.state.members
    dispatcher.handle(Joined("agent-4", "gpu"))
    actions = dispatcher.handle(TeachingFailed("agent-4", retryable=True, lacks_memory=True))
    assert actions == [Dismiss("agent-2"), Start("agent-3", "c", 2)], "the last; what it did begins again elsewhere"
    assert dispatcher.state.attempts_left("c") == 0 and not dispatcher.state.unadopted
    dispatcher.check()
    assert dispatcher.handle(Ended("agent-1", "b", 1)) == [Accept("b"), Teach("agent-4", TEACHER, DATA)]
    assert GiveUp("a", untaught="w1") in dispatcher.handle(TeachingFailed("agent-4", retryable=True, lacks_memory=True))


def test_an_idle_agent_is_ended_before_a_busy_one() -> None:
    dispatcher = with_agents(2, {"a": lesson(), "b": TASK}, "gpu", "gpu")
    dispatcher.handle(Joined("agent-3", "gpu"))
    assert dispatcher.state.running.keys() == {"b"} and dispatcher.state.running["b"].agent == "agent-1"
    actions = dispatcher.handle(TeachingFailed("agent-3", retryable=True, lacks_memory=True))
    assert actions == [Dismiss("agent-2")]
    dispatcher.check()


def test_who_teaches_nobody_is_ended_once_before_a_task_is_to_blame() -> None:
    dispatcher = with_agents(1, {"a": lesson(OTHER)}, "gpu", max_attempts=1)
    dispatcher.handle(Joined("agent-2", "gpu"))
    assert dispatcher.handle(Ready("agent-2", "w2")) == [Start("agent-1", "a", 1, (("w2", "agent-2"),))]
    dispatcher.want([("b", TASK)])
    assert dispatcher.handle(Ended("agent-1", "a", 1)) == [Accept("a"), Start("agent-1", "b", 1)]
    assert dispatcher.handle(out_of_memory("agent-1", "b", 1)) == [Dismiss("agent-2"), Start("agent-1", "b", 2)]
    assert dispatcher.handle(out_of_memory("agent-1", "b", 2)) == [GiveUp("b")]
    dispatcher.check()


def test_who_is_heard_by_another_task_is_not_ended_for_this_one() -> None:
    dispatcher = with_agents(2, {"a": lesson(OTHER), "b": TASK}, "gpu", "other")
    [teacher] = [name for name, one in dispatcher.state.members.items() if one.bench is Bench.TEACHING]
    dispatcher.handle(Joined(teacher, "gpu"))
    dispatcher.handle(Ready(teacher, "w2"))
    dispatcher.handle(Ended("agent-1", "b", 1))
    assert dispatcher.state.running["a"].teachers == {"w2": teacher}
    assert who_teaches_nobody(dispatcher.state, dispatcher.state.members["agent-1"], "b") == []


def test_who_has_what_this_task_needs_is_not_ended_for_it_though_nobody_hears_it_now() -> None:
    dispatcher = with_agents(1, {"a": lesson(OTHER)}, "gpu")
    dispatcher.handle(Joined("agent-2", "gpu"))
    dispatcher.handle(Ready("agent-2", "w2"))
    dispatcher.want([("b", TASK), ("c", lesson(OTHER))])
    dispatcher.handle(Ended("agent-1", "a", 1))
    assert dispatcher.state.running.keys() == {"b"}
    member = dispatcher.state.members["agent-1"]
    assert who_teaches_nobody(dispatcher.state, member, "c") == []
    assert [one.name for one in who_teaches_nobody(dispatcher.state, member, "b")] == ["agent-2"]


def test_an_agent_that_the_system_ends_for_its_memory_is_not_replaced_beside_others() -> None:
    dispatcher = with_agents(2, {"a": TASK, "b": TASK}, "cpu", "cpu", max_attempts=1)
    assert dispatcher.handle(Lost("agent-2", lacks_memory=True)) == [], "b waits for the other one, and no attempt is spent"
    assert dispatcher.state.closed == {1}
    dispatcher.check()
    assert dispatcher.handle(Ended("agent-1", "a", 1)) == [Accept("a"), Start("agent-1", "b", 2)]
    assert dispatcher.handle(Lost("agent-1", lacks_memory=True)) == [GiveUp("b")], "it was alone"
    assert dispatcher.want([("c", TASK)]) == [Launch("agent-3", "learning", 0)]
    dispatcher.check()


def test_who_was_killed_while_the_system_killed_for_memory_is_taken_for_that(tmp_path: Path) -> None:
    here, machine = tmp_path / "memory.events", tmp_path / "vmstat"
    machine.write_text("pgfault 7\noom_kill 3\noom_kill_other\n")
    killings = Killings((here, machine))
    assert not killings.explain(-9), "nobody was"
    machine.write_text("oom_kill 4\n")
    assert not killings.explain(1) and not killings.explain(None)
    assert killings.explain(-9) and not killings.explain(-9), "once"
    here.write_text("low 0\noom 2\noom_kill 5\n")
    assert killings.explain(137), "of these processes alone, where that is told"
    assert not Killings((tmp_path / "missing",)).explain(-9)


def cohort(size: int = 2) -> dict[str, Task]:
    partners = [Partner(architecture=ARCHITECTURE, recipe=Recipe(), seed=seed) for seed in range(2, size + 1)]
    first = Mutual(
        architecture=ARCHITECTURE,
        data=DATA,
        seed=1,
        distillation=Distillation(),
        partners=tuple(sorted(partners, key=lambda one: one.digest)),
    )
    return {task.key: task for task in (first, *first.partner_tasks())}


def test_students_that_learn_together_keep_as_many_agents_as_they_are() -> None:
    both = cohort()
    dispatcher = with_agents(2, both, "gpu", "gpu", max_attempts=1)
    first = next(iter(both))
    assert GiveUp(first) in dispatcher.handle(out_of_memory("agent-1", first, 1)), "with fewer they could never learn"
    dispatcher = with_agents(2, {"a": TASK, "b": TASK}, "gpu", "gpu")
    dispatcher.handle(out_of_memory("agent-2", "b", 1))
    assert dispatcher.state.closed == {1}
    assert Launch("agent-3", "learning", 1) in dispatcher.want(both.items()), "who must begin together is given the room again"
    dispatcher.check()
    dispatcher = with_agents(2, {"a": TASK, "b": TASK}, "gpu", "gpu")
    dispatcher.handle(out_of_memory("agent-2", "b", 1))
    dispatcher.want(cohort(3).items())
    assert not dispatcher.state.closed, "also where guests must come besides"
    dispatcher.check()


@dataclass
class Device:
    """Has room for one task: whoever is given another meanwhile runs out of memory; the first is done when that was told."""

    first: Delivery | None = None
    agent: ScriptedAgent | None = None
    tasks: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def behave(self, agent: ScriptedAgent, delivery: Delivery) -> None:
        body, number = delivery.message.body, delivery.message.msg_id
        if not isinstance(body, TaskRequest):
            return
        with self.lock:
            self.tasks[agent.name] += 1
            if self.first is None:
                self.first, self.agent = delivery, agent
                return
            is_alone = self.agent is agent
            if not is_alone:
                reply = ErrorReply(code="out_of_memory", text="cpu is full", task=body.key, attempt=body.attempt)
                agent.say(reply, number)
                first = self.first.message
                assert isinstance(first.body, TaskRequest) and self.agent
                self.agent.say(TaskReply(task=first.body.key, attempt=first.body.attempt, result=GOOD), first.msg_id)
                return
        agent.say(TaskReply(task=body.key, attempt=body.attempt, result=GOOD), number)


def run(crew: Crew, tasks: list[Task]) -> list[Status]:
    crew.want((task.key, task, f"task {number}") for number, task in enumerate(tasks))
    statuses: list[Status] = []
    while len(statuses) < len(tasks):
        statuses += [finished.result.status for finished in crew.turn()]
    return statuses


@pytest.mark.timeout(120)
def test_a_crew_has_one_agent_less_where_memory_is_short_and_says_so(tmp_path: Path) -> None:
    said: list[str] = []
    watcher, device = Silent(), Device()
    watcher.tell = said.append  # type: ignore[method-assign]
    behavior: Behavior = device.behave
    launcher = ScriptedLauncher(behavior)
    config = LaunchConfig(transport="tcp", max_attempts=1)
    with Crew(RunFolder(tmp_path), (Slot("cpu", 1), Slot("cpu", 1)), config, watcher, launcher, is_forgiving=True) as crew:
        assert run(crew, [TASK.replace(seed=seed) for seed in (1, 2, 3)]) == [Status.COMPLETED] * 3
        names = [agent.name for agent in launcher.agents]
        assert len(names) == 2, "nobody was started again"
    [short] = [line for line in said if "memory" in line]
    assert "ran out of memory on cpu: cpu is full" in short and "is ended, and it is tried again with more room" in short
    asked = [body for agent in launcher.agents for body in agent.heard if isinstance(body, TaskRequest | CancelRequest)]
    assert not any(isinstance(body, CancelRequest) for body in asked)


def trained(**changes: object) -> Train:
    data = DataSource(spec=SPEC, content_digest=open_dataset(SPEC).digest)
    return Train(architecture=ARCHITECTURE, data=data, recipe=Recipe(**changes))


def test_what_a_training_needs_is_estimated_by_parameters_batch_and_layers() -> None:
    small, large = (room.needed_bytes(trained(batch_size=size)) for size in (2, 8))
    assert 10**6 < small < large < 4 * small + 10**6
    assert room.needed_bytes(Evaluate(architecture=ARCHITECTURE, data=DATA, initial_weights="ab" * 32)) == 0, "not known"


def test_a_task_that_needs_more_than_is_free_is_refused_before_it_begins_and_that_is_said_to_be_an_estimate() -> None:
    task, device = trained(batch_size=2), torch.device("cpu")
    needed = room.needed_bytes(task)
    room.check_room(task, device, free=needed)
    with pytest.raises(OutOfMemoryError, match=r"cpu has 0 MiB free, and this needs about [0-9]+ MiB, as is estimated by"):
        room.check_room(task, device, free=1)


def test_free_memory_is_what_the_system_and_its_control_group_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert (memory.free_bytes(cpu) or 1) > 0
    monkeypatch.setattr(memory, "MEMORY_FILE", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CONTROL_GROUP", tmp_path)
    assert memory.free_bytes(cpu) is None, "nothing says it"
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable:   50 kB\nSwapFree: 10 kB\nHugePages: none\n")
    assert memory.free_bytes(cpu) == 60 * 1024
    for name, text in {"memory.max": "max\n", "memory.current": "3\n"}.items():
        (tmp_path / name).write_text(text)
    assert memory.free_bytes(cpu) == 60 * 1024, "no limit"
    (tmp_path / "memory.max").write_text("5000\n")
    assert memory.free_bytes(cpu) == 4997
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 2\n")
    assert memory.free_bytes(cpu) == 4999
    (tmp_path / "memory.current").write_text("9000\n")
    assert memory.free_bytes(cpu) == 0


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB"),
        OutOfMemoryError("cpu has too little"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: out of memory"),
        OSError(12, "Cannot allocate memory"),
        caused(DatasetError("a.png", "cannot be read"), MemoryError()),
        RemoteAgentError("ann", "out_of_memory", "OutOfMemoryError", "too little"),
    ],
)
def test_whatever_says_that_memory_is_short_is_told_as_that(error: BaseException) -> None:
    assert lacks_memory(error)
    reply = as_reply(error, TaskRequest(task=TASK, attempt=1))
    assert reply.code == OutOfMemoryError.code and reply.task == TASK.key


@pytest.mark.parametrize(
    "error",
    [None, RuntimeError("shapes"), ConfigError("Cannot allocate memory"), caused(ValueError("a"), KeyError("b"))],
)
def test_other_errors_are_what_they_are(error: BaseException | None) -> None:
    assert not lacks_memory(error)
