"""A lesson whose teachers are other agents: they are asked ahead of need, asked again, replaced, or read from recordings."""

import logging
import queue
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from agentkd import canonical
from agentkd.agents.feeding import DatasetFeed, view_images
from agentkd.agents.lessons import blend, lesson_request, request_digest, unpack
from agentkd.agents.recording import Recorder
from agentkd.artifacts.recordings import Told
from agentkd.errors import (
    ArtifactCorruptError,
    ArtifactNotFoundError,
    ContractError,
    DatasetError,
    ExchangeError,
    RemoteAgentError,
    RemoteProtocolError,
    ReplyTimeoutError,
    Rule,
)
from agentkd.exchange.pieces import Carrier, Fetched
from agentkd.exchange.post import Delivery, Post
from agentkd.knowledge import tensors
from agentkd.messages.bodies import (
    AdmittedPeer,
    Body,
    ErrorReply,
    KnowledgeKind,
    KnowledgeReply,
    KnowledgeRequest,
    PeerAddress,
    TaughtBy,
    TeacherMovedEvent,
    Way,
)
from agentkd.task import Distill, ExchangeSummary
from agentkd.training.loop import Knowledge

STEPS_AHEAD = 4
ASK_AGAIN_S = 10.0
WAIT_S = 300.0
POLL_S = 0.5

log = logging.getLogger(__name__)


class RemoteLesson:
    """Teachers in other processes, asked ``STEPS_AHEAD`` steps ahead so that their work overlaps the student's.

    A teacher that falls silent is asked again; if the coordinator names another one, that one is asked; one without the dataset
    is sent the images. No answer within ``wait_s`` ends the task with a typed error: a student never goes on without its
    teacher's targets. What stands in a recording is not asked for, and teachers all of whose answers do need not be there.

    Args:
        teachers: who serves the weights that teach; those without one must be recorded.
        recorded: answers by the digest of their request.
        recorder: keeps what is told; ``None`` if nobody wants it.
        obtain: the bytes of an artifact, from here or from the coordinator.
        inbox: deliveries meant for the student (knowledge, errors, moves), filled by the I/O thread.
        check: called while waiting; raises if the task is cancelled.
    """

    def __init__(
        self,
        task: Distill,
        feed: DatasetFeed,
        teachers: tuple[TaughtBy, ...],
        *,
        post: Post,
        carrier: Carrier,
        inbox: "queue.Queue[Delivery]",
        check: Callable[[], None],
        total_steps: int,
        obtain: Callable[[str], bytes],
        recorded: Mapping[str, Told] | None = None,
        recorder: Recorder | None = None,
        wait_s: float = WAIT_S,
    ) -> None:
        self._task, self._feed, self._post, self._inbox, self._check = task, feed, post, inbox, check
        self._carrier, self._total_steps, self._wait_s = carrier, total_steps, wait_s
        self._obtain, self._recorded, self._recorder = obtain, recorded or {}, recorder
        self.terms = blend(task, feed).terms
        self._references = {teacher.weights: teacher for teacher in task.teachers}
        self._peers = {taught.weights: taught.peer for taught in teachers}
        self._without_data: set[str] = set()
        self._asked: dict[int, _Asked] = {}
        self._answers: dict[tuple[str, int], tuple[dict[str, Tensor], Fetched]] = {}
        self._in_use: list[Fetched] = []
        self._requests = self._bytes = self._cached = self._served = 0
        self._waited_s = self._teacher_s = self._saved_s = 0.0
        for peer in self._peers.values():
            reach(self._post, peer)

    def close(self) -> None:
        """Gives back what was lent and closes the connections to the teachers."""
        for fetched in (*self._in_use, *(fetched for _, fetched in self._answers.values())):
            fetched.release()
        for peer in self._peers.values():
            part(self._post, peer)
        if self._recorder:
            self._recorder.close()

    def summary(self) -> ExchangeSummary:
        """What the lesson cost. It is over: the recording is finished."""
        return ExchangeSummary(
            requests=self._requests,
            bytes_received=self._bytes,
            waited_s=self._waited_s,
            teacher_s=self._teacher_s,
            cached=self._cached,
            recorded=self._served,
            saved_s=self._saved_s,
            record=self._recorder.finish() if self._recorder else "",
            kept_s=self._recorder.waited_s if self._recorder else 0.0,
        )

    def attend(self, network: nn.Module) -> None:
        """Who learns makes no difference."""

    def fetch(self, step: int) -> Knowledge:
        """The payloads of a step, one a teacher, in the task's order; valid until the next call. Waits until they are there."""
        while self._in_use:
            self._in_use.pop().release()
        self._await(step)
        payloads = []
        for reference in self._task.teachers:
            taught, fetched = self._answers.pop((reference.weights, step))
            payloads.append(taught)
            self._in_use.append(fetched)
        return tuple(payloads)

    def peek(self, step: int) -> Knowledge:
        """As ``fetch``, but they can still be fetched afterwards."""
        self._await(step)
        return tuple(self._answers[reference.weights, step][0] for reference in self._task.teachers)

    def _await(self, step: int) -> None:
        for ahead in range(step, min(step + STEPS_AHEAD, self._total_steps)):
            for weights in self._references:
                if (weights, ahead) not in self._answers and not self._is_asked(weights, ahead):
                    self._ask(weights, ahead)
        started = time.monotonic()
        while any((weights, step) not in self._answers for weights in self._references):
            self._receive(started, step)
        self._waited_s += time.monotonic() - started

    def fetch_weights(self, weights: str) -> bytes:
        """A teacher's weights, asked of the teacher itself, if it is there, and checked against their digest."""
        if weights not in self._peers:
            return self._obtain(weights)
        request = KnowledgeRequest(kind=KnowledgeKind.WEIGHTS, weights=weights, ways=self._carrier.ways)
        number = self._say(self._peers[weights], request)
        started = asked_at = time.monotonic()
        while True:
            delivery = self._next(started, "weights")
            peer = self._peers[weights]
            if delivery is not None and (delivery.message.parent_id, delivery.sender) == (number, peer.public_key):
                body = delivery.message.body
                if isinstance(body, ErrorReply):
                    raise RemoteAgentError(peer.agent, body.code, body.remote_type, body.text)
                assert isinstance(body, KnowledgeReply)
                fetched = self._carrier.fetch(peer.public_key, body.piece, delivery.message.buffers, check=self._check)
                data = bytes(fetched.data)
                fetched.release()
                if canonical.digest_bytes(data) != weights:
                    raise RemoteProtocolError(f"weights from {peer.agent} do not have the digest asked for", Rule.DAMAGE)
                self._bytes += len(data)
                return data
            if time.monotonic() - asked_at > ASK_AGAIN_S:
                number, asked_at = self._say(peer, request), time.monotonic()

    def _is_asked(self, weights: str, step: int) -> bool:
        return any((asked.weights, asked.step) == (weights, step) for asked in self._asked.values())

    def _ask(self, weights: str, step: int) -> None:
        request = lesson_request(self._task, self._feed, self._references[weights], step)
        if self._recorder or self._recorded:
            key = request_digest(request)
            if key in self._recorded:
                self._repeat(self._recorded[key], step)
                return
        if weights not in self._peers:
            raise ArtifactNotFoundError(f"soft targets of step {step} by {weights[:12]}", "the recordings")
        request = request.model_copy(update={"ways": self._carrier.ways})
        buffers: tuple[bytes, ...] = ()
        if weights in self._without_data:
            images = view_images(self._feed.dataset, request.views, request.view_settings)
            buffers, request = (tensors.encode({"images": images}),), request.model_copy(update={"views": ()})
        number = self._say(self._peers[weights], request, buffers)
        self._asked[number] = _Asked(weights, step, has_images=bool(buffers))

    def _repeat(self, told: Told, step: int) -> None:
        """Takes a recorded answer."""
        data = memoryview(self._obtain(told.piece))
        self._answers[told.weights, step] = unpack(self._task, self._references[told.weights], data), Fetched(data, Way.STORE)
        self._served += 1
        self._saved_s += told.teacher_s
        if self._recorder:
            self._recorder.keep(replace(told, step=step))

    def _say(self, peer: PeerAddress, body: Body, buffers: tuple[bytes, ...] = ()) -> int:
        self._requests += 1
        return self._post.send(peer.public_key, body, buffers=buffers)

    def _receive(self, started: float, step: int) -> None:
        delivery = self._next(started, f"soft targets of step {step}")
        if delivery is None:
            now = time.monotonic()
            for number in [number for number, asked in self._asked.items() if now - asked.at > ASK_AGAIN_S]:
                late = self._asked.pop(number)
                self._ask(late.weights, late.step)
            return
        asked = self._asked.get(delivery.message.parent_id)
        if asked is None or delivery.sender != self._peers[asked.weights].public_key:
            return
        del self._asked[delivery.message.parent_id]
        body = delivery.message.body
        if isinstance(body, ErrorReply):
            self._take_refusal(delivery, body, asked)
            return
        assert isinstance(body, KnowledgeReply)
        try:
            fetched = self._carrier.fetch(delivery.sender, body.piece, delivery.message.buffers, check=self._check)
        except (ExchangeError, ArtifactCorruptError) as error:  # lost or damaged on the way: the answer is asked for again
            log.info("soft targets of step %d: %s; asking again", asked.step, error)
            self._asked[delivery.message.parent_id] = asked
            return
        self._answers[asked.weights, asked.step] = self._checked(body, fetched, asked.weights), fetched
        if self._recorder:
            request = request_digest(lesson_request(self._task, self._feed, self._references[asked.weights], asked.step))
            told = Told(asked.weights, asked.step, request, "", body.piece.size_bytes, body.teacher_s)
            self._recorder.keep(told, bytes(fetched.data))
        self._bytes += body.piece.size_bytes
        self._teacher_s += body.teacher_s
        self._cached += body.is_cached

    def _take_refusal(self, delivery: Delivery, body: ErrorReply, asked: "_Asked") -> None:
        if body.code == DatasetError.code and not asked.has_images:
            self._without_data.add(asked.weights)
            self._ask(asked.weights, asked.step)
        elif body.code in (ContractError.code, DatasetError.code, RemoteProtocolError.code):
            raise RemoteAgentError(self._peers[asked.weights].agent, body.code, body.remote_type, body.text, rule=body.rule)
        else:
            self._asked[delivery.message.parent_id] = asked  # a teacher not ready yet: asked again after a while

    def _next(self, started: float, what: str) -> Delivery | None:
        """The next delivery for the student; moves of teachers are dealt with here. ``None`` after a short wait."""
        self._check()
        if time.monotonic() - started > self._wait_s:
            teachers = ", ".join(peer.agent for peer in self._peers.values())
            raise ReplyTimeoutError(teachers, what, self._wait_s)
        try:
            delivery = self._inbox.get(timeout=POLL_S)
        except queue.Empty:
            return None
        if isinstance(delivery.message.body, TeacherMovedEvent):
            self._move(delivery.message.body)
            return None
        return delivery

    def _move(self, event: TeacherMovedEvent) -> None:
        old = self._peers.get(event.weights)
        if old is None or old == event.peer:
            return
        part(self._post, old)
        reach(self._post, event.peer)
        self._peers[event.weights] = event.peer
        for number in [number for number, asked in self._asked.items() if asked.weights == event.weights]:
            self._ask(event.weights, self._asked.pop(number).step)

    def _checked(self, body: KnowledgeReply, fetched: Fetched, weights: str) -> dict[str, Tensor]:
        if body.weights != weights:
            raise ContractError("weights", body.weights, weights)
        return unpack(self._task, self._references[weights], fetched.data)


@dataclass(frozen=True)
class _Asked:
    """A request under way: for whose soft targets, for which step, since when, and whether the images went with it."""

    weights: str
    step: int
    has_images: bool
    at: float = field(default_factory=time.monotonic)


def reach(post: Post, peer: PeerAddress) -> None:
    """Dials a teacher; one that does not listen dials this agent, and is let in for that."""
    if not peer.endpoints:
        post.admit([AdmittedPeer(agent=peer.agent, public_key=peer.public_key, may=())])
    post.connect(peer)


def part(post: Post, peer: PeerAddress) -> None:
    """Hangs up. Who dialed this agent keeps the connection, since it would not know to dial again for the next lesson."""
    if peer.endpoints:
        post.disconnect(peer.public_key)
