"""The collector tells what came of every result it took on, whatever happened."""

import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sides import Side

from agentkd.artifacts.store import Store
from agentkd.coordinator.collecting import MAX_AT_ONCE, Collected, Collector
from agentkd.errors import ArtifactCorruptError, ChannelClosedError, ExchangeError
from agentkd.exchange.asking import Asker
from agentkd.exchange.pieces import Carrier
from agentkd.exchange.post import Delivery
from agentkd.messages.bodies import KnowledgeReply, KnowledgeRequest, Piece, TaskReply, Way
from agentkd.task import Status, TaskResult

DIGEST = "ab" * 32
REPLY = TaskReply(task="cd" * 32, attempt=1, result=TaskResult(status=Status.COMPLETED, weights=DIGEST))
PATIENCE_S = 5.0


class Faulty(Asker):
    """One that fails as nobody thought of."""

    def ask(self, *rest: Any, **more: Any) -> Delivery:
        raise KeyError("a fault in the code")


class Desk:
    """A coordinator's end, and an agent that is asked for what it made."""

    def __init__(self, place: Path, asker: Asker) -> None:
        self.told: queue.Queue[Collected] = queue.Queue()
        self.here, self.agent = Side("memory://*"), Side("memory://*")
        self.here.post._deliver = lambda delivery: asker.take(delivery)
        self.here.reach(self.agent)
        self.carrier = Carrier(self.here.post, Store(place))
        self.collector = Collector(self.here.post, self.carrier, asker, Store(place), self.told.put)

    def close(self) -> None:
        self.collector.close()
        self.carrier.close()
        for side in (self.here, self.agent):
            side.post.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path, Asker())
    yield made
    made.close()


def test_a_fault_that_nobody_thought_of_is_told_and_nobody_waits_for_ever(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Faulty())
    assert desk.collector.begin("ann", desk.agent.key, REPLY)
    collected = desk.told.get(timeout=PATIENCE_S)
    assert (collected.agent, collected.reply, type(collected.error)) == ("ann", REPLY, ExchangeError)
    assert "KeyError" in str(collected.error) and "a fault in the code" in str(collected.error)
    desk.close()


def test_an_artifact_that_is_not_what_it_is_called_is_told(desk: Desk) -> None:
    desk.collector.begin("ann", desk.agent.key, REPLY)
    asked = desk.agent.inbox.get(timeout=PATIENCE_S)
    assert isinstance(asked.message.body, KnowledgeRequest)
    piece = Piece(way=Way.INLINE, size_bytes=3, sha256=DIGEST)
    reply = KnowledgeReply(kind="weights", weights=DIGEST, piece=piece)
    desk.agent.post.send(desk.here.key, reply, parent_id=asked.message.msg_id, buffers=(b"lie",))
    assert isinstance(desk.told.get(timeout=PATIENCE_S).error, ArtifactCorruptError)


def test_what_was_not_fetched_when_the_collector_is_closed_is_told_too(desk: Desk) -> None:
    for _ in range(MAX_AT_ONCE + 2):
        desk.collector.begin("ann", desk.agent.key, REPLY)
    for _ in range(MAX_AT_ONCE):
        desk.agent.inbox.get(timeout=PATIENCE_S)
    desk.close()
    errors = [desk.told.get(timeout=PATIENCE_S).error for _ in range(MAX_AT_ONCE + 2)]
    assert {type(error) for error in errors} == {ChannelClosedError}
