"""What a student of a mutual lesson makes of what it hears: checked, and weighed by Eq. 1 as an independent reference says."""

import contextlib
import queue
from pathlib import Path

import pytest
import torch
from reference import objectives as reference
from reference.losses import cross_entropy
from reference.tasks import mutual
from remembering import RememberingPost
from torch import Tensor

from agentkd.agents.feeding import DatasetFeed
from agentkd.agents.mutual import MutualLesson, hand_over, speak, weights_digest
from agentkd.agents.saying import keep_said
from agentkd.artifacts.run_folder import RunFolder
from agentkd.canonical import digest_bytes
from agentkd.errors import ArtifactNotFoundError, ContractError, ExchangeError, RemoteProtocolError
from agentkd.exchange.pieces import Carrier
from agentkd.exchange.post import Delivery
from agentkd.exchange.sources import Parcel
from agentkd.knowledge import tensors
from agentkd.messages.bodies import (
    KnowledgeKind,
    KnowledgeReply,
    KnowledgeRequest,
    PeerAddress,
    Piece,
    TaughtBy,
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

    def __init__(self, folder: Path, *widths: int) -> None:
        self.task = mutual(*widths, objectives=({"kind": "soft_targets", "temperature": 1.0},))
        self.feed, self.post, self.inbox = DatasetFeed(self.task), RememberingPost(), queue.Queue()
        self.folder = RunFolder(folder)
        self.keys = [partner.key for partner in self.task.partner_tasks()]
        self.lesson = MutualLesson(
            self.task,
            self.feed,
            tuple(TaughtBy(weights=key, peer=peer) for key, peer in zip(self.keys, PEERS, strict=False)),
            folder=self.folder,
            post=self.post,  # type: ignore[arg-type]
            carrier=Carrier(self.post),  # type: ignore[arg-type]
            inbox=self.inbox,
            check=lambda: None,
            wait_s=5.0,
        )
        network = build(self.task.architecture, seed=1)
        self.lesson.attend(network)
        self.digest = weights_digest(self.task.architecture, network, self.feed.dataset.classes)

    def say(self, number: int, data: bytes, *, weights: str = SAID_BY) -> None:
        """Answers the request of that number."""
        piece = Piece(way="inline", size_bytes=len(data), sha256=digest_bytes(data))
        reply = KnowledgeReply(kind=KnowledgeKind.SOFT_TARGETS, weights=weights, piece=piece)
        self.inbox.put(Delivery(PEERS[number - 1].public_key, Message(reply, parent_id=number, buffers=(data,))))

    def terms(self, own: Tensor) -> dict[str, Tensor]:
        labels = self.feed.training_batch(0).labels
        hard = {"cross_entropy": cross_entropy(own, labels, 255).float()}
        heard = self.lesson.hear(0, {"logits": own})
        return self.lesson.terms(hard, {"logits": own}, heard, Batch(torch.zeros(4, 3, 32, 32), labels), 0.5)


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


def test_who_asks_is_answered_once_it_is_said_and_with_what_said_it(tmp_path: Path) -> None:
    table = Table(tmp_path, 8, 10)
    request = KnowledgeRequest(kind=KnowledgeKind.SOFT_TARGETS, weights=table.task.key, step=0, ways=("inline",))
    table.inbox.put(Delivery(PEERS[0].public_key, Message(request, msg_id=5)))
    table.say(1, speak({"logits": logits(1)}, "float32", 0.0, SAID_BY))
    table.terms(logits(9))
    replies = [body for _, body, _ in table.post.said if isinstance(body, KnowledgeReply)]
    assert [reply.weights for reply in replies] == [table.digest]
    delivery = Delivery(PEERS[0].public_key, Message(request.model_copy(update={"step": 3}), msg_id=6))
    with pytest.raises(ArtifactNotFoundError):
        hand_over(table.folder.said(table.task.key, 3), delivery, table.post, Carrier(table.post))  # type: ignore[arg-type]


@pytest.mark.parametrize("ways", [("inline",), ("shared",)])
def test_memory_for_what_is_handed_over_is_given_back_even_if_there_is_no_way(tmp_path: Path, ways: tuple[str, ...]) -> None:
    closed: list[Parcel] = []

    class Remembering(Parcel):
        def close(self) -> None:
            closed.append(self)

    class Inline(Carrier):
        def allocate(self, size_bytes: int) -> Parcel:
            return Remembering(size_bytes)

    place, post = tmp_path / "0.safetensors", RememberingPost()
    keep_said(place, speak({"logits": logits(1)}, "float32", 0.0, SAID_BY))
    request = KnowledgeRequest(kind=KnowledgeKind.SOFT_TARGETS, weights=OTHER, step=0, ways=ways)
    with pytest.raises(ExchangeError, match="no way in common") if ways == ("shared",) else contextlib.nullcontext():
        hand_over(place, Delivery(PEERS[0].public_key, Message(request, msg_id=5)), post, Inline(post))  # type: ignore[arg-type]
    assert len(closed) == 1 and len(post.said) == (ways == ("inline",))


def test_partners_are_let_go_when_the_lesson_is_over(tmp_path: Path) -> None:
    table = Table(tmp_path, 8, 10, 12)
    assert table.post.open == {peer.public_key for peer in PEERS}
    table.lesson.close()
    assert table.post.open == set()


def test_nobody_inherits_from_a_partner(tmp_path: Path) -> None:
    table = Table(tmp_path, 8, 10)
    assert table.lesson.peek(0) == ()
    with pytest.raises(ArtifactNotFoundError):
        table.lesson.fetch_weights(SAID_BY)
