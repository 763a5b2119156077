"""One student's side of a mutual lesson: what it hears is checked, weighed by Eq. 1, and given back."""

import queue
from pathlib import Path

import pytest
import torch
from reference import objectives as reference
from reference.losses import cross_entropy
from reference.tasks import mutual
from remembering import RememberingPost
from torch import Tensor

from agentkd.agents import mutual as mutual_module
from agentkd.agents.feeding import DatasetFeed
from agentkd.agents.mutual import MutualLesson, hand_over, speak, weights_digest
from agentkd.artifacts.run_folder import RunFolder
from agentkd.canonical import digest_bytes
from agentkd.errors import ArtifactNotFoundError, ContractError, RemoteAgentError, RemoteProtocolError, ReplyTimeoutError
from agentkd.exchange.pieces import Carrier
from agentkd.exchange.post import Delivery
from agentkd.knowledge import tensors
from agentkd.messages.bodies import (
    ErrorReply,
    KnowledgeKind,
    KnowledgeReply,
    KnowledgeRequest,
    PeerAddress,
    Piece,
    TaughtBy,
    TeacherMovedEvent,
)
from agentkd.messages.wire import Message
from agentkd.networks.build import build
from agentkd.training.batches import Batch

SAID_BY, OTHER = "ab" * 32, "cd" * 32
PEERS = [PeerAddress(agent=f"p{n}", endpoints=(f"tcp://127.0.0.1:{n}",), public_key=str(n) * 40) for n in (1, 2)]


def logits(seed: int) -> Tensor:
    return 2 * torch.randn(4, 5, 16, 16, generator=torch.Generator().manual_seed(seed))


class Table:
    """A lesson of as many students as widths, its post and its inbox; the student is at step 0."""

    def __init__(self, folder: Path, *widths: int, wait_s: float = 5.0) -> None:
        self.task = mutual(*widths, objectives=({"kind": "soft_targets", "temperature": 1.0},))
        self.feed, self.post, self.inbox = DatasetFeed(self.task), RememberingPost(), queue.Queue()
        self.folder = RunFolder(folder)
        self.keys = [partner.digest for partner in self.task.partner_tasks()]
        self.lesson = MutualLesson(
            self.task,
            self.feed,
            tuple(TaughtBy(weights=key, peer=peer) for key, peer in zip(self.keys, PEERS, strict=False)),
            folder=self.folder,
            post=self.post,  # type: ignore[arg-type]
            carrier=Carrier(self.post),  # type: ignore[arg-type]
            inbox=self.inbox,
            check=lambda: None,
            wait_s=wait_s,
        )
        network = build(self.task.architecture, seed=1)
        self.lesson.attend(network)
        self.digest = weights_digest(self.task.architecture, network)
        assert self.lesson.fetch(0) == ()

    def say(self, number: int, data: bytes, *, weights: str = SAID_BY) -> None:
        """Answers the request of that number."""
        piece = Piece(way="inline", size_bytes=len(data), sha256=digest_bytes(data))
        reply = KnowledgeReply(kind=KnowledgeKind.SOFT_TARGETS, weights=weights, piece=piece)
        self.inbox.put(Delivery(PEERS[number - 1].public_key, Message(reply, parent_id=number, buffers=(data,))))

    def terms(self, own: Tensor) -> dict[str, Tensor]:
        labels = self.feed.training_batch(0).labels
        hard = {"cross_entropy": cross_entropy(own, labels, 255).float()}
        return self.lesson.terms(hard, {"logits": own}, (), Batch(torch.zeros(4, 3, 32, 32), labels), 0.5)


def test_a_student_hears_all_others_and_weighs_them_by_alpha(tmp_path: Path) -> None:
    table = Table(tmp_path, 8, 10, 12)
    for number in (2, 1):
        table.say(number, speak({"logits": logits(number)}, "float32", 0.0, SAID_BY))
    terms = table.terms(logits(9))
    labels = table.feed.training_batch(0).labels
    o = {"temperature": 1.0, "resolution": "full", "standardize": False, "gate": "through", "scale_by_temperature_squared": True}
    teachers = [reference.Teacher(logits(number).double()) for number in (1, 2)]
    soft = reference.soft_targets(o, reference.Student(logits(9)), teachers, reference.Truth(labels, labels != 255))
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(
        {"cross_entropy": 0.3 * float(cross_entropy(logits(9), labels, 255)), "0.soft_targets": 0.7 * float(soft)}, rel=1e-5
    )
    asked = [(peer, body.weights, body.step) for peer, body, _ in table.post.said if isinstance(body, KnowledgeRequest)]
    assert asked == [(peer.public_key, key, 0) for peer, key in zip(PEERS, table.keys, strict=True)]
    summary = table.lesson.summary()
    assert summary.requests == 2 and summary.bytes_received > 2 * 4 * 5 * 16 * 16 * 4


def test_what_is_said_is_kept_and_names_the_weights_that_said_it(tmp_path: Path) -> None:
    table = Table(tmp_path, 8, 10)
    table.say(1, speak({"logits": logits(1)}, "float32", 0.0, SAID_BY))
    table.terms(logits(9))
    said = table.folder.said(table.task.digest, 0).read_bytes()
    assert tensors.read_metadata(said) == {"kind": "soft_targets", "weights": table.digest}
    assert torch.equal(tensors.decode(said)["logits"], logits(9))


def test_soft_targets_of_other_weights_than_the_answer_names_are_refused(tmp_path: Path) -> None:
    table = Table(tmp_path, 8, 10)
    table.say(1, speak({"logits": logits(1)}, "float32", 0.0, SAID_BY), weights=OTHER)
    with pytest.raises(ContractError, match="weights"):
        table.terms(logits(9))


@pytest.mark.parametrize("shape", [(3, 5, 16, 16), (4, 6, 16, 16), (4, 5, 16)])
def test_soft_targets_of_another_shape_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    table = Table(tmp_path, 8, 10)
    table.say(1, tensors.encode({"logits": torch.zeros(shape)}, {"weights": SAID_BY}))
    with pytest.raises(ContractError, match="logits"):
        table.terms(logits(9))


def test_soft_targets_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    table = Table(tmp_path, 8, 10)
    table.say(1, tensors.encode({"logits": torch.full((4, 5, 16, 16), torch.nan)}, {"weights": SAID_BY}))
    with pytest.raises(RemoteProtocolError, match="NaN"):
        table.terms(logits(9))


def test_a_partner_that_cannot_say_it_at_all_ends_the_lesson(tmp_path: Path) -> None:
    table = Table(tmp_path, 8, 10)
    refusal = ErrorReply(code="contract", remote_type="ContractError", text="why")
    table.inbox.put(Delivery(PEERS[0].public_key, Message(refusal, parent_id=1)))
    with pytest.raises(RemoteAgentError, match="why"):
        table.terms(logits(9))


def test_a_partner_that_has_ended_is_heard_from_what_it_left_behind(tmp_path: Path) -> None:
    table = Table(tmp_path, 8, 10)
    gone = ErrorReply(code=ArtifactNotFoundError.code, remote_type="ArtifactNotFoundError", text="over")
    table.inbox.put(Delivery(PEERS[0].public_key, Message(gone, parent_id=1)))
    left = table.folder.said(table.keys[0], 0)
    left.parent.mkdir(parents=True)
    left.write_bytes(speak({"logits": logits(1)}, "float32", 0.0, SAID_BY))
    assert set(table.terms(logits(9))) == {"cross_entropy", "0.soft_targets"}


def test_who_asks_is_answered_once_it_is_said_and_with_what_said_it(tmp_path: Path) -> None:
    table = Table(tmp_path, 8, 10)
    request = KnowledgeRequest(kind=KnowledgeKind.SOFT_TARGETS, weights=table.task.digest, step=0, ways=("inline",))
    table.inbox.put(Delivery(PEERS[0].public_key, Message(request, msg_id=5)))
    table.say(1, speak({"logits": logits(1)}, "float32", 0.0, SAID_BY))
    table.terms(logits(9))
    replies = [body for _, body, _ in table.post.said if isinstance(body, KnowledgeReply)]
    assert [reply.weights for reply in replies] == [table.digest]
    assert 5 in table.post.answered and table.folder.said(table.task.digest, 0).read_bytes() == bytes(table.post.sent_buffers[0])
    delivery = Delivery(PEERS[0].public_key, Message(request.model_copy(update={"step": 3}), msg_id=6))
    with pytest.raises(ArtifactNotFoundError):
        hand_over(table.folder.said(table.task.digest, 3), delivery, table.post, Carrier(table.post))  # type: ignore[arg-type]


def test_partners_are_let_go_when_the_lesson_is_over(tmp_path: Path) -> None:
    table = Table(tmp_path, 8, 10, 12)
    assert table.post.open == {peer.public_key for peer in PEERS}
    table.lesson.close()
    assert table.post.open == set()


def test_a_partner_that_moved_is_asked_where_it_is_now(tmp_path: Path) -> None:
    table = Table(tmp_path, 8, 10)
    new = PEERS[1]
    for weights in ("ef" * 32, table.keys[0], table.keys[0]):  # of no partner; where it is now; told twice
        table.inbox.put(Delivery("coordinator", Message(TeacherMovedEvent(weights=weights, peer=new))))
    data = speak({"logits": logits(1)}, "float32", 0.0, SAID_BY)
    table.say(1, data)  # by who is not there any more: not heard
    piece = Piece(way="inline", size_bytes=len(data), sha256=digest_bytes(data))
    reply = KnowledgeReply(kind=KnowledgeKind.SOFT_TARGETS, weights=SAID_BY, piece=piece)
    table.inbox.put(Delivery(new.public_key, Message(reply, parent_id=2, buffers=(data,))))
    table.terms(logits(9))
    assert [peer for peer, body, _ in table.post.said if isinstance(body, KnowledgeRequest)] == [
        PEERS[0].public_key,
        new.public_key,
    ]
    assert table.post.open == {new.public_key}


def test_nobody_inherits_from_a_partner(tmp_path: Path) -> None:
    table = Table(tmp_path, 8, 10)
    assert table.lesson.peek(0) == ()
    with pytest.raises(ArtifactNotFoundError):
        table.lesson.fetch_weights(SAID_BY)


def requested(table: Table, step: int, *, weights: str = "", number: int = 5) -> Delivery:
    body = KnowledgeRequest(kind=KnowledgeKind.SOFT_TARGETS, weights=weights or table.task.digest, step=step, ways=("inline",))
    return Delivery(PEERS[0].public_key, Message(body, msg_id=number))


def test_who_asks_too_early_is_answered_in_that_step_and_who_asks_for_another_student_never(tmp_path: Path) -> None:
    table = Table(tmp_path, 8, 10)

    def answered() -> int:
        return sum(isinstance(body, KnowledgeReply) for _, body, _ in table.post.said)

    table.inbox.put(requested(table, 1))
    table.inbox.put(requested(table, 1, weights=OTHER))
    table.inbox.put(requested(table, 0, weights=OTHER))
    table.say(1, speak({"logits": logits(1)}, "float32", 0.0, SAID_BY))
    table.terms(logits(9))
    assert answered() == 0
    table.lesson.fetch(1)
    asked = len(table.post.said) + 2  # after the answer to who asked too early
    data = speak({"logits": logits(1)}, "float32", 0.0, SAID_BY)
    reply = KnowledgeReply(
        kind=KnowledgeKind.SOFT_TARGETS,
        weights=SAID_BY,
        piece=Piece(way="inline", size_bytes=len(data), sha256=digest_bytes(data)),
    )
    table.inbox.put(Delivery(PEERS[0].public_key, Message(reply, parent_id=asked, buffers=(data,))))
    table.terms(logits(9))
    assert answered() == 1
    table.inbox.put(requested(table, 0))
    table.lesson.close()
    assert answered() == 2, "who still waits when it is over is answered"


def test_partners_that_stay_silent_are_given_up_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutual_module, "NOT_YET_S", 0.01)
    monkeypatch.setattr(mutual_module, "ASK_AGAIN_S", 0.02)
    table = Table(tmp_path, 8, 10, wait_s=0.15)
    with pytest.raises(ReplyTimeoutError, match="p1 did not answer step 0"):
        table.terms(logits(9))
    assert len(table.post.said) > 2, "it was asked again meanwhile"


def test_a_partner_that_is_nowhere_is_soon_looked_for_in_what_it_left_behind(tmp_path: Path) -> None:
    table = Table(tmp_path, 8, 10, wait_s=2.0)
    table.lesson._peers.clear()
    left = table.folder.said(table.keys[0], 0)
    left.parent.mkdir(parents=True)
    left.write_bytes(speak({"logits": logits(1)}, "float32", 0.0, SAID_BY))
    assert set(table.terms(logits(9))) == {"cross_entropy", "0.soft_targets"} and table.post.said == []
