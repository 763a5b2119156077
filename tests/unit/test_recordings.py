"""Recorded lessons: what is kept, what is found again and by whom, what is dropped first, and what survives a killed student."""

from dataclasses import replace
from pathlib import Path

import pytest
from experiments import SPEC
from safetensors.numpy import load, save

from agentkd.agents.feeding import DatasetFeed
from agentkd.agents.lessons import lesson_request, request_digest
from agentkd.agents.recording import Recorder, recorded
from agentkd.artifacts import recordings
from agentkd.artifacts.recordings import Recordings, Told
from agentkd.artifacts.store import Store
from agentkd.datasets.opening import open_dataset
from agentkd.errors import ArtifactError, StorageError
from agentkd.networks.families import resolve
from agentkd.recipe import Distillation, Recipe, ViewSettings
from agentkd.task import DataSource, ExchangeSummary, Status, Task, TaskKind, TaskResult, TeacherReference

ARCHITECTURE = resolve("tiny_networks:tiny", 5)
TEACHER = TeacherReference(architecture=ARCHITECTURE, weights="ab" * 32)
VIEWS = ViewSettings(crop_height=32, crop_width=32)


def lesson(**changes: object) -> Task:
    fields: dict[str, object] = {
        "kind": TaskKind.DISTILL,
        "architecture": ARCHITECTURE,
        "data": DataSource(spec=SPEC, content_digest=open_dataset(SPEC).digest),
        "recipe": Recipe(epochs=2, batch_size=4, views=VIEWS),
        "view_seed": 7,
        "teachers": (TEACHER,),
        "distillation": Distillation(),
    }
    return Task.model_validate(fields | changes)


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
        lesson(kind=TaskKind.TRAIN, teachers=(), distillation=None),
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
    rows = recordings.decode(store.get(again.finish()))
    assert [(row.step, store.get(row.piece)) for row in rows] == [(0, b"first"), (1, b"second")]
    assert not index.exists()


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
