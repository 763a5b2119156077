"""Two ends of an exchange for tests: a real post with an inbox, and a raw socket that can say anything."""

import contextlib
import queue
import time
from collections.abc import Callable
from typing import Any

import msgpack
import zmq

from agentkd.exchange.keys import KeyPair, new_key_pair
from agentkd.exchange.post import Delivery, Post
from agentkd.messages.bodies import Body, HelloRequest, PeerAddress, WelcomeReply
from agentkd.messages.wire import Message, decode, encode

SESSION = "0123456789abcdef"


class Side:
    """A post with its inbox, from which greetings are kept apart."""

    def __init__(self, bind: str | tuple[str, ...] = "tcp://127.0.0.1:*", keys: KeyPair | None = None, **options: Any) -> None:
        self.inbox: queue.Queue[Delivery] = queue.Queue()
        self.greetings: queue.Queue[Delivery] = queue.Queue()
        self.post = Post(keys or new_key_pair(), self._sort, bind=bind, **options)
        self.post.start()

    def _sort(self, delivery: Delivery) -> None:
        is_greeting = isinstance(delivery.message.body, HelloRequest | WelcomeReply)
        (self.greetings if is_greeting else self.inbox).put(delivery)

    @property
    def key(self) -> str:
        return self.post.keys.public

    @property
    def address(self) -> PeerAddress:
        return PeerAddress(agent="", endpoints=self.post.endpoints, public_key=self.key)

    def reach(self, other: "Side") -> None:
        self.post.connect(other.address)

    def refused(self, rule: str) -> int:
        return self.post.counters.refused.get(rule, 0)


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.005)


def say_as_stranger(socket: "zmq.Socket[bytes]", frames: list[Any]) -> None:
    """Sends, unless the other end has refused the connection already: then nothing can be sent, and a wait would not end."""
    with contextlib.suppress(zmq.Again):
        socket.send_multipart(frames, zmq.DONTWAIT)


class RawPeer:
    """A CURVE socket with a key of its own that sends whatever frames it is given. Use as a context manager."""

    def __init__(self, endpoint: str, server_key: str, keys: KeyPair | None = None, session: str = SESSION) -> None:
        self.keys, self.session = keys or new_key_pair(), session
        self._endpoint, self._server_key = endpoint, server_key
        self.number = 0

    def __enter__(self) -> "RawPeer":
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.curve_publickey, self.socket.curve_secretkey = self.keys.public.encode(), self.keys.secret.encode()
        self.socket.curve_serverkey = self._server_key.encode()
        self.socket.connect(self._endpoint)
        return self

    def __exit__(self, *exc: object) -> None:
        self._context.destroy(linger=0)

    def greet(self, **fields: Any) -> Message:
        return self.ask(HelloRequest(**fields))

    def say(self, body: Body, parent_id: int = 0, buffers: tuple[bytes, ...] = ()) -> int:
        self.number += 1
        self.send(encode(Message(body, self.number, parent_id, self.session, 0, buffers)))
        return self.number

    def ask(self, body: Body, buffers: tuple[bytes, ...] = ()) -> Message:
        self.say(body, buffers=buffers)
        return self.hear()

    def send(self, frames: list[Any]) -> None:
        self.socket.send_multipart(frames)

    def hear(self, timeout_s: float = 10.0) -> Message:
        """The next message; heartbeats and peer lists are passed over."""
        deadline = time.monotonic() + timeout_s
        while self.socket.poll(max(0, int((deadline - time.monotonic()) * 1000))):
            message = decode(self.socket.recv_multipart())
            if type(message.body).__name__ not in ("HeartbeatEvent", "PeersEvent"):
                return message
        raise TimeoutError("nothing was heard")


def header(**changes: Any) -> bytes:
    return msgpack.packb({"msg_id": 1, "parent_id": 0, "session": SESSION} | changes)
