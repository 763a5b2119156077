"""Clauses on streams. Each looks at one property of what a sender does, and bears whatever else it does."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

from agentkd.canonical import digest_bytes
from agentkd.conformance.clause import Clause, expect, is_there
from agentkd.conformance.knowing import ANSWER_S, Subject, of_a_teacher
from agentkd.conformance.pieces import images
from agentkd.conformance.probe import BrokenClauseError, Probe
from agentkd.errors import ReplyTimeoutError
from agentkd.messages.bodies import (
    ErrorReply,
    KnowledgeReply,
    Piece,
    StreamCancelEvent,
    StreamChunkEvent,
    StreamCreditEvent,
    StreamReply,
    StreamRequest,
    Way,
)
from agentkd.messages.wire import Message
from agentkd.names import Digest

UNKNOWN = Digest("0" * 64)
CHUNK_BYTES = 4096
STREAMED_SIDE = 128
TOO_SHORT = "the piece fits into one chunk: nothing to be seen"


@dataclass
class Flow:
    """What was sent in one stream."""

    chunks: list[StreamChunkEvent] = field(default_factory=list)
    parts: list[bytes] = field(default_factory=list)
    end: StreamReply | None = None


def streaming(num_classes: int) -> list[Clause]:
    """Offers, credit, chunks and their ends."""

    def clause(name: str, text: str, check: Callable[[Probe, Piece], str | None]) -> Clause:
        def check_stream(probe: Probe, subject: Subject) -> str | None:
            answer = _offer(probe, subject, Way.STREAM).body
            if isinstance(answer, ErrorReply):
                return f"the agent does not stream: {answer.text}"
            if not isinstance(answer, KnowledgeReply) or answer.piece.way is not Way.STREAM:
                return "it went by another way"
            return check(probe, answer.piece)

        return Clause(name, text, of_a_teacher(check_stream, num_classes))

    return [
        Clause("stream.unoffered", "what was not offered is not streamed", _unoffered),
        Clause("stream.same", "a piece is the same whether it is streamed or comes inline", of_a_teacher(_same, num_classes)),
        clause("stream.credit", "no byte is sent at or beyond the limit, until it is raised", _credit),
        clause("stream.lower", "less credit than before is ignored", _less_credit),
        clause("stream.chunks", "chunks come in order, each of the length asked for but the last", _chunks),
        clause("stream.checksum", "each chunk has its CRC-32", _checksums),
        clause("stream.end", "a stream ends with the digest and the size of the whole", _end),
        clause("stream.offset", "a stream begins at the offset asked for", _offset),
        clause("stream.beyond", "an offset beyond the end is refused", _beyond),
        clause("stream.again", "another stream of a piece ends the one before", _again),
        clause("stream.cancel", "nothing comes in a stream that was cancelled", _cancelled),
    ]


def _receive(probe: Probe, piece: Piece, *, offset: int = 0, step: int = CHUNK_BYTES) -> Flow:
    """All of a stream, credit for ``step`` bytes more after each chunk."""
    flow, limit = Flow(), offset + step
    number = probe.say(StreamRequest(sha256=piece.sha256, offset=offset, limit=limit, chunk_bytes=CHUNK_BYTES))
    while flow.end is None:
        message = probe.hear(number)
        if isinstance(message.body, StreamReply):
            flow.end = message.body
        elif isinstance(message.body, StreamChunkEvent) and len(message.buffers) == 1:
            flow.chunks.append(message.body)
            flow.parts.append(bytes(message.buffers[0]))
            limit += step
            probe.say(StreamCreditEvent(limit=limit), parent_id=number)
        else:
            text = f": {message.body.text}" if isinstance(message.body, ErrorReply) else ""
            raise BrokenClauseError(f"{type(message.body).__name__} in a stream{text}")
    return flow


def _offer(probe: Probe, subject: Subject, way: Way) -> Message:
    pixels = images(shape=(1, 3, STREAMED_SIDE, STREAMED_SIDE))
    return probe.ask(subject.asking(ways=(way,)), buffers=(pixels,), timeout_s=ANSWER_S)


def _same(probe: Probe, subject: Subject) -> str | None:
    """What comes inline is asked for twice: of an agent that never says the same other clauses tell."""
    inline, offer, again = (_offer(probe, subject, way) for way in (Way.INLINE, Way.STREAM, Way.INLINE))
    if not isinstance(offer.body, KnowledgeReply) or offer.body.piece.way is not Way.STREAM:
        return "the agent does not stream"
    pieces = [bytes(answer.buffers[0]) if answer.buffers else b"" for answer in (inline, again)]
    if not pieces[0] or pieces[0] != pieces[1]:
        return "it did not come inline, or is never the same"
    here, there = (digest_bytes(pieces[0]), len(pieces[0])), (offer.body.piece.sha256, offer.body.piece.size_bytes)
    told = f"inline {here[0][:12]}, {here[1]} bytes; as a stream {there[0][:12]}, {there[1]} bytes"
    expect(here == there, told)
    return None


def _unoffered(probe: Probe) -> None:
    probe.want(ErrorReply, StreamRequest(sha256=UNKNOWN, offset=0, limit=CHUNK_BYTES, chunk_bytes=CHUNK_BYTES))


def _credit(probe: Probe, piece: Piece) -> str:
    """Whoever waits for more credit cannot have sent ahead: nothing more may come though time is given."""
    number = probe.say(StreamRequest(sha256=piece.sha256, offset=0, limit=CHUNK_BYTES, chunk_bytes=CHUNK_BYTES))
    until, sent = CHUNK_BYTES, 0
    for _ in range(2):
        try:
            while True:
                message = probe.hear(number, timeout_s=probe.waits.silence_s)
                if isinstance(message.body, StreamReply):
                    return f"{piece.size_bytes} bytes in all"
                if isinstance(message.body, StreamChunkEvent) and message.buffers:
                    sent = message.body.offset + len(message.buffers[0])
                    expect(sent <= until, f"a chunk up to {sent} beyond the credit of {until}")
        except ReplyTimeoutError:
            until += 2 * CHUNK_BYTES
            probe.say(StreamCreditEvent(limit=until), parent_id=number)
    probe.say(StreamCancelEvent(), parent_id=number)
    return f"{sent} of {piece.size_bytes} bytes"


def _less_credit(probe: Probe, piece: Piece) -> str | None:
    if piece.size_bytes <= CHUNK_BYTES:
        return TOO_SHORT
    number = probe.say(StreamRequest(sha256=piece.sha256, offset=0, limit=CHUNK_BYTES, chunk_bytes=CHUNK_BYTES))
    probe.hear(number)
    for limit in (0, 2 * CHUNK_BYTES, CHUNK_BYTES):
        probe.say(StreamCreditEvent(limit=limit), parent_id=number)
    probe.hear(number)  # the second chunk, or the end of a piece that was sent at once
    probe.say(StreamCancelEvent(), parent_id=number)
    return None


def _chunks(probe: Probe, piece: Piece) -> str:
    flow = _receive(probe, piece, step=3 * CHUNK_BYTES)
    expect(bool(flow.chunks), "no chunk came")
    lengths = [len(part) for part in flow.parts]
    expect(
        all(length == CHUNK_BYTES for length in lengths[:-1]), f"a chunk of {max(lengths)} bytes, {CHUNK_BYTES} were asked for"
    )
    expect(0 < lengths[-1] <= CHUNK_BYTES, f"the last chunk has {lengths[-1]} bytes, {CHUNK_BYTES} were asked for")
    steps = [chunk.offset - flow.chunks[0].offset for chunk in flow.chunks]
    expect(steps == [sum(lengths[:index]) for index in range(len(lengths))], f"chunks at {steps[:4]}..., in no order")
    return f"{len(lengths)} of {CHUNK_BYTES} bytes"


def _checksums(probe: Probe, piece: Piece) -> None:
    flow = _receive(probe, piece)
    for chunk, part in zip(flow.chunks, flow.parts, strict=True):
        expect(zlib.crc32(part) == chunk.crc32, f"the chunk at {chunk.offset} does not have its CRC-32")


def _end(probe: Probe, piece: Piece) -> None:
    flow = _receive(probe, piece)
    whole = b"".join(flow.parts)
    assert flow.end is not None
    told = (flow.end.sha256, flow.end.size_bytes)
    expect(told == (piece.sha256, piece.size_bytes), f"it ends with {told[0][:12]}, {told[1]} bytes; another piece was offered")
    expect(digest_bytes(whole) == piece.sha256, f"the {len(whole)} bytes that came do not have the digest of the piece")


def _offset(probe: Probe, piece: Piece) -> str | None:
    if piece.size_bytes <= CHUNK_BYTES:
        return TOO_SHORT
    whole = b"".join(_receive(probe, piece).parts)
    for offset in (CHUNK_BYTES, 1, piece.size_bytes):
        flow = _receive(probe, piece, offset=offset)
        begins = flow.chunks[0].offset if flow.chunks else piece.size_bytes
        expect(begins == offset, f"a stream from {offset} began at {begins}")
        expect(b"".join(flow.parts) == whole[offset:], f"a stream from {offset} has other bytes than the whole has there")
    return None


def _beyond(probe: Probe, piece: Piece) -> None:
    beyond = piece.size_bytes + 1
    request = StreamRequest(sha256=piece.sha256, offset=beyond, limit=beyond + CHUNK_BYTES, chunk_bytes=CHUNK_BYTES)
    probe.want(ErrorReply, request)


def _again(probe: Probe, piece: Piece) -> str | None:
    if piece.size_bytes <= CHUNK_BYTES:
        return TOO_SHORT
    before = probe.say(StreamRequest(sha256=piece.sha256, offset=0, limit=CHUNK_BYTES, chunk_bytes=CHUNK_BYTES))
    probe.hear(before)
    whole = b"".join(_receive(probe, piece).parts)
    expect(digest_bytes(whole) == piece.sha256, f"the other stream brought {len(whole)} bytes, the piece has {piece.size_bytes}")
    _expect_no_more(probe, before, piece, "after another one of the piece was opened")
    return None


def _cancelled(probe: Probe, piece: Piece) -> str | None:
    if piece.size_bytes <= CHUNK_BYTES:
        return TOO_SHORT
    number = probe.say(StreamRequest(sha256=piece.sha256, offset=0, limit=CHUNK_BYTES, chunk_bytes=CHUNK_BYTES))
    probe.hear(number)
    probe.say(StreamCancelEvent(), parent_id=number)
    _expect_no_more(probe, number, piece, "that was cancelled")
    return None


def _expect_no_more(probe: Probe, number: int, piece: Piece, what: str) -> None:
    """Credit for all of it brings nothing more in a stream that is over."""
    is_there(probe)
    num_before = sum(message.parent_id == number for message in probe.said_since)
    probe.say(StreamCreditEvent(limit=piece.size_bytes), parent_id=number)
    is_there(probe)
    num_after = sum(message.parent_id == number for message in probe.said_since)
    expect(num_after == num_before, f"{num_after - num_before} messages came in a stream {what}")
