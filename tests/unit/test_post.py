"""The post: admits listed keys alone, greets, keeps order, holds peers to the protocol, and never blocks who sends."""

import queue
import socket
import threading
from collections.abc import Iterator

import pytest
import zmq
from sides import RawPeer, Side, say_as_stranger, wait_until

from agentkd.conformance.clause import play
from agentkd.conformance.clauses import all_clauses
from agentkd.conformance.probe import Probe
from agentkd.errors import ChannelClosedError, LaunchError, RemoteProtocolError, Rule
from agentkd.exchange.keys import new_key_pair
from agentkd.exchange.post import Manners, Post
from agentkd.messages import dialogues
from agentkd.messages.bodies import (
    AdmittedPeer,
    ErrorReply,
    HelloRequest,
    KnowledgeReply,
    KnowledgeRequest,
    PeerAddress,
    PeersEvent,
    Piece,
    PingReply,
    PingRequest,
    ReleaseEvent,
    StatusRequest,
    WelcomeReply,
)
from agentkd.messages.wire import Message, encode

BEAT = ReleaseEvent(leases=(1,))
DIGEST = "ab" * 32


@pytest.fixture(params=["tcp://127.0.0.1:*", "ipc://*", "memory://*"], ids=["tcp", "ipc", "memory"])
def anywhere(request: pytest.FixtureRequest) -> Iterator[tuple[Side, Side, Side]]:
    made = tuple(Side(request.param) for _ in range(3))
    yield made
    for side in made:
        side.post.close()


@pytest.fixture
def sides() -> Iterator[tuple[Side, Side, Side]]:
    made = (Side(), Side(), Side())
    yield made
    for side in made:
        side.post.close()


def test_who_sent_a_message_is_the_authenticated_key_and_replies_find_back(anywhere) -> None:
    host, guest, _ = anywhere
    host.post.allow([guest.key])
    guest.reach(host)
    number = guest.post.send(host.key, KnowledgeRequest(kind="weights", weights=DIGEST))
    delivery = host.inbox.get(timeout=10)
    assert (delivery.sender, delivery.message.msg_id, delivery.message.session) == (guest.key, number, guest.post.session)
    piece = Piece(way="inline", size_bytes=3_000_000, sha256=DIGEST)
    reply = KnowledgeReply(kind="weights", weights=DIGEST, piece=piece)
    host.post.send(guest.key, reply, parent_id=number, buffers=(b"x" * 3_000_000,))
    heard = guest.inbox.get(timeout=10)
    assert heard.sender == host.key and heard.message.body == reply and len(heard.message.buffers[0]) == 3_000_000


def test_messages_of_one_sender_stay_in_order(anywhere) -> None:
    host, guest, _ = anywhere
    host.post.allow([guest.key])
    guest.reach(host)
    for number in range(500):
        guest.post.send(host.key, ReleaseEvent(leases=(number,)))
    assert [host.inbox.get(timeout=10).message.body.leases[0] for _ in range(500)] == list(range(500))


def test_pings_are_answered_by_the_post_itself(anywhere) -> None:
    host, guest, _ = anywhere
    host.post.allow([guest.key])
    guest.reach(host)
    number = guest.post.send(host.key, PingRequest(text="hello"))
    heard = guest.inbox.get(timeout=10).message
    assert (heard.body, heard.parent_id) == (PingReply(text="hello"), number)


def test_a_stranger_and_a_forgotten_key_are_refused(sides) -> None:
    host, guest, stranger = sides
    host.post.allow([guest.key])
    for side in (guest, stranger):
        side.reach(host)
        side.post.send(host.key, BEAT)
    assert host.inbox.get(timeout=10).sender == guest.key
    host.post.forget(guest.key)
    guest.post.send(host.key, BEAT)
    wait_until(lambda: host.refused(Rule.IDENTITY) == 1)
    assert host.inbox.empty()


def test_a_late_answer_is_dropped_and_counted(sides) -> None:
    host, guest, _ = sides
    host.post.allow([guest.key])
    with RawPeer(host.post.endpoint, host.key, guest.post.keys) as raw:
        raw.greet()
        raw.say(PingReply(text="nobody asked"), parent_id=77)
        wait_until(lambda: host.post.counters.late == 1)
    assert host.inbox.empty() and not host.post.counters.refused


def test_only_the_coordinator_may_say_what_only_it_may_say(sides) -> None:
    host, guest, _ = sides
    host.post.allow([guest.key])
    with RawPeer(host.post.endpoint, host.key, guest.post.keys) as raw:
        raw.greet()
        for body in (StatusRequest(), PeersEvent(peers=())):
            answer = raw.ask(body).body
            assert isinstance(answer, ErrorReply) and answer.rule == Rule.ROLE


def test_nothing_may_be_said_before_the_greeting_and_no_other_session_afterwards(sides) -> None:
    host, guest, _ = sides
    host.post.allow([guest.key])
    with RawPeer(host.post.endpoint, host.key, guest.post.keys) as raw:
        assert raw.ask(PingRequest(text="x")).body.rule == Rule.GREETING
        assert isinstance(raw.greet(device="cpu").body, WelcomeReply)
        assert isinstance(raw.greet(device="cpu").body, WelcomeReply), "the same greeting again is harmless"
        assert raw.greet(device="other").body.rule == Rule.ORDER
        raw.session = "f" * 16
        assert raw.ask(PingRequest(text="x")).body.rule == Rule.SESSION
        assert isinstance(raw.greet().body, WelcomeReply), "a process that was started again greets again"
        assert raw.ask(PingRequest(text="x")).body == PingReply(text="x")


@pytest.mark.parametrize("told", [Rule.GREETING, Rule.ORDER])
def test_the_conformance_kit_hears_by_which_rule_one_is_refused_who_did_not_greet(monkeypatch, told: Rule) -> None:
    honest = dialogues._refuse
    monkeypatch.setattr(dialogues, "_refuse", lambda rule, *rest: honest(told if rule is Rule.GREETING else rule, *rest))
    side, keys = Side(), new_key_pair()
    side.post.allow([keys.public])
    first = next(clause for clause in all_clauses(2, may_end=False) if clause.name == "join.first")
    with Probe(side.post.endpoint, keys, side.key) as probe:
        [verdict] = play(probe, (first,))
    assert verdict.is_kept == (told is Rule.GREETING)
    side.post.close()


def test_a_version_that_is_not_spoken_and_a_name_that_is_not_the_keys_are_refused(sides) -> None:
    host, guest, _ = sides
    host.post.admit([AdmittedPeer(agent="ann", public_key=guest.key)])
    with RawPeer(host.post.endpoint, host.key, guest.post.keys) as raw:
        assert raw.greet(minor_min=1, minor_max=9).body.rule == Rule.VERSION
        assert raw.greet(agent="bob").body.rule == Rule.IDENTITY
        welcome = raw.greet(agent="ann", minor_max=9).body
        assert isinstance(welcome, WelcomeReply) and (welcome.agent, welcome.minor) == ("ann", 0)


def test_a_peer_that_was_started_again_is_greeted_again(sides) -> None:
    _, guest, _ = sides
    keys = new_key_pair()
    host = Side(keys=keys)
    host.post.allow([guest.key])
    endpoint = host.post.endpoint
    guest.reach(host)
    guest.post.send(host.key, BEAT)
    host.inbox.get(timeout=10)
    host.post.close()
    again = Side(endpoint, keys)
    again.post.allow([guest.key])

    def is_heard() -> bool:
        guest.post.send(keys.public, BEAT)
        return not again.inbox.empty()

    wait_until(is_heard, 20)
    again.post.close()


def test_a_peer_that_comes_back_is_welcomed_before_it_gets_what_waited_for_it(sides) -> None:
    host, guest, _ = sides
    host.post.allow([guest.key])
    with RawPeer(host.post.endpoint, host.key, guest.post.keys) as raw:
        raw.greet()

    def is_gone() -> bool:  # until ZeroMQ knows, it takes what is sent, and loses it
        host.post.send(guest.key, BEAT)
        return host.post.num_waiting > 0

    wait_until(is_gone)
    with RawPeer(host.post.endpoint, host.key, guest.post.keys) as raw:
        assert isinstance(raw.greet().body, WelcomeReply)
        assert raw.hear().body == BEAT


def test_what_a_handler_refuses_is_told_to_the_sender() -> None:
    def refuse(delivery) -> None:
        if not isinstance(delivery.message.body, HelloRequest):
            raise RemoteProtocolError("not for you", Rule.GRANT)

    keys, guest = new_key_pair(), new_key_pair()
    with Post(keys, refuse) as post, RawPeer(post.endpoint, keys.public, guest) as raw:
        post.allow([guest.public])
        raw.greet()
        answer = raw.ask(KnowledgeRequest(kind="weights", weights=DIGEST))
        assert (answer.body.rule, answer.parent_id) == (Rule.GRANT, 2)


def test_who_coordinates_is_settled_by_key() -> None:
    boss = new_key_pair()
    agent = Side(manners=Manners(coordinator_key=boss.public))
    agent.post.allow([boss.public])
    with RawPeer(agent.post.endpoint, agent.key, boss) as raw:
        raw.greet()
        raw.say(StatusRequest())
        assert isinstance(agent.inbox.get(timeout=10).message.body, StatusRequest)
    agent.post.close()


def test_bytes_that_are_no_message_are_counted_and_the_post_lives_on(sides) -> None:
    host, guest, _ = sides
    raw_keys = new_key_pair()
    host.post.allow([guest.key, raw_keys.public])
    with RawPeer(host.post.endpoint, host.key, raw_keys) as raw:
        for frames in ([b""], [b"AKDP"], [b"GET / HTTP/1.1"], [b"x"] * 40, encode(Message(BEAT))[:2]):
            raw.send(frames)
        guest.reach(host)
        guest.post.send(host.key, BEAT)
        assert host.inbox.get(timeout=10).sender == guest.key
        wait_until(lambda: sum(host.post.counters.refused.values()) == 5)


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"\x00" * 64])
def test_other_protocols_do_no_harm(sides, noise: bytes) -> None:
    host, guest, _ = sides
    address, port = host.post.endpoint.removeprefix("tcp://").split(":")
    with socket.create_connection((address, int(port))) as stranger:
        stranger.sendall(noise)
        host.post.allow([guest.key])
        guest.reach(host)
        guest.post.send(host.key, BEAT)
        assert host.inbox.get(timeout=10).sender == guest.key


def test_a_client_without_curve_is_refused(sides) -> None:
    host, *_ = sides
    with zmq.Context() as context, context.socket(zmq.DEALER) as raw:
        raw.linger = 0
        raw.connect(host.post.endpoint)
        say_as_stranger(raw, encode(Message(BEAT)))
        with pytest.raises(queue.Empty):
            host.inbox.get(timeout=0.5)


def test_many_threads_may_send_faster_than_the_io_thread_takes() -> None:
    host = Side()
    ticks = []

    def tick() -> None:
        ticks.append(guest.send(host.key, BEAT))

    guest = Post(new_key_pair(), lambda delivery: None, tick=tick, tick_s=0.001)
    host.post.allow([guest.keys.public])
    guest.connect(host.address)
    senders = [threading.Thread(target=lambda: [guest.send(host.key, BEAT) for _ in range(2_000)]) for _ in range(3)]
    for sender in senders:
        sender.start()
    guest.start()
    for sender in senders:
        sender.join(60)
        assert not sender.is_alive()
    for _ in range(6_000):
        host.inbox.get(timeout=30)
    assert ticks
    guest.close()
    host.post.close()


def test_a_peer_that_is_given_up_takes_what_waited_for_it_along(sides) -> None:
    host, guest, other = sides
    guest.post.connect(PeerAddress(agent="", endpoints=("tcp://127.0.0.1:9",), public_key=other.key))  # nobody listens there
    guest.post.send(other.key, BEAT)
    guest.post.disconnect(other.key)
    host.post.allow([guest.key])
    guest.reach(host)
    guest.post.send(host.key, BEAT)
    assert host.inbox.get(timeout=10).message.body == BEAT
    guest.post.check()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("bind", ["tcp://127.0.0.1:*", "memory://*"])
def test_an_io_thread_that_ends_with_an_error_is_told_to_whoever_asks_next(bind: str) -> None:
    side = Side(bind)

    def fail() -> None:
        raise ZeroDivisionError

    side.post.check()
    side.post.channel.call(fail)
    wait_until(lambda: not any(thread.name.startswith("agentkd") for thread in threading.enumerate()))
    with pytest.raises(ChannelClosedError, match="has ended with an error"):
        side.post.check()
    with pytest.raises(ChannelClosedError, match="has ended with an error"):
        side.post.send("a" * 40, BEAT)
    side.post.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("bind", ["tcp://127.0.0.1:*", "memory://*"])
def test_whoever_only_waits_is_told_that_an_io_thread_fell_and_not_that_it_was_closed(bind: str) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    falls = queue.Queue[str]()
    posts = [Post(new_key_pair(), print, bind=bind, fell=lambda which=which: falls.put(which)) for which in ("ill", "well")]
    for post in posts:
        post.start()
    posts[0].channel.call(fail)
    assert falls.get(timeout=10) == "ill"
    for post in posts:
        post.close()
    assert falls.empty()


def test_a_closed_post_says_so_and_a_taken_port_too() -> None:
    side = Side()
    with pytest.raises(LaunchError, match="is the port in use"):
        Post(new_key_pair(), side.inbox.put, bind=side.post.endpoint)
    side.post.close()
    side.post.close()
    with pytest.raises(ChannelClosedError):
        side.post.send("a" * 40, BEAT)
