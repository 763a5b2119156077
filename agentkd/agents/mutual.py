"""Students that teach each other: in each step everyone says what it makes of the batch, and hears what the others make of it.

What is said is kept beside the checkpoint until all have ended, so one that is killed and starts again hears what it missed.

Source: Zhang et al., "Deep Mutual Learning", CVPR 2018; all learn at the same time from what the others made of the same batch.
"""

import contextlib
import logging
import queue
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from agentkd.agents.feeding import DatasetFeed
from agentkd.agents.interview import Interview, Line, Reception
from agentkd.agents.lessons import blend
from agentkd.agents.questions import Conduct, Question, Questions, Want
from agentkd.agents.remote_lesson import ASK_AGAIN_S, WAIT_S
from agentkd.agents.saying import keep_said, read_said, was_said
from agentkd.architecture import Architecture
from agentkd.artifacts.run_folder import RunFolder
from agentkd.durable import make_folder, sync_file, sync_folder
from agentkd.errors import (
    ArtifactNotFoundError,
    ContractError,
    StorageError,
)
from agentkd.exchange.pieces import Carrier, Fetched
from agentkd.exchange.post import Delivery, Post
from agentkd.exchange.streaming import ANYWAY, Leave
from agentkd.knowledge import codecs, payloads, tensors
from agentkd.knowledge.tensors import Buffer
from agentkd.knowledge.weights import digest_of_weights
from agentkd.messages.bodies import (
    KnowledgeKind,
    KnowledgeReply,
    KnowledgeRequest,
    Piece,
    TaughtBy,
)
from agentkd.names import NO_DIGEST, Digest, TaskKey, TeacherId
from agentkd.objectives import LOGITS
from agentkd.task import ExchangeSummary, Mutual
from agentkd.training.loop import Knowledge
from agentkd.training.losses import Outputs

NOT_YET_S = 0.2

OnServed = Callable[[Delivery, Piece], None]

log = logging.getLogger(__name__)


def _unnoted(delivery: Delivery, piece: Piece) -> None:
    """For who keeps no log of what is fetched."""


class MutualLesson:
    """One student's side of a lesson that students give each other.

    Args:
        folder: where what is said is kept.
        partners: who does the other tasks now, by the key of the task; who has ended may be missing.
        inbox: deliveries meant for the student, requests of its partners among them.
        check: called while waiting; raises if the task is cancelled.
        on_served: told of each piece that is handed to a partner, before it leaves.
    """

    is_heard = True

    def __init__(
        self,
        task: Mutual,
        feed: DatasetFeed,
        partners: tuple[TaughtBy, ...],
        *,
        folder: RunFolder,
        post: Post,
        carrier: Carrier,
        inbox: "queue.Queue[Delivery]",
        check: Callable[[], None],
        on_served: OnServed = _unnoted,
        wait_s: float = WAIT_S,
    ) -> None:
        self._on_served, self._classes = on_served, feed.dataset.classes
        self._task, self._key, self._folder = task, task.key, folder
        self._unsynced: list[Path] = []
        self._post, self._carrier, self._inbox = post, carrier, inbox
        self.terms, self._distillation = blend(task, feed).terms, task.distillation
        self._partners = {partner.key: partner.architecture.num_classes for partner in task.partner_tasks()}
        conduct = Conduct(wait_s, silence_s=ASK_AGAIN_S, not_ready_s=NOT_YET_S, damaged_s=0.0, absent_s=NOT_YET_S)
        known = {partner.weights: partner.peer for partner in partners}
        questions = Questions(
            {key: known.get(key) for key in self._partners}, conduct, num_steps=task.recipe.epochs * feed.steps_per_epoch
        )
        self._interview = Interview(questions, self, Line(post, carrier, inbox, check, NOT_YET_S))
        self._step = self._bytes = 0
        self._weights = NO_DIGEST
        self._pending: list[Delivery] = []
        self._heard: dict[TeacherId, Buffer] = {}

    def attend(self, network: nn.Module) -> None:
        """The network that speaks in the next step, as its weights are before it sees the batch."""
        self._weights = weights_digest(self._task.architecture, network, self._classes)

    def hear(self, step: int, outputs: Outputs) -> Knowledge:
        """Says what this student makes of the batch, and hears the others. Waits, and answers them meanwhile."""
        self._step = step
        self._say(speak(outputs, self._distillation.codec, self._distillation.max_kl, self._weights))
        self._interview.want(Want(step))
        return tuple({LOGITS.name: self._understand(self._heard.pop(key), key)} for key in self._partners)

    def secure(self) -> None:
        """What was said lies in its file before it is handed over; here it is made to stay."""
        try:
            for place in self._unsynced:
                sync_file(place)
            for folder in {place.parent for place in self._unsynced}:
                sync_folder(folder)
        except OSError as error:
            raise StorageError.of(self._folder.said(self._key, self._step), error) from error
        self._unsynced.clear()

    def can_resume(self, step: int) -> bool:
        """What the others said is asked of them again; they keep it until all have ended."""
        return True

    def peek(self, step: int) -> Knowledge:
        """Nothing is known before the student has spoken."""
        return ()

    def fetch_weights(self, weights: Digest) -> bytes:
        """Nobody's weights are inherited."""
        raise ArtifactNotFoundError(weights, "a mutual lesson")

    def summary(self) -> ExchangeSummary:
        """What the lesson cost."""
        return ExchangeSummary(
            requests=self._interview.num_requests, bytes_received=self._bytes, waited_s=self._interview.waited_s
        )

    def heard(self) -> Reception:
        """What was heard until now."""
        return Reception(self._bytes, self._interview.waited_s)

    def close(self) -> None:
        """Answers who still waits, and hangs up."""
        with contextlib.suppress(queue.Empty):
            while True:
                delivery = self._inbox.get_nowait()
                self._pending += [delivery] if isinstance(delivery.message.body, KnowledgeRequest) else []
        self._answer_pending()
        self._interview.close()

    # Speaking.

    def _say(self, data: bytes) -> None:
        """Keeps what is said now, and hands it to those who wait for it."""
        place = self._folder.said(self._key, self._step)
        try:
            make_folder(place.parent)
            keep_said(place, data)
            self._unsynced.append(place)
        except OSError as error:
            raise StorageError.of(place, error) from error
        self._answer_pending()

    def _answer_pending(self) -> None:
        waiting, self._pending = self._pending, []
        for delivery in waiting:
            body = delivery.message.body
            assert isinstance(body, KnowledgeRequest) and body.step is not None
            place = self._folder.said(self._key, body.step)
            if body.weights == self._key and place.is_file():
                hand_over(place, delivery, self._post, self._carrier, self._on_served)
            elif body.weights == self._key and body.step >= self._step:
                self._pending.append(delivery)  # not said yet
            else:
                log.info("step %d of %s was asked for, which is not here", body.step, body.weights[:12])

    # Hearing: what the interview asks, and what it is told.

    def request(self, question: Question, *, has_images: bool) -> tuple[KnowledgeRequest, tuple[bytes, ...]]:
        """The request for what a partner says in a step."""
        request = KnowledgeRequest(
            kind=KnowledgeKind.SOFT_TARGETS,
            weights=question.teacher,
            step=question.step,
            codec=self._distillation.codec,
            ways=self._carrier.ways,
        )
        return request, ()

    def take(self, question: Question, reply: KnowledgeReply, fetched: Fetched) -> None:
        """Takes what a partner says, which must be by the weights that it names."""
        data = bytes(fetched.data)
        fetched.release()
        made_by = tensors.read_metadata(data).get("weights")
        if made_by != reply.weights:
            raise ContractError("weights", reply.weights, made_by)
        self._heard[question.teacher] = data
        self._bytes += reply.piece.size_bytes

    def lies_here(self, question: Question) -> bool:
        """Whether a partner has left behind in this folder what it said in the step."""
        return was_said(self._folder.said(TaskKey(question.teacher), question.step))

    def repeat(self, question: Question) -> None:
        """Takes what a partner left behind."""
        self._heard[question.teacher] = read_said(self._folder.said(TaskKey(question.teacher), question.step))

    def drop(self, question: Question) -> None:
        """Nothing is asked ahead, so no step is passed over."""

    def overhear(self, delivery: Delivery) -> None:
        """A partner's question is answered, now or when its step is reached."""
        if isinstance(delivery.message.body, KnowledgeRequest):
            self._pending.append(delivery)
            self._answer_pending()

    def _understand(self, data: Buffer, key: TaskKey) -> Tensor:
        """A partner's logits [N,K,h,w].

        Raises:
            ContractError: another shape.
            RemoteProtocolError: no tensors that may be, NaN among them.
        """
        classes = self._partners[key]
        logits = codecs.read(LOGITS.name, tensors.decode(data), classes)
        wanted = (self._task.recipe.batch_size, classes)
        if logits is None or logits.dim() != 4 or tuple(logits.shape[:2]) != wanted:
            raise ContractError(LOGITS.name, None if logits is None else tuple(logits.shape), wanted)
        return logits


def weights_digest(architecture: Architecture, network: nn.Module, classes: Sequence[str]) -> Digest:
    """The digest that the network's weights would have as an artifact."""
    return digest_of_weights(architecture, dict(network.state_dict()), classes)


@torch.no_grad()
def speak(outputs: Outputs, codec: str, max_kl: float, weights: Digest) -> bytes:
    """A student's logits as it says them, with the digest of the weights that made them."""
    logits = payloads.reduce(LOGITS, outputs)
    return tensors.encode(codecs.write(LOGITS.name, logits, codec, max_kl=max_kl), {"kind": "soft_targets", "weights": weights})


def hand_over(
    place: Path, delivery: Delivery, post: Post, carrier: Carrier, on_served: OnServed = _unnoted, leave: Leave = ANYWAY
) -> None:
    """Sends what a student said in a step, from its file, to who asked for it.

    Raises:
        ArtifactNotFoundError: it has not said it, or not here.
    """
    body = delivery.message.body
    assert isinstance(body, KnowledgeRequest)
    if not place.is_file():
        raise ArtifactNotFoundError(f"step {body.step} of {body.weights[:12]}", place.parent)
    data = read_said(place)
    parcel = carrier.allocate(len(data))
    try:
        parcel.view[:] = data
        piece, buffers = carrier.pack(delivery.sender, parcel, body.ways, leave)
    finally:
        parcel.close()
    on_served(delivery, piece)
    reply = KnowledgeReply(kind=body.kind, weights=tensors.read_metadata(data)["weights"], piece=piece)
    post.send(delivery.sender, reply, parent_id=delivery.message.msg_id, buffers=buffers)
