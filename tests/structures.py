"""What a network is made of, so that two can be compared without their weights."""

from typing import Any

import torch
from torch import nn

from agentkd.architecture import Architecture
from agentkd.networks.build import build

Structure = list[tuple[str, str, str, list[tuple[str, Any]], list[tuple[str, tuple[int, ...]]]]]
PLAIN = (bool, int, float, str, tuple)


def structure(architecture: Architecture) -> Structure:
    """Every module with its name, its type, what it says of itself, its plain attributes, and its tensors' shapes."""
    with torch.device("meta"):
        network = build(architecture)
    return [
        (name, type(module).__name__, module.extra_repr(), _attributes(module), _shapes(module))
        for name, module in network.named_modules()
    ]


def _attributes(module: nn.Module) -> list[tuple[str, Any]]:
    return sorted((k, v) for k, v in vars(module).items() if isinstance(v, PLAIN) and k != "training" and not k.startswith("_"))


def _shapes(module: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    named = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    return [(name, tuple(tensor.shape)) for name, tensor in named]
