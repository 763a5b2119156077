"""The I/O thread of a process: it alone touches sockets, so control and heartbeats go on whatever the work thread does.

A ``Post`` listens on a ROUTER and talks to peers over DEALERs, all with CURVE. Fail closed: sockets enforce the ZAP domain
and only listed public keys are admitted. A peer's identity is its authenticated key, never a routing id or a message field.

``send``, ``connect``, ``allow`` and ``close`` may be called from any thread and do not block. Incoming messages are handed
to ``deliver`` on the I/O thread, which must not block. Delivery is at most once and in order per peer; a peer that is gone
loses what was in flight, which is why tasks are idempotent and requests are repeated.
"""

import contextlib
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import zmq
from zmq.auth.thread import ThreadAuthenticator

from agentkd.errors import ChannelClosedError, LaunchError, RemoteProtocolError
from agentkd.exchange.keys import KeyPair
from agentkd.messages.bodies import Body
from agentkd.messages.wire import MAX_BUFFER_BYTES, Buffer, Message, decode, encode

ZAP_DOMAIN = b"agentkd"
HANDSHAKE_MS = 5_000
LINGER_MS = 1_000
HIGH_WATER_MARK = 10_000
SEND_RETRY_S = 0.02
SEND_GIVE_UP_S = 30.0
CLOSE_TIMEOUT_S = 10.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Delivery:
    """A message and the public key (Z85) of who sent it."""

    sender: str
    message: Message


@dataclass
class Counters:
    """What crossed this process's sockets since it started."""

    messages_sent: int = 0
    messages_received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    refused: int = 0


@dataclass
class _Outgoing:
    peer: str
    frames: list[Buffer]
    give_up_at: float


class Post:
    """Owns every socket of this process. Use as a context manager, or ``start`` and ``close``."""

    def __init__(
        self,
        keys: KeyPair,
        deliver: Callable[[Delivery], None],
        *,
        bind: str = "tcp://127.0.0.1:*",
        tick: Callable[[], None] | None = None,
        tick_s: float = 1.0,
    ) -> None:
        self.keys, self.counters = keys, Counters()
        self._deliver, self._tick, self._tick_s = deliver, tick, tick_s
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._allowed: set[bytes] = set()
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._numbers = itertools.count(1)
        self._routes: dict[str, bytes] = {}
        self._dealers: dict[str, zmq.Socket[bytes]] = {}
        self._waiting: list[_Outgoing] = []
        self._wake_address = f"inproc://wake-{id(self)}"
        self._wake_lock = threading.Lock()
        self._closed = False
        self._authenticator = ThreadAuthenticator(self._context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback(ZAP_DOMAIN.decode(), _AllowList(self._allowed))
        self._wake_in = self._context.socket(zmq.PULL)
        self._wake_in.bind(self._wake_address)
        self._wake_out = self._context.socket(zmq.PUSH)
        self._wake_out.connect(self._wake_address)
        self._router = self._curve_socket(zmq.ROUTER)
        self._router.curve_server = True
        self._router.zap_domain = ZAP_DOMAIN
        self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.endpoint = self._bind(bind)
        self._thread = threading.Thread(target=self._run, name="agentkd-io", daemon=True)

    def __enter__(self) -> "Post":
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def start(self) -> None:
        """Starts the I/O thread."""
        self._thread.start()

    def close(self) -> None:
        """Sends what is queued, closes the sockets and ends the thread. May be called twice."""
        with self._wake_lock:
            if self._closed:
                return
            self._closed = True
            self._commands.put(None)
            self._wake()
        if self._thread.is_alive():
            self._thread.join(CLOSE_TIMEOUT_S)
        self._authenticator.stop()
        self._context.destroy(linger=LINGER_MS)

    def allow(self, public_keys: Iterable[str]) -> None:
        """Admits these keys from now on, besides those admitted before."""
        self._allowed.update(key.encode() for key in public_keys)

    def forget(self, public_key: str) -> None:
        """Admits a key no longer; its live session is refused at its next message."""
        self._allowed.discard(public_key.encode())

    def connect(self, endpoint: str, public_key: str) -> None:
        """Opens a connection to a peer's listening socket. ``send`` may follow at once."""
        self._command(lambda: self._connect(endpoint, public_key))

    def disconnect(self, public_key: str) -> None:
        """Closes the connection to a peer, if there is one."""
        self._command(lambda: self._disconnect(public_key))

    def send(self, peer: str, body: Body, *, parent_id: int = 0, buffers: tuple[Buffer, ...] = ()) -> int:
        """Queues a message for the peer with that public key; returns its number, which the reply's ``parent_id`` names.

        Raises:
            ChannelClosedError: this post is closed.
        """
        number = next(self._numbers)
        frames = encode(Message(body=body, msg_id=number, parent_id=parent_id, buffers=buffers))
        item = _Outgoing(peer, frames, time.monotonic() + SEND_GIVE_UP_S)
        self._command(lambda: self._waiting.append(item))
        return number

    def _command(self, command: Callable[[], None]) -> None:
        with self._wake_lock:
            if self._closed:
                raise ChannelClosedError("the channel is closed")
            self._commands.put(command)
            self._wake()

    def _wake(self) -> None:
        """Rouses the I/O thread; if many calls wait to be seen already, one more is not needed."""
        with contextlib.suppress(zmq.Again):
            self._wake_out.send(b"", zmq.DONTWAIT)

    # Everything below runs on the I/O thread.

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._wake_in, zmq.POLLIN)
        poller.register(self._router, zmq.POLLIN)
        self._poller = poller
        next_tick = time.monotonic()
        while True:
            timeout_s = SEND_RETRY_S if self._waiting else max(0.0, next_tick - time.monotonic())
            ready = {socket for socket, _ in poller.poll(int(timeout_s * 1000) + 1)}
            if self._wake_in in ready:
                _drain(self._wake_in)
            if not self._obey():
                break
            self._flush()
            if self._router in ready:
                self._receive(self._router, None)
            for key, dealer in list(self._dealers.items()):
                if dealer in ready:
                    self._receive(dealer, key)
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + self._tick_s
                if self._tick:
                    with contextlib.suppress(ChannelClosedError):
                        self._tick()
                self._flush()
        self._flush()
        for socket in (self._wake_in, self._wake_out, self._router, *self._dealers.values()):
            socket.close(linger=LINGER_MS)

    def _obey(self) -> bool:
        """Executes queued commands; false once asked to end."""
        while True:
            try:
                command = self._commands.get_nowait()
            except queue.Empty:
                return True
            if command is None:
                return False
            command()

    def _flush(self) -> None:
        """Sends what can be sent. A peer whose pipe is full or not yet there keeps its messages, in order, for a while."""
        stuck: set[str] = set()
        left: list[_Outgoing] = []
        for item in self._waiting:
            if item.peer in stuck or not self._try_send(item):
                stuck.add(item.peer)
                if time.monotonic() < item.give_up_at:
                    left.append(item)
                else:
                    log.warning("gave up sending to %s after %.0f s", item.peer, SEND_GIVE_UP_S)
        self._waiting = left

    def _try_send(self, item: _Outgoing) -> bool:
        try:
            if item.peer in self._dealers:
                self._dealers[item.peer].send_multipart(item.frames, zmq.DONTWAIT, copy=False)
            elif item.peer in self._routes:
                self._router.send_multipart([self._routes[item.peer], *item.frames], zmq.DONTWAIT, copy=False)
            else:
                return False
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._routes.pop(item.peer, None)
            return False
        self.counters.messages_sent += 1
        self.counters.bytes_sent += sum(len(frame) for frame in item.frames)
        return True

    def _receive(self, socket: "zmq.Socket[bytes]", dealer_key: str | None) -> None:
        while True:
            try:
                frames = socket.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return
            try:
                sender = dealer_key or self._identify(frames)
                message = decode([frame.buffer for frame in (frames if dealer_key else frames[1:])])
            except RemoteProtocolError as error:
                self.counters.refused += 1
                log.warning("refused a message: %s", error)
                continue
            self.counters.messages_received += 1
            self.counters.bytes_received += sum(len(frame.buffer) for frame in frames)
            self._deliver(Delivery(sender, message))

    def _identify(self, frames: list[zmq.Frame]) -> str:
        """The key that the ZAP handler authenticated, which must still be admitted."""
        user_id = frames[-1].get("User-Id") if frames else None
        if not isinstance(user_id, str) or user_id.encode() not in self._allowed:
            raise RemoteProtocolError("sender's key is not admitted")
        self._routes[user_id] = frames[0].bytes
        return user_id

    def _connect(self, endpoint: str, public_key: str) -> None:
        self._disconnect(public_key)
        dealer = self._curve_socket(zmq.DEALER)
        dealer.curve_serverkey = public_key.encode()
        dealer.connect(endpoint)
        self._dealers[public_key] = dealer
        self._poller.register(dealer, zmq.POLLIN)

    def _disconnect(self, public_key: str) -> None:
        dealer = self._dealers.pop(public_key, None)
        if dealer is not None:
            self._poller.unregister(dealer)
            dealer.close(linger=0)

    def _curve_socket(self, kind: int) -> "zmq.Socket[bytes]":
        socket = self._context.socket(kind)
        socket.curve_publickey, socket.curve_secretkey = self.keys.public.encode(), self.keys.secret.encode()
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        socket.setsockopt(zmq.LINGER, LINGER_MS)
        socket.setsockopt(zmq.SNDHWM, HIGH_WATER_MARK)
        socket.setsockopt(zmq.RCVHWM, HIGH_WATER_MARK)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_BUFFER_BYTES)
        return socket

    def _bind(self, address: str) -> str:
        try:
            self._router.bind(address)
        except zmq.ZMQError as error:
            self._authenticator.stop()
            self._context.destroy(linger=0)
            raise LaunchError(
                f"cannot listen on {address}: {error}; is the port in use? launch.port: 0 takes a free one"
            ) from error
        return self._router.getsockopt_string(zmq.LAST_ENDPOINT)


class _AllowList:
    """Answers the ZAP handler: is this key admitted?"""

    def __init__(self, allowed: set[bytes]) -> None:
        self.allowed = allowed

    def callback(self, domain: str, key: bytes) -> bool:
        return key in self.allowed


def _drain(socket: "zmq.Socket[bytes]") -> None:
    try:
        while True:
            socket.recv(zmq.DONTWAIT)
    except zmq.Again:
        return
