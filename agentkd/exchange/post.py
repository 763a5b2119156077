"""The post of a process: messages to and from peers. The edge around ``Sessions``, which decides: channel, codec, clock, threads.

``send``, ``connect``, ``admit``, ``peer`` and ``close`` may be called from any thread and do not block. Incoming messages are
handed to ``deliver`` on the I/O thread, which must not block; if it raises ``RemoteProtocolError``, the sender is told. Messages
to a peer that has not been greeted yet, or cannot be reached now, wait in order for ``sessions.SEND_GIVE_UP_S``. Delivery is at
most once, which is why tasks are idempotent and requests are repeated.
"""

import contextlib
import itertools
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import assert_never

from agentkd.errors import ChannelClosedError, ProtocolError, RemoteProtocolError, Rule
from agentkd.exchange.addresses import nearest, same_way
from agentkd.exchange.channel import Channel, Frames
from agentkd.exchange.grants import EVERYTHING, Grants
from agentkd.exchange.hosts import host_name
from agentkd.exchange.keys import KeyPair
from agentkd.exchange.memory import SCHEME, MemoryChannel
from agentkd.exchange.sessions import (
    SEND_RETRY_S,
    Action,
    Deliver,
    Dial,
    Drop,
    Ended,
    HangUp,
    Introduction,
    Late,
    Opened,
    Reason,
    Refuse,
    Send,
    Sessions,
    Unwelcome,
)
from agentkd.exchange.streaming import Streams
from agentkd.exchange.streams import WINDOW_BYTES
from agentkd.exchange.zeromq import ZeroMQChannel
from agentkd.messages.bodies import (
    TYPES,
    AdmittedPeer,
    Body,
    Capability,
    ErrorReply,
    HelloRequest,
    PeerAddress,
    PingReply,
    PingRequest,
    WelcomeReply,
)
from agentkd.messages.wire import MINOR, Buffer, Message, decode, encode, type_of
from agentkd.names import NO_KEY, NOBODY, AgentName, PublicKey

ALL_CAPABILITIES: tuple[str, ...] = (Capability.SHARED, Capability.STORE, Capability.STREAM, Capability.VIEWS)
PLAIN_HELLO = HelloRequest(capabilities=ALL_CAPABILITIES, window_bytes=WINDOW_BYTES)
LOOPBACK = ("tcp://127.0.0.1:*",)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Delivery:
    """A message, the public key (Z85) of who sent it, and when it arrived (monotonic seconds)."""

    sender: PublicKey
    message: Message
    arrived_at: float = field(default_factory=time.monotonic, compare=False)

    @property
    def is_expired(self) -> bool:
        """Whether the sender has stopped waiting for an answer."""
        waited_ms = (time.monotonic() - self.arrived_at) * 1000
        return bool(self.message.deadline_ms) and waited_ms > self.message.deadline_ms


def useless(delivery: Delivery) -> RemoteProtocolError:
    """The refusal of a message that its receiver has no use for. Who sorts messages raises it for all that he does not know."""
    return RemoteProtocolError(f"{type(delivery.message.body).__name__} is of no use here", Rule.TYPE)


@dataclass(frozen=True)
class Manners:
    """How a post introduces itself.

    Args:
        hello: what is said to a peer that is dialed; endpoints, host and pid are filled in.
        welcome: what a dialer is told; called on the I/O thread with the dialer's key and greeting.
        coordinator_key: the key whose owner coordinates; empty if nobody does.
        store: folder of artifacts that may be shared with peers on this host.
    """

    hello: HelloRequest = PLAIN_HELLO
    welcome: Callable[[PublicKey, HelloRequest], WelcomeReply] | None = None
    coordinator_key: PublicKey = NO_KEY
    store: Path | None = None


@dataclass(frozen=True)
class Peer:
    """What is known of a peer in its present session. ``dialed`` is where it was reached; empty if it dialed itself."""

    key: PublicKey
    greeting: HelloRequest | WelcomeReply
    dialed: str = ""

    def can(self, capability: Capability) -> bool:
        """Whether the peer said that it can."""
        return capability in self.greeting.capabilities

    @property
    def shares_host(self) -> bool:
        """Whether it can read this process's memory files."""
        return self.greeting.host == host_name()


class Post:
    """Speaks for one key. Use as a context manager, or ``start`` and ``close``.

    ``tick`` is called every ``tick_s`` seconds on the I/O thread, and ``fell`` if that thread ends with an error.
    """

    def __init__(
        self,
        keys: KeyPair,
        deliver: Callable[[Delivery], None],
        *,
        bind: str | tuple[str, ...] = LOOPBACK,
        manners: Manners | None = None,
        grants: Grants | None = None,
        tick: Callable[[], None] | None = None,
        tick_s: float = 1.0,
        fell: Callable[[], None] = lambda: None,
    ) -> None:
        self.keys, self.grants, self.session = keys, grants or Grants(), secrets.token_hex(8)
        self._deliver, self._tick, self._tick_s, self._fell = deliver, tick, tick_s, fell
        self._manners = manners or Manners()
        addresses = (bind,) if isinstance(bind, str) else bind
        self.channel: Channel = (
            MemoryChannel(keys.public, addresses[0])
            if addresses[0].startswith(SCHEME)
            else ZeroMQChannel(keys, self.grants.is_admitted, addresses)
        )
        self.counters, self.endpoints = self.channel.counters, self.channel.endpoints
        self.streams = Streams(self)
        self.store_name = host_name(self._manners.store) if self._manners.store else ""
        self.num_waiting = 0  # messages that could not be sent yet; written by the I/O thread once a turn
        self._numbers = itertools.count(1)
        self._sessions = Sessions(self._introduction(), self._numbers)
        self._greeted: dict[PublicKey, Peer] = {}  # written by the I/O thread alone, an immutable entry at a time
        self._next_tick = time.monotonic()

    @property
    def endpoint(self) -> str:
        """The first address this post listens on."""
        return self.endpoints[0]

    def __enter__(self) -> "Post":
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def start(self) -> None:
        """Starts the I/O thread."""
        self.channel.start(self._arrived, self._turn, self._fell)

    def close(self) -> None:
        """Sends what is queued, closes the sockets and ends the thread. May be called twice."""
        self.channel.close()

    def check(self) -> None:
        """Says if messages move no longer.

        Raises:
            ChannelClosedError: this post is closed, or its I/O thread has ended with an error.
        """
        self.channel.check()

    def admit(self, peers: Iterable[AdmittedPeer]) -> None:
        """Admits these keys from now on, each for the kinds of knowledge that it may fetch."""
        self.grants.admit(peers)

    def allow(self, public_keys: Iterable[PublicKey]) -> None:
        """Admits these keys for every kind of knowledge."""
        self.admit(AdmittedPeer(agent=NOBODY, public_key=key, may=EVERYTHING) for key in public_keys)

    def forget(self, public_key: PublicKey) -> None:
        """Admits a key no longer; its live session is refused at its next message, and what waits for it is dropped."""
        self.grants.forget(public_key)
        with contextlib.suppress(ChannelClosedError):
            self.disconnect(public_key)

    def connect(self, address: PeerAddress) -> None:
        """Dials a peer and greets it. One without an endpoint is expected to dial itself. ``send`` may follow at once."""
        endpoint = nearest(address.endpoints)
        if endpoint:
            self._soon(lambda: self._sessions.dial(address.public_key, endpoint, time.monotonic()))

    def disconnect(self, public_key: PublicKey) -> None:
        """Closes the connection to a peer, if there is one; what waits for it is dropped."""
        self._soon(lambda: self._sessions.forget(public_key))

    def send(
        self, peer: PublicKey, body: Body, *, parent_id: int = 0, buffers: tuple[Buffer, ...] = (), deadline_ms: int = 0
    ) -> int:
        """Queues a message for the peer with that public key; returns its number, which the reply's ``parent_id`` names.

        Raises:
            ChannelClosedError: this post is closed.
        """
        message = Message(body, next(self._numbers), parent_id, self.session, deadline_ms, buffers)
        frames = tuple(encode(message))
        self._soon(lambda: self._sessions.say(peer, message, time.monotonic(), frames))
        return message.msg_id

    def send_frames(self, peer: PublicKey, frames: Frames) -> None:
        """Sends frames as they are, past every check: for conformance tests alone."""

        def send() -> None:
            self.channel.send(peer, frames)

        self.channel.call(send)

    def peer(self, key: PublicKey) -> Peer | None:
        """What is known of a peer that was greeted. From any thread; what is returned does not change."""
        return self._greeted.get(key)

    def _soon(self, decide: Callable[[], list[Action]]) -> None:
        """Has something decided on the I/O thread, and done."""

        def decide_and_do() -> None:
            self._do(decide())

        self.channel.call(decide_and_do)

    # On the I/O thread.

    def send_now(
        self, peer: PublicKey, body: Body, *, parent_id: int = 0, buffers: tuple[Buffer, ...] = (), bulk: bool = False
    ) -> int:
        """Sends from the I/O thread; returns the message's number.

        On the bulk lane it is now or never: 0 if the lane is full or the peer is not greeted, and nothing is queued.
        """
        message = Message(body, next(self._numbers), parent_id, self.session, 0, buffers)
        if not bulk:
            self._do(self._sessions.say(peer, message, time.monotonic()))
            return message.msg_id
        actions = self._sessions.stream(peer, message)
        return message.msg_id if actions and self._do(actions) else 0

    def _turn(self) -> float:
        """One turn of the I/O loop: sends what waits, moves streams, ticks. Returns how long the loop may sleep."""
        now = time.monotonic()
        if now >= self._next_tick:
            self._next_tick = now + self._tick_s
            self.streams.tick(now)
            if self._tick:
                with contextlib.suppress(ChannelClosedError):
                    self._tick()
        self._do(self._sessions.tick(now))
        self.num_waiting = self._sessions.num_waiting
        if self.streams.pump():
            return 0.0
        now = time.monotonic()
        wait_s = max(0.0, min(self._next_tick - now, self._sessions.wait_s(now)))
        return min(wait_s, SEND_RETRY_S) if self.streams.is_blocked else wait_s

    def _arrived(self, sender: PublicKey, frames: Sequence[Buffer]) -> None:
        try:
            message = decode(frames)
        except RemoteProtocolError as error:
            self._do(self._sessions.misread(sender, TYPES.get(type_of(frames)), error))
        else:
            self._do(self._sessions.arrived(sender, message, time.monotonic()))

    def _do(self, actions: Iterable[Action]) -> bool:
        """Carries actions out in order, and before the next of them what each leads to. False if a message did not leave."""
        stack, all_went = [*actions][::-1], True
        while stack:
            action = stack.pop()
            if isinstance(action, Send):
                went = self._hand_over(action)
                all_went = all_went and went
                stack += (self._sessions.went(action) if went else self._sessions.stuck(action))[::-1]
            elif isinstance(action, Deliver):
                stack += self._hand_in(action.peer, action.message)[::-1]
            else:
                self._act(action)
        return all_went

    def _act(self, action: Dial | HangUp | Refuse | Drop | Late | Opened | Ended | Unwelcome) -> None:
        short = action.peer[:8]
        if isinstance(action, Dial):
            self.channel.connect(action.peer, action.endpoint)
        elif isinstance(action, HangUp):
            self.channel.disconnect(action.peer)
        elif isinstance(action, Opened):
            self._greeted[action.peer] = Peer(action.peer, action.greeting, action.dialed)
        elif isinstance(action, Ended):
            self._greeted.pop(action.peer, None)
            self.streams.peer_gone(action.peer)
        elif isinstance(action, Refuse):
            self.counters.refuse(action.rule)
            log.warning("refused a message of %s: %s", short, action.text)
            if action.answer is not None:
                self.channel.send(action.peer, encode(action.answer))
        elif isinstance(action, Late):
            self.counters.late += 1
        elif isinstance(action, Drop):
            self.counters.dropped += 1
            level = {Reason.ILLEGAL: logging.ERROR, Reason.GIVEN_UP: logging.WARNING}.get(action.reason, logging.INFO)
            kind = type(action.message.body).__name__
            log.log(level, "%s for %s is not sent: %s %s", kind, short, action.reason, action.text)
        elif isinstance(action, Unwelcome):
            log.error("%s refused the greeting: %s", short, action.text)
        else:
            assert_never(action)

    def _hand_over(self, send: Send) -> bool:
        if send.bulk:
            self._open_bulk_lane(send.peer)
        return self.channel.send(send.peer, list(send.frames or encode(send.message)), bulk=send.bulk)

    def _hand_in(self, key: PublicKey, message: Message) -> list[Action]:
        """Hands a message to whoever it is for, here or behind this post; returns its refusal, if it was refused."""
        self.counters.messages_received += 1
        body = message.body
        try:
            if isinstance(body, PingRequest):
                self.send_now(key, PingReply(text=body.text), parent_id=message.msg_id)
            elif self.streams.handles(body, key, message.parent_id):
                self.streams.receive(key, message)
            else:
                self._deliver(Delivery(key, message))
        except ProtocolError as error:
            rule = error.rule if isinstance(error, RemoteProtocolError) else Rule.ORDER
            is_answered = not isinstance(body, ErrorReply)
            return self._sessions.refuse(key, message.msg_id, rule, str(error), is_answered=is_answered)
        return []

    def _open_bulk_lane(self, key: PublicKey) -> None:
        peer = self._greeted[key]
        if peer.dialed and isinstance(peer.greeting, WelcomeReply) and not self.channel.has_dialed(key, bulk=True):
            endpoint = same_way(peer.dialed, peer.greeting.bulk_endpoints)
            if endpoint:
                self.channel.connect(key, endpoint, bulk=True)

    # How this post introduces itself.

    def _introduction(self) -> Introduction:
        mine = {"host": host_name(), "store": self.store_name}
        spoken = {"minor_min": 0, "minor_max": MINOR, "endpoints": self.endpoints, "pid": os.getpid()}
        return Introduction(
            key=self.keys.public,
            session=self.session,
            coordinator_key=self._manners.coordinator_key,
            hello=self._manners.hello.model_copy(update=mine | spoken),
            welcome=self._welcome,
            name_of=self._name_of,
        )

    def _name_of(self, key: PublicKey) -> AgentName:
        entry = self.grants.find(key)
        return entry.name if entry is not None else NOBODY

    def _welcome(self, key: PublicKey, hello: HelloRequest) -> WelcomeReply:
        made = self._manners.welcome(key, hello) if self._manners.welcome else None
        mine = {
            "minor": min(MINOR, hello.minor_max),
            "capabilities": self._manners.hello.capabilities,
            "host": host_name(),
            "store": self.store_name,
            "window_bytes": self._manners.hello.window_bytes,
            "gpu": self._manners.hello.gpu,
            "bulk_endpoints": self.channel.bulk_endpoints,
        }
        return (made or WelcomeReply(agent=self._name_of(key), heartbeat_s=self._tick_s, lease_s=0.0)).model_copy(update=mine)
