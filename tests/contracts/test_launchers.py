"""The local launcher, and one of a user's own, keep to the published contract, and the contract notices who does not."""

import importlib
import os
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from agentkd import launch
from agentkd.artifacts.run_folder import RunFolder
from agentkd.errors import ConfigError
from agentkd.exchange.keys import KeyPair, new_key_pair
from agentkd.launch.devices import Slot
from agentkd.launch.engines import ENGINES
from agentkd.launch.fork_server import ForkServer
from agentkd.launch.launcher import Demand, Launcher, Started, end_all
from agentkd.launch.local import LocalLauncher
from agentkd.launch.settings import LaunchConfig
from agentkd.testing import check_launcher

pytestmark = pytest.mark.process


class Process:
    """An agent's process as an engine of a user's own may have it."""

    def __init__(self, inner: Started) -> None:
        self.name, self._inner = inner.name, inner

    def poll(self) -> int | None:
        return self._inner.poll()

    def end(self) -> None:
        self._inner.end()

    def kill(self) -> None:
        self._inner.kill()

    def tail(self) -> str:
        return self._inner.tail()


class Engine:
    """A launcher of a user's own, over a local one that stays warm."""

    process: type[Process] = Process

    def __init__(self, inner: LocalLauncher, folder: Path) -> None:
        self._inner, self.folder, self.started = inner, folder, list[Process]()

    def start(self, name: str, slot: Slot, arguments: Sequence[str], key: KeyPair) -> Process:
        self.started.append(self.process(self._inner.start(name, slot, arguments, key)))
        return self.started[-1]

    def close(self) -> None:
        end_all(self.started)


class WrongThreads(Engine):
    def start(self, name: str, slot: Slot, arguments: Sequence[str], key: KeyPair) -> Process:
        arguments = [word.replace("--threads=1", "--threads=2") for word in arguments]
        return super().start(name, Slot(slot.device, 2), arguments, key)


class Deaf(Process):
    def kill(self) -> None:
        """Whoever works may go on."""


class WritesKeys(Engine):
    def start(self, name: str, slot: Slot, arguments: Sequence[str], key: KeyPair) -> Process:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{name}.json").write_text(key.line())
        return super().start(name, slot, arguments, key)


class Rude(Process):
    def end(self) -> None:
        super().kill()


class Mute(Process):
    def tail(self) -> str:
        return ""


class Leaves(Engine):
    def close(self) -> None:
        """Whoever works may go on."""


class StartsOnce(Engine):
    is_closed = False

    def start(self, name: str, slot: Slot, arguments: Sequence[str], key: KeyPair) -> Process:
        if self.is_closed:
            raise RuntimeError("closed")
        return super().start(name, slot, arguments, key)

    def close(self) -> None:
        self.is_closed = True
        super().close()


def made_with(kind: type[Process]) -> type[Engine]:
    return type(f"{kind.__name__}Engine", (Engine,), {"process": kind})


BROKEN: list[tuple[type[Engine], str]] = [
    (WrongThreads, "agent-1 must use 1 threads; it says that it uses 2"),
    (made_with(Deaf), "must have ended when kill"),
    (WritesKeys, "the key of agent-1 must be told to it alone"),
    (made_with(Rude), "the exit code of an agent that is to end must be 0; it is -9"),
    (made_with(Mute), "must hold what the agent said last"),
    (Leaves, "an agent still runs"),
    (StartsOnce, "start.. of agent-5 must go through: RuntimeError: closed"),
]


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalLauncher]:
    """Its servers are there before the first test, so that they outlive each."""
    folder = RunFolder(tmp_path_factory.mktemp("warm"))
    launcher, keys = LocalLauncher(folder), new_key_pair()
    for threads in (1, 2):
        launcher.start(f"first-{threads}", Slot("cpu", threads), ["--version"], keys).kill()
    yield launcher
    launcher.close()


def test_every_launcher_that_there_is_has_its_row() -> None:
    written = set()
    for module in pkgutil.iter_modules(launch.__path__, "agentkd.launch."):
        for member in vars(importlib.import_module(module.name)).values():
            is_written_here = isinstance(member, type) and member.__module__ == module.name and member is not Launcher
            written |= {member} if is_written_here and {"start", "close"} <= vars(member).keys() else set()
    made = {kind for engine in ENGINES.values() for kind in engine.__mro__}
    assert written - {ForkServer} <= made and set(ENGINES.values()) & written
    assert LaunchConfig().engine in ENGINES


FAKES = {
    # Its child is the agent, which is killed when it is gone itself, and when it is told to end politely, as srun does.
    "srun": "import ctypes, signal, subprocess, sys\n"
    "words = sys.argv[1:]\n"
    "while words[0].startswith('-'): words.pop(0)\n"
    "agent = subprocess.Popen(words, preexec_fn=lambda: ctypes.CDLL(None).prctl(1, signal.SIGKILL))\n"
    "signal.signal(signal.SIGTERM, lambda *_: agent.kill())\n"
    "sys.exit(agent.wait() % 256)\n",
    # What is behind the host is a line for a shell there, in an environment of its own.
    "ssh": "import os, sys\n"
    "line = sys.argv[sys.argv.index('--') + 2]\n"
    "kept = {name: os.environ[name] for name in ('PATH', 'PYTHONPATH', 'HOME') if name in os.environ}\n"
    "os.execve('/bin/sh', ['sh', '-c', line], kept)\n",
}
DEMANDS = {"ssh": Demand(options=("-p2222", "host1", "host2")), "command": Demand(options=("nice", "-n", "1"))}


@pytest.fixture
def faked(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of clusters, as far as an engine sees them, on this machine."""
    place = tmp_path_factory.mktemp("bin")
    for name, code in FAKES.items():
        (place / name).write_text(f"#!{sys.executable}\n{code}")
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (Path(__file__).parents[1], Path(__file__).parents[2]))))


@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "ray"])  # see process/test_engines.py
@pytest.mark.usefixtures("faked")
def test_an_engine_keeps_to_the_contract(engine: str, tmp_path: Path) -> None:
    check_launcher(lambda folder: ENGINES[engine](folder, DEMANDS.get(engine, Demand())), tmp_path)


@pytest.mark.parametrize(
    ("engine", "demand", "text"),
    [
        ("command", Demand(), "needs a command, in words"),
        ("command", Demand(options=("no-such-command",)), "no command 'no-such-command' here"),
        ("ssh", Demand(options=("-p22",)), "needs hosts"),
        ("srun", Demand(gpus_per_agent=0.5), "whole GPUs to an agent, not 0.5"),
        ("ray", Demand(options=("adress=here",)), "adress is no option of ray"),
        *(("ray", Demand(options=(f"wait_s={text}",)), f"wait_s is '{text}'") for text in ("soon", "nan", "inf", "-1", "0")),
    ],
)
@pytest.mark.usefixtures("faked")
def test_an_engine_that_is_asked_for_what_it_has_not_says_so_before_it_starts_anything(
    engine: str, demand: Demand, text: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=text):
        ENGINES[engine](RunFolder(tmp_path), demand)


def test_an_engine_of_a_users_own_keeps_to_it(warm: LocalLauncher, tmp_path: Path) -> None:
    check_launcher(lambda folder: Engine(warm, tmp_path), tmp_path)


@pytest.mark.parametrize(("kind", "text"), BROKEN, ids=[kind.__name__ for kind, _ in BROKEN])
def test_one_that_breaks_it_is_told_where(warm: LocalLauncher, tmp_path: Path, kind: type[Engine], text: str) -> None:
    engine = kind(warm, tmp_path / "kept")
    try:
        with pytest.raises(AssertionError, match=text):
            check_launcher(lambda folder: engine, tmp_path)
    finally:
        for process in engine.started:
            process._inner.kill()
