"""Brings what agents made into the coordinator's store, on threads of its own.

A result counts once its artifacts are there and, if a guest made it, have been looked at.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from agentkd.artifacts import recordings
from agentkd.artifacts.store import Store
from agentkd.errors import AgentKDError, ChannelClosedError, ExchangeError
from agentkd.exchange.asking import Asker
from agentkd.exchange.pieces import Carrier
from agentkd.exchange.post import Post
from agentkd.messages.bodies import KnowledgeKind, KnowledgeReply, KnowledgeRequest, TaskReply
from agentkd.names import AgentName, Digest, PublicKey
from agentkd.task import TaskResult

MAX_AT_ONCE = 4
ANSWER_TIMEOUT_S = 60.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Collected:
    """A result whose artifacts are in the store, or why it does not count."""

    agent: AgentName
    reply: TaskReply
    result: TaskResult
    error: AgentKDError | None = None


Inspect = Callable[[TaskResult], TaskResult]


class Collector:
    """Fetches artifacts from the agents that made them.

    Args:
        tell: called once for each result that was begun, when its artifacts are there or an error says why not, whatever that is;
            mostly on one of the collector's threads.
    """

    def __init__(self, post: Post, carrier: Carrier, asker: Asker, store: Store, tell: Callable[[Collected], None]) -> None:
        self._post, self._carrier, self._asker, self._store, self._tell = post, carrier, asker, store, tell
        self._threads = ThreadPoolExecutor(MAX_AT_ONCE, thread_name_prefix="agentkd-collect")

    def begin(self, agent: AgentName, public_key: PublicKey, reply: TaskReply, inspect: Inspect | None = None) -> bool:
        """Starts to fetch what is not in the store yet, and to ``inspect`` the result; false if there is nothing to do.

        What ``inspect`` returns is recorded; it raises if that cannot be the result.
        """
        missing = [digest for digest in reply.result.artifacts if digest not in self._store]
        if missing or inspect:
            fetching = self._threads.submit(self._collect, public_key, reply.result, missing, inspect)
            fetching.add_done_callback(lambda done: self._tell(_told(agent, reply, done)))
        return bool(missing or inspect)

    def close(self) -> None:
        """Begins nothing more. What waits is told as not fetched; what is being fetched ends with the post."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _collect(self, public_key: PublicKey, result: TaskResult, digests: list[Digest], inspect: Inspect | None) -> TaskResult:
        check = self._post.check
        for digest in digests:  # grows while a recording is looked at
            request = KnowledgeRequest(kind=KnowledgeKind.WEIGHTS, weights=digest, ways=self._carrier.ways)
            answer = self._asker.ask(self._post, public_key, request, timeout_s=ANSWER_TIMEOUT_S, check=check).message
            assert isinstance(answer.body, KnowledgeReply)
            self._carrier.fetch_to_store(public_key, answer.body.piece, answer.buffers, wanted=digest, check=check)
            if result.exchange and digest == result.exchange.record:
                told = recordings.decode(recordings.read(self._store, digest))
                digests += sorted({one.piece for one in told if one.piece not in self._store})
        return inspect(result) if inspect else result


def _told(agent: AgentName, reply: TaskReply, done: "Future[TaskResult]") -> Collected:
    """What came of it. A fault of ours is one of fetching too: the task is tried again and not waited for."""
    if done.cancelled():
        error: AgentKDError = ChannelClosedError("the coordinator ended before it was fetched")
        return Collected(agent, reply, reply.result, error)
    failed = done.exception()
    if failed is None:
        return Collected(agent, reply, done.result())
    if not isinstance(failed, AgentKDError):
        log.error("artifacts were not fetched", exc_info=failed)
        failed = ExchangeError(f"{type(failed).__name__}: {failed}")
    return Collected(agent, reply, reply.result, failed)
