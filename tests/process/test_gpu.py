"""The same bits: two trainings, one that was interrupted, a lesson and their replay. On a CPU, and on a GPU if there is one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from experiments import environment
from small_trainings import FIVE, Drawn, training

from agentkd import repeatable
from agentkd.recipe import Recipe
from agentkd.task import EpochResult
from agentkd.training.checkpoint import State
from agentkd.training.loop import Hooks

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "determinism.py"
DEVICES = ["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)]
PRECISIONS = ["float32", "bfloat16"]


class Interrupted(Exception):
    """In the middle of a training."""


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    """One that computes repeatably, as an agent has it."""
    name: str = request.param
    if name != "cpu" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    repeatable.prepare(torch.device(name))
    return name


def same(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name].cpu(), second[name].cpu()) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES, indirect=True)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", FIVE)
def test_two_trainings_and_one_that_was_interrupted_have_the_same_bits(
    family: str, precision: str, device: str, tmp_path: Path
) -> None:
    recipe = Recipe.model_validate({"epochs": 2, "batch_size": 2, "precision": precision})
    first, second = (training(family, recipe, device=device, feed=Drawn()) for _ in range(2))
    assert first.losses == second.losses
    assert same(first.weights, second.weights)

    def interrupt(result: EpochResult) -> None:
        if result.epoch == 2:
            raise Interrupted

    place = tmp_path / "checkpoint"
    with pytest.raises(Interrupted):
        training(family, recipe, device=device, checkpoint=place, hooks=Hooks(on_epoch=interrupt))
    assert place.is_file()
    steps: list[int] = []
    resumed = training(
        family, recipe, device=device, checkpoint=place, hooks=Hooks(on_step=lambda step, count, loss: steps.append(step))
    )
    assert steps == [3, 4]
    assert resumed.losses == first.losses
    assert same(resumed.weights, first.weights)


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("device", DEVICES, indirect=True)
def test_trainings_and_lessons_by_agents_are_replayed_to_the_bit(device: str) -> None:
    """All five on a GPU; in bfloat16, which the record says."""
    devices, families = ("cpu:2", ("unetpp",)) if device == "cpu" else (f"{device},{device}", FIVE)
    chosen = ["--devices", devices, "--size", "48", "--steps", "2", "--precisions", "bfloat16", "--families", *families]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *chosen], env=environment(), capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for family in families:
        assert re.search(rf"^{family} +bfloat16 +yes +2 ", done.stdout, re.MULTILINE), done.stdout
    assert "all the same" in done.stdout
