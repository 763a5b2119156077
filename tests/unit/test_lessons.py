"""The student's side of an exchange, played against a post that only remembers: asking ahead, asking again, moving, refusing."""

import logging
import queue
from pathlib import Path
from typing import Any

import pytest
import torch
from experiments import SPEC
from remembering import RememberingPost

from agentkd.agents import interview, remote_lesson
from agentkd.agents.feeding import DatasetFeed
from agentkd.agents.interview import Interview, Line
from agentkd.agents.lessons import (
    Blend,
    DirectLesson,
    lesson_request,
    must_have_architecture,
    num_classes_of,
    request_digest,
    unpack,
)
from agentkd.agents.questions import WEIGHTS as OF_WEIGHTS
from agentkd.agents.questions import Conduct, Question, Questions
from agentkd.agents.recording import Recorder
from agentkd.agents.remote_lesson import ASK_AGAIN_S, STEPS_AHEAD, RemoteLesson
from agentkd.agents.work import Surroundings, execute
from agentkd.artifacts import recordings
from agentkd.artifacts.recordings import Told
from agentkd.artifacts.store import Store
from agentkd.canonical import digest_bytes
from agentkd.datasets.opening import open_dataset
from agentkd.errors import (
    ArtifactNotFoundError,
    ConfigError,
    ContractError,
    RemoteAgentError,
    RemoteProtocolError,
    ReplyTimeoutError,
    TaskCancelledError,
)
from agentkd.exchange.pieces import Carrier, Fetched
from agentkd.exchange.post import Delivery
from agentkd.knowledge import tensors
from agentkd.knowledge.images import normalized
from agentkd.knowledge.weights import encode_weights
from agentkd.messages.bodies import (
    ErrorReply,
    KnowledgeKind,
    KnowledgeReply,
    PeerAddress,
    Piece,
    TaughtBy,
    TeacherMovedEvent,
)
from agentkd.messages.wire import Message
from agentkd.networks.build import build
from agentkd.networks.families import resolve
from agentkd.objectives import Features, SoftTargets
from agentkd.recipe import Distillation, Recipe, ViewSettings
from agentkd.task import DataSource, Distill, TeacherReference
from agentkd.training.batches import Batch
from agentkd.training.loop import Knowledge

ARCHITECTURE = resolve("tiny_networks:tiny", 5)
DIGEST, OTHER = "ab" * 32, "cd" * 32
FIRST = PeerAddress(agent="first", endpoints=("tcp://127.0.0.1:1",), public_key="a" * 40)
SECOND = PeerAddress(agent="second", endpoints=("tcp://127.0.0.1:2",), public_key="b" * 40)


class Lending(Carrier):
    """A carrier that keeps count of what is lent."""

    num_lent = 0

    def fetch(self, *args: Any, **options: Any) -> Fetched:
        fetched = super().fetch(*args, **options)
        self.num_lent += 1

        def give_back() -> None:
            self.num_lent -= 1
            fetched.release()

        return Fetched(fetched.data, fetched.way, give_back)


class Table:
    """A lesson with one teacher, its post and its inbox."""

    def __init__(
        self, *, weights: str = DIGEST, peer: PeerAddress | None = FIRST, carrier: type[Carrier] | None = None, **settings: Any
    ) -> None:
        source = DataSource(spec=SPEC, content_digest=open_dataset(SPEC).digest)
        recipe = Recipe(epochs=2, batch_size=4, views=ViewSettings(crop_height=32, crop_width=32))
        teacher = TeacherReference(architecture=ARCHITECTURE, weights=weights)
        task = Distill(
            architecture=ARCHITECTURE,
            data=source,
            recipe=recipe,
            teachers=(teacher,),
            distillation=Distillation(),
        )
        self.task = task
        self.feed, self.post, self.inbox = DatasetFeed(task), RememberingPost(), queue.Queue()
        self.carrier = (carrier or Lending)(self.post)  # type: ignore[arg-type]
        self.lesson = RemoteLesson(
            task,
            self.feed,
            (TaughtBy(weights=weights, peer=peer),) if peer else (),
            post=self.post,  # type: ignore[arg-type]
            carrier=self.carrier,
            inbox=self.inbox,
            **{"check": lambda: None, "total_steps": 8, "obtain": lambda digest: b""} | settings,
        )

    def hear(self, step: int) -> Knowledge:
        return self.lesson.hear(step, {})

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
    table.hear(0)
    assert [request.views for _, request, _ in table.post.said] == [table.feed.views(step) for step in range(STEPS_AHEAD)]
    table.answer(2)
    table.hear(1)
    assert len(table.post.said) == STEPS_AHEAD + 1


def test_nothing_is_asked_beyond_the_last_step(table: Table) -> None:
    table.answer(1)
    table.hear(7)
    assert len(table.post.said) == 1


def test_answers_out_of_order_go_to_their_steps(table: Table) -> None:
    table.answer(2, value=2.0)
    table.answer(1, value=1.0)
    assert table.hear(0)[0]["logits"].unique().item() == 1.0
    assert table.hear(1)[0]["logits"].unique().item() == 2.0


class QuickTime:
    """A clock that is a quarter of a second later each time it is looked at."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 0.25
        return self.now


def test_a_silent_teacher_is_asked_again_and_then_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_lesson, "POLL_S", 0.0)
    monkeypatch.setattr(interview, "time", QuickTime())
    table = Table(wait_s=25.0)
    with pytest.raises(ReplyTimeoutError, match=r"first did not answer soft targets of step 0 within 25\.0 s"):
        table.hear(0)
    assert len(table.post.said) == 3 * STEPS_AHEAD


def test_a_teacher_that_moved_is_asked_where_it_is_now(table: Table) -> None:
    moved = TeacherMovedEvent(weights=DIGEST, peer=SECOND)
    table.inbox.put(Delivery("coordinator", Message(moved)))
    table.answer(1)
    table.answer(STEPS_AHEAD + 1, sender=SECOND.public_key, value=3.0)
    assert table.hear(0)[0]["logits"].unique().item() == 3.0
    assert table.post.open == {SECOND.public_key}
    assert [peer for peer, _, _ in table.post.said] == [FIRST.public_key] * STEPS_AHEAD + [SECOND.public_key] * STEPS_AHEAD


def test_an_answer_of_somebody_else_is_not_taken(table: Table) -> None:
    table.answer(1, sender="c" * 40, value=9.0)
    table.answer(1, value=1.0)
    assert table.hear(0)[0]["logits"].unique().item() == 1.0


def test_a_refused_contract_ends_the_lesson(table: Table) -> None:
    refusal = ErrorReply(code="contract", remote_type="ContractError", text="contract field 'dataset' differs")
    table.inbox.put(Delivery(FIRST.public_key, Message(refusal, parent_id=1)))
    with pytest.raises(RemoteAgentError, match="'dataset' differs"):
        table.hear(0)


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
        table.hear(0)


WEIGHTS = b"the teacher's weights"


def say_weights(table: Table, sender: str, content: bytes) -> None:
    piece = Piece(way="inline", size_bytes=len(content), sha256=digest_bytes(content))
    reply = KnowledgeReply(kind=KnowledgeKind.WEIGHTS, weights=digest_bytes(WEIGHTS), piece=piece)
    table.inbox.put(Delivery(sender, Message(reply, parent_id=1, buffers=(content,))))


def test_weights_come_from_their_teacher_alone() -> None:
    table = Table(weights=digest_bytes(WEIGHTS))
    say_weights(table, "c" * 40, b"forged")
    say_weights(table, FIRST.public_key, WEIGHTS)
    assert table.lesson.fetch_weights(digest_bytes(WEIGHTS)) == WEIGHTS
    assert table.carrier.num_lent == 0 and table.lesson.summary().bytes_received == len(WEIGHTS)
    assert [request.kind for _, request, _ in table.post.said] == [KnowledgeKind.WEIGHTS]


@pytest.mark.parametrize("damaged", [b"other bytes", b""])
def test_weights_have_the_digest_that_was_asked_for(damaged: bytes) -> None:
    table = Table(weights=digest_bytes(WEIGHTS))
    say_weights(table, FIRST.public_key, damaged)
    with pytest.raises(RemoteProtocolError, match="do not have the digest"):
        table.lesson.fetch_weights(digest_bytes(WEIGHTS))


def test_targets_damaged_on_the_way_are_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_lesson, "ASK_AGAIN_S", 0.0)
    table = Table()
    table.answer(1, value=9.0, sha256="0" * 64)
    table.answer(STEPS_AHEAD + 1, value=1.0)
    assert table.hear(0)[0]["logits"].unique().item() == 1.0
    assert table.post.said[STEPS_AHEAD][1].views == table.feed.views(0)


def test_what_was_peeked_at_is_heard_and_what_is_passed_over_is_given_back(table: Table) -> None:
    for number in (1, 2):
        table.answer(number, value=float(number))
    assert table.lesson.peek(0)[0]["logits"].unique().item() == 1.0
    assert table.hear(0)[0]["logits"].unique().item() == 1.0
    other = Table()
    other.answer(1)
    other.lesson.peek(0)
    other.answer(STEPS_AHEAD + 1, value=4.0)
    assert other.hear(4)[0]["logits"].unique().item() == 4.0
    assert other.carrier.num_lent == 1, "what was peeked at has been given back"


def test_what_is_lent_is_given_back_with_the_next_step_and_at_the_end(table: Table) -> None:
    for number in (2, 1, 3):
        table.answer(number)
    table.hear(0)
    assert table.carrier.num_lent == 2, "step 1 came first"
    table.hear(1)
    assert table.carrier.num_lent == 1
    table.hear(2)
    table.answer(4)
    table.answer(5, shape=(4, 6, 8, 8))
    with pytest.raises(ContractError):
        table.hear(4)
    assert table.carrier.num_lent == 0, "an answer that is wrong, and one that was passed over"
    last = Table()
    for number in (2, 1):
        last.answer(number)
    last.hear(0)
    last.lesson.close()
    assert last.carrier.num_lent == 0 and not last.post.open


def test_what_is_recorded_is_repeated_recorded_again_and_counted(tmp_path: Path) -> None:
    table, store = Table(), Store(tmp_path)
    piece = store.put(tensors.encode({"logits": torch.full((4, 5, 8, 8), 7.0, dtype=torch.float16)}))
    requests = [lesson_request(table.lesson._task, table.feed, table.lesson._task.teachers[0], step) for step in range(8)]
    recorded = {request_digest(request): Told(DIGEST, 99, request_digest(request), piece, 10, 0.5) for request in requests}
    repeating = Table(recorded=recorded, obtain=store.get, recorder=Recorder(tmp_path / "list.jsonl", store))
    assert [repeating.hear(step)[0]["logits"].unique().item() for step in range(2)] == [7.0, 7.0]
    told = repeating.lesson.summary()
    assert (told.requests, told.recorded, told.saved_s) == (0, 5, 2.5)
    assert [row.step for row in recordings.decode(store.get(told.record))] == [0, 1, 2, 3, 4]


def test_a_cancelled_task_waits_no_more() -> None:
    def check() -> None:
        raise TaskCancelledError(DIGEST)

    with pytest.raises(TaskCancelledError):
        Table(check=check).hear(0)


def test_who_dialed_this_agent_is_let_in_and_keeps_the_connection() -> None:
    guest, post = PeerAddress(agent="guest", endpoints=(), public_key="g" * 40), RememberingPost()
    questions = Questions({DIGEST: guest, OTHER: FIRST}, Conduct(wait_s=1.0), num_steps=1)
    line = Line(post, Carrier(post), queue.Queue(), lambda: None, 0.5)  # type: ignore[arg-type]
    made = Interview(questions, Table().lesson, line)
    assert [(peer.public_key, peer.may) for peer in post.admitted] == [(guest.public_key, ())]
    assert post.open == {guest.public_key, FIRST.public_key}
    made.close()
    assert post.open == {guest.public_key}


def test_a_teacher_without_the_dataset_is_sent_the_images(table: Table) -> None:
    refusal = ErrorReply(code="dataset", remote_type="DatasetError", text="has no dataset")
    table.inbox.put(Delivery(FIRST.public_key, Message(refusal, parent_id=1)))
    table.answer(STEPS_AHEAD + 1, value=2.0)
    assert table.hear(0)[0]["logits"].unique().item() == 2.0
    _, request, _ = table.post.said[-1]
    sent = normalized(tensors.decode(table.post.sent_buffers[0])["images"], ARCHITECTURE.normalization)
    assert request.views == () and torch.equal(sent, table.feed.training_batch(0).images)


def test_targets_that_are_no_numbers_end_the_lesson(table: Table) -> None:
    table.answer(1, value=float("nan"))
    with pytest.raises(RemoteProtocolError, match="NaN"):
        table.hear(0)


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


def test_what_was_heard_can_be_looked_at_before_it_is_used_and_is_counted_once(table: Table) -> None:
    table.answer(1, value=1.0, teacher_s=0.5, is_cached=True)
    assert table.lesson.peek(0)[0]["logits"].unique().item() == 1.0
    assert table.hear(0)[0]["logits"].unique().item() == 1.0
    table.answer(2, value=2.0, teacher_s=0.25)
    assert table.hear(1)[0]["logits"].unique().item() == 2.0
    summary = table.lesson.summary()
    assert (summary.requests, summary.teacher_s, summary.cached, summary.recorded) == (STEPS_AHEAD + 1, 0.75, 1, 0)
    assert summary.bytes_received == 2 * len(tensors.encode({"logits": torch.zeros(4, 5, 8, 8, dtype=torch.float16)}))
    assert summary.waited_s > 0 and (summary.record, summary.kept_s, summary.saved_s) == ("", 0.0, 0.0)


def test_a_request_is_the_same_whatever_the_step_and_however_its_answer_may_come() -> None:
    table = Table()
    first, other = (lesson_request(table.task, table.feed, table.task.teachers[0], step) for step in (0, 1))
    assert request_digest(first) == request_digest(first.model_copy(update={"ways": ("stream",), "step": 7}))
    assert request_digest(first) != request_digest(other), "other views"


def test_what_is_recorded_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_lesson, "POLL_S", 0.01)
    buffer = tensors.encode({"logits": torch.full((4, 5, 8, 8), 3.0, dtype=torch.float16)})
    plain = Table()
    first = lesson_request(plain.task, plain.feed, plain.task.teachers[0], 0)
    told = Told(DIGEST, 7, request_digest(first), "the piece", len(buffer), 0.5)
    obtained: list[str] = []
    table = Table(recorded={told.request: told}, obtain=lambda digest: obtained.append(digest) or buffer)
    assert table.hear(0)[0]["logits"].unique().item() == 3.0
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


def test_answers_that_came_while_the_student_computed_are_taken_before_anybody_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Standing:
        now = 100.0

        def monotonic(self) -> float:
            return self.now

    clock, table = Standing(), Table()
    monkeypatch.setattr(interview, "time", clock)
    table.answer(1)
    table.hear(0)
    clock.now += 2 * ASK_AGAIN_S
    table.answer(2, value=2.0)
    assert table.hear(1)[0]["logits"].unique().item() == 2.0
    assert len(table.post.said) == STEPS_AHEAD + 1, "the one question of another step"
    assert table.lesson.summary().waited_s == 0.0, "the time between two steps is the student's own"


def test_who_refuses_what_it_has_answered_is_not_listened_to(table: Table, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    table.answer(1)
    table.hear(0)
    refusal = ErrorReply(code="contract", remote_type="ContractError", text="too late")
    table.inbox.put(Delivery(FIRST.public_key, Message(refusal, parent_id=1)))
    table.answer(2, value=2.0)
    assert table.hear(1)[0]["logits"].unique().item() == 2.0 and "too late" not in caplog.text


def test_a_task_that_is_cancelled_while_an_answer_is_on_its_way_waits_no_more() -> None:
    is_fetching = False

    class Slow(Lending):
        def fetch(self, *args: Any, check: Any = lambda: None, **options: Any) -> Fetched:
            nonlocal is_fetching
            is_fetching = True
            check()
            return super().fetch(*args, **options)

    def check() -> None:
        if is_fetching:
            raise TaskCancelledError(DIGEST)

    table = Table(carrier=Slow, check=check)
    table.answer(1)
    with pytest.raises(TaskCancelledError):
        table.hear(0)


def test_what_nobody_teaches_must_be_recorded_and_weights_be_an_artifact() -> None:
    table = Table(peer=None, obtain=lambda digest: digest.encode())
    assert table.lesson.fetch_weights(DIGEST) == DIGEST.encode()
    with pytest.raises(ArtifactNotFoundError, match="soft targets of step 0 by abab"):
        table.hear(0)
    assert not table.post.said


def test_every_question_says_the_ways_by_which_its_answer_may_come(table: Table) -> None:
    asked = [(0, False), (0, True), (OF_WEIGHTS, False)]
    requests = [table.lesson.request(Question(DIGEST, step), has_images=has_images)[0] for step, has_images in asked]
    assert [request.ways for request in requests] == [table.carrier.ways] * 3 and len(table.carrier.ways) > 1


def test_what_may_be_lost_is_told_to_a_teacher_that_chooses_the_codec_alone(table: Table) -> None:
    def told(**fields: Any) -> float:
        task = table.task.replace(distillation=Distillation(max_kl=0.25, **fields))
        return lesson_request(task, table.feed, task.teachers[0], 0).max_kl

    assert (told(codec="auto"), told(codec="float16")) == (0.25, 0.0)


def test_who_is_to_be_built_here_needs_an_architecture() -> None:
    assert must_have_architecture(TeacherReference(architecture=ARCHITECTURE, weights=DIGEST)) == ARCHITECTURE
    with pytest.raises(ConfigError, match="teacher abababababab has no architecture here"):
        must_have_architecture(TeacherReference(architecture=None, weights=DIGEST))


def test_how_wide_projections_are_is_seen_in_the_step_that_is_heard_first(table: Table, tmp_path: Path) -> None:
    store, steps = Store(tmp_path), []
    weights = store.put(encode_weights(ARCHITECTURE, dict(build(ARCHITECTURE, seed=1).state_dict())))

    class Noting(DirectLesson):
        def peek(self, step: int) -> Knowledge:
            steps.append(step)
            return super().peek(step)

    task = table.task.replace(
        recipe=Recipe(epochs=1, batch_size=16, views=table.task.recipe.views),
        teachers=(TeacherReference(architecture=ARCHITECTURE, weights=weights),),
        distillation=Distillation(objectives=(Features({"body.2": "body.2"}),)),
    )
    cpu = torch.device("cpu")
    execute(task, Surroundings(store, cpu, lesson=lambda task, feed, _: Noting(task, feed, store=store, device=cpu)))
    assert steps == [0, 0], "looked at, and heard"


MALFORMED: dict[str, dict[str, torch.Tensor]] = {
    "no height": {"logits": torch.zeros(4, 5, 0, 8)},
    "no numbers in a codec": {"logits.int8": torch.zeros(4, 5, 0, 8, dtype=torch.int8), "logits.scale": torch.ones(4, 5, 1, 1)},
    "no top classes": {
        "logits.values": torch.zeros(4, 2, 0, 8),
        "logits.indices": torch.zeros(4, 2, 0, 8, dtype=torch.uint8),
        "logits.tail": torch.zeros(4, 1, 0, 8),
    },
    "fewer images": {"logits": torch.zeros(3, 5, 8, 8)},
    "more classes": {"logits": torch.zeros(4, 6, 8, 8)},
    "one dimension less": {"logits": torch.zeros(4, 5, 8)},
    "whole numbers": {"logits": torch.zeros(4, 5, 8, 8, dtype=torch.uint8)},
    "larger than the images": {"logits": torch.zeros(4, 5, 8, 900)},
    "something more": {"logits": torch.zeros(4, 5, 8, 8), "evil": torch.zeros(3)},
    "something called alike": {"logits": torch.zeros(4, 5, 8, 8), "logitsx": torch.zeros(3)},
    "nothing": {},
    "NaN": {"logits": torch.full((4, 5, 8, 8), float("nan"))},
}


@pytest.mark.parametrize("said", MALFORMED.values(), ids=MALFORMED)
def test_whatever_a_teacher_says_wrongly_is_told_with_its_name(table: Table, said: dict[str, torch.Tensor]) -> None:
    task, teacher = table.task, table.task.teachers[0]
    good = tensors.encode({"logits": torch.zeros(4, 5, 8, 8)})
    assert unpack(task, teacher, good)["logits"].shape == (4, 5, 8, 8)
    with pytest.raises((ContractError, RemoteProtocolError), match=f"teacher {teacher.weights[:12]} says"):
        unpack(task, teacher, tensors.encode(said) if said.keys() else tensors.encode({}))
    with pytest.raises(RemoteProtocolError, match=f"teacher {teacher.weights[:12]} says is no knowledge"):
        unpack(task, teacher, b"\x08" + bytes(7) + b"not json")
