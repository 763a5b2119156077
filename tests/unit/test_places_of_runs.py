"""Where run folders can be: under any name, where they can only be read, on file systems that lack something."""

import contextlib
import ctypes
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from foreign import honest_run
from typer.testing import CliRunner

from agentkd import canonical
from agentkd.artifacts import file_system, run_folder
from agentkd.artifacts.bundle import unpack
from agentkd.artifacts.comparison import compare
from agentkd.artifacts.history import read_history
from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.provenance import provenance
from agentkd.artifacts.run_folder import RunFolder, RunLock, beside, called_after
from agentkd.artifacts.verification import verify
from agentkd.cli import app
from agentkd.coordinator.data_places import bases, noted_places
from agentkd.errors import AgentKDError, ArtifactError, StorageError
from agentkd.exchange.grants import Registry
from agentkd.exchange.keys import new_key_pair, save_key_pair
from agentkd.replay.perform import ReplayOptions, default_out, replay
from agentkd.report.packing import write_bundle
from agentkd.report.places import look_at_places
from agentkd.report.write import place_for, write_report
from agentkd.task import Status

NAMES = (
    "what?now",
    "run#2",
    "50%20off",
    "a b",
    "Läufe 火",
    "-dash",
    "new\nline",
    "q'uo\"te",
    "$HOME",
    "[1]",
    "{1}",
    "~",
    "火" * 85,
)


CAPABILITIES_3, PASSES_OVER_MODES = 0x20080522, 0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return honest_run(tmp_path_factory.mktemp("honest") / "run")


@pytest.fixture
def run(honest: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(honest.place, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def names_in(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


@pytest.mark.parametrize("name", [*NAMES, "/".join(["p" * 60] * 6)], ids=str.encode)
def test_a_run_lives_under_any_name(run: RunFolder, tmp_path: Path, name: str) -> None:
    there = RunFolder(tmp_path / "other" / name)
    there.place.parent.mkdir(parents=True)
    run.place.rename(there.place)
    assert not verify(there).problems and len(read_history(there).by_task) == 2
    assert not compare(there, there).configuration
    with RunLock(there), Journal(there.journal) as journal:
        journal.set_meta("x", 1)
    write_bundle(there, tmp_path / "run.zip")
    unpacked = RunFolder(there.place.with_name(there.place.name[:-1] + "-"))
    unpack(tmp_path / "run.zip", unpacked.place)
    assert not verify(unpacked).problems
    out = default_out(there.place, ())
    out.mkdir()
    assert out.parent == there.place.parent and out.name != there.place.name
    assert names_in(there.place.parent) == sorted([there.place.name, unpacked.place.name, out.name])


@pytest.mark.parametrize("name", [".", "../work", "..", "inner/.."])
def test_a_run_is_named_by_where_one_stands(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "work/inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    out = default_out(Path(name), ())
    expected = tmp_path if name == ".." else tmp_path / "work"
    assert out.name == f"{expected.name}-replay" and out.resolve().parent == expected.parent
    write_bundle(run, tmp_path / "run.zip")
    if name == ".":
        (tmp_path / "work/inner").rmdir()
        unpack(tmp_path / "run.zip", Path(name))
        assert not verify(RunFolder(tmp_path / "work")).problems


def test_a_bundle_is_unpacked_below_a_folder_that_is_not_there_yet(run: RunFolder, tmp_path: Path) -> None:
    write_bundle(run, tmp_path / "run.zip")
    unpack(tmp_path / "run.zip", tmp_path / "runs/theirs")
    assert names_in(tmp_path / "runs") == ["theirs"]


def test_a_name_in_another_encoding_can_be_told_where_only_text_can(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    strange = os.fsdecode(b"x\xff\xfey")
    monkeypatch.setattr(sys, "argv", ["agentkd", "run", strange])
    monkeypatch.delenv("AGENTKD_DATA", raising=False)
    Path(strange).mkdir()
    monkeypatch.chdir(strange)
    canonical.encode(provenance())
    with Journal(run.journal) as journal:
        journal.adopt(noted_places(run.place), {})
        assert list(bases(journal, run.place)) == [""]
    assert called_after(Path(strange), "-replay") == f"{strange}-replay"


def test_what_is_named_after_a_run_fits_into_a_name() -> None:
    for name in ("n" * 255, "火" * 85, "x", "."):
        called = beside(Path("/tmp") / name, "-replay").name
        assert called.endswith("-replay") and len(os.fsencode(called)) <= run_folder.MAX_NAME_BYTES


@contextlib.contextmanager
def only_read(folder: RunFolder) -> Iterator[RunFolder]:
    """A run that may only be read, by this thread, which obeys the modes of files meanwhile also if it is root's."""
    modes = {path: path.stat().st_mode for path in (folder.place, *folder.place.rglob("*"))}
    libc, header, sets = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(CAPABILITIES_3, 0), (ctypes.c_uint32 * 6)()
    try:
        for path in modes:
            path.chmod(0o555 if path.is_dir() else 0o444)
        assert libc.capget(header, sets) == 0
        before, sets[0] = sets[0], sets[0] & ~PASSES_OVER_MODES
        assert libc.capset(header, sets) == 0
        assert not os.access(folder.place, os.W_OK, effective_ids=True)
        try:
            yield folder
        finally:
            sets[0] = before
            assert libc.capset(header, sets) == 0
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


@pytest.mark.parametrize("left", [(), ("journal.sqlite-wal",), ("journal.sqlite-shm", "journal.sqlite-wal")], ids=len)
def test_a_journal_is_read_where_nothing_can_be_written(run: RunFolder, left: tuple[str, ...]) -> None:
    for name in left:
        (run.place / name).touch()
    with only_read(run) as seen:
        assert not verify(seen).problems and len(read_history(seen).by_task) == 2
        assert not compare(seen, seen).configuration


@pytest.mark.parametrize("is_shared", [False, True])
def test_what_waits_beside_such_a_journal_is_read_too(run: RunFolder, is_shared: bool) -> None:
    log, shared = (run.journal.with_name(f"journal.sqlite-{what}") for what in ("wal", "shm"))
    first = next(iter(read_history(run).by_task.values()))
    failed = first.result.model_copy(update={"status": Status.FAILED, "weights": "", "error_code": "x"})
    with Journal(run.journal) as journal:
        journal.commit(Record(first.task.replace(seed=99), failed, "agent-1", 1))
        killed = {path: path.read_bytes() for path in (run.journal, log, *([shared] if is_shared else []))}
    for path, data in killed.items():
        path.write_bytes(data)
    with only_read(run) as seen:
        assert len(read_history(seen).by_task) == 3 and not verify(seen).problems
        assert (seen.place / log.name).read_bytes() == killed[log]


def test_a_journal_that_may_not_be_read_is_not_called_damaged(run: RunFolder) -> None:
    with only_read(run) as seen:
        seen.journal.chmod(0)
        with pytest.raises(ArtifactError, match="cannot be read: Permission denied; ask its owner"):
            read_history(seen)


def test_a_report_and_a_replay_of_what_can_only_be_read_are_written_elsewhere(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    forbidden = {str(run.report), str(run.place), str(tmp_path)}
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) not in forbidden)
    assert place_for(run) == Path("run-report") and default_out(run.place, ()) == Path("run-replay")
    forbidden.add(".")
    elsewhere = place_for(run)
    assert elsewhere.is_dir() and not elsewhere.is_relative_to(tmp_path)
    elsewhere.rmdir()
    monkeypatch.undo()
    assert place_for(run) == run.report


def test_a_report_goes_where_one_wants_it(run: RunFolder, tmp_path: Path) -> None:
    before = names_in(run.report)
    result = CliRunner().invoke(app, ["report", str(run.place), "--out", str(tmp_path / "mine")])
    assert result.exit_code == 0 and (tmp_path / "mine/report.html").is_file()
    assert names_in(run.report) == before


def empty(run: RunFolder) -> None:
    with Journal(run.journal) as journal, journal._writing():
        journal._connection.execute("DELETE FROM records")


def test_a_run_with_nothing_finished_has_a_report_and_no_replay(run: RunFolder, tmp_path: Path) -> None:
    empty(run)
    assert "not finished" in write_report(run).page.read_text(encoding="utf-8")
    with pytest.raises(ArtifactError, match="no finished task yet, so there is nothing to replay"):
        replay(run, RunFolder(tmp_path / "out"), ReplayOptions())
    assert not (tmp_path / "out").exists()


def test_a_run_in_which_all_failed_has_a_report_and_a_replay_that_keeps_it_so(run: RunFolder, tmp_path: Path) -> None:
    first = next(iter(read_history(run).by_task.values()))
    empty(run)
    failed = first.result.model_copy(update={"status": Status.FAILED, "weights": "", "history": (), "error_code": "x"})
    with Journal(run.journal) as journal:
        journal.commit(Record(first.task, failed, "agent-1", 1))
    write_report(run)
    result = CliRunner().invoke(app, ["replay", str(run.place), "--out", str(tmp_path / "out"), "--task", first.task.key])
    assert result.exit_code == 0 and (tmp_path / "out/replay.json").is_file(), result.output


def refusing(number: int) -> Callable[..., None]:
    def refuse(*args: object, **more: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
@pytest.mark.parametrize(("module", "name", "said"), [("fcntl", "flock", "no locks"), ("os", "fsync", "made to stay")])
def test_a_file_system_that_cannot_hold_a_run_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str, said: str, number: int
) -> None:
    monkeypatch.setattr(getattr(file_system, module), name, refusing(number))
    with pytest.raises(ArtifactError) as caught, RunLock(RunFolder(tmp_path / "run")):
        pass
    assert said in str(caught.value) and os.strerror(number) in str(caught.value) and "(--out)" in str(caught.value)
    assert names_in(tmp_path / "run") == ["lock"]


def test_a_file_system_on_which_everybody_reads_the_keys_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chmod = Path.chmod
    monkeypatch.setattr(Path, "chmod", lambda path, mode: chmod(path, 0o755))
    with pytest.raises(ArtifactError, match="keeps nothing from others"), RunLock(RunFolder(tmp_path / "run")):
        pass


def test_one_without_modes_that_is_private_all_the_same_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "chmod", refusing(errno.EPERM))
    (tmp_path / "run").mkdir(mode=0o700)
    with RunLock(RunFolder(tmp_path / "run")):
        (tmp_path / "run/keys").mkdir(mode=0o700)
        save_key_pair(tmp_path / "run/keys/a.json", new_key_pair())
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(StorageError, match="Operation not permitted"):
        save_key_pair(tmp_path / "open/a.json", new_key_pair())


def test_a_disk_that_breaks_is_not_called_a_file_system_that_lacks_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_system.os, "fsync", refusing(errno.EIO))
    with pytest.raises(StorageError, match="the disk is broken"), RunLock(RunFolder(tmp_path / "run")):
        pass


def test_the_doctor_looks_at_the_same_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nowhere")
    found = {name: (is_ok, text) for name, is_ok, text in look_at_places(tmp_path)}
    assert all(is_ok for is_ok, _ in found.values()) and "/nowhere" in found["socket files"][1]
    monkeypatch.setattr(file_system.fcntl, "flock", refusing(errno.ENOLCK))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("t" * 100)))
    found = {name: (is_ok, text) for name, is_ok, text in look_at_places(tmp_path)}
    assert not found["run folders"][0] and "no locks" in found["run folders"][1]
    assert not found["temporary files"][0] and "TMPDIR" in found["temporary files"][1]
    assert found["socket files"][0] and "TCP on this host" in found["socket files"][1]
    assert not next(look_at_places(tmp_path / "missing"))[1]


def test_without_locks_nobody_is_said_to_work_in_a_run_and_keys_are_not_registered(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunLock(run):
        assert RunLock(run).is_held
    monkeypatch.setattr(file_system.fcntl, "flock", refusing(errno.ENOLCK))
    assert not RunLock(run).is_held
    with pytest.raises(AgentKDError, match="no locks"):
        Registry(tmp_path / "keys").register("ann", new_key_pair().public, frozenset())
