"""A run folder that is moved or removed while somebody works in it is not made anew beside what was moved."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch import nn

from agentkd import durable
from agentkd.agents import agent as agents
from agentkd.agents.agent import AgentSettings
from agentkd.agents.recording import Recorder
from agentkd.artifacts.recordings import Told
from agentkd.artifacts.run_folder import RunFolder, RunLock
from agentkd.canonical import digest_bytes
from agentkd.datasets.caching import SharedSamples
from agentkd.errors import AgentKDError
from agentkd.exchange.audit import Audit
from agentkd.exchange.keys import new_key_pair, save_key_pair
from agentkd.launch.devices import Slot
from agentkd.launch.local import LocalLauncher
from agentkd.names import NO_DIGEST, Digest, TaskKey
from agentkd.training.checkpoint import Progress, copied, write_checkpoint

KEY, DIGEST = TaskKey("ab" * 32), Digest("cd" * 32)


@pytest.fixture
def moved(tmp_path: Path) -> Iterator[RunFolder]:
    folder = RunFolder(tmp_path / "run")
    with RunLock(folder):
        folder.place.rename(tmp_path / "elsewhere")
        yield folder
    assert folder.place.absolute() not in durable._KEPT


def record(folder: RunFolder) -> None:
    recorder = Recorder(folder.lesson(KEY), folder.store)
    try:
        recorder.keep(Told(DIGEST, 0, digest_bytes(b"0"), NO_DIGEST, 1, 0.1), b"0")
        recorder.secure()
    finally:
        recorder.close()


def receive(folder: RunFolder) -> None:
    with folder.store.incoming(DIGEST):
        pass


WRITES: dict[str, Callable[[RunFolder], object]] = {
    "an artifact": lambda folder: folder.store.put(b"knowledge"),
    "an artifact that comes": receive,
    "a recording": record,
    "a checkpoint": lambda folder: write_checkpoint(folder.checkpoint(KEY), copied(nn.Conv2d(1, 1, 1), {}, Progress(), task=KEY)),
    "an audit line": lambda folder: Audit(folder.logs / "audit.jsonl").note(
        None, kind="weights", digest=DIGEST, size_bytes=1, way="", outcome="served"
    ),
    "a key": lambda folder: save_key_pair(folder.keys / "ann.json", new_key_pair()),
    "decoded images": lambda folder: SharedSamples(folder.images, 1 << 20)._may_use(),
    "an agent's log": lambda folder: LocalLauncher(folder).start("ann", Slot("cpu", 1), [], new_key_pair()),
}


@pytest.mark.parametrize("what", WRITES)
def test_what_is_written_after_it_was_moved_says_so_and_makes_nothing(what: str, moved: RunFolder) -> None:
    with pytest.raises((AgentKDError, FileNotFoundError), match="its folder was moved or removed while it was in use"):
        WRITES[what](moved)
    assert not moved.place.exists()


def test_a_folder_that_was_replaced_is_no_longer_the_one_that_is_kept(moved: RunFolder) -> None:
    moved.place.mkdir()
    with pytest.raises(AgentKDError, match="see where its folder has gone"):
        moved.store.put(b"knowledge")
    assert not [*moved.place.iterdir()]


@pytest.mark.parametrize("parent", [0, 1])
def test_an_agent_keeps_its_folder_and_makes_it_where_none_is_shared(
    parent: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "run"
    kept: list[Path] = []
    monkeypatch.setattr(agents, "keep", lambda folder: kept.append(folder.resolve(strict=True)))
    monkeypatch.setattr(agents, "die_with_parent", lambda pid: None)
    monkeypatch.setattr(agents, "end_in_good_order", lambda tether: (_ for _ in ()).throw(KeyError("far enough")))
    settings = AgentSettings(
        (), new_key_pair().public, new_key_pair(), device="cpu", threads=1, run_folder=place, parent_pid=parent
    )
    with pytest.raises(KeyError):
        agents.run_agent(settings)
    assert kept == [place]
