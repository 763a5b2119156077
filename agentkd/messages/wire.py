"""Messages as frames: an envelope, then buffers. Decoding is the only way in for bytes from outside, so it is strict.

::

    envelope = preamble header body              ; one frame: each further frame costs a small message as much as the first
    preamble = "AKDP" major minor type flags header-size
    header   = msgpack map                       ; msg_id, parent_id, session, deadline_ms
    body     = msgpack map                       ; its form is given by type
    buffer   = raw octets                        ; at most 16, a frame each
"""

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import msgpack
from pydantic import ValidationError

from agentkd.errors import RemoteProtocolError, Rule
from agentkd.messages.bodies import NUMBERS, TYPES, Body
from agentkd.visible import visible

MAGIC = b"AKDP"
MAJOR, MINOR = 2, 0
PREAMBLE = struct.Struct(">4s4BH")
TYPE_AT = 6
MAX_HEADER_BYTES = 16 * 1024
MAX_BODY_BYTES = 1024 * 1024
MAX_BUFFERS = 16
MAX_MESSAGE_BYTES = 64 * 1024**2
MAX_STRING_BYTES = 256 * 1024
MAX_CONTAINERS = 16_384
SESSION = re.compile(r"[0-9a-f]{16}")

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Message:
    """One utterance.

    Args:
        msg_id: unique per sender and session, from 1.
        parent_id: the opening message of the dialogue that this one continues, else 0.
        session: 16 hexadecimal digits, new at each start of the sender's process.
        deadline_ms: how long after its arrival an answer is still wanted; 0 means always.
    """

    body: Body
    msg_id: int = 1
    parent_id: int = 0
    session: str = "0" * 16
    deadline_ms: int = 0
    buffers: tuple[Buffer, ...] = field(default=(), compare=False)


def encode(message: Message) -> list[Buffer]:
    """The frames of a message."""
    header = {"msg_id": message.msg_id, "parent_id": message.parent_id, "session": message.session}
    if message.deadline_ms:
        header["deadline_ms"] = message.deadline_ms
    body = msgpack.packb(message.body.model_dump(mode="json"))
    return [seal(NUMBERS[type(message.body)], msgpack.packb(header), body), *message.buffers]


def seal(number: int, header: bytes, body: bytes) -> bytes:
    """The envelope of a message of that type."""
    return PREAMBLE.pack(MAGIC, MAJOR, MINOR, number, 0, len(header)) + header + body


def seal_plain(kind: type[Body], header: dict[str, Any], body: dict[str, Any]) -> bytes:
    """The envelope of a message with any entries in header and body, which nobody has checked."""
    return seal(NUMBERS[kind], msgpack.packb(header), msgpack.packb(body))


def type_of(frames: Sequence[Buffer]) -> int:
    """The type number that frames claim, without further checks; 0 if there is none."""
    return frames[0][TYPE_AT] if frames and len(frames[0]) >= PREAMBLE.size else 0


def decode(frames: Sequence[Buffer]) -> Message:
    """The message in the frames.

    Raises:
        RemoteProtocolError: whatever is wrong with them, with the rule that was broken; nothing else is ever raised.
    """
    if not 1 <= len(frames) <= 1 + MAX_BUFFERS:
        _refuse(Rule.FRAMES, f"{len(frames)} frames; expected 1 to {1 + MAX_BUFFERS}")
    envelope, *buffers = frames
    body_type, header_size = _read_preamble(envelope)
    end = PREAMBLE.size + header_size
    header_bytes, body_bytes = envelope[PREAMBLE.size : end], envelope[end:]
    if not body_bytes:
        _refuse(Rule.FRAMES, "the envelope ends before its body")
    if len(header_bytes) > MAX_HEADER_BYTES:
        _refuse(Rule.LIMIT, f"a header of {len(header_bytes)} octets is over the limit of {MAX_HEADER_BYTES}")
    header = _unpack_map(header_bytes, "header")
    numbers = [header.get("msg_id"), header.get("parent_id", 0), header.get("deadline_ms", 0)]
    for value in numbers:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
            _refuse(Rule.HEADER, "header needs msg_id, parent_id and deadline_ms as integers from 0 to 2^63 - 1")
    if not numbers[0]:
        _refuse(Rule.HEADER, "msg_id is 0, which as parent_id means that no message is continued")
    session = header.get("session")
    if not isinstance(session, str) or not SESSION.fullmatch(session):
        _refuse(Rule.HEADER, "header needs a session of 16 hexadecimal digits")
    msg_id, parent_id, deadline_ms = numbers
    try:  # from here on it is known what is answered by this, and whoever waits for it is told
        if len(body_bytes) > MAX_BODY_BYTES:
            _refuse(Rule.LIMIT, f"a body of {len(body_bytes)} octets is over the limit of {MAX_BODY_BYTES}")
        if sum(len(buffer) for buffer in buffers) > MAX_MESSAGE_BYTES:
            _refuse(Rule.LIMIT, f"buffers are over {MAX_MESSAGE_BYTES} octets in all; longer pieces go as streams")
        body = body_type.from_wire(_unpack_map(body_bytes, "body"))
    except RemoteProtocolError as error:
        error.msg_id, error.parent_id = msg_id, parent_id
        raise
    except (ValidationError, ValueError, TypeError) as error:
        text = f"{body_type.__name__} is malformed: {_explain(error)}"
        raise RemoteProtocolError(text, Rule.BODY, msg_id, parent_id) from None
    return Message(body, msg_id, parent_id, session, deadline_ms, tuple(buffers))


def acting_texts(frames: Sequence[Buffer]) -> tuple[str, ...]:
    """The texts in the body of a message that would act on a terminal or hide, as escapes; ``decode`` escapes them too, silently.

    Raises:
        RemoteProtocolError: the frames are no message.
    """
    _, header_size = _read_preamble(frames[0])
    texts, waiting = list[str](), list[object]([_unpack_map(memoryview(frames[0])[PREAMBLE.size + header_size :], "body")])
    while waiting:
        value = waiting.pop()
        if isinstance(value, str) and visible(value) != value:
            texts.append(visible(value))
        waiting += [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
    return tuple(texts)


def _read_preamble(envelope: Buffer) -> tuple[type[Body], int]:
    if len(envelope) < PREAMBLE.size:
        _refuse(Rule.PREAMBLE, f"an envelope of {len(envelope)} octets; a preamble has {PREAMBLE.size}")
    magic, major, minor, number, flags, header_size = PREAMBLE.unpack_from(envelope)
    if magic != MAGIC:
        _refuse(Rule.PREAMBLE, "not an agentkd message")
    if (major, minor) != (MAJOR, MINOR):
        _refuse(Rule.VERSION, f"protocol version {major}.{minor}; this side speaks {MAJOR}.{MINOR}")
    if flags:
        _refuse(Rule.FLAGS, f"unknown critical flags {flags:#04x}")
    if number not in TYPES:
        _refuse(Rule.TYPE, f"unknown message type {number}")
    return TYPES[number], header_size


def _unpack_map(data: Buffer, what: str) -> dict[str, Any]:
    seen = _Containers()
    try:
        value = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            object_pairs_hook=seen.unique_pairs,
            list_hook=seen.count,
            ext_hook=_no_extension,
            max_str_len=MAX_STRING_BYTES,
            max_bin_len=0,
            max_ext_len=0,
        )
    except RemoteProtocolError:
        raise
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError, OverflowError) as error:
        _refuse(Rule.MSGPACK, f"{what} is not msgpack: {type(error).__name__}")
    if not isinstance(value, dict):
        _refuse(Rule.MSGPACK, f"{what} is not a map")
    return value


class _Containers:
    """Counts lists and maps while they are made, so that few octets cannot become many objects."""

    def __init__(self) -> None:
        self._count = 0

    def count(self, value: list[Any]) -> list[Any]:
        self._count += 1
        if self._count > MAX_CONTAINERS:
            _refuse(Rule.LIMIT, f"more than {MAX_CONTAINERS} lists and maps")
        if bytes in map(type, value):  # that without octets passes msgpack's own limit
            _refuse(Rule.MSGPACK, "a binary value")
        return value

    def unique_pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        self.count([*made, *made.values()])
        if len(made) != len(pairs):
            _refuse(Rule.MSGPACK, "a map has a key twice")
        return made


def _no_extension(code: int, data: bytes) -> NoReturn:
    _refuse(Rule.MSGPACK, f"extension type {code} is not allowed")


def _explain(error: ValueError | TypeError) -> str:
    if isinstance(error, ValidationError):
        found = error.errors(include_url=False, include_input=False, include_context=False)[:3]
        return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in found)
    return str(error)[:200]


def _refuse(rule: Rule, reason: str) -> NoReturn:
    raise RemoteProtocolError(reason, rule)
