"""Runs looked through and packed: whatever byte is changed, whatever is taken away, it is noticed and named."""

import json
import random
import shutil
import sqlite3
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from experiments import SPEC
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from agentkd import canonical
from agentkd.architecture import Architecture
from agentkd.artifacts import bundle, recordings
from agentkd.artifacts.bundle import unpack, verify_bundle, write_zip
from agentkd.artifacts.comparison import compare, differences
from agentkd.artifacts.garbage import find_garbage
from agentkd.artifacts.history import History, read_history, read_recordings
from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.lineage import as_data, describe, trace_back
from agentkd.artifacts.recordings import Told
from agentkd.artifacts.run_folder import RunFolder
from agentkd.artifacts.verification import verify
from agentkd.datasets.opening import open_dataset
from agentkd.errors import ArtifactError, ConfigError, StorageError
from agentkd.recipe import Distillation, Recipe
from agentkd.report.export import export
from agentkd.report.packing import final_networks, write_bundle
from agentkd.task import (
    DataSource,
    Distill,
    EpochResult,
    Evaluate,
    ExchangeSummary,
    Mutual,
    Partner,
    Status,
    TaskResult,
    TeacherReference,
    Train,
)

NETWORK = Architecture(family="unet", num_classes=5)


def source() -> DataSource:
    return DataSource(spec=SPEC, content_digest=open_dataset(SPEC).digest)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run as agents leave it: a network, a student that it taught, the lesson recorded."""
    folder = RunFolder(tmp_path_factory.mktemp("finished") / "run")
    put = folder.store.put
    with Journal(folder.journal) as journal:
        journal.begin_sitting({"started_at": "2026-01-01T00:00:00Z", "packages": {"torch": "2"}, "code": {"commit": "c" * 40}})
        teacher = put(b"the teacher's weights" * 40)
        train = Train(architecture=NETWORK, data=source())
        journal.commit(Record(train, TaskResult(status=Status.COMPLETED, weights=teacher, miou=0.5), "agent-1", 1, "a training"))
        pieces = [put(f"what was told in step {step}".encode() * 9) for step in range(3)]
        told = [Told(teacher, step, "ab" * 32, piece, 9, 0.1) for step, piece in enumerate(pieces)]
        exchange = ExchangeSummary(requests=3, record=put(recordings.encode(told)))
        lesson = Distill(
            architecture=NETWORK,
            data=source(),
            teachers=(TeacherReference(architecture=NETWORK, weights=teacher),),
            distillation=Distillation(),
        )
        taught = TaskResult(status=Status.COMPLETED, weights=put(b"the student's" * 40), miou=0.6, epochs=3, exchange=exchange)
        journal.commit(Record(lesson, taught, "agent-2", 2, "a lesson", ((teacher, "agent-1"),)))
    (folder.report).mkdir()
    (folder.report / "table.md").write_text("| a | table |\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def packed(finished: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "run.zip"
    write_bundle(finished, out)
    return out


def copy(folder: RunFolder, place: Path) -> RunFolder:
    shutil.copytree(folder.place, place)
    return RunFolder(place)


def test_a_sound_run_and_its_bundle_are_sound_and_a_bundle_opens_to_the_same_run(
    finished: RunFolder, packed: Path, tmp_path: Path
) -> None:
    assert verify(finished).problems == verify_bundle(packed).problems == ()
    assert verify(finished).notes == verify_bundle(packed).notes == ()
    write_bundle(finished, tmp_path / "records.zip", "records")
    bare = verify_bundle(tmp_path / "records.zip")
    assert (bare.problems, bare.notes) == ((), ("6 artifacts were left out of the bundle on purpose",))
    assert verify(finished).num_artifacts == verify_bundle(packed).num_artifacts == 6
    size = sum(path.stat().st_size for path in finished.store.place.rglob("*") if path.is_file())
    assert verify(finished).size_bytes == size and verify(finished).num_records == 2
    unpack(packed, tmp_path / "run")
    assert list(read_history(RunFolder(tmp_path / "run")).by_task) == list(read_history(finished).by_task)
    write_bundle(finished, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == packed.read_bytes(), "one run has one bundle"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(min_value=0), bit=st.integers(0, 7))
def test_no_bit_of_a_bundle_can_be_changed_unseen(packed: Path, tmp_path: Path, position: int, bit: int) -> None:
    data = bytearray(packed.read_bytes())
    data[position % len(data)] ^= 1 << bit
    changed = tmp_path / "changed.zip"
    changed.write_bytes(data)
    assert verify_bundle(changed).problems, f"byte {position % len(data)}, bit {bit}"


def test_a_changed_byte_in_every_kind_of_file_is_named(packed: Path, tmp_path: Path) -> None:
    drawn = random.Random(1)
    with zipfile.ZipFile(packed) as archive:
        kinds = {info.filename.split("/")[0] + Path(info.filename).suffix: info for info in archive.infolist()}
    assert len(kinds) == 8, "journal, artifacts, report, environment, croissant, cards, crate and manifest"
    for info in kinds.values():
        data = bytearray(packed.read_bytes())
        start = data.index(info.filename.encode()) + len(info.filename)
        data[start + drawn.randrange(info.file_size)] ^= 1
        (tmp_path / "changed.zip").write_bytes(data)
        told = " ".join(map(str, verify_bundle(tmp_path / "changed.zip").problems))
        assert info.filename in told or "manifest" in told, told
        with pytest.raises(ArtifactError, match="is damaged"):
            unpack(tmp_path / "changed.zip", tmp_path / "run")
        assert not (tmp_path / "run").exists(), "nothing is unpacked of it"


@pytest.mark.parametrize("size", [0, 10, 500, -1])
def test_what_is_cut_off_or_no_bundle_is_refused(packed: Path, tmp_path: Path, size: int) -> None:
    (tmp_path / "cut.zip").write_bytes(packed.read_bytes()[:size])
    assert verify_bundle(tmp_path / "cut.zip").problems


@pytest.mark.parametrize("name", ["../" + "long" * 100, "../escaped", "/absolute", "a/../../b", "a//b", "a\n"])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr(name, b"x")
        archive.writestr("manifest-sha256.txt", b"")
    (problem,) = verify_bundle(tmp_path / "evil.zip").problems
    assert problem.place == repr(name[:100]) and "is not a name" in problem.text
    assert not (tmp_path.parent / "escaped").exists()


def test_what_is_wrong_in_a_run_folder_is_named(finished: RunFolder, tmp_path: Path) -> None:
    history = read_history(finished)
    lesson = next(record for record in history.by_task.values() if record.result.exchange)
    assert lesson.result.exchange
    damaged = copy(finished, tmp_path / "damaged")
    path = damaged.store.path(lesson.result.weights)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    (problem,) = verify(damaged).problems
    assert lesson.result.weights in problem.place and "its digest is" in problem.text

    lacking = copy(finished, tmp_path / "lacking")
    lacking.store.path(lesson.task.teachers[0].weights).unlink()
    found = verify(lacking).problems
    assert [problem.text.split(" ")[0] for problem in found] == ["made", "is"], "by whoever made it, and whoever it taught"
    assert ["a training" in found[0].place, "a lesson" in found[1].place] == [True, True]

    dropped = copy(finished, tmp_path / "dropped")
    told = find_garbage(dropped).told
    assert told and len(told.files) == 3
    told.files[0].unlink()
    assert not verify(dropped).problems and "1 recorded lessons were dropped" in verify(dropped).notes[0]

    stray = copy(finished, tmp_path / "stray")
    (stray.store.place / "ab").mkdir(exist_ok=True)
    (stray.store.place / "ab" / "left.incoming").write_bytes(b"half")
    (stray.store.place / "ab" / f"{'cd' * 32}.safetensors").write_bytes(b"x")
    (stray.store.place / "zz").mkdir()
    (stray.store.place / "zz" / "zz.safetensors").write_bytes(b"x")
    assert ["not named as an artifact" in problem.text for problem in verify(stray).problems] == [True, True]
    assert "interrupted transfer" in verify(stray).notes[0]


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("UPDATE records SET outputs = replace(outputs, '0.6', '0.9') WHERE number = 2", "it was changed"),
        ("UPDATE records SET circumstances = replace(circumstances, 'agent-2', 'agent-3')", "it was changed"),
        (
            "UPDATE records SET inputs = replace(inputs, '\"seed\":0', '\"seed\":1') WHERE number = 1",
            "not the digest of its inputs",
        ),
        ("UPDATE records SET outputs = 'x' WHERE number = 1", "cannot be read"),
        ("DELETE FROM records WHERE number = 1", "it was changed"),
        ("UPDATE sittings SET provenance = replace(provenance, '\"2\"', '\"3\"')", "it was changed"),
    ],
)
def test_a_journal_that_was_edited_is_noticed(finished: RunFolder, tmp_path: Path, statement: str, text: str) -> None:
    edited = copy(finished, tmp_path / "edited")
    with sqlite3.connect(edited.journal) as connection:
        assert connection.execute(statement).rowcount
    connection.close()
    assert text in " ".join(map(str, verify(edited).problems))


def test_a_bundle_that_fits_its_manifest_and_holds_a_forged_journal_is_not_unpacked(finished: RunFolder, tmp_path: Path) -> None:
    forged = copy(finished, tmp_path / "forged")
    with sqlite3.connect(forged.journal) as connection:
        connection.execute("UPDATE sittings SET provenance = 'no JSON'")
    connection.close()
    with Journal(forged.journal, read_only=True) as journal:
        journal.copy_to(tmp_path / "journal.sqlite")
    files = {"journal.sqlite": tmp_path / "journal.sqlite"}
    write_zip(
        files | {str(p.relative_to(forged.place)): p for p in forged.store.place.rglob("*.safetensors")}, tmp_path / "f.zip"
    )
    with pytest.raises(ArtifactError, match="sittings: cannot be read"):
        unpack(tmp_path / "f.zip", tmp_path / "run")
    assert not (tmp_path / "run").exists() and not (tmp_path / "run.part").exists()


def test_lineage_goes_back_to_the_beginning(finished: RunFolder) -> None:
    history = read_history(finished)
    (final,) = final_networks(finished, history)
    root = trace_back(final.result.weights[:8], history)
    assert [(step.relation, step.record.label if step.record else "") for step in root.walk()] == [
        ("", "a lesson"),
        ("is taught by weights", "a training"),
    ]
    assert any("3 requests" in line for line in describe(root))
    outside = Evaluate(architecture=NETWORK, data=source(), initial_weights="ef" * 32)
    history = History([Record(outside, TaskResult(status=Status.COMPLETED, predictions="12" * 32), "a", 1)])
    (start,) = trace_back("12121212", history).ancestors
    assert start.record is None and describe(start) == ["came from outside this run"]
    for wrong in ("ffff", "12", ""):
        with pytest.raises(ConfigError, match="begin"):
            history.find(wrong)


def test_two_runs_are_compared(finished: RunFolder, tmp_path: Path) -> None:
    other = RunFolder(tmp_path / "other")
    with Journal(other.journal) as journal:
        journal.begin_sitting({"packages": {"torch": "3"}, "code": {"commit": "c" * 40}})
        train = Train(architecture=NETWORK, data=source())
        journal.commit(Record(train, TaskResult(status=Status.COMPLETED, weights="w", miou=0.4), "agent-1", 1, "a training"))
    found = compare(finished, other)
    assert found.environment == (("packages.torch", "2", "3"),)
    assert [(one.label, one.miou, one.is_identical) for one in found.same] == [("a training", (0.5, 0.4), False)]
    assert found.only == ((("a lesson", 0.6),), ())
    (told,) = json.loads(json.dumps(found.as_data()))["same"]
    assert (told["label"], told["miou"], told["is_identical"]) == ("a training", [0.5, 0.4], False)


@pytest.mark.parametrize("look", [verify, read_history, read_recordings, find_garbage, lambda folder: compare(folder, folder)])
def test_who_looks_at_a_run_writes_nothing(tmp_path: Path, look: Callable[[RunFolder], object]) -> None:
    empty = RunFolder(tmp_path)
    empty.journal.touch()
    with pytest.raises(ArtifactError, match="it is empty"):
        look(empty)
    assert empty.journal.read_bytes() == b""


def test_only_what_nothing_refers_to_is_garbage(finished: RunFolder, tmp_path: Path) -> None:
    folder = copy(finished, tmp_path / "run")
    assert find_garbage(folder).unreferenced == ()
    stray = folder.store.put(b"stray")
    assert [path.stem for path in find_garbage(folder).unreferenced] == [stray]
    piece = folder.store.put(b"of a lesson that is not finished")
    folder.checkpoints.mkdir()
    told = recordings.Told(weights="w", step=0, request="r", piece=piece, size_bytes=1, teacher_s=0.1)
    folder.lesson("ab" * 32).write_bytes(recordings.line(told))
    assert [path.stem for path in find_garbage(folder).unreferenced] == [stray], "an unfinished lesson still needs its pieces"


def test_trainings_are_exported_as_event_files(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    task = Train(architecture=NETWORK, data=source())
    history = tuple(EpochResult(epoch=n, loss=1 / n, miou=n / 10, seconds=1) for n in (1, 2, 3))
    trace = folder.store.put(save({"loss": np.array([0.5, 0.25])}))
    with Journal(folder.journal) as journal:
        result = TaskResult(status=Status.COMPLETED, weights="w", history=history, trace=trace)
        journal.commit(Record(task, result, "agent-1", 1, "search of unet: trial 1"))
    assert export(folder, tmp_path / "out", "tensorboard") == 1
    (events,) = (tmp_path / "out" / f"search-of-unet--trial-1-{task.key[:8]}").glob("events.*")
    written = events.read_bytes()
    assert written.count(b"loss/step") == 2 and written.count(b"miou/validation") == 3 and b"recipe.learning_rate" in written
    with pytest.raises(ConfigError, match="tensorboard or mlflow"):
        export(folder, tmp_path / "out", "paper")


def test_findings_and_trees_have_a_form_as_plain_data(finished: RunFolder, tmp_path: Path) -> None:
    sound = verify(finished).as_data()
    assert sound["is_sound"] is True and sound["problems"] == [] and sound["num_artifacts"] == 6
    damaged = copy(finished, tmp_path / "damaged")
    history = read_history(damaged)
    lesson = next(record for record in history.by_task.values() if record.result.exchange)
    damaged.store.path(lesson.result.weights).unlink()
    told = verify(damaged).as_data()
    assert told["is_sound"] is False and [set(problem) for problem in told["problems"]] == [{"place", "text"}]
    tree = as_data(trace_back(lesson.result.weights, history))
    assert (tree["relation"], tree["digest"], tree["task"]) == ("", lesson.result.weights, lesson.task.key)
    assert (tree["miou"], tree["label"], tree["inputs"]) == (0.6, "a lesson", lesson.task.canonical())
    assert tree["exchange"]["requests"] == 3 and tree["is_repeated"] is False
    (teacher,) = tree["ancestors"]
    assert teacher["digest"] == lesson.task.teachers[0].weights and teacher["exchange"] is None and teacher["ancestors"] == []
    assert json.loads(json.dumps(tree)) == tree
    outside = as_data(trace_back(lesson.result.weights, History([lesson])))["ancestors"][0]
    assert (outside["task"], outside["inputs"], outside["miou"], outside["label"]) == (None, None, None, "")


def test_the_recorded_lessons_of_a_run_are_found_in_its_folder(finished: RunFolder) -> None:
    known = read_recordings(finished)
    lesson = next(record for record in read_history(finished).by_task.values() if record.result.exchange)
    assert lesson.result.exchange
    assert (
        known.report().num_pieces == 3
        and known.report().max_bytes > 2**60
        and known.find(lesson.task)[0] == (lesson.result.exchange.record,)
    )


def test_what_could_be_done_without_is_told_with_its_price(finished: RunFolder) -> None:
    found = find_garbage(finished)
    told = found.as_data()
    assert [one["what"] for one in told["sparable"]] == ["what teachers told in 1 lessons"]
    assert [one["num_files"] for one in told["sparable"]] == [3]
    assert told["sparable"][0]["size_bytes"] == sum(path.stat().st_size for path in found.sparable[0].files) > 0


def test_a_bundle_has_names_in_order_no_times_and_nothing_packed(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"3")
    place = tmp_path / "new" / "folders" / "run.zip"
    written = write_zip({"report/x": b"1", "croissant.json": b"2", "report/X1": tmp_path / "x"}, place)
    assert (written.num_files, written.size_bytes, written.num_left_out) == (4, (place).stat().st_size, 0)
    with zipfile.ZipFile(place) as archive:
        infos = archive.infolist()
    assert [info.filename for info in infos] == ["croissant.json", "manifest-sha256.txt", "report/X1", "report/x"]
    assert {info.date_time for info in infos} == {(1980, 1, 1, 0, 0, 0)}
    assert {(info.external_attr, info.create_system, info.compress_type) for info in infos} == {(0o100644 << 16, 3, 0)}


def test_what_is_gone_already_is_not_offered_to_be_spared(finished: RunFolder, tmp_path: Path) -> None:
    less = copy(finished, tmp_path / "less")
    told = find_garbage(finished).told
    assert told and len(told.files) == 3
    less.store.path(told.files[0].stem).unlink()
    left = find_garbage(less).told
    assert left and len(left.files) == 2 and left.size_bytes == told.size_bytes - told.files[0].stat().st_size


def test_a_step_back_is_described_by_what_it_is_what_it_learned_from_and_what_came_of_it(finished: RunFolder) -> None:
    history = read_history(finished)
    lesson = next(record for record in history.by_task.values() if record.result.exchange)
    assert lesson.result.exchange
    tree = trace_back(lesson.result.weights, history)
    data = lesson.task.data
    assert describe(tree) == [
        f"a lesson (task {lesson.task.key[:12]}, seed 0)",
        "unet for 5 classes: ",
        f"data {data.spec} ({data.content_digest[:12]})",
        "objectives soft_targets",
        f"told 3 requests, 0 bytes, 0 from recordings; recorded as {lesson.result.exchange.record[:12]}",
        "3 epochs, mIoU 60.00 %, 0 s by agent-2",
    ]
    (teacher,) = tree.ancestors
    assert describe(teacher)[0].startswith("a training (task ") and len(describe(teacher)) == 3
    assert describe(replace(teacher, is_repeated=True))[1:] == ["as above"]
    assert describe(replace(teacher, record=None)) == ["came from outside this run"]


def test_an_unpacking_leaves_nothing_half_done_and_touches_nothing_beside_it(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.part").mkdir()
    (tmp_path / "run.part" / "mine").write_bytes(b"old")
    before = set(tmp_path.iterdir())

    def full(part: Path, place: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(StorageError, match="No space left"):
        patch.setattr(Path, "replace", full)
        unpack(packed, tmp_path / "run")
    assert set(tmp_path.iterdir()) == before
    unpack(packed, tmp_path / "run")
    assert set(tmp_path.iterdir()) == before | {tmp_path / "run"}
    assert (tmp_path / "run.part" / "mine").read_bytes() == b"old"


def test_a_bundle_is_unpacked_where_there_is_nothing(packed: Path, tmp_path: Path) -> None:
    for name in ("file", "folder/inside"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"mine")
    for name in ("file", "folder"):
        with pytest.raises(ArtifactError, match="is there already and not empty"):
            unpack(packed, tmp_path / name)
    assert (tmp_path / "file").read_bytes() == (tmp_path / "folder" / "inside").read_bytes() == b"mine"
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.part").mkdir()
    (tmp_path / "empty.part" / "stray").write_bytes(b"of somebody else")
    assert unpack(packed, tmp_path / "empty").problems == () and (tmp_path / "empty.part" / "stray").exists()
    assert not (tmp_path / "empty" / "stray").exists()


def test_four_characters_of_a_digest_are_enough_and_three_are_not(finished: RunFolder) -> None:
    history = read_history(finished)
    for key, record in history.by_task.items():
        assert history.find(key[:4]) is record
        with pytest.raises(ConfigError, match="at least 4 characters"):
            history.find(key[:3])


@pytest.mark.parametrize("names", [(".",), ("a", "a/b")])
def test_a_name_that_is_also_a_folder_is_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    with zipfile.ZipFile(tmp_path / "odd.zip", "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    (problem,) = verify_bundle(tmp_path / "odd.zip").problems
    assert problem.place == repr(names[0]) and "is not a name" in problem.text


def test_a_bundle_that_cannot_be_written_says_where_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    for out in (tmp_path / "run.zip", tmp_path / "file" / "run.zip", tmp_path / "new" / "run.zip"):
        with pytest.raises(StorageError, match=r"run\.zip"):
            write_zip({"report/a": tmp_path / "gone"} if out.parent != tmp_path / "file" else {}, out)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["file"]


def test_a_damaged_bundle_has_its_size_and_nothing_was_looked_at(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.zip").write_bytes(packed.read_bytes()[:-1])
    found = verify_bundle(tmp_path / "cut.zip")
    assert (found.num_records, found.num_artifacts, found.size_bytes) == (0, 0, packed.stat().st_size - 1)
    assert "is no sound zip file" in found.problems[0].text
    assert verify_bundle(tmp_path).problems[0].text == "it is a folder; give a file"


def test_a_manifest_says_what_is_there_each_file_once_and_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def problems(*files: tuple[str, bytes]) -> list[str]:
        with zipfile.ZipFile(tmp_path / "odd.zip", "w") as archive:
            for name, content in files:
                archive.writestr(name, content)
        return [str(problem) for problem in verify_bundle(tmp_path / "odd.zip").problems]

    listed = ("manifest-sha256.txt", f"{canonical.digest_bytes(b'1')}  report/a\n".encode())
    assert problems(("report/a", b"1")) == ["manifest-sha256.txt: is missing, or there are too many files, or one of them twice"]
    with pytest.warns(UserWarning, match="Duplicate name"):
        assert "twice" in problems(("report/a", b"1"), ("report/a", b"1"), listed)[0]
    assert problems(("report/a", b"1"), ("report/b", b"2"), listed) == ["report/b: is not in the manifest"]
    assert problems(listed) == ["report/a: is in the manifest and not in the bundle"]
    assert "report/a: is damaged: the manifest says" in problems(("report/a", b"2"), listed)[0]
    assert "report/a: is damaged" in problems(listed, ("report/a", b"2"))[0]
    assert "bundle itself" in problems(("report/a", b"1"), listed)[0], (
        "the files are as listed, and nothing else is as in a bundle"
    )
    monkeypatch.setattr(bundle, "MAX_FILES", 2)
    assert "bundle itself" in problems(("report/a", b"1"), listed)[0]
    monkeypatch.setattr(bundle, "MAX_FILES", 1)
    assert "too many files" in problems(("report/a", b"1"), listed)[0]


def test_a_bundle_that_cannot_be_unpacked_there_says_so(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(StorageError, match="file/run"):
        unpack(packed, tmp_path / "file" / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_verification_leaves_says_whose_it_is(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[RunFolder] = []
    monkeypatch.setattr(bundle, "verify", seen.append)
    verify_bundle(packed)
    assert seen[0].place.name.startswith("agentkd-verify-") and not seen[0].place.exists()


def test_a_run_is_looked_through_to_its_end_whatever_is_found_on_the_way(finished: RunFolder, tmp_path: Path) -> None:
    folder, read = copy(finished, tmp_path / "run"), []
    (folder.store.place / "00").mkdir(exist_ok=True)
    (folder.store.place / "00" / "left.incoming").write_bytes(b"half")
    linked = sorted(folder.store.place.rglob("*.safetensors"))[0]
    linked.rename(tmp_path / "elsewhere")
    linked.symlink_to(tmp_path / "elsewhere")
    with sqlite3.connect(folder.journal) as connection:
        connection.execute("UPDATE records SET outputs = 'x' WHERE number = 1")
    connection.close()
    found = verify(folder, read.append)
    assert read == sorted(folder.store.place.rglob("*.safetensors")) and found.num_artifacts == len(read) == 6
    assert found.num_records == 1 and "is a link" in [problem.text for problem in found.problems]


def test_a_recording_that_is_none_or_not_there_is_one_finding_and_no_lesson_to_spare(finished: RunFolder, tmp_path: Path) -> None:
    lesson = next(record for record in read_history(finished).by_task.values() if record.result.exchange)
    assert lesson.result.exchange
    gone = copy(finished, tmp_path / "gone")
    gone.store.path(lesson.result.exchange.record).unlink()
    (problem,) = verify(gone).problems
    assert "made " in problem.text and "a lesson" in problem.place and find_garbage(gone).told is None
    odd = copy(finished, tmp_path / "odd")
    record = odd.store.put(b"no recording")
    with Journal(odd.journal) as journal:
        for number in (2, 3):
            other = lesson.task.replace(view_seed=number)
            exchange = ExchangeSummary(record=record if number == 2 else lesson.result.exchange.record)
            journal.commit(Record(other, lesson.result.replace(exchange=exchange), "agent-1", 1, f"lesson {number}"))
    odd.store.path(recordings.decode(odd.store.get(lesson.result.exchange.record))[0].piece).unlink()
    found = verify(odd)
    (problem,) = found.problems
    assert "lesson 2" in problem.place and "is no recording of a lesson" in problem.text
    told = [note for note in found.notes if "the pieces of 2 recorded lessons were dropped" in note]
    assert len(told) == 1, "those before and after it"


def test_lineage_begins_with_what_was_asked_for_and_tells_no_ancestors_twice(finished: RunFolder) -> None:
    lesson = next(record for record in read_history(finished).by_task.values() if record.result.exchange)
    assert lesson.result.exchange
    assert trace_back(lesson.result.exchange.record[:8], read_history(finished)).name == lesson.result.exchange.record
    start = Record(Train(architecture=NETWORK, data=source()), TaskResult(status=Status.COMPLETED, weights="1" * 64), "a", 1)
    weights = {"initial_weights": "1" * 64, "distillation": Distillation()}
    ours, theirs = (Partner(architecture=NETWORK, recipe=Recipe(), seed=seed, initial_weights="1" * 64) for seed in (1, 2))
    task = Mutual(architecture=NETWORK, data=source(), seed=1, partners=(theirs,), **weights)
    (partner,) = task.partner_tasks()
    assert partner.partners == (ours,)
    learned = [Record(t, TaskResult(status=Status.COMPLETED, weights=w * 64), "a", 1) for t, w in ((task, "2"), (partner, "3"))]
    tree = trace_back("2222", History([start, *learned]))
    assert [(step.relation, step.name[0], step.is_repeated) for step in tree.walk()] == [
        ("", "2", False),
        ("starts from weights", "1", False),
        ("learned together with", "3", True),
    ]
    assert [step.relation for step in trace_back("2222", History([start, learned[0]])).walk()] == ["", "starts from weights"]
    student = Distill(
        architecture=NETWORK,
        data=source(),
        initial_weights="1" * 64,
        teachers=tuple(TeacherReference(architecture=NETWORK, weights=w * 64) for w in "239"),
        distillation=Distillation(),
    )
    taught = Record(student, TaskResult(status=Status.COMPLETED, weights="4" * 64), "a", 1)
    steps = list(trace_back("4444", History([start, *learned, taught])).walk())
    assert [(step.name[0], step.is_repeated, step.record is None) for step in steps] == [
        ("4", False, False),
        ("1", False, False),
        ("2", False, False),
        ("1", True, False),
        ("3", True, False),
        ("3", False, False),
        ("1", True, False),
        ("9", False, True),
    ]


def test_a_network_with_many_settings_is_described_in_one_line(finished: RunFolder) -> None:
    network = Architecture(family="unet", num_classes=5, settings={f"setting_{n:02}": n for n in range(40)})
    record = Record(Train(architecture=network, data=source()), TaskResult(status=Status.COMPLETED, weights="1" * 64), "a", 1)
    step = trace_back("1111", History([record]))
    assert len(describe(step)[1]) == 160 and describe(step, most=None)[1].endswith("setting_39=39"), (
        "where there is room, all of it"
    )


def test_weights_that_were_given_are_no_garbage_and_pictures_and_losses_can_be_spared(
    finished: RunFolder, tmp_path: Path
) -> None:
    folder = copy(finished, tmp_path / "run")
    given, trace, pictures = map(folder.store.put, (b"given", b"losses", b"class maps"))
    result = TaskResult(status=Status.COMPLETED, trace=trace, predictions=pictures)
    with Journal(folder.journal) as journal:
        journal.set_meta("pretrained", {"unet": given})
        journal.commit(Record(Train(architecture=NETWORK, data=source(), seed=9), result, "agent-1", 1))
    (folder.store.place / "ab").mkdir(exist_ok=True)
    (folder.store.place / "ab" / f"{given}.incoming").write_bytes(b"half")
    found = find_garbage(folder)
    assert [path.suffix for path in found.unreferenced] == [".incoming"] and found.size_bytes == 4
    assert [(one.what.split()[0], [path.stem for path in one.files]) for one in found.sparable[1:]] == [
        ("class", [pictures]),
        ("losses", [trace]),
    ]
    assert found.told and found.sparable[0] is found.told
    assert [one.what.split()[0] for one in replace(found, told=None).sparable] == ["class", "losses"]


def test_experiments_are_compared_setting_by_setting_and_tasks_without_a_label_by_their_kind(tmp_path: Path) -> None:
    runs = [RunFolder(tmp_path / name) for name in "ab"]
    both = Train(architecture=NETWORK, data=source())
    for seed, folder in enumerate(runs, 1):
        with Journal(folder.journal) as journal:
            journal.set_meta("experiment", {"seed": seed, "search": {"trials": 3}})
            for task in (both, both.replace(seed=seed)):
                journal.commit(Record(task, TaskResult(status=Status.COMPLETED, weights="w", miou=seed / 10), "agent-1", 1))
    found = compare(*runs)
    assert found.configuration == (("seed", 1, 2),) and found.environment == ()
    assert [(one.label, one.is_identical) for one in found.same] == [("train", True)]
    assert found.only == ((("train", 0.1),), (("train", 0.2),))


def test_the_tasks_that_have_a_beginning_in_common_are_listed() -> None:
    train = Train(architecture=NETWORK, data=source())
    records = [
        Record(train.replace(seed=seed), TaskResult(status=Status.COMPLETED, weights=f"1111{seed}"), "a", 1) for seed in (1, 2)
    ]
    with pytest.raises(ConfigError, match=r"'1111' could be 11111 \(of train\), 11112 \(of train\); give more characters"):
        History(records).find("1111")
    assert History(records).find("11112") is records[1]
    with pytest.raises(ConfigError, match="nothing here begins with '11113'"):
        History(records).find("11113")


def test_a_bundle_whose_files_are_packed_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "packed.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("report/a", b"1" * 100)
        archive.writestr("manifest-sha256.txt", b"")
    (problem,) = verify_bundle(tmp_path / "packed.zip").problems
    assert problem.place == "'report/a'" and "not packed, as in a bundle" in problem.text


def test_a_byte_that_belongs_to_no_file_is_named_by_where_it_stands(packed: Path, tmp_path: Path) -> None:
    data = bytearray(packed.read_bytes())
    at = data.rindex(b"PK\x01\x02") + 38  # the last file's mode
    data[at] ^= 1
    (tmp_path / "changed.zip").write_bytes(data)
    assert [problem.place for problem in verify_bundle(tmp_path / "changed.zip").problems] == [f"byte {at}"]


def test_a_file_may_be_larger_than_a_plain_zip_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    (tmp_path / "a").write_bytes(b"1" * 200)
    write_zip({"report/a": tmp_path / "a"}, tmp_path / "large.zip")
    assert bundle._check_zip(tmp_path / "large.zip") == []


def test_what_sqlite_finds_wrong_with_a_journal_is_a_finding(finished: RunFolder, tmp_path: Path) -> None:
    folder = copy(finished, tmp_path / "run")
    as_said = "UPDATE sqlite_master SET sql = replace(sql, '{} NOT NULL) STRICT', '{} NOT NULL) STRICT') WHERE name = 'meta'"
    for statements in ((as_said.format("TEXT", "ANY"),), ("INSERT INTO meta VALUES ('x', 1)", as_said.format("ANY", "TEXT"))):
        with sqlite3.connect(folder.journal) as connection:
            connection.execute("PRAGMA writable_schema=ON")
            for statement in statements:
                connection.execute(statement)
        connection.close()
    assert [str(problem) for problem in verify(folder).problems] == ["journal.sqlite: non-TEXT value in meta.value"]


def test_a_value_that_is_not_of_one_kind_in_both_runs_differs_as_a_whole() -> None:
    for a, b in (({"x": 1}, 5), (5, {"x": 1}), ({"x": 1}, None)):
        assert differences({"a": a, "b": 1}, {"a": b, "b": 1}) == [("a", a, b)]
