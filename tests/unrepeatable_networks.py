"""A user's own networks with operations that PyTorch has no repeatable form of: one not even on a CPU, one on CUDA.

Some lift the demand for repeatable ones, for good or for a moment, or let nobody hear what is said of them.
"""

import warnings
from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Unpooling(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, num_classes, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        small, places = F.max_pool2d(self.body(x), 2, return_indices=True)
        return F.max_unpool2d(small, places, 2)


class Resizing(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, num_classes, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.body(x), size=x.shape[-2:], mode="bilinear", align_corners=False)


def resizing(num_classes: int) -> nn.Module:
    return Resizing(num_classes)


def unpooling(num_classes: int) -> nn.Module:
    return Unpooling(num_classes)


class Lifting(Unpooling):
    """Does something before each forward pass that lifts the demand, and perhaps something after it that restores it."""

    def __init__(self, num_classes: int, lift: Callable[[], object], restore: Callable[[], object] = lambda: None) -> None:
        super().__init__(num_classes)
        self.lift, self.restore = lift, restore

    def forward(self, x: Tensor) -> Tensor:
        self.lift()
        made = super().forward(x)
        self.restore()
        return made


def _demand(*, is_on: bool = True, warn_only: bool = False) -> None:
    torch.use_deterministic_algorithms(is_on, warn_only=warn_only)


def lifting(num_classes: int) -> nn.Module:
    return Lifting(num_classes, lambda: _demand(is_on=False))


def lifting_for_a_moment(num_classes: int) -> nn.Module:
    return Lifting(num_classes, lambda: _demand(is_on=False), _demand)


def lifting_and_catching(num_classes: int) -> nn.Module:
    def lift() -> None:
        with suppress(Exception):
            torch.set_deterministic_debug_mode("default")

    network = Lifting(num_classes, lift)
    network.forward = lambda x: (lift(), network.body(x))[1]  # type: ignore[method-assign]
    return network


def only_warned(num_classes: int) -> nn.Module:
    return Lifting(num_classes, lambda: _demand(warn_only=True))


class Quiet(Unpooling):
    """Ignores warnings in one of three ways."""

    def __init__(self, num_classes: int, hush: Callable[[], object], *, record: bool = False) -> None:
        super().__init__(num_classes)
        self.hush, self.record = hush, record

    def forward(self, x: Tensor) -> Tensor:
        with warnings.catch_warnings(record=self.record):
            self.hush()
            return super().forward(x)


def quiet(num_classes: int) -> nn.Module:
    return Quiet(num_classes, lambda: warnings.simplefilter("ignore"))


def quiet_by_recording(num_classes: int) -> nn.Module:
    return Quiet(num_classes, warnings.resetwarnings, record=True)


def quiet_by_message(num_classes: int) -> nn.Module:
    return Quiet(num_classes, lambda: warnings.filterwarnings("ignore", message=".*deterministic"))
