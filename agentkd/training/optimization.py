"""Optimizers, and the learning rate as a function of recipe and step, so that resuming needs no scheduler state.

All are fused: each parameter is read and written once a step, on a GPU in a few launches, which takes half the time for SGD and a
fifth for AdamW. They give the same bits on every run, but others than those that are not, so a record says that they were.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from agentkd.recipe import Recipe

SURROUNDINGS = {"optimizers": "fused"}
"""What of this decides bits, for a record. One that does not say it is of optimizers that were not fused."""

# The discriminator's own optimizer: Adam with the betas of DCGAN (Radford et al. 2016) and the rate of CNN-I2I BiSeNet.
DISCRIMINATOR_RATE = 2e-6
DISCRIMINATOR_BETAS = (0.5, 0.999)


class ParameterGroupLike(Protocol):
    """Parameters optimized alike: see ``agentkd.networks.blocks.ParameterGroup``."""

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]: ...
    @property
    def rate(self) -> float: ...
    @property
    def optimizer(self) -> str: ...
    @property
    def decays(self) -> bool: ...


class TrainableNetwork(Protocol):
    """What the loop needs of a network: see ``agentkd.networks.blocks.SegmentationNetwork``."""

    def parameter_groups(self) -> list[ParameterGroupLike]: ...


def build_optimizers(groups: Sequence[ParameterGroupLike], recipe: Recipe) -> dict[str, Optimizer]:
    """``main``, and ``discriminator`` where a network has one. Each parameter is in exactly one.

    Momentum is there from the start, as zero: fused, a parameter could not get it later than others, as one must whose head is
    not in use in the first step.
    """
    main = [
        {"params": list(g.parameters), "rate": g.rate, "weight_decay": recipe.weight_decay if g.decays else 0.0}
        for g in groups
        if g.optimizer == "main"
    ]
    optimizers: dict[str, Optimizer] = {}
    if recipe.optimizer == "sgd":
        optimizers["main"] = torch.optim.SGD(main, lr=recipe.learning_rate, momentum=recipe.momentum, fused=True)
        if recipe.momentum:
            for parameter in (one for g in groups if g.optimizer == "main" for one in g.parameters if one.requires_grad):
                optimizers["main"].state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    else:
        optimizers["main"] = torch.optim.AdamW(main, lr=recipe.learning_rate, fused=True)
    adversary = [p for g in groups if g.optimizer == "discriminator" for p in g.parameters]
    if adversary:
        optimizers["discriminator"] = torch.optim.Adam(adversary, lr=DISCRIMINATOR_RATE, betas=DISCRIMINATOR_BETAS, fused=True)
    return optimizers


def set_learning_rate(optimizer: Optimizer, recipe: Recipe, step: int, total_steps: int) -> None:
    """Sets every group's rate for the given step."""
    rate = learning_rate(recipe, step, total_steps)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate"]


def learning_rate(recipe: Recipe, step: int, total_steps: int) -> float:
    """The base learning rate at a step of so many, counted from 0.

    Example:
        >>> learning_rate(Recipe(learning_rate=1.0, schedule="polynomial", power=1.0), 25, 100)
        0.75
    """
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / (total_steps - recipe.warmup_steps)
    if recipe.schedule == "polynomial":
        return recipe.learning_rate * (1 - done) ** recipe.power
    if recipe.schedule == "cosine":
        return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    return recipe.learning_rate
