"""One student's side of a mutual lesson: what it says, to whom, and what it hears from where."""

import itertools
import queue
from pathlib import Path

import pytest
import torch
from experiments import SPEC
from remembering import RememberingPost
from torch import Tensor

from agentkd.agents import interview, mutual
from agentkd.agents.feeding import DatasetFeed
from agentkd.agents.mutual import MutualLesson, speak, weights_digest
from agentkd.agents.saying import keep_said, read_said
from agentkd.artifacts.run_folder import RunFolder
from agentkd.canonical import digest_bytes
from agentkd.datasets.opening import open_dataset
from agentkd.errors import ContractError, RemoteAgentError, ReplyTimeoutError, StorageError
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
    ReleaseEvent,
    TaughtBy,
    TeacherMovedEvent,
)
from agentkd.messages.wire import Message
from agentkd.networks.build import build
from agentkd.networks.families import resolve
from agentkd.recipe import Distillation, Recipe, ViewSettings
from agentkd.task import DataSource, Mutual, Partner

MINE, ITS = (resolve("tiny_networks:tiny", 5, {"width": width}) for width in (8, 12))
FIRST = PeerAddress(agent="first", endpoints=("tcp://127.0.0.1:1",), public_key="a" * 40)
SECOND = PeerAddress(agent="second", endpoints=("tcp://127.0.0.1:2",), public_key="b" * 40)


class Desk:
    """A student with one partner."""

    def __init__(self, folder: Path, *, peer: PeerAddress | None = FIRST, wait_s: float = 10.0) -> None:
        source = DataSource(spec=SPEC, content_digest=open_dataset(SPEC).digest)
        recipe = Recipe(epochs=2, batch_size=4, views=ViewSettings(crop_height=32, crop_width=32))
        partners = (Partner(architecture=ITS, recipe=recipe, seed=2),)
        self.task = Mutual(
            architecture=MINE, data=source, recipe=recipe, distillation=Distillation(codec="float32"), partners=partners
        )
        (self.partner,) = self.task.partner_tasks()
        self.post, self.inbox, self.folder = RememberingPost(), queue.Queue(), RunFolder(folder)
        self.lesson = MutualLesson(
            self.task,
            DatasetFeed(self.task),
            (TaughtBy(weights=self.partner.key, peer=peer),) if peer else (),
            folder=self.folder,
            post=self.post,  # type: ignore[arg-type]
            carrier=Carrier(self.post),  # type: ignore[arg-type]
            inbox=self.inbox,
            check=lambda: None,
            wait_s=wait_s,
        )
        self.network = build(MINE, seed=1)
        self.lesson.attend(self.network)

    def hear(self, step: int = 0) -> Tensor:
        ((heard),) = self.lesson.hear(step, {"logits": torch.zeros(4, 5, 8, 8)})
        return heard["logits"]

    def answer(
        self, number: int, value: float, *, sender: str = FIRST.public_key, weights: str = "ab" * 32, sha256: str = ""
    ) -> None:
        data = said(value)
        piece = Piece(way="inline", size_bytes=len(data), sha256=sha256 or digest_bytes(data))
        reply = KnowledgeReply(kind=KnowledgeKind.SOFT_TARGETS, weights=weights, piece=piece)
        self.inbox.put(Delivery(sender, Message(reply, parent_id=number, buffers=(data,))))

    def refuse(self, number: int, code: str) -> None:
        self.inbox.put(Delivery(FIRST.public_key, Message(ErrorReply(code=code, text="no"), parent_id=number)))


def said(value: float) -> bytes:
    return speak({"logits": torch.full((4, 5, 8, 8), value)}, "float32", 0.0, "ab" * 32)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutual, "NOT_YET_S", 0.001)


def test_what_a_student_says_is_kept_with_the_digest_of_its_weights_before_anybody_is_asked(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.answer(1, 2.0)
    assert desk.hear().unique().item() == 2.0
    kept = read_said(desk.folder.said(desk.task.key, 0))
    assert tensors.read_metadata(kept)["weights"] == weights_digest(MINE, desk.network, open_dataset(SPEC).classes)
    ((peer, request, _),) = desk.post.said
    assert (peer, request.weights, request.step) == (FIRST.public_key, desk.partner.key, 0)
    assert request.ways == Carrier(desk.post).ways  # type: ignore[arg-type]


def test_an_answer_of_somebody_else_or_by_other_weights_is_not_heard(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.answer(1, 9.0, sender="c" * 40)
    desk.answer(1, 2.0)
    assert desk.hear().unique().item() == 2.0
    desk.answer(2, 2.0, weights="cd" * 32)
    with pytest.raises(ContractError, match="'weights' differs"):
        desk.hear(1)


def test_a_partner_that_is_not_ready_or_not_there_is_waited_for_and_its_folder_looked_into(tmp_path: Path) -> None:
    for desk in (Desk(tmp_path / "not there", peer=None), Desk(tmp_path / "not ready")):
        desk.refuse(1, "artifact")
        place = desk.folder.said(desk.partner.key, 0)
        place.parent.mkdir(parents=True)
        keep_said(place, said(4.0))
        assert desk.hear().unique().item() == 4.0
        assert desk.lesson.summary().bytes_received == 0


def test_what_lies_here_is_found_however_little_time_passes_between_two_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step_s in (0.0003, 0.0006, 0.0009):
        clock = itertools.count()
        monkeypatch.setattr(interview.time, "monotonic", lambda clock=clock, step_s=step_s: next(clock) * step_s)
        desk = Desk(tmp_path / str(step_s), wait_s=0.1)
        desk.refuse(1, "artifact")
        place = desk.folder.said(desk.partner.digest, 0)
        place.parent.mkdir(parents=True)
        keep_said(place, said(4.0))
        assert desk.hear().unique().item() == 4.0 and len(desk.post.said) == 1


def test_a_partner_that_never_comes_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(ReplyTimeoutError, match="partners did not answer soft targets of step 0"):
        Desk(tmp_path, peer=None, wait_s=0.01).hear()


def test_a_partner_that_moved_is_asked_where_it_is_now(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.inbox.put(Delivery("coordinator", Message(TeacherMovedEvent(weights=desk.partner.key, peer=SECOND))))
    desk.answer(1, 9.0)
    desk.answer(2, 3.0, sender=SECOND.public_key)
    assert desk.hear().unique().item() == 3.0
    assert desk.post.open == {SECOND.public_key}


def test_a_refusal_that_blames_the_task_ends_the_lesson(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.refuse(1, "contract")
    with pytest.raises(RemoteAgentError, match="first failed with contract"):
        desk.hear()


def test_a_partner_that_asks_early_is_answered_once_the_step_is_said(tmp_path: Path) -> None:
    desk = Desk(tmp_path)

    def ask(step: int, number: int) -> None:
        request = KnowledgeRequest(
            kind=KnowledgeKind.SOFT_TARGETS, weights=desk.task.key, step=step, ways=("inline",), codec="float32"
        )
        desk.inbox.put(Delivery(FIRST.public_key, Message(request, msg_id=number)))

    ask(1, 77)
    ask(0, 78)
    desk.answer(1, 2.0)
    desk.hear()
    assert desk.post.answered == [78], "step 1 has not been said yet"
    desk.answer(4, 2.0)  # to its fourth message: it has asked, answered, answered, and asks again
    desk.hear(1)
    assert desk.post.answered == [78, 77]
    ask(1, 79)
    desk.lesson.close()
    assert desk.post.answered == [78, 77, 79] and not desk.post.open


def test_who_asks_for_another_student_is_never_answered_and_who_still_waits_at_the_end_is(tmp_path: Path) -> None:
    desk = Desk(tmp_path)

    def ask(weights: str, number: int) -> None:
        request = KnowledgeRequest(kind=KnowledgeKind.SOFT_TARGETS, weights=weights, step=0, ways=("inline",), codec="float32")
        desk.inbox.put(Delivery(FIRST.public_key, Message(request, msg_id=number)))

    ask(desk.partner.key, 77)
    ask("cd" * 32, 78)
    desk.answer(1, 2.0)
    desk.hear()
    ask("cd" * 32, 79)
    ask(desk.task.key, 80)
    desk.lesson.close()
    assert desk.post.answered == [80]
    assert read_said(desk.folder.said(desk.task.key, 0)) == bytes(desk.post.sent_buffers[0])


def test_an_answer_that_was_damaged_on_the_way_is_asked_for_again_at_once(tmp_path: Path) -> None:
    desk = Desk(tmp_path, wait_s=0.5)
    desk.answer(1, 9.0, sha256="0" * 64)
    desk.answer(2, 2.0)
    assert desk.hear().unique().item() == 2.0 and len(desk.post.said) == 2


def test_what_concerns_somebody_else_is_overheard(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.inbox.put(Delivery(FIRST.public_key, Message(ReleaseEvent(leases=(1,)))))
    desk.answer(1, 2.0)
    assert desk.hear().unique().item() == 2.0 and not desk.post.answered


@pytest.mark.parametrize(
    ("error", "text"), [(OSError(28, "No space left on device"), "safetensors: the disk is full"), (OSError("torn"), ": torn;")]
)
def test_a_student_that_cannot_keep_what_it_says_ends_with_the_systems_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, text: str
) -> None:
    def full(place: Path, data: bytes) -> None:
        raise error

    desk = Desk(tmp_path)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match=text):
        desk.hear()
    assert not desk.post.said, "nobody is asked by who has not spoken"


def test_the_shortest_codec_is_chosen_by_what_the_others_may_lose() -> None:
    logits = torch.randn(4, 5, 8, 8, generator=torch.Generator().manual_seed(1))
    exact, rough = (len(speak({"logits": logits}, "auto", max_kl, "ab" * 32)) for max_kl in (0.0, 10.0))
    assert rough < 0.8 * exact
