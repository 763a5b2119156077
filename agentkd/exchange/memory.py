"""The channel inside one process: frames are handed over by reference. A real channel, and what tests of agents use."""

import itertools
import select
import threading
from collections.abc import Callable

from agentkd.errors import ChannelClosedError, LaunchError
from agentkd.exchange.channel import Counters, Frames, FramesArrived, Turn
from agentkd.exchange.loop import CommandLoop
from agentkd.names import PublicKey

SCHEME = "memory://"

_listening: dict[str, "MemoryChannel"] = {}
_lock = threading.Lock()
_numbers = itertools.count(1)


class MemoryChannel:
    """See ``Channel``. Whoever runs in this process is trusted to name its own key."""

    def __init__(self, key: PublicKey, bind: str = f"{SCHEME}*") -> None:
        endpoint = f"{SCHEME}{next(_numbers)}" if bind == f"{SCHEME}*" else bind
        self._key, self.counters = key, Counters()
        self.endpoints: tuple[str, ...] = (endpoint,)
        self.bulk_endpoints: tuple[str, ...] = (endpoint,)
        self._peers: dict[PublicKey, MemoryChannel] = {}
        self._dialed: set[PublicKey] = set()
        self._loop = CommandLoop(self._run, "agentkd-memory")
        with _lock:
            if endpoint in _listening:
                raise LaunchError(f"cannot listen on {endpoint}: it is taken")
            _listening[endpoint] = self

    def start(self, arrived: FramesArrived, turn: Turn, fell: Callable[[], None] = lambda: None) -> None:
        self._arrived, self._turn = arrived, turn
        self._loop.start(fell)

    def call(self, command: Callable[[], None]) -> None:
        self._loop.call(command)

    def check(self) -> None:
        self._loop.check()

    def connect(self, key: PublicKey, endpoint: str, *, bulk: bool = False) -> None:
        with _lock:
            peer = _listening.get(endpoint)
        if peer is not None and peer._key == key:
            self._peers[key] = peer
            self._dialed.add(key)

    def disconnect(self, key: PublicKey) -> None:
        self._peers.pop(key, None)
        self._dialed.discard(key)

    def has_dialed(self, key: PublicKey, *, bulk: bool = False) -> bool:
        return key in self._dialed

    def send(self, key: PublicKey, frames: Frames, *, bulk: bool = False) -> bool:
        peer = self._peers.get(key)
        if peer is None:
            return False
        try:
            peer.call(lambda: peer._receive(self, frames))
        except ChannelClosedError:
            self._peers.pop(key, None)
            return False
        self.counters.messages_sent += 1
        self.counters.bytes_sent += sum(len(frame) for frame in frames)
        return True

    def close(self) -> None:
        with _lock:
            _listening.pop(self.endpoints[0], None)
        self._loop.close()

    def _receive(self, sender: "MemoryChannel", frames: Frames) -> None:
        self._peers[sender._key] = sender
        self.counters.bytes_received += sum(len(frame) for frame in frames)
        self._arrived(sender._key, frames)

    def _run(self) -> None:
        poll = select.poll()  # select.select takes no descriptor above 1,023
        poll.register(self._loop.wake_fd, select.POLLIN)
        while True:
            wait_s = self._turn()
            poll.poll(max(0.0, wait_s) * 1000)
            if not self._loop.obey():
                self._turn()
                return
