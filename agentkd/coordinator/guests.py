"""Guests of a community, seen from a script: agents that somebody else started, perhaps in another language."""

import time

from torch import Tensor

from agentkd.coordinator.crew import Crew
from agentkd.errors import ConfigError, ContractError, ReplyTimeoutError
from agentkd.exchange.grants import EVERYTHING
from agentkd.knowledge import codecs, tensors
from agentkd.knowledge.images import encode_images
from agentkd.messages.bodies import (
    AdmittedPeer,
    AssessReply,
    AssessRequest,
    HelloRequest,
    KnowledgeKind,
    KnowledgeReply,
    KnowledgeRequest,
)
from agentkd.names import AgentName, Digest, PublicKey
from agentkd.objectives import LOGITS
from agentkd.task import TeacherReference

ARRIVAL_TIMEOUT_S = 120.0
ANSWER_TIMEOUT_S = 120.0
POLL_S = 0.02


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
        request = KnowledgeRequest(
            kind=KnowledgeKind.SOFT_TARGETS, weights=self.weights, num_classes=num_classes, codec=codec, ways=self._crew.ways
        )
        reply = self._crew.ask(self.public_key, request, buffers=(encode_images(images),), timeout_s=ANSWER_TIMEOUT_S)
        body = reply.message.body
        if not isinstance(body, KnowledgeReply):
            raise ContractError("reply", KnowledgeReply.__name__, type(body).__name__)
        if (body.kind, body.weights) != (request.kind, request.weights):
            raise ContractError("knowledge", f"{body.kind} of {body.weights}", f"{request.kind} of {request.weights}")
        logits = codecs.read(LOGITS.name, tensors.decode(self._crew.fetch(reply)), num_classes)
        is_whole = logits is not None and logits.dim() == 4 and logits.numel() > 0
        if logits is None or not is_whole or tuple(logits.shape[:2]) != (len(images), num_classes):
            raise ContractError("logits", (len(images), num_classes, "h", "w"), None if logits is None else tuple(logits.shape))
        return logits
