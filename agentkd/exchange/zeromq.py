"""The channel between processes: ZeroMQ sockets with CURVE, over tcp and ipc, on one I/O thread.

It listens on two ROUTERs, one for each lane, and dials with DEALERs. Fail closed: sockets enforce the ZAP domain, and only
keys that ``is_admitted`` accepts get through the handshake, which is tried with a stranger's key before anything is said; each
message is checked again, so that a revoked key's live session ends at its next message. A peer's identity is its authenticated
key, never a routing id or what a message says. ``Doorkeeper`` bounds who is inside without having said who they are.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import zmq
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils.monitor import recv_monitor_message

from agentkd.errors import DESCRIPTORS_USED_UP, DescriptorsError, LaunchError, Rule
from agentkd.exchange import descriptors
from agentkd.exchange.channel import Counters, Frames, FramesArrived, Turn
from agentkd.exchange.doorkeeper import HANDSHAKE_MS, Doorkeeper
from agentkd.exchange.doors import closed_name
from agentkd.exchange.keys import KeyPair, new_key_pair
from agentkd.exchange.loop import CommandLoop
from agentkd.exchange.socket_files import Place, SocketFiles, take
from agentkd.messages.wire import MAX_BODY_BYTES, MAX_BUFFERS, MAX_HEADER_BYTES, MAX_MESSAGE_BYTES
from agentkd.names import NO_KEY, PublicKey

ZAP_DOMAIN = b"agentkd"
SELF_TEST_MS = 10_000
LINGER_MS = 1_000
CONTROL_HIGH_WATER_MARK = 10_000
BULK_HIGH_WATER_MARK = 64
MAX_SOCKETS = 8_192
NEEDED_BY_CHANNEL, NEEDED_BY_PEER = 64, 8  # with some to spare
MAX_BACKLOG = 128
BACKLOG_SHARE = 16
RECEIVED_A_TURN = 64
MAX_TAKEN_BYTES = MAX_MESSAGE_BYTES + MAX_BODY_BYTES + MAX_HEADER_BYTES + 1024
MAX_FRAMES_KEPT = 1 + MAX_BUFFERS + 2  # the routing id, a message, and one more, so that it can be seen to have too many
CONTROL, BULK = False, True
IPC, ANY_FILE = "ipc://", "ipc://*"
NOW, NOW_AND_MORE = int(zmq.DONTWAIT), int(zmq.DONTWAIT) | int(zmq.SNDMORE)

log = logging.getLogger(__name__)

Socket = zmq.Socket[bytes]


class ZeroMQChannel:
    """See ``Channel``.

    Args:
        bind: addresses to listen on, ``tcp://127.0.0.1:*`` or ``ipc://*`` (a socket file in a folder of this user alone).
        is_admitted: whether a public key may connect; asked at each handshake and for each message.

    Raises:
        LaunchError: an address cannot be listened on, or strangers are not refused there.
        DescriptorsError: this process has too few descriptors left.
    """

    def __init__(self, keys: KeyPair, is_admitted: Callable[[PublicKey], bool], bind: tuple[str, ...]) -> None:
        self.keys, self.counters = keys, Counters()
        self._most_descriptors = descriptors.raise_limit()
        descriptors.must_have(NEEDED_BY_CHANNEL, "a channel")
        self._is_admitted = is_admitted
        try:
            self._context: zmq.Context[Socket] = zmq.Context(io_threads=2)
        except zmq.ZMQError as error:
            raise _refusal(error) from error
        self._context.set(zmq.MAX_SOCKETS, MAX_SOCKETS)
        self._files: SocketFiles | None = None
        self._given: list[Path] = []
        self._dealers: dict[tuple[PublicKey, bool], Socket] = {}
        self._routes: dict[tuple[PublicKey, bool], bytes] = {}
        self._loop = CommandLoop(self._run, "agentkd-io")
        self._authenticator = ThreadAuthenticator(self._context)
        self._doorkeeper = Doorkeeper(self._context, self.counters)
        try:
            self._authenticator.start()
            self._authenticator.configure_curve_callback(ZAP_DOMAIN.decode(), _AllowList(is_admitted))
            self._routers = {lane: self._listening_socket(lane) for lane in (CONTROL, BULK)}
            self._monitors = [self._doorkeeper.watch(router) for router in self._routers.values()]
            self.endpoints = self._bind(self._routers[CONTROL], bind)
            self.bulk_endpoints = self._bind(self._routers[BULK], tuple(_any_port(address) for address in bind))
            self._refuse_a_stranger()
        except BaseException as error:
            self._give_up()
            if isinstance(error, zmq.ZMQError):
                raise _refusal(error) from error
            raise

    def start(self, arrived: FramesArrived, turn: Turn, fell: Callable[[], None] = lambda: None) -> None:
        self._arrived, self._turn = arrived, turn
        self._loop.start(fell)

    def call(self, command: Callable[[], None]) -> None:
        self._loop.call(command)

    def check(self) -> None:
        self._loop.check()

    def connect(self, key: PublicKey, endpoint: str, *, bulk: bool = False) -> None:
        if (key, bulk) in self._dealers:
            self._close_dealer(key, bulk)
        try:
            descriptors.must_have(NEEDED_BY_PEER, f"a connection to {key[:8]}")
            dealer = self._curve_socket(zmq.DEALER, bulk)
            try:
                self._poller.register(self._doorkeeper.watch(dealer), zmq.POLLIN)
            except zmq.ZMQError:
                dealer.close(linger=0)
                raise
        except (zmq.ZMQError, DescriptorsError) as error:
            refusal = _refusal(error) if isinstance(error, zmq.ZMQError) else error
            if not isinstance(refusal, DescriptorsError):
                raise
            log.error("%s is not dialed yet: %s", key[:8], refusal)
            return  # who was not reached is dialed again
        dealer.curve_serverkey = key.encode()
        dealer.connect(endpoint)
        self._dealers[key, bulk] = dealer
        self._poller.register(dealer, zmq.POLLIN)

    def disconnect(self, key: PublicKey) -> None:
        for lane in (CONTROL, BULK):
            if (key, lane) in self._dealers:
                self._close_dealer(key, lane)

    def has_dialed(self, key: PublicKey, *, bulk: bool = False) -> bool:
        return (key, bulk) in self._dealers

    def send(self, key: PublicKey, frames: Frames, *, bulk: bool = False) -> bool:
        """The lane asked for or else the other one; a peer that dialed only one is answered there."""
        lanes = (BULK, CONTROL) if bulk else (CONTROL,)
        for lane in lanes:
            if (key, lane) in self._dealers or (key, lane) in self._routes:
                return self._send(key, lane, frames)
        return False

    def close(self) -> None:
        if not self._loop.close():
            return
        self._doorkeeper.close()  # unless its thread has, in good order
        self._authenticator.stop()
        self._context.destroy(linger=LINGER_MS)
        self._remove_files()

    # On the I/O thread.

    def _run(self) -> None:
        self._poller = zmq.Poller()
        self._poller.register(self._loop.wake_fd, zmq.POLLIN)
        for socket in (*self._routers.values(), *self._monitors):
            self._poller.register(socket, zmq.POLLIN)
        while True:
            wait_ms = int(min(self._turn(), self._doorkeeper.wait_s()) * 1000 + 0.999)
            ready = {item for item, _ in self._poller.poll(max(0, wait_ms))}
            goes_on = self._loop.wake_fd not in ready or self._loop.obey()
            is_drained = True
            for lane in (CONTROL, BULK):  # the control lane is always emptied first
                if self._routers[lane] in ready:
                    is_drained &= self._receive(self._routers[lane], lane, NO_KEY)
                for (key, of_lane), dealer in list(self._dealers.items()):
                    if of_lane == lane and dealer in ready:
                        is_drained &= self._receive(dealer, lane, key)
            self._doorkeeper.look(ready, is_drained=is_drained)
            if not goes_on:
                break
        self._turn()
        self._doorkeeper.close()
        for socket in (*self._routers.values(), *self._dealers.values()):
            socket.close(linger=LINGER_MS)

    def _receive(self, socket: Socket, lane: bool, dealer_key: PublicKey) -> bool:
        """Takes messages, but not many at once; whether there is none left."""
        for _ in range(RECEIVED_A_TURN if lane == CONTROL else 8):
            try:
                frames = self._take(socket)
            except zmq.Again:
                return True
            except zmq.ZMQError as error:  # a dealer that was closed by what an earlier message led to
                if error.errno == zmq.ENOTSOCK:
                    return True
                raise
            if dealer_key:
                self._doorkeeper.heard(socket, frames[-1].get(zmq.SRCFD))
                self._arrived(dealer_key, [frame.buffer for frame in frames])
                continue
            proven = frames[-1].get("User-Id")
            sender = PublicKey(proven) if isinstance(proven, str) else None
            if sender is None or not self._is_admitted(sender):
                self.counters.refuse(Rule.IDENTITY)
                continue
            self._doorkeeper.heard(socket, frames[-1].get(zmq.SRCFD))
            self._routes[sender, lane] = frames[0].bytes
            self._arrived(sender, [frame.buffer for frame in frames[1:]])
        return False

    def _take(self, socket: Socket) -> "list[zmq.Frame]":
        """The frames of a message. Of one that is over a limit only the first are kept, enough to see that it is."""
        frames = [frame := socket.recv(NOW, copy=False)]
        size_bytes = len(frame)
        while frame.more:
            frame = socket.recv(NOW, copy=False)
            if size_bytes <= MAX_TAKEN_BYTES and len(frames) < MAX_FRAMES_KEPT:
                frames.append(frame)
            size_bytes += len(frame)
        self.counters.bytes_received += size_bytes
        return frames

    def _send(self, key: PublicKey, lane: bool, frames: Frames) -> bool:
        socket = self._dealers.get((key, lane))
        *first, last = frames
        try:
            if socket is None:
                socket = self._routers[lane]
                socket.send(self._routes[key, lane], NOW_AND_MORE)
            for frame in first:
                socket.send(frame, NOW_AND_MORE, copy=False)
            socket.send(last, NOW, copy=False)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._routes.pop((key, lane), None)
            return False
        self.counters.messages_sent += 1
        self.counters.bytes_sent += sum(len(frame) for frame in frames)
        return True

    def _close_dealer(self, key: PublicKey, lane: bool) -> None:
        dealer = self._dealers.pop((key, lane))
        self._poller.unregister(dealer)
        self._poller.unregister(self._doorkeeper.forget(dealer))
        dealer.close(linger=0)

    # Sockets.

    def _curve_socket(self, kind: int, lane: bool) -> Socket:
        socket = self._context.socket(kind)
        socket.curve_publickey, socket.curve_secretkey = self.keys.public.encode(), self.keys.secret.encode()
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        socket.setsockopt(zmq.LINGER, LINGER_MS)
        high_water_mark = BULK_HIGH_WATER_MARK if lane == BULK else CONTROL_HIGH_WATER_MARK
        socket.setsockopt(zmq.SNDHWM, high_water_mark)
        socket.setsockopt(zmq.RCVHWM, high_water_mark)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        socket.setsockopt(zmq.AFFINITY, 1 << int(lane))
        return socket

    def _listening_socket(self, lane: bool) -> Socket:
        router = self._curve_socket(zmq.ROUTER, lane)
        router.curve_server = True
        router.zap_domain = ZAP_DOMAIN
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        router.setsockopt(zmq.BACKLOG, min(MAX_BACKLOG, self._most_descriptors // BACKLOG_SHARE))
        return router

    def _refuse_a_stranger(self) -> None:
        """Knocks at both lanes with a key that was made this moment. Were it let in, so would be anybody.

        Raises:
            LaunchError: it was not refused.
            DescriptorsError: there are too few descriptors to answer anybody.
        """
        stranger = new_key_pair()
        for endpoint in (self.endpoints[0], self.bulk_endpoints[0]):
            knock = self._curve_socket(zmq.DEALER, CONTROL)
            knock.curve_publickey, knock.curve_secretkey = stranger.public.encode(), stranger.secret.encode()
            knock.curve_serverkey = self.keys.public.encode()
            monitor = knock.get_monitor_socket(zmq.Event.HANDSHAKE_SUCCEEDED | zmq.Event.HANDSHAKE_FAILED_AUTH)
            knock.connect(endpoint)
            event = recv_monitor_message(monitor)["event"] if monitor.poll(SELF_TEST_MS) else None
            knock.disable_monitor()
            monitor.close(linger=0)
            knock.close(linger=0)
            if event is None:
                descriptors.must_have(NEEDED_BY_PEER, f"a connection at {endpoint}")  # or that is why nobody answers
            if event != zmq.Event.HANDSHAKE_FAILED_AUTH:
                what = "a key that nobody knows was let in" if event else "nobody answers the authentication of peers"
                raise LaunchError(f"{endpoint} is not safe to listen on: {what}")

    def _give_up(self) -> None:
        self._doorkeeper.close()
        self._authenticator.stop()
        self._context.destroy(linger=0)
        self._loop.close()
        self._remove_files()

    def _remove_files(self) -> None:
        for file in self._given:
            file.unlink(missing_ok=True)
            closed_name(file).unlink(missing_ok=True)
        if self._files is not None:
            self._files.remove()

    def _bind(self, router: Socket, addresses: tuple[str, ...]) -> tuple[str, ...]:
        bound = []
        for chosen in self._chosen(addresses):
            try:
                router.bind(chosen)
            except zmq.ZMQError as error:
                if error.errno in DESCRIPTORS_USED_UP:
                    raise
                hint = "is the port in use? launch.port: 0 takes a free one"
                if chosen.startswith(IPC):
                    hint = "choose a shorter path in a folder that is there and that you may write to, or tcp://127.0.0.1:*"
                raise LaunchError(f"cannot listen on {chosen}: {error}; {hint}") from error
            if chosen.startswith(IPC) and chosen in addresses:
                self._given.append(Path(chosen.removeprefix(IPC)))
            bound.append(router.getsockopt_string(zmq.LAST_ENDPOINT))
        return tuple(bound)

    def _chosen(self, addresses: tuple[str, ...]) -> list[str]:
        """Addresses with a free path for each socket file. Where none can be had, what else there is has to do."""
        if ANY_FILE not in addresses:
            return list(addresses)
        found: list[Place] = []
        self._files = self._files or take(found)
        if self._files is not None:
            return [f"{IPC}{self._files.new()}" if address == ANY_FILE else address for address in addresses]
        others = [address for address in addresses if address != ANY_FILE]
        reasons = "; ".join(map(str, found))
        if not others:
            raise LaunchError(
                f"no socket file can be had: {reasons}. Set XDG_RUNTIME_DIR or TMPDIR to a short folder of "
                "your own, or take launch.transport: tcp"
            )
        log.info("listening without socket files: %s", reasons)
        return others


def _refusal(error: zmq.ZMQError) -> DescriptorsError | zmq.ZMQError:
    return DescriptorsError("a socket", error.errno) if error.errno in DESCRIPTORS_USED_UP else error


class _AllowList:
    """Answers the ZAP handler: is this key admitted?"""

    def __init__(self, is_admitted: Callable[[PublicKey], bool]) -> None:
        self._is_admitted = is_admitted

    def callback(self, domain: str, key: bytes) -> bool:
        return self._is_admitted(PublicKey(key.decode("ascii", errors="replace")))


def _any_port(address: str) -> str:
    """The same interface with a port of the system's choice, for the bulk lane."""
    return address.rpartition(":")[0] + ":*" if address.startswith("tcp://") else "ipc://*"
