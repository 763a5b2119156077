"""The teacher's side of an exchange: one adopted network that answers requests for what it knows."""

import time
from collections import OrderedDict

import torch

from agentkd import canonical
from agentkd.agents.feeding import open_source, view_images
from agentkd.agents.work import load_weights
from agentkd.architecture import Architecture
from agentkd.artifacts.store import Store
from agentkd.knowledge import tensors
from agentkd.knowledge.contracts import SoftTargetsContract, agree
from agentkd.knowledge.soft_targets import SoftTargets
from agentkd.messages.bodies import KnowledgeKind, KnowledgeReply, KnowledgeRequest
from agentkd.networks.build import build
from agentkd.task import DataSource

CACHED_BYTES = 256 * 1024**2


class Teacher:
    """A network in evaluation mode. Students that ask for the same views are answered by one forward pass."""

    def __init__(self, architecture: Architecture, weights: str, data: DataSource, *, store: Store, device: torch.device) -> None:
        self.weights, self.num_forwards = weights, 0
        self._architecture, self._device = architecture, device
        self._dataset = open_source(data)
        self._network = build(architecture).to(device).eval()
        load_weights(self._network, store.get(weights))
        self._answers: OrderedDict[str, tuple[KnowledgeReply, bytes]] = OrderedDict()
        self._cached_bytes = 0

    def answer(self, request: KnowledgeRequest) -> tuple[KnowledgeReply, bytes]:
        """The soft targets of the requested views, as a reply and its safetensors buffer.

        Raises:
            ContractError: the request means something else than this teacher can give.
        """
        mine = SoftTargetsContract(
            weights=self.weights, num_classes=self._architecture.num_classes, dataset=self._dataset.digest, codec=request.codec
        )
        agree(
            mine,
            SoftTargetsContract(
                weights=request.weights, num_classes=request.num_classes, dataset=request.dataset, codec=request.codec
            ),
        )
        key = canonical.digest(request.model_dump(mode="json"))
        if key in self._answers:
            self._answers.move_to_end(key)
            return self._answers[key]
        made = self._compute(request)
        self._answers[key] = made
        self._cached_bytes += len(made[1])
        while self._cached_bytes > CACHED_BYTES and len(self._answers) > 1:
            _, (_, dropped) = self._answers.popitem(last=False)
            self._cached_bytes -= len(dropped)
        return made

    @torch.no_grad()
    def _compute(self, request: KnowledgeRequest) -> tuple[KnowledgeReply, bytes]:
        started = time.monotonic()
        images = view_images(self._dataset, request.views, request.view_settings).to(self._device)
        payload = SoftTargets(codec=request.codec).teach(self._network(images)["logits"])
        buffer = tensors.encode({"logits": payload})
        self.num_forwards += 1
        reply = KnowledgeReply(
            kind=KnowledgeKind.SOFT_TARGETS,
            weights=self.weights,
            sha256=canonical.digest_bytes(buffer),
            teacher_s=time.monotonic() - started,
        )
        return reply, buffer
