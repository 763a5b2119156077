"""Agents as forks of a server: started, ended, lost with it; none is left behind, whoever is killed."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from experiments import agents_of, environment
from sides import wait_until

from agentkd.artifacts.run_folder import RunFolder
from agentkd.errors import LaunchError, StorageError
from agentkd.exchange.keys import new_key_pair
from agentkd.exchange.transports import AUTO
from agentkd.launch.devices import Slot
from agentkd.launch.fork_server import ForkServer
from agentkd.launch.launcher import Contact, end_all
from agentkd.launch.local import PRELOADED, Fork, LocalLauncher
from agentkd.launch.settings import CHECKPOINT_EVERY_S, IMAGE_CACHE_GIB
from agentkd.launch.trimming import KEPT_BYTES, MAX_LOG_BYTES, trim

pytestmark = pytest.mark.process

NOBODY = Contact(("tcp://127.0.0.1:9",), new_key_pair().public, AUTO, CHECKPOINT_EVERY_S, IMAGE_CACHE_GIB)
ALONE = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from process.test_launch import LocalLauncher, RunFolder, start, until_there
agent = start(LocalLauncher(RunFolder(Path({place!r}))), RunFolder(Path({place!r})), "agent-0")
until_there(agent)
print(agent.pid, agent.server.own_pid, flush=True)
time.sleep(60)
"""

NOBODY_ASKS = """
import importlib, sys, torch, torch.utils._triton

def refuse(*given, **named):
    raise AssertionError("a process that has asked for a CUDA device leaves its forks none")

for name in ("is_available", "device_count", "current_device", "get_device_properties", "init", "_lazy_init"):
    setattr(torch.cuda, name, refuse)
torch.utils._triton.has_triton = refuse  # it asks, where there is a triton
for module in sys.argv[1:]:
    importlib.import_module(module)
"""


@pytest.fixture(autouse=True)
def servers_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Launchers start real ones here, not those that tests share."""
    monkeypatch.setattr("agentkd.launch.local.ForkServer", ForkServer)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[ForkServer]:
    server = ForkServer(("agentkd.cli",), dict(os.environ), tmp_path / "server.log")
    yield server
    server.close()


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[LocalLauncher]:
    made = LocalLauncher(RunFolder(tmp_path / "run"))
    yield made
    made.close()


def test_a_users_own_files_named_like_pythons_are_no_part_of_an_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: LocalLauncher
) -> None:
    for name in ("random", "token", "types", "queue", "numpy", "agentkd", "select"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    agent = start(launcher, RunFolder(tmp_path / "run"), "agent-0")
    until_there(agent)


def start(launcher: LocalLauncher, folder: RunFolder, name: str, threads: int = 1) -> Fork:
    slot = Slot("cpu", threads)
    return launcher.start(name, slot, NOBODY.arguments(folder, name, slot), new_key_pair())


def until_there(*agents: Fork) -> None:
    """Waits until they run as agents of their own name."""
    deadline = time.monotonic() + 60
    while not all(agent.pid and f"--name={agent.name} " in " ".join(psutil.Process(agent.pid).cmdline()) for agent in agents):
        assert time.monotonic() < deadline and all(agent.poll() is None for agent in agents)
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_fork_is_the_command_line_of_its_own(small: ForkServer, tmp_path: Path) -> None:
    good, bad = small.start(["--version"], tmp_path / "good.log"), small.start(["no-such-command"], tmp_path / "bad.log")
    wait_until(lambda: small.poll(good) is not None and small.poll(bad) is not None, timeout_s=60)
    assert small.poll(good) == 0 and small.poll(bad) == 2
    assert (tmp_path / "good.log").read_text().startswith("agentkd ")
    assert "no-such-command" in (tmp_path / "bad.log").read_text()


def test_a_signal_reaches_its_fork_alone_and_one_that_has_ended_gets_none(launcher: LocalLauncher, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    one, other = start(launcher, folder, "agent-0"), start(launcher, folder, "agent-1")
    until_there(one, other)
    one.kill()
    assert one.poll() == -signal.SIGKILL and other.poll() is None
    one.kill()
    end_all([one, other])
    assert other.poll() in (0, -signal.SIGTERM)  # as it had begun to listen for the signal, or not yet


def test_agents_share_one_server_that_has_no_other_thread_and_a_number_of_threads_has_its_own(
    launcher: LocalLauncher, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    agents = [start(launcher, folder, f"agent-{i}", threads) for i, threads in enumerate((1, 1, 2))]
    until_there(*agents)
    parents = [psutil.Process(agent.pid).parent() for agent in agents]
    assert parents[0] == parents[1] != parents[2]
    assert all(parent and parent.num_threads() == 1 for parent in parents)
    assert set(agents_of(os.getpid())) == {"agent-0", "agent-1", "agent-2"}
    assert [parent and parent.environ()["OMP_NUM_THREADS"] for parent in parents] == ["1", "1", "2"]
    end_all(agents)


def test_an_agent_can_be_ended_before_it_is_there(launcher: LocalLauncher, tmp_path: Path) -> None:
    started = time.monotonic()
    agent = start(launcher, RunFolder(tmp_path / "run"), "agent-0")
    end_all([agent])
    launcher.close()
    assert agent.poll() == -signal.SIGTERM and time.monotonic() - started < 2


def test_a_server_that_is_killed_takes_its_agents_along_and_is_replaced(launcher: LocalLauncher, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    one = start(launcher, folder, "agent-0")
    until_there(one)
    pid, server = one.pid, psutil.Process(one.pid).parent()
    assert server
    server.kill()
    wait_until(lambda: is_gone(pid))
    one.kill()
    assert one.poll() == -signal.SIGKILL
    other = start(launcher, folder, "agent-1")
    until_there(other)
    assert psutil.Process(other.pid).parent() != server
    end_all([other])


def test_a_server_that_is_stopped_is_ended_with_its_agents_when_one_of_them_is_to_go(
    launcher: LocalLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentkd.launch.fork_server.TELL_TIMEOUT_S", 0.5)
    agent = start(launcher, RunFolder(tmp_path / "run"), "agent-0")
    until_there(agent)
    pid, server = agent.pid, psutil.Process(agent.server.own_pid)
    server.suspend()
    agent.kill()
    wait_until(lambda: is_gone(pid) and is_gone(server.pid))
    assert agent.poll() == -signal.SIGKILL


def test_a_server_that_is_stopped_before_it_has_forked_an_agent_is_replaced(
    launcher: LocalLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentkd.launch.fork_server.START_WITHIN_S", 0.0)
    folder = RunFolder(tmp_path / "run")
    one = start(launcher, folder, "agent-0")
    until_there(one)
    server = psutil.Process(one.server.own_pid)
    server.suspend()
    late = start(launcher, folder, "agent-1")
    late.kill()  # as who did not join in time
    assert late.poll() == -signal.SIGKILL and is_gone(server.pid)
    other = start(launcher, folder, "agent-2")
    until_there(other)
    end_all([one, other])


def test_none_outlives_a_coordinator_that_is_killed(tmp_path: Path) -> None:
    code = ALONE.format(tests=str(Path(__file__).parents[1]), place=str(tmp_path / "run"))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as coordinator:
        assert coordinator.stdout
        agent, server = map(int, coordinator.stdout.readline().split())
        assert psutil.pid_exists(agent) and psutil.pid_exists(server)
        coordinator.kill()
    wait_until(lambda: is_gone(agent) and is_gone(server))


NOISY = """
import os, runpy, subprocess, sys, time
def write(*args, **other):
    print("z" * 30_000_000, flush=True)
    os.write(2, b"y" * 30_000_000)
    subprocess.run([sys.executable, "-c", "print('x' * 30_000_000)"])
    time.sleep(0.3)
    print("the last word", flush=True)
    time.sleep(60)
runpy.run_module = write
"""


def test_a_log_is_kept_short_whatever_writes_to_it_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "noisy_module.py").write_text(NOISY)
    log = tmp_path / "a.log"
    folders = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    server = ForkServer(("noisy_module",), os.environ | {"PYTHONPATH": folders}, tmp_path / "server.log")
    agent = Fork("agent-0", log, server, server.start([], log))
    try:
        wait_until(lambda: agent.tail().endswith("the last word"), timeout_s=60)
        assert log.stat().st_size < 2 * KEPT_BYTES
        assert re.match(rb"\[agentkd: [\d,]+ bytes were left out here; a log has at most 8,388,608\]\n", log.read_bytes()[:200])
    finally:
        server.close()


def test_a_log_is_cut_only_when_it_is_too_long_and_never_through_a_link(tmp_path: Path) -> None:
    log, link = tmp_path / "a.log", tmp_path / "link.log"
    log.write_bytes(b"a" * MAX_LOG_BYTES)
    assert not trim(str(log)) and log.stat().st_size == MAX_LOG_BYTES and not trim(str(tmp_path / "none"))
    link.symlink_to(log)
    with log.open("ab") as writer:
        writer.write(b"b" * 10)
        writer.flush()
        assert not trim(str(link)) and trim(str(log))
        writer.write(b"c")
    said, _, rest = log.read_bytes().partition(b"\n")
    assert b"7,340,042 bytes were left out" in said
    assert rest == b"a" * (KEPT_BYTES - 10) + b"b" * 10 + b"c"


def test_what_cannot_be_imported_is_told(tmp_path: Path) -> None:
    server = ForkServer(("no_such_module",), dict(os.environ), tmp_path / "server.log")
    agent = Fork("agent-0", tmp_path / "a.log", server, server.start([], tmp_path / "a.log"))
    wait_until(lambda: agent.poll() is not None, timeout_s=60)
    assert agent.poll() == 1 and "No module named 'no_such_module'" in agent.tail()
    server.close()


def test_a_server_that_cannot_be_started_is_a_launch_error(
    launcher: LocalLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(LaunchError, match=r"cannot start agent agent-0: .*/no/such/python"):
        start(launcher, RunFolder(tmp_path / "run"), "agent-0")


def test_a_log_that_cannot_be_written_is_a_storage_error(launcher: LocalLauncher, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "logs").write_text("a file where a folder should be")
    with pytest.raises(StorageError, match="logs"):
        start(launcher, RunFolder(tmp_path / "run"), "agent-0")


def test_what_a_fork_server_imports_leaves_cuda_devices_to_its_forks() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NOBODY_ASKS, *PRELOADED],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
