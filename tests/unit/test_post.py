"""The I/O thread: admits listed keys alone, keeps order, and never blocks who sends."""

import queue
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import zmq

from agentkd.errors import ChannelClosedError, LaunchError
from agentkd.exchange.keys import KeyPair, new_key_pair
from agentkd.exchange.post import Delivery, Post
from agentkd.messages.bodies import CancelRequest, HeartbeatEvent, KnowledgeReply
from agentkd.messages.wire import Message, encode

BEAT = HeartbeatEvent(progress=1, is_busy=False)


class Side:
    """A post with its inbox."""

    def __init__(self) -> None:
        self.inbox: queue.Queue[Delivery] = queue.Queue()
        self.post = Post(new_key_pair(), self.inbox.put)
        self.post.start()

    @property
    def key(self) -> str:
        return self.post.keys.public

    def reach(self, other: "Side") -> None:
        self.post.connect(other.post.endpoint, other.key)


@pytest.fixture
def sides() -> Iterator[tuple[Side, Side, Side]]:
    made = (Side(), Side(), Side())
    yield made
    for side in made:
        side.post.close()


def test_who_sent_a_message_is_the_authenticated_key_and_replies_find_back(sides) -> None:
    host, guest, _ = sides
    host.post.allow([guest.key])
    guest.reach(host)
    number = guest.post.send(host.key, BEAT)
    delivery = host.inbox.get(timeout=10)
    assert (delivery.sender, delivery.message) == (guest.key, Message(BEAT, msg_id=number))
    host.post.send(
        guest.key, KnowledgeReply(kind="weights", weights="w", sha256="s"), parent_id=number, buffers=(b"x" * 3_000_000,)
    )
    reply = guest.inbox.get(timeout=10)
    assert reply.sender == host.key and reply.message.parent_id == number and len(reply.message.buffers[0]) == 3_000_000


def test_a_stranger_and_a_forgotten_key_are_refused(sides) -> None:
    host, guest, stranger = sides
    host.post.allow([guest.key])
    for side in (guest, stranger):
        side.reach(host)
        side.post.send(host.key, BEAT)
    assert host.inbox.get(timeout=10).sender == guest.key
    host.post.forget(guest.key)
    guest.post.send(host.key, BEAT)
    deadline = time.monotonic() + 10
    while not host.post.counters.refused and time.monotonic() < deadline:
        time.sleep(0.01)
    assert host.post.counters.refused == 1 and host.inbox.empty()


def test_messages_of_one_sender_stay_in_order(sides) -> None:
    host, guest, _ = sides
    host.post.allow([guest.key])
    guest.reach(host)
    for number in range(500):
        guest.post.send(host.key, CancelRequest(task="t", epoch=number))
    assert [host.inbox.get(timeout=10).message.body.epoch for _ in range(500)] == list(range(500))


def test_bytes_that_are_no_message_are_counted_and_the_post_lives_on(sides) -> None:
    host, guest, _ = sides
    raw_keys = new_key_pair()
    host.post.allow([guest.key, raw_keys.public])
    with zmq.Context() as context, context.socket(zmq.DEALER) as raw:
        arm(raw, raw_keys, host)
        for frames in ([b""], [b"AKDP"], [b"GET / HTTP/1.1"], [b"x"] * 40, encode(Message(BEAT))[:2]):
            raw.send_multipart(frames)
        guest.reach(host)
        guest.post.send(host.key, BEAT)
        assert host.inbox.get(timeout=10).sender == guest.key
        deadline = time.monotonic() + 10
        while host.post.counters.refused < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert host.post.counters.refused == 5


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
        raw.send_multipart(encode(Message(BEAT)))
        with pytest.raises(queue.Empty):
            host.inbox.get(timeout=0.5)


def test_many_threads_may_send_faster_than_the_io_thread_takes() -> None:
    host = Side()
    ticks = []

    def tick() -> None:
        ticks.append(guest.send(host.key, BEAT))

    guest = Post(new_key_pair(), lambda delivery: None, tick=tick, tick_s=0.001)
    host.post.allow([guest.keys.public])
    guest.connect(host.post.endpoint, host.key)
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


def test_a_closed_post_says_so_and_a_taken_port_too() -> None:
    side = Side()
    with pytest.raises(LaunchError, match="is the port in use"):
        Post(new_key_pair(), side.inbox.put, bind=side.post.endpoint)
    side.post.close()
    side.post.close()
    with pytest.raises(ChannelClosedError):
        side.post.send("a" * 40, BEAT)


def arm(raw: "zmq.Socket[bytes]", keys: KeyPair, host: Side) -> None:
    raw.linger = 0
    raw.curve_publickey, raw.curve_secretkey = keys.public.encode(), keys.secret.encode()
    raw.curve_serverkey = host.key.encode()
    raw.connect(host.post.endpoint)
