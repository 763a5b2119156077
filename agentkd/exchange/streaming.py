"""Streams on the I/O thread: what this process sends in chunks as credit allows, and what it receives.

A piece can be streamed by a peer only if it was offered to that peer. A receiver that sees no chunk for a while, or a gap, or
a damaged chunk, opens the stream again where it stands.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from isal.isal_zlib import crc32

from agentkd.errors import (
    AgentKDError,
    ArtifactCorruptError,
    ArtifactNotFoundError,
    RemoteAgentError,
    RemoteProtocolError,
    ReplyTimeoutError,
    Rule,
    StorageError,
)
from agentkd.exchange.sources import Sink, Source
from agentkd.exchange.streams import ChunkTaken, Inflow, Outflow
from agentkd.messages.bodies import (
    Body,
    ErrorReply,
    StreamCancelEvent,
    StreamChunkEvent,
    StreamCreditEvent,
    StreamReply,
    StreamRequest,
)
from agentkd.messages.wire import Buffer, Message
from agentkd.names import Digest, PublicKey

CHUNKS_A_TURN = 4
MAX_OFFERS = 256
MAX_DAMAGED = 5
STALL_S = 2.0
GIVE_UP_S = 60.0

log = logging.getLogger(__name__)


class StreamPost(Protocol):
    """What streams need of the post."""

    def send_now(
        self, peer: PublicKey, body: Body, *, parent_id: int = 0, buffers: tuple[Buffer, ...] = (), bulk: bool = False
    ) -> int: ...


def _always() -> None: ...


def _unnoted(num_bytes: int) -> None: ...


@dataclass(frozen=True)
class Leave:
    """Under which a piece is streamed, asked for each stream of it and again while it runs. Called on the I/O thread.

    Args:
        check: raises ``RemoteProtocolError`` where the peer may not have the piece any more, ``StorageError`` as ``note``.
        note: is told of each stream how many bytes it is to bring; raises ``StorageError`` where it cannot note that.
    """

    check: Callable[[], None] = _always
    note: Callable[[int], None] = _unnoted


ANYWAY = Leave()


@dataclass
class _Sending:
    flow: Outflow
    source: Source
    leave: Leave
    pending: tuple[StreamChunkEvent, Buffer] | None = None


@dataclass
class Receipt:
    """A stream that is being received. ``progress`` and ``done`` are called on the I/O thread and must not block."""

    peer: PublicKey
    sha256: Digest
    flow: Inflow
    sink: Sink
    chunk_bytes: int
    progress: Callable[[int], None]
    done: Callable[[AgentKDError | None], None]
    number: int = 0
    num_opened: int = 0
    num_damaged: int = 0
    opened_at: float = 0.0
    heard_at: float = field(default_factory=time.monotonic)
    moved_at: float = field(default_factory=time.monotonic)


class Streams:
    """Every stream of one post. Only its I/O thread calls this, except where ``channel.call`` brings a call there."""

    def __init__(self, speaker: StreamPost) -> None:
        self._speaker = speaker
        self._offers: OrderedDict[tuple[PublicKey, Digest], tuple[Source, Leave]] = OrderedDict()
        self._sending: dict[tuple[PublicKey, int], _Sending] = {}
        self._receiving: dict[tuple[PublicKey, int], Receipt] = {}
        self._unopened: list[Receipt] = []
        self.is_blocked = False

    def offer(self, peer: PublicKey, source: Source, leave: Leave = ANYWAY) -> None:
        """Lets a peer stream this piece, as long as it has leave.

        The oldest offers are forgotten; whoever comes too late asks for the piece again.
        """
        self._offers[peer, source.sha256] = source, leave
        self._offers.move_to_end((peer, source.sha256))
        while len(self._offers) > MAX_OFFERS:
            self._offers.popitem(last=False)

    def open(self, receipt: Receipt) -> None:
        """Begins to receive."""
        if receipt.flow.is_done:
            receipt.done(None)
            return
        self._unopened.append(receipt)
        self._open_what_waits()

    def cancel(self, receipt: Receipt) -> None:
        """Stops receiving; ``done`` is not called."""
        if self._receiving.pop((receipt.peer, receipt.number), None):
            self._speaker.send_now(receipt.peer, StreamCancelEvent(), parent_id=receipt.number)
        self._unopened = [item for item in self._unopened if item is not receipt]

    def peer_gone(self, peer: PublicKey) -> None:
        """Forgets what is being sent to a peer whose session ended; what is received from it is opened again."""
        self._sending = {key: sending for key, sending in self._sending.items() if key[0] != peer}
        for key in [key for key in self._receiving if key[0] == peer]:
            self._unopened.append(self._receiving.pop(key))

    def handles(self, body: Body, peer: PublicKey, parent_id: int) -> bool:
        """Whether a message is about a stream."""
        if isinstance(body, ErrorReply):
            return (peer, parent_id) in self._receiving
        return isinstance(body, StreamRequest | StreamChunkEvent | StreamCreditEvent | StreamCancelEvent | StreamReply)

    def receive(self, peer: PublicKey, message: Message) -> None:
        """Takes a message about a stream.

        Raises:
            RemoteProtocolError: the peer broke a rule.
        """
        body, key = message.body, (peer, message.parent_id)
        if isinstance(body, StreamRequest):
            self._begin_sending(peer, message.msg_id, body)
        elif isinstance(body, StreamCreditEvent):
            if key in self._sending and self._has_leave(*key):
                self._sending[key].flow.grant(body.limit)
        elif isinstance(body, StreamCancelEvent):
            self._sending.pop(key, None)
        elif key in self._receiving:
            receipt = self._receiving[key]
            if isinstance(body, StreamChunkEvent):
                self._take(receipt, body, message.buffers)
            elif isinstance(body, StreamReply):
                self._finish(receipt, body)
            elif isinstance(body, ErrorReply):
                self._end(receipt, RemoteAgentError(peer[:8], body.code, body.remote_type, body.text))

    def pump(self) -> bool:
        """Sends a few chunks of each stream; true if more could be sent at once."""
        self.is_blocked = False
        more = False
        for (peer, number), sending in list(self._sending.items()):
            for _ in range(CHUNKS_A_TURN):
                if not self._prepare(peer, number, sending):
                    break
                assert sending.pending
                chunk, data = sending.pending
                if not self._speaker.send_now(peer, chunk, parent_id=number, buffers=(data,), bulk=True):
                    self.is_blocked = True
                    break
                sending.pending = None
            else:
                more = True
            if sending.flow.is_done and sending.pending is None and (peer, number) in self._sending:
                reply = StreamReply(sha256=sending.source.sha256, size_bytes=sending.source.size_bytes)
                if self._speaker.send_now(peer, reply, parent_id=number, bulk=True):
                    del self._sending[peer, number]
                else:
                    self.is_blocked = True
        return more

    def tick(self, now: float) -> None:
        """Ends what has no leave any more, opens again what has stalled, and gives up what makes no progress at all."""
        for key in list(self._sending):
            self._has_leave(*key)
        self._open_what_waits()
        for receipt in [*self._receiving.values(), *self._unopened]:
            if now - receipt.moved_at > GIVE_UP_S:
                self.cancel(receipt)
                receipt.done(ReplyTimeoutError(receipt.peer[:8], "StreamRequest", now - receipt.moved_at))
            elif receipt.number and now - max(receipt.heard_at, receipt.opened_at) > STALL_S:
                self._open_again(receipt)

    def _begin_sending(self, peer: PublicKey, number: int, request: StreamRequest) -> None:
        source, leave = self._offers.get((peer, request.sha256), (None, ANYWAY))
        if source is None:
            error = ArtifactNotFoundError(request.sha256, "what was offered to this peer; ask for the knowledge again")
            self._speaker.send_now(
                peer,
                ErrorReply(code=error.code, remote_type=type(error).__name__, text=str(error), retryable=True),
                parent_id=number,
            )
            return
        if request.offset > source.size_bytes:
            raise RemoteProtocolError(f"offset {request.offset} is beyond the end, {source.size_bytes}", Rule.CREDIT)
        for key in [key for key, old in self._sending.items() if key[0] == peer and old.source.sha256 == request.sha256]:
            del self._sending[key]
        try:
            leave.check()
            leave.note(source.size_bytes - request.offset)
        except (RemoteProtocolError, StorageError) as error:  # what cannot be noted is not handed over
            self._speaker.send_now(peer, ErrorReply.of(error), parent_id=number)
            return
        flow = Outflow(source.size_bytes, request.offset, request.limit, request.chunk_bytes)
        self._sending[peer, number] = _Sending(flow, source, leave)

    def _has_leave(self, peer: PublicKey, number: int) -> bool:
        """Whether a stream may go on; one that may not has ended, and its receiver is told why."""
        try:
            self._sending[peer, number].leave.check()
        except (RemoteProtocolError, StorageError) as error:
            del self._sending[peer, number]
            self._speaker.send_now(peer, ErrorReply.of(error), parent_id=number)
            return False
        return True

    def _prepare(self, peer: PublicKey, number: int, sending: _Sending) -> bool:
        """Reads the next chunk that credit allows; false if there is none."""
        if sending.pending is not None:
            return True
        due = sending.flow.next_chunk()
        if due is None:
            return False
        try:
            data = sending.source.read(*due)
        except OSError as error:
            del self._sending[peer, number]
            text = f"cannot read {sending.source.sha256}: {error}"
            self._speaker.send_now(
                peer, ErrorReply(code=StorageError.code, remote_type=type(error).__name__, text=text), parent_id=number
            )
            return False
        sending.pending = (StreamChunkEvent(offset=due[0], crc32=crc32(data)), data)
        return True

    def _take(self, receipt: Receipt, chunk: StreamChunkEvent, buffers: tuple[Buffer, ...]) -> None:
        receipt.heard_at = time.monotonic()
        if len(buffers) != 1:
            raise RemoteProtocolError(f"a chunk with {len(buffers)} buffers", Rule.CREDIT)
        data = buffers[0]
        try:
            taken = None if crc32(data) != chunk.crc32 else receipt.flow.take(chunk.offset, len(data))
        except RemoteProtocolError as error:
            self.cancel(receipt)
            self._end(receipt, error)
            raise
        if taken is None:
            receipt.num_damaged += 1
            if receipt.num_damaged > MAX_DAMAGED:
                self.cancel(receipt)
                self._end(receipt, RemoteProtocolError(f"chunk at {chunk.offset} is damaged again and again", Rule.DAMAGE))
            else:
                self._open_again(receipt)
        elif taken is ChunkTaken.GAP:
            self._open_again(receipt)
        elif taken is ChunkTaken.NEXT:
            receipt.moved_at = receipt.heard_at
            try:
                receipt.sink.write(chunk.offset, data)
            except OSError as error:
                self.cancel(receipt)
                self._end(receipt, StorageError.of("the received piece", error))
                return
            receipt.progress(receipt.flow.offset)
            due = receipt.flow.credit_due()
            if due is not None:
                self._speaker.send_now(receipt.peer, StreamCreditEvent(limit=due), parent_id=receipt.number, bulk=True)

    def _finish(self, receipt: Receipt, reply: StreamReply) -> None:
        if reply.size_bytes != receipt.flow.size or reply.sha256 != receipt.sha256:
            error = ArtifactCorruptError(f"stream from {receipt.peer[:8]}", receipt.sha256, reply.sha256)
            self._end(receipt, error)
        elif receipt.flow.is_done:
            self._end(receipt, None)
        else:
            self._receiving.pop((receipt.peer, receipt.number), None)
            self._restart(receipt)

    def _open_again(self, receipt: Receipt) -> None:
        self.cancel(receipt)
        self._restart(receipt)

    def _restart(self, receipt: Receipt) -> None:
        log.info("stream of %s goes on at %d", receipt.sha256[:12], receipt.flow.offset)
        receipt.number = 0
        self._unopened.append(receipt)
        self._open_what_waits()

    def _open_what_waits(self) -> None:
        waiting, self._unopened = self._unopened, []
        for receipt in waiting:
            flow = receipt.flow
            request = StreamRequest(
                sha256=receipt.sha256, offset=flow.offset, limit=flow.opening_limit(), chunk_bytes=receipt.chunk_bytes
            )
            receipt.number = self._speaker.send_now(receipt.peer, request, bulk=True)
            if receipt.number:
                receipt.opened_at = time.monotonic()
                receipt.num_opened += 1
                self._receiving[receipt.peer, receipt.number] = receipt
            else:
                self._unopened.append(receipt)

    def _end(self, receipt: Receipt, error: AgentKDError | None) -> None:
        self._receiving.pop((receipt.peer, receipt.number), None)
        receipt.done(error)
