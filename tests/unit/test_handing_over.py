"""A coordinator hands artifacts over to who needs them or was granted them, also in the middle of a stream."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sides import Side

from agentkd.artifacts.run_folder import RunFolder
from agentkd.coordinator import handing_over
from agentkd.coordinator.handing_over import HandingOver
from agentkd.errors import RemoteAgentError
from agentkd.exchange.pieces import Carrier
from agentkd.messages.bodies import AdmittedPeer, ErrorReply, KnowledgeKind, KnowledgeReply, KnowledgeRequest, Way
from agentkd.names import Digest

PATIENCE_S = 10.0


class Desk:
    """A coordinator with two artifacts, and a guest that asks for them."""

    def __init__(self, place: Path) -> None:
        self.guest, self.side = Side(), Side()
        self.guest.reach(self.side)
        self.folder = RunFolder(place)
        self.first, self.second = (self.folder.store.put(bytes([n]) * 300_000) for n in (1, 2))
        self.giving = Carrier(self.side.post, self.folder.store, ways=(Way.STREAM,))
        self.taking = Carrier(self.guest.post, None, ways=(Way.STREAM,))
        self.handing_over = HandingOver(self.folder, self.side.post, self.giving)
        self.grant()

    def grant(self, *may: str) -> None:
        self.side.post.admit([AdmittedPeer(agent="guest", public_key=self.guest.key, may=may)])

    def ask(self, digest: Digest, *needed: Digest) -> Any:
        request = KnowledgeRequest(kind=KnowledgeKind.WEIGHTS, weights=digest, ways=(Way.STREAM,))
        self.guest.post.send(self.side.key, request)
        self.handing_over.answer(self.side.inbox.get(timeout=PATIENCE_S), request, needed)
        return self.guest.inbox.get(timeout=PATIENCE_S).message.body

    def fetch(self, reply: KnowledgeReply) -> bytes:
        fetched = self.taking.fetch(self.side.key, reply.piece)
        try:
            return bytes(fetched.data)
        finally:
            fetched.release()

    def noted(self) -> list[str]:
        log = self.folder.logs / "coordinator.audit.jsonl"
        return [json.loads(line)["outcome"] for line in log.read_text().splitlines()]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    for carrier in (made.giving, made.taking):
        carrier.close()
    for side in (made.guest, made.side):
        side.post.close()


def test_what_a_task_needed_is_not_streamed_once_it_is_over(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handing_over, "LOOK_S", 0.0)
    reply = desk.ask(desk.first, desk.first)
    desk.handing_over.keep_up(lambda key: {desk.first} if key == desk.guest.key else ())
    assert desk.fetch(reply) == bytes([1]) * 300_000
    desk.handing_over.keep_up(lambda key: ())
    with pytest.raises(RemoteAgentError, match="may not fetch weights"):
        desk.fetch(reply)
    assert desk.noted() == ["served", "streamed"]
    assert len(desk.fetch(desk.ask(desk.first, desk.first))) == 300_000, "another task needs it again"


def test_what_was_granted_is_streamed_as_long_as_it_is_granted(desk: Desk) -> None:
    assert isinstance(desk.ask(desk.first, desk.second), ErrorReply)
    desk.grant("weights")
    reply = desk.ask(desk.first, desk.second)
    assert len(desk.fetch(reply)) == 300_000
    desk.grant()
    with pytest.raises(RemoteAgentError, match="may not fetch weights"):
        desk.fetch(reply)
    assert desk.noted() == ["refused", "served", "streamed"]
