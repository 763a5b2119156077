"""What is not agentkd's stays as it is, also where a folder is taken because something is absent from it."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from foreign import honest_run
from typer.testing import CliRunner

import agentkd
from agentkd import testing
from agentkd.artifacts.bundle import unpack
from agentkd.artifacts.history import read_history
from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.run_folder import RunFolder, RunLock
from agentkd.cli.app import app
from agentkd.coordinator.desk import desk_with_agents
from agentkd.coordinator.watching import Silent
from agentkd.errors import AgentKDError, ArtifactError
from agentkd.launch.settings import LaunchConfig
from agentkd.replay.perform import default_out
from agentkd.report import write
from agentkd.report.packing import write_bundle
from agentkd.report.write import place_for, write_report
from agentkd.task import Status

MINE = ("keys/agent.json", "keys/x.part", "cache/photo/1.png", "cache/used", "lock", "replay.json", "logs/agent-1.log", "x.txt")
MINE += (
    "experiment.yaml",
    "checkpoints/best.part",
    "artifacts/08/mine.part",
    "report/report.html",
    "report/table.csv",
    "study.db",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return honest_run(tmp_path_factory.mktemp("honest") / "run")


@pytest.fixture
def theirs(made: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run whose only task failed: a replay of it executes nothing, and writes its report."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made.place, tmp_path / "theirs")
    run = RunFolder(tmp_path / "theirs")
    first = next(iter(read_history(run).by_task.values()))
    failed = first.result.model_copy(update={"status": Status.FAILED, "weights": "", "history": (), "error_code": "x"})
    with Journal(run.journal) as journal:
        with journal._writing():
            journal._connection.execute("DELETE FROM records")
        journal.commit(Record(first.task, failed, "agent-1", 1))
    return run


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder of the user's, in which much is called as in a run folder."""
    folder = tmp_path / "mine"
    for name in MINE:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"my {name}")
    return folder


def seen(place: Path) -> dict[str, str]:
    return {str(path.relative_to(place)): path.read_text(errors="replace") for path in place.rglob("*") if path.is_file()}


def command(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


STANDING: dict[str, Callable[[Path, Path], object]] = {
    "a link": lambda place, mine: place.symlink_to(mine),
    "a folder": lambda place, mine: shutil.copytree(mine, place),
    "an empty folder": lambda place, mine: place.mkdir(),
    "a link to nothing": lambda place, mine: place.symlink_to(mine.parent / "nothing"),
    "a file": lambda place, mine: place.write_text("mine"),
}


@pytest.mark.parametrize("standing", STANDING)
def test_a_replay_goes_by_itself_only_where_nothing_stands(theirs: RunFolder, mine: Path, tmp_path: Path, standing: str) -> None:
    STANDING[standing](tmp_path / "theirs-replay", mine)
    before = seen(tmp_path)
    for reuse in (False, True):
        assert default_out(theirs.place, (), reuse=reuse) == tmp_path / "theirs-replay-2"
    result = command("replay", str(theirs.place))
    assert "theirs-replay-2/replay.json" in result.output
    assert (tmp_path / "theirs-replay-2" / "replay.json").is_file()
    after = seen(tmp_path)
    assert {name: after.get(name) for name in before if "journal" not in name} == {
        name: text for name, text in before.items() if "journal" not in name
    }


def test_a_replay_that_is_gone_on_with_is_no_link_to_anothers(theirs: RunFolder, made: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "theirs-replay").symlink_to(made.place)
    assert default_out(theirs.place, (), reuse=True) == tmp_path / "theirs-replay-2"
    assert "replay.json" in command("replay", str(theirs.place)).output
    assert default_out(theirs.place, (), reuse=True) == tmp_path / "theirs-replay-2"
    assert default_out(theirs.place, ()) == tmp_path / "theirs-replay-3"


def desk(place: Path) -> None:
    with desk_with_agents(RunFolder(place), (), LaunchConfig(), Silent(), is_forgiving=True) as opened:
        assert opened.crew


def community(place: Path) -> None:
    with agentkd.Community(devices="none", record=place):
        pass


def lock(place: Path) -> None:
    with RunLock(RunFolder(place)):
        pass


def by_command(*words: str) -> Callable[[Path], None]:
    def call(place: Path) -> None:
        result = command(*(word.replace("PLACE", str(place)) for word in words))
        assert result.exit_code, result.output
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception

    return call


TAKES: dict[str, Callable[[Path], object]] = {
    "lock": lock,
    "desk": desk,
    "community": community,
    "community before it is entered": lambda place: agentkd.Community(devices="none", record=place),
    "community in this process": lambda place: testing.Community(record=place),
    "agentkd community": by_command("community", "PLACE", "--devices", "none"),
    "agentkd replay": by_command("replay", "theirs", "--out", "PLACE"),
    "agentkd replay --reuse": by_command("replay", "theirs", "--out", "PLACE", "--reuse"),
    "agentkd import": by_command("import", "theirs.zip", "PLACE"),
}


@pytest.mark.parametrize("is_link", [False, True], ids=["itself", "by a link"])
@pytest.mark.parametrize("how", TAKES)
def test_a_folder_that_is_no_runs_is_not_taken_for_one(
    theirs: RunFolder, mine: Path, tmp_path: Path, how: str, is_link: bool
) -> None:
    write_bundle(theirs, tmp_path / "theirs.zip")
    place = mine
    if is_link:
        place = tmp_path / "link"
        place.symlink_to(mine)
    with pytest.raises(ArtifactError, match=r"is no run folder: it has no journal|not empty|is a link"):
        TAKES[how](place)
    assert seen(mine) == {name: f"my {name}" for name in MINE}


@pytest.mark.parametrize("name", [name for name in MINE if name not in ("lock", "x.txt")])
def test_each_place_alone_tells_that_a_folder_is_anothers(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(ArtifactError, match=f"but {name} where a run would write"):
        lock(tmp_path)
    assert seen(tmp_path) == {name: "mine"}


def test_a_run_that_ended_before_it_had_a_journal_can_be_begun_again_and_notes_are_no_hindrance(tmp_path: Path) -> None:
    for name in ("lock", "logs/coordinator.log", "notes.txt", "data/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "keys").mkdir()
    desk(tmp_path)
    assert (tmp_path / "journal.sqlite").is_file() and (tmp_path / "notes.txt").is_file()


@pytest.mark.parametrize("how", TAKES)
def test_a_link_to_nothing_is_told_as_that(theirs: RunFolder, tmp_path: Path, how: str) -> None:
    write_bundle(theirs, tmp_path / "theirs.zip")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(ArtifactError, match=r"link is a link \(to .*gone\), where nothing is"):
        TAKES[how](tmp_path / "link")
    assert not (tmp_path / "gone").exists()


def test_nothing_of_another_run_is_overwritten_by_a_replays_report(theirs: RunFolder, made: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(made.place, tmp_path / "other")
    (tmp_path / "other" / "replay.json").write_text("of another replay")
    for place in (tmp_path / "other", theirs.place):
        result = command("replay", str(theirs.place), "--out", str(place))
        assert isinstance(result.exception, AgentKDError), result.output
    assert (tmp_path / "other" / "replay.json").read_text() == "of another replay"
    assert not (theirs.place / "replay.json").exists()


def test_of_the_cache_only_decoded_images_are_removed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for name in (f"{'ab' * 32}/3", "photos/1.png", "used"):
        (folder.images / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.images / name).write_text("x")
    folder.drop_images()
    assert seen(folder.images) == {"photos/1.png": "x"}
    (folder.images / "photos/1.png").unlink()
    (folder.images / "photos").rmdir()
    folder.drop_images()
    assert not folder.images.exists()


def test_the_report_of_a_run_that_can_only_be_read_takes_no_folder_but_a_reports(
    made: RunFolder, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    forbidden = {str(made.report), str(made.place)}
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) not in forbidden)
    Path("run-report").symlink_to(mine)
    shutil.copytree(mine / "report", "run-report-2")
    (Path("run-report-2") / "thesis.tex").touch()
    first = place_for(made)
    assert first == Path("run-report-3")
    written = {path.name for path in write_report(made, first).page.parent.iterdir()}
    assert {"report.html", "table.csv"} <= written <= write.FILES
    assert place_for(made) == first, "a report is written again where it was"


def test_a_report_replaces_links_and_leaves_what_they_lead_to(made: RunFolder, mine: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("report.html", "report.html.part", "table.csv"):
        (out / name).symlink_to(mine / "x.txt")
    write_report(made, out)
    assert (mine / "x.txt").read_text() == "my x.txt" and "<html" in (out / "report.html").read_text(encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(ArtifactError, match="where nothing is"):
        write_report(made, tmp_path / "link")


def test_the_protocol_is_written_only_over_the_protocol(tmp_path: Path) -> None:
    (tmp_path / "vectors/fonts").mkdir(parents=True)
    (tmp_path / "vectors/fonts/a.svg").write_text("mine")
    assert "none of the protocol's" in str(command("protocol", "write", str(tmp_path)).exception)
    assert seen(tmp_path) == {"vectors/fonts/a.svg": "mine"}
    assert command("protocol", "write", str(tmp_path / "new")).exit_code == 0
    (tmp_path / "new/vectors/valid/99_OldRequest.json").write_text("stale")
    assert command("protocol", "write", str(tmp_path / "new")).exit_code == 0
    assert not (tmp_path / "new/vectors/valid/99_OldRequest.json").exists()


def test_an_import_into_a_link_is_refused(theirs: RunFolder, tmp_path: Path) -> None:
    write_bundle(theirs, tmp_path / "theirs.zip")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    with pytest.raises(ArtifactError, match="link is a link; choose another"):
        unpack(tmp_path / "theirs.zip", tmp_path / "link")


def test_a_damaged_run_is_packed_only_by_who_insists(made: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(made.place, tmp_path / "run")
    assert command("bundle", str(tmp_path / "run"), str(tmp_path / "sound.zip")).exit_code == 0
    first = next(iter(read_history(made).by_task.values()))
    damaged = RunFolder(tmp_path / "run").store.path(first.result.weights)
    for harm in (lambda: damaged.write_bytes(damaged.read_bytes()[:-1] + b"?"), damaged.unlink):
        harm()
        out = tmp_path / "damaged.zip"
        result = command("bundle", str(tmp_path / "run"), str(out))
        assert isinstance(result.exception, ArtifactError) and not out.exists()
        assert damaged.stem[:12] in str(result.exception) and "--damaged" in str(result.exception)
        assert command("bundle", str(tmp_path / "run"), str(out), "--damaged").exit_code == 0
        assert command("verify", str(out)).exit_code == 1
        out.unlink()
