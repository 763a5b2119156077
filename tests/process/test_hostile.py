"""Bad input against a live agent: every case gives a typed error or is dropped, and the agent goes on as before.

Cases are numbered as in the list that the library promises to withstand: framing 1-20, identity 21-30, msgpack 31-48, tensors
49-61, names 65; streams and the journal, 62-64 and 66, are in ``unit/test_lying_streams.py``. Vectors are played from files.
"""

import json
import os
import random
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import torch
import zmq
from fuzz import mangle
from live_agent import NETWORK, LiveAgent, start_agent
from sides import RawPeer, say_as_stranger

from agentkd.canonical import digest_bytes
from agentkd.conformance.probe import Probe
from agentkd.coordinator.dispatch import Dispatcher
from agentkd.coordinator.events import Ended, Joined
from agentkd.errors import ReplyTimeoutError, Rule
from agentkd.exchange.keys import new_key_pair
from agentkd.knowledge.weights import encode_weights
from agentkd.messages import vectors
from agentkd.messages.bodies import (
    NUMBERS,
    AdmittedPeer,
    AssessRequest,
    ErrorReply,
    HelloRequest,
    KnowledgeRequest,
    LeaveRequest,
    PeersEvent,
    PingReply,
    PingRequest,
    StatusReply,
    StatusRequest,
    TaskRequest,
    TeachReply,
    TeachRequest,
)
from agentkd.messages.vectors import envelope, header, preamble
from agentkd.messages.wire import MAX_BODY_BYTES, Message, encode, type_of
from agentkd.networks.build import build
from agentkd.networks.families import resolve
from agentkd.task import DataSource, Task, Train

pytestmark = pytest.mark.process
MAX_GROWTH_BYTES = 64 * 1024**2
ANSWER_S = 1.0  # a hundred milliseconds on a quiet machine; tests share theirs with the agents of other tests
STRANGERS_AT_ONCE = 50
NUM_FUZZED = int(os.environ.get("AGENTKD_FUZZED", "2000"))
NUM_STRANGERS = int(os.environ.get("AGENTKD_STRANGERS", "200"))
CUT_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(15) + b"\x01"
NOTHING = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
DIGEST = "ab" * 32
Vector = {vector.name: vector for vector in vectors.invalid()}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveAgent]:
    made = start_agent(tmp_path_factory.mktemp("live"))
    yield made
    made.kill()


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[LiveAgent]:
    """An agent for one test, which may leave it with work to do."""
    made = start_agent(tmp_path)
    yield made
    made.kill()


@pytest.fixture
def probe(live: LiveAgent) -> Iterator[Probe]:
    """The coordinator's end, greeted; afterwards the agent must be as well as before."""
    with live.probe() as made:
        made.greet()
        made.forget()
        before = live.memory()
        yield made
        began = time.monotonic()
        assert made.want(PingReply, PingRequest(text="well?")).text == "well?"
        assert time.monotonic() - began < ANSWER_S
        assert live.process.poll() is None and live.memory() - before < MAX_GROWTH_BYTES


def refusals(probe: Probe) -> dict[str, int]:
    return dict(probe.want(StatusReply, StatusRequest()).refused)


def refused_by(probe: Probe, rule: Rule, act: Callable[[], Any]) -> None:
    """The act is counted under this rule, and answered, if at all, with this rule."""
    before = refusals(probe).get(str(rule), 0)
    act()
    try:
        while True:
            answer = probe.hear(timeout_s=0.3).body
            if isinstance(answer, ErrorReply):
                assert (answer.code, answer.rule) == ("protocol", rule)
                break
    except ReplyTimeoutError:
        pass
    assert refusals(probe).get(str(rule), 0) == before + 1


VECTORS = {
    1: "frames_apart",
    2: "preamble_empty",
    3: "preamble_seven",
    4: "preamble_magic",
    5: "version_major_0",
    6: "version_major_255",
    7: "version_minor",
    8: "type_unknown",
    9: "flags_unknown",
    10: "frames_no_body",
    11: "frames_thousand",
    12: "limit_body",
    31: "msgpack_array_bomb",
    32: "msgpack_map_bomb",
    33: "msgpack_binary_bomb",
    36: "msgpack_integer_key",
    37: "msgpack_unhashable_key",
    38: "msgpack_duplicate_key",
    39: "msgpack_utf8",
    40: "msgpack_trailing",
    41: "msgpack_extension",
    42: "msgpack_reserved",
    44: "header_id_huge",
    45: "body_negative",
    46: "body_bool_as_int",
    47: "body_null",
}


@pytest.mark.parametrize(("number", "name"), VECTORS.items(), ids=[f"case{n}_{name}" for n, name in VECTORS.items()])
def test_vectors(probe: Probe, number: int, name: str) -> None:
    refused_by(probe, Rule(Vector[name].rule), lambda: probe.send(list(Vector[name].frames)))


def test_case13_a_message_over_the_total_limit_though_its_frames_are_under_theirs(probe: Probe) -> None:
    frames = encode(Message(PingRequest(), 1, 0, probe.session, 0, (bytes(33 * 1024**2),) * 2))
    refused_by(probe, Rule.LIMIT, lambda: probe.send(frames))


def test_case13_a_message_that_does_not_end_is_cut_off_before_it_is_there(alone: LiveAgent) -> None:
    """ZeroMQ hands a message over when its last frame has come, and gathers the others until then. This one has 60 of 16 MiB."""
    frame = bytes(16 * 1024**2)
    with alone.probe() as probe, RawPeer(alone.endpoint, alone.public_key, alone.coordinator, session="7" * 16) as endless:
        probe.greet()
        refused, before = refusals(probe).get("limit", 0), alone.memory()
        endless.socket.send_multipart([encode(Message(PingRequest()))[0]] + [frame] * 60, zmq.DONTWAIT, copy=False)
        most, began = before, time.monotonic()
        while refusals(probe).get("limit", 0) == refused:
            most = max(most, alone.memory())
            assert time.monotonic() - began < 20
        assert most - before < 256 * 1024**2
    with alone.probe() as probe:
        probe.session = "8" * 16
        probe.greet(timeout_s=20)
        assert alone.memory() - before < MAX_GROWTH_BYTES


@pytest.mark.parametrize(
    "noise",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", os.urandom(4096)],
    ids=["case14_http", "case15_tls", "case16_random"],
)
def test_other_protocols_on_the_same_port(probe: Probe, live: LiveAgent, noise: bytes) -> None:
    host, _, port = live.endpoint.removeprefix("tcp://").partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as stranger:
        stranger.sendall(noise)


@pytest.mark.parametrize("mechanism", ["null", "plain", "unknown key"], ids=["case17_null", "case18_plain", "case21_unknown_key"])
def test_strangers_are_not_heard(probe: Probe, live: LiveAgent, mechanism: str) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as raw:
        raw.linger = 0
        if mechanism == "plain":
            raw.plain_username, raw.plain_password = b"admin", b"admin"
        elif mechanism == "unknown key":
            pair = new_key_pair()
            raw.curve_publickey, raw.curve_secretkey = pair.public.encode(), pair.secret.encode()
            raw.curve_serverkey = live.public_key.encode()
        raw.connect(live.endpoint)
        say_as_stranger(raw, encode(Message(HelloRequest())))
        assert not raw.poll(500)


def test_of_many_strangers_none_is_admitted(probe: Probe, live: LiveAgent) -> None:
    """Sessions with keys that nobody knows; AGENTKD_STRANGERS says how many."""
    received = probe.want(StatusReply, StatusRequest()).counters["messages_received"]
    for _ in range(NUM_STRANGERS // STRANGERS_AT_ONCE):
        with zmq.Context() as context:
            poller = zmq.Poller()
            for _ in range(STRANGERS_AT_ONCE):
                raw, pair = context.socket(zmq.DEALER), new_key_pair()
                raw.linger = 0
                raw.curve_publickey, raw.curve_secretkey = pair.public.encode(), pair.secret.encode()
                raw.curve_serverkey = live.public_key.encode()
                raw.connect(live.endpoint)
                say_as_stranger(raw, encode(Message(HelloRequest())))
                poller.register(raw, zmq.POLLIN)
            assert not poller.poll(200)
            context.destroy(linger=0)
    assert probe.want(StatusReply, StatusRequest()).counters["messages_received"] - received < 5


@pytest.mark.parametrize(
    "sent", [b"", b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(15) + b"\x01"], ids=["case19_held", "case20_cut"]
)
def test_handshakes_that_stop_half_way_hold_nothing_up(probe: Probe, live: LiveAgent, sent: bytes) -> None:
    host, _, port = live.endpoint.removeprefix("tcp://").partition(":")
    held = [socket.create_connection((host, int(port)), timeout=5) for _ in range(20)]
    try:
        for stranger in held:
            stranger.sendall(sent or b"\xff")
        assert probe.want(PingReply, PingRequest(text="meanwhile")).text == "meanwhile"
    finally:
        for stranger in held:
            stranger.close()


def test_case22_a_revoked_key_is_not_heard_any_more(probe: Probe, live: LiveAgent) -> None:
    guest = new_key_pair()
    probe.say(PeersEvent(peers=(AdmittedPeer(agent="guest", public_key=guest.public, may=("assessment",)),)))
    probe.want(PingReply, PingRequest())
    with Probe(live.endpoint, guest, live.public_key) as other:
        other.greet()
        other.want(PingReply, PingRequest(text="admitted"))
        probe.say(PeersEvent(peers=()))
        probe.want(PingReply, PingRequest())
        other.say(PingRequest(text="revoked"))
        with pytest.raises(ReplyTimeoutError):
            other.hear(timeout_s=0.5)


def test_cases_23_24_27_30_what_a_peer_may_not_pretend(probe: Probe, live: LiveAgent) -> None:
    """Another's routing id, another's name, another session, and what only the coordinator may say."""
    guest = new_key_pair()
    probe.say(PeersEvent(peers=(AdmittedPeer(agent="guest", public_key=guest.public, may=("assessment",)),)))
    probe.want(PingReply, PingRequest())
    with zmq.Context() as context, context.socket(zmq.DEALER) as thief:
        thief.linger, thief.routing_id = 0, b"another agent"
        thief.curve_publickey, thief.curve_secretkey = guest.public.encode(), guest.secret.encode()
        thief.curve_serverkey = live.public_key.encode()
        thief.connect(live.endpoint)
        refused_by(probe, Rule.GREETING, lambda: thief.send_multipart(encode(Message(StatusRequest(), session="1" * 16))))
    with Probe(live.endpoint, guest, live.public_key) as other:
        assert other.greet(HelloRequest(agent="coordinator")).body.rule == Rule.IDENTITY
        other.greet(HelloRequest(agent="guest"))
        assert other.ask(PingRequest(), session="2" * 16).body.rule == Rule.SESSION
        assert other.ask(StatusRequest()).body.rule == Rule.ROLE
        assert other.ask(KnowledgeRequest(kind="weights", weights=live.weights)).body.rule == Rule.GRANT


def test_cases_25_26_saying_something_before_or_again(live: LiveAgent) -> None:
    with live.probe() as probe:
        probe.session = "3" * 16
        answer = probe.ask(PingRequest()).body
        assert answer.rule in (Rule.GREETING, Rule.SESSION)
        probe.greet()
        assert probe.greet(HelloRequest(device="other")).body.rule == Rule.ORDER


def task(seed: int = 0) -> Task:
    source = DataSource(spec="generated:seed=1,size=32x32,train=4,validation=2,test=2", content_digest=DIGEST)
    return Train(architecture=NETWORK, data=source, seed=seed)


def test_cases_28_29_attempts_that_are_over_or_were_never_given(probe: Probe, tmp_path: Path) -> None:
    probe.want(ErrorReply, TaskRequest(task=task(7), attempt=5), timeout_s=20)
    assert probe.ask(TaskRequest(task=task(7), attempt=4)).body.rule == Rule.FENCE
    dispatcher = Dispatcher(1)
    dispatcher.want([("a", task())])
    dispatcher.handle(Joined("agent-1"))
    assert dispatcher.handle(Ended("agent-1", "a", 2)) == [], "a result of an attempt that was never given is void"


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        (b"\x91" * 1_000_000, Rule.MSGPACK),
        (b"\xdd" + struct.pack(">I", 1_000_000) + b"\x90" * 1_000_000, Rule.LIMIT),
        (bytes(MAX_BODY_BYTES + 1), Rule.LIMIT),
    ],
    ids=["case34_nesting", "case35_million_lists", "case12_over_limit"],
)
def test_msgpack_that_would_grow(probe: Probe, body: bytes, rule: Rule) -> None:
    refused_by(probe, rule, lambda: probe.send([envelope(preamble(), header(session=probe.session), body)]))


def test_damaged_messages_through_the_socket_leave_the_agent_as_it_was(alone: LiveAgent) -> None:
    """Vectors with flipped, cut, doubled and mixed octets; AGENTKD_FUZZED says how many.

    A few of them are sound requests for artifacts that nobody hands over, and the agent waits for those when all is said.
    Memory is compared from half way on: before, some of them are still sound, and have the agent load what it trains with.
    """
    with alone.probe() as probe:
        probe.greet()
        _send_damaged(probe, range(NUM_FUZZED // 2))
        before = alone.memory()
        _send_damaged(probe, range(NUM_FUZZED // 2, NUM_FUZZED))
        assert alone.process.poll() is None and alone.memory() - before < MAX_GROWTH_BYTES


def _send_damaged(probe: Probe, indices: range) -> None:
    seeds = [vector.frames for vector in (*vectors.valid(), *vectors.invalid()) if sum(map(len, vector.frames)) < 4096]
    for index in indices:
        chance = random.Random(f"live-{index}")
        frames = [bytearray(frame) for frame in chance.choice(seeds)]
        mangle(chance, frames)
        if type_of(frames) != NUMBERS[LeaveRequest]:
            probe.send([bytes(frame) for frame in frames])
        if index % 1000 == 999:
            probe.greet(timeout_s=60)
            probe.want(PingReply, PingRequest(text=str(index)), timeout_s=60)
            probe.forget()
    probe.greet(timeout_s=60)
    probe.want(PingReply, PingRequest(text="well?"), timeout_s=60)
    probe.forget()


@pytest.mark.parametrize("name", ["body_nan", "body_infinite"], ids=["case43_nan", "case43_inf"])
def test_numbers_that_are_none(probe: Probe, name: str) -> None:
    refused_by(probe, Rule.BODY, lambda: probe.send(list(Vector[name].frames)))


@pytest.mark.parametrize("name", ["body_long_name", "body_nul_in_name", "body_newline_in_name"], ids="case48_{}".format)
def test_names_that_are_none(probe: Probe, name: str) -> None:
    refused_by(probe, Rule.BODY, lambda: probe.send(list(Vector[name].frames)))


def file_of(entries: Any, data: bytes = b"") -> bytes:
    head = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(head)) + head + data


def one(**changes: Any) -> dict[str, Any]:
    return {"images": {"dtype": "F32", "shape": [1, 3, 32, 32], "data_offsets": [0, 12288]} | changes}


IMAGE = struct.pack("<3072f", *[0.5] * 3072)
TENSORS = {
    "case49_header_2_63": struct.pack("<Q", 2**63) + b"{}",
    "case50_header_100_mb": struct.pack("<Q", 100_000_000) + b"{}",
    "case51_negative_shape": file_of(one(shape=[-1, 3, 32, 32]), IMAGE),
    "case52_product_overflow": file_of(one(shape=[2**40, 2**40, 2**40, 2]), IMAGE),
    "case53_zero_times_huge": file_of(one(shape=[0, 2**47, 2**47, 2**47], data_offsets=[0, 0])),
    "case54_overlap": file_of(one() | {"b": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}, IMAGE),
    "case54_hole": file_of(one(data_offsets=[8, 12296]), bytes(8) + IMAGE),
    "case54_reversed": file_of(one(data_offsets=[12288, 0]), IMAGE),
    "case55_trailing": file_of(one(), IMAGE + b"x"),
    "case55_truncated": file_of(one(), IMAGE[:-1]),
    "case56_unknown_dtype": file_of(one(dtype="F7"), IMAGE),
    "case57_300000_tensors": file_of({f"t{i}": NOTHING for i in range(17_000)}),
    "case58_rank_100": file_of(one(shape=[1] * 100, data_offsets=[0, 4]), bytes(4)),
    "case59_nan": file_of(one(), struct.pack("<3072f", *[float("nan")] * 3072)),
    "case61_pickle": b"\x80\x04\x95" + bytes(60),
    "header_not_json": file_of(b"{", b""),
    "header_deep": file_of(b"[" * 100_000, b""),
    "name_twice": file_of(f'{{"a":{json.dumps(NOTHING)},"a":{json.dumps(NOTHING)}}}'.encode()),
}


@pytest.mark.parametrize("data", TENSORS.values(), ids=TENSORS)
def test_tensors_that_are_none(probe: Probe, live: LiveAgent, data: bytes) -> None:
    probe.want(TeachReply, TeachRequest(architecture=NETWORK, weights=live.weights), timeout_s=20)
    error = probe.ask(AssessRequest(num_classes=5), buffers=(data,)).body
    assert isinstance(error, ErrorReply)
    assert (error.code, error.rule) in (("protocol", "tensors"), ("contract", "")) and len(error.text) < 2000


@pytest.mark.parametrize("kind", ["case59_nan", "case60_other_shape", "case60_other_names", "case61_pickle", "case65_link"])
def test_weights_that_are_none_are_never_adopted(probe: Probe, live: LiveAgent, kind: str, tmp_path: Path) -> None:
    state = dict(build(NETWORK, seed=2).state_dict())
    store = live.folder.store
    if kind == "case59_nan":
        weights = store.put(encode_weights(NETWORK, state | {"network.head.bias": torch.full((5,), float("nan"))}))
    elif kind == "case60_other_shape":
        other = resolve("tiny_networks:tiny", 5, {"width": 12})
        weights = store.put(encode_weights(other, dict(build(other, seed=2).state_dict())))
    elif kind == "case60_other_names":
        weights = store.put(encode_weights(NETWORK, {f"x.{name}": value for name, value in state.items()}))
    elif kind == "case61_pickle":
        weights = store.put(b"\x80\x04\x95" + bytes(60))
    else:
        target = tmp_path / "secret"
        target.write_bytes(b"secret")
        weights = digest_bytes(b"secret")
        store.path(weights).parent.mkdir(parents=True, exist_ok=True)
        store.path(weights).symlink_to(target)
    number = probe.say(TeachRequest(architecture=NETWORK, weights=weights))
    while (heard := probe.hear(timeout_s=20)).parent_id != number:
        if isinstance(heard.body, KnowledgeRequest):  # a link is no artifact, so the coordinator is asked for it
            assert kind == "case65_link" and heard.body.weights == weights
            probe.say(ErrorReply(code="artifact", text="not here"), parent_id=heard.msg_id)
    error = heard.body
    expected = ("remote",) if kind == "case65_link" else ("protocol", "contract", "artifact")
    assert isinstance(error, ErrorReply) and error.code in expected, error
    probe.want(TeachReply, TeachRequest(architecture=NETWORK, weights=live.weights), timeout_s=20)


@pytest.mark.parametrize("name", ["../x", "/abs", "a/../../b", "a\0b", "x" * 300, "CON"], ids="case65_{!r:.12}".format)
def test_names_that_lead_out_of_the_store(probe: Probe, name: str) -> None:
    body = msgpack.packb({"kind": "weights", "weights": name})
    refused_by(probe, Rule.BODY, lambda: probe.send([envelope(preamble(number=30), header(session=probe.session), body)]))
