"""How much may wait here of each peer, and of all: what nobody has looked at yet, so that no peer fills the memory of another."""

import threading
from collections import Counter

from agentkd.exchange.post import Delivery
from agentkd.names import PublicKey


class Quotas:
    """Counts what waits. For any number of threads.

    Args:
        max_messages: of a peer.
        max_bytes: in the buffers of a peer's messages.
        max_bytes_in_all: in the buffers of all.
    """

    def __init__(self, max_messages: int, max_bytes: int, max_bytes_in_all: int) -> None:
        self._max_messages, self._max_bytes, self._max_bytes_in_all = max_messages, max_bytes, max_bytes_in_all
        self._lock = threading.Lock()
        self._messages: Counter[PublicKey] = Counter()
        self._bytes: Counter[PublicKey] = Counter()

    def enter(self, delivery: Delivery) -> str:
        """Counts it; else says what keeps it from waiting."""
        sender, size_bytes = delivery.sender, _size_of(delivery)
        with self._lock:
            if self._messages[sender] >= self._max_messages:
                return f"{self._max_messages} messages of this peer wait already"
            own, total = self._bytes[sender], self._bytes.total()
            if own + size_bytes > self._max_bytes or total + size_bytes > self._max_bytes_in_all:
                return f"messages with {own} octets of this peer and {total} of all wait already"
            self._messages[sender] += 1
            self._bytes[sender] += size_bytes
        return ""

    def leave(self, delivery: Delivery) -> None:
        """What was counted waits no longer. What was not is passed over."""
        sender = delivery.sender
        with self._lock:
            if not self._messages[sender]:
                return
            self._messages[sender] -= 1
            self._bytes[sender] -= _size_of(delivery)
            if not self._messages[sender]:
                del self._messages[sender], self._bytes[sender]


def _size_of(delivery: Delivery) -> int:
    return sum(len(buffer) for buffer in delivery.message.buffers)
