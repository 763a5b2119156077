"""Stored bytes, records and the lock: nothing half-written, nothing twice, damage noticed."""

import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from agentkd import canonical
from agentkd.architecture import Architecture
from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.run_folder import RunFolder, RunLock
from agentkd.artifacts.store import Store
from agentkd.errors import ArtifactCorruptError, ArtifactError, ArtifactNotFoundError, StorageError
from agentkd.task import DataSource, Status, TaskResult, Train


def record(seed: int = 0, weights: str = "w") -> Record:
    architecture = Architecture(family="unet", num_classes=2)
    task = Train(architecture=architecture, data=DataSource(spec="s", content_digest="d"), seed=seed)
    return Record(task, TaskResult(status=Status.COMPLETED, weights=weights, miou=0.5), "agent-1", 1)


def test_a_stored_artifact_is_named_by_its_digest_and_comes_back(tmp_path) -> None:
    store = Store(tmp_path)
    digest = store.put(b"knowledge")
    assert store.put(b"knowledge") == digest
    assert store.get(digest) == b"knowledge"
    assert digest in store
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [f"{digest}.safetensors"]


def test_damage_is_noticed(tmp_path) -> None:
    store = Store(tmp_path)
    digest = store.put(b"knowledge")
    store.path(digest).write_bytes(b"knowledgf")
    with pytest.raises(ArtifactCorruptError) as caught:
        store.get(digest)
    assert caught.value.expected == digest != caught.value.actual


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../b", "", "0" * 63, "0" * 65, "CON", "\0" * 64])
def test_names_that_are_no_digests_lead_nowhere(tmp_path, name) -> None:
    with pytest.raises(ArtifactNotFoundError):
        Store(tmp_path).get(name)


def test_a_full_disk_is_a_typed_error_and_leaves_nothing(tmp_path, monkeypatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="No space left on device; free some space"):
        Store(tmp_path).put(b"knowledge")
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_task_is_recorded_once(tmp_path) -> None:
    with Journal(tmp_path / "journal.sqlite") as journal:
        taught = replace(record(), label="a lesson", teachers=(("t", "agent-2"),))
        assert journal.commit(taught)
        assert not journal.commit(record())
        assert list(journal.records()) == [taught]


def test_every_record_says_where_it_comes_from_and_what_came_before(tmp_path) -> None:
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.begin_sitting({"commit": "one"})
        journal.commit(record(1))
        journal.commit(record(2))
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.begin_sitting({"commit": "nothing came of it"})
        journal.begin_sitting({"commit": "two"})
        journal.commit(record(3))
        rows, sittings = list(journal.rows()), journal.sittings()
    assert [sittings[row.sitting]["commit"] for row in rows] == ["one", "one", "two"] and len(sittings) == 2
    previous = ""
    for row in rows:
        provenance = canonical.encode(sittings[row.sitting]).decode()
        assert row.digest == row.expected_digest(previous, provenance)
        assert row.digest != replace(row, circumstances=row.circumstances + " ").expected_digest(previous, provenance)
        previous = row.digest


def test_what_a_trial_saw_is_written_down_once(tmp_path) -> None:
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.note_asks({"unet": {0: (), 1: ()}})
        journal.note_asks({"unet": {2: (1,)}, "pidnet_s": {0: ()}})
        with pytest.raises(ArtifactError):
            journal.note_asks({"unet": {2: (0, 1)}})
        assert journal.asks() == {"pidnet_s": {0: ()}, "unet": {0: (), 1: (), 2: (1,)}}


def test_the_same_task_with_other_weights_is_an_alarm(tmp_path) -> None:
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.commit(record())
        with pytest.raises(ArtifactError, match="not deterministic"):
            journal.commit(record(weights="other"))


def test_records_survive_the_process(tmp_path) -> None:
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.commit(record(1))
        journal.commit(record(2))
    with Journal(tmp_path / "journal.sqlite", read_only=True) as journal:
        assert [r.task.seed for r in journal.records()] == [1, 2]


def test_a_damaged_journal_is_refused_with_its_place(tmp_path) -> None:
    (tmp_path / "journal.sqlite").write_bytes(b"this is no database, and long enough to be looked at" * 50)
    with pytest.raises(ArtifactError, match=r"journal\.sqlite is damaged"):
        Journal(tmp_path / "journal.sqlite")


def test_a_journal_of_another_version_is_refused(tmp_path) -> None:
    Journal(tmp_path / "journal.sqlite")._connection.close()
    with sqlite3.connect(tmp_path / "journal.sqlite") as connection:
        connection.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    connection.close()
    with pytest.raises(ArtifactError, match="version 99"):
        Journal(tmp_path / "journal.sqlite")


def test_a_second_coordinator_is_refused_and_the_lock_dies_with_its_holder(tmp_path) -> None:
    code = "import sys; from pathlib import Path; from agentkd.artifacts.run_folder import *; "
    code += "lock = RunLock(RunFolder(Path(sys.argv[1]))).__enter__(); print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    with (
        pytest.raises(ArtifactError, match=f"in use by another coordinator \\(process {holder.pid}\\)"),
        RunLock(RunFolder(tmp_path)),
    ):
        pass
    holder.kill()
    holder.communicate()
    with RunLock(RunFolder(tmp_path)):
        pass


def test_a_folder_without_a_run_says_how_to_make_one(tmp_path) -> None:
    with pytest.raises(ArtifactError, match="agentkd run FILE"):
        RunFolder(Path(tmp_path)).must_exist()
