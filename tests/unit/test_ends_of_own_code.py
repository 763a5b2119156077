"""Own code that ends its process, or says that the disk is full, is told as what it is; a disk that is full under it as well."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from scripted import ScriptedAgent, ScriptedLauncher, finish

from agentkd.agents import agent as agents
from agentkd.agents.agent import AgentSettings
from agentkd.agents.blaming import as_reply, as_told
from agentkd.architecture import Architecture
from agentkd.artifacts.run_folder import RunFolder
from agentkd.code.loading import load, provide
from agentkd.code.running import forbid_ending
from agentkd.code.source import SourceCode
from agentkd.coordinator import blame
from agentkd.coordinator.crew import Crew
from agentkd.coordinator.watching import Silent
from agentkd.errors import AgentLostError, DescriptorsError, StorageError
from agentkd.exchange.keys import new_key_pair
from agentkd.exchange.post import Delivery
from agentkd.launch.devices import Slot
from agentkd.launch.settings import LaunchConfig
from agentkd.messages.bodies import ErrorReply, LeftEvent, TaskRequest
from agentkd.task import DataSource, Status, Train

FULL = f"OSError({errno.ENOSPC}, 'No space left on device')"
MINE = """import os
from os import _exit
def full():
    with open('/dev/full', 'wb', buffering=0) as file:
        file.write(b'x')
def opened():
    open('/dev/null/image.png')
def raised():
    raise {full}
def handed_on():
    try:
        full()
    except OSError as error:
        raise {full} from error
def ends():
    os._exit(16)
def ends_by_name():
    _exit(0)
def forks():
    child = os.fork()
    if not child:
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
""".replace("{full}", FULL)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Callable[[], object]]:
    monkeypatch.setattr(os, "_exit", os._exit)  # what it is now comes back
    forbid_ending()
    code = provide(SourceCode(files={"mine.py": MINE}))
    return lambda name: load(f"mine:{name}", code)


@pytest.fixture
def task(own: object) -> Train:
    code = provide(SourceCode(files={"mine.py": MINE}))
    return Train(
        architecture=Architecture(family="mine:net", num_classes=2, code=code), data=DataSource(spec="s", content_digest="d")
    )


def said(act: Callable[[], object], task: Train) -> ErrorReply:
    with pytest.raises(BaseException) as caught:
        act()
    return as_reply(caught.value, TaskRequest(task=task, attempt=1))


@pytest.mark.parametrize(
    ("name", "line", "words"),
    [
        ("raised", 9, "OSError: [Errno 28] No space left on device"),
        ("ends", 16, "SystemExit: os._exit(16)"),
        ("ends_by_name", 18, "SystemExit: os._exit(0)"),
        ("opened", 7, "NotADirectoryError"),
    ],
)
def test_what_own_code_raises_or_ends_is_its_tasks_with_file_and_line(
    own: Callable[[str], Callable[[], object]], task: Train, name: str, line: int, words: str
) -> None:
    answer = said(own(name), task)
    assert (answer.code, answer.task) == ("internal", task.key)
    assert answer.text.startswith("network mine:net: <code ") and f"/mine.py, line {line}: {words}" in answer.text


@pytest.mark.parametrize(("name", "line"), [("full", 5), ("handed_on", 14)])
def test_a_disk_that_is_full_under_own_code_is_none_of_its_faults_and_told_with_file_and_line(
    own: Callable[[str], Callable[[], object]], task: Train, name: str, line: int
) -> None:
    answer = said(own(name), task)
    assert answer.code == "storage"
    assert f"network mine:net: <code {task.architecture.code[:12]}" in answer.text
    assert f"/mine.py, line {line}: cannot write a file: the disk is full" in answer.text


def test_what_own_code_has_forked_may_end_as_it_likes(own: Callable[[str], Callable[[], object]]) -> None:
    assert own("forks")() == 7


def test_an_agent_forbids_it_before_it_runs_anything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def begin(settings: AgentSettings) -> None:
        raise KeyError(os._exit.__name__)

    for what in ("die_with_parent", "end_in_good_order"):
        monkeypatch.setattr(agents, what, lambda *given: None)
    monkeypatch.setattr(agents.barring, "close", lambda: None)
    monkeypatch.setattr(os, "_exit", os._exit)
    monkeypatch.setattr(agents, "Agent", begin)
    (tmp_path / "run").mkdir()
    settings = AgentSettings((), new_key_pair().public, new_key_pair(), device="cpu", threads=1, run_folder=tmp_path / "run")
    with pytest.raises(KeyError, match="unless_of_own_code"):
        agents.run_agent(settings)


def test_whoever_is_no_own_code_says_it_as_it_is() -> None:
    error = OSError(errno.ENOSPC, "No space left on device")
    assert isinstance(as_told(error)[0], StorageError) and sys.exc_info() == (None, None, None)


@pytest.mark.parametrize("exit_code", [16, 21, 23])
def test_the_exit_code_of_an_agent_that_has_run_own_code_says_nothing_of_a_disk(
    exit_code: int, tmp_path: Path, task: Train
) -> None:
    def end(agent: ScriptedAgent, delivery: Delivery) -> None:
        if isinstance(delivery.message.body, TaskRequest):
            agent.exit_code = exit_code

    config = LaunchConfig(transport="tcp", max_attempts=2)
    with Crew(RunFolder(tmp_path), (Slot("cpu", 1),), config, Silent(), ScriptedLauncher(end)) as crew:
        finished = finish(crew, task)
    assert (finished.result.status, finished.attempts) == (Status.FAILED, 2)
    assert f"exit code {exit_code}" in finished.result.error_text


def test_what_such_an_agent_says_of_a_disk_is_believed(tmp_path: Path, task: Train) -> None:
    def leave(agent: ScriptedAgent, delivery: Delivery) -> None:
        if isinstance(delivery.message.body, TaskRequest):
            agent.say(LeftEvent(reason="cannot write logs: the disk is full; free some space"))
            agent.exit_code = StorageError.exit_code

    config = LaunchConfig(transport="tcp", max_attempts=2)
    with (
        pytest.raises(StorageError, match="agent-1: cannot write logs"),
        Crew(RunFolder(tmp_path), (Slot("cpu", 1),), config, Silent(), ScriptedLauncher(leave)) as crew,
    ):
        finish(crew, task)
    lost = AgentLostError("agent-1", 1.0, 21, "step 4\nerror: cannot open image.png: all descriptors are in use")
    with pytest.raises(DescriptorsError):
        blame.must_not_be_of_disk(lost, tmp_path, has_run_code=True)
    assert not blame.is_crash(lost, has_run_code=True)
