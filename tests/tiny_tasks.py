"""A training of a tiny network that takes part of a second, and a way to stop it."""

from typing import Any

import torch

from agentkd.architecture import Architecture
from agentkd.datasets.opening import open_dataset
from agentkd.networks.families import resolve
from agentkd.recipe import Recipe, ViewSettings
from agentkd.task import DataSource, Train
from agentkd.training.loop import Hooks

SPEC = "generated:seed=5,size=32x32,train=16,validation=8,test=8"
RECIPE = Recipe(epochs=3, batch_size=4, learning_rate=0.05, views=ViewSettings(crop_height=32, crop_width=32))
CPU = torch.device("cpu")


def make_task(recipe: Recipe = RECIPE, architecture: Architecture | None = None, **fields: Any) -> Train:
    source = DataSource(spec=SPEC, content_digest=open_dataset(SPEC).digest)
    chosen = architecture or resolve("tiny_networks:tiny", 5, {"width": 12})
    return Train(architecture=chosen, data=source, recipe=recipe, seed=1, view_seed=2, **fields)


class Stop(Exception):
    """In the middle of a training."""


def stop_at(step: int) -> Hooks:
    def on_step(now: int, steps: int, loss: float) -> None:
        if now == step:
            raise Stop

    return Hooks(on_step=on_step)
