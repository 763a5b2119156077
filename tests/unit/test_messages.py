"""Messages survive the wire, and any other bytes are refused with one kind of error."""

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sides import header

from agentkd.errors import RemoteProtocolError, Rule
from agentkd.messages import bodies
from agentkd.messages.vectors import envelope, invalid, preamble
from agentkd.messages.wire import MAX_BODY_BYTES, Message, decode, encode

DIGESTS = st.integers(0, 2**256 - 1).map(lambda value: f"{value:064x}")
MESSAGES = st.one_of(
    st.builds(bodies.HeartbeatEvent, progress=st.integers(0, 2**62), is_busy=st.booleans()),
    st.builds(bodies.CancelRequest, task=DIGESTS, attempt=st.integers(0, 2**31)),
    st.builds(
        bodies.TaskProgressEvent,
        task=DIGESTS,
        attempt=st.integers(0, 9),
        step=st.integers(0, 10**6),
        steps=st.integers(0, 10**6),
        loss=st.floats(allow_nan=False, allow_infinity=False),
        miou=st.none() | st.floats(0, 1),
    ),
    st.builds(
        bodies.KnowledgeRequest,
        kind=st.sampled_from(bodies.KnowledgeKind),
        weights=DIGESTS,
        views=st.lists(st.tuples(st.integers(0, 2**62), st.integers(0, 2**62)), max_size=8).map(tuple),
    ),
)
HEADER = header()


@given(body=MESSAGES, number=st.integers(1, 2**62), buffers=st.lists(st.binary(max_size=50), max_size=3))
def test_decode_gives_back_what_was_encoded(body, number, buffers) -> None:
    message = Message(body, msg_id=number, parent_id=7, buffers=tuple(buffers))
    decoded = decode(encode(message))
    assert decoded == message and decoded.buffers == message.buffers


@settings(max_examples=300)
@given(frames=st.lists(st.binary(max_size=60), max_size=6), number=st.sampled_from([*bodies.TYPES, 200]))
def test_any_frames_decode_or_are_refused(frames, number) -> None:
    for candidate in (
        frames,
        [envelope(preamble(number=number), HEADER, b"".join(frames[:1])), *frames[1:]],
        [preamble(number=number), *frames],
    ):
        try:
            decode(candidate)
        except RemoteProtocolError:
            continue


@settings(max_examples=300)
@given(body=MESSAGES, data=st.data())
def test_a_flipped_byte_decodes_or_is_refused(body, data) -> None:
    frames = [bytearray(frame) for frame in encode(Message(body, msg_id=3))]
    frame = data.draw(st.sampled_from([f for f in frames if f]))
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        decode(frames)
    except RemoteProtocolError:
        return


NOT_A_NUMBER = next(vector for vector in invalid() if vector.name == "body_nan")
GOOD_BODY = msgpack.packb({"progress": 1, "is_busy": False})
CASES = {
    "no frames": [],
    "empty preamble": [b""],
    "seven octets": [preamble(number=3)[:7]],
    "wrong magic": [envelope(preamble(number=3, magic=b"HTTP"), HEADER, GOOD_BODY)],
    "major 0": [envelope(preamble(number=3, major=0), HEADER, GOOD_BODY)],
    "major 255": [envelope(preamble(number=3, major=255), HEADER, GOOD_BODY)],
    "minor above": [envelope(preamble(number=3, minor=9), HEADER, GOOD_BODY)],
    "unknown type": [envelope(preamble(number=250), HEADER, GOOD_BODY)],
    "critical flag": [envelope(preamble(number=3, flags=1), HEADER, GOOD_BODY)],
    "missing body": [envelope(preamble(number=3), HEADER, b"")],
    "a thousand frames": [envelope(preamble(number=3), HEADER, GOOD_BODY)] + [b""] * 1000,
    "body over limit": [envelope(preamble(number=3), HEADER, b"\xc4" + b"x" * MAX_BODY_BYTES)],
    "array bomb": [envelope(preamble(number=3), HEADER, b"\xdd\xff\xff\xff\xff")],
    "map bomb": [envelope(preamble(number=3), HEADER, b"\xdf\xff\xff\xff\xff")],
    "binary bomb": [envelope(preamble(number=3), HEADER, b"\xc6\xff\xff\xff\xff")],
    "deep nesting": [envelope(preamble(number=3), HEADER, b"\x91" * 500_000)],
    "integer key": [envelope(preamble(number=3), HEADER, msgpack.packb({1: 2}))],
    "duplicate key": [envelope(preamble(number=3), HEADER, b"\x82\xa1a\x01\xa1a\x02")],
    "bad utf-8": [envelope(preamble(number=3), HEADER, b"\x81\xa1a\xa2\xff\xff")],
    "trailing octets": [envelope(preamble(number=3), HEADER, GOOD_BODY + b"\x00")],
    "extension type": [envelope(preamble(number=3), HEADER, msgpack.packb({"progress": msgpack.ExtType(4, b"x")}))],
    "reserved octet": [envelope(preamble(number=3), HEADER, b"\xc1")],
    "a list": [envelope(preamble(number=3), HEADER, msgpack.packb([1]))],
    "not a number": list(NOT_A_NUMBER.frames),
    "negative count": [envelope(preamble(number=3), HEADER, msgpack.packb({"progress": -1, "is_busy": False}))],
    "null for a required field": [envelope(preamble(number=3), HEADER, msgpack.packb({"progress": None, "is_busy": False}))],
    "message number too large": [envelope(preamble(number=3), header(msg_id=2**64 - 1), GOOD_BODY)],
    "no session": [envelope(preamble(number=3), header(session="xyz"), GOOD_BODY)],
    "bool as a number": [envelope(preamble(number=3), HEADER, msgpack.packb({"progress": True, "is_busy": False}))],
    "a million empty lists": [
        envelope(preamble(number=3), HEADER, b"\x91" + b"\xdd" + (900_000).to_bytes(4) + b"\x90" * 900_000)
    ],
    "bool as message number": [envelope(preamble(number=3), header(msg_id=True), GOOD_BODY)],
}


@pytest.mark.parametrize("frames", CASES.values(), ids=CASES)
def test_bad_frames_are_refused(frames) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(frames)


def test_unknown_optional_fields_are_ignored() -> None:
    body = msgpack.packb({"progress": 1, "is_busy": False, "from_the_future": 3})
    assert decode([envelope(preamble(number=3), HEADER, body)]).body == bodies.HeartbeatEvent(progress=1, is_busy=False)


@pytest.mark.parametrize("rest", [msgpack.packb({"task": 3}), b"\xc1"], ids=["another shape", "no msgpack"])
def test_a_refusal_names_the_message_if_its_number_could_be_read(rest: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode([envelope(preamble(number=10), header(msg_id=77), rest)])
    assert caught.value.msg_id == 77
    with pytest.raises(RemoteProtocolError) as caught:
        decode([envelope(preamble(number=10), header(msg_id="77"), rest)])
    assert caught.value.msg_id == 0


UNKNOWN = {"of_a_later_version": [{"a": 1}]}
PEER = {"agent": "b", "endpoints": [], "public_key": "k" * 40} | UNKNOWN
RESULT = {"status": "completed", "history": [{"epoch": 1, "loss": 1.0, "seconds": 1.0} | UNKNOWN]} | UNKNOWN
NESTED: dict[str, tuple[type[bodies.Body], dict[str, Any]]] = {
    "peers": (bodies.PeersEvent, {"peers": [PEER | {"may": []}]}),
    "a teacher's peer": (bodies.TeacherMovedEvent, {"weights": "a" * 64, "peer": PEER}),
    "a piece and its handle": (
        bodies.KnowledgeReply,
        {
            "kind": "weights",
            "weights": "a" * 64,
            "piece": {
                "way": "shared",
                "size_bytes": 1,
                "handle": {"pid": 1, "descriptor": 1, "inode": 1, "offset": 0, "lease": 1} | UNKNOWN,
            }
            | UNKNOWN,
        },
    ),
    "payloads and settings of views": (
        bodies.KnowledgeRequest,
        {
            "kind": "feature_maps",
            "weights": "a" * 64,
            "payloads": [{"form": "features", "tap": "a"} | UNKNOWN],
            "view_settings": {"flip": 0.0} | UNKNOWN,
        },
    ),
    "a result": (bodies.TaskReply, {"task": "a" * 64, "attempt": 1, "result": RESULT}),
    "a result that is told": (bodies.SubmitReply, {"task": "a" * 64, "result": RESULT}),
}


@pytest.mark.parametrize(("kind", "fields"), NESTED.values(), ids=NESTED)
def test_unknown_fields_are_ignored_inside_of_others_too(kind: type[bodies.Body], fields: dict[str, Any]) -> None:
    read = kind.from_wire(fields | UNKNOWN)
    assert "of_a_later_version" not in str(read) and read == kind.from_wire(without_unknown(fields))


def without_unknown(plain: Any) -> Any:
    if isinstance(plain, dict):
        return {name: without_unknown(value) for name, value in plain.items() if name not in UNKNOWN}
    return [without_unknown(one) for one in plain] if isinstance(plain, list) else plain


WORK = {"kind": "train", "architecture": {"family": "unet", "num_classes": 3}, "data": {"spec": "s", "content_digest": "d"}}
LATER: dict[str, tuple[type[bodies.Body], dict[str, Any]]] = {
    "a task": (bodies.TaskRequest, {"task": WORK | UNKNOWN, "attempt": 1}),
    "its recipe": (bodies.TaskRequest, {"task": WORK | {"recipe": UNKNOWN}, "attempt": 1}),
    "a task that is handed in": (bodies.SubmitRequest, {"task": WORK | {"data": WORK["data"] | UNKNOWN}}),
    "an architecture": (bodies.TeachRequest, {"architecture": WORK["architecture"] | UNKNOWN, "weights": "a" * 64}),
    "data": (
        bodies.TeachRequest,
        {"architecture": WORK["architecture"], "weights": "a" * 64, "data": WORK["data"] | UNKNOWN},
    ),
}


@pytest.mark.parametrize(("kind", "fields"), LATER.values(), ids=LATER)
def test_what_goes_by_the_digest_of_all_that_it_says_has_no_unknown_fields(kind: type[bodies.Body], fields: Any) -> None:
    with pytest.raises(ValueError, match="of_a_later_version"):
        kind.from_wire(fields)
    kind.from_wire(without_unknown(fields))


@pytest.mark.parametrize("what", ["body", "buffers"])
def test_what_is_too_long_is_refused_with_the_number_of_what_it_answers(what: str) -> None:
    said = Message(bodies.PingReply(text="x"), msg_id=7, parent_id=5)
    [envelope] = encode(said)
    frames = [bytes(envelope) + b"\xc0" * 2**20] if what == "body" else [envelope, bytes(64 * 2**20 + 1)]
    with pytest.raises(RemoteProtocolError, match="over") as refused:
        decode(frames)
    assert (refused.value.rule, refused.value.msg_id, refused.value.parent_id) == (Rule.LIMIT, 7, 5)
