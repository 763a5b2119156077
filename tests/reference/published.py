"""Weights, images and what is listed of outputs, so that networks in different code can be compared. Nothing here calls agentkd.

``tests/golden/networks`` holds what published code makes of them; its files say which.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

NUM_VALUES = 12


def filled(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the same names and shapes, drawn in the order of the names, in float64.

    Weights of convolutions have the deviation that keeps a feature's size; scales and kept variances are from 0.5 to 1.5, shifts
    and kept means from -0.3 to 0.3.
    """
    random = torch.Generator().manual_seed(2023)
    made = {}
    for name in sorted(state):
        like = state[name]
        if not like.is_floating_point():
            made[name] = torch.zeros_like(like)
        elif like.dim() == 4:
            noise = torch.randn(like.shape, generator=random, dtype=torch.float64)
            made[name] = noise * math.sqrt(1 / like[0].numel())
        else:
            share = torch.rand(like.shape, generator=random, dtype=torch.float64)
            is_scale = name.endswith(("weight", "running_var"))
            made[name] = 0.5 + share if is_scale else 0.6 * share - 0.3
    return made


def images() -> Tensor:
    """Two, of a size that strides of 64 divide."""
    random = torch.Generator().manual_seed(2024)
    return torch.randn(2, 3, 128, 192, generator=random, dtype=torch.float64)


def sampled(x: Tensor) -> dict[str, object]:
    """Shape, mean, mean size, and some values that lie evenly over the whole tensor."""
    flat = x.detach().double().flatten()
    places = torch.linspace(0, flat.numel() - 1, NUM_VALUES).long()
    return {
        "shape": list(x.shape),
        "mean": float(flat.mean()),
        "mean_size": float(flat.abs().mean()),
        "values": flat[places].tolist(),
    }
