"""A TCP proxy in a thread with the weather of a bad network: delay, losses that TCP sends again, partitions. On loopback only.

What TCP loses it sends again after a while, and whatever comes after it waits; so a loss is a delay here, and nothing is dropped
or reordered. In a partition nothing passes in either direction, and nobody who knocks is answered; afterwards all of it does.
"""

import contextlib
import heapq
import itertools
import random
import selectors
import socket
import threading
import time
from dataclasses import dataclass, field

SENT_AGAIN_S = 0.2  # Linux's shortest timeout of retransmission
MOST = 1 << 16


@dataclass
class Weather:
    """How it is between all proxies that have it.

    Args:
        delay_s: of every piece, in each direction.
        loss: share of the pieces that have to be sent again.
    """

    delay_s: float = 0.0
    loss: float = 0.0
    drawn: random.Random = field(default_factory=lambda: random.Random(1))
    num_lost: int = 0

    def due(self, now: float) -> float:
        """When something arrives that is sent now."""
        is_lost = self.drawn.random() < self.loss
        self.num_lost += is_lost
        return now + self.delay_s + is_lost * (SENT_AGAIN_S + self.delay_s)


class WeatherProxy:
    """Forwards connections to ``endpoint`` (``tcp://host:port``). Close it in the end."""

    def __init__(self, endpoint: str, weather: Weather) -> None:
        host, _, port = endpoint.removeprefix("tcp://").partition(":")
        self._target, self._weather = (host, int(port)), weather
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.setblocking(False)
        self.endpoint = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self.num_forwarded = 0
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ)
        self._other: dict[socket.socket, socket.socket] = {}
        self._due: list[tuple[float, int, socket.socket, bytes]] = []  # nothing is the end of a connection
        self._last: dict[socket.socket, float] = {}
        self._numbers = itertools.count()
        self._is_parted = self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="weather", daemon=True)
        self._thread.start()

    def part(self) -> None:
        """From now on nothing passes."""
        self._is_parted = True

    def heal(self) -> None:
        """From now on everything does, what was held first."""
        self._is_parted = False

    def close(self) -> None:
        """Ends every connection."""
        self._is_closed = True
        self._thread.join(10)
        for end in (*self._other, self._server):
            end.close()
        self._selector.close()

    def _run(self) -> None:
        while not self._is_closed:
            now = time.monotonic()
            while self._due and self._due[0][0] <= now and not self._is_parted:
                _, _, end, data = heapq.heappop(self._due)
                self._pass(end, data)
            wait_s = 0.02 if self._is_parted or not self._due else min(0.02, max(0.0, self._due[0][0] - time.monotonic()))
            for key, _ in self._selector.select(wait_s):
                if key.fileobj is not self._server:
                    self._take(key.fileobj)
                elif not self._is_parted:
                    self._accept()
            if self._is_parted:
                time.sleep(0.005)  # who knocks is not answered, and the selector tells of it all the time

    def _accept(self) -> None:
        near, _ = self._server.accept()
        try:
            far = socket.create_connection(self._target, timeout=5)
        except OSError:
            near.close()
            return
        for end, other in ((near, far), (far, near)):
            end.settimeout(10)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._other[end] = other
            self._selector.register(end, selectors.EVENT_READ)

    def _take(self, end: socket.socket) -> None:
        try:
            data = end.recv(MOST)
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(end)
        other = self._other.get(end)
        if other is not None:
            due = max(self._last.get(other, 0.0), self._weather.due(time.monotonic()))
            self._last[other] = due
            heapq.heappush(self._due, (due, next(self._numbers), other, data))

    def _pass(self, end: socket.socket, data: bytes) -> None:
        try:
            if data:
                end.sendall(data)
                self.num_forwarded += 1
                return
        except OSError:
            pass
        other = self._other.pop(end, None)
        for each in (end, other):
            if each is not None:
                self._other.pop(each, None)
                with contextlib.suppress(KeyError, ValueError):
                    self._selector.unregister(each)
                each.close()
