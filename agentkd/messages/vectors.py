"""Test vectors: messages as frames, valid ones of every type, and invalid ones that break one rule each.

A vector file is the frames one after the other, each behind its length as four octets, most significant first. Those of tasks are
in ``task_vectors``.
"""

import struct
from dataclasses import dataclass
from typing import Any

import msgpack

from agentkd.architecture import Architecture
from agentkd.errors import RemoteProtocolError, Rule
from agentkd.messages import bodies
from agentkd.messages.bodies import NUMBERS, Body
from agentkd.messages.wire import (
    MAGIC,
    MAJOR,
    MAX_BODY_BYTES,
    MAX_BUFFERS,
    MAX_HEADER_BYTES,
    MINOR,
    PREAMBLE,
    Buffer,
    Message,
    decode,
    encode,
)
from agentkd.names import AgentName, Digest, PublicKey, TaskKey
from agentkd.task import DataSource, Status, TaskResult, Train

SESSION = "0123456789abcdef"
DIGEST, TASK, KEY = Digest("ab" * 32), TaskKey("ab" * 32), PublicKey("k" * 40)
BIG, SMALL = AgentName("big"), AgentName("small")
PING = 7
_PLAIN = (str, int, float, bool, list, dict, type(None))


@dataclass(frozen=True)
class Vector:
    """Frames with a name; ``rule`` is the one they break, empty for valid ones."""

    name: str
    frames: tuple[Buffer, ...]
    rule: str = ""
    note: str = ""


def pack(frames: tuple[Buffer, ...]) -> bytes:
    """The frames as one file."""
    return b"".join(struct.pack(">I", len(frame)) + bytes(frame) for frame in frames)


def unpack(data: bytes) -> tuple[bytes, ...]:
    """The frames of a file."""
    frames, at = [], 0
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        frames.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return tuple(frames)


def readable(vector: Vector) -> dict[str, Any]:
    """The vector for human eyes."""
    shown = [_show(bytes(frame), is_envelope=at == 0) for at, frame in enumerate(vector.frames[:20])]
    told: dict[str, Any] = {"name": vector.name, "rule": vector.rule, "note": vector.note}
    told |= {"answer_to": _number_read(vector)} if vector.rule else {}
    told |= {"num_frames": len(vector.frames), "frames": shown}
    return {name: value for name, value in told.items() if value != ""}


def valid() -> list[Vector]:
    """One message of every type."""
    made = []
    for number, body in _examples().items():
        name = f"{number:02d}_{type(body).__name__}"
        buffers = (b"knowledge",) if isinstance(body, bodies.KnowledgeReply | bodies.StreamChunkEvent) else ()
        opening = 0 if type(body).__name__.endswith("Request") else 3
        made.append(Vector(name, tuple(encode(Message(body, number, opening, SESSION, 0, buffers)))))
    return made


def invalid() -> list[Vector]:
    """Messages that a receiver must refuse or drop, each as near to a good ping as the broken rule allows."""
    good, body = header(), msgpack.packb({"text": "x"})
    whole = envelope(preamble(), good, body)

    def framed(name: str, rule: Rule, note: str, *frames: Buffer) -> Vector:
        return Vector(name, frames, str(rule), note)

    def sealed(name: str, rule: Rule, note: str, start: bytes, head: bytes = good, rest: bytes = body) -> Vector:
        return framed(name, rule, note, envelope(start, head, rest))

    def bad_body(name: str, data: bytes, note: str, rule: Rule = Rule.MSGPACK, number: int = PING) -> Vector:
        return sealed(name, rule, note, preamble(number=number), good, data)

    return [
        framed("frames_too_many", Rule.FRAMES, "more buffers than may be", whole, *[b""] * (MAX_BUFFERS + 1)),
        framed("frames_thousand", Rule.FRAMES, "a thousand extra frames", whole, *[b""] * 1000),
        framed("frames_apart", Rule.FRAMES, "header and body as frames of their own", preamble(), good, body),
        sealed("frames_no_body", Rule.FRAMES, "the body is missing", preamble(), rest=b""),
        framed(
            "frames_long_header", Rule.FRAMES, "a header that ends behind the envelope", preamble(header_size=999) + good + body
        ),
        framed("preamble_empty", Rule.PREAMBLE, "one empty frame", b""),
        framed("preamble_seven", Rule.PREAMBLE, "seven octets", whole[:7]),
        sealed("preamble_magic", Rule.PREAMBLE, "another magic word", preamble(magic=b"AKDQ")),
        framed("preamble_http", Rule.PREAMBLE, "an HTTP request", b"GET / HTTP/1.1\r\n\r\n"),
        sealed("version_major_0", Rule.VERSION, "major version 0", preamble(major=0)),
        sealed("version_major_255", Rule.VERSION, "major version 255", preamble(major=255)),
        sealed("version_minor", Rule.VERSION, "a minor version above the negotiated", preamble(minor=MINOR + 1)),
        sealed("type_unknown", Rule.TYPE, "a type that does not exist", preamble(number=250)),
        sealed("flags_unknown", Rule.FLAGS, "a critical flag that does not exist", preamble(flags=1)),
        sealed("limit_header", Rule.LIMIT, "a header over its limit", preamble(), header(pad="x" * MAX_HEADER_BYTES)),
        sealed("limit_body", Rule.LIMIT, "a body over its limit", preamble(), rest=b"\x00" * (MAX_BODY_BYTES + 1)),
        sealed("header_no_id", Rule.HEADER, "no msg_id", preamble(), msgpack.packb({"session": SESSION})),
        sealed("header_id_bool", Rule.HEADER, "a bool as msg_id", preamble(), header(msg_id=True)),
        sealed("header_id_huge", Rule.HEADER, "2^64 - 1 as msg_id", preamble(), header(msg_id=2**64 - 1)),
        sealed("header_id_zero", Rule.HEADER, "0 as msg_id", preamble(), header(msg_id=0)),
        sealed("header_id_negative", Rule.HEADER, "a negative msg_id", preamble(), header(msg_id=-1)),
        sealed("header_session", Rule.HEADER, "a session that is none", preamble(), header(session="../x")),
        sealed("header_session_long", Rule.HEADER, "a session of 8 KiB", preamble(), header(session="a" * 8192)),
        sealed("session_other", Rule.SESSION, "a session that did not greet", preamble(), header(session="f" * 16)),
        bad_body("msgpack_array_bomb", b"\xdd\xff\xff\xff\xff", "an array of 2^32 - 1 without content"),
        bad_body("msgpack_map_bomb", b"\xdf\xff\xff\xff\xff", "a map of 2^32 - 1 without content"),
        bad_body("msgpack_binary_bomb", b"\xc6\xff\xff\xff\xff", "4 GB of binary without content"),
        bad_body("msgpack_nesting", b"\x91" * 50_000, "fifty thousand nested arrays"),
        bad_body("msgpack_many_lists", b"\xdc" + struct.pack(">H", 50_000) + b"\x90" * 50_000, "too many lists", Rule.LIMIT),
        bad_body("msgpack_integer_key", msgpack.packb({1: "x"}), "an integer as key"),
        bad_body("msgpack_unhashable_key", b"\x81\x90\x01", "an array as key"),
        bad_body("msgpack_duplicate_key", b"\x82\xa4text\xa1x\xa4text\xa1y", "a key twice"),
        bad_body("msgpack_utf8", b"\x81\xa4text\xa2\xff\xff", "text that is not UTF-8"),
        bad_body("msgpack_trailing", body + b"\x00", "an octet after the body"),
        bad_body("msgpack_extension", msgpack.packb({"text": msgpack.ExtType(4, b"x")}), "an extension type"),
        bad_body("msgpack_reserved", b"\xc1", "the octet that msgpack never uses"),
        bad_body("msgpack_binary", msgpack.packb({"text": b"x"}), "binary where text belongs"),
        bad_body("msgpack_binary_empty", msgpack.packb({"text": "x", "more": b""}), "binary without octets, in an unknown key"),
        bad_body("msgpack_list", msgpack.packb(["x"]), "a list instead of a map"),
        bad_body("body_text_null", msgpack.packb({"text": None}), "null for text", Rule.BODY),
        bad_body("body_text_long", msgpack.packb({"text": "x" * 65_537}), "text over its limit", Rule.BODY),
        bad_body("body_negative", _body(leases=[-1]), "a negative number", Rule.BODY, NUMBERS[bodies.ReleaseEvent]),
        bad_body("body_bool_as_int", _body(leases=[True]), "a bool as a number", Rule.BODY, NUMBERS[bodies.ReleaseEvent]),
        bad_body("body_null", _body(kind=None, weights=DIGEST), "null for a required field", Rule.BODY, 30),
        bad_body("body_missing", _body(kind="weights"), "a required field is missing", Rule.BODY, 30),
        bad_body("body_path_as_digest", _body(kind="weights", weights="../../x"), "a path as digest", Rule.BODY, 30),
        bad_body("body_nan", _progress(loss=float("nan")), "NaN as loss", Rule.BODY, 11),
        bad_body("body_infinite", _progress(loss=float("inf")), "infinity as loss", Rule.BODY, 11),
        bad_body("body_newline_in_name", _hello(agent="a\nb"), "a newline in a name", Rule.BODY, 1),
        bad_body("body_nul_in_name", _hello(agent="a\0b"), "a NUL in a name", Rule.BODY, 1),
        bad_body("body_long_name", _hello(agent="a" * 65_536), "a name of 64 KiB", Rule.BODY, 1),
    ]


def preamble(
    magic: bytes = MAGIC, major: int = MAJOR, minor: int = MINOR, number: int = PING, flags: int = 0, header_size: int = 0
) -> bytes:
    """A preamble, wrong where asked for."""
    return PREAMBLE.pack(magic, major, minor, number, flags, header_size)


def envelope(start: bytes, head: bytes, rest: bytes) -> bytes:
    """The one frame of preamble, header and body; the preamble gets the header's size."""
    return start[: PREAMBLE.size - 2] + struct.pack(">H", len(head)) + head + rest


def header(**changes: Any) -> bytes:
    """A header, wrong where asked for."""
    return msgpack.packb({"msg_id": 1000, "parent_id": 0, "session": SESSION} | changes)


def _body(**fields: Any) -> bytes:
    return msgpack.packb(fields)


def _hello(**changes: Any) -> bytes:
    return msgpack.packb(bodies.HelloRequest().model_dump(mode="json") | changes)


def _progress(**changes: Any) -> bytes:
    return msgpack.packb({"task": TASK, "attempt": 1, "step": 1, "steps": 2, "loss": 1.0} | changes)


def _examples() -> dict[int, Body]:
    """A body of every type, all with the same small values."""
    source = DataSource(spec="generated:seed=7,size=64x64", content_digest=DIGEST)
    architecture = Architecture(family="unet", num_classes=5)
    task = Train(architecture=architecture, data=source)
    address = bodies.PeerAddress(agent=BIG, endpoints=("tcp://127.0.0.1:5555",), public_key=KEY)
    admitted = bodies.AdmittedPeer(agent=BIG, public_key=KEY, may=("soft_targets",))
    piece = bodies.Piece(way=bodies.Way.INLINE, size_bytes=9, sha256=DIGEST)
    listed: list[Body] = [
        bodies.HelloRequest(agent=SMALL, endpoints=("tcp://127.0.0.1:5556",), capabilities=("stream",), device="cpu"),
        bodies.WelcomeReply(agent=SMALL, heartbeat_s=1.0, lease_s=20.0, bulk_endpoints=("tcp://127.0.0.1:5557",)),
        bodies.HeartbeatEvent(progress=3, is_busy=True),
        bodies.PeersEvent(peers=(admitted,)),
        bodies.LeaveRequest(),
        bodies.LeftEvent(reason="asked to leave"),
        bodies.PingRequest(text="hello"),
        bodies.PingReply(text="hello"),
        bodies.StatusRequest(),
        bodies.StatusReply(progress=3, is_busy=False, counters={"messages_sent": 1}, refused={"order": 1}),
        bodies.SubmitRequest(task=task, label="training of small"),
        bodies.SubmitReply(task=TASK, result=TaskResult(status=Status.COMPLETED, weights=DIGEST, miou=0.5)),
        bodies.TaskRequest(task=task, attempt=1, teachers=(bodies.TaughtBy(weights=DIGEST, peer=address),)),
        bodies.TaskProgressEvent(task=TASK, attempt=1, step=1, steps=2, loss=0.5, miou=0.25, received_bytes=4096, waited_s=0.25),
        bodies.TaskReply(task=TASK, attempt=1, result=TaskResult(status=Status.COMPLETED, weights=DIGEST, miou=0.5)),
        bodies.CancelRequest(task=TASK, attempt=1),
        bodies.TeachRequest(architecture=architecture, weights=DIGEST, data=source),
        bodies.TeachReply(weights=DIGEST),
        bodies.TeacherMovedEvent(weights=DIGEST, peer=address),
        bodies.KnowledgeRequest(
            kind=bodies.KnowledgeKind.SOFT_TARGETS, weights=DIGEST, num_classes=5, dataset=DIGEST, views=((3, 41), (4, 42))
        ),
        bodies.KnowledgeReply(kind=bodies.KnowledgeKind.SOFT_TARGETS, weights=DIGEST, piece=piece, teacher_s=0.5),
        bodies.ReleaseEvent(leases=(1, 2)),
        bodies.AssessRequest(num_classes=5),
        bodies.AssessReply(weights=DIGEST, num_images=2, known_fraction=0.5, predicted=(0.5, 0.5)),
        bodies.StreamRequest(sha256=DIGEST, offset=0, limit=16_777_216, chunk_bytes=1_048_576),
        bodies.StreamChunkEvent(offset=0, crc32=1),
        bodies.StreamCreditEvent(limit=25_165_824),
        bodies.StreamCancelEvent(),
        bodies.StreamReply(sha256=DIGEST, size_bytes=9),
        bodies.ErrorReply(code="artifact", remote_type="ArtifactNotFoundError", text="no artifact", retryable=True),
    ]
    return dict(sorted((NUMBERS[type(body)], body) for body in listed))


def _number_read(vector: Vector) -> int:
    """``parent_id`` of the refusal: the number of the message, if it is read before what is wrong with it is found."""
    try:
        return decode(vector.frames).msg_id
    except RemoteProtocolError as error:
        return error.msg_id


def _show(frame: bytes, *, is_envelope: bool) -> Any:
    """An envelope in its three parts, another frame as hexadecimal digits."""
    if not is_envelope or len(frame) < PREAMBLE.size:
        return _show_part(frame)
    at = PREAMBLE.size + int.from_bytes(frame[PREAMBLE.size - 2 : PREAMBLE.size])
    return {
        "preamble": _show_part(frame[: PREAMBLE.size]),
        "header": _show_part(frame[PREAMBLE.size : at]),
        "body": _show_part(frame[at:]),
    }


def _show_part(frame: bytes) -> Any:
    """Octets as data if they are msgpack of a map, else as hexadecimal digits (the first 64 octets)."""
    try:
        value = msgpack.unpackb(frame) if len(frame) < 4096 else None
        if isinstance(value, dict) and all(isinstance(key, str) for key in value) and value == value:
            return {
                name: item if isinstance(item, str | int | float | bool | list | dict | None) else repr(item)
                for name, item in value.items()
            }
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError):
        pass
    return f"{len(frame)} octets: {frame[:64].hex()}{'...' if len(frame) > 64 else ''}"
