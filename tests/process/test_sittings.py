"""A run in several sittings, each with a budget, and who asks how it stands meanwhile."""

import json
import subprocess
from pathlib import Path

import pytest
from experiments import agentkd, command, environment, weights_of, write_experiment

from agentkd.artifacts.run_folder import RunFolder
from agentkd.errors import BUDGET_SPENT

pytestmark = pytest.mark.process


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_in_sittings_comes_to_the_same_as_one_without_them(tmp_path: Path) -> None:
    file, out = write_experiment(tmp_path), tmp_path / "run"
    first = agentkd("run", file, "--out", out, "--max-tasks", 2)
    assert first.returncode == BUDGET_SPENT and len(weights_of(out)) == 2, first.stderr
    assert "it has begun the 2 tasks that it may; what it has begun is recorded" in first.stdout
    assert f"agentkd run {out}/experiment.yaml --out {out}" in first.stdout and "tiny: stopped" in first.stdout
    second = agentkd("run", file, "--out", out, "--max-epochs", 7, "--format", "json")
    assert second.returncode == BUDGET_SPENT and len(weights_of(out)) == 4, second.stderr
    found = json.loads(second.stdout)
    assert found["state"] == "stopped" and found["num_recorded"] == 4 and found["left_s"] > 0
    last = agentkd("run", file, "--out", out, "--for", "10h")
    assert last.returncode == 0 and "all 18 tasks are done" in last.stdout and "Next:" in last.stdout, last.stderr
    at_once = agentkd("run", file, "--out", tmp_path / "other")
    assert at_once.returncode == 0 and weights_of(tmp_path / "other") == weights_of(out)


def test_who_asks_while_it_runs_is_told_that_it_does_and_can_follow_what_happens(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with subprocess.Popen(
        command("run", write_experiment(tmp_path), "--out", out), stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout
        for line in process.stdout:
            if "starts search" in line:
                break
        asked = json.loads(agentkd("status", out, "--format", "json").stdout)
        follow = command("logs", "coordinator", "--run", out, "-f", "-n", 0)
        with subprocess.Popen(follow, stdout=subprocess.PIPE, text=True, env=environment()) as follower:
            rest = process.stdout.read()
            assert process.wait(timeout=150) == 0
            followed, _ = follower.communicate(timeout=150)
            assert follower.returncode == 0
    assert (asked["state"], asked["holder"]) in (("running", process.pid), ("finished", None)), "unless it was quicker"
    assert "Next:" in rest
    logged = (RunFolder(out).logs / "coordinator.log").read_text(encoding="utf-8")
    assert "starts baseline of" in logged and "starts test of" in logged
    assert logged.endswith(followed)
