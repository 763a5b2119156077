"""The post of a process: messages to and from peers, each held to the protocol. Who sits behind a key, versions, dialogues.

``send``, ``connect``, ``admit`` and ``close`` may be called from any thread and do not block. Incoming messages are handed to
``deliver`` on the I/O thread, which must not block; if it raises ``RemoteProtocolError``, the sender is told. Messages to a peer
that has not been greeted yet, or cannot be reached now, wait in order for ``SEND_GIVE_UP_S``. Delivery is at most once, which is
why tasks are idempotent and requests are repeated.
"""

import contextlib
import itertools
import logging
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agentkd.errors import ChannelClosedError, LocalProtocolError, ProtocolError, RemoteProtocolError, Rule
from agentkd.exchange.channel import Channel, Frames
from agentkd.exchange.grants import EVERYTHING, Grants
from agentkd.exchange.hosts import host_name
from agentkd.exchange.keys import KeyPair
from agentkd.exchange.memory import SCHEME, MemoryChannel
from agentkd.exchange.streaming import Streams
from agentkd.exchange.streams import WINDOW_BYTES
from agentkd.exchange.zeromq import ZeroMQChannel
from agentkd.messages.bodies import (
    NUMBERS,
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
from agentkd.messages.dialogues import Conversation
from agentkd.messages.wire import MINOR, Buffer, Message, decode, encode, type_of

SEND_GIVE_UP_S = 30.0
SEND_RETRY_S = 0.02
GREET_AGAIN_S = 1.0
ERROR_NUMBER = NUMBERS[ErrorReply]
ALL_CAPABILITIES: tuple[str, ...] = (Capability.SHARED, Capability.STORE, Capability.STREAM, Capability.VIEWS)
PLAIN_HELLO = HelloRequest(capabilities=ALL_CAPABILITIES, window_bytes=WINDOW_BYTES)
LOOPBACK = ("tcp://127.0.0.1:*",)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Delivery:
    """A message, the public key (Z85) of who sent it, and when it arrived (monotonic seconds)."""

    sender: str
    message: Message
    arrived_at: float = field(default_factory=time.monotonic, compare=False)

    @property
    def is_expired(self) -> bool:
        """Whether the sender has stopped waiting for an answer."""
        waited_ms = (time.monotonic() - self.arrived_at) * 1000
        return bool(self.message.deadline_ms) and waited_ms > self.message.deadline_ms


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
    welcome: Callable[[str, HelloRequest], WelcomeReply] | None = None
    coordinator_key: str = ""
    store: Path | None = None


@dataclass
class Peer:
    """What is known of a peer in its present session."""

    key: str
    conversation: Conversation
    session: str = ""
    greeting: HelloRequest | WelcomeReply | None = None
    dialed: str = ""
    greeted_at: float = 0.0
    waiting: deque["_Outgoing"] = field(default_factory=deque)

    def can(self, capability: Capability) -> bool:
        """Whether the peer said that it can."""
        return self.greeting is not None and capability in self.greeting.capabilities

    @property
    def shares_host(self) -> bool:
        """Whether it can read this process's memory files."""
        return self.greeting is not None and self.greeting.host == host_name()


@dataclass
class _Outgoing:
    message: Message
    frames: Frames
    give_up_at: float


class Post:
    """Speaks for one key. Use as a context manager, or ``start`` and ``close``."""

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
    ) -> None:
        self.keys, self.grants, self.session = keys, grants or Grants(), secrets.token_hex(8)
        self._deliver, self._tick, self._tick_s = deliver, tick, tick_s
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
        self._numbers = itertools.count(1)
        self._peers: dict[str, Peer] = {}
        self._unsent: set[str] = set()
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
        self.channel.start(self._arrived, self._turn)

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

    def allow(self, public_keys: Iterable[str]) -> None:
        """Admits these keys for every kind of knowledge."""
        self.admit(AdmittedPeer(agent="", public_key=key, may=EVERYTHING) for key in public_keys)

    def forget(self, public_key: str) -> None:
        """Admits a key no longer; its live session is refused at its next message."""
        self.grants.forget(public_key)

    def connect(self, address: PeerAddress) -> None:
        """Dials a peer and greets it. One without an endpoint is expected to dial itself. ``send`` may follow at once."""
        endpoint = _nearest(address.endpoints)
        if endpoint:
            self.channel.call(lambda: self._dial(address.public_key, endpoint))

    def disconnect(self, public_key: str) -> None:
        """Closes the connection to a peer, if there is one."""

        def hang_up() -> None:
            self.channel.disconnect(public_key)
            self.streams.peer_gone(public_key)
            self._peers.pop(public_key, None)
            self._unsent.discard(public_key)

        self.channel.call(hang_up)

    def send(self, peer: str, body: Body, *, parent_id: int = 0, buffers: tuple[Buffer, ...] = (), deadline_ms: int = 0) -> int:
        """Queues a message for the peer with that public key; returns its number, which the reply's ``parent_id`` names.

        Raises:
            ChannelClosedError: this post is closed.
        """
        number = next(self._numbers)
        message = Message(body, number, parent_id, self.session, deadline_ms, buffers)
        item = _Outgoing(message, encode(message), time.monotonic() + SEND_GIVE_UP_S)
        self.channel.call(lambda: self._enqueue(peer, item))
        return number

    def send_frames(self, peer: str, frames: Frames) -> None:
        """Sends frames as they are, past every check: for conformance tests alone."""

        def send() -> None:
            self.channel.send(peer, frames)

        self.channel.call(send)

    def peer(self, key: str) -> Peer | None:
        """What is known of a peer that was greeted."""
        found = self._peers.get(key)
        return found if found is not None and found.conversation.is_open else None

    # On the I/O thread.

    def send_now(self, peer: str, body: Body, *, parent_id: int = 0, buffers: tuple[Buffer, ...] = (), bulk: bool = False) -> int:
        """Sends from the I/O thread; returns the message's number, or 0 if the lane is full (nothing is queued)."""
        number = next(self._numbers)
        message = Message(body, number, parent_id, self.session, 0, buffers)
        known = self._known(peer)
        if bulk and not known.conversation.is_open:
            return 0
        goes_first = bulk or isinstance(body, WelcomeReply)  # what waits for the greeting must not stand before its answer
        if not goes_first and (known.waiting or not known.conversation.is_open):
            self._enqueue(peer, _Outgoing(message, encode(message), time.monotonic() + SEND_GIVE_UP_S))
            return number
        return number if self._hand_over(known, message, encode(message), bulk=bulk) else 0

    def _turn(self) -> float:
        """One turn of the I/O loop: sends what waits, moves streams, ticks. Returns how long the loop may sleep."""
        now = time.monotonic()
        if now >= self._next_tick:
            self._next_tick = now + self._tick_s
            self.streams.tick(now)
            self._greet_again(now)
            if self._tick:
                with contextlib.suppress(ChannelClosedError):
                    self._tick()
        if self._unsent:
            for key in list(self._unsent):
                self._flush(self._peers[key], now)
        if self.streams.pump():
            return 0.0
        wait_s = max(0.0, self._next_tick - time.monotonic())
        return min(wait_s, SEND_RETRY_S) if self._unsent or self.streams.is_blocked else wait_s

    def _arrived(self, sender: str, frames: Sequence[Buffer]) -> None:
        number = 0
        try:
            message = decode(frames)
            number = message.msg_id
            self._admit_message(self._known(sender), message)
        except ProtocolError as error:
            rule = error.rule if isinstance(error, RemoteProtocolError) else Rule.ORDER
            number = number or (error.msg_id if isinstance(error, RemoteProtocolError) else 0)
            self.counters.refuse(rule)
            log.warning("refused a message of %s: %s", sender[:8], error)
            if type_of(frames) != ERROR_NUMBER:
                self._tell_refusal(sender, number, rule, str(error))

    def _admit_message(self, peer: Peer, message: Message) -> None:
        body = message.body
        if isinstance(body, HelloRequest):
            self._greeted(peer, message, body)
            return
        if peer.session and message.session != peer.session and not isinstance(body, WelcomeReply | ErrorReply):
            raise RemoteProtocolError(f"session {message.session} is not the one that greeted, {peer.session}", Rule.SESSION)
        if isinstance(body, ErrorReply) and self._is_forgotten(peer, body):
            self._greet(peer)
            return
        is_refusal = peer.conversation.is_answer_to_greeting(body, message.parent_id)
        step = peer.conversation.judge(body, is_mine=False, msg_id=message.msg_id, parent_id=message.parent_id)
        if step is None:
            self.counters.late += 1
            return
        peer.conversation.take(step)
        self.counters.messages_received += 1
        if isinstance(body, WelcomeReply):
            peer.session, peer.greeting = message.session, body
            self._unsent.add(peer.key)
        elif is_refusal and isinstance(body, ErrorReply):
            log.error("%s refused the greeting: %s", peer.key[:8], body.text)
            peer.waiting.clear()
        elif isinstance(body, PingRequest):
            self.send_now(peer.key, PingReply(text=body.text), parent_id=message.msg_id)
            return
        elif self.streams.handles(body, peer.key, message.parent_id):
            self.streams.receive(peer.key, message)
            return
        self._deliver(Delivery(peer.key, message))

    def _greeted(self, peer: Peer, message: Message, hello: HelloRequest) -> None:
        """Answers a greeting. The same one again is answered again; another one in the same session is refused."""
        if peer.session == message.session and peer.greeting != hello and isinstance(peer.greeting, HelloRequest):
            raise RemoteProtocolError("a second, different greeting in one session", Rule.ORDER)
        if not hello.minor_min <= MINOR <= hello.minor_max:
            text = f"this side speaks minor version {MINOR}, the peer {hello.minor_min} to {hello.minor_max}"
            raise RemoteProtocolError(text, Rule.VERSION)
        entry = self.grants.find(peer.key)
        if hello.agent and entry is not None and entry.name and hello.agent != entry.name:
            raise RemoteProtocolError(f"this key belongs to {entry.name!r}, not to {hello.agent!r}", Rule.IDENTITY)
        is_new = peer.session != message.session
        if is_new:
            self.streams.peer_gone(peer.key)
            peer.conversation, peer.session = self._new_conversation(peer.key), message.session
        peer.greeting = hello
        step = peer.conversation.judge(hello, is_mine=False, msg_id=message.msg_id, parent_id=0)
        assert step is not None
        peer.conversation.take(step)
        made = self._manners.welcome(peer.key, hello) if self._manners.welcome else None
        welcome = (made or WelcomeReply(agent=entry.name if entry else "", heartbeat_s=self._tick_s, lease_s=0.0)).model_copy(
            update={
                "minor": min(MINOR, hello.minor_max),
                "capabilities": self._manners.hello.capabilities,
                "host": host_name(),
                "store": self.store_name,
                "window_bytes": self._manners.hello.window_bytes,
                "bulk_endpoints": self.channel.bulk_endpoints,
            }
        )
        self.send_now(peer.key, welcome, parent_id=message.msg_id)
        self._unsent.add(peer.key)
        if is_new:
            self.counters.messages_received += 1
            self._deliver(Delivery(peer.key, message))

    def _dial(self, key: str, endpoint: str) -> None:
        peer = self._known(key)
        peer.dialed = endpoint
        self.channel.connect(key, endpoint)
        self._greet(peer)

    def _greet(self, peer: Peer) -> None:
        if peer.conversation.is_open:
            peer.conversation = self._new_conversation(peer.key)
        peer.session, peer.greeted_at = "", time.monotonic()
        hello = self._manners.hello.model_copy(
            update={
                "minor_min": 0,
                "minor_max": MINOR,
                "endpoints": self.endpoints,
                "host": host_name(),
                "store": self.store_name,
                "pid": os.getpid(),
            }
        )
        message = Message(hello, next(self._numbers), 0, self.session)
        self._hand_over(peer, message, encode(message), bulk=False)

    def _greet_again(self, now: float) -> None:
        """A greeting that was not answered may have been lost with its connection: dial anew."""
        for peer in list(self._peers.values()):
            if peer.dialed and peer.conversation.join_state == "greeted" and now - peer.greeted_at > GREET_AGAIN_S:
                self._dial(peer.key, peer.dialed)

    def _is_forgotten(self, peer: Peer, error: ErrorReply) -> bool:
        """Whether a peer that was dialed and greeted does not know us any more: it was started again."""
        lost = error.code == ProtocolError.code and error.rule in (Rule.ORDER, Rule.SESSION)
        return lost and bool(peer.dialed) and peer.conversation.is_open and "before the greeting" in error.text

    def _enqueue(self, key: str, item: _Outgoing) -> None:
        peer = self._known(key)
        peer.waiting.append(item)
        self._unsent.add(key)
        if len(peer.waiting) == 1:
            self._flush(peer, time.monotonic())

    def _flush(self, peer: Peer, now: float) -> None:
        """Sends what can be sent to a greeted peer, in order; gives up what waited too long."""
        while peer.waiting:
            item = peer.waiting[0]
            if peer.conversation.is_open and self._hand_over(peer, item.message, item.frames, bulk=False):
                peer.waiting.popleft()
            elif now >= item.give_up_at:
                peer.waiting.popleft()
                self.counters.dropped += 1
                log.warning("gave up sending %s to %s", type(item.message.body).__name__, peer.key[:8])
            else:
                return
        self._unsent.discard(peer.key)

    def _hand_over(self, peer: Peer, message: Message, frames: Frames, *, bulk: bool) -> bool:
        """Gives a legal message to the channel; an illegal or late one is dropped, which counts as done."""
        try:
            step = peer.conversation.judge(message.body, is_mine=True, msg_id=message.msg_id, parent_id=message.parent_id)
        except LocalProtocolError as error:
            log.error("this side tried to say what the protocol does not allow: %s", error)
            self.counters.dropped += 1
            return True
        if step is None:
            self.counters.dropped += 1
            return True
        if bulk:
            self._open_bulk_lane(peer)
        if not self.channel.send(peer.key, frames, bulk=bulk):
            return False
        peer.conversation.take(step)
        return True

    def _open_bulk_lane(self, peer: Peer) -> None:
        if peer.dialed and isinstance(peer.greeting, WelcomeReply) and not self.channel.has_dialed(peer.key, bulk=True):
            scheme = peer.dialed.partition("://")[0]
            same = [endpoint for endpoint in peer.greeting.bulk_endpoints if endpoint.partition("://")[0] == scheme]
            if same:
                self.channel.connect(peer.key, same[0], bulk=True)

    def _tell_refusal(self, key: str, parent_id: int, rule: Rule, text: str) -> None:
        error = ErrorReply(code=ProtocolError.code, rule=rule, remote_type=RemoteProtocolError.__name__, text=text[:2000])
        message = Message(error, next(self._numbers), parent_id, self.session)
        self.channel.send(key, encode(message))
        self._known(key).conversation.abandon(parent_id)

    def _known(self, key: str) -> Peer:
        peer = self._peers.get(key)
        if peer is None:
            peer = self._peers[key] = Peer(key, self._new_conversation(key))
        return peer

    def _new_conversation(self, key: str) -> Conversation:
        coordinator = self._manners.coordinator_key
        return Conversation(i_coordinate=coordinator == self.keys.public, peer_coordinates=coordinator == key)


def _nearest(endpoints: tuple[str, ...]) -> str:
    """The endpoint with the shortest way: memory, then a socket file that is here, then tcp."""
    for endpoint in endpoints:
        scheme, _, place = endpoint.partition("://")
        if scheme == "memory" or (scheme == "ipc" and Path(place).exists()):
            return endpoint
    return next((endpoint for endpoint in endpoints if endpoint.startswith("tcp://")), "")
