"""Messages as frames (protocols/protocol.md, section 1) and tensors as safetensors files (section 4), by hand."""

import json
import math
import struct

import msgpack
import numpy as np

TYPES = {
    "HelloRequest": 1, "WelcomeReply": 2, "HeartbeatEvent": 3, "PeersEvent": 4, "LeaveRequest": 5, "LeftEvent": 6,
    "PingRequest": 7, "PingReply": 8, "StatusRequest": 9, "TaskRequest": 10, "TaskProgressEvent": 11, "TaskReply": 12,
    "CancelRequest": 13, "StatusReply": 14, "SubmitRequest": 15, "SubmitReply": 16, "TeachRequest": 20, "TeachReply": 21,
    "TeacherMovedEvent": 22, "KnowledgeRequest": 30, "KnowledgeReply": 31, "ReleaseEvent": 32, "AssessRequest": 33,
    "AssessReply": 34, "StreamRequest": 40, "StreamChunkEvent": 41, "StreamCreditEvent": 42, "StreamCancelEvent": 43,
    "StreamReply": 44, "ErrorReply": 99,
}  # fmt: skip
NAMES = {number: name for name, number in TYPES.items()}
OF_COORDINATORS = {
    "PeersEvent",
    "StatusRequest",
    "TaskRequest",
    "CancelRequest",
    "TeachRequest",
    "LeaveRequest",
    "TeacherMovedEvent",
}
OF_AGENTS = {"HelloRequest", "HeartbeatEvent", "LeftEvent", "SubmitRequest", "TaskProgressEvent", "TaskReply"}
DTYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}
PREAMBLE = struct.Struct(">4s4BH")
MEBIBYTE = 1024**2


class Refusal(Exception):
    """An ErrorReply: a stable code, a text and, of code ``protocol``, the rule that was broken by the message of that number."""

    def __init__(self, code: str, text: str, rule: str = "", number: int = 0) -> None:
        super().__init__(text)
        self.body, self.number = {"code": code, "text": text, "rule": rule, "remote_type": "Refusal"}, number


def expect(is_so: bool, rule: str, text: str, number: int = 0) -> None:
    if not is_so:
        raise Refusal("protocol", text, rule, number)


def read_text(text: object) -> str:
    expect(isinstance(text, str) and len(text) <= 65_536, "body", "text is no text, or too long")
    return text


def encode(name: str, header: dict, body: dict, buffers: list) -> list:
    head = msgpack.packb(header)
    return [PREAMBLE.pack(b"AKDP", 2, 0, TYPES[name], 0, len(head)) + head + msgpack.packb(body), *buffers]


def decode(frames: list) -> tuple[str, dict, dict, list]:
    expect(1 <= len(frames) <= 17, "frames", f"{len(frames)} frames")
    envelope, buffers = frames[0], frames[1:]
    expect(len(envelope) >= PREAMBLE.size and envelope[:4] == b"AKDP", "preamble", "no message")
    _, major, minor, number, flags, size = PREAMBLE.unpack_from(envelope)
    expect((major, minor) == (2, 0), "version", "this side speaks 2.0")
    expect(flags == 0, "flags", "an unknown flag")
    expect(number in NAMES, "type", f"no message has the type {number}")
    head, rest = envelope[PREAMBLE.size : PREAMBLE.size + size], envelope[PREAMBLE.size + size :]
    expect(len(rest) > 0, "frames", "no body")
    expect(len(head) <= 16_384, "limit", "a header over its limit")
    header = {"parent_id": 0, "deadline_ms": 0} | read_map(head)
    numbers, session = [header.get(name) for name in ("msg_id", "parent_id", "deadline_ms")], header.get("session")
    expect(all(type(n) is int and 0 <= n < 2**63 for n in numbers) and numbers[0] > 0, "header", "a number is missing or wrong")
    is_session = isinstance(session, str) and len(session) == 16 and not set(session) - set("0123456789abcdef")
    expect(is_session, "header", "the session is missing or wrong")
    is_small = len(rest) <= MEBIBYTE and sum(map(len, buffers)) <= 64 * MEBIBYTE
    expect(is_small, "limit", "a body or buffers over their limit", numbers[0])
    return NAMES[number], header, read_map(rest, numbers[0]), buffers


def read_map(data: bytes, number: int = 0) -> dict:
    containers = []

    def count(value):
        containers.append(1)
        expect(len(containers) <= 16_384, "limit", "too many lists and maps", number)
        expect(bytes not in map(type, value), "msgpack", "a binary value", number)
        return value

    def unique(pairs):
        made = dict(pairs)
        count([*made, *made.values()])
        expect(len(made) == len(pairs), "msgpack", "a key stands twice", number)
        return made

    limits = {"max_str_len": 262_144, "max_bin_len": 0, "max_ext_len": 0}
    try:
        value = msgpack.unpackb(data, strict_map_key=True, object_pairs_hook=unique, list_hook=count, **limits)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise Refusal("protocol", f"not msgpack: {error}", "msgpack", number) from None
    expect(isinstance(value, dict), "msgpack", "not a map", number)
    return value


def write_tensors(tensors: dict, metadata: str = "") -> bytes:
    header, end = {"__metadata__": {"agentkd": metadata}} if metadata else {}, 0
    for name, value in tensors.items():
        dtype = next(name for name, dtype in DTYPES.items() if value.dtype == dtype)
        header[name] = {"dtype": dtype, "shape": value.shape, "data_offsets": [end, end := end + value.nbytes]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(value.tobytes() for value in tensors.values())


def read_tensors(data: bytes) -> dict:
    try:
        (size,) = struct.unpack_from("<Q", data)
        expect(size <= MEBIBYTE, "tensors", "a header over its limit")
        header, begin, tensors, end = json.loads(data[8 : 8 + size]), 8 + size, {}, 0
        entries = [(name, entry) for name, entry in header.items() if name != "__metadata__"]
        for name, entry in sorted(entries, key=lambda one: one[1]["data_offsets"]):
            count, dtype = math.prod(entry["shape"]), DTYPES[entry["dtype"]]
            expect(entry["data_offsets"] == [end, end := end + count * dtype.itemsize], "tensors", "a hole or an overlap")
            tensors[name] = np.frombuffer(data, dtype, count, begin + end - count * dtype.itemsize).reshape(entry["shape"])
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refusal("protocol", f"not safetensors: {error}", "tensors") from None
    is_whole = begin + end == len(data) and all(np.isfinite(value).all() for value in tensors.values())
    expect(is_whole, "tensors", "cut short, too long, or not finite")
    return tensors
