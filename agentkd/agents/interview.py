"""A student's questions put to its teachers: the socket, the clock and the inbox under ``questions``, which decides.

A lesson of either kind says what a question looks like as a message, and takes the answers.
"""

import contextlib
import logging
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from agentkd.agents.questions import (
    WEIGHTS,
    Action,
    Answered,
    Ask,
    Damaged,
    Deliver,
    Drop,
    Event,
    Fail,
    GiveUp,
    Lack,
    Moved,
    Part,
    Question,
    Questions,
    Reach,
    Refused,
    Repeat,
    Take,
    Taken,
    Tick,
    Want,
    WantWeights,
)
from agentkd.errors import (
    ArtifactCorruptError,
    ArtifactNotFoundError,
    ExchangeError,
    RemoteAgentError,
    ReplyTimeoutError,
)
from agentkd.exchange.pieces import Carrier, Fetched, Land
from agentkd.exchange.post import Delivery, Post
from agentkd.messages.bodies import (
    AdmittedPeer,
    ErrorReply,
    KnowledgeKind,
    KnowledgeReply,
    KnowledgeRequest,
    PeerAddress,
    TeacherMovedEvent,
    Way,
)
from agentkd.names import NO_KEY, PublicKey

log = logging.getLogger(__name__)


class Asks(Protocol):
    """What a kind of lesson asks, and what it does with the answers."""

    def request(self, question: Question, *, has_images: bool) -> tuple[KnowledgeRequest, tuple[bytes, ...]]:
        """A question as a message, with its buffers."""
        ...

    def take(self, question: Question, reply: KnowledgeReply, fetched: Fetched) -> None:
        """Keeps an answer, whose bytes are the lesson's from now on; raises if it is not what was asked for."""
        ...

    def repeat(self, question: Question) -> None:
        """Keeps the answer that lies here."""
        ...

    def drop(self, question: Question) -> None:
        """Forgets an answer."""
        ...

    def lies_here(self, question: Question) -> bool:
        """Whether the answer lies here now."""
        ...

    def overhear(self, delivery: Delivery) -> None:
        """Whatever else comes in while the lesson waits."""
        ...


@dataclass(frozen=True)
class Line:
    """How a student talks to its teachers.

    Args:
        inbox: deliveries meant for the student, filled by the I/O thread.
        check: called while waiting; raises if the task is cancelled.
        poll_s: how often ``check`` is called and the time looked at, at least.
        land: see ``Carrier.fetch``; ``None`` if answers are used in memory of the host.
    """

    post: Post
    carrier: Carrier
    inbox: "queue.Queue[Delivery]"
    check: Callable[[], None]
    poll_s: float
    land: Land | None = None


@dataclass(frozen=True)
class Reception:
    """What a student has heard of its teachers until now, and how long it had nothing to do but wait for them."""

    received_bytes: int = 0
    waited_s: float = 0.0


class Interview:
    """Performs what ``questions`` decides. One thread calls its methods."""

    def __init__(self, questions: Questions, asks: Asks, line: Line) -> None:
        self._questions, self._asks, self._line = questions, asks, line
        self._asked: dict[int, tuple[int, PublicKey]] = {}  # by the number of a message: the asking, and who was asked
        self._is_delivered = False
        self.num_requests, self.waited_s = 0, 0.0
        for place in questions.places:
            self._reach(place)

    def close(self) -> None:
        """Hangs up."""
        for place in self._questions.places:
            self._part(place)

    def want(self, event: Want | WantWeights) -> None:
        """Waits until what is wanted has been taken.

        Raises:
            ReplyTimeoutError: it was not answered in time.
            RemoteAgentError: it was refused, and the task is to blame.
            ArtifactNotFoundError: it is not recorded, and nobody teaches it.
            AgentKDError: an answer is not what was asked for, or the task was cancelled.
        """
        started = time.monotonic()
        next_tick = started + self._line.poll_s
        self._handle(event, started)
        while not self._is_delivered:
            self._line.check()
            now = time.monotonic()
            if now >= next_tick:
                next_tick = now + self._line.poll_s
                here = frozenset(question for question in self._questions.due(now) if self._asks.lies_here(question))
                self._handle(Tick(here), now)  # the time of the look: what is due a moment later was not looked for
            if not self._is_delivered:
                with contextlib.suppress(queue.Empty):
                    self._hear(self._line.inbox.get(timeout=next_tick - now))
        self._is_delivered = False
        self._asked = {number: asked for number, asked in self._asked.items() if self._questions.knows(asked[0])}
        self.waited_s += time.monotonic() - started

    def _hear(self, delivery: Delivery) -> None:
        body = delivery.message.body
        asking, asked = self._asked.get(delivery.message.parent_id, (0, NO_KEY))
        if isinstance(body, TeacherMovedEvent):
            self._handle(Moved(body.weights, body.peer), time.monotonic())
        elif not isinstance(body, KnowledgeReply | ErrorReply):
            self._asks.overhear(delivery)
        elif delivery.sender != asked:
            log.debug("an answer to no question, from %s", delivery.sender[:8])
        elif isinstance(body, ErrorReply):
            log.info("a question was refused with %s: %s", body.code, body.text)
            self._handle(Refused(asking, body), time.monotonic())
        else:
            self._handle(Answered(asking), time.monotonic(), delivery)

    def _handle(self, event: Event, now: float, delivery: Delivery | None = None) -> None:
        for action in self._questions.handle(event, now):
            if isinstance(action, Take):
                assert delivery is not None
                self._take(action.question, delivery)
            else:
                self._perform(action)

    def _perform(self, action: Action) -> None:
        if isinstance(action, Ask):
            self._ask(action)
        elif isinstance(action, Repeat):
            self._asks.repeat(action.question)
        elif isinstance(action, Drop):
            self._asks.drop(action.question)
        elif isinstance(action, Deliver):
            self._is_delivered = True
        elif isinstance(action, Reach):
            self._reach(action.place)
        elif isinstance(action, Part):
            self._part(action.place)
        elif isinstance(action, Lack):
            raise ArtifactNotFoundError(f"{_name(action.question)} by {action.question.teacher[:12]}", "the recordings")
        elif isinstance(action, Fail):
            said = action.refusal
            raise RemoteAgentError(action.place.agent, said.code, said.remote_type, said.text, rule=said.rule)
        elif isinstance(action, GiveUp):
            names = ", ".join(place.agent for place in action.places) or "partners"
            raise ReplyTimeoutError(names, _name(action.missing[0]), action.waited_s)

    def _ask(self, action: Ask) -> None:
        request, buffers = self._asks.request(action.question, has_images=action.has_images)
        asked = action.place.public_key
        if self._line.land and request.kind is not KnowledgeKind.WEIGHTS:
            request = request.model_copy(update={"ways": self._line.carrier.ways_to(asked)})
        number = self._line.post.send(asked, request, buffers=buffers)
        self._asked[number] = (action.asking, asked)
        self.num_requests += 1

    def _take(self, question: Question, delivery: Delivery) -> None:
        body = delivery.message.body
        assert isinstance(body, KnowledgeReply)
        line = self._line
        try:
            fetched = line.carrier.fetch(delivery.sender, body.piece, delivery.message.buffers, check=line.check, land=line.land)
        except (ExchangeError, ArtifactCorruptError) as error:  # lost or damaged on the way: the answer is asked for again
            log.info("%s by %s: %s; asking again", _name(question), question.teacher[:12], error)
            self._handle(Damaged(question, by_way=body.piece.way is Way.DEVICE), time.monotonic())
            return
        try:
            self._asks.take(question, body, fetched)
        except BaseException:
            fetched.release()
            raise
        self._handle(Taken(question), time.monotonic())

    def _reach(self, place: PeerAddress) -> None:
        """Dials a teacher; one that does not listen dials this agent, and is let in for that."""
        if not place.endpoints:
            self._line.post.admit([AdmittedPeer(agent=place.agent, public_key=place.public_key, may=())])
        self._line.post.connect(place)

    def _part(self, place: PeerAddress) -> None:
        """Hangs up. Who dialed this agent keeps the connection, since it would not know to dial again for the next lesson."""
        self._line.carrier.part(place.public_key)
        if place.endpoints:
            self._line.post.disconnect(place.public_key)


def _name(question: Question) -> str:
    return "weights" if question.step == WEIGHTS else f"soft targets of step {question.step}"
