"""What may stand where in a run folder, and that nobody is led out of one by what a stranger put into it."""

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from foreign import READERS, honest_run
from typer.testing import CliRunner

import agentkd
from agentkd import testing
from agentkd.agents.agent import AgentSettings, run_agent
from agentkd.artifacts.run_folder import RunFolder, RunLock
from agentkd.artifacts.run_places import FILES, FOLDERS, PACKED, WRITTEN
from agentkd.artifacts.verification import verify
from agentkd.cli.app import app
from agentkd.coordinator.desk import desk_with_agents
from agentkd.coordinator.watching import Silent
from agentkd.errors import AgentKDError, ArtifactError, StorageError
from agentkd.exchange.keys import new_key_pair
from agentkd.launch.settings import LaunchConfig

DIGEST = "ab" * 32
INSIDE = (
    *(f"artifacts/{two}" for two in ("aa", "08", "zz")),
    *(f"checkpoints/{DIGEST}{ending}" for ending in (".safetensors", ".lesson.jsonl", ".said")),
    f"checkpoints/{DIGEST}.said/3.safetensors",
    *("keys/agent-1.json", "keys/visitors", "keys/visitors/registry.json", "keys/visitors/registry.lock"),
    *("logs/coordinator.log", "logs/coordinator.audit.jsonl", "report/report.html", "report/table.csv.part", "cache/ledger"),
)
PLACES = (*FILES, *FOLDERS, *INSIDE)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return honest_run(tmp_path_factory.mktemp("honest") / "run")


class Attacked:
    """A stranger's run, and what of its user's lies elsewhere."""

    def __init__(self, honest: RunFolder, place: Path) -> None:
        self.folder, self.mine = RunFolder(place / "run"), place / "mine"
        shutil.copytree(honest.place, self.folder.place)
        shutil.copyfile(honest.experiment, place / "run.yaml")
        (place / "honest").symlink_to(honest.place)
        self.mine.mkdir()
        for name in ("taxes.csv", "thesis.txt", "table.csv", "report.html", "key.json", "x.part", "registry.json"):
            (self.mine / name).write_text(f"my {name}")
        (self.mine / "08").mkdir()
        (self.mine / "08" / "y.part").write_text("my y")
        self._before = self._seen()

    def put(self, name: str, make: Callable[[Path], object]) -> Path:
        """Something else at a place of the run."""
        path = self.folder.place / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path)
        return path

    def link(self, name: str) -> Path:
        """A link to what would be harmed most: the file, or the folder."""
        is_file = ("." in name.rpartition("/")[2] and not name.endswith(".said")) or name == "lock"
        return self.put(name, lambda path: path.symlink_to(self.mine / "thesis.txt" if is_file else self.mine))

    def must_be_untouched(self) -> None:
        assert self._seen() == self._before

    def _seen(self) -> dict[str, tuple[bytes, float]]:
        paths = [path for path in self.mine.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.mine)): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def _lock(folder: RunFolder) -> None:
    with RunLock(folder):
        folder.sweep()


def _desk(folder: RunFolder) -> None:
    with desk_with_agents(folder, (), LaunchConfig(), Silent(), is_forgiving=True) as desk:
        desk.journal.set_meta("x", 1)


def _community(folder: RunFolder) -> None:
    with agentkd.Community(devices="none", record=folder.place):
        pass


def _command(*arguments: str) -> Callable[[RunFolder], None]:
    def call(folder: RunFolder) -> None:
        outcome = CliRunner().invoke(app, [one.replace("RUN", str(folder.place)) for one in arguments])
        if outcome.exception and not isinstance(outcome.exception, SystemExit):
            raise outcome.exception

    return call


def _settings(folder: RunFolder) -> AgentSettings:
    keys = new_key_pair()
    return AgentSettings(("tcp://127.0.0.1:1",), keys.public, keys, "cpu", 1, folder.place)


USES: dict[str, Callable[[RunFolder], object]] = READERS | {
    "lock": _lock,
    "desk": _desk,
    "community": _community,
    "community before it is entered": lambda folder: agentkd.Community(devices="none", record=folder.place),
    "community in this process": lambda folder: testing.Community(record=folder.place),
    "connect": lambda folder: agentkd.Community.connect(folder.place),
    "agentkd gc": _command("gc", "RUN", "--apply", "--recordings"),
    "agentkd report": _command("report", "RUN"),
    "agentkd community": _command("community", "RUN", "--devices", "none"),
    "agentkd agent": lambda folder: run_agent(_settings(folder)),
    "agentkd replay, to it": _command("replay", "RUN/../honest", "--out", "RUN"),
}


USES_OF_ANY = tuple(USES)
USES["agentkd run"] = _command("run", "RUN.yaml", "--out", "RUN")
OPENED_FIRST = ("lock", "logs", "logs/coordinator.log", "journal.sqlite", "report")


@pytest.mark.parametrize("name", PLACES)
def test_nobody_follows_a_link_out_of_a_run(honest: RunFolder, tmp_path: Path, name: str) -> None:
    attacked = Attacked(honest, tmp_path)
    path = attacked.link(name)
    for use in USES if name in OPENED_FIRST else USES_OF_ANY:  # what an experiment needs is looked at before, which takes time
        try:
            USES[use](attacked.folder)
        except ArtifactError as error:
            refused = str(error)
        else:
            pytest.fail(f"{use} follows the link {path}")
        assert f"{path} is a link (to {attacked.mine}" in refused, use
        assert "if somebody gave it to you, do not use it" in refused, use
        attacked.must_be_untouched()
    assert not RunLock(attacked.folder).is_held
    try:
        problems = [problem for problem in verify(attacked.folder).problems if problem.place == name]
    except ArtifactError as error:
        assert name.startswith("journal.sqlite") and "is a link" in str(error)
    else:
        assert any("is a link" in problem.text for problem in problems), name
    attacked.must_be_untouched()
    assert path.is_symlink(), "what was found is left as it is"


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made, pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)
        made.bind(path.name)


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pipe": (os.mkfifo, "is a pipe"),
    "a socket": (_socket, "is a socket"),
    "a link to nothing": (lambda path: path.symlink_to("/nothing/here"), "is a link"),
    "a link to itself": (lambda path: path.symlink_to(path), "is a link"),
    "a link within": (lambda path: path.symlink_to(path.parent), "is a link"),
}


@pytest.mark.parametrize("name", ["lock", "journal.sqlite-shm", "study.db", "keys", "logs/fork-server-1.log", "artifacts/08"])
@pytest.mark.parametrize(("make", "text"), KINDS.values(), ids=KINDS)
def test_what_is_no_file_is_refused_and_not_waited_for(
    honest: RunFolder, tmp_path: Path, name: str, make: Callable[[Path], object], text: str
) -> None:
    attacked = Attacked(honest, tmp_path)
    attacked.put(name, make)
    for use in ("lock", "history", "agentkd gc", "bundle"):
        with pytest.raises(ArtifactError, match=text):
            USES[use](attacked.folder)


@pytest.mark.parametrize("name", FILES)
def test_a_folder_for_a_file_and_a_file_for_a_folder_are_refused(honest: RunFolder, tmp_path: Path, name: str) -> None:
    attacked = Attacked(honest, tmp_path)
    attacked.put(name, Path.mkdir)
    with pytest.raises(ArtifactError, match="is a folder, and only a file"):
        _lock(attacked.folder)
    other = Attacked(honest, tmp_path / "other")
    other.put("keys", Path.touch)
    with pytest.raises(ArtifactError, match="is a file, and only a folder"):
        _lock(other.folder)


CHANGED = (
    *("lock", "journal.sqlite", "journal.sqlite-wal", "experiment.yaml", "study.db", "contact.json", "replay.json"),
    *("logs/coordinator.log", f"checkpoints/{DIGEST}.lesson.jsonl", "keys/visitors/registry.json", "report/table.csv.part"),
)


@pytest.mark.parametrize("name", CHANGED)
def test_nobody_writes_to_a_file_that_has_another_name_elsewhere(honest: RunFolder, tmp_path: Path, name: str) -> None:
    attacked = Attacked(honest, tmp_path)
    attacked.put(name, lambda path: path.hardlink_to(attacked.mine / "thesis.txt"))
    for use in ("lock", "desk", "community", "agentkd gc"):
        with pytest.raises(ArtifactError, match="a hard link"):
            USES[use](attacked.folder)
        attacked.must_be_untouched()
    if not name.startswith("journal"):
        assert any(f"{name} has another name elsewhere" in note for note in verify(attacked.folder).notes)


def test_what_is_packed_as_it_lies_has_no_other_name_elsewhere(honest: RunFolder, tmp_path: Path) -> None:
    attacked = Attacked(honest, tmp_path)
    attacked.put("report/table.csv", lambda path: path.hardlink_to(attacked.mine / "taxes.csv"))
    with pytest.raises(ArtifactError, match="a hard link"):
        READERS["bundle"](attacked.folder)
    with pytest.raises(ArtifactError, match="a hard link"):
        READERS["report"](attacked.folder)
    assert not (tmp_path / "made.zip").exists()
    attacked.must_be_untouched()


def test_artifacts_that_a_replay_shares_with_its_run_are_its_own(honest: RunFolder, tmp_path: Path) -> None:
    attacked = Attacked(honest, tmp_path)
    first = next(attacked.folder.store.place.rglob("*.safetensors"))
    (tmp_path / "shared").hardlink_to(first)
    _lock(attacked.folder)
    READERS["bundle"](attacked.folder)
    assert not verify(attacked.folder).problems and not verify(attacked.folder).notes


def test_a_run_folder_may_be_a_link_as_a_whole_and_be_called_by_any_way(honest: RunFolder, tmp_path: Path) -> None:
    attacked = Attacked(honest, tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "x").symlink_to(attacked.folder.place)
    for place in (tmp_path / "runs" / "x", tmp_path / "runs" / ".." / "runs" / "x"):
        folder = RunFolder(place)
        for name in ("history", "bundle", "lock", "desk", "agentkd gc", "community"):
            USES[name](folder)
        assert not verify(folder).problems


def test_a_folder_that_is_not_there_yet_or_that_nobody_may_enter_leads_nowhere(tmp_path: Path) -> None:
    assert RunFolder(tmp_path / "new").must_be_its_own(alone=WRITTEN).place == tmp_path / "new"
    assert not (tmp_path / "new").exists()
    with pytest.raises(ArtifactError, match="is not a run folder"):
        RunFolder(tmp_path / "new").must_exist()


def test_a_folder_that_can_be_entered_and_not_listed_is_refused(
    honest: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attacked = Attacked(honest, tmp_path)
    attacked.put("keys/visitors", Path.mkdir)
    for name in ("keys", "keys/visitors"):  # as root, who may list every folder, nobody else could see this
        hidden = attacked.folder.place / name
        monkeypatch.setattr(os, "access", lambda path, mode, hidden=hidden: path != hidden or mode != os.R_OK)
        with pytest.raises(ArtifactError, match=f"{name} is a folder whose content cannot be listed"):
            _lock(attacked.folder)
        monkeypatch.undo()
    _lock(attacked.folder)


def test_every_path_of_a_run_is_among_the_places_that_are_looked_at() -> None:
    folder = RunFolder("run")
    paths = [value for value in vars(folder).values() if isinstance(value, Path) and value != folder.place]
    assert len(paths) > 9
    for path in (*paths, folder.store.place, folder.lesson(DIGEST), folder.checkpoint(DIGEST), folder.said(DIGEST, 1)):
        first, *rest = path.relative_to("run").parts
        assert first in FILES or len(rest) <= FOLDERS[first], path
    assert set(PACKED) <= set(WRITTEN)


def test_a_part_that_comes_in_is_a_file_of_the_runs_own(tmp_path: Path) -> None:
    store, mine = RunFolder(tmp_path / "run").store, tmp_path / "mine"
    mine.write_text("mine")
    part = store.path(DIGEST).with_suffix(".incoming")
    part.parent.mkdir(parents=True)
    for make in (lambda: part.hardlink_to(mine), lambda: os.mkfifo(part)):
        make()
        with pytest.raises(StorageError, match="no file of this folder's own"), store.incoming(DIGEST):
            pass
        part.unlink()
    assert mine.read_text() == "mine"


def test_a_link_in_an_artifacts_place_is_replaced_by_the_artifact(tmp_path: Path) -> None:
    store, mine = RunFolder(tmp_path / "run").store, tmp_path / "mine"
    digest = store.put(b"bytes")
    mine.write_bytes(b"other")
    store.path(digest).unlink()
    store.path(digest).symlink_to(mine)
    assert store.put(b"bytes") == digest and store.get(digest) == b"bytes" and mine.read_bytes() == b"other"


def test_a_lock_that_becomes_a_link_at_the_last_moment_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, mine = RunFolder(tmp_path / "run"), tmp_path / "mine"
    folder.place.mkdir()
    mine.write_text("mine")
    monkeypatch.setattr(RunFolder, "must_be_its_own", lambda self, alone=(): self)
    makes = (lambda: folder.lock.symlink_to(mine), lambda: folder.lock.hardlink_to(mine), lambda: os.mkfifo(folder.lock))
    for make in makes:
        make()
        with pytest.raises(AgentKDError), RunLock(folder):
            pass
        folder.lock.unlink()
    assert mine.read_text() == "mine"
