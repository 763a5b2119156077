"""Questions and answers across threads: ask a peer, wait with a deadline, get the reply or a typed error."""

import queue
import threading
import time
from collections.abc import Callable

from agentkd.errors import RemoteAgentError, ReplyTimeoutError
from agentkd.exchange.post import Delivery, Post
from agentkd.messages.bodies import Body, ErrorReply
from agentkd.messages.wire import Buffer
from agentkd.names import PublicKey

POLL_S = 0.5


class Asker:
    """Sorts replies to whoever waits for them. Feed every delivery to ``take``; those it does not want are somebody else's."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[PublicKey, int], queue.SimpleQueue[Delivery]] = {}
        self._lock = threading.Lock()

    def take(self, delivery: Delivery) -> bool:
        """Whether somebody waits for this."""
        with self._lock:
            inbox = self._waiting.get((delivery.sender, delivery.message.parent_id))
        if inbox is None:
            return False
        inbox.put(delivery)
        return True

    def ask(
        self,
        post: Post,
        peer: PublicKey,
        body: Body,
        *,
        buffers: tuple[Buffer, ...] = (),
        timeout_s: float = 30.0,
        check: Callable[[], None] | None = None,
    ) -> Delivery:
        """The reply to a request. Blocks.

        Raises:
            RemoteAgentError: the peer answered with an error.
            ReplyTimeoutError: it did not answer in time.
        """
        inbox: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        with self._lock:  # the answer cannot be sorted before its number is known here
            number = post.send(peer, body, buffers=buffers, deadline_ms=int(timeout_s * 1000))
            self._waiting[peer, number] = inbox
        try:
            reply = self._wait(inbox, peer, body, timeout_s, check)
        finally:
            with self._lock:
                del self._waiting[peer, number]
        answer = reply.message.body
        if isinstance(answer, ErrorReply):
            raise RemoteAgentError(peer[:8], answer.code, answer.remote_type, answer.text, rule=answer.rule)
        return reply

    def _wait(
        self,
        inbox: "queue.SimpleQueue[Delivery]",
        peer: PublicKey,
        body: Body,
        timeout_s: float,
        check: Callable[[], None] | None,
    ) -> Delivery:
        deadline = time.monotonic() + timeout_s
        while True:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise ReplyTimeoutError(peer[:8], type(body).__name__, timeout_s)
            try:
                return inbox.get(timeout=min(left_s, POLL_S) if check else left_s)
            except queue.Empty:
                if check:
                    check()
