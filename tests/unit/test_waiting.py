"""What waits for an agent's work thread is bounded, for each peer and in all, and whoever asks for more is told to ask again."""

import pytest

from agentkd.agents import waiting
from agentkd.agents.questions import Judgement, judge
from agentkd.agents.waiting import WaitingWork
from agentkd.exchange.post import Delivery
from agentkd.messages.bodies import AssessRequest, Body, ErrorReply, KnowledgeRequest, LeaveRequest, TeachRequest
from agentkd.messages.wire import Message
from agentkd.networks.families import resolve

PEER, OTHER = "p" * 40, "o" * 40
ASK = KnowledgeRequest(kind="soft_targets", weights="ab" * 32)


def delivery(sender: str = PEER, body: Body = ASK, size: int = 0) -> Delivery:
    return Delivery(sender, Message(body, buffers=(bytes(size),) if size else ()))


@pytest.fixture
def refused() -> list[tuple[str, ErrorReply]]:
    return []


@pytest.fixture
def work(refused: list[tuple[str, ErrorReply]], monkeypatch: pytest.MonkeyPatch) -> WaitingWork:
    for name, value in (("MAX_REQUESTS", 3), ("MAX_BYTES", 100), ("MAX_BYTES_IN_ALL", 150)):
        monkeypatch.setattr(waiting, name, value)
    return WaitingWork(lambda put, reply: refused.append((put.sender, reply)))


def test_of_each_peer_so_many_requests_wait_and_there_is_room_again_when_one_is_taken(work, refused) -> None:
    for _ in range(4):
        work.put(delivery())
    work.put(delivery(OTHER))
    assert [sender for sender, _ in refused] == [PEER]
    assert judge(refused[0][1]) is Judgement.NOT_READY, "a student asks again, and its lesson goes on"
    assert work.get().sender == PEER
    work.put(delivery())
    assert len(refused) == 1
    assert [work.get().sender for _ in range(4)] == [PEER, PEER, OTHER, PEER]


def test_the_octets_that_wait_are_bounded_for_each_peer_and_in_all(work, refused) -> None:
    work.put(delivery(size=60))
    work.put(delivery(size=60, body=AssessRequest(num_classes=2)))
    work.put(delivery(OTHER, size=91))
    assert [sender for sender, _ in refused] == [PEER, OTHER]
    work.put(delivery(OTHER, size=90))
    assert len(work.get().message.buffers[0]) == 60
    work.put(delivery(size=60))
    assert len(refused) == 2


def test_what_the_coordinator_wants_always_waits(work, refused) -> None:
    for _ in range(5):
        work.put(delivery(body=LeaveRequest()))
        work.put(delivery(body=TeachRequest(architecture=resolve("unet", 2, {}), weights="ab" * 32)))
    assert not refused
