"""What an agent must do, clause by clause. Each is a function of a probe; it returns a remark or raises ``BrokenClauseError``."""

import json
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from agentkd.architecture import Architecture
from agentkd.canonical import digest_bytes
from agentkd.conformance.probe import BrokenClauseError, Probe
from agentkd.errors import AgentKDError, ReplyTimeoutError, Rule
from agentkd.messages import vectors
from agentkd.messages.bodies import (
    AssessReply,
    AssessRequest,
    CancelRequest,
    ErrorReply,
    HeartbeatEvent,
    HelloRequest,
    KnowledgeKind,
    KnowledgeReply,
    KnowledgeRequest,
    LeaveRequest,
    LeftEvent,
    PingReply,
    PingRequest,
    StatusReply,
    StatusRequest,
    StreamChunkEvent,
    StreamCreditEvent,
    StreamReply,
    StreamRequest,
    TaskReply,
    TaskRequest,
    Way,
    WelcomeReply,
)
from agentkd.names import NO_DIGEST, NOBODY, Digest, TaskKey
from agentkd.task import DataSource, Train

UNKNOWN, UNGREETED = Digest("0" * 64), "0" * 16
SILENCE_S = 0.5
CHUNK_BYTES = 4096
IMAGES, SIDE = 2, 64
HEARTBEAT_WAIT_S = 10.0
GREETING = HelloRequest(agent=NOBODY, capabilities=("stream",), window_bytes=4 * CHUNK_BYTES)


@dataclass(frozen=True)
class Clause:
    """One thing an agent must do; ``name`` begins with the dialogue or the set of vectors it belongs to."""

    name: str
    text: str
    check: Callable[[Probe], str | None]


@dataclass(frozen=True)
class ClauseVerdict:
    """How an agent stands to a clause."""

    clause: Clause
    is_kept: bool
    remark: str


def play(probe: Probe, clauses: tuple[Clause, ...]) -> Iterator[ClauseVerdict]:
    """Checks clause after clause, each whatever came of those before."""
    for clause in clauses:
        probe.forget()
        try:
            yield ClauseVerdict(clause, True, clause.check(probe) or "")
        except (BrokenClauseError, AgentKDError) as error:
            yield ClauseVerdict(clause, False, str(error))


def all_clauses(num_classes: int, *, may_end: bool) -> tuple[Clause, ...]:
    """Every clause in the order in which it must be checked; the last one ends the agent, if it may."""
    listed = [
        Clause("join.first", "what is said before the greeting is refused by a rule of its own", _speak_first),
        Clause("join.greeting", "a greeting is answered with a welcome, or the agent greets itself", _greet),
        Clause("join.again", "the same greeting in the same session does no harm", _greet_again),
        Clause("join.other", "another greeting in the same session is refused", _greet_otherwise),
        Clause("life.heartbeat", "heartbeats come", _heartbeat),
        Clause("ping", "a ping is said back", _ping),
        Clause("status", "the coordinator is told how the agent is", _status),
        Clause("knowledge.unknown", "weights that are not there are answered with an error", _unknown_weights),
        Clause("stream.unoffered", "what was not offered is not streamed", _unoffered),
        Clause("assess", "images are assessed, or refused with an error", lambda probe: _assess(probe, num_classes)),
        Clause(
            "knowledge.soft_targets", "images get soft targets, always the same", lambda probe: _soft_targets(probe, num_classes)
        ),
        Clause(
            "stream.credit", "a stream keeps to its credit and ends with the digest", lambda probe: _stream(probe, num_classes)
        ),
        Clause("task.impossible", "a task that cannot be done is answered with an error that names it", _impossible_task),
        Clause("task.fence", "a task of an attempt that is over is refused", _earlier_attempt),
        Clause("cancel.unknown", "cancelling what is not there does no harm", _cancel_nothing),
    ]
    listed += [Clause(f"invalid.{v.name}", f"{v.note} is refused", _refuses(v)) for v in vectors.invalid()]
    if may_end:
        listed.append(Clause("leave", "an agent that is asked to leave says so", _leave))
    return tuple(listed)


def _speak_first(probe: Probe) -> str | None:
    if probe.is_listening:
        return "the agent dials: nothing to be checked"
    try:
        answer = probe.reach(PingRequest(), session=UNGREETED, timeout_s=30.0).body
    except ReplyTimeoutError:
        return "dropped"
    _expect_refusal(answer, Rule.GREETING, Rule.SESSION)  # the latter if this key greeted before the check began
    return None


def _greet(probe: Probe) -> str:
    answer = probe.greet(GREETING, timeout_s=30.0).body
    _expect(isinstance(answer, WelcomeReply | HelloRequest), f"the greeting was answered with {type(answer).__name__}")
    return f"{type(answer).__name__} with {', '.join(getattr(answer, 'capabilities', ())) or 'no'} capabilities"


def _greet_again(probe: Probe) -> str | None:
    if probe.is_listening:
        return "the agent dials: nothing to be checked"
    _expect(isinstance(probe.ask(GREETING).body, WelcomeReply), "it was not welcomed")
    return None


def _greet_otherwise(probe: Probe) -> str | None:
    if probe.is_listening:
        return "the agent dials: nothing to be checked"
    _expect_refusal(probe.ask(GREETING.model_copy(update={"device": "another"})).body, Rule.ORDER)
    return None


def _heartbeat(probe: Probe) -> None:
    while not isinstance(probe.hear(timeout_s=HEARTBEAT_WAIT_S).body, HeartbeatEvent):
        pass


def _ping(probe: Probe) -> None:
    for text in ("", "hello", "\u00e4\u4e2d", "x" * 65_536):
        _expect(probe.want(PingReply, PingRequest(text=text)).text == text, "the text is not the same")


def _status(probe: Probe) -> str:
    return f"{sum(probe.want(StatusReply, StatusRequest()).refused.values())} messages refused so far"


def _unknown_weights(probe: Probe) -> None:
    probe.want(ErrorReply, KnowledgeRequest(kind=KnowledgeKind.WEIGHTS, weights=UNKNOWN))


def _unoffered(probe: Probe) -> None:
    probe.want(ErrorReply, StreamRequest(sha256=UNKNOWN, offset=0, limit=CHUNK_BYTES, chunk_bytes=CHUNK_BYTES))


def _task(seed: int) -> Train:
    architecture = Architecture(family="no_such_module:network", num_classes=2)
    source = DataSource(spec="generated:seed=1,size=32x32,train=4,validation=2,test=2", content_digest=UNKNOWN)
    return Train(architecture=architecture, data=source, seed=seed)


def _impossible_task(probe: Probe) -> str:
    task = _task(1)
    error = probe.want(ErrorReply, TaskRequest(task=task, attempt=3), timeout_s=30.0)
    _expect((error.task, error.attempt) == (task.key, 3), "the error does not name task and attempt")
    return error.code


def _earlier_attempt(probe: Probe) -> None:
    answer = probe.ask(TaskRequest(task=_task(1), attempt=2), timeout_s=30.0).body
    _expect(not isinstance(answer, TaskReply), "a task of an earlier attempt was done")
    _expect_refusal(answer, Rule.FENCE)


def _cancel_nothing(probe: Probe) -> None:
    probe.say(CancelRequest(task=TaskKey(UNKNOWN), attempt=1), parent_id=999_999)
    _is_there(probe)


def _assess(probe: Probe, num_classes: int) -> str:
    answer = probe.ask(AssessRequest(num_classes=num_classes), buffers=(_images(),), timeout_s=60.0).body
    if isinstance(answer, ErrorReply):
        return f"refused: {answer.text}"
    _expect(isinstance(answer, AssessReply), f"answered with {type(answer).__name__}")
    assert isinstance(answer, AssessReply)
    _expect(answer.num_images == IMAGES, f"{answer.num_images} images instead of {IMAGES}")
    _expect(len(answer.predicted) == num_classes, f"{len(answer.predicted)} classes instead of {num_classes}")
    _expect(abs(sum(answer.predicted) - 1) < 1e-3, "the shares of the classes do not add up to one")
    return f"known {answer.known_fraction}"


def _soft_targets(probe: Probe, num_classes: int) -> str:
    weights = _taught_weights(probe, num_classes)
    if not weights:
        return "the agent teaches nothing"
    first, second = (_ask_soft_targets(probe, weights, num_classes, Way.INLINE) for _ in range(2))
    piece, buffer = first
    _expect(piece.piece.way is Way.INLINE and len(buffer) == piece.piece.size_bytes, "no inline piece of the size it names")
    _expect(digest_bytes(buffer) == piece.piece.sha256, "the piece does not have its digest")
    _expect(second[1] == buffer, "the same request got other bytes")
    shape = _shape_of_logits(buffer)
    _expect(shape[:2] == [IMAGES, num_classes] and len(shape) == 4, f"logits of shape {shape}")
    probe.want(ErrorReply, _soft_targets_request(weights, num_classes + 1, Way.INLINE), buffers=(_images(),))
    return f"logits {shape}"


def _stream(probe: Probe, num_classes: int) -> str:
    weights = _taught_weights(probe, num_classes)
    if not weights:
        return "the agent teaches nothing"
    request = _soft_targets_request(weights, num_classes, Way.STREAM)
    answer = probe.ask(request, buffers=(_images(),), timeout_s=60.0).body
    if isinstance(answer, ErrorReply):
        return f"the agent does not stream: {answer.text}"
    assert isinstance(answer, KnowledgeReply)
    data, limit = bytearray(), CHUNK_BYTES
    number = probe.say(StreamRequest(sha256=answer.piece.sha256, offset=0, limit=limit, chunk_bytes=CHUNK_BYTES))
    while True:
        message = probe.hear(number)
        chunk = message.body
        if isinstance(chunk, StreamReply):
            break
        _expect(isinstance(chunk, StreamChunkEvent), f"{type(chunk).__name__} in a stream")
        assert isinstance(chunk, StreamChunkEvent)
        part = bytes(message.buffers[0])
        _expect(chunk.offset == len(data), f"a chunk at {chunk.offset} after {len(data)} bytes")
        _expect(chunk.offset + len(part) <= limit, f"a chunk up to {chunk.offset + len(part)} beyond the credit of {limit}")
        _expect(zlib.crc32(part) == chunk.crc32, "a chunk does not have its CRC-32")
        data += part
        limit += CHUNK_BYTES
        probe.say(StreamCreditEvent(limit=limit), parent_id=number)
    _expect(digest_bytes(data) == answer.piece.sha256 == chunk.sha256, "the stream does not have its digest")
    return f"{len(data)} bytes in chunks of {CHUNK_BYTES}"


def _refuses(vector: vectors.Vector) -> Callable[[Probe], str | None]:
    def check(probe: Probe) -> str | None:
        probe.send(list(vector.frames))
        try:
            while True:
                answer = probe.hear(timeout_s=SILENCE_S).body
                if not isinstance(answer, HeartbeatEvent):
                    break
        except ReplyTimeoutError:
            _is_there(probe)
            return "dropped"
        _expect_refusal(answer, Rule(vector.rule))
        _is_there(probe)
        return None

    return check


def _leave(probe: Probe) -> None:
    _expect(isinstance(probe.ask(LeaveRequest(), timeout_s=30.0).body, LeftEvent), "it did not say that it leaves")


def _is_there(probe: Probe) -> None:
    probe.want(PingReply, PingRequest(text="there?"))


def _taught_weights(probe: Probe, num_classes: int) -> Digest:
    """The digest of what the agent teaches; empty if it teaches nothing."""
    answer = probe.ask(AssessRequest(num_classes=num_classes), buffers=(_images(),), timeout_s=60.0).body
    return answer.weights if isinstance(answer, AssessReply) else NO_DIGEST


def _soft_targets_request(weights: Digest, num_classes: int, way: Way) -> KnowledgeRequest:
    return KnowledgeRequest(
        kind=KnowledgeKind.SOFT_TARGETS, weights=weights, num_classes=num_classes, codec="float32", ways=(way,)
    )


def _ask_soft_targets(probe: Probe, weights: Digest, num_classes: int, way: Way) -> tuple[KnowledgeReply, bytes]:
    answer = probe.ask(_soft_targets_request(weights, num_classes, way), buffers=(_images(),), timeout_s=60.0)
    if not isinstance(answer.body, KnowledgeReply):
        raise BrokenClauseError(f"soft targets were answered with {type(answer.body).__name__}")
    return answer.body, bytes(answer.buffers[0]) if answer.buffers else b""


def _images() -> bytes:
    """A safetensors file of small images, made without any tensor library."""
    count = IMAGES * 3 * SIDE * SIDE
    header = json.dumps({"images": {"dtype": "F32", "shape": [IMAGES, 3, SIDE, SIDE], "data_offsets": [0, 4 * count]}}).encode()
    header += b" " * (-len(header) % 8)
    values = struct.pack(f"<{count}f", *((index % 17) / 17 for index in range(count)))
    return struct.pack("<Q", len(header)) + header + values


def _shape_of_logits(data: bytes) -> list[int]:
    try:
        (size,) = struct.unpack_from("<Q", data)
        return list(json.loads(data[8 : 8 + size])["logits"]["shape"])
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise BrokenClauseError(f"the piece is no safetensors file with logits: {error}") from error


def _expect(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise BrokenClauseError(otherwise)


def _expect_refusal(answer: object, *rules: Rule) -> None:
    if not isinstance(answer, ErrorReply) or answer.code != "protocol":
        raise BrokenClauseError(f"it was answered with {type(answer).__name__} instead of an error of code 'protocol'")
    if answer.rule not in rules:
        raise BrokenClauseError(f"it was refused by the rule {answer.rule!r} instead of {str(rules[0])!r}")
