"""Requests that wait for an agent's work thread: of each peer only so many, with so many octets, and so many in all.

Whoever asks for more is told to ask again later, which students do. What the coordinator wants is never refused here.
"""

import queue
from collections.abc import Callable

from agentkd.errors import ExchangeError
from agentkd.exchange.post import Delivery
from agentkd.exchange.quotas import Quotas
from agentkd.messages.bodies import AssessRequest, ErrorReply, KnowledgeRequest
from agentkd.messages.wire import MAX_MESSAGE_BYTES

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
        self._quotas = Quotas(MAX_REQUESTS, MAX_BYTES, MAX_BYTES_IN_ALL)

    def put(self, delivery: Delivery) -> None:
        """Has it wait, or refuses it."""
        problem = self._quotas.enter(delivery) if _is_counted(delivery) else ""
        if problem:
            self._refuse(delivery, ErrorReply.of(ExchangeError(f"{problem}; ask again later")))
        else:
            self._queue.put(delivery)

    def get(self) -> Delivery:
        """The next one; blocks."""
        delivery = self._queue.get()
        if _is_counted(delivery):
            self._quotas.leave(delivery)
        return delivery

    def qsize(self) -> int:
        """How many wait."""
        return self._queue.qsize()


def _is_counted(delivery: Delivery) -> bool:
    return isinstance(delivery.message.body, KnowledgeRequest | AssessRequest)
