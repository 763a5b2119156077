"""Recorded tasks of another run, taken over where they are the same: each byte verified, and said in the journal."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_lines import typed
from experiments import EXPERIMENT, weights_of, write_experiment
from planning import experiment, invented
from recorded import recorded_run

from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.run_folder import RunFolder
from agentkd.artifacts.verification import verify
from agentkd.coordinator.budget import Budget
from agentkd.coordinator.reusing import REUSED_FROM, Lender, first_lenders, hand_over, lenders
from agentkd.coordinator.run import read_run, run_experiment
from agentkd.coordinator.watching import Snapshot
from agentkd.errors import ArtifactCorruptError, ArtifactError, ConfigError
from agentkd.pipeline.stages import PlannedTask, Stage
from agentkd.task import Status, TaskResult


class Listening:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def show(self, snapshot: Snapshot) -> None: ...

    def tell(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run whose weights are there."""
    return recorded_run(tmp_path_factory.mktemp("reusing") / "done", stores=True)


def weights(folder: RunFolder) -> dict[str, str]:
    return weights_of(folder.place)


def test_a_run_of_which_another_has_done_everything_ends_without_starting_an_agent(done: RunFolder, tmp_path: Path) -> None:
    watcher = Listening()
    outlook = run_experiment(experiment(), tmp_path / "run", watcher, reuse=[done.place])
    assert outlook.is_finished and weights(RunFolder(tmp_path / "run")) == weights(done)
    count = len(weights(done))
    [line] = [line for line in watcher.lines if line.startswith("taken over")]
    assert f"{count} recorded tasks" in line and str(done.place) in line
    assert not list((tmp_path / "run").glob("logs/agent-*"))
    found = verify(RunFolder(tmp_path / "run"))
    assert not found.problems and found.num_records == count
    assert not verify(done).problems, "and the other run is as it was"


def test_where_it_is_from_stands_in_the_provenance_and_the_records_are_as_they_were(done: RunFolder, tmp_path: Path) -> None:
    place = tmp_path / "run"
    run_experiment(experiment(), place, reuse=[done.place])
    with Journal(done.journal, read_only=True) as theirs, Journal(RunFolder(place).journal, read_only=True) as ours:
        assert {r.task.key: (r.at, r.label, r.agent) for r in theirs.records()} == {
            r.task.key: (r.at, r.label, r.agent) for r in ours.records()
        }
        last = [row.digest for row in theirs.rows()][-1]
        [said] = ours.sittings().values()
    assert said[REUSED_FROM] == [{"run": "done", "last_record": last}] and said["started_at"] == "2026-01-01T00:00:00Z"
    again = tmp_path / "again"
    run_experiment(experiment(), again, reuse=[place])
    with Journal(RunFolder(again).journal, read_only=True) as journal:
        [said] = journal.sittings().values()
    assert [one["run"] for one in said[REUSED_FROM]] == ["done", "run"], "the whole way"


def test_files_are_shared_on_one_disk_and_copied_elsewhere(
    done: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Lender(done).records()[0]
    digest = record.result.weights
    Lender(done).hand_over(record, RunFolder(tmp_path / "near").store)
    assert RunFolder(tmp_path / "near").store.path(digest).samefile(done.store.path(digest))

    def cannot(*names: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("agentkd.coordinator.reusing.os.link", cannot)
    Lender(done).hand_over(record, RunFolder(tmp_path / "far").store)
    far = RunFolder(tmp_path / "far").store
    assert far.get(digest) == done.store.get(digest) and not far.path(digest).samefile(done.store.path(digest))


def test_what_is_damaged_is_not_taken_over(tmp_path: Path) -> None:
    other = recorded_run(tmp_path / "other", num_tasks=2, stores=True)
    digest = Lender(other).records()[0].result.weights
    other.store.path(digest).chmod(0o644)
    other.store.path(digest).write_bytes(b"something else")
    with pytest.raises(ArtifactCorruptError):
        run_experiment(experiment(), tmp_path / "run", reuse=[other.place])
    assert weights(RunFolder(tmp_path / "run")) == {} and digest not in RunFolder(tmp_path / "run").store
    with pytest.raises(ArtifactCorruptError):
        hand_over(other.store, RunFolder(tmp_path / "x").store, digest)


def failing_first(step: PlannedTask) -> TaskResult:
    failed = step.stage is Stage.SEARCH and step.label == "trial 0"
    return invented(step, status=Status.FAILED, weights="", history=()) if failed else invented(step)


def test_what_failed_and_what_is_not_there_any_more_is_done_again(tmp_path: Path) -> None:
    other = recorded_run(tmp_path / "other", num_tasks=6, outcome=failing_first, stores=True)
    with Journal(other.journal, read_only=True) as journal:
        records = list(journal.records())
    gone = next(record for record in records if record.result.status is Status.COMPLETED)
    other.store.remove(gone.result.weights)
    lender = Lender(other)
    taken = {record.task.key for record in records if lender.find(record.task.key) is not None}
    failed = {record.task.key for record in records if record.result.status is Status.FAILED}
    assert failed and taken == {record.task.key for record in records} - failed - {gone.task.key}
    assert {record.task.key for record in lender.records()} == taken


def test_the_first_of_several_runs_that_has_a_task_gives_it(done: RunFolder, tmp_path: Path) -> None:
    small = recorded_run(tmp_path / "small", num_tasks=2, stores=True)
    first, second = lenders([small.place, done.place], RunFolder(tmp_path / "run"))
    keys = [record.task.key for record in second.records()]
    found = {lender.folder.place.name: len(records) for (lender, _), records in first_lenders([first, second], keys).items()}
    assert found == {"small": 2, "done": len(keys) - 2}
    assert first_lenders([], keys) == {}


def test_one_more_family_leaves_what_was_done_of_the_others(done: RunFolder, tmp_path: Path) -> None:
    """Nothing more may be begun here: what stands in the new run afterwards is what was taken over."""
    families = [*EXPERIMENT["families"], "unet"]
    run_experiment(experiment(families=families), tmp_path / "run", reuse=[done.place], budget=Budget(num_epochs=1))
    _, _, outlook, journal = read_run(RunFolder(tmp_path / "run"))
    with journal:
        kept = list(journal.records())
    stages = {(row.family, row.stage) for row in outlook.rows}
    assert stages == {
        (family, stage) for family in EXPERIMENT["families"] for stage in (Stage.BASELINE, Stage.SEARCH, Stage.ROUND1)
    }
    assert {record.task.key for record in kept} < set(weights(done)), "round 2 and the tests depend on the new family"
    dry: Any = typed(
        "run",
        write_experiment(tmp_path, families=families),
        "--out",
        tmp_path / "new",
        "--reuse",
        done.place,
        "--dry-run",
        "--format",
        "json",
    )
    assert json.loads(dry.out)["num_kept"] == len(kept) and not (tmp_path / "new").exists()


def test_more_trials_are_the_only_ones_that_are_left(done: RunFolder, tmp_path: Path) -> None:
    more = EXPERIMENT["search"] | {"trials": 5}
    run_experiment(experiment(search=more), tmp_path / "run", reuse=[done.place], budget=Budget(num_epochs=1))
    _, _, outlook, journal = read_run(RunFolder(tmp_path / "run"))
    with journal:
        assert len(list(journal.records())) == 2 + 2 * 3
    assert {step.stage for step in outlook.steps} == {Stage.SEARCH}


def test_the_run_itself_and_what_is_no_run_are_refused(done: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(done.place)
    for place in (done.place, tmp_path / "link"):
        with pytest.raises(ConfigError, match="is the run itself"):
            lenders([place], done)
    with pytest.raises(ArtifactError, match="is not a run folder"):
        run_experiment(experiment(), tmp_path / "run", reuse=[tmp_path / "nothing"])
    assert not (tmp_path / "run").exists()


def test_a_sitting_that_goes_on_after_what_was_taken_over_is_a_new_one(tmp_path: Path) -> None:
    """So sittings never go back, which would be a journal that was changed."""
    source = recorded_run(tmp_path / "source", num_tasks=6)
    with Journal(source.journal, read_only=True) as journal:
        records: list[Record] = list(journal.records())
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.begin_sitting({"who": "we"})
        for number, record in enumerate(records):
            journal.commit(record, provenance={"who": "they"} if number in (1, 2, 4) else None)
        journal.must_be_whole()
        assert [number for _, number in journal.records_and_sittings()] == [1, 2, 2, 3, 4, 5]
        assert [said["who"] for said in journal.sittings().values()] == ["we", "they", "we", "they", "we"]
