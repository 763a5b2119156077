"""Artifacts for agents that do not see the run's folder: each gets what its task needs, and else what its key may fetch."""

from collections.abc import Collection

from agentkd.artifacts.run_folder import RunFolder
from agentkd.errors import AgentKDError, RemoteProtocolError, Rule
from agentkd.exchange.audit import Audit
from agentkd.exchange.kinds import as_what_it_is
from agentkd.exchange.pieces import Carrier
from agentkd.exchange.post import Delivery, Post
from agentkd.messages.bodies import Body, ErrorReply, KnowledgeKind, KnowledgeReply, KnowledgeRequest
from agentkd.names import Digest


class HandingOver:
    """Answers requests for artifacts, and notes each in the audit log. One thread's."""

    def __init__(self, folder: RunFolder, post: Post, carrier: Carrier) -> None:
        self._store, self._post, self._carrier = folder.store, post, carrier
        self._audit = Audit(folder.logs / "coordinator.audit.jsonl")

    def sum_up(self) -> None:
        """Notes now and then what was only counted."""
        self._audit.sum_up()

    def close(self) -> None:
        """Notes the rest of that."""
        self._audit.close()

    def answer(self, delivery: Delivery, request: KnowledgeRequest, needed: Collection[Digest]) -> None:
        """Hands an artifact over, or says why not.

        Args:
            delivery: how the request came.
            request: what is wanted.
            needed: what the asker must have for what it is doing, whatever its key was granted.
        """
        wanted, grants = Digest(request.weights), self._post.grants
        entry = grants.find(delivery.sender)
        try:
            if request.kind is not KnowledgeKind.WEIGHTS or request.step is not None:
                raise RemoteProtocolError("a coordinator hands over artifacts (kind weights) and teaches nothing", Rule.ROLE)
            if wanted not in needed:
                grants.check(delivery.sender, str(request.kind))
            told = as_what_it_is(request, wanted, self._store)
            if wanted not in needed:
                grants.check(delivery.sender, str(told.kind))
            piece, buffers = self._carrier.pack_stored(delivery.sender, wanted, request.ways)
            self._audit.served(entry, told, piece)
            reply: Body = KnowledgeReply(kind=request.kind, weights=wanted, piece=piece)
        except AgentKDError as error:
            self._audit.refused(entry, str(request.kind), wanted)
            reply, buffers = ErrorReply.of(error), ()
        self._post.send(delivery.sender, reply, parent_id=delivery.message.msg_id, buffers=buffers)
