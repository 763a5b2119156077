"""Streams: credit, gaps, damage and resumption, first as pure machines and then between two posts."""

import random
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proxy import CuttingProxy
from sides import Side, wait_until

from agentkd.artifacts.store import Store
from agentkd.canonical import digest_bytes
from agentkd.errors import (
    ArtifactCorruptError,
    RemoteAgentError,
    RemoteProtocolError,
    ReplyTimeoutError,
    Rule,
    StorageError,
    TaskCancelledError,
)
from agentkd.exchange import streaming
from agentkd.exchange.pieces import Carrier
from agentkd.exchange.sources import BytesSource
from agentkd.exchange.streaming import Leave
from agentkd.exchange.streams import ChunkTaken, Inflow, Outflow
from agentkd.messages.bodies import Piece, Way
from agentkd.messages.dialogues import Conversation

CHUNK, WINDOW = 4096, 16384
ONLY_STREAM = (Way.STREAM,)


@given(size=st.integers(1, 300_000), window=st.integers(1, 20).map(lambda n: n * CHUNK), losses=st.sets(st.integers(0, 100)))
def test_whatever_is_lost_the_bytes_arrive_once_and_in_order_within_the_credit(size, window, losses) -> None:
    inflow, count, written = Inflow(size, window_bytes=window), 0, 0
    for _ in range(200):
        outflow = Outflow(size, inflow.offset, inflow.opening_limit(), CHUNK)
        while (due := outflow.next_chunk()) is not None:
            offset, length = due
            assert offset + length <= inflow.limit
            count += 1
            if count in losses:
                continue
            taken = inflow.take(offset, length)
            if taken is ChunkTaken.GAP:
                break
            assert offset == written
            written += length
            due_credit = inflow.credit_due()
            if due_credit is not None:
                outflow.grant(due_credit)
        if inflow.is_done:
            break
    assert written == size


@pytest.mark.parametrize(("offset", "length"), [(WINDOW, 1), (0, WINDOW + 1), (0, 0), (CHUNK // 2, CHUNK)])
def test_chunks_beyond_the_credit_or_overlapping_are_refused(offset: int, length: int) -> None:
    inflow = Inflow(100_000, window_bytes=WINDOW)
    inflow.take(0, CHUNK)
    with pytest.raises(RemoteProtocolError) as caught:
        inflow.take(offset, length)
    assert caught.value.rule == Rule.CREDIT


def test_a_chunk_that_was_had_is_counted_and_not_written_twice() -> None:
    inflow = Inflow(100_000, window_bytes=WINDOW)
    assert [inflow.take(0, CHUNK), inflow.take(0, CHUNK)] == [ChunkTaken.NEXT, ChunkTaken.REPEATED]
    assert (inflow.offset, inflow.num_repeated_bytes) == (CHUNK, CHUNK)


def test_less_credit_than_before_changes_nothing() -> None:
    outflow = Outflow(100_000, 0, WINDOW, CHUNK)
    outflow.grant(10)
    assert outflow.limit == WINDOW


class Pair:
    """A sender and a receiver with a store each, over real sockets, perhaps with something between them."""

    def __init__(self, tmp_path, bind: str, **options) -> None:
        self.sender, self.receiver = Side(bind), Side(bind)
        self.store = Store(tmp_path / "receiver")
        self.giving = Carrier(self.sender.post, Store(tmp_path / "sender"), ways=ONLY_STREAM)
        self.taking = Carrier(self.receiver.post, self.store, ways=ONLY_STREAM, **options)
        self.sender.post.allow([self.receiver.key])

    def meet(self, endpoint: str = "") -> None:
        address = self.sender.address.model_copy(update={"endpoints": (endpoint,)} if endpoint else {})
        self.receiver.post.connect(address)
        wait_until(lambda: self.receiver.post.peer(self.sender.key) is not None)

    def offer(self, data: bytes, sha256: str = "") -> Piece:
        piece, _ = self.giving._offer(self.receiver.key, BytesSource(data, sha256 or digest_bytes(data)))
        return piece

    def close(self) -> None:
        for side in (self.sender, self.receiver):
            side.post.close()


@pytest.fixture(params=["tcp://127.0.0.1:*", "ipc://*"], ids=["tcp", "ipc"])
def pair(tmp_path, request: pytest.FixtureRequest) -> Iterator[Pair]:
    made = Pair(tmp_path, request.param, chunk_bytes=64 * 1024, window_bytes=512 * 1024)
    yield made
    made.close()


def some_bytes(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def test_a_piece_is_streamed_into_memory_and_into_the_store_with_progress(pair: Pair) -> None:
    pair.meet()
    data, seen = some_bytes(5_000_001), []
    piece = pair.offer(data)
    fetched = pair.taking.fetch(pair.sender.key, piece, progress=lambda done, size: seen.append((done, size)))
    assert bytes(fetched.data) == data and seen[-1] == (len(data), len(data)) and seen == sorted(seen)
    fetched.release()
    digest = pair.taking.fetch_to_store(pair.sender.key, piece)
    assert pair.store.get(digest) == data
    sent = pair.sender.post.counters.bytes_sent
    assert pair.taking.fetch_to_store(pair.sender.key, piece) == digest
    assert pair.sender.post.counters.bytes_sent - sent < 1000, "what is there already is not sent again"


def test_what_was_not_offered_to_this_peer_is_not_streamed(pair: Pair) -> None:
    pair.meet()
    piece = Piece(way=Way.STREAM, size_bytes=10, sha256="ab" * 32)
    with pytest.raises(Exception, match="offered to this peer"):
        pair.taking.fetch(pair.sender.key, piece)


def test_bytes_with_another_digest_are_refused_and_nothing_is_stored(pair: Pair) -> None:
    pair.meet()
    piece = pair.offer(some_bytes(300_000), sha256="cd" * 32)
    with pytest.raises(ArtifactCorruptError):
        pair.taking.fetch(pair.sender.key, piece)
    with pytest.raises(ArtifactCorruptError):
        pair.taking.fetch_to_store(pair.sender.key, piece)
    assert "cd" * 32 not in pair.store and not list(pair.store.place.rglob("*.incoming"))


def test_a_fetch_can_be_cancelled_and_leaves_the_lane_free(pair: Pair) -> None:
    pair.meet()
    stopped = threading.Event()

    def stop(done: int, size: int) -> None:
        stopped.set()
        raise TaskCancelledError("enough")

    with pytest.raises(TaskCancelledError):
        pair.taking.fetch(pair.sender.key, pair.offer(some_bytes(3_000_000)), progress=stop)
    wait_until(lambda: not pair.sender.post.streams._sending)
    data = some_bytes(700_000)
    assert bytes(pair.taking.fetch(pair.sender.key, pair.offer(data)).data) == data


def test_a_stream_into_the_store_goes_on_where_an_earlier_process_stopped(pair: Pair) -> None:
    pair.meet()
    data = some_bytes(2_000_000)
    piece = pair.offer(data)
    with pair.store.incoming(piece.sha256) as part:
        part.write(0, data[:1_500_000])
    before = pair.sender.post.counters.bytes_sent
    assert pair.store.get(pair.taking.fetch_to_store(pair.sender.key, piece)) == data
    assert pair.sender.post.counters.bytes_sent - before < 600_000


def test_cuts_at_random_moments_cost_at_most_a_window_each(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "STALL_S", 0.3)
    pair = Pair(tmp_path, "tcp://127.0.0.1:*", chunk_bytes=64 * 1024, window_bytes=1024**2)
    data, cuts = some_bytes(24_000_000), [3_000_000, 9_000_000, 15_000_000]
    with CuttingProxy(pair.sender.post.endpoint) as control, CuttingProxy(pair.sender.post.channel.bulk_endpoints[0]) as bulk:
        pair.sender.post.channel.bulk_endpoints = (bulk.endpoint,)
        pair.meet(control.endpoint)

        def cut(done: int, size: int) -> None:
            if cuts and done > cuts[0]:
                cuts.pop(0)
                bulk.cut()

        fetched = pair.taking.fetch(pair.sender.key, pair.offer(data), progress=cut)
        assert bytes(fetched.data) == data and not cuts
        assert bulk.bytes_forwarded < len(data) * 1.02 + 3 * 1024**2
    pair.close()


def test_a_sender_that_is_gone_ends_the_wait_with_a_typed_error(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "GIVE_UP_S", 1.5)
    pair.meet()
    piece = pair.offer(some_bytes(2_000_000))
    pair.sender.post.close()
    with pytest.raises(ReplyTimeoutError):
        pair.taking.fetch(pair.sender.key, piece)


def test_messages_do_not_wait_behind_a_stream(pair: Pair) -> None:
    from agentkd.messages.bodies import PingRequest

    pair.meet()
    pings: list[float] = []

    def ping(done: int, size: int) -> None:
        if len(pings) < 20:
            pings.append(done)
            pair.receiver.post.send(pair.sender.key, PingRequest(text=str(done)))

    pair.taking.fetch(pair.sender.key, pair.offer(some_bytes(40_000_000)), progress=ping)
    assert pair.receiver.inbox.qsize() >= 15, "the pings were answered while the stream went on"


def test_a_conversation_forgets_what_has_ended() -> None:
    from agentkd.messages.bodies import HelloRequest, PingReply, PingRequest, WelcomeReply

    talk = Conversation(i_coordinate=False, peer_coordinates=False)
    for body, mine in ((HelloRequest(), True), (WelcomeReply(agent="", heartbeat_s=1.0, lease_s=1.0), False)):
        talk.take(talk.judge(body, is_mine=mine, msg_id=1, parent_id=0))
    for number in range(20_000):
        talk.take(talk.judge(PingRequest(), is_mine=True, msg_id=number, parent_id=0))
    assert talk.num_open == 8192
    for number in range(20_000):
        step = talk.judge(PingReply(), is_mine=False, msg_id=1, parent_id=number)
        if step:
            talk.take(step)
    assert talk.num_open == 0


class Granted:
    """A grant that is taken back when a test wants it, and what was noted of streams."""

    def __init__(self, *, is_full: bool = False) -> None:
        self.is_given, self.noted, self.is_full = True, [], is_full

    def leave(self) -> Leave:
        return Leave(self.check, self.note)

    def check(self) -> None:
        if not self.is_given:
            raise RemoteProtocolError("this key may not fetch weights", Rule.GRANT)

    def note(self, num_bytes: int) -> None:
        if self.is_full:
            raise StorageError("audit.jsonl", "No space left on device")
        self.noted.append(num_bytes)


def test_a_stream_begins_only_with_leave_and_each_is_noted(pair: Pair) -> None:
    pair.meet()
    granted, data = Granted(), some_bytes(3_000_000)
    piece, _ = pair.giving._offer(pair.receiver.key, BytesSource(data, digest_bytes(data)), granted.leave())
    for _ in range(2):
        fetched = pair.taking.fetch(pair.sender.key, piece)
        assert bytes(fetched.data) == data
        fetched.release()
    assert granted.noted == [len(data)] * 2
    granted.is_given = False
    with pytest.raises(RemoteAgentError, match="may not fetch weights"):
        pair.taking.fetch(pair.sender.key, piece)
    assert granted.noted == [len(data)] * 2


def test_a_stream_that_runs_ends_with_its_leave(pair: Pair) -> None:
    pair.meet()
    granted, data = Granted(), some_bytes(20_000_000)
    piece, _ = pair.giving._offer(pair.receiver.key, BytesSource(data, digest_bytes(data)), granted.leave())
    came = []

    def take_back(done: int, size: int) -> None:
        came.append(done)
        granted.is_given = False

    with pytest.raises(RemoteAgentError, match="may not fetch weights"):
        pair.taking.fetch(pair.sender.key, piece, progress=take_back)
    assert 0 < came[-1] < len(data)


def test_a_stream_with_all_its_credit_ends_with_its_leave_too(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.meet()
    monkeypatch.setattr(streaming, "CHUNKS_A_TURN", 1)
    monkeypatch.setattr(pair.sender.post, "_tick_s", 0.0)
    pair.sender.post._next_tick = 0.0
    granted, data = Granted(), some_bytes(30_000_000)
    piece, _ = pair.giving._offer(pair.receiver.key, BytesSource(data, digest_bytes(data)), granted.leave())
    greedy = Carrier(pair.receiver.post, None, ways=ONLY_STREAM, chunk_bytes=16 * 1024, window_bytes=2**26)

    def take_back(done: int, size: int) -> None:
        granted.is_given = False

    with pytest.raises(RemoteAgentError, match="may not fetch weights"):
        greedy.fetch(pair.sender.key, piece, progress=take_back)


def test_a_stream_that_cannot_be_noted_is_not_sent(pair: Pair) -> None:
    pair.meet()
    data = some_bytes(300_000)
    piece, _ = pair.giving._offer(pair.receiver.key, BytesSource(data, digest_bytes(data)), Granted(is_full=True).leave())
    with pytest.raises(RemoteAgentError, match="No space left") as caught:
        pair.taking.fetch(pair.sender.key, piece)
    assert caught.value.remote_code == "storage"
