"""Recorded lessons: what is kept, what is found again and by whom, what is dropped first, and what survives a killed student."""

import queue
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from experiments import SPEC
from safetensors.numpy import load, save

from agentkd.agents import recording
from agentkd.agents.feeding import DatasetFeed
from agentkd.agents.lessons import lesson_request, request_digest
from agentkd.agents.recording import Recorder, recorded
from agentkd.agents.remote_lesson import RemoteLesson
from agentkd.agents.teaching import Teacher
from agentkd.agents.work import Surroundings, execute
from agentkd.artifacts import recordings
from agentkd.artifacts.recordings import Recordings, Told
from agentkd.artifacts.run_folder import RunFolder
from agentkd.artifacts.store import Store
from agentkd.datasets.opening import open_dataset
from agentkd.errors import ArtifactError, StorageError
from agentkd.exchange.pieces import Carrier
from agentkd.exchange.post import Delivery
from agentkd.knowledge.weights import encode_weights
from agentkd.messages.bodies import KnowledgeReply, KnowledgeRequest, PeerAddress, Piece, TaughtBy
from agentkd.messages.wire import Message
from agentkd.names import Digest
from agentkd.networks.build import build
from agentkd.networks.families import resolve
from agentkd.recipe import Distillation, Recipe, ViewSettings
from agentkd.task import DataSource, Distill, ExchangeSummary, Status, Task, TaskResult, TeacherReference, Train
from agentkd.training.loop import Hooks

ARCHITECTURE = resolve("tiny_networks:tiny", 5)
TEACHER = TeacherReference(architecture=ARCHITECTURE, weights="ab" * 32)
VIEWS = ViewSettings(crop_height=32, crop_width=32)


def lesson(**changes: object) -> Distill:
    fields: dict[str, object] = {
        "architecture": ARCHITECTURE,
        "data": DataSource(spec=SPEC, content_digest=open_dataset(SPEC).digest),
        "recipe": Recipe(epochs=2, batch_size=4, views=VIEWS),
        "view_seed": 7,
        "teachers": (TEACHER,),
        "distillation": Distillation(),
    }
    return Distill.model_validate(fields | changes)


def told(step: int, piece: str = "", size: int = 100) -> Told:
    return Told(TEACHER.weights, step, f"{step:064x}", piece or f"{step + 1:064x}", size, 0.25)


def taught(task: Task, store: Store, data: list[bytes], epochs: int = 2) -> TaskResult:
    rows = [told(step, store.put(piece), len(piece)) for step, piece in enumerate(data)]
    record = store.put(recordings.encode(rows))
    return TaskResult(status=Status.COMPLETED, epochs=epochs, exchange=ExchangeSummary(record=record, saved_s=3.0, kept_s=1.0))


def test_a_recording_is_read_as_it_was_written_and_damage_is_named() -> None:
    rows = (told(0), told(1))
    assert recordings.decode(recordings.encode(reversed(rows))) == rows
    assert recordings.decode(recordings.encode(())) == ()
    for damaged in (b"", b"nonsense", recordings.encode(rows)[:-1]):
        with pytest.raises(ArtifactError, match="no recording"):
            recordings.decode(damaged)


def test_only_the_same_questions_to_the_same_weights_are_answered_from_a_recording(tmp_path: Path) -> None:
    store, first = Store(tmp_path), lesson()
    known = Recordings(store)
    result = taught(first, store, [b"one", b"two"])
    for record in ("", "ef" * 32):
        known.note(first, TaskResult(status=Status.COMPLETED, exchange=ExchangeSummary(record=record)))
    known.note(first, TaskResult(status=Status.COMPLETED))
    known.note(Train(architecture=ARCHITECTURE, data=first.data), result)
    assert known.report().num_lessons == 0, "it has none, it is not here, or it is of no lesson"
    known.note(first, result)
    assert result.exchange
    same = ((result.exchange.record,), frozenset({TEACHER.weights}))
    assert known.find(first) == known.find(lesson(seed=9, architecture=resolve("tiny_networks:other", 5))) == same
    assert known.find(lesson(recipe=Recipe(epochs=3, batch_size=4, views=VIEWS))) == (same[0], frozenset()), (
        "epoch 3 is asked live"
    )
    for other in (
        lesson(teachers=(TeacherReference(architecture=ARCHITECTURE, weights="cd" * 32),)),
        lesson(view_seed=8),
        lesson(distillation=Distillation(codec="int8")),
        lesson(recipe=Recipe(epochs=2, batch_size=8, views=VIEWS)),
        lesson(recipe=Recipe(epochs=2, batch_size=4)),
        Train(architecture=ARCHITECTURE, data=first.data, recipe=first.recipe, view_seed=7),
    ):
        assert known.find(other) == ((), frozenset())


def test_a_request_has_another_digest_after_one_changed_weight_view_seed_or_codec() -> None:
    def digest(task: Task, step: int = 0) -> str:
        return request_digest(lesson_request(task, DatasetFeed(task), task.teachers[0], step))

    other = TeacherReference(architecture=ARCHITECTURE, weights="ab" * 31 + "ac")
    changed = [lesson(teachers=(other,)), lesson(view_seed=8), lesson(distillation=Distillation(codec="int8"))]
    assert digest(lesson()) == digest(lesson(seed=5))
    assert len({digest(task) for task in (lesson(), *changed)} | {digest(lesson(), step=1)}) == 5


def test_the_oldest_lessons_are_dropped_first_but_not_one_that_is_in_use_or_shares_a_piece(tmp_path: Path) -> None:
    store = Store(tmp_path)
    known = Recordings(store, max_bytes=250)
    tasks = [lesson(view_seed=seed) for seed in range(3)]
    results = [taught(task, store, [bytes([seed]) * 100, b"shared" * 10]) for seed, task in enumerate(tasks)]
    records = [result.exchange.record for result in results if result.exchange]
    for task, result in zip(tasks, results, strict=True):
        known.note(task, result)
    assert known.size_bytes == 360, "the piece that all share counts once"
    assert known.collect(in_use=records[:1]) == (records[1], records[2]) and known.find(tasks[0])[1]
    known.note(tasks[2], results[2])
    assert known.report().num_dropped == 3 and not known.find(tasks[2])[0], "its pieces are gone"
    assert store.get(records[1]) and known.report().num_pieces == 2 and known.size_bytes == 160
    report = known.report()
    assert report.pays and report.saved_s == 12.0 and "recording pays" in str(report)


def test_a_recording_with_a_hole_answers_what_it_has_but_spares_no_teacher(tmp_path: Path) -> None:
    store, task = Store(tmp_path), lesson()
    known = Recordings(store)
    rows = [told(step, store.put(bytes([step])), 1) for step in (0, 2)]
    exchange = ExchangeSummary(record=store.put(recordings.encode(rows)))
    known.note(task, TaskResult(status=Status.COMPLETED, epochs=2, exchange=exchange))
    assert known.find(task) == ((exchange.record,), frozenset())


def test_a_recorder_goes_on_after_its_student_was_killed(tmp_path: Path) -> None:
    store, index = Store(tmp_path / "store"), tmp_path / "lesson.jsonl"
    killed = Recorder(index, store)
    killed.keep(told(0, piece=""), b"first")
    killed.close()
    with index.open("a", encoding="utf-8") as file:
        file.write('{"weights": "half a li')
    again = Recorder(index, store)
    again.keep(told(0), b"told once more, which changes nothing")
    again.keep(told(1), b"second")
    again.keep(told(1), b"so does this")
    rows = recordings.decode(store.get(again.finish()))
    assert [(row.step, store.get(row.piece)) for row in rows] == [(0, b"first"), (1, b"second")]


def test_a_piece_that_is_listed_and_not_stored_is_told_again_or_is_a_hole(tmp_path: Path) -> None:
    store, index = Store(tmp_path / "store"), tmp_path / "lesson.jsonl"
    before = Recorder(index, store)
    for step in range(3):
        before.keep(told(step), b"piece %d" % step)
    before.close()
    for step in (0, 2):
        store.path(recordings.read_list(index).told[step].piece).unlink()
    again = Recorder(index, store)
    again.keep(told(2), b"piece 2")
    rows = recordings.decode(store.get(again.finish()))
    assert [(row.step, store.get(row.piece)) for row in rows] == [(1, b"piece 1"), (2, b"piece 2")]


def test_what_cannot_be_written_is_said_when_it_is_to_be_secured(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("where a folder should be", encoding="utf-8")
    recorder = Recorder(tmp_path / "file" / "lesson.jsonl", Store(tmp_path / "store"))
    recorder.keep(told(0), b"piece")
    with pytest.raises(StorageError, match=r"lesson\.jsonl"):
        recorder.secure()
    recorder.close()


def test_what_was_servedof_a_task_that_has_ended_is_removed_with_its_checkpoint(tmp_path: Path) -> None:
    folder, task = RunFolder(tmp_path), "ab" * 32
    folder.checkpoints.mkdir()
    for path in (folder.checkpoint(task), folder.lesson(task)):
        path.write_bytes(b"")
    folder.clear(task)
    assert not list(folder.checkpoints.iterdir())


class Killed(Exception):
    pass


class Answering:
    """A post whose only peer is a teacher that answers at once."""

    endpoint = "tcp://127.0.0.1:1"

    def __init__(self, teacher: Teacher) -> None:
        self.teacher, self.inbox, self.num_sent = teacher, queue.Queue(), 0

    def connect(self, address: PeerAddress) -> None: ...
    def disconnect(self, public_key: str) -> None: ...

    def send(self, peer: str, body: KnowledgeRequest, buffers: tuple[bytes, ...] = ()) -> int:
        self.num_sent += 1
        parcel = self.teacher.answer(body).parcel
        piece = Piece(way="inline", size_bytes=parcel.size_bytes, sha256=parcel.sha256)
        reply = KnowledgeReply(kind=body.kind, weights=body.weights, piece=piece)
        self.inbox.put(Delivery(peer, Message(reply, parent_id=self.num_sent, buffers=(bytes(parcel.view),))))
        return self.num_sent


class Classroom:
    """A recorded distillation of eight steps in this process; every attempt saves a checkpoint after each step."""

    def __init__(self, folder: Path) -> None:
        self.folder = RunFolder(folder)
        stored = encode_weights(ARCHITECTURE, dict(build(ARCHITECTURE, seed=1).state_dict()))
        weights = self.folder.store.put(stored)
        self.task = lesson(teachers=(TeacherReference(architecture=ARCHITECTURE, weights=weights),))
        self.teacher = Teacher(ARCHITECTURE, weights, self.task.data, stored=stored, device=torch.device("cpu"))

    def attempt(self, folder: RunFolder, recorder: Recorder, on_step: Callable[[int], None] = lambda step: None) -> TaskResult:
        lessons: list[RemoteLesson] = []

        def make(task: Distill, feed: DatasetFeed, steps: int) -> RemoteLesson:
            post = Answering(self.teacher)
            peer = PeerAddress(agent="teacher", endpoints=("tcp://127.0.0.1:2",), public_key="a" * 40)
            taught_by = (TaughtBy(weights=self.teacher.weights, peer=peer),)
            carrier = Carrier(post)  # type: ignore[arg-type]
            given = RemoteLesson(
                task,
                feed,
                taught_by,
                post=post,  # type: ignore[arg-type]
                carrier=carrier,
                inbox=post.inbox,
                check=lambda: None,
                total_steps=steps,
                obtain=folder.store.get,
                recorder=recorder,
            )
            lessons.append(given)
            return given

        at = Surroundings(
            self.folder.store,
            torch.device("cpu"),
            checkpoint=folder.checkpoint(self.task.key),
            hooks=Hooks(on_step=lambda step, steps, loss: on_step(step)),
            lesson=make,
            checkpoint_every_s=0.0,
        )
        try:
            return execute(self.task, at)
        finally:
            for given in lessons:
                given.close()

    def steps_of(self, result: TaskResult) -> list[int]:
        assert result.exchange
        return [row.step for row in recordings.decode(self.folder.store.get(result.exchange.record))]


def test_a_kill_between_checkpoint_and_recorder_leaves_no_gap(tmp_path: Path) -> None:
    room, left = Classroom(tmp_path / "run"), RunFolder(tmp_path / "left by the kill")
    whole = room.attempt(RunFolder(tmp_path / "whole"), Recorder(tmp_path / "whole.jsonl", room.folder.store))
    may_write = threading.Event()

    class Slow(Store):
        def put(self, data: bytes) -> str:
            may_write.wait(timeout=60)
            return super().put(data)

    class Late(Recorder):
        """Has written nothing, unless somebody waits for it."""

        def secure(self) -> None:
            may_write.set()
            super().secure()
            may_write.clear()

    def kill(step: int) -> None:
        if step == 6:
            for thread in threading.enumerate():
                if thread.name == "agentkd-checkpoint":
                    thread.join(60)
            shutil.copytree(room.folder.checkpoints, left.checkpoints)
            may_write.set()
            raise Killed

    with pytest.raises(Killed):
        room.attempt(room.folder, Late(room.folder.lesson(room.task.key), Slow(room.folder.store.place)), kill)
    steps: list[int] = []
    again = room.attempt(left, Recorder(left.lesson(room.task.key), room.folder.store), steps.append)
    assert steps == [6, 7, 8], "the checkpoint was of step 5"
    assert room.steps_of(again) == room.steps_of(whole) == list(range(8))
    assert again.weights == whole.weights


def test_a_kill_between_the_end_of_a_lesson_and_its_commit_loses_nothing_of_the_recording(tmp_path: Path) -> None:
    room = Classroom(tmp_path / "run")
    first, second = (room.attempt(room.folder, Recorder(room.folder.lesson(room.task.key), room.folder.store)) for _ in range(2))
    assert room.steps_of(first) == room.steps_of(second) == list(range(8))


def test_recordings_are_found_by_request(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = store.put(recordings.encode([told(0), told(1)]))
    assert recorded([record], store)[f"{1:064x}"] == told(1)


def test_a_recording_whose_columns_differ_in_length_is_refused() -> None:
    columns = load(recordings.encode([told(0), told(1)]))
    for name in columns:
        with pytest.raises(ArtifactError, match="no recording"):
            recordings.decode(save({**columns, name: columns[name][:1]}))
        with pytest.raises(ArtifactError, match="no recording"):
            recordings.decode(save({other: column for other, column in columns.items() if other != name}))


def test_as_much_as_is_allowed_may_be_kept(tmp_path: Path) -> None:
    store, task = Store(tmp_path), lesson()
    for limit, dropped in ((200, 0), (199, 1)):
        known = Recordings(store, max_bytes=limit)
        known.note(task, taught(task, store, [b"a" * 100, b"b" * 100]))
        assert (known.size_bytes, len(known.collect())) == (200, dropped)


def test_recording_pays_if_it_saves_more_than_it_takes() -> None:
    report = recordings.RecordingReport(2, 3, 2_500_000, 4_000_000, 1, 5, saved_s=2.0, kept_s=2.0)
    assert not report.pays and "2.5 of 4 MB, 1 dropped; 5 answers" in str(report) and "has not paid yet" in str(report)
    assert replace(report, saved_s=2.5).pays


def test_by_default_recordings_may_take_four_gibibytes(tmp_path: Path) -> None:
    assert Recordings(Store(tmp_path)).report().max_bytes == 4 * 2**30


def test_a_recorder_that_cannot_write_says_so_at_the_next_piece_and_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "full").write_bytes(b"no folder")
    recorder = Recorder(tmp_path / "lesson.jsonl", Store(tmp_path / "full"))
    recorder.keep(told(0), b"first")
    with pytest.raises(StorageError, match="full"):
        recorder.finish()
    with pytest.raises(StorageError, match="full"):
        recorder.keep(told(1), b"second")
    other = Recorder(tmp_path / "full" / "lesson.jsonl", Store(tmp_path / "store"))
    other.keep(told(0), b"first")
    with pytest.raises(StorageError, match=r"lesson\.jsonl"):
        other.finish()


def test_a_recorder_counts_the_time_that_its_student_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        """A second later each time it is looked at."""

        now = 0.0

        def monotonic(self) -> float:
            self.now += 1.0
            return self.now

    monkeypatch.setattr(recording, "time", Clock())
    recorder = Recorder(tmp_path / "lesson.jsonl", Store(tmp_path / "store"))
    recorder.keep(told(0), b"first")
    assert recorder.waited_s == 1.0, "to hand it over"
    recorder.secure()
    assert recorder.waited_s == 3.0, "to ask, and until it was written"
    recorder.close()
    assert recorder.waited_s == 5.0
    recorder.close()
    assert recorder.waited_s == 5.0, "it has ended"


def test_the_list_of_a_lesson_makes_its_folder_and_nothing_told_leaves_none(tmp_path: Path) -> None:
    index, store = tmp_path / "a" / "b" / "lesson.jsonl", Store(tmp_path / "store")
    silent = Recorder(index, store)
    silent.secure()
    silent.close()
    assert not index.parent.exists()
    recorder = Recorder(index, store)
    for step in range(2):
        recorder.keep(told(step), b"piece %d" % step)
    recorder.secure()
    assert [row.step for row in recordings.read_list(index).told] == [0, 1]
    recorder.close()


@pytest.mark.parametrize(
    ("error", "text"),
    [(OSError(28, "No space left on device"), r"lesson\.jsonl: the disk is full"), (OSError("torn"), r"jsonl: torn;")],
)
def test_why_the_list_cannot_be_written_is_said_in_the_systems_words(tmp_path: Path, error: OSError, text: str) -> None:
    class Full(Store):
        def put(self, data: bytes) -> Digest:
            raise error

    recorder = Recorder(tmp_path / "lesson.jsonl", Full(tmp_path / "store"))
    recorder.keep(told(0), b"piece")
    with pytest.raises(StorageError, match=text):
        recorder.secure()
    recorder.close()


def test_who_secures_waits_for_as_long_as_somebody_writes_and_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "POLL_S", 0.0)
    recorder = Recorder(tmp_path / "lesson.jsonl", Store(tmp_path / "store"))
    recorder.keep(told(0), b"piece")
    recorder.secure()
    assert [row.step for row in recordings.read_list(tmp_path / "lesson.jsonl").told] == [0]
    recorder.close()
    with pytest.raises(StorageError, match="the thread that writes it has ended"):
        recorder.secure()


def test_who_hands_in_a_piece_does_not_wait_for_a_thread_that_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "POLL_S", 0.01)
    recorder = Recorder(tmp_path / "lesson.jsonl", Store(tmp_path / "store"))
    recorder.close()
    with pytest.raises(StorageError, match="the thread that writes it has ended"):
        for step in range(1000):
            recorder.keep(told(step), b"piece")


def test_a_recordings_columns_have_the_same_types_whatever_stands_in_them() -> None:
    for rows in ((), (replace(told(0), teacher_s=1),)):
        types = {name: column.dtype.name for name, column in load(recordings.encode(rows)).items()}
        numbers = {"step": "int64", "size_bytes": "int64", "teacher_s": "float64"}
        assert types == numbers | dict.fromkeys(("weights", "request", "piece"), "uint8")


def test_a_recording_with_a_hole_spares_neither_the_teacher_of_one_epoch_nor_one_of_two(tmp_path: Path) -> None:
    store, other = Store(tmp_path), TeacherReference(architecture=ARCHITECTURE, weights="cd" * 32)
    rows = [told(step, store.put(b"%d" % step)) for step in range(3)]
    theirs = [replace(one, weights=other.weights) for one in rows]
    short = Recipe(epochs=1, batch_size=4, views=VIEWS)
    for teachers, listed, spared in (
        ((TEACHER,), rows, 1),
        ((TEACHER,), rows[1:], 0),
        ((TEACHER, other), rows + theirs, 2),
        ((TEACHER, other), rows + theirs[1:], 0),
        ((TEACHER, other), rows, 0),
    ):
        known, task = Recordings(store), lesson(teachers=teachers, recipe=short)
        exchange = ExchangeSummary(record=store.put(recordings.encode(listed)))
        known.note(task, TaskResult(status=Status.COMPLETED, epochs=1, exchange=exchange))
        assert len(known.find(task)[1]) == spared


def test_what_recordings_cost_and_saved_is_the_sum_over_all_lessons_servedor_not(tmp_path: Path) -> None:
    known, task = Recordings(Store(tmp_path)), lesson()
    for served, saved_s, kept_s in ((2, 1.0, 0.5), (3, 2.0, 0.25)):
        exchange = ExchangeSummary(recorded=served, saved_s=saved_s, kept_s=kept_s)
        known.note(task, TaskResult(status=Status.COMPLETED, exchange=exchange))
    report = known.report()
    assert (report.num_served, report.saved_s, report.kept_s, report.num_lessons) == (5, 3.0, 0.75, 0)


def test_a_piece_that_is_gone_already_can_be_dropped(tmp_path: Path) -> None:
    store, task = Store(tmp_path), lesson()
    known = Recordings(store, max_bytes=0)
    known.note(task, taught(task, store, [b"one", b"two"]))
    store.path(store.put(b"one")).unlink()
    assert len(known.collect()) == 1 and known.size_bytes == 0 and store.put(b"two") and known.report().num_pieces == 0


def test_of_two_recordings_of_a_lesson_the_longer_one_is_taken_whichever_came_first(tmp_path: Path) -> None:
    store = Store(tmp_path)
    tasks = [lesson(recipe=Recipe(epochs=epochs, batch_size=4, views=VIEWS)) for epochs in (1, 2)]
    results = [taught(task, store, [b"%d" % n for n in range(n)], epochs=n) for n, task in enumerate(tasks, 1)]
    for order in ((0, 1), (1, 0)):
        known = Recordings(store)
        for n in order:
            known.note(tasks[n], results[n])
        assert results[1].exchange
        assert known.find(tasks[1]) == ((results[1].exchange.record,), frozenset({TEACHER.weights}))


DAMAGES = {
    "a bit of a digest": lambda data: data.replace(b'"piece": "', b'"piece": "', 1).replace(b'"step": 2', b'"step": 3', 1),
    "a line that is none": lambda data: b"{}\n" + data.partition(b"\n")[2],
    "NULs": lambda data: bytes(len(data)),
    "truncated": lambda data: data[: len(data) // 3],
    "empty": lambda data: b"",
    "garbage": lambda data: b"\xff\n" * 40,
}


def test_a_damaged_piece_of_an_unfinished_recording_is_told_again(tmp_path: Path) -> None:
    room = Classroom(tmp_path / "run")
    index = room.folder.lesson(room.task.key)

    def kill(step: int) -> None:
        if step == 6:
            raise Killed

    with pytest.raises(Killed):
        room.attempt(room.folder, Recorder(index, room.folder.store), kill)
    damaged = room.folder.store.path(recordings.read_list(index).told[2].piece)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\0")
    again = room.attempt(room.folder, Recorder(index, room.folder.store))
    assert room.steps_of(again) == list(range(8))
    for told in recordings.read_list(index).told:
        room.folder.store.get(told.piece)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_list_of_a_lesson_costs_steps_and_neither_the_weights_nor_the_recording(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    room = Classroom(tmp_path / "run")
    index = room.folder.lesson(room.task.key)
    whole = room.attempt(RunFolder(tmp_path / "whole"), Recorder(tmp_path / "whole.jsonl", room.folder.store))

    def kill(step: int) -> None:
        if step == 6:
            raise Killed

    with pytest.raises(Killed):
        room.attempt(room.folder, Recorder(index, room.folder.store), kill)
    index.write_bytes(damage(index.read_bytes()))
    steps: list[int] = []
    again = room.attempt(room.folder, Recorder(index, room.folder.store), steps.append)
    assert steps == list(range(1, 9)), "what was told before is not listed as a whole"
    assert again.weights == whole.weights and room.steps_of(again) == list(range(8))
    room.folder.clear(room.task.key)
    assert not list(room.folder.checkpoints.iterdir())
