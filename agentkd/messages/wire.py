"""Messages as frames: preamble, header, body, buffers. Decoding is the only way in for bytes from outside, so it is strict.

::

    preamble = "AKDP" major minor type flags     ; exactly 8 octets, checked before anything is parsed
    header   = msgpack map                       ; msg_id, parent_id
    body     = msgpack map                       ; its form is given by type
    buffer   = raw octets                        ; at most 16
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import msgpack
from pydantic import ValidationError

from agentkd.errors import RemoteProtocolError
from agentkd.messages.bodies import NUMBERS, TYPES, Body

MAGIC = b"AKDP"
MAJOR, MINOR = 1, 0
PREAMBLE = struct.Struct("4s4B")
MAX_HEADER_BYTES = 16 * 1024
MAX_BODY_BYTES = 1024 * 1024
MAX_BUFFERS = 16
MAX_BUFFER_BYTES = 2 * 1024**3

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Message:
    """One utterance. ``msg_id`` is unique per sender; ``parent_id`` is the request that a reply answers, else 0."""

    body: Body
    msg_id: int = 0
    parent_id: int = 0
    buffers: tuple[Buffer, ...] = field(default=(), compare=False)


def encode(message: Message) -> list[Buffer]:
    """The frames of a message."""
    preamble = PREAMBLE.pack(MAGIC, MAJOR, MINOR, NUMBERS[type(message.body)], 0)
    header = msgpack.packb({"msg_id": message.msg_id, "parent_id": message.parent_id})
    body = msgpack.packb(message.body.model_dump(mode="json"))
    return [preamble, header, body, *message.buffers]


def decode(frames: Sequence[Buffer]) -> Message:
    """The message in the frames.

    Raises:
        RemoteProtocolError: whatever is wrong with them; nothing else is ever raised.
    """
    if not 3 <= len(frames) <= 3 + MAX_BUFFERS:
        _refuse(f"{len(frames)} frames; expected 3 to {3 + MAX_BUFFERS}")
    preamble, header_bytes, body_bytes, *buffers = frames
    body_type = _read_preamble(preamble)
    if len(header_bytes) > MAX_HEADER_BYTES or len(body_bytes) > MAX_BODY_BYTES:
        _refuse(f"header of {len(header_bytes)} or body of {len(body_bytes)} octets is over its limit")
    if sum(len(buffer) for buffer in buffers) > MAX_BUFFER_BYTES:
        _refuse("buffers are over their limit in all")
    header = _unpack_map(header_bytes, "header")
    msg_id, parent_id = header.get("msg_id"), header.get("parent_id", 0)
    for value in (msg_id, parent_id):
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
            _refuse("header needs msg_id and parent_id as integers below 2^63")
    try:
        body = body_type.model_validate(_unpack_map(body_bytes, "body"))
    except ValidationError as error:
        _refuse(f"{body_type.__name__} is malformed: {error.errors(include_url=False, include_input=False)[:3]}")
    return Message(body=body, msg_id=int(msg_id or 0), parent_id=int(parent_id), buffers=tuple(buffers))


def _read_preamble(preamble: Buffer) -> type[Body]:
    if len(preamble) != PREAMBLE.size:
        _refuse(f"preamble of {len(preamble)} octets; expected {PREAMBLE.size}")
    magic, major, minor, number, flags = PREAMBLE.unpack(preamble)
    if magic != MAGIC:
        _refuse("not an agentkd message")
    if (major, minor) != (MAJOR, MINOR):
        _refuse(f"protocol version {major}.{minor}; this side speaks {MAJOR}.{MINOR}")
    if flags:
        _refuse(f"unknown critical flags {flags:#04x}")
    if number not in TYPES:
        _refuse(f"unknown message type {number}")
    return TYPES[number]


def _unpack_map(data: Buffer, what: str) -> dict[str, Any]:
    try:
        value = msgpack.unpackb(
            data, raw=False, strict_map_key=True, object_pairs_hook=_unique_pairs, ext_hook=_no_extension, max_str_len=100_000
        )
    except RemoteProtocolError:
        raise
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError, OverflowError) as error:
        _refuse(f"{what} is not msgpack: {type(error).__name__}")
    if not isinstance(value, dict):
        _refuse(f"{what} is not a map")
    return value


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        _refuse("a map has a key twice")
    return made


def _no_extension(code: int, data: bytes) -> NoReturn:
    _refuse(f"extension type {code} is not allowed")


def _refuse(reason: str) -> NoReturn:
    raise RemoteProtocolError(reason)
