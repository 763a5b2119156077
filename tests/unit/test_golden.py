"""Trainings against golden curves that an independent reference in plain torch made (``tests/reference``)."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from reference.scenarios import SCENARIOS, Scenario
from reference.tasks import Golden, by_agentkd, by_reference

from agentkd.networks.families import FAMILIES
from agentkd.objectives import Objective
from agentkd.training.losses import LOSSES

FOLDER = Path(__file__).parents[1] / "golden"
# Float32 sums in another order, on another processor, after a few steps; a mistake that is looked for is a hundred times that.
LOSS = {"rel": 1e-4, "abs": 1e-6}
MOVED = {"rel": 1e-3, "abs": 1e-6}
MIOU = {"abs": 2e-3}  # a pixel more or less in a rare class
EVERY = pytest.mark.parametrize("scenario", SCENARIOS, ids=[f"{scenario.group}: {scenario.name}" for scenario in SCENARIOS])


def golden(scenario: Scenario) -> Golden:
    told = json.loads((FOLDER / f"{scenario.group}.json").read_text(encoding="utf-8"))
    assert told["origin"]
    return Golden(**told["curves"][scenario.name])


def compare(found: Golden, expected: Golden) -> None:
    assert found.losses == pytest.approx(expected.losses, **LOSS)
    assert [miou is None for miou in found.mious] == [miou is None for miou in expected.mious]
    assert [m for m in found.mious if m is not None] == pytest.approx([m for m in expected.mious if m is not None], **MIOU)
    assert found.best_epoch == expected.best_epoch
    assert found.miou == pytest.approx(expected.miou, **MIOU)
    assert found.moved == pytest.approx(expected.moved, **MOVED)


@EVERY
def test_a_training_follows_its_golden_curve(scenario: Scenario, tmp_path: Path) -> None:
    compare(by_agentkd(scenario, tmp_path), golden(scenario))


@pytest.mark.parametrize("group", dict.fromkeys(scenario.group for scenario in SCENARIOS))
def test_the_reference_still_makes_the_golden_curves(group: str, tmp_path: Path) -> None:
    """One of each group; all of them are made anew by ``tests/reference/write.py``."""
    scenario = next(scenario for scenario in SCENARIOS if scenario.group == group)
    compare(by_reference(scenario, tmp_path), golden(scenario))


def test_no_golden_curve_is_left_over_or_missing() -> None:
    found = {(path.stem, name) for path in FOLDER.glob("*.json") for name in json.loads(path.read_text())["curves"]}
    assert found == {(scenario.group, scenario.name) for scenario in SCENARIOS}


def test_every_loss_and_every_objective_has_a_golden_curve() -> None:
    losses = {FAMILIES[scenario.student[0]].loss for scenario in SCENARIOS if scenario.student[0] in FAMILIES}
    assert losses | {"cross_entropy"} == set(LOSSES)
    schema: Any = TypeAdapter(Objective).json_schema()
    taught = {o["kind"] for scenario in SCENARIOS for o in (scenario.distillation or {"objectives": ()})["objectives"]}
    assert taught | {"own"} == set(schema["discriminator"]["mapping"])


def test_no_distillation_is_balanced_so_that_a_swap_would_not_show() -> None:
    taught = [scenario.distillation for scenario in SCENARIOS if scenario.distillation]
    assert {d["alpha"] for d in taught if d.get("hard_loss") != "none"} == {0.3}
