"""A short training of each family, on any device, that can be stopped on the way and go on."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from agentkd.networks import families
from agentkd.networks.build import build
from agentkd.recipe import Recipe
from agentkd.training.batches import Batch
from agentkd.training.loop import Hooks, Plan, Teaching, Trained, Untaught, train
from agentkd.training.losses import LOSSES, LossSettings

CLASSES, IGNORE = 5, 255
SMALL: dict[str, dict[str, Any]] = {
    "pidnet_s": {"planes": 8},
    "pidnet_m": {"planes": 8, "num_blocks3": 1, "num_blocks4": 1},
    "pidnet_l": {"planes": 8, "num_blocks3": 1, "num_blocks4": 1},
    "unet": {"base": 8, "depth": 2, "dropout": 0.1},
    "unetpp": {"base": 8, "depth": 2, "deep_supervision": True},
    "cnn_i2i_bisenet": {"width": 0.25, "i2i_width": 8, "context_planes": 16},
}
FIVE = ("pidnet_s", "pidnet_m", "pidnet_l", "unetpp", "cnn_i2i_bisenet")


def batch_of(seed: int, count: int = 2, size: tuple[int, int] = (75, 101)) -> Batch:
    """Images and labels, of which the first row is ignored."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (count, *size), generator=random)
    labels[:, 0] = IGNORE
    return Batch(torch.randn(count, 3, *size, generator=random), labels)


@dataclass(frozen=True)
class Drawn:
    """Batches of random numbers."""

    steps_per_epoch: int = 2
    count: int = 2
    size: tuple[int, int] = (75, 101)

    def training_batch(self, step: int) -> Batch:
        return batch_of(step, self.count, self.size)

    def validation_batches(self) -> Iterator[Batch]:
        yield batch_of(-1, 1, self.size)


def training(
    family: str,
    recipe: Recipe,
    *,
    device: str = "cpu",
    settings: dict[str, Any] | None = None,
    feed: Drawn | None = None,
    class_weights: tuple[float, ...] = (),
    teaching: Teaching | None = None,
    checkpoint: Path | None = None,
    hooks: Hooks | None = None,
    loaders: int = 0,
) -> Trained:
    """A training with the family's loss, or that of the recipe."""
    loss = "cross_entropy" if recipe.loss == "cross_entropy" else families.loss_name(family)
    plan = Plan(
        recipe=recipe,
        loss=LOSSES[loss],
        labels=LossSettings(CLASSES, IGNORE, class_weights, mines_all=recipe.loss == "ohem"),
        seed=3,
        teaching=teaching or Untaught(),
    )
    network = build(families.resolve(family, CLASSES, SMALL[family] if settings is None else settings), seed=1)
    return train(network, feed or Drawn(), plan, device=torch.device(device), checkpoint=checkpoint, hooks=hooks, loaders=loaders)
