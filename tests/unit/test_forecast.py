"""What a run would do and how long, before anything starts: from records, or timed; what is not known is said to be unknown."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_lines import typed
from experiments import EXPERIMENT, write_experiment
from planning import planner
from recorded import recorded_run

from agentkd.coordinator.timing import Timed, time_baselines
from agentkd.launch.devices import Slot
from agentkd.task import Train


def dry(file: Path, *more: object) -> Any:
    done = typed("run", file, "--dry-run", "--format", "json", *more)
    assert done.status == 0, done.err
    return json.loads(done.out)


def test_a_dry_run_says_tasks_by_family_and_stage_disk_and_memory_and_that_the_time_is_unknown(tmp_path: Path) -> None:
    file = write_experiment(tmp_path)
    found = dry(file, "--out", tmp_path / "run")
    assert found["num_left"] == 22 == sum(one["tasks"] for one in found["tasks"]) and found["num_kept"] == 0
    assert {"family": "tiny_networks:tiny", "stage": "search", "tasks": 3, "epochs": 3, "seconds_each": None} in found["tasks"]
    assert found["left_s"] is None and "nothing is recorded of how long tiny, other takes" in found["rests_on"]
    assert found["disk_bytes"] > 0 and found["memory_bytes_an_agent"] > 0
    text = typed("run", file, "--dry-run", "--out", tmp_path / "run").out
    assert "time     unknown: nothing is recorded of how long " in text and "Round 1" in text
    assert not (tmp_path / "run").exists()


def test_of_a_run_that_is_begun_it_is_what_is_left_by_what_its_tasks_took(tmp_path: Path) -> None:
    folder = recorded_run(tmp_path / "run", num_tasks=8)
    before = (folder.journal.read_bytes(), folder.experiment.read_bytes())
    found = dry(write_experiment(tmp_path), "--out", folder.place)
    assert found["num_kept"] == 8 and found["left_s"] > 0 and "8 recorded tasks took, with 2 at a time" in found["rests_on"]
    assert {one["seconds_each"] for one in found["tasks"] if one["stage"] == "baseline"} <= {2.0}, "each took so long"
    assert {one["seconds_each"] for one in found["tasks"] if one["stage"] == "round1"} == {1.5}, (
        "by epochs, of which others had 2.5"
    )
    assert (folder.journal.read_bytes(), folder.experiment.read_bytes()) == before


def test_more_trials_and_another_family_are_what_is_left_and_the_others_are_kept(tmp_path: Path) -> None:
    folder = recorded_run(tmp_path / "run")
    one_more = [*EXPERIMENT["families"], "unet"]
    file = write_experiment(tmp_path, families=one_more, search=EXPERIMENT["search"] | {"trials": 4})
    found = dry(file, "--out", folder.place)
    tasks = {(one["family"], one["stage"]): one["tasks"] for one in found["tasks"]}
    assert tasks["tiny_networks:tiny", "search"] == tasks["tiny_networks:other", "search"] == 1
    assert tasks["unet", "search"] == 4 and tasks["unet", "baseline"] == 1 and ("tiny_networks:tiny", "baseline") not in tasks
    assert found["num_kept"] == 8, "two baselines and six trials"
    assert found["left_s"] is None and "nothing is recorded of how long U-Net (paper: UNet++) takes" in found["rests_on"]
    done = dry(write_experiment(tmp_path), "--out", folder.place)
    assert done["tasks"] == [] and done["left_s"] == 0
    text = typed("run", file, "--dry-run", "--out", folder.place).out
    assert "time     nothing is left to be done" in text


def test_some_steps_of_each_family_are_timed_if_that_is_wanted(tmp_path: Path) -> None:
    file = write_experiment(tmp_path)
    found = dry(file, "--out", tmp_path / "run", "--measure")
    assert found["left_s"] > 0 and found["rests_on"] == "some steps of tiny, other timed here, alone, with 2 at a time"
    assert all(one["seconds_each"] > 0 for one in found["tasks"] if one["epochs"])
    assert not (tmp_path / "run").exists()
    wrong = typed("run", file, "--out", tmp_path / "run", "--measure")
    assert wrong.status == 2 and "--measure is of --dry-run" in wrong.err


def test_what_is_timed_has_the_steps_of_the_training_that_is_meant() -> None:
    plan = planner(recipe=EXPERIMENT["recipe"] | {"validate_every": 2})
    tasks = [family.drafts.baseline[1] for family in plan.families.values()]
    assert all(isinstance(task, Train) for task in tasks)
    timed = time_baselines(tasks, Slot("cpu", 1))
    assert [one.family for one in timed] == EXPERIMENT["families"]
    assert all(one.steps_per_epoch == 4 and one.step_s > 0 and one.validate_every == 2 for one in timed)


def test_an_epoch_is_its_steps_and_its_share_of_a_validation() -> None:
    assert Timed("x", step_s=0.5, steps_per_epoch=10, validation_s=6.0, validate_every=3).epoch_s == pytest.approx(7.0)
