"""The loop with a network that does as it is told: which epoch is kept, when it is stopped, and in which mode it is looked at."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from agentkd.errors import OutOfMemoryError
from agentkd.networks.blocks import Outputs, SegmentationNetwork
from agentkd.recipe import Recipe
from agentkd.task import EpochResult, Status
from agentkd.training import loop
from agentkd.training.batches import Batch
from agentkd.training.checkpoint import Checkpoints, Progress
from agentkd.training.loop import Hooks, Plan, Teaching, Trained, Untaught, train
from agentkd.training.losses import LossSettings

MIOU = {0: 1.0, 1: (2 / 3 + 1 / 2) / 2, 2: 0.25}  # of four pixels, two of each class, by how many of class 1 are missed


class Scripted(SegmentationNetwork):
    """Its one weight counts the steps. After step n it misses ``errors[n - 1]`` pixels; every look at it is remembered."""

    def __init__(self, errors: tuple[int, ...]) -> None:
        super().__init__()
        self.errors, self.modes, self.dtypes = errors, [], set()
        self.weight = nn.Parameter(torch.zeros(()))
        self.register_buffer("unused", torch.zeros(1))

    def forward(self, images: Tensor) -> Outputs:
        self.modes.append("training" if self.training else "evaluation")
        if self.training:
            self.dtypes.add(torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype)
            return {"logits": self.weight * torch.ones(len(images), 2, 1, 4)}
        missed = self.errors[round(float(self.weight.detach())) - 1]
        predicted = torch.tensor([0, 0, *[0] * missed, *[1] * (2 - missed)])
        return {"logits": nn.functional.one_hot(predicted, 2).T[None, :, None].float()}


class OneStepAnEpoch:
    """Each epoch is ``steps_per_epoch`` steps long."""

    def __init__(self, steps_per_epoch: int = 1) -> None:
        self.steps_per_epoch = steps_per_epoch

    def training_batch(self, step: int) -> Batch:
        return Batch(torch.zeros(2, 3, 1, 4), torch.zeros(2, 1, 4, dtype=torch.long))

    def validation_batches(self) -> Iterator[Batch]:
        yield Batch(torch.zeros(1, 3, 1, 4), torch.tensor([[[0, 0, 1, 1]]]))


def minus_the_weight(network: nn.Module, outputs: Outputs, batch: Batch, settings: LossSettings) -> dict[str, Tensor]:
    return {"minus": -outputs["logits"].mean()}


def trained(
    *errors: int,
    prune_below: tuple[float, ...] = (),
    teaching: Teaching | None = None,
    hooks: Hooks | None = None,
    an_epoch: int = 1,
    at: dict[str, Any] | None = None,
    **recipe: object,
) -> tuple[Trained, Scripted]:
    still = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "learning_rate": 1.0, "schedule": "constant"}
    plan = Plan(
        recipe=Recipe.model_validate(still | {"epochs": len(errors) // an_epoch, "batch_size": 2} | recipe),
        loss=minus_the_weight,
        labels=LossSettings(2, 255),
        seed=1,
        prune_below=prune_below,
        teaching=teaching or Untaught(),
    )
    network = Scripted(errors)
    return train(network, OneStepAnEpoch(an_epoch), plan, device=torch.device("cpu"), hooks=hooks, **(at or {})), network


def test_a_network_that_comes_in_evaluation_mode_learns_in_training_mode() -> None:
    network = Scripted((2,)).eval()
    plan = Plan(Recipe(epochs=1, batch_size=2), minus_the_weight, LossSettings(2, 255), seed=1)
    train(network, OneStepAnEpoch(), plan, device=torch.device("cpu"))
    assert network.modes[0] == "training"


def test_the_first_of_equal_epochs_is_kept_with_its_weights() -> None:
    result, network = trained(2, 1, 1, 2)
    assert (result.best_epoch, result.scores.miou) == (2, pytest.approx(MIOU[1]))
    assert float(result.weights["weight"]) == 2.0 == float(network.weight.detach())
    assert [epoch.miou for epoch in result.history] == pytest.approx([MIOU[missed] for missed in (2, 1, 1, 2)])


def test_the_last_epoch_is_kept_if_that_is_wanted() -> None:
    result, _ = trained(0, 1, 2, keep="last")
    assert (result.best_epoch, result.scores.miou, float(result.weights["weight"])) == (3, MIOU[2], 3.0)


def test_a_network_is_validated_in_evaluation_mode_and_goes_on_in_training_mode() -> None:
    _, network = trained(2, 1, 0)
    assert network.modes == ["training", "evaluation"] * 3


def test_epochs_between_validations_have_no_score_and_the_last_one_has() -> None:
    result, _ = trained(2, 1, 0, 1, 2, validate_every=2)
    assert [epoch.miou for epoch in result.history] == [None, pytest.approx(MIOU[1]), None, pytest.approx(MIOU[1]), MIOU[2]]
    assert result.best_epoch == 2 and [epoch.epoch for epoch in result.history] == [1, 2, 3, 4, 5]


def test_a_trial_is_stopped_by_the_best_that_it_has_reached_not_by_its_last_epoch() -> None:
    kept, _ = trained(1, 2, 2, prune_below=(0.5, 0.5, 0.5))
    assert (kept.status, len(kept.history)) == (Status.COMPLETED, 3)
    stopped, _ = trained(2, 2, 1, prune_below=(0.0, 0.3, 0.3))
    assert (stopped.status, len(stopped.history), stopped.best_epoch) == (Status.PRUNED, 2, 1)


def test_a_trial_at_its_bound_goes_on_and_one_without_a_bound_too() -> None:
    assert trained(2, 2, prune_below=(0.25,))[0].status is Status.COMPLETED
    assert trained(2, 2, prune_below=())[0].status is Status.COMPLETED
    last, _ = trained(2, 2, 2, prune_below=(0.9,))
    assert (last.status, len(last.history)) == (Status.PRUNED, 1), "the last bound counts too"


def test_a_trial_is_not_stopped_where_it_was_not_validated() -> None:
    result, _ = trained(2, 2, 2, validate_every=2, prune_below=(0.9, 0.9, 0.9))
    assert (result.status, len(result.history)) == (Status.PRUNED, 2)


class Classifier(Scripted):
    """The same of four whole images."""

    def forward(self, images: Tensor) -> Outputs:
        outputs = super().forward(images)["logits"]
        return {"logits": outputs if self.training else outputs[0, :, 0].T[:, :, None, None]}


class WholeImages(OneStepAnEpoch):
    def validation_batches(self) -> Iterator[Batch]:
        yield Batch(torch.zeros(4, 3, 1, 4), torch.tensor([0, 0, 1, 1])[:, None, None].expand(4, 1, 4))


@pytest.mark.parametrize(("bound", "status"), [(0.7, Status.COMPLETED), (0.8, Status.PRUNED)])
def test_a_classifier_is_stopped_by_its_accuracy(bound: float, status: Status) -> None:
    plan = Plan(Recipe(epochs=2, batch_size=2), minus_the_weight, LossSettings(2, 255), seed=1, prune_below=(bound,))
    plan = replace(plan, recipe=plan.recipe.replace(optimizer="sgd", momentum=0, learning_rate=1, schedule="constant"))
    result = train(Classifier((1, 1)), WholeImages(), plan, device=torch.device("cpu"))
    assert (result.scores.accuracy, result.scores.miou) == (0.75, pytest.approx(MIOU[1])) and MIOU[1] < 0.7
    assert result.status is status


def test_steps_and_epochs_are_told_as_they_end() -> None:
    steps: list[tuple[int, int, float]] = []
    epochs: list[EpochResult] = []
    hooks = Hooks(on_step=lambda *told: steps.append(told), on_epoch=epochs.append)
    started = time.monotonic()
    result, _ = trained(2, 2, 1, 1, an_epoch=2, hooks=hooks)
    assert result.seconds <= time.monotonic() - started, "no time counts twice"
    assert steps == [(1, 4, 0.0), (2, 4, -1.0), (3, 4, -2.0), (4, 4, -3.0)] and result.losses == (0.0, -1.0, -2.0, -3.0)
    assert [epoch.loss for epoch in epochs] == [-0.5, -2.5] and tuple(epochs) == result.history
    assert 0 < sum(epoch.seconds for epoch in epochs) <= result.seconds
    assert result.images_per_s == pytest.approx(4 * 2 / result.seconds)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no"), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_too_little_memory_is_told_with_the_batch_and_other_errors_are_left_as_they_are(error: RuntimeError) -> None:
    def raising(*given: object) -> dict[str, Tensor]:
        raise error

    plan = Plan(recipe=Recipe(epochs=1, batch_size=2), loss=raising, labels=LossSettings(2, 255), seed=1)
    with pytest.raises(OutOfMemoryError, match=r"too little memory for batch \(2, 3, 1, 4\)"):
        train(Scripted((1,)), OneStepAnEpoch(), plan, device=torch.device("cpu"))
    error = RuntimeError("shapes do not match")
    with pytest.raises(RuntimeError, match="shapes do not match"):
        train(Scripted((1,)), OneStepAnEpoch(), plan, device=torch.device("cpu"))


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_a_step_is_computed_in_the_precision_that_the_recipe_says(precision: str, dtype: torch.dtype) -> None:
    _, network = trained(2, 1, precision=precision)
    assert network.dtypes == {dtype} and network.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("at", "steps"),
    [
        ({"checkpoint_every_s": 2.0}, (3, 6, 8, 11, 14, 16)),
        ({"checkpoint_every_s": 12.5}, (8, 16)),
        ({"checkpoint_every_s": 26.0}, ()),
        ({}, tuple(range(1, 17))),
    ],
    ids=["every two seconds", "seldom", "an epoch is too short", "by default"],
)
def test_a_checkpoint_comes_when_more_than_its_time_has_passed_and_not_after_each_epoch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, at: dict[str, float], steps: tuple[int, ...]
) -> None:
    class SecondAStep:
        now = 7.0

        def monotonic(self) -> float:
            return self.now

    class Secured(Untaught):
        def secure(self) -> None:
            done.append("secured")

    clock, done = SecondAStep(), []

    class Noted(Checkpoints):
        def save(self, network: nn.Module, optimizers: object, progress: Progress) -> None:
            done.append((progress.step, progress.seconds))

    monkeypatch.setattr(loop, "time", clock)
    monkeypatch.setattr(loop, "Checkpoints", Noted)
    hooks = Hooks(
        on_step=lambda *told: setattr(clock, "now", clock.now + 1), on_epoch=lambda told: setattr(clock, "now", clock.now + 5)
    )
    at = {"checkpoint": tmp_path / "checkpoint", **at}
    result, _ = trained(*[1] * 16, an_epoch=8, hooks=hooks, teaching=Secured(), at=at)
    assert done == [what for step in steps for what in ("secured", (step, step + 5.0 * (step // 8)))]
    assert (result.seconds, result.images_per_s) == (26.0, 32 / 26) and [epoch.seconds for epoch in result.history] == [8.0, 13.0]


def test_without_a_checkpoint_nothing_is_secured() -> None:
    class Unsecured(Untaught):
        def secure(self) -> None:
            raise AssertionError

    trained(1, 1, 1, 1, an_epoch=2, teaching=Unsecured(), at={"checkpoint_every_s": 0.0})
