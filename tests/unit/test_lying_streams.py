"""Streams that lie, and results that change: cases 62 to 66 of what the library promises to withstand, without a live agent."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from isal.isal_zlib import crc32
from live_agent import NETWORK
from sides import Side, wait_until

from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.store import Incoming, Store
from agentkd.canonical import digest_bytes
from agentkd.errors import AgentKDError, ArtifactCorruptError, ArtifactError, RemoteProtocolError, StorageError
from agentkd.exchange.pieces import Carrier
from agentkd.messages.bodies import Piece, StreamChunkEvent, StreamReply, StreamRequest, Way
from agentkd.task import DataSource, Status, TaskResult, Train

TASK = Train(architecture=NETWORK, data=DataSource(spec="x", content_digest="d"))


class LyingSender(Side):
    """A peer that says whatever a case wants when it is asked for a stream."""

    def __init__(self, lie: Callable[["LyingSender", str, int], None]) -> None:
        super().__init__()
        self.post.streams.handles = lambda body, peer, parent: False  # its streams are lies, told below
        self._lie = lie
        original = self.post._deliver

        def deliver(delivery: Any) -> None:
            if isinstance(delivery.message.body, StreamRequest):
                self._lie(self, delivery.sender, delivery.message.msg_id)
            else:
                original(delivery)

        self.post._deliver = deliver

    def chunk(self, to: str, number: int, offset: int, data: bytes, crc: int | None = None) -> None:
        event = StreamChunkEvent(offset=offset, crc32=crc32(data) if crc is None else crc)
        self.post.send(to, event, parent_id=number, buffers=(data,))


DATA = bytes(range(256)) * 256
GOOD = digest_bytes(DATA)


def fetched_from(lie: Callable[[LyingSender, str, int], None], place: Path | None = None) -> bytes:
    """What a receiver gets, into memory or a store, of a peer that answers its request for a stream in that way."""
    sender, receiver = LyingSender(lie), Side()
    try:
        sender.post.allow([receiver.key])
        receiver.reach(sender)
        wait_until(lambda: receiver.post.peer(sender.key) is not None)
        piece = Piece(way=Way.STREAM, size_bytes=len(DATA), sha256=GOOD)
        if place is not None:
            store = Store(place)
            return store.get(Carrier(receiver.post, store, ways=(Way.STREAM,)).fetch_to_store(sender.key, piece))
        return bytes(Carrier(receiver.post, ways=(Way.STREAM,)).fetch(sender.key, piece).data)
    finally:
        for side in (sender, receiver):
            side.post.close()


def beyond_the_credit(side: LyingSender, to: str, number: int) -> None:
    side.chunk(to, number, 1_000_000, b"x" * 4096)


def overlapping(side: LyingSender, to: str, number: int) -> None:
    side.chunk(to, number, 0, DATA[:4096])
    side.chunk(to, number, 2048, DATA[2048:6144])


def wrong_crc(side: LyingSender, to: str, number: int) -> None:
    side.chunk(to, number, 0, DATA[:4096], crc=1)


def wrong_hash(side: LyingSender, to: str, number: int) -> None:
    side.chunk(to, number, 0, bytes(len(DATA)))
    side.post.send(to, StreamReply(sha256=GOOD, size_bytes=len(DATA)), parent_id=number)


def another_size(side: LyingSender, to: str, number: int) -> None:
    side.post.send(to, StreamReply(sha256=GOOD, size_bytes=7), parent_id=number)


@pytest.mark.parametrize(
    ("lie", "error"),
    [
        (beyond_the_credit, RemoteProtocolError),
        (overlapping, RemoteProtocolError),
        (wrong_crc, RemoteProtocolError),
        (wrong_hash, ArtifactCorruptError),
        (another_size, ArtifactCorruptError),
    ],
    ids=["case62_beyond", "case62_overlap", "case63_crc", "case63_hash", "case63_short"],
)
def test_streams_that_lie_end_with_a_typed_error(lie: Callable, error: type[AgentKDError]) -> None:
    with pytest.raises(error):
        fetched_from(lie)


def test_case62_duplicates_and_disorder_do_no_harm() -> None:
    told: list[int] = []

    def disorderly(side: LyingSender, to: str, number: int) -> None:
        side.chunk(to, number, 0, DATA[:4096])
        side.chunk(to, number, 0, DATA[:4096])
        if not told:
            told.append(number)
            side.chunk(to, number, 8192, DATA[8192:12288])
            return
        for offset in range(4096, len(DATA), 4096):
            side.chunk(to, number, offset, DATA[offset : offset + 4096])
        side.post.send(to, StreamReply(sha256=GOOD, size_bytes=len(DATA)), parent_id=number)

    assert fetched_from(disorderly) == DATA


def test_case64_a_size_that_lies_is_refused_before_any_memory_is_taken() -> None:
    side = Side()
    try:
        for size in (2**40, 2**35):
            with pytest.raises(RemoteProtocolError, match="over the limit"):
                Carrier(side.post).fetch("k" * 40, Piece(way=Way.STREAM, size_bytes=size, sha256=GOOD))
        with pytest.raises(RemoteProtocolError):
            Carrier(side.post).fetch("k" * 40, Piece(way=Way.INLINE, size_bytes=10**9, sha256=GOOD), (b"short",))
    finally:
        side.post.close()


def test_case64_what_the_disk_has_no_room_for_is_refused_before_any_of_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    disk = os.statvfs(tmp_path)
    full = os.statvfs_result((*disk[:3], 10, 10, *disk[5:]))  # ten blocks are free
    monkeypatch.setattr(os, "fstatvfs", lambda descriptor: full)
    sender, receiver = LyingSender(lambda side, to, number: told.append(number)), Side()
    try:
        sender.post.allow([receiver.key])
        receiver.reach(sender)
        wait_until(lambda: receiver.post.peer(sender.key) is not None)
        store = Store(tmp_path)
        piece = Piece(way=Way.STREAM, size_bytes=2**33, sha256=GOOD)
        with pytest.raises(StorageError, match="8,589,934,592 octets are to come and the disk has room for"):
            Carrier(receiver.post, store).fetch_to_store(sender.key, piece)
        assert not told and sum(file.stat().st_size for file in tmp_path.rglob("*.incoming")) == 0
    finally:
        for side in (sender, receiver):
            side.post.close()


def test_a_stream_writes_no_more_than_was_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever comes after what was announced is refused, with the stream, and nothing of it is written."""

    def longer(side: LyingSender, to: str, number: int) -> None:
        side.chunk(to, number, 0, DATA)
        side.chunk(to, number, len(DATA), bytes(4096))

    def longer_at_once(side: LyingSender, to: str, number: int) -> None:
        side.chunk(to, number, 0, DATA + bytes(4096))

    written: list[int] = []
    monkeypatch.setattr(Incoming, "write", lambda part, offset, data: written.append(offset + len(data)))
    for lie in (longer, longer_at_once):
        with pytest.raises(RemoteProtocolError, match="beyond the credit"):
            fetched_from(lie, tmp_path)
    assert written == [len(DATA)]
    assert not [file for file in tmp_path.rglob("*") if file.is_file()], "what a liar has sent is not kept for later"


def test_case66_another_result_under_one_key_never_overwrites(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.commit(Record(TASK, TaskResult(status=Status.COMPLETED, weights="cd" * 32), "a", 1))
        with pytest.raises(ArtifactError, match="not deterministic"):
            journal.commit(Record(TASK, TaskResult(status=Status.COMPLETED, weights="ef" * 32), "b", 1))
        assert journal.find(TASK.key).weights == "cd" * 32
