"""Guests of a community, seen from a script: agents that somebody else started, perhaps in another language."""

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import Tensor

from agentkd.architecture import Architecture
from agentkd.code.source import MAX_BYTES, SourceCode
from agentkd.coordinator.crew import Crew
from agentkd.datasets.opening import Opened, open_again
from agentkd.datasets.shared import MAX_HEAD_BYTES, MAX_PACKED_BYTES
from agentkd.errors import ConfigError, ContractError, ReplyTimeoutError, must_be
from agentkd.exchange.grants import EVERYTHING
from agentkd.exchange.post import Delivery
from agentkd.knowledge import codecs, tensors
from agentkd.knowledge.contracts import agree_on_classes
from agentkd.knowledge.images import encode_images
from agentkd.knowledge.sharing import MAX_ARCHITECTURE_BYTES, decode_architecture
from agentkd.knowledge.weights import read_metadata
from agentkd.messages.bodies import (
    AdmittedPeer,
    AssessReply,
    AssessRequest,
    HelloRequest,
    KnowledgeKind,
    KnowledgeReply,
    KnowledgeRequest,
    Way,
)
from agentkd.names import NO_DIGEST, SHARED, AgentName, Digest, PublicKey
from agentkd.objectives import LOGITS, Payload
from agentkd.task import TeacherReference
from agentkd.visible import visible_line

ARRIVAL_TIMEOUT_S = 120.0
ANSWER_TIMEOUT_S = 120.0
POLL_S = 0.02
MAX_WEIGHTS_BYTES = 2 * 1024**3
NOBODYS = Digest("0" * 64)
"""The weights of who teaches none, where a request must name some."""


Looked = TypeVar("Looked")


class Guest:
    """An agent that somebody else started and that was admitted by its key. Every call blocks; all may be made from any thread.

    Args:
        may: the kinds of knowledge that it may fetch from the agents of the community.
    """

    def __init__(self, crew: Crew, name: AgentName, public_key: PublicKey, may: tuple[str, ...] = EVERYTHING) -> None:
        self.name, self.public_key, self._crew = name, public_key, crew
        self._classes: tuple[str, ...] = ()
        crew.invite(AdmittedPeer(agent=name, public_key=public_key, may=may))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of those that it tells apart: what a script says, or else its greeting. Empty if neither does."""
        greeting = self._crew.greeting(self.public_key)
        return self._classes or (greeting.classes if greeting else ())

    @classes.setter
    def classes(self, names: tuple[str, ...]) -> None:
        self._classes = tuple(names)

    def __repr__(self) -> str:
        return visible_line(f"<guest {self.name}: {'here' if self.is_here else 'not here'}>")

    @property
    def is_here(self) -> bool:
        """Whether it has come."""
        return self._crew.greeting(self.public_key) is not None

    def wait(self, timeout_s: float = ARRIVAL_TIMEOUT_S) -> HelloRequest:
        """Its greeting, as soon as it has come.

        Raises:
            ReplyTimeoutError: it did not come in time.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            greeting = self._crew.greeting(self.public_key)
            if greeting is not None:
                return greeting
            time.sleep(POLL_S)
        raise ReplyTimeoutError(self.name, "the greeting of a guest", timeout_s)

    @property
    def weights(self) -> Digest:
        """Digest of the weights that it teaches. Waits until it has come.

        Raises:
            ConfigError: it came, but not to teach.
            ReplyTimeoutError: it did not come in time.
        """
        teaches = self.wait().teaches
        if not teaches:
            raise ConfigError(f"guest {self.name} does not teach: its greeting names no weights (field `teaches`)")
        return teaches

    def as_teacher(self) -> TeacherReference:
        """This guest as the teacher of a task."""
        return TeacherReference(architecture=None, weights=self.weights)

    def assess(self, images: Tensor, *, num_classes: int) -> AssessReply:
        """What it makes of images [N,3,H,W], RGB in [0, 1]. It normalizes them for itself.

        Raises:
            ContractError: the images are others, or what it answers is none.
            RemoteAgentError: it refused, for instance for another number of classes.
            ReplyTimeoutError: it did not come, or did not answer.
        """
        teaches = self.wait().teaches
        request, sent = AssessRequest(num_classes=num_classes), (encode_images(images),)
        reply = self._crew.ask(self.public_key, request, buffers=sent, timeout_s=ANSWER_TIMEOUT_S).message.body
        if not isinstance(reply, AssessReply):
            raise ContractError("reply", AssessReply.__name__, type(reply).__name__)
        said, asked = (reply.num_images, len(reply.predicted)), (len(images), num_classes)
        if said != asked:
            raise ContractError("images and classes of an assessment", said, asked)
        if teaches and reply.weights != teaches:
            raise ContractError("weights", reply.weights, teaches, hint="it teaches others than those that it greeted with")
        return reply

    def soft_targets(self, images: Tensor, *, num_classes: int, codec: str = "float16") -> Tensor:
        """Its raw logits [N,K,h,w], at its own stride, for images [N,3,H,W], RGB in [0, 1]. It normalizes them for itself.

        Raises:
            RemoteAgentError: it refused.
            ContractError: the images are others, or what it sent is not what was asked for.
            ReplyTimeoutError: it did not come, or did not answer.
        """
        asked = {"num_classes": num_classes, "codec": codec}
        return self._maps(KnowledgeKind.SOFT_TARGETS, images, (LOGITS,), asked)[LOGITS.name]

    def feature_maps(self, images: Tensor, taps: Sequence[str], *, num_classes: int, codec: str = "float16") -> dict[str, Tensor]:
        """The features [N,C,h,w] of each tap, by its name, and ``logits``, for images [N,3,H,W], RGB in [0, 1].

        Args:
            images: at most so many that one message holds them.
            taps: names of modules, as the guest calls them.
            num_classes: that it tells apart.
            codec: how they travel.

        Raises:
            RemoteAgentError: it refused, perhaps since it hands over no features.
            ContractError: the images are others, or what it sent is not what was asked for.
            ReplyTimeoutError: it did not come, or did not answer.
        """
        must_be(taps, (list, tuple), "taps", "names of modules")
        wanted = {tap: Payload(form="features", tap=tap) for tap in taps}
        asked = {"num_classes": num_classes, "codec": codec, "payloads": (LOGITS, *wanted.values())}
        found = self._maps(KnowledgeKind.FEATURE_MAPS, images, (LOGITS, *wanted.values()), asked)
        return {"logits": found[LOGITS.name]} | {tap: found[payload.name] for tap, payload in wanted.items()}

    def obtain_weights(self) -> Digest:
        """Digest of the weights that it teaches; their file is in the record then, for ``community.agent(..., weights=DIGEST)``.

        Nothing of it is loaded before a network of the right architecture takes it.

        Raises:
            RemoteAgentError: it refused.
            ContractError: the file is no weights, or says others than the guest's greeting.
            AgentKDError: it has another digest, or is over a limit (2 GiB); nothing is kept.
        """

        def look(data: bytes) -> None:
            if not tensors.decode(data):
                raise ContractError("weights", "no tensors", "those of a network")
            agree_on_classes(read_metadata(data).classes, self.classes)

        weights = self.weights
        self._obtain(KnowledgeKind.WEIGHTS, MAX_WEIGHTS_BYTES, lambda digest: look(self._stored(digest)), wanted=weights)
        return weights

    def obtain_architecture(self, *, allow_code: bool = False) -> Architecture:
        """What its network is, as data; ``AgentHandle.become`` takes it. Its file is in the record afterwards.

        Args:
            allow_code: if it is an own network of the guest's, its source is obtained too, by its digest, and the community's
                agents will run it: it can do all that you can. Nothing of it runs in this process.

        Raises:
            ConfigError: it is of own code, and that was not allowed.
            RemoteAgentError: it refused.
            AgentKDError: the piece is no architecture, has another digest, or is over a limit; nothing is kept.
        """

        def look(digest: Digest) -> Architecture:
            architecture, classes = decode_architecture(self._stored(digest))
            agree_on_classes(classes, self.classes)
            if architecture.code and not allow_code:
                raise ConfigError(
                    f"the network of {self.name} is its owner's code ({architecture.family}, code {architecture.code[:12]}), "
                    f"which the community's agents would run; if you trust who wrote it: obtain_architecture(allow_code=True)"
                )
            return architecture

        architecture = self._obtain(KnowledgeKind.ARCHITECTURE, MAX_ARCHITECTURE_BYTES, look)
        if architecture.code:
            self._obtain(
                KnowledgeKind.WEIGHTS,
                MAX_BYTES,
                lambda digest: SourceCode.decode(self._stored(digest)),
                wanted=architecture.code,
            )
        return architecture

    def obtain_data(self, dataset: str = "") -> Opened:
        """Data that it shares, as a dataset (``shared:DIGEST``) for any agent. Their file is in the record afterwards.

        Args:
            dataset: digest of the file, if it shares several; its own choice if it is not given.

        Raises:
            RemoteAgentError: it refused.
            DatasetError: what it sent is no dataset.
            AgentKDError: it has another digest, or is over a limit (2 GiB); nothing is kept.
        """
        most = MAX_PACKED_BYTES + MAX_HEAD_BYTES
        return self._obtain(
            KnowledgeKind.DATA, most, lambda digest: open_again(SHARED + digest, NO_DIGEST), dataset=Digest(dataset)
        )

    def _maps(
        self, kind: KnowledgeKind, images: Tensor, payloads: tuple[Payload, ...], asked: dict[str, Any]
    ) -> dict[str, Tensor]:
        """What it makes of images: each payload [N,C,h,w] by its name, logits [N,K,h,w]."""
        request = KnowledgeRequest(kind=kind, weights=self.weights, ways=self._crew.ways, **asked)
        reply = self._ask(request, encode_images(images))
        sent, found = tensors.decode(self._crew.fetch(reply)), {}
        for payload in payloads:
            is_logits = payload == LOGITS
            value = codecs.read(payload.name, sent, request.num_classes)
            expected = (len(images), request.num_classes if is_logits else "C", "h", "w")
            is_whole = value is not None and value.dim() == 4 and value.numel() > 0 and len(value) == len(images)
            if value is None or not is_whole or (is_logits and value.shape[1] != request.num_classes):
                raise ContractError(payload.name, expected, None if value is None else tuple(value.shape))
            found[payload.name] = value
        return found

    def _obtain(
        self,
        kind: KnowledgeKind,
        max_bytes: int,
        look: Callable[[Digest], Looked],
        *,
        wanted: Digest = NO_DIGEST,
        dataset: Digest = NO_DIGEST,
    ) -> Looked:
        """What ``look`` makes of a file that it hands over, which is in the store then. It is not kept if that raises."""
        store, whose = self._crew.folder.store, wanted or self.wait().teaches or NOBODYS
        ways = tuple(way for way in self._crew.ways if way is not Way.SHARED)  # by the others the digest is told
        reply = self._ask(KnowledgeRequest(kind=kind, weights=whose, dataset=dataset, ways=ways))
        assert isinstance(reply.message.body, KnowledgeReply)
        digest = wanted or dataset or reply.message.body.piece.sha256
        was_here = bool(digest) and digest in store
        self._crew.keep(reply, wanted=digest, max_bytes=max_bytes)
        try:
            return look(digest)
        except BaseException:
            if not was_here:
                store.remove(digest)
            raise

    def _stored(self, digest: Digest) -> bytes:
        return self._crew.folder.store.get(digest)

    def _ask(self, request: KnowledgeRequest, *buffers: bytes) -> Delivery:
        """Its reply, which is about what it was asked."""
        self.wait()
        reply = self._crew.ask(self.public_key, request, buffers=buffers, timeout_s=ANSWER_TIMEOUT_S)
        body = reply.message.body
        if not isinstance(body, KnowledgeReply):
            raise ContractError("reply", KnowledgeReply.__name__, type(body).__name__)
        if (body.kind, body.weights) != (request.kind, request.weights):
            raise ContractError("knowledge", f"{body.kind} of {body.weights}", f"{request.kind} of {request.weights}")
        return reply
