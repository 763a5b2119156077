"""How runs stand, from their folders alone: status, ls, show and logs as they are typed."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from command_lines import typed
from foreign import honest_run
from recorded import recorded_run
from safetensors.numpy import save_file

from agentkd.artifacts.journal import Journal
from agentkd.artifacts.run_folder import RunFolder, RunLock
from agentkd.report.packing import write_bundle
from agentkd.report.standing import RunState, standing_of
from agentkd.report.tailing import following, last_lines

NUM_DONE = 8
"""Tasks after which both families have been trained."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs in every state: finished, stopped, new, a community's, damaged; and a folder that is none."""
    place = tmp_path_factory.mktemp("runs")
    recorded_run(place / "deep" / "er" / "finished")
    recorded_run(place / "stopped", num_tasks=NUM_DONE)
    recorded_run(place / "new", num_tasks=0)
    honest_run(place / "honest")
    with Journal(RunFolder(place / "community").journal):
        pass
    (place / "damaged").mkdir()
    (place / "damaged" / "journal.sqlite").write_bytes(b"no database at all")
    (place / "none").mkdir()
    return place


def as_data(*arguments: object) -> Any:
    done = typed(*arguments, "--format", "json")
    assert done.status == 0, done.err
    return json.loads(done.out)


def test_a_finished_run_says_so_with_its_table_and_what_to_do_next(runs: Path) -> None:
    place = runs / "deep" / "er" / "finished"
    done = typed("status", place)
    assert done.status == 0 and done.out.startswith("tiny: finished\n") and "in which nobody works" in done.out
    assert "family" in done.out and "winner" in done.out and f"agentkd report {place}" in done.out
    found = as_data("status", place)
    assert (found["state"], found["left"], found["left_s"], found["wanted"]) == ("finished", [], 0, [])
    assert found["num_recorded"] == found["num_expected"] and found["best"]["measure"] == "mIoU"


def test_a_stopped_run_says_what_is_left_how_long_that_takes_and_how_to_go_on(runs: Path) -> None:
    done = typed("status", runs / "stopped")
    assert "tiny: stopped" in done.out and " of at most " in done.out
    assert f"left, by what {NUM_DONE} tasks of this run took, with 2 at a time" in done.out
    assert f"agentkd run {runs / 'stopped' / 'experiment.yaml'} --out {runs / 'stopped'}" in done.out
    found = as_data("status", runs / "stopped")
    assert found["num_recorded"] == NUM_DONE < found["num_expected"] and found["left_s"] > 0
    assert sum(one["tasks"] for one in found["left"]) == found["num_expected"] - NUM_DONE
    assert set(found["trials"]) == {"tiny_networks:tiny", "tiny_networks:other"}


def test_before_any_training_is_done_the_time_left_is_not_known(runs: Path) -> None:
    assert "how much is left is not known before each family has been trained once" in typed("status", runs / "new").out
    assert as_data("status", runs / "new")["left_s"] is None


def test_who_holds_the_folder_is_said_and_what_to_do_meanwhile(runs: Path) -> None:
    import os

    folder = RunFolder(runs / "stopped")
    with RunLock(folder):
        found = standing_of(folder)
        done = typed("status", folder.place)
    assert (found.state, found.holder) == (RunState.RUNNING, os.getpid())
    assert f"in which process {os.getpid()} works" in done.out
    assert "agentkd logs coordinator" in done.out and "agentkd run" not in done.out
    assert standing_of(folder).holder is None, "and nobody any more"


def test_a_task_that_is_under_way_is_shown_with_its_checkpoint_and_makes_less_time_left(tmp_path: Path) -> None:
    import numpy as np

    folder = recorded_run(tmp_path / "run", num_tasks=NUM_DONE)
    before = standing_of(folder)
    trial = before.wanted[0]
    folder.checkpoints.mkdir()
    told = json.dumps({"step": 4, "history": [{"epoch": 1}]})
    save_file({"a": np.zeros(1)}, folder.checkpoint(trial.key), metadata={"progress": told})
    after = standing_of(folder)
    assert f"begun    {trial.label} (checkpoint after epoch 1 of {trial.epochs})" in typed("status", folder.place).out
    assert before.left_s is not None and after.left_s is not None and after.left_s < before.left_s
    folder.checkpoint(trial.key).write_bytes(b"half a file")
    assert standing_of(folder).left_s == before.left_s, "one that cannot be read is none"


def test_a_communitys_folder_has_a_standing_too(runs: Path) -> None:
    assert typed("status", runs / "community").out.startswith("community: community\n")
    assert "0 recorded" in typed("status", runs / "community").out
    assert typed("status", runs / "honest").status == 0


def test_a_bundle_is_looked_at_like_a_run(runs: Path, tmp_path: Path) -> None:
    write_bundle(RunFolder(runs / "honest"), tmp_path / "b.zip")
    done = typed("status", tmp_path / "b.zip")
    assert done.status == 0 and f"folder   {tmp_path / 'b.zip'}, in which nobody works" in done.out, done.err
    assert "agentkd run" not in done.out


@pytest.mark.parametrize("name", ["none", "missing"])
def test_what_is_no_run_has_no_standing(runs: Path, name: str) -> None:
    done = typed("status", runs / name)
    assert done.status == 15 and "is not a run folder" in done.err and done.out == ""


def test_runs_are_listed_with_their_states_and_one_that_cannot_be_read_with_the_reason(runs: Path) -> None:
    found = {Path(one["run"]).name: one for one in as_data("ls", runs)}
    assert {name: one["state"] for name, one in found.items()} == {
        "finished": "finished",
        "stopped": "stopped",
        "new": "stopped",
        "honest": "stopped",
        "community": "community",
        "damaged": "unreadable",
    }
    assert found["damaged"]["problem"] and all(one["size_bytes"] > 0 for one in found.values())
    lines = typed("ls", runs).out.splitlines()
    assert lines[0].split()[0] == "run" and len(lines) == 7
    [line] = [line for line in lines if "/finished " in line]
    assert " % " in line and "2026-01-01T00:00:00Z" in line and f" {found['finished']['num_recorded']} " in line


def test_without_a_folder_those_in_runs_are_listed_or_those_here(
    runs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(runs.parent)
    (runs.parent / "runs").exists() or (runs.parent / "runs").symlink_to(runs)
    assert "stopped" in typed("ls").out
    monkeypatch.chdir(tmp_path)
    done = typed("ls")
    assert done.status == 0 and "no run is here" in done.out and as_data("ls") == []
    assert typed("ls", tmp_path / "missing").status == 2


def test_links_are_not_followed_in_search_of_runs(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(runs)
    (tmp_path / "loop").symlink_to(tmp_path)
    assert as_data("ls", tmp_path) == []


def test_every_name_in_a_run_is_something_and_says_who_used_it(runs: Path) -> None:
    folder = RunFolder(runs / "honest")
    with Journal(folder.journal, read_only=True) as journal:
        training, lesson = journal.records()
    task = as_data("show", training.task.key[:10], "--run", folder.place)
    assert task["what"] == "task, a training" and task["made"] == [
        {"relation": "weights", "name": training.result.weights, "label": ""}
    ]
    assert [(one["relation"], one["name"]) for one in task["used_by"]] == [("is taught by weights: task", lesson.task.key)]
    weights = as_data("show", training.result.weights[:12], "--run", folder.place)
    assert weights["what"] == "weights of a training" and weights["task"] == training.task.key and weights["size_bytes"] == 840
    assert weights["task_inputs"] is None and [one["label"] for one in weights["used_by"]] == ["a lesson"]
    told = as_data("show", lesson.result.exchange.record, "--run", folder.place)  # type: ignore[union-attr]
    assert told["what"] == "recorded lesson of a lesson"
    data = as_data("show", training.task.data.content_digest[:12], "--run", folder.place)
    assert data["what"] == f"dataset {training.task.data.spec}" and len(data["used_by"]) == 2 and data["size_bytes"] is None


def test_what_it_is_is_said_in_words_too(runs: Path) -> None:
    with Journal(RunFolder(runs / "honest").journal, read_only=True) as journal:
        _, lesson = journal.records()
    text = typed("show", lesson.task.key, "--run", runs / "honest").out
    assert text.startswith(f"{lesson.task.key}: task, a lesson\n")
    for part in (
        "inputs:",
        "looks at",
        "is taught by weights",
        "made:",
        "recorded lesson",
        "mIoU 60.00 %",
        "in attempt 2 by agent-2",
    ):
        assert part in text
    assert "used by" not in text, "nobody used it"


def test_own_code_is_shown_as_that(runs: Path) -> None:
    with Journal(RunFolder(runs / "stopped").journal, read_only=True) as journal:
        code = next(journal.records()).task.architecture.code
    found = as_data("show", code[:12], "--run", runs / "stopped")
    assert found["what"] == "own code" and "tiny_networks.py" in found["code"]["lines"]
    assert "tiny_networks.py (" in typed("show", code, "--run", runs / "stopped").out


@pytest.mark.parametrize("wrong", ["zz", "", "ffffffff", "0"])
def test_what_is_nothing_of_the_run_is_refused(runs: Path, wrong: str) -> None:
    done = typed("show", wrong, "--run", runs / "honest")
    assert done.status == 2 and (repr(wrong) in done.err) and done.out == ""


@pytest.fixture
def logged(tmp_path: Path) -> RunFolder:
    folder = honest_run(tmp_path / "run")
    folder.logs.mkdir()
    (folder.logs / "coordinator.log").write_text("began\n")
    (folder.logs / "agent-10.log").write_text("".join(f"line {number}\n" for number in range(100)))
    (folder.logs / "agent-2.log").write_text("red \x1b[31m\nno end")
    (folder.logs / "agent-2.audit.jsonl").write_text("{}\n")
    return folder


def test_the_logs_that_there_are_are_listed_by_number(logged: RunFolder) -> None:
    names = [one["agent"] for one in as_data("logs", "--run", logged.place)]
    assert names == ["coordinator", "agent-2", "agent-10"]
    assert [line.split()[0] for line in typed("logs", "--run", logged.place).out.splitlines()] == names


def test_the_end_of_a_log_is_printed_and_nothing_in_it_acts(logged: RunFolder) -> None:
    assert typed("logs", "agent-10", "--run", logged.place, "-n", 2).out == "line 98\nline 99\n"
    assert len(typed("logs", "agent-10", "--run", logged.place).out.splitlines()) == 50
    assert len(typed("logs", "agent-10", "--run", logged.place, "--lines", 0).out.splitlines()) == 100
    assert typed("logs", "agent-2", "--run", logged.place).out == "red \\x1b[31m\nno end\n"
    as_lines = typed("logs", "agent-2", "--run", logged.place, "--format", "json").out.splitlines()
    assert [json.loads(line)["line"] for line in as_lines] == ["red \x1b[31m", "no end"]


@pytest.mark.parametrize("agent", ["agent-3", "../journal", "agent-2.audit", "/etc/passwd"])
def test_a_log_that_is_not_there_is_refused_and_those_that_are_are_named(logged: RunFolder, agent: str) -> None:
    done = typed("logs", agent, "--run", logged.place)
    assert done.status == 2 and "it has those of coordinator, agent-2, agent-10" in done.err


def test_following_a_run_at_rest_ends_at_once(logged: RunFolder) -> None:
    assert typed("logs", "coordinator", "--run", logged.place, "-f").out == "began\n"


def test_what_is_written_is_followed_until_nobody_works_in_the_folder(logged: RunFolder) -> None:
    place, is_over = logged.logs / "agent-10.log", threading.Event()
    _, end = last_lines(place, 5)
    lines = following(place, end, is_over.is_set)
    with place.open("a") as log:
        log.write("one\ntw")
        log.flush()
        assert next(lines) == "one"
        log.write("o\n")
        log.flush()
        assert next(lines) == "two", "a line is told when it is whole"
    place.write_text("anew\n")
    assert next(lines) == "anew", "a log that was cut is read from its beginning"
    with place.open("a") as log:
        log.write("last, without an end")
    is_over.set()
    assert list(lines) == ["last, without an end"]
