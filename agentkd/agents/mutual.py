"""Students that teach each other: in each step everyone says what it makes of the batch, and hears what the others make of it.

What is said is kept beside the checkpoint until all have ended, so one that is killed and starts again hears what it missed.

Source: Zhang et al., "Deep Mutual Learning", CVPR 2018; all learn at the same time from what the others made of the same batch.
"""

import contextlib
import logging
import queue
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from agentkd.agents.feeding import DatasetFeed
from agentkd.agents.lessons import blend
from agentkd.agents.remote_lesson import ASK_AGAIN_S, WAIT_S, part, reach
from agentkd.architecture import Architecture
from agentkd.artifacts.run_folder import RunFolder
from agentkd.canonical import digest_bytes
from agentkd.errors import (
    ArtifactCorruptError,
    ArtifactNotFoundError,
    ContractError,
    ExchangeError,
    RemoteAgentError,
    ReplyTimeoutError,
    StorageError,
)
from agentkd.exchange.pieces import Carrier
from agentkd.exchange.post import Delivery, Post
from agentkd.knowledge import codecs, payloads, tensors
from agentkd.knowledge.tensors import Buffer
from agentkd.knowledge.weights import encode_weights
from agentkd.messages.bodies import (
    ErrorReply,
    KnowledgeKind,
    KnowledgeReply,
    KnowledgeRequest,
    PeerAddress,
    TaughtBy,
    TeacherMovedEvent,
)
from agentkd.objectives import LOGITS
from agentkd.task import ExchangeSummary, Mutual
from agentkd.training.batches import Batch
from agentkd.training.loop import Knowledge
from agentkd.training.losses import Outputs, Terms

NOT_YET_S = 0.2

log = logging.getLogger(__name__)


class MutualLesson:
    """One student's side of a lesson that students give each other.

    Args:
        folder: where what is said is kept.
        partners: who does the other tasks now, by the digest of the task; who has ended may be missing.
        inbox: deliveries meant for the student, requests of its partners among them.
        check: called while waiting; raises if the task is cancelled.
    """

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
        wait_s: float = WAIT_S,
    ) -> None:
        self._task, self._key, self._folder = task, task.digest, folder
        self._post, self._carrier, self._inbox, self._check = post, carrier, inbox, check
        self._blend, self._distillation = blend(task, feed), task.distillation
        self._partners = {partner.digest: partner.architecture.num_classes for partner in task.partner_tasks()}
        self._peers: dict[str, PeerAddress] = {}
        self._network: nn.Module | None = None
        self._step = self._requests = self._bytes = 0
        self._wait_s = wait_s
        self._weights, self._waited_s = "", 0.0
        self._pending: list[Delivery] = []
        self._asked: dict[int, str] = {}
        self._due: dict[str, float] = {}
        for partner in partners:
            reach(post, partner.peer)
            self._peers[partner.weights] = partner.peer

    def attend(self, network: nn.Module) -> None:
        """The network that learns, and speaks."""
        self._network = network

    def fetch(self, step: int) -> Knowledge:
        """Nothing is known before the student has spoken; notes whose weights will speak in this step."""
        assert self._network is not None
        self._step, self._weights = step, weights_digest(self._task.architecture, self._network)
        return ()

    def peek(self, step: int) -> Knowledge:
        """As ``fetch``."""
        return ()

    def fetch_weights(self, weights: str) -> bytes:
        """Nobody's weights are inherited."""
        raise ArtifactNotFoundError(weights, "a mutual lesson")

    def terms(self, hard: Terms, outputs: Outputs, knowledge: Knowledge, batch: Batch, progress: float) -> Terms:
        """Says what this student makes of the batch, hears the others, and adds what they add to the loss."""
        device = outputs["logits"].device
        self._say(speak(outputs, self._distillation.codec, self._distillation.max_kl, self._weights))
        heard = {key: self._understand(data, key) for key, data in self._hear().items()}
        told = tuple({LOGITS.name: heard[key].to(device)} for key in self._partners)
        return self._blend.terms(hard, outputs, told, batch, progress)

    def summary(self) -> ExchangeSummary:
        """What the lesson cost."""
        return ExchangeSummary(requests=self._requests, bytes_received=self._bytes, waited_s=self._waited_s)

    def close(self) -> None:
        """Answers who still waits, and hangs up."""
        with contextlib.suppress(queue.Empty):
            while True:
                delivery = self._inbox.get_nowait()
                self._pending += [delivery] if isinstance(delivery.message.body, KnowledgeRequest) else []
        self._answer_pending()
        for peer in self._peers.values():
            part(self._post, peer)

    # Speaking.

    def _say(self, data: bytes) -> None:
        """Keeps what is said now, and hands it to those who wait for it."""
        place = self._folder.said(self._key, self._step)
        part = place.with_suffix(".part")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(data)
            part.replace(place)
        except OSError as error:
            raise StorageError(place, error.strerror or str(error)) from error
        self._answer_pending()

    def _answer_pending(self) -> None:
        waiting, self._pending = self._pending, []
        for delivery in waiting:
            body = delivery.message.body
            assert isinstance(body, KnowledgeRequest) and body.step is not None
            place = self._folder.said(self._key, body.step)
            if body.weights == self._key and place.is_file():
                hand_over(place, delivery, self._post, self._carrier)
            elif body.weights == self._key and body.step >= self._step:
                self._pending.append(delivery)  # not said yet
            else:
                log.info("step %d of %s was asked for, which is not here", body.step, body.weights[:12])

    # Hearing.

    def _hear(self) -> dict[str, bytes]:
        """What every partner said in this step. Waits, and answers the others meanwhile."""
        heard: dict[str, bytes] = {}
        self._asked = {}
        for key in self._partners:
            self._ask(key)
        started = time.monotonic()
        while len(heard) < len(self._partners):
            self._check()
            if time.monotonic() - started > self._wait_s:
                names = ", ".join(peer.agent for peer in self._peers.values())
                raise ReplyTimeoutError(names or "partners", f"step {self._step}", self._wait_s)
            self._receive(heard)
            for key in [key for key, due in self._due.items() if key not in heard and due <= time.monotonic()]:
                left_behind = self._folder.said(key, self._step)
                if left_behind.is_file():
                    heard[key] = left_behind.read_bytes()
                else:
                    self._ask(key)
        self._waited_s += time.monotonic() - started
        return heard

    def _ask(self, key: str) -> None:
        """Asks a partner, if it is there; it is due to be asked again after a while."""
        self._due[key] = time.monotonic() + (ASK_AGAIN_S if key in self._peers else NOT_YET_S)
        if key in self._peers:
            request = KnowledgeRequest(
                kind=KnowledgeKind.SOFT_TARGETS,
                weights=key,
                step=self._step,
                codec=self._distillation.codec,
                ways=self._carrier.ways,
            )
            self._requests += 1
            self._asked[self._post.send(self._peers[key].public_key, request)] = key

    def _receive(self, heard: dict[str, bytes]) -> None:
        try:
            delivery = self._inbox.get(timeout=NOT_YET_S)
        except queue.Empty:
            return
        body = delivery.message.body
        if isinstance(body, KnowledgeRequest):
            self._pending.append(delivery)
            self._answer_pending()
        elif isinstance(body, TeacherMovedEvent):
            self._move(body)
        elif (key := self._asked.get(delivery.message.parent_id)) is None:
            return
        elif isinstance(body, KnowledgeReply):
            self._take(delivery, body, key, heard)
        elif isinstance(body, ErrorReply):
            self._take_refusal(body, key)

    def _take(self, delivery: Delivery, body: KnowledgeReply, key: str, heard: dict[str, bytes]) -> None:
        try:
            fetched = self._carrier.fetch(delivery.sender, body.piece, delivery.message.buffers, check=self._check)
        except (ExchangeError, ArtifactCorruptError) as error:
            log.info("step %d of %s: %s; asking again", self._step, key[:12], error)
            self._due[key] = time.monotonic()
            return
        data = bytes(fetched.data)
        fetched.release()
        made_by = tensors.read_metadata(data).get("weights")
        if made_by != body.weights:
            raise ContractError("weights", body.weights, made_by)
        heard[key] = data
        self._bytes += body.piece.size_bytes

    def _take_refusal(self, body: ErrorReply, key: str) -> None:
        """A partner that has not begun, or is over, does not have it: its folder is looked into, and it is asked again soon."""
        if body.code != ArtifactNotFoundError.code and not body.retryable:
            raise RemoteAgentError(self._peers[key].agent, body.code, body.remote_type, body.text, rule=body.rule)
        self._due[key] = time.monotonic() + NOT_YET_S

    def _understand(self, data: Buffer, key: str) -> Tensor:
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

    # Where the partners are.

    def _move(self, event: TeacherMovedEvent) -> None:
        old = self._peers.get(event.weights)
        if event.weights not in self._partners or old == event.peer:
            return
        if old is not None:
            part(self._post, old)
        reach(self._post, event.peer)
        self._peers[event.weights] = event.peer
        self._asked = {number: key for number, key in self._asked.items() if key != event.weights}
        self._due[event.weights] = time.monotonic()


def weights_digest(architecture: Architecture, network: nn.Module) -> str:
    """The digest that the network's weights would have as an artifact."""
    return digest_bytes(encode_weights(architecture, dict(network.state_dict())))


@torch.no_grad()
def speak(outputs: Outputs, codec: str, max_kl: float, weights: str) -> bytes:
    """A student's logits as it says them, with the digest of the weights that made them."""
    logits = payloads.reduce(LOGITS, outputs)
    return tensors.encode(codecs.write(LOGITS.name, logits, codec, max_kl=max_kl), {"kind": "soft_targets", "weights": weights})


def hand_over(place: Path, delivery: Delivery, post: Post, carrier: Carrier) -> None:
    """Sends what a student said in a step, from its file, to who asked for it.

    Raises:
        ArtifactNotFoundError: it has not said it, or not here.
    """
    body = delivery.message.body
    assert isinstance(body, KnowledgeRequest)
    if not place.is_file():
        raise ArtifactNotFoundError(f"step {body.step} of {body.weights[:12]}", place.parent)
    data = place.read_bytes()
    parcel = carrier.allocate(len(data))
    try:
        parcel.view[:] = data
        piece, buffers = carrier.pack(delivery.sender, parcel, body.ways)
    finally:
        parcel.close()
    reply = KnowledgeReply(kind=body.kind, weights=tensors.read_metadata(data)["weights"], piece=piece)
    post.send(delivery.sender, reply, parent_id=delivery.message.msg_id, buffers=buffers)
