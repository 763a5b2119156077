"""What a run could do without is listed without writing anything into it, as on a full disk; not while somebody works there."""

from pathlib import Path

import pytest
from file_layer import commit

from agentkd.artifacts.run_folder import RunFolder, RunLock
from agentkd.cli import app
from agentkd.cli.ending import run_to_the_end
from agentkd.errors import ArtifactError


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    commit(folder.place, 1)
    folder.store.put(b"nobody's")
    return folder


def files(folder: RunFolder) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.place.rglob("*") if path.is_file()}


def test_the_listing_writes_nothing(run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(run)
    monkeypatch.setattr(RunLock, "__enter__", lambda lock: pytest.fail("the lock is a file that is written"))
    assert run_to_the_end(app, ["gc", str(run.place)]) == 0
    assert "unreferenced: 1 files" in capsys.readouterr().out
    assert {name: data for name, data in files(run).items() if not name.endswith(("-shm", "-wal"))} == before


def test_it_is_refused_while_a_coordinator_works_there_or_begins_to(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLock(run):
        assert run_to_the_end(app, ["gc", str(run.place)]) == ArtifactError.exit_code
    assert "is in use by another coordinator (process " in capsys.readouterr().err
    lock = RunLock(run)
    with pytest.raises(ArtifactError, match="is in use"), RunLock(run).looked_at():
        lock.__enter__()
    lock.__exit__(None, None, None)
