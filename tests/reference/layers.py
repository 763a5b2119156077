"""The layers that networks are made of, as plain functions of tensors that are found by name. Nothing here calls agentkd.

Everything is computed as the definitions have it: no module, nothing in place, batch normalization written out.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-5
Size = tuple[int, int]


def size_of(x: Tensor) -> Size:
    return x.shape[-2], x.shape[-1]


def enlarged(x: Tensor, size: Size, *, align_corners: bool = False) -> Tensor:
    """Bilinear."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)


class Layers:
    """Tensors by name. ``is_training`` says whose statistics normalize: those of the batch, or those that were kept."""

    def __init__(self, tensors: Mapping[str, Tensor], *, is_training: bool) -> None:
        self.tensors, self.is_training = tensors, is_training

    def conv(self, name: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
        """Zeros around the image, so many that stride 1 keeps its size."""
        weight = self.tensors[f"{name}.weight"]
        around = (weight.shape[-1] - 1) // 2
        return F.conv2d(x, weight, self.tensors.get(f"{name}.bias"), stride=stride, padding=around, groups=groups)

    def norm(self, name: str, x: Tensor) -> Tensor:
        if self.is_training:
            mean, variance = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), unbiased=False)
        else:
            mean, variance = self.tensors[f"{name}.running_mean"], self.tensors[f"{name}.running_var"]
        scale = self.tensors[f"{name}.weight"] / torch.sqrt(variance + EPSILON)
        return (x - mean[:, None, None]) * scale[:, None, None] + self.tensors[f"{name}.bias"][:, None, None]

    def conv_norm(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        """The first and second layer of a sequence."""
        return self.norm(f"{name}.1", self.conv(f"{name}.0", x, stride))

    def conv_norm_relu(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        return relu(self.conv_norm(name, x, stride))

    def has(self, name: str) -> bool:
        return f"{name}.weight" in self.tensors


def relu(x: Tensor) -> Tensor:
    return torch.maximum(x, torch.zeros_like(x))


def average(x: Tensor) -> Tensor:
    """Over the whole image, [N,C,1,1]."""
    return x.mean(dim=(2, 3), keepdim=True)
