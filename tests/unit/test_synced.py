"""What is to stay is synced in an order that a power cut cannot undo: what stands in a file, then its name, then its folder."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agentkd.agents.recording import Recorder
from agentkd.artifacts.recordings import Told
from agentkd.artifacts.store import Store
from agentkd.canonical import digest_bytes
from agentkd.durable import make_folder, put_in_place, write_whole
from agentkd.names import NO_DIGEST, Digest

DIGEST = Digest("cd" * 32)
Seen = list[tuple[str, str]]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """What was synced, and which names were given, in their order."""
    listed: Seen = []
    sync, rename = os.fsync, Path.replace

    def note_sync(descriptor: int) -> None:
        sync(descriptor)
        listed.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink().name))

    def note_rename(path: Path, target: Path) -> Path:
        listed.append(("name", target.name))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_rename)
    return listed


def put(place: Path) -> None:
    (place / "part").write_bytes(b"new")
    put_in_place(place / "part", place / "whole")


def receive(place: Path) -> None:
    data = b"knowledge"
    with Store(place).incoming(digest_bytes(data)) as part:
        part.write(0, data)
        part.commit()


STORED = digest_bytes(b"knowledge")
ENDS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "put in place": (put, ["part", "whole", "run"]),
    "written whole": (lambda place: write_whole(place / "whole", b"new"), ["part", "whole", "run"]),
    "an artifact": (lambda place: Store(place).put(b"knowledge"), ["part", f"{STORED}.safetensors", STORED[:2]]),
    "an artifact that came": (receive, ["incoming", f"{STORED}.safetensors", STORED[:2]]),
}


@pytest.mark.parametrize("what", ENDS)
def test_a_file_is_synced_before_it_has_its_name_and_the_folder_after(what: str, seen: Seen, tmp_path: Path) -> None:
    act, (content, name, folder) = ENDS[what]
    (tmp_path / "run").mkdir()
    act(tmp_path / "run")
    (first, synced), *rest = seen[-3:]
    assert first == "sync" and synced.endswith(content)
    assert rest == [("name", name), ("sync", folder)]


def test_each_folder_that_was_made_is_synced_in_the_one_above_it(seen: Seen, tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    assert seen == [("sync", tmp_path.name), ("sync", "a")]
    make_folder(tmp_path / "a" / "b")
    assert len(seen) == 2, "what was there is left alone"


def test_what_a_student_was_told_is_synced_and_then_its_list_before_a_checkpoint_may_rely_on_it(
    seen: Seen, tmp_path: Path
) -> None:
    recorder = Recorder(tmp_path / "lessons" / "l.jsonl", Store(tmp_path / "artifacts"))
    try:
        told = Told(DIGEST, 0, digest_bytes(b"0"), NO_DIGEST, 1, 0.1)
        recorder.keep(told, b"knowledge")
        recorder.secure()
        assert seen[-2:] == [("sync", "l.jsonl"), ("sync", "lessons")]
        assert ("name", f"{STORED}.safetensors") in seen[:-2]
    finally:
        recorder.close()
