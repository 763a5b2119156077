"""A lesson whose teachers are other agents: they are asked ahead of need, asked again, replaced, or read from recordings."""

import queue
from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor, nn

from agentkd import canonical
from agentkd.agents.feeding import DatasetFeed, view_images
from agentkd.agents.interview import Interview, Line, Reception
from agentkd.agents.landing import Landing
from agentkd.agents.lessons import blend, lesson_request, request_digest, unpack
from agentkd.agents.questions import WEIGHTS, Conduct, Question, Questions, Want, WantWeights
from agentkd.agents.recording import Recorder
from agentkd.architecture import UNIT
from agentkd.artifacts.recordings import Told
from agentkd.errors import ContractError, RemoteProtocolError, Rule
from agentkd.exchange.pieces import Carrier, Fetched
from agentkd.exchange.post import Delivery, Post
from agentkd.knowledge.images import encode_images
from agentkd.messages.bodies import KnowledgeKind, KnowledgeReply, KnowledgeRequest, TaughtBy, Way
from agentkd.names import NO_DIGEST, Digest, TeacherId
from agentkd.task import Distill, ExchangeSummary, TeacherReference
from agentkd.training.loop import Knowledge
from agentkd.training.losses import Outputs

STEPS_AHEAD = 4
ASK_AGAIN_S = 10.0
WAIT_S = 300.0
POLL_S = 0.5


class RemoteLesson:
    """Teachers in other processes, asked ``STEPS_AHEAD`` steps ahead so that their work overlaps the student's.

    A teacher that falls silent is asked again; if the coordinator names another one, that one is asked; one without the dataset
    is sent the images. No answer within ``wait_s`` ends the task with a typed error: a student never goes on without its
    teacher's targets. What stands in a recording is not asked for, and teachers all of whose answers do need not be there.

    Args:
        teachers: who serves the weights that teach; those without one must be recorded.
        recorded: answers by the digest of their request.
        recorder: keeps what is told; ``None`` if nobody wants it.
        landing: takes answers that lie on this process's GPU; ``None`` if they are to come in memory of the host.
        obtain: the bytes of an artifact, from here or from the coordinator.
        inbox: deliveries meant for the student (knowledge, errors, moves), filled by the I/O thread.
        check: called while waiting; raises if the task is cancelled.
    """

    is_heard = False

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
        obtain: Callable[[Digest], bytes],
        recorded: Mapping[Digest, Told] | None = None,
        recorder: Recorder | None = None,
        landing: Landing | None = None,
        wait_s: float = WAIT_S,
    ) -> None:
        self._task, self._feed, self._carrier = task, feed, carrier
        self._obtain, self._recorded, self._recorder, self._landing = obtain, recorded or {}, recorder, landing
        self.terms = blend(task, feed).terms
        self._references: dict[TeacherId, TeacherReference] = {teacher.weights: teacher for teacher in task.teachers}
        self._taught_by = {taught.weights: taught.peer for taught in teachers}
        conduct = Conduct(
            wait_s,
            ahead=STEPS_AHEAD,
            silence_s=ASK_AGAIN_S,
            not_ready_s=ASK_AGAIN_S,
            damaged_s=ASK_AGAIN_S,
            can_send_images=True,
        )
        places = {weights: self._taught_by.get(weights) for weights in self._references}
        self._questions = Questions(places, conduct, num_steps=total_steps)
        self._interview = Interview(
            self._questions, self, Line(post, carrier, inbox, check, POLL_S, landing.copy if landing else None)
        )
        self._answers: dict[Question, tuple[dict[str, Tensor], Fetched]] = {}
        self._inherited: dict[TeacherId, bytes] = {}
        self._in_use: list[Fetched] = []
        self._bytes = self._cached = self._served = 0
        self._teacher_s = self._saved_s = 0.0

    def close(self) -> None:
        """Gives back what was lent and closes the connections to the teachers."""
        for fetched in (*self._in_use, *(fetched for _, fetched in self._answers.values())):
            fetched.release()
        self._interview.close()
        if self._recorder:
            self._recorder.close()

    def summary(self) -> ExchangeSummary:
        """What the lesson cost. It is over: the recording is finished."""
        return ExchangeSummary(
            requests=self._interview.num_requests,
            bytes_received=self._bytes,
            waited_s=self._interview.waited_s,
            teacher_s=self._teacher_s,
            cached=self._cached,
            recorded=self._served,
            saved_s=self._saved_s,
            record=self._recorder.finish() if self._recorder else NO_DIGEST,
            kept_s=self._recorder.waited_s if self._recorder else 0.0,
        )

    def heard(self) -> Reception:
        """What was heard until now."""
        return Reception(self._bytes, self._interview.waited_s)

    def attend(self, network: nn.Module) -> None:
        """Who learns makes no difference."""

    def hear(self, step: int, outputs: Outputs) -> Knowledge:
        """The payloads of a step, one a teacher, in the task's order; valid until the next call. Waits until they are there."""
        while self._in_use:
            self._in_use.pop().release()
        self._want(step)
        heard = [self._answers.pop(Question(reference.weights, step)) for reference in self._task.teachers]
        self._in_use = [fetched for _, fetched in heard]
        return tuple(taught for taught, _ in heard)

    def secure(self) -> None:
        """Waits until the recording holds what was told."""
        if self._recorder:
            self._recorder.secure()

    def can_resume(self, step: int) -> bool:
        """Whether all that was told before a step is kept, if it is to be recorded."""
        return self._recorder is None or self._recorder.covers(self._references, step)

    def peek(self, step: int) -> Knowledge:
        """The payloads of a step, which can still be heard afterwards."""
        self._want(step, is_peek=True)
        return tuple(self._answers[Question(reference.weights, step)][0] for reference in self._task.teachers)

    def fetch_weights(self, weights: Digest) -> bytes:
        """A teacher's weights, asked of the teacher itself, if it is there, and checked against their digest."""
        if weights not in self._taught_by:
            return self._obtain(weights)
        self._interview.want(WantWeights(weights))
        return self._inherited.pop(weights)

    def _want(self, step: int, *, is_peek: bool = False) -> None:
        here = frozenset(question for question in self._questions.unasked(step) if self.lies_here(question))
        self._interview.want(Want(step, here, is_peek))

    # What the interview asks, and what it is told.

    def request(self, question: Question, *, has_images: bool) -> tuple[KnowledgeRequest, tuple[bytes, ...]]:
        """The request for a teacher's payloads, or weights."""
        ways = self._carrier.ways
        if question.step == WEIGHTS:
            return KnowledgeRequest(kind=KnowledgeKind.WEIGHTS, weights=question.teacher, ways=ways), ()
        request = self._request(question).model_copy(update={"ways": ways})
        if not has_images:
            return request, ()
        views = view_images(self._feed.dataset, request.views, request.view_settings, UNIT)
        return request.model_copy(update={"views": ()}), (encode_images(views),)

    def lies_here(self, question: Question) -> bool:
        """Whether the answer was recorded before."""
        return question.step != WEIGHTS and bool(self._recorded) and self._digest(question) in self._recorded

    def repeat(self, question: Question) -> None:
        """Takes a recorded answer."""
        told = self._recorded[self._digest(question)]
        data = memoryview(self._obtain(told.piece))
        taught = unpack(self._task, self._references[told.weights], data)
        self._answers[question] = taught, Fetched(data, Way.STORE)
        self._served += 1
        self._saved_s += told.teacher_s
        if self._recorder:
            self._recorder.keep(replace(told, step=question.step))

    def take(self, question: Question, reply: KnowledgeReply, fetched: Fetched) -> None:
        """Takes a teacher's answer, which must be what was asked for."""
        if question.step == WEIGHTS:
            data = bytes(fetched.data)  # nothing, if it came in GPU memory, where nobody wants it
            fetched.release()
            if canonical.digest_bytes(data) != question.teacher:
                raise RemoteProtocolError(f"weights {question.teacher[:12]} do not have the digest asked for", Rule.DAMAGE)
            self._inherited[question.teacher] = data
            self._bytes += len(data)
            return
        if reply.weights != question.teacher:
            raise ContractError("weights", reply.weights, question.teacher)
        self._answers[question] = self._unpack(self._references[question.teacher], fetched), fetched
        if self._recorder:
            size = reply.piece.size_bytes
            told = Told(reply.weights, question.step, self._digest(question), NO_DIGEST, size, reply.teacher_s)
            self._recorder.keep(told, self._bytes_of(fetched))
        self._bytes += reply.piece.size_bytes
        self._teacher_s += reply.teacher_s
        self._cached += reply.is_cached

    def _unpack(self, teacher: TeacherReference, fetched: Fetched) -> dict[str, Tensor]:
        if self._landing is None or fetched.landed is None:
            return unpack(self._task, teacher, fetched.data)
        return self._landing.read(lambda: unpack(self._task, teacher, fetched.landed))

    def _bytes_of(self, fetched: Fetched) -> bytes:
        if self._landing is None or fetched.landed is None:
            return bytes(fetched.data)
        return self._landing.to_bytes(fetched.landed)

    def drop(self, question: Question) -> None:
        """An answer that is not needed any more."""
        _, fetched = self._answers.pop(question)
        fetched.release()

    def overhear(self, delivery: Delivery) -> None:
        """Nothing else concerns this lesson."""

    def _request(self, question: Question) -> KnowledgeRequest:
        return lesson_request(self._task, self._feed, self._references[question.teacher], question.step)

    def _digest(self, question: Question) -> Digest:
        return request_digest(self._request(question))
