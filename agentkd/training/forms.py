"""How a network computes: in which precision, laid out how, compiled or not. What it computes is the same, but for rounding."""

from collections.abc import Mapping

import torch
from torch import nn
from torch.optim import Optimizer

from agentkd.recipe import Precision, Recipe


def in_precision(device: torch.device, precision: Precision) -> torch.autocast:
    """While this is entered a network computes so on a device. Its weights stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def lay_out(network: nn.Module) -> None:
    """Lays the weights of convolutions out with their channels side by side; whatever passes through is then laid out so."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def arranged(network: nn.Module, recipe: Recipe) -> nn.Module:
    """The network, in place, as a recipe has it computed. Names and values of its state stay as they are."""
    if recipe.channels_last:
        lay_out(network)
    if recipe.compiled:
        network.compile()
    return network


def follow_layout(optimizers: Mapping[str, Optimizer]) -> None:
    """Lays out what optimizers remember as their parameters are: of a checkpoint it comes row by row."""
    for optimizer in optimizers.values():
        for parameter, slots in optimizer.state.items():
            for name, value in slots.items():
                if isinstance(value, torch.Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                    slots[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
