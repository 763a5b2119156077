"""Requests that wait for an agent's work thread: of each peer only so many, with so many octets, and so many in all.

Whoever asks for more is told to ask again later, which students do. What the coordinator wants is never refused here.
"""

import queue
import threading
from collections import Counter
from collections.abc import Callable

from agentkd.errors import ExchangeError
from agentkd.exchange.post import Delivery
from agentkd.messages.bodies import AssessRequest, ErrorReply, KnowledgeRequest
from agentkd.messages.wire import MAX_MESSAGE_BYTES
from agentkd.names import PublicKey

MAX_REQUESTS = 256
MAX_BYTES = 8 * MAX_MESSAGE_BYTES
MAX_BYTES_IN_ALL = 32 * MAX_MESSAGE_BYTES


class WaitingWork:
    """A queue from the I/O thread to the work thread.

    Args:
        refuse: says to who sent a request why it does not wait here; on the thread that puts it.
    """

    def __init__(self, refuse: Callable[[Delivery, ErrorReply], object]) -> None:
        self._refuse = refuse
        self._queue: queue.Queue[Delivery] = queue.Queue()
        self._lock = threading.Lock()
        self._requests: Counter[PublicKey] = Counter()
        self._bytes: Counter[PublicKey] = Counter()

    def put(self, delivery: Delivery) -> None:
        """Has it wait, or refuses it."""
        problem = self._take_note(delivery) if _is_counted(delivery) else ""
        if problem:
            self._refuse(delivery, ErrorReply.of(ExchangeError(f"{problem}; ask again later")))
        else:
            self._queue.put(delivery)

    def get(self) -> Delivery:
        """The next one; blocks."""
        delivery = self._queue.get()
        if _is_counted(delivery):
            with self._lock:
                self._requests[delivery.sender] -= 1
                self._bytes[delivery.sender] -= _size_of(delivery)
                if not self._requests[delivery.sender]:
                    del self._requests[delivery.sender], self._bytes[delivery.sender]
        return delivery

    def qsize(self) -> int:
        """How many wait."""
        return self._queue.qsize()

    def _take_note(self, delivery: Delivery) -> str:
        """What keeps it from waiting, if anything does."""
        sender, size_bytes = delivery.sender, _size_of(delivery)
        with self._lock:
            if self._requests[sender] >= MAX_REQUESTS:
                return f"{MAX_REQUESTS} requests of this peer wait already"
            if self._bytes[sender] + size_bytes > MAX_BYTES or self._bytes.total() + size_bytes > MAX_BYTES_IN_ALL:
                return f"requests with {self._bytes[sender]} octets of this peer and {self._bytes.total()} of all wait already"
            self._requests[sender] += 1
            self._bytes[sender] += size_bytes
        return ""


def _is_counted(delivery: Delivery) -> bool:
    return isinstance(delivery.message.body, KnowledgeRequest | AssessRequest)


def _size_of(delivery: Delivery) -> int:
    return sum(len(buffer) for buffer in delivery.message.buffers)
