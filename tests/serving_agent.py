"""One agent that serves, without the process around it, and a peer that asks it."""

import json
from pathlib import Path
from typing import Any

import torch
from experiments import SPEC
from sides import Side

from agentkd.agents.serving import Serving
from agentkd.artifacts.run_folder import RunFolder
from agentkd.code import loading
from agentkd.datasets.opening import open_dataset
from agentkd.exchange.audit import Audit
from agentkd.exchange.pieces import Carrier
from agentkd.exchange.post import Delivery
from agentkd.knowledge.weights import encode_weights
from agentkd.messages.bodies import KnowledgeReply, KnowledgeRequest, TeachRequest, Way
from agentkd.names import NO_DIGEST, Digest, TaskKey
from agentkd.networks.build import build
from agentkd.networks.families import resolve
from agentkd.task import DataSource

CPU = torch.device("cpu")
PATIENCE_S = 10.0
SOURCE = DataSource(spec=SPEC, content_digest=open_dataset(SPEC).digest)
TASK = TaskKey("5" * 64)


class ServingAgent:
    """One that serves, and a peer that asks it."""

    def __init__(self, place: Path, bind: str = "memory://*", **options: Any) -> None:
        self.peer, self.side = Side(bind), Side(bind)
        self.side.post.allow([self.peer.key])
        self.peer.reach(self.side)
        self.folder, self.log = RunFolder(place / "run"), place / "audit.jsonl"
        self.carrier = Carrier(self.side.post, self.folder.store, **options)
        self.serving = Serving(self.side.post, self.carrier, self.folder, Audit(self.log), CPU)
        self.network = resolve("tiny_networks:tiny", 5, {"width": 8})
        self.folder.store.put(loading.provided(self.network.code).encode())
        self.weights = self.store(seed=1)
        self.obtained: list[Digest] = []

    def store(self, seed: int) -> Digest:
        return self.folder.store.put(encode_weights(self.network, dict(build(self.network, seed=seed).state_dict())))

    def teach(self, weights: Digest = NO_DIGEST, data: DataSource | None = SOURCE) -> None:
        request = TeachRequest(architecture=self.network, weights=weights or self.weights, data=data)
        self.serving.adopt(request, self.obtained.append)

    def asked(self, body: Any, *buffers: bytes) -> Delivery:
        """What arrives here when the peer asks so."""
        self.peer.post.send(self.side.key, body, buffers=buffers)
        return self.side.inbox.get(timeout=PATIENCE_S)

    def hand_over(self, *buffers: bytes, **fields: Any) -> tuple[KnowledgeReply, bytes]:
        """What the peer gets."""
        request = KnowledgeRequest(**{"weights": self.weights, "num_classes": 5, "ways": (Way.INLINE,)} | fields)
        asked = self.asked(request, *buffers)
        self.serving.hand_over(asked, request)
        message = self.peer.inbox.get(timeout=PATIENCE_S).message
        assert isinstance(message.body, KnowledgeReply) and message.parent_id == asked.message.msg_id
        return message.body, bytes(message.buffers[0])

    def noted(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def close(self) -> None:
        self.serving.forget()
        self.carrier.close()
        for side in (self.peer, self.side):
            side.post.close()
