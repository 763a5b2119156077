"""The local launcher, and one of a user's own, keep to the published contract, and the contract notices who does not."""

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentkd import launch
from agentkd.artifacts.run_folder import RunFolder
from agentkd.exchange.keys import new_key_pair, save_key_pair
from agentkd.exchange.transports import AUTO
from agentkd.launch.devices import Slot
from agentkd.launch.engines import ENGINES
from agentkd.launch.fork_server import ForkServer
from agentkd.launch.local import AgentProcess, Contact, Launcher, LocalLauncher, end_all
from agentkd.launch.settings import CHECKPOINT_EVERY_S, IMAGE_CACHE_GIB, LaunchConfig
from agentkd.testing import check_launcher

pytestmark = pytest.mark.process


class Process:
    """An agent's process as an engine of a user's own may have it."""

    def __init__(self, inner: AgentProcess, key_file: Path) -> None:
        self.name, self._inner, self._key_file = inner.name, inner, key_file

    def poll(self) -> int | None:
        return self._inner.poll()

    def ask_to_end(self) -> None:
        self._inner.ask_to_end()

    def kill(self) -> None:
        self._inner.kill()

    def stderr_tail(self) -> str:
        return self._inner.stderr_tail()


class Engine:
    """A launcher of a user's own, over a local one that stays warm."""

    process: type[Process] = Process

    def __init__(self, inner: LocalLauncher) -> None:
        self._inner, self.started = inner, []

    def start(self, name: str, slot: Slot, key_file: Path, contact: Contact) -> Process:
        self.started.append(self.process(self._inner.start(name, slot, key_file, contact), key_file))
        return self.started[-1]

    def close(self) -> None:
        end_all(self.started)


class WrongThreads(Engine):
    def start(self, name: str, slot: Slot, key_file: Path, contact: Contact) -> Process:
        return super().start(name, Slot(slot.device, 2), key_file, contact)


class Deaf(Process):
    def kill(self) -> None:
        self._key_file.unlink(missing_ok=True)


class KeepsKeys(Process):
    def kill(self) -> None:
        kept = self._key_file.read_bytes() if self._key_file.exists() else b""
        super().kill()
        self._key_file.write_bytes(kept)


class Rude(Process):
    def ask_to_end(self) -> None:
        super().kill()


class Mute(Process):
    def stderr_tail(self) -> str:
        return ""


class Leaves(Engine):
    def close(self) -> None:
        """Whoever works may go on."""


class StartsOnce(Engine):
    is_closed = False

    def start(self, name: str, slot: Slot, key_file: Path, contact: Contact) -> Process:
        if self.is_closed:
            raise RuntimeError("closed")
        return super().start(name, slot, key_file, contact)

    def close(self) -> None:
        self.is_closed = True
        super().close()


def made_with(kind: type[Process]) -> type[Engine]:
    return type(f"{kind.__name__}Engine", (Engine,), {"process": kind})


BROKEN: list[tuple[type[Engine], str]] = [
    (WrongThreads, "agent-1 must use 1 threads; it says that it uses 2"),
    (made_with(Deaf), "must have ended when kill"),
    (made_with(KeepsKeys), "key of an agent that is killed must be gone"),
    (made_with(Rude), "the exit code of an agent that is asked to end must be 0; it is -9"),
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
        key_file = folder.keys / f"{threads}.json"
        save_key_pair(key_file, keys)
        launcher.start(
            f"first-{threads}",
            Slot("cpu", threads),
            key_file,
            Contact("tcp://127.0.0.1:9", keys.public, AUTO, CHECKPOINT_EVERY_S, IMAGE_CACHE_GIB),
        ).kill()
    yield launcher
    launcher.close()


def test_every_launcher_that_there_is_has_its_row() -> None:
    written = set()
    for module in pkgutil.iter_modules(launch.__path__, "agentkd.launch."):
        for member in vars(importlib.import_module(module.name)).values():
            is_written_here = isinstance(member, type) and member.__module__ == module.name and member is not Launcher
            written |= {member} if is_written_here and {"start", "close"} <= vars(member).keys() else set()
    assert written - {ForkServer} == set(ENGINES.values())
    assert LaunchConfig().engine in ENGINES


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_keeps_to_the_contract(engine: str, tmp_path: Path) -> None:
    check_launcher(ENGINES[engine], tmp_path)


def test_an_engine_of_a_users_own_keeps_to_it(warm: LocalLauncher, tmp_path: Path) -> None:
    check_launcher(lambda folder: Engine(warm), tmp_path)


@pytest.mark.parametrize(("kind", "text"), BROKEN, ids=[kind.__name__ for kind, _ in BROKEN])
def test_one_that_breaks_it_is_told_where(warm: LocalLauncher, tmp_path: Path, kind: type[Engine], text: str) -> None:
    engine = kind(warm)
    try:
        with pytest.raises(AssertionError, match=text):
            check_launcher(lambda folder: engine, tmp_path)
    finally:
        for process in engine.started:
            process._inner.kill()
