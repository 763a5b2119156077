"""Stored bytes, records and the lock: nothing half-written, nothing twice, damage noticed."""

import contextlib
import errno
import logging
import os
import random
import re
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from agentkd import canonical, logs
from agentkd.architecture import Architecture
from agentkd.artifacts.garbage import find_garbage, remove
from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.run_folder import RunFolder, RunLock
from agentkd.artifacts.store import Store
from agentkd.coordinator.desk import Desk
from agentkd.errors import (
    AgentKDError,
    ArtifactCorruptError,
    ArtifactError,
    ArtifactNotFoundError,
    DescriptorsError,
    StorageError,
)
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


def test_whoever_meets_damage_is_told_what_can_be_done_and_not_what_cannot(tmp_path: Path) -> None:
    store = Store(tmp_path / "run" / "artifacts")
    digest = store.put(b"knowledge")
    store.path(digest).write_bytes(b"knowledgf")
    again = rf"AGAIN/artifacts after: agentkd replay {tmp_path}/run --task {digest[:12]} --out AGAIN$"
    with pytest.raises(ArtifactCorruptError, match=again):
        store.get(digest)
    store.remove(digest)
    with pytest.raises(ArtifactNotFoundError, match=again):
        store.get(digest)
    assert "replay" not in str(ArtifactCorruptError("piece from abc", digest, digest)), "what is sent is sent again"
    assert "replay" not in str(ArtifactNotFoundError("first", store.place)), "it is no digest"


@pytest.mark.parametrize("damage", [b"knowledgf", bytes(9), b"", b"know", b"knowledge, and more"])
def test_what_is_stored_again_over_damage_is_whole(tmp_path: Path, damage: bytes) -> None:
    store = Store(tmp_path)
    digest = store.put(b"knowledge")
    store.path(digest).write_bytes(damage)
    assert store.put(b"knowledge") == digest and store.get(digest) == b"knowledge"
    kept = store.path(digest).stat().st_ino
    assert store.put(b"knowledge") == digest and store.path(digest).stat().st_ino == kept, "what is sound is left as it is"


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../b", "", "0" * 63, "0" * 65, "CON", "\0" * 64])
def test_names_that_are_no_digests_lead_nowhere(tmp_path, name) -> None:
    for look in (Store(tmp_path).get, Store(tmp_path).path, Store(tmp_path).incoming):
        with pytest.raises(ArtifactNotFoundError):
            look(name)


def test_a_full_disk_is_a_typed_error_and_leaves_nothing(tmp_path, monkeypatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match=r"the disk is full \(No space left on device\); free some space"):
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


def test_records_that_belong_together_are_written_together_or_not_at_all(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses_the_second(journal: Journal, written: Record, sitting: int, provenance: str) -> None:
        if written.task == record(2).task:
            journal._connection.execute("PRAGMA max_page_count = 1")  # no page more than it has, as on a full disk
            journal._connection.execute("INSERT INTO meta VALUES ('much', ?)", ("x" * 100_000,))
        insert(journal, written, sitting, provenance)

    insert = Journal._insert
    with Journal(tmp_path / "journal.sqlite") as journal:
        monkeypatch.setattr(Journal, "_insert", refuses_the_second)
        with pytest.raises(StorageError, match=r"the disk is full.*free some space"):
            journal.commit(record(1), record(2))
        assert [*journal.records()] == [] and journal.sittings() == {}
        monkeypatch.setattr(Journal, "_insert", insert)
        journal._connection.execute("PRAGMA max_page_count = 100000")
        assert journal.commit(record(1), record(2)) and [*journal.records()] == [record(1), record(2)]
        assert journal.commit(record(1), record(3)) and not journal.commit(record(1), record(2))
        assert len([*journal.records()]) == 3 and len(journal.sittings()) == 1


def test_records_survive_the_process(tmp_path) -> None:
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.commit(record(1))
        journal.commit(record(2))
    with Journal(tmp_path / "journal.sqlite", read_only=True) as journal:
        assert [r.task.seed for r in journal.records()] == [1, 2]


def test_a_damaged_journal_is_refused_with_its_place(tmp_path) -> None:
    (tmp_path / "journal.sqlite").write_bytes(b"this is no database, and long enough to be looked at" * 50)
    with pytest.raises(ArtifactError, match=r"journal\.sqlite is damaged, or no journal"):
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
        pytest.raises(ArtifactError, match=f"in use by another coordinator \\(process {holder.pid}\\); wait until it ends, or"),
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


def test_what_lies_here_of_a_task_that_has_ended_is_removed_and_nothing_else(tmp_path) -> None:
    folder = RunFolder(tmp_path)
    kept = [folder.checkpoint("b"), folder.said("b", 0), folder.lesson("b")]
    for path in [*kept, folder.checkpoint("a"), folder.lesson("a"), folder.said("a", 0), folder.said("a", 1)]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    folder.clear("a")
    folder.clear("a")
    assert sorted(path for path in folder.checkpoints.rglob("*") if path.is_file()) == sorted(kept)
    assert not folder.said("a", 0).parent.exists()


def test_whether_somebody_works_in_a_folder_can_be_seen_from_outside(tmp_path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert not RunLock(folder).is_held
    folder.place.mkdir()
    folder.lock.write_text(f"{os.getpid()}, and longer: who held it before\n")
    with RunLock(folder):
        assert RunLock(folder).is_held and RunLock(folder).is_held
        assert folder.lock.read_text() == f"{os.getpid()}\n"
    assert folder.lock.is_file() and not RunLock(folder).is_held


def test_files_are_removed_and_counted_and_one_that_cannot_be_is_named(tmp_path) -> None:
    for name in "ab":
        (tmp_path / name).write_bytes(b"x")
    assert remove([tmp_path / "a", tmp_path / "b", tmp_path / "gone"]) == 3
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="folder"):
        remove([tmp_path / "folder"])


def test_an_artifact_that_comes_piece_by_piece_goes_on_where_it_stopped_and_appears_whole(tmp_path) -> None:
    store, data = Store(tmp_path), b"knowledge that comes slowly"
    digest = canonical.digest_bytes(data)
    with store.incoming(digest) as part:
        assert part.size_bytes == 0
        part.write(0, data[:9])
        with pytest.raises(StorageError, match="another process is receiving it"), store.incoming(digest):
            pass
    assert digest not in store
    with store.incoming(digest) as part:
        assert part.size_bytes == 9
        part.write(9, memoryview(data)[9:])
        part.commit()
    assert store.get(digest) == data and [path.suffix for path in tmp_path.rglob("*.*")] == [".safetensors"]


def test_an_artifact_that_came_with_another_digest_is_not_kept(tmp_path) -> None:
    store = Store(tmp_path)
    with store.incoming("ab" * 32) as part:
        part.write(0, b"something else")
        with pytest.raises(ArtifactCorruptError) as caught:
            part.commit()
    assert caught.value.expected == "ab" * 32 and caught.value.actual == canonical.digest_bytes(b"something else")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_link_is_no_artifact(tmp_path) -> None:
    store = Store(tmp_path / "store")
    digest = store.put(b"knowledge")
    elsewhere = tmp_path / "elsewhere"
    store.path(digest).rename(elsewhere)
    store.path(digest).symlink_to(elsewhere)
    with pytest.raises(ArtifactNotFoundError):
        store.get(digest)


def test_a_copy_of_a_journal_has_what_the_journal_has_and_what_is_noted_besides(tmp_path) -> None:
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.begin_sitting({"commit": "one"})
        journal.commit(record(1))
        journal.set_meta("a", [1])
        journal.copy_to(tmp_path / "copy.sqlite", left_out=["x"], a=2)
        assert journal.get_meta("a") == [1] and journal.check() == []
        with pytest.raises(StorageError, match=r"copy\.sqlite"):
            journal.copy_to(tmp_path / "copy.sqlite")
    with Journal(tmp_path / "copy.sqlite", read_only=True) as copied:
        assert [r.task.seed for r in copied.records()] == [1] and copied.sittings() == {1: {"commit": "one"}}
        assert (copied.get_meta("left_out"), copied.get_meta("a"), copied.get_meta("b")) == (["x"], 2, None)
    assert not list(tmp_path.glob("copy.sqlite-*"))


def test_a_journal_that_is_not_there_is_not_made_by_reading(tmp_path) -> None:
    with pytest.raises(StorageError):
        Journal(tmp_path / "journal.sqlite", read_only=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE asks SET seen = '[1]' WHERE trial = 3",
        "DELETE FROM asks WHERE trial = 3",
        "INSERT INTO asks VALUES ('other', 1, '[]')",
        "UPDATE meta SET value = '{\"seed\": 4}' WHERE key = 'experiment'",
        "DELETE FROM meta WHERE key = 'experiment'",
        "INSERT INTO meta VALUES ('more', '1')",
        "UPDATE meta SET value = '\"0\"' WHERE key = 'seal'",
    ],
)
def test_whoever_reads_records_notices_that_what_is_noted_beside_them_was_changed(tmp_path, edit: str) -> None:
    path = tmp_path / "journal.sqlite"
    with Journal(path) as journal:
        journal.set_meta("experiment", {"seed": 2})
        journal.set_meta("experiment", {"seed": 3})
        journal.note_asks({"study": {2: (0, 1), 3: (0, 2)}})
        journal.commit(record(1))
        journal.adopt({"experiment": {"seed": 5}, "earlier": []}, {"study": {2: (0,), 3: (0, 1)}})
        journal.note_asks({"study": {4: ()}})
        journal.copy_to(tmp_path / "copy.sqlite", name="b")
    for place in (path, tmp_path / "copy.sqlite"):
        with Journal(place, read_only=True) as journal:
            assert len(list(journal.must_be_whole().records())) == 1
        with contextlib.closing(sqlite3.connect(place)) as connection, connection:
            connection.execute(edit)
        with Journal(place, read_only=True) as journal, pytest.raises(ArtifactError, match="its seal is not that of"):
            list(journal.records())


def test_a_journal_that_was_begun_without_a_seal_gets_one_with_its_next_note(tmp_path) -> None:
    path = tmp_path / "journal.sqlite"
    Journal(path).__exit__(None, None, None)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM meta WHERE key = 'seal'")
        connection.execute("INSERT INTO meta VALUES ('older', '1')")
    with Journal(path) as journal:
        journal.must_be_whole()
        journal.note_asks({"study": {1: ()}})
        journal.must_be_whole()
        assert journal.get_meta("seal")


def test_an_empty_journal_beside_artifacts_is_not_begun_anew(tmp_path) -> None:
    journal, store = tmp_path / "journal.sqlite", Store(tmp_path / "artifacts")
    journal.touch()
    Journal(journal).__exit__(None, None, None)  # a run that was killed before it had recorded anything
    store.put(b"weights")
    Journal(journal).__exit__(None, None, None)
    journal.write_bytes(b"")
    with pytest.raises(ArtifactError, match="is empty, though artifacts of a run lie in"):
        Journal(journal)


def test_a_journal_that_cannot_be_read_on_is_a_typed_error(tmp_path) -> None:
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.commit(record(1))
    with sqlite3.connect(tmp_path / "journal.sqlite") as connection:
        connection.execute("DROP TABLE records")
    connection.close()
    with pytest.raises(ArtifactError, match=r"journal\.sqlite is damaged.* other tables"):
        Journal(tmp_path / "journal.sqlite", read_only=True)


def test_an_artifact_whose_folder_cannot_be_synced_is_a_typed_error_too(tmp_path, monkeypatch) -> None:
    def failing(folder: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("agentkd.artifacts.store.sync_folder", failing)
    with pytest.raises(StorageError, match="Input/output error"):
        Store(tmp_path).put(b"knowledge")
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.EIO, StorageError, "cannot use .* the disk is broken"),
        (errno.EMFILE, DescriptorsError, "cannot open .* all descriptors"),
        (errno.EACCES, ArtifactError, "cannot be read: Permission denied"),
    ],
)
def test_what_keeps_an_artifact_from_being_read_is_told_from_damage(
    number: int, kind: type[AgentKDError], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    digest = store.put(b"knowledge")

    def refusing(*told: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("agentkd.artifacts.store.os.open", refusing)
    with pytest.raises(kind, match=words):
        store.get(digest)


@pytest.mark.parametrize("gone", [("-wal",), ("-wal", "-shm"), ("",), ("", "-wal", "-shm")], ids="+".join)
def test_whoever_removes_a_journal_in_mid_run_takes_no_record_away(gone: tuple[str, ...], tmp_path: Path) -> None:
    place = tmp_path / "journal.sqlite"
    with Journal(place) as journal:
        journal.commit(record(1))
        for suffix in gone:
            place.with_name(f"{place.name}{suffix}").unlink()
        with pytest.raises(StorageError, match=r"journal\.sqlite.* was removed while it was open; all .* saved.*goes on"):
            journal.commit(record(2))
        with Journal(place, read_only=True) as reader:
            assert len([*reader.records()]) == 2
    with Journal(place) as journal:
        assert [one.task.seed for one in journal.must_be_whole().records()] == [1, 2]


def test_a_journal_in_whose_place_another_was_put_is_saved_beside_it(tmp_path: Path) -> None:
    place = tmp_path / "journal.sqlite"
    with Journal(place) as journal:
        journal.commit(record(1))
        place.rename(tmp_path / "away")
        place.write_bytes(b"another")
        with pytest.raises(StorageError, match=r"saved as .*journal\.sqlite\.saved-1"):
            journal.commit(record(2))
    assert place.read_bytes() == b"another"
    with Journal(tmp_path / "journal.sqlite.saved-1", read_only=True) as saved:
        assert [one.task.seed for one in saved.must_be_whole().records()] == [1, 2]


def test_a_part_that_cannot_be_written_is_said_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "store").write_bytes(b"no folder")
    with pytest.raises(StorageError, match=r"\.incoming"), Store(tmp_path / "store").incoming("ab" * 32):
        pass
    with Store(tmp_path / "new" / "store").incoming("ab" * 32) as part:
        assert part.size_bytes == 0, "where there is no folder yet it is made"


@pytest.mark.parametrize("name", ["run #1", "100%25", "what?mode=rw"])
def test_a_run_folder_may_have_any_name(tmp_path, name: str) -> None:
    with Journal(tmp_path / "new" / name / "journal.sqlite") as journal:
        journal.commit(record(1))
    with Journal(tmp_path / "new" / name / "journal.sqlite", read_only=True) as journal:
        assert [r.task.seed for r in journal.records()] == [1]


def test_what_is_stored_is_on_the_disk_before_it_has_its_name_and_so_is_the_name(tmp_path, monkeypatch) -> None:
    synced: list[tuple[str, int]] = []

    def remember(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append((path.suffix, path.stat().st_size if path.is_file() else len(list(path.glob("*.safetensors")))))

    monkeypatch.setattr("os.fsync", remember)
    store = Store(tmp_path)
    digest = store.put(b"knowledge")
    assert synced == [("", 0), (".part", 9), ("", 1)], "where the folder is, the bytes without a name, then the folder with it"
    synced.clear()
    store.path(digest).unlink()
    with store.incoming(digest) as part:
        part.write(0, b"knowledge")
        part.commit()
    assert synced == [(".incoming", 9), ("", 1)]


def test_what_a_killed_coordinator_left_is_swept_and_nothing_else(tmp_path, monkeypatch) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.sweep()
    kept = [folder.store.path(folder.store.put(b"kept")), folder.checkpoint("a"), folder.lesson("a"), folder.logs / "agent-1.log"]
    left = [folder.keys / "agent-1.json", folder.visitors / "guest", folder.checkpoints / "a.part"]
    for path in [*kept[1:], *left]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")

    def killed(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().suffix == ".part":
            raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        folder.store.put(b"half")
    assert len(list(folder.store.place.rglob("*.part"))) == 1
    folder.sweep()
    assert sorted(path for path in folder.place.rglob("*") if path.is_file()) == sorted(kept)


def test_an_artifact_that_comes_is_written_whole_even_if_the_system_takes_less_at_a_time(tmp_path, monkeypatch) -> None:
    write = os.pwrite
    monkeypatch.setattr("os.pwrite", lambda descriptor, data, offset: write(descriptor, data[:4], offset))
    store, data = Store(tmp_path), b"knowledge that comes slowly"
    digest = canonical.digest_bytes(data)
    with store.incoming(digest) as part:
        part.write(0, data[:3])
        part.write(3, data[3:])
        part.commit()
    assert store.get(digest) == data and not store.path(digest).stat().st_mode & 0o111, "it is no program"


def test_nothing_is_written_through_a_link_that_lies_where_an_artifact_is_to_come(tmp_path) -> None:
    store = Store(tmp_path / "store")
    with store.incoming("ab" * 32):
        part = next((tmp_path / "store").rglob("*.incoming"))
    part.unlink()
    part.symlink_to(tmp_path / "mine")
    with pytest.raises(StorageError, match=r"\.incoming"), store.incoming("ab" * 32):
        pass
    assert not (tmp_path / "mine").exists()


def test_what_is_removed_or_made_a_link_while_it_is_looked_for_is_not_read(tmp_path) -> None:
    class Raced(Store):
        """Somebody is quicker."""

        def must_have(self, digest: str) -> Path:
            path = super().must_have(digest)
            path.rename(tmp_path / "elsewhere")
            if self.is_linked:
                path.symlink_to(tmp_path / "elsewhere")
            return path

    for is_linked, error in ((False, ArtifactNotFoundError), (True, ArtifactError)):
        store = Raced(tmp_path / "store")
        store.is_linked = is_linked
        digest = store.put(b"knowledge")
        with pytest.raises(error):
            store.get(digest)


def test_no_file_is_left_open_by_who_is_refused_or_looks(tmp_path) -> None:
    folder = RunFolder(tmp_path / "new" / "run")
    with RunLock(folder):
        Journal(folder.journal).__exit__(None, None, None)
    with RunLock(folder), folder.store.incoming("ab" * 32):
        before = psutil.Process().num_fds()
        for _ in range(3):
            assert RunLock(folder).is_held
            with pytest.raises(ArtifactError, match="in use"), RunLock(folder):
                pass
            with pytest.raises(StorageError, match="is receiving it"), folder.store.incoming("ab" * 32):
                pass
            folder.store.put(b"knowledge")
        journals = [Journal(folder.journal, read_only=read_only) for read_only in (False, True)]
        for journal in journals:
            with journal:
                assert list(journal.records()) == []
        assert psutil.Process().num_fds() == before
    assert not RunLock(folder).is_held and psutil.Process().num_fds() == before - 2


def test_a_lock_whose_file_says_something_strange_holds_all_the_same(tmp_path) -> None:
    folder = RunFolder(tmp_path)
    with RunLock(folder):
        assert not folder.lock.stat().st_mode & 0o111, "it is no program"
        folder.lock.write_bytes(b"\xff" + b"9" * 200)
        with pytest.raises(ArtifactError, match=r"\(process \ufffd9{99}\)"), RunLock(folder):
            pass
        folder.lock.write_bytes(b"")
        with pytest.raises(ArtifactError, match=r"\(process unknown\)"), RunLock(folder):
            pass


def test_a_lock_or_a_journal_where_no_folder_can_be_is_a_typed_error(tmp_path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    folder = RunFolder(tmp_path / "file" / "run")
    with pytest.raises(StorageError, match="run/lock"), RunLock(folder):
        pass
    with pytest.raises(StorageError, match=r"journal\.sqlite"):
        Journal(folder.journal)


def test_who_reads_a_journal_does_not_keep_the_coordinator_from_writing(tmp_path) -> None:
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.commit(record(1), record(2), record(3))
        with Journal(tmp_path / "journal.sqlite", read_only=True) as reading:
            records = reading.records()
            assert next(records).task.seed == 1
            journal.commit(record(4))
            assert [r.task.seed for r in records] == [2, 3], "as it was when reading began"
            assert len(list(reading.records())) == 4
            with pytest.raises(StorageError, match="readonly"):
                reading.set_meta("a", 1)


def test_a_journal_that_is_damaged_while_it_is_open_is_found_to_be(tmp_path) -> None:
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.commit(record(1))
    with Journal(tmp_path / "journal.sqlite", read_only=True) as journal:
        os.truncate(journal.path, 4096)
        assert journal.check() == ["database disk image is malformed"]


def test_what_is_in_a_run_folder_is_where_the_guide_says() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "how-to" / "run.md").read_text(encoding="utf-8")
    table = guide.partition("| in the run folder | |\n")[2].partition("\n\n")[0].splitlines()[1:]
    told = {Path("run", name) for row in table for name in re.findall(r"`([^`]+)`", row.split("|")[1])}
    paths = {getattr(path, "place", path) for path in vars(RunFolder(Path("run"))).values()}
    assert len(told) == 9 and told <= paths


def test_a_journal_of_this_version_can_be_read_for_ever(tmp_path) -> None:
    dump = Path(__file__).parents[1] / "golden" / "journal" / "version_2.sql"
    with contextlib.closing(sqlite3.connect(tmp_path / "journal.sqlite")) as connection:
        connection.executescript(dump.read_text(encoding="utf-8"))
    with Journal(tmp_path / "journal.sqlite", read_only=True) as journal:
        (row,) = journal.rows()
        assert row.record == replace(record(1), label="a training") and row.record.at == "2026-01-01T00:00:00Z"
        assert row.digest == row.expected_digest("", canonical.encode(journal.sittings()[row.sitting]).decode())
        assert journal.asks() == {"unet": {0: ()}} and journal.check() == []


def test_a_record_keeps_the_time_at_which_it_was_first_committed(tmp_path) -> None:
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.commit(replace(record(1), at="2026-01-01T00:00:00Z"), record(2))
        first, second = (r.at for r in journal.records())
    assert first == "2026-01-01T00:00:00Z" and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", second)


def test_what_goes_by_itself_while_a_folder_is_swept_is_no_error(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: [folder / "gone"])
    RunFolder(tmp_path).sweep()


CHANGES = [
    ("outputs", '"miou":0.5', '"miou":0.9'),
    ("circumstances", "agent-1", "agent-2"),
    ("inputs", '"seed":1', '"seed":7'),
]


@pytest.mark.parametrize(("column", "old", "new"), CHANGES)
def test_whoever_reads_records_refuses_one_that_was_changed(tmp_path: Path, column: str, old: str, new: str) -> None:
    path = tmp_path / "journal.sqlite"
    with Journal(path) as journal:
        journal.begin_sitting({"commit": "one"})
        journal.commit(record(1), record(2))
        assert [one.task.seed for one in journal.must_be_whole().records()] == [1, 2]
    with sqlite3.connect(path) as connection:
        text = connection.execute(f"SELECT {column} FROM records WHERE number = 1").fetchone()[0]
        assert old in text
        connection.execute(f"UPDATE records SET {column} = ? WHERE number = 1", (text.replace(old, new),))
    connection.close()
    with Journal(path, read_only=True) as journal:
        with pytest.raises(ArtifactError, match="record 1 that was changed"):
            list(journal.records())
        with pytest.raises(ArtifactError, match="record 1 that was changed"):
            journal.must_be_whole()
    with pytest.raises(ArtifactError, match="record 1 that was changed"), Desk(RunFolder(tmp_path), NoHands):
        pass


class NoHands:
    """Nobody, for a desk that must not begin."""

    def __init__(self) -> None:
        raise AssertionError


def test_a_bit_that_flips_in_a_journal_is_refused_or_changes_no_record(tmp_path: Path) -> None:
    path, flips = tmp_path / "journal.sqlite", random.Random(3)
    with Journal(path) as journal:
        journal.begin_sitting({"commit": "one"})
        journal.commit(*(record(seed) for seed in range(6)))
        journal.note_asks({"study": {1: (0,), 2: (0, 1)}})
        sound = list(journal.records())
    whole = path.read_bytes()
    for _ in range(400):
        place = flips.randrange(len(whole) * 8)
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(data)
        for read_only in (True, False):
            try:
                with Journal(path, read_only=read_only) as journal:
                    found = list(journal.must_be_whole().records())
                    journal.asks()
                    journal.last_sitting()
                    journal.find(sound[0].task.key)
                    if not read_only:
                        journal.commit(record(9))
                assert found == sound, place
            except (ArtifactError, StorageError):
                pass
            for left in tmp_path.glob("journal.sqlite-*"):
                left.unlink()


def test_what_a_process_left_is_swept_and_listed_as_garbage_wherever_it_lies(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with Journal(folder.journal) as journal:
        journal.commit(record(1))
    key = "ab" * 32
    kept = [folder.checkpoint(key), folder.lesson(key), folder.said(key, 3), folder.report / "index.html"]
    own = folder.of_agent("agent-1")
    left = [folder.checkpoints / ".tmpAbC", folder.checkpoints / f"{key}.71.part", folder.said(key, 3).with_suffix(".part")]
    left += [
        folder.keys / "agent-1-71.json",
        folder.keys / "tmpx.part",
        own.checkpoints / ".tmpD",
        own.store.place / "ab" / "tmpy.part",
    ]
    left += [folder.report / ".table.csv.71.part", folder.place / ".experiment.yaml.71.part"]
    for path in (*kept, *left):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    assert set(left) <= set(find_garbage(folder).unreferenced) and not set(kept) & set(find_garbage(folder).unreferenced)
    folder.sweep()
    assert not any(path.exists() for path in left) and all(path.exists() for path in kept)


def test_what_cannot_be_removed_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, key = RunFolder(tmp_path), "ab" * 32
    for path in (folder.checkpoint(key), folder.lesson(key), folder.keys / "agent-1.json"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")

    def read_only(path: Path, *, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "unlink", read_only)
    folder.clear(key)
    folder.sweep()
    assert folder.checkpoint(key).exists()
    monkeypatch.undo()
    folder.sweep()
    folder.clear(key)
    assert not folder.checkpoint(key).exists() and not list(folder.keys.iterdir())


def test_a_lock_that_cannot_be_written_is_a_typed_error_and_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    lock = RunLock(RunFolder(tmp_path))
    monkeypatch.setattr("agentkd.artifacts.run_folder.os.write", full)
    with pytest.raises(StorageError, match=r"lock: the disk is full"), lock:
        pass
    monkeypatch.undo()
    assert not lock.is_held


def test_a_log_that_cannot_be_written_ends_in_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = list(root.handlers)
    logs.to_file(tmp_path / "log")
    (handler,) = [one for one in root.handlers if one not in before]
    try:
        handler.stream.close()  # type: ignore[attr-defined]
        handler.stream = Path("/dev/full").open("w", encoding="utf-8")  # type: ignore[attr-defined]  # noqa: SIM115
        logging.getLogger("agentkd").warning("there is no room for this")
        assert "Traceback" not in capsys.readouterr().err
    finally:
        root.removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()


def test_a_journal_that_another_program_holds_says_so(tmp_path: Path) -> None:
    place = tmp_path / "journal.sqlite"
    with Journal(place) as journal:
        journal.commit(record(1))
        journal._connection.execute("PRAGMA busy_timeout = 1")
        with contextlib.closing(sqlite3.connect(place, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(StorageError, match="database is locked; another program holds it") as stopped:
                journal.commit(record(2))
            assert stopped.value.exit_code == StorageError.exit_code
            other.execute("ROLLBACK")
        journal.commit(record(2))
        assert len([*journal.records()]) == 2
