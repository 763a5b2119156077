"""The student's side of an exchange, played against a post that only remembers: asking ahead, asking again, moving, refusing."""

import queue
import threading
from typing import Any

import pytest
import torch
from experiments import SPEC
from remembering import RememberingPost

from agentkd.agents import remote_lesson
from agentkd.agents.feeding import DatasetFeed
from agentkd.agents.lessons import Blend, lesson_request, num_classes_of, request_digest, unpack
from agentkd.agents.remote_lesson import STEPS_AHEAD, RemoteLesson
from agentkd.artifacts.recordings import Told
from agentkd.canonical import digest_bytes
from agentkd.datasets.opening import open_dataset
from agentkd.errors import ContractError, RemoteAgentError, RemoteProtocolError, ReplyTimeoutError
from agentkd.exchange.pieces import Carrier
from agentkd.exchange.post import Delivery
from agentkd.exchange.segments import SegmentPool
from agentkd.knowledge import tensors
from agentkd.messages.bodies import (
    ErrorReply,
    KnowledgeKind,
    KnowledgeReply,
    PeerAddress,
    Piece,
    ReleaseEvent,
    TaughtBy,
    TeacherMovedEvent,
)
from agentkd.messages.wire import Message
from agentkd.networks.families import resolve
from agentkd.objectives import SoftTargets
from agentkd.recipe import Distillation, Recipe, ViewSettings
from agentkd.task import DataSource, Task, TaskKind, TeacherReference
from agentkd.training.batches import Batch

ARCHITECTURE = resolve("tiny_networks:tiny", 5)
DIGEST, OTHER = "ab" * 32, "cd" * 32
FIRST = PeerAddress(agent="first", endpoints=("tcp://127.0.0.1:1",), public_key="a" * 40)
SECOND = PeerAddress(agent="second", endpoints=("tcp://127.0.0.1:2",), public_key="b" * 40)


class Table:
    """A lesson with one teacher, its post and its inbox."""

    def __init__(self, *, others: tuple[tuple[str, PeerAddress], ...] = (), **settings: Any) -> None:
        source = DataSource(spec=SPEC, content_digest=open_dataset(SPEC).digest)
        recipe = Recipe(epochs=2, batch_size=4, views=ViewSettings(crop_height=32, crop_width=32))
        taught = ((DIGEST, FIRST), *others)
        teachers = tuple(TeacherReference(architecture=ARCHITECTURE, weights=weights) for weights, _ in taught)
        settings |= {"wait_s": 0.1} if others else {}
        task = Task(
            kind=TaskKind.DISTILL,
            architecture=ARCHITECTURE,
            data=source,
            recipe=recipe,
            teachers=teachers,
            distillation=Distillation(),
        )
        self.task = task
        self.feed, self.post, self.inbox = DatasetFeed(task), RememberingPost(), queue.Queue()
        self.lesson = RemoteLesson(
            task,
            self.feed,
            tuple(TaughtBy(weights=weights, peer=peer) for weights, peer in taught),
            post=self.post,  # type: ignore[arg-type]
            carrier=Carrier(self.post),  # type: ignore[arg-type]
            inbox=self.inbox,
            check=lambda: None,
            total_steps=8,
            **{"obtain": lambda digest: b""} | settings,
        )

    def answer(
        self, number: int, *, sender: str = FIRST.public_key, value: float = 0.0, shape=(4, 5, 8, 8), sha256="", **changes: Any
    ) -> None:
        buffer = tensors.encode({"logits": torch.full(shape, value, dtype=torch.float16)})
        piece = Piece(way="inline", size_bytes=len(buffer), sha256=sha256 or digest_bytes(buffer))
        fields = {"kind": KnowledgeKind.SOFT_TARGETS, "weights": DIGEST, "piece": piece} | changes
        self.inbox.put(Delivery(sender, Message(KnowledgeReply(**fields), parent_id=number, buffers=(buffer,))))


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    monkeypatch.setattr(remote_lesson, "POLL_S", 0.01)
    return Table()


def test_the_views_of_the_next_steps_are_asked_for_ahead(table: Table) -> None:
    table.answer(1)
    table.lesson.fetch(0)
    assert [request.views for _, request, _ in table.post.said] == [table.feed.views(step) for step in range(STEPS_AHEAD)]
    table.answer(2)
    table.lesson.fetch(1)
    assert len(table.post.said) == STEPS_AHEAD + 1


def test_nothing_is_asked_beyond_the_last_step(table: Table) -> None:
    table.answer(1)
    table.lesson.fetch(7)
    assert len(table.post.said) == 1


def test_answers_out_of_order_go_to_their_steps(table: Table) -> None:
    table.answer(2, value=2.0)
    table.answer(1, value=1.0)
    assert table.lesson.fetch(0)[0]["logits"].unique().item() == 1.0
    assert table.lesson.fetch(1)[0]["logits"].unique().item() == 2.0


def test_a_silent_teacher_is_asked_again_and_then_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_lesson, "POLL_S", 0.01)
    monkeypatch.setattr(remote_lesson, "ASK_AGAIN_S", 0.02)
    table = Table(wait_s=0.2)
    with pytest.raises(ReplyTimeoutError, match="first did not answer soft targets of step 0"):
        table.lesson.fetch(0)
    assert len(table.post.said) > 2 * STEPS_AHEAD


def test_a_teacher_that_moved_is_asked_where_it_is_now(table: Table) -> None:
    moved = TeacherMovedEvent(weights=DIGEST, peer=SECOND)
    table.inbox.put(Delivery("coordinator", Message(moved)))
    table.answer(1)
    table.answer(STEPS_AHEAD + 1, sender=SECOND.public_key, value=3.0)
    assert table.lesson.fetch(0)[0]["logits"].unique().item() == 3.0
    assert table.post.open == {SECOND.public_key}
    assert [peer for peer, _, _ in table.post.said] == [FIRST.public_key] * STEPS_AHEAD + [SECOND.public_key] * STEPS_AHEAD


def test_an_answer_of_somebody_else_is_not_taken(table: Table) -> None:
    table.answer(1, sender="c" * 40, value=9.0)
    table.answer(1, value=1.0)
    assert table.lesson.fetch(0)[0]["logits"].unique().item() == 1.0


def test_a_refused_contract_ends_the_lesson(table: Table) -> None:
    refusal = ErrorReply(code="contract", remote_type="ContractError", text="contract field 'dataset' differs")
    table.inbox.put(Delivery(FIRST.public_key, Message(refusal, parent_id=1)))
    with pytest.raises(RemoteAgentError, match="'dataset' differs"):
        table.lesson.fetch(0)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"weights": OTHER}, ContractError),
        ({"shape": (4, 6, 8, 8)}, ContractError),
        ({"shape": (3, 5, 8, 8)}, ContractError),
        ({"value": float("nan")}, RemoteProtocolError),
    ],
)
def test_wrong_targets_are_never_used(table: Table, changes: dict, error: type) -> None:
    table.answer(1, **changes)
    with pytest.raises(error):
        table.lesson.fetch(0)


def test_weights_come_from_their_teacher_alone_and_have_their_digest(table: Table) -> None:
    data = b"the teacher's weights"
    digest = digest_bytes(data)
    table.lesson._peers = {digest: FIRST}

    def say(sender: str, number: int, content: bytes) -> None:
        piece = Piece(way="inline", size_bytes=len(content), sha256=digest_bytes(content))
        reply = KnowledgeReply(kind=KnowledgeKind.WEIGHTS, weights=digest, piece=piece)
        table.inbox.put(Delivery(sender, Message(reply, parent_id=number, buffers=(content,))))

    say("c" * 40, 1, b"forged")
    say(FIRST.public_key, 1, data)
    assert table.lesson.fetch_weights(digest) == data
    for damaged in (b"other bytes", b""):
        say(FIRST.public_key, len(table.post.said) + 1, damaged)
        with pytest.raises(RemoteProtocolError, match="do not have the digest"):
            table.lesson.fetch_weights(digest)


def test_targets_damaged_on_the_way_are_asked_for_again(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_lesson, "ASK_AGAIN_S", 0.02)
    table.answer(1, value=9.0, sha256="0" * 64)

    is_over = threading.Event()

    def answer_newest() -> None:
        while not is_over.wait(0.05):  # an answer may come just after it was asked for once more
            newest = max(number for _, request, number in table.post.said if request.views == table.feed.views(0))
            table.answer(newest, value=1.0)

    answering = threading.Thread(target=answer_newest)
    answering.start()
    try:
        assert table.lesson.fetch(0)[0]["logits"].unique().item() == 1.0
    finally:
        is_over.set()
        answering.join()


def test_a_teacher_without_the_dataset_is_sent_the_images(table: Table) -> None:
    refusal = ErrorReply(code="dataset", remote_type="DatasetError", text="has no dataset")
    table.inbox.put(Delivery(FIRST.public_key, Message(refusal, parent_id=1)))
    table.answer(STEPS_AHEAD + 1, value=2.0)
    assert table.lesson.fetch(0)[0]["logits"].unique().item() == 2.0
    _, request, _ = table.post.said[-1]
    sent = tensors.decode(table.post.sent_buffers[0])["images"]
    assert request.views == () and torch.equal(sent, table.feed.training_batch(0).images)


def test_targets_that_are_no_numbers_end_the_lesson(table: Table) -> None:
    table.answer(1, value=float("nan"))
    with pytest.raises(RemoteProtocolError, match="NaN"):
        table.lesson.fetch(0)


def test_the_weight_of_an_objective_follows_its_schedule() -> None:
    reference = TeacherReference(architecture=ARCHITECTURE, weights=DIGEST)
    logits = torch.randn(2, 5, 4, 4, generator=torch.Generator().manual_seed(1))
    batch = Batch(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long))

    def term(schedule: str, progress: float) -> float:
        distillation = Distillation(objectives=(SoftTargets(schedule=schedule),))
        blend = Blend(distillation, open_dataset(SPEC), (reference,))
        return blend.terms({}, {"logits": logits}, ({"logits": logits.flip(1)},), batch, progress)["0.soft_targets"].item()

    assert term("constant", 0.25) > 0
    assert term("fall", 0.25) == pytest.approx(0.75 * term("constant", 0.25))
    assert term("rise", 0.0) == 0


def test_what_teachers_lent_is_given_back_once_the_next_step_begins_and_when_the_lesson_ends(table: Table) -> None:
    pool = SegmentPool()
    buffer = tensors.encode({"logits": torch.zeros(4, 5, 8, 8, dtype=torch.float16)})
    for number in (2, 3, 1):
        segment = pool.take(len(buffer))
        segment.view[: len(buffer)] = buffer
        table.answer(number, piece=Piece(way="shared", size_bytes=len(buffer), handle=pool.lease("student", segment)))
        pool.give(segment)

    def given_back() -> list[int]:
        return [lease for _, body, _ in table.post.said if isinstance(body, ReleaseEvent) for lease in body.leases]

    table.lesson.fetch(0)
    assert given_back() == [], "what is in use is not given back"
    table.lesson.fetch(1)
    assert given_back() == [3]
    table.lesson.close()
    assert sorted(given_back()) == [1, 2, 3] and table.post.open == set()
    pool.close()


def test_what_was_heard_can_be_looked_at_before_it_is_used_and_is_counted_once(table: Table) -> None:
    table.answer(1, value=1.0, teacher_s=0.5, is_cached=True)
    assert table.lesson.peek(0)[0]["logits"].unique().item() == 1.0
    assert table.lesson.fetch(0)[0]["logits"].unique().item() == 1.0
    table.answer(2, value=2.0, teacher_s=0.25)
    assert table.lesson.fetch(1)[0]["logits"].unique().item() == 2.0
    summary = table.lesson.summary()
    assert (summary.requests, summary.teacher_s, summary.cached, summary.recorded) == (STEPS_AHEAD + 1, 0.75, 1, 0)
    assert summary.bytes_received == 2 * len(tensors.encode({"logits": torch.zeros(4, 5, 8, 8, dtype=torch.float16)}))
    assert summary.waited_s > 0


def test_what_is_recorded_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_lesson, "POLL_S", 0.01)
    buffer = tensors.encode({"logits": torch.full((4, 5, 8, 8), 3.0, dtype=torch.float16)})
    plain = Table()
    first = lesson_request(plain.task, plain.feed, plain.task.teachers[0], 0)
    told = Told(DIGEST, 7, request_digest(first), "the piece", len(buffer), 0.5)
    obtained: list[str] = []
    table = Table(recorded={told.request: told}, obtain=lambda digest: obtained.append(digest) or buffer)
    assert table.lesson.fetch(0)[0]["logits"].unique().item() == 3.0
    assert obtained == ["the piece"] and [request.views for _, request, _ in table.post.said] == [
        table.feed.views(step) for step in range(1, STEPS_AHEAD)
    ]
    summary = table.lesson.summary()
    assert (summary.recorded, summary.saved_s, summary.requests) == (1, 0.5, STEPS_AHEAD - 1)


def blended(**fields: Any) -> dict[str, float]:
    """The terms of a loss whose hard part is 10 and 100, a discriminator's 1000, beside one teacher's logits."""
    reference = TeacherReference(architecture=ARCHITECTURE, weights=DIGEST)
    logits = torch.randn(2, 5, 4, 4, generator=torch.Generator().manual_seed(1))
    batch = Batch(torch.zeros(2, 3, 4, 4), torch.tensor([[[0] * 4] * 4, [[255] * 4] * 4]))
    blend = Blend(Distillation.model_validate(fields), open_dataset(SPEC), (reference,))
    hard = {"main": torch.tensor(10.0), "aux": torch.tensor(100.0), "discriminator": torch.tensor(1000.0)}
    terms = blend.terms(hard, {"logits": logits}, ({"logits": logits.flip(1)},), batch, 0.25)
    return {name: term.item() for name, term in terms.items()}


def test_alpha_weighs_the_labels_and_what_is_left_of_one_the_soft_targets_alone() -> None:
    soft, dist = {"kind": "soft_targets", "weight": 2.0}, {"kind": "dist", "weight": 3.0}
    by_three, by_eight = (blended(alpha=alpha, objectives=[soft, dist]) for alpha in (0.3, 0.8))
    assert list(by_three) == ["main", "aux", "discriminator", "0.soft_targets", "1.dist"]
    assert (by_three["main"], by_three["aux"], by_three["discriminator"]) == pytest.approx((3.0, 30.0, 1000.0))
    assert by_three["0.soft_targets"] / by_eight["0.soft_targets"] == pytest.approx(0.7 / 0.2)
    assert by_three["1.dist"] == by_eight["1.dist"] > 0
    plain = blended(alpha=0.3, objectives=[{"kind": "soft_targets"}, {"kind": "dist"}])
    assert by_three["0.soft_targets"] == pytest.approx(2 * plain["0.soft_targets"])
    assert by_three["1.dist"] == pytest.approx(3 * plain["1.dist"])


def test_the_hard_loss_is_the_familys_or_plain_cross_entropy_or_none() -> None:
    logits = torch.randn(2, 5, 4, 4, generator=torch.Generator().manual_seed(1))
    plain = torch.nn.functional.cross_entropy(logits[:1], torch.zeros(1, 4, 4, dtype=torch.long)).item()
    found = blended(alpha=0.3, hard_loss="cross_entropy")
    assert list(found) == ["cross_entropy", "0.soft_targets"] and found["cross_entropy"] == pytest.approx(0.3 * plain)
    without, with_labels = blended(alpha=0.0, hard_loss="none"), blended(alpha=0.0)
    assert list(without) == ["discriminator", "0.soft_targets"] and without["discriminator"] == 1000.0
    assert without["0.soft_targets"] != with_labels["0.soft_targets"], "without labels the ignored pixels count too"


def test_a_teachers_classes_come_in_the_students_order_which_is_not_its_own_inverse(table: Table) -> None:
    logits = torch.arange(7, dtype=torch.float32)[None, :, None, None].expand(4, 7, 2, 2).contiguous()
    wide = resolve("tiny_networks:tiny", 7)
    teacher = TeacherReference(architecture=wide, weights=DIGEST, class_order=(1, 2, 0, 6, 4))
    found = unpack(table.task, teacher, tensors.encode({"logits": logits}))["logits"]
    assert found[0, :, 0, 0].tolist() == [1, 2, 0, 6, 4] and num_classes_of(table.task, teacher) == 7
    alike = TeacherReference(architecture=wide, weights=DIGEST)
    assert num_classes_of(table.task, alike) == 5
    with pytest.raises(ContractError, match="logits"):
        unpack(table.task, alike, tensors.encode({"logits": logits}))


def test_each_image_is_taught_by_who_teaches_its_part_and_a_part_without_a_teacher_is_refused() -> None:
    teachers = tuple(
        TeacherReference(architecture=ARCHITECTURE, weights=w, parts=p) for w, p in ((DIGEST, (2,)), (OTHER, (0, 1)))
    )
    data = open_dataset(f"joined:{SPEC}|{SPEC}|{SPEC}|{SPEC}")
    blend = Blend(Distillation(), data, teachers)
    first = {part: data.splits["train"][16 * part] for part in range(4)}
    assert [data.part(index) for index in first.values()] == [0, 1, 2, 3]

    def chosen(*parts: int) -> list[int]:
        batch = Batch(torch.zeros(1), torch.zeros(1), tuple((first[part], 7) for part in parts))
        return blend._teachers_by_part(batch).tolist()

    assert chosen(2, 0, 1, 2) == [0, 1, 1, 0]
    with pytest.raises(ContractError, match="each part needs a teacher"):
        chosen(2, 3)


def test_a_teacher_that_does_not_listen_is_let_in_to_dial_and_keeps_its_connection() -> None:
    post, silent = RememberingPost(), FIRST.model_copy(update={"endpoints": ()})
    remote_lesson.reach(post, silent)  # type: ignore[arg-type]
    remote_lesson.reach(post, SECOND)  # type: ignore[arg-type]
    assert post.admitted == [("first", FIRST.public_key, ())] and post.open == {FIRST.public_key, SECOND.public_key}
    for peer in (silent, SECOND):
        remote_lesson.part(post, peer)  # type: ignore[arg-type]
    assert post.open == {FIRST.public_key}


def test_only_what_was_asked_of_the_teacher_that_moved_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_lesson, "POLL_S", 0.01)
    table = Table(others=((OTHER, SECOND),))
    third = PeerAddress(agent="third", endpoints=("tcp://127.0.0.1:4",), public_key="d" * 40)
    table.inbox.put(Delivery("coordinator", Message(TeacherMovedEvent(weights=OTHER, peer=third))))
    with pytest.raises(ReplyTimeoutError, match="first, third did not answer"):
        table.lesson.fetch(0)
    asked = [peer for peer, _, _ in table.post.said]
    assert [asked.count(peer.public_key) for peer in (FIRST, SECOND, third)] == [STEPS_AHEAD] * 3
    assert table.post.open == {FIRST.public_key, third.public_key}
