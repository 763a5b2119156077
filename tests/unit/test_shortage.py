"""Where no more threads or processes are to be had, that is of the surroundings: nothing is recorded, or nothing is even lost."""

import errno
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from scripted import TASK, ScriptedAgent, ScriptedLauncher, crew_with, finish
from tiny_tasks import CPU, make_task
from torch import nn

from agentkd.agents.blaming import as_reply
from agentkd.agents.recording import Recorder
from agentkd.agents.work import Surroundings, execute
from agentkd.artifacts.run_folder import RunFolder
from agentkd.artifacts.store import Store
from agentkd.code.loading import load, provide
from agentkd.code.source import SourceCode
from agentkd.coordinator import blame
from agentkd.coordinator.crew import Crew
from agentkd.coordinator.watching import Silent
from agentkd.errors import AgentLostError, ArtifactError, RemoteAgentError, StorageError, ThreadsError
from agentkd.exchange.loop import CommandLoop
from agentkd.exchange.post import Delivery
from agentkd.launch import fork_server
from agentkd.launch.devices import Slot
from agentkd.launch.settings import LaunchConfig
from agentkd.messages.bodies import ErrorReply, TaskRequest
from agentkd.names import TaskKey
from agentkd.training import ahead
from agentkd.training.ahead import Ahead
from agentkd.training.checkpoint import Checkpoints, Progress, load_checkpoint

KEY = TaskKey("ab" * 32)
ASKED = TaskRequest(task=TASK, attempt=2)


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)


@pytest.mark.usefixtures("no_threads")
def test_without_a_thread_a_checkpoint_is_written_where_the_training_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = nn.Conv2d(3, 4, 3)
    with caplog.at_level(logging.WARNING), Checkpoints(tmp_path / "c.safetensors", KEY) as checkpoints:
        checkpoints.save(network, {}, Progress(step=3))
        checkpoints.check()
    found = load_checkpoint(tmp_path / "c.safetensors", nn.Conv2d(3, 4, 3), {}, task=KEY)
    assert found is not None and found.step == 3
    assert "no more processes or threads can be started" in caplog.text


@pytest.mark.usefixtures("no_threads")
def test_a_training_without_threads_has_the_same_result(tmp_path: Path) -> None:
    done = execute(make_task(), Surroundings(Store(tmp_path / "a"), CPU, checkpoint=tmp_path / "c.safetensors", loaders=2))
    assert done.weights == execute(make_task(), Surroundings(Store(tmp_path / "b"), CPU)).weights


def test_as_many_loaders_make_batches_as_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    for allowed in (0, 1):
        begin, left = threading.Thread.start, [True] * allowed

        def start(thread: threading.Thread, begin: Any = begin, left: list[bool] = left) -> None:
            if not left:
                raise RuntimeError("can't start new thread")
            left.pop()
            begin(thread)

        with monkeypatch.context() as patched:
            patched.setattr(ahead.threading.Thread, "start", start)
            made = Ahead(lambda place: place * 2, range(5), loaders=3, size_of=lambda one: 8)
        with made:
            assert [made.take() for _ in range(5)] == [0, 2, 4, 6, 8]
            assert len(made._threads) == allowed


@pytest.mark.usefixtures("no_threads")
@pytest.mark.parametrize(
    "begin", [lambda place: Recorder(place / "l.jsonl", Store(place)), lambda place: CommandLoop(print, "agentkd-io").start()]
)
def test_what_cannot_do_without_its_thread_says_so(begin: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(ThreadsError, match=r"cannot start the thread agentkd-\w+: no more .*ulimit -u"):
        begin(tmp_path)


def raised(act: Callable[[], object]) -> ErrorReply:
    with pytest.raises(BaseException) as caught:
        act()
    return as_reply(caught.value, ASKED)


def unstarted() -> None:
    threading.Thread(target=print).join()


def refused(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def own(text: str) -> Callable[[], object]:
    return load("mine:go", provide(SourceCode(files={"mine.py": f"import os, threading\ndef go():\n    {text}\n"})))


NOT_OF_THE_TASK = {
    "a thread that is joined": (unstarted, "error"),
    "no thread": (refused(RuntimeError("can't start new thread")), "threads"),
    "no thread of C++": (refused(RuntimeError("Resource temporarily unavailable")), "threads"),
    "no thread, told as no memory": (refused(MemoryError("can't start new thread")), "threads"),
    "no process": (refused(BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))), "threads"),
    "a file that may not be read": (lambda: os.open("/nowhere/at/all", os.O_RDONLY), "storage"),
    "a socket": (lambda: socket.create_connection(("127.0.0.1", 1), timeout=5), "storage"),
    "a key that is not there": (lambda: {}["where"], "error"),
    "what is asserted": (refused(AssertionError("never")), "error"),
    "Ctrl-C": (refused(KeyboardInterrupt()), "error"),
}
OF_THE_TASK = {
    "shapes": (lambda: nn.Conv2d(3, 4, 3)(torch.zeros(1, 5, 8, 8)), "internal"),
    "one value a channel": (lambda: nn.BatchNorm2d(3)(torch.zeros(1, 3, 1, 1)), "internal"),
    "own code that asks for a thread that it did not start": (own("threading.Thread(target=print).join()"), "internal"),
    "own code and a key": (own("{}['where']"), "internal"),
    "own code and a file": (own("open('/nowhere/at/all')"), "internal"),
    "own code and an end": (own("raise SystemExit(3)"), "internal"),
}


@pytest.mark.parametrize("what", [*NOT_OF_THE_TASK, *OF_THE_TASK])
def test_what_is_raised_is_the_tasks_where_own_code_raised_it_or_what_computes(what: str) -> None:
    act, code = (NOT_OF_THE_TASK | OF_THE_TASK)[what]
    said = raised(act)
    assert (said.code, said.task, said.attempt) == (code, TASK.key, 2), said
    judged = blame.judge(said, is_guest=False, is_refusal=False)
    assert judged.is_fatal is (what in NOT_OF_THE_TASK)
    assert judged.retryable is not judged.is_fatal
    is_guests_fault = blame.judge(said, is_guest=True, is_refusal=False).is_fault
    assert is_guests_fault is (what in OF_THE_TASK), "nothing of a guest's surroundings is a task's failure"


@pytest.mark.parametrize(("code", "kind"), [("threads", ThreadsError), ("error", RemoteAgentError)])
def test_a_run_stops_where_an_agent_meets_what_nobody_can_lay_at_its_tasks_door(
    tmp_path: Path, code: str, kind: type[StorageError]
) -> None:
    def fail(agent: ScriptedAgent, delivery: Delivery) -> None:
        body, number = delivery.message.body, delivery.message.msg_id
        if isinstance(body, TaskRequest):
            said = "RuntimeError: cannot join thread before it is started"
            agent.say(ErrorReply(code=code, text=said, task=body.key, attempt=body.attempt), number)

    launcher = ScriptedLauncher(fail)
    with (
        pytest.raises(kind, match="agent-1") as stopped,
        Crew(RunFolder(tmp_path), (Slot("cpu", 1),), LaunchConfig(transport="tcp"), Silent(), launcher) as crew,
    ):
        finish(crew, TASK)
    assert stopped.value.exit_code == kind.exit_code
    assert len([body for body in launcher.agents[0].heard if isinstance(body, TaskRequest)]) == 1


def test_an_agent_that_ends_for_want_of_threads_stops_a_run_with_that(tmp_path: Path) -> None:
    def leave(agent: ScriptedAgent, delivery: Delivery) -> None:
        if isinstance(delivery.message.body, TaskRequest):
            agent.exit_code = ThreadsError.exit_code

    with pytest.raises(ThreadsError, match="agent-1"), crew_with(tmp_path, leave) as (crew, _):
        finish(crew, TASK)


@pytest.mark.parametrize(
    ("says", "is_crash"),
    [
        ("", True),
        ("Assertion failed: pfd.revents & POLLIN (src/signaler.cpp:264)", True),
        ("Resource temporarily unavailable (src/thread.cpp:241)", False),
        ("Too many open files (src/epoll.cpp:65)\nAborted", False),
        ("terminate called after throwing 'std::system_error'\n  what():  Resource temporarily unavailable", False),
    ],
)
def test_a_library_that_ends_its_process_for_want_of_threads_has_met_no_fault_of_the_task(says: str, is_crash: bool) -> None:
    assert blame.is_crash(AgentLostError("agent-1", 1.0, -signal.SIGABRT, says)) is is_crash


def test_a_server_that_cannot_fork_ends_the_agent_with_that(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", refuse)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert not fork_server._Forks(theirs)._fork(1, "log", "")
        assert fork_server.Lines(ours).receive(10.0) == [{"ended": 1, "exit_code": ThreadsError.exit_code}]


def test_what_the_surroundings_are_at_a_tasks_end_is_told_by_their_own_words() -> None:
    assert "cannot start a thread: no more" in raised(refused(RuntimeError("can't start new thread"))).text
    assert "cannot use /nowhere/at/all: No such file" in raised(lambda: os.open("/nowhere/at/all", os.O_RDONLY)).text
    assert "cannot join thread before it is started; that is the agent's own fault" in raised(unstarted).text
    assert raised(refused(ArtifactError("gone"))).code == "artifact"
