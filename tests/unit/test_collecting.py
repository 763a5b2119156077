"""The collector tells what came of every result it took on, whatever happened."""

import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sides import Side

from agentkd.artifacts.store import Store
from agentkd.canonical import digest_bytes
from agentkd.coordinator.collecting import MAX_AT_ONCE, Collected, Collector, Inspection
from agentkd.errors import ArtifactCorruptError, ChannelClosedError, ExchangeError, ResultError
from agentkd.exchange.asking import Asker
from agentkd.exchange.pieces import Carrier
from agentkd.exchange.post import Delivery
from agentkd.messages.bodies import KnowledgeReply, KnowledgeRequest, Piece, TaskReply, Way
from agentkd.task import ExchangeSummary, Status, TaskResult

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


WEIGHTS = b"weights of a guest"
MADE = digest_bytes(WEIGHTS)
RESULT = TaskResult(status=Status.COMPLETED, weights=MADE)
HANDED_IN = TaskReply(task="cd" * 32, attempt=1, result=RESULT)


def hand_over(desk: Desk, data: bytes = WEIGHTS, *, size_bytes: int = 0) -> None:
    """The agent answers a request for its artifact."""
    asked = desk.agent.inbox.get(timeout=PATIENCE_S)
    piece = Piece(way=Way.INLINE, size_bytes=size_bytes or len(data), sha256=digest_bytes(data))
    reply = KnowledgeReply(kind="weights", weights=digest_bytes(data), piece=piece)
    desk.agent.post.send(desk.here.key, reply, parent_id=asked.message.msg_id, buffers=(data,))


def refuse(result: TaskResult) -> TaskResult:
    raise ResultError("no such result")


def inspection(look: Callable[[TaskResult], TaskResult] = lambda result: result, most: int = 100) -> Inspection:
    return Inspection(look, lambda: most)


def test_what_a_guest_made_stays_if_it_counts_and_goes_if_it_is_refused(desk: Desk) -> None:
    for look, stays in ((refuse, False), (lambda result: result.replace(miou=0.25), True), (refuse, True)):
        is_there = MADE in desk.collector._store
        desk.collector.begin("guest", desk.agent.key, HANDED_IN, inspection(look))
        if not is_there:
            hand_over(desk)
        collected = desk.told.get(timeout=PATIENCE_S)
        assert (type(collected.error) is ResultError) is (look is refuse)
        assert (MADE in desk.collector._store) is stays, "what a result that counts refers to is never removed"
    assert desk.told.empty()


def test_what_another_result_refers_to_that_is_looked_at_now_stays(desk: Desk) -> None:
    refused, waiting = threading.Event(), threading.Event()

    def wait(result: TaskResult) -> TaskResult:
        waiting.set()
        assert refused.wait(PATIENCE_S)
        return result

    def refuse_meanwhile(result: TaskResult) -> TaskResult:
        desk.collector.begin("other", desk.agent.key, HANDED_IN, inspection(wait))
        assert waiting.wait(PATIENCE_S)
        return refuse(result)

    desk.collector.begin("guest", desk.agent.key, HANDED_IN, inspection(refuse_meanwhile))
    hand_over(desk)
    assert desk.told.get(timeout=PATIENCE_S).agent == "guest"
    refused.set()
    assert desk.told.get(timeout=PATIENCE_S).error is None and MADE in desk.collector._store


def test_what_one_of_ours_refers_to_already_stays(desk: Desk) -> None:
    def refuse_meanwhile(result: TaskResult) -> TaskResult:
        assert not desk.collector.begin("ours", desk.agent.key, HANDED_IN), "it is there"
        return refuse(result)

    desk.collector.begin("guest", desk.agent.key, HANDED_IN, inspection(refuse_meanwhile))
    hand_over(desk)
    assert desk.told.get(timeout=PATIENCE_S).error is not None and MADE in desk.collector._store


@pytest.mark.parametrize(
    ("claimed", "most", "is_taken"), [(0, len(WEIGHTS), True), (0, len(WEIGHTS) - 1, False), (2**33, 2**20, False)]
)
def test_a_guests_artifact_that_is_larger_than_its_task_can_make_is_refused_and_ends_nobody(
    desk: Desk, claimed: int, most: int, is_taken: bool
) -> None:
    desk.collector.begin("guest", desk.agent.key, HANDED_IN, inspection(most=most))
    hand_over(desk, size_bytes=claimed)
    error = desk.told.get(timeout=PATIENCE_S).error
    assert (error is None) is is_taken and (error is None or "octets" in str(error))
    assert error is None or type(error) is ResultError, "no trouble of this coordinator's disk"


def test_a_guests_recording_is_not_fetched(desk: Desk) -> None:
    recorded = RESULT.replace(weights="", exchange=ExchangeSummary(record=DIGEST))
    desk.collector.begin("guest", desk.agent.key, HANDED_IN.model_copy(update={"result": recorded}), inspection(refuse))
    assert "no such result" in str(desk.told.get(timeout=PATIENCE_S).error) and desk.agent.inbox.empty()


def test_what_is_recorded_in_another_form_goes_as_it_was_brought(desk: Desk) -> None:
    desk.collector.begin(
        "guest",
        desk.agent.key,
        HANDED_IN,
        inspection(lambda result: result.replace(weights=desk.collector._store.put(b"in our form"))),
    )
    hand_over(desk)
    collected = desk.told.get(timeout=PATIENCE_S)
    assert collected.error is None and desk.collector._store.get(collected.result.weights) == b"in our form"
    assert MADE not in desk.collector._store


def test_a_result_whose_artifact_is_gone_when_it_is_to_count_does_not(desk: Desk) -> None:
    desk.collector.begin("guest", desk.agent.key, HANDED_IN, inspection(lambda result: result.replace(weights=DIGEST)))
    hand_over(desk)
    assert type(desk.told.get(timeout=PATIENCE_S).error) is ExchangeError


def test_a_guests_class_maps_are_not_fetched_since_they_are_made_here(desk: Desk) -> None:
    told = RESULT.replace(weights="", predictions=DIGEST)
    look = inspection(lambda result: result.replace(predictions=""))
    desk.collector.begin("guest", desk.agent.key, HANDED_IN.model_copy(update={"result": told}), look)
    assert desk.told.get(timeout=PATIENCE_S).error is None and desk.agent.inbox.empty()
