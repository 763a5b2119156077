"""Brings what agents made into the coordinator's store, on threads of its own.

A result counts once its artifacts are there and, if a guest made it, have been looked at.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from agentkd.artifacts import recordings
from agentkd.artifacts.store import Store
from agentkd.errors import AgentKDError, ChannelClosedError, ExchangeError, ResultError
from agentkd.exchange.asking import Asker
from agentkd.exchange.pieces import MAX_PIECE_BYTES, Carrier
from agentkd.exchange.post import Post
from agentkd.messages.bodies import KnowledgeKind, KnowledgeReply, KnowledgeRequest, TaskReply
from agentkd.names import NO_DIGEST, AgentName, Digest, PublicKey
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


@dataclass(frozen=True)
class Inspection:
    """How a guest's result is looked at. Both are called on a collector's thread.

    Args:
        look: returns what is recorded; raises if it cannot be the result.
        max_bytes: the most that an artifact of it can have.
    """

    look: Callable[[TaskResult], TaskResult]
    max_bytes: Callable[[], int]


class _Kept:
    """Which artifacts results refer to, so that what was brought for one that is refused is removed, and nothing else."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._accepted: set[Digest] = set()
        self._expected: Counter[Digest] = Counter()

    def expect(self, result: TaskResult) -> None:
        """A result is looked at."""
        with self._lock:
            self._expected.update(result.artifacts)

    def accept(self, result: TaskResult) -> None:
        """A result counts."""
        with self._lock:
            self._accepted.update(result.artifacts)

    def end(self, result: TaskResult) -> None:
        """Nobody looks at a result any more."""
        with self._lock:
            self._expected.subtract(result.artifacts)
            self._expected += Counter()  # without those at zero

    def remove(self, result: TaskResult, brought: Iterable[Digest], remove: Callable[[Digest], None]) -> None:
        """Removes what was brought for a result that is refused and still looked at, unless another one refers to it."""
        with self._lock:
            others = self._expected - Counter(result.artifacts)
            for digest in brought:
                if digest not in self._accepted and digest not in others:
                    remove(digest)


class Collector:
    """Fetches artifacts from the agents that made them.

    Args:
        tell: called once for each result that was begun, when its artifacts are there or an error says why not, whatever that is;
            mostly on one of the collector's threads.
    """

    def __init__(self, post: Post, carrier: Carrier, asker: Asker, store: Store, tell: Callable[[Collected], None]) -> None:
        self._post, self._carrier, self._asker, self._store, self._tell = post, carrier, asker, store, tell
        self._threads = ThreadPoolExecutor(MAX_AT_ONCE, thread_name_prefix="agentkd-collect")
        self._kept = _Kept()

    def begin(self, agent: AgentName, public_key: PublicKey, reply: TaskReply, inspection: Inspection | None = None) -> bool:
        """Starts to fetch what is not in the store yet, and to look at the result; false if there is nothing to do."""
        missing = [digest for digest in reply.result.artifacts if digest not in self._store]
        if not missing and not inspection:
            self._kept.accept(reply.result)
            return False
        self._kept.expect(reply.result)
        fetching = self._threads.submit(self._collect, public_key, reply.result, missing, inspection)
        fetching.add_done_callback(lambda done: self._tell(_told(agent, reply, done)))
        return True

    def close(self) -> None:
        """Begins nothing more. What waits is told as not fetched; what is being fetched ends with the post."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _collect(
        self, public_key: PublicKey, result: TaskResult, missing: list[Digest], inspection: Inspection | None
    ) -> TaskResult:
        try:
            if inspection:
                return self._collect_of_guest(public_key, result, missing, inspection)
            for digest in missing:  # grows while a recording is looked at
                self._fetch(public_key, digest)
                if result.exchange and digest == result.exchange.record:
                    told = recordings.decode(recordings.read(self._store, digest))
                    missing += sorted({one.piece for one in told if one.piece not in self._store})
            self._kept.accept(result)
            return result
        finally:
            self._kept.end(result)

    def _collect_of_guest(
        self, public_key: PublicKey, result: TaskResult, missing: list[Digest], inspection: Inspection
    ) -> TaskResult:
        """What was brought for a result that is refused is removed: it would be a way to fill the disk."""
        unasked = {result.exchange.record if result.exchange else NO_DIGEST, result.predictions}  # none; made here
        wanted = set(missing) - unasked
        most = inspection.max_bytes() if wanted else 0
        brought: list[Digest] = []
        try:
            for digest in sorted(wanted):
                self._fetch(public_key, digest, most)
                brought.append(digest)
            counted = inspection.look(result)
        except BaseException:
            self._kept.remove(result, brought, self._store.remove)
            raise
        self._kept.accept(counted)
        self._kept.remove(result, brought, self._store.remove)  # what is recorded in another form, or not at all
        if any(digest not in self._store for digest in counted.artifacts):  # ours, and removed with a like one of another guest
            raise ExchangeError("an artifact of it was removed with what another guest handed in")
        return counted

    def _fetch(self, public_key: PublicKey, digest: Digest, most: int = MAX_PIECE_BYTES) -> None:
        check = self._post.check
        request = KnowledgeRequest(kind=KnowledgeKind.WEIGHTS, weights=digest, ways=self._carrier.ways)
        answer = self._asker.ask(self._post, public_key, request, timeout_s=ANSWER_TIMEOUT_S, check=check).message
        assert isinstance(answer.body, KnowledgeReply)
        size_bytes = answer.body.piece.size_bytes
        if size_bytes > most:
            raise ResultError(f"an artifact of it has {size_bytes:,} octets; what its task makes has at most {most:,}")
        self._carrier.fetch_to_store(public_key, answer.body.piece, answer.buffers, wanted=digest, check=check)


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
