"""Artifacts for agents that do not see the run's folder: each gets what its task needs, and else what its key may fetch."""

import time
from collections.abc import Callable, Collection

from agentkd.artifacts.run_folder import RunFolder
from agentkd.errors import AgentKDError, RemoteProtocolError, Rule
from agentkd.exchange.audit import Audit
from agentkd.exchange.kinds import as_what_it_is
from agentkd.exchange.pieces import Carrier
from agentkd.exchange.post import Delivery, Post
from agentkd.exchange.streaming import Leave
from agentkd.messages.bodies import Body, ErrorReply, KnowledgeKind, KnowledgeReply, KnowledgeRequest
from agentkd.names import Digest, PublicKey

LOOK_S = 1.0


class HandingOver:
    """Answers requests for artifacts, and notes each in the audit log. One thread's."""

    def __init__(self, folder: RunFolder, post: Post, carrier: Carrier) -> None:
        self._store, self._post, self._carrier = folder.store, post, carrier
        self._audit = Audit(folder.logs / "coordinator.audit.jsonl")
        self._needed: dict[PublicKey, frozenset[Digest]] = {}
        self._next_look = 0.0

    def keep_up(self, needs: Callable[[PublicKey], Collection[Digest]]) -> None:
        """Notes what was only counted, and looks at what each asker needs now, which streams are held to. To be called often.

        Args:
            needs: what the agent with this key must have for what it is doing.
        """
        self._audit.sum_up()
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_S
            self._needed = {key: needed for key in self._needed if (needed := frozenset(needs(key)))}

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
        self._needed[delivery.sender] = frozenset(needed)
        entry = grants.find(delivery.sender)
        try:
            if request.kind is not KnowledgeKind.WEIGHTS or request.step is not None:
                raise RemoteProtocolError("a coordinator hands over artifacts (kind weights) and teaches nothing", Rule.ROLE)
            self._check(delivery.sender, request)
            told = as_what_it_is(request, wanted, self._store)
            self._check(delivery.sender, told)
            leave = Leave(
                check=lambda: self._check(delivery.sender, told),
                note=lambda num_bytes: self._audit.streamed(grants.find(delivery.sender), told, num_bytes),
            )
            piece, buffers = self._carrier.pack_stored(delivery.sender, wanted, request.ways, leave)
            self._audit.served(entry, told, piece)
            reply: Body = KnowledgeReply(kind=request.kind, weights=wanted, piece=piece)
        except AgentKDError as error:
            self._audit.refused(entry, str(request.kind), wanted)
            reply, buffers = ErrorReply.of(error), ()
        self._post.send(delivery.sender, reply, parent_id=delivery.message.msg_id, buffers=buffers)

    def _check(self, asker: PublicKey, request: KnowledgeRequest) -> None:
        """From any thread.

        Raises:
            RemoteProtocolError: the asker neither needs it now nor was granted it.
        """
        if request.weights not in self._needed.get(asker, ()):
            self._post.grants.check(asker, str(request.kind))
