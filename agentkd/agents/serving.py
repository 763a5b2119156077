"""What an agent hands over to others: knowledge, weights and assessments, to whom they are granted, with a note of each."""

import logging
from collections.abc import Callable

import torch

from agentkd.agents import mutual
from agentkd.agents.teaching import Teacher
from agentkd.artifacts.run_folder import RunFolder
from agentkd.errors import ArtifactNotFoundError, ConfigError, ContractError, RemoteProtocolError, Rule, StorageError
from agentkd.exchange.audit import Audit
from agentkd.exchange.kinds import as_what_it_is
from agentkd.exchange.pieces import Carrier
from agentkd.exchange.post import Delivery, Post
from agentkd.exchange.streaming import Leave
from agentkd.knowledge.sharing import encode_architecture
from agentkd.messages.bodies import (
    AssessRequest,
    KnowledgeKind,
    KnowledgeReply,
    KnowledgeRequest,
    Piece,
    TeachRequest,
    Way,
)
from agentkd.messages.wire import Buffer
from agentkd.names import NO_DIGEST, Digest, TaskKey, TeacherId, shared_data

log = logging.getLogger(__name__)


class Serving:
    """The network that an agent teaches with, if it does, and the answers to whoever asks.

    Everything but ``check_grant`` is for the thread that owns the network.

    Args:
        device: a torch device, where the network computes.
        loaders: threads that make the views of a request.

    ``shares`` is the digest of the data that it hands to whoever may have data and does not say which.
    """

    def __init__(
        self, post: Post, carrier: Carrier, folder: RunFolder, audit: Audit, device: torch.device, *, loaders: int = 0
    ) -> None:
        self._post, self._carrier, self._folder, self._audit = post, carrier, folder, audit
        self._device, self._loaders = device, loaders
        self._teacher: Teacher | None = None
        self.shares: Digest = NO_DIGEST

    def check_grant(self, delivery: Delivery, kind: str, digest: TeacherId) -> None:
        """Says, and notes, if who asks may not have it.

        Raises:
            RemoteProtocolError: it may not.
        """
        try:
            self._post.grants.check(delivery.sender, kind)
        except RemoteProtocolError:
            entry = self._post.grants.find(delivery.sender)
            try:
                self._audit.refused(entry, kind, digest)
            except StorageError as error:  # nothing is handed over, so nothing must be noted for that
                log.error("a refusal is not in the audit log: %s", error)
            raise

    def _leave(self, delivery: Delivery, request: KnowledgeRequest) -> Leave:
        """What holds a stream to the grant, and has a note of each."""
        return Leave(
            check=lambda: self.check_grant(delivery, str(request.kind), request.weights),
            note=lambda num_bytes: self._audit.streamed(self._post.grants.find(delivery.sender), request, num_bytes),
        )

    def adopt(self, request: TeachRequest, obtain: Callable[[Digest], None]) -> None:
        """Becomes a teacher with weights that ``obtain`` puts into the store.

        Raises:
            AgentKDError: as ``Teacher``.
        """
        for file in shared_data(request.data.spec) if request.data is not None else ():
            obtain(file)
        teacher = self._teacher
        if teacher is not None and (teacher.weights, teacher.architecture.whole) == (request.weights, request.architecture.whole):
            if request.data is not None:
                teacher.teach_about(request.data)
            return
        self.forget()
        obtain(request.weights)
        self._teacher = Teacher(
            request.architecture,
            request.weights,
            request.data,
            stored=self._folder.store.get(request.weights),
            device=self._device,
            loaders=self._loaders,
            allocate=self._carrier.allocate,
        )

    def forget(self) -> None:
        """Teaches no longer, which frees the network."""
        teacher, self._teacher = self._teacher, None
        if teacher is not None:
            teacher.close()

    def hand_over(self, delivery: Delivery, request: KnowledgeRequest) -> None:
        """Answers a request for knowledge, and notes it. What cannot be noted is not handed over.

        Raises:
            AgentKDError: there is no such answer.
        """
        images = _only_buffer(delivery)
        seconds, is_cached, leave = 0.0, False, self._leave(delivery, request)
        if request.step is not None:
            place = self._folder.said(TaskKey(request.weights), request.step)
            mutual.hand_over(place, delivery, self._post, self._carrier, self.note_served, leave)
            return
        weights = Digest(request.weights)
        told = request
        if request.kind is KnowledgeKind.ASSESSMENT:
            raise ConfigError("assessments are asked for with AssessRequest")
        if request.kind in (KnowledgeKind.SOFT_TARGETS, KnowledgeKind.FEATURE_MAPS):
            answer = self._must_teach(weights).answer(request, images)
            seconds, is_cached = answer.seconds, answer.is_cached
            piece, buffers = self._carrier.pack(delivery.sender, answer.parcel, request.ways, leave)
        elif request.kind is KnowledgeKind.WEIGHTS and self._teacher is not None and self._teacher.weights == weights:
            piece, buffers = self._carrier.pack(delivery.sender, self._teacher.weights_parcel, request.ways, leave)
        elif request.kind is KnowledgeKind.ARCHITECTURE:
            piece, buffers = self._pack_architecture(delivery, weights, request.ways, leave)
        else:
            wanted = self._which_data(request) if request.kind is KnowledgeKind.DATA else weights
            told = as_what_it_is(request, wanted, self._folder.store)
            self._check_stored(delivery, request, told)
            piece, buffers = self._carrier.pack_stored(delivery.sender, wanted, request.ways, self._leave(delivery, told))
        self._audit.served(self._post.grants.find(delivery.sender), told, piece)
        reply = KnowledgeReply(kind=request.kind, weights=weights, piece=piece, teacher_s=seconds, is_cached=is_cached)
        self._post.send(delivery.sender, reply, parent_id=delivery.message.msg_id, buffers=buffers)

    def _pack_architecture(
        self, delivery: Delivery, weights: Digest, ways: tuple[Way, ...], leave: Leave
    ) -> tuple[Piece, tuple[Buffer, ...]]:
        teacher = self._must_teach(weights)
        if teacher.weights != weights:
            raise ContractError("weights", teacher.weights, weights, hint="the teacher adopted another network")
        data = encode_architecture(teacher.architecture, teacher.classes)
        parcel = self._carrier.allocate(len(data))
        try:
            parcel.view[:] = data
            return self._carrier.pack(delivery.sender, parcel, ways, leave)
        finally:
            parcel.close()

    def _which_data(self, request: KnowledgeRequest) -> Digest:
        """The file that is asked for, or the newest that was packed here."""
        named = Digest(request.dataset)
        if not (named or self.shares):
            raise ArtifactNotFoundError(Digest(request.weights), "this agent, which shares no data")
        return named or self.shares

    def _check_stored(self, delivery: Delivery, request: KnowledgeRequest, told: KnowledgeRequest) -> None:
        """Who may fetch weights may not fetch data by their digest as such."""
        if told.kind is request.kind:
            return
        if request.kind is KnowledgeKind.DATA:
            raise ContractError("kind", str(told.kind), str(request.kind), hint="that digest is not of data")
        self.check_grant(delivery, str(told.kind), told.weights)

    def assess(self, delivery: Delivery, request: AssessRequest) -> None:
        """Answers a request for an assessment, and notes it.

        Raises:
            AgentKDError: there is no such answer.
        """
        images = _only_buffer(delivery)
        if images is None:
            raise RemoteProtocolError("an assessment needs the images as a buffer", Rule.BODY)
        reply = self._must_teach(NO_DIGEST).assess(request, images)
        self._audit.note(
            self._post.grants.find(delivery.sender),
            kind=str(KnowledgeKind.ASSESSMENT),
            digest=reply.weights,
            size_bytes=len(images),
            way=str(Way.INLINE),
            outcome="served",
        )
        self._post.send(delivery.sender, reply, parent_id=delivery.message.msg_id)

    def note_served(self, delivery: Delivery, piece: Piece) -> None:
        """Notes in the audit log that a piece goes to who asked."""
        self._audit.served(self._post.grants.find(delivery.sender), delivery.message.body, piece)

    def _must_teach(self, weights: Digest) -> Teacher:
        if self._teacher is None:
            raise ArtifactNotFoundError(weights, "this agent, which teaches nothing now")
        return self._teacher


def _only_buffer(delivery: Delivery) -> Buffer | None:
    """The one buffer of a message that may have one."""
    buffers = delivery.message.buffers
    if len(buffers) > 1:
        raise RemoteProtocolError(f"{len(buffers)} buffers; at most one belongs to this request", Rule.BODY)
    return buffers[0] if buffers else None
