"""Families as users bring them: some that keep to the contract, and some that break it in one place."""

from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Plain(nn.Module):
    def __init__(self, num_classes: int, width: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        return self.head(self.body(images))


def plain(num_classes: int, width: int = 8) -> nn.Module:
    return Plain(num_classes, width)


class WithHelper(Plain):
    """With a second head that only training needs."""

    training_only: tuple[str, ...] = ("helper",)

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.helper = nn.Conv2d(8, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        features = self.body(images)
        logits = self.head(features)
        return logits + 0 * self.helper(features) if self.training else logits


def with_helper(num_classes: int) -> nn.Module:
    return WithHelper(num_classes)


def no_module(num_classes: int) -> object:
    return object()


class OnItsDevice(Plain):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.scale = float(self.head.weight.sum())


def on_its_device(num_classes: int) -> nn.Module:
    return OnItsDevice(num_classes)


def seeded(num_classes: int) -> nn.Module:
    torch.manual_seed(1)
    return Plain(num_classes)


def unseeded(num_classes: int) -> nn.Module:
    network = Plain(num_classes)
    if network.head.bias is not None and network.head.bias.device.type != "meta":
        nn.init.constant_(network.head.bias, float(np.random.default_rng().random()))
    return network


class Idle(Plain):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.idle = nn.Linear(2, 2)


def idle(num_classes: int) -> nn.Module:
    return Idle(num_classes)


class Even(Plain):
    """Takes images of even size alone."""

    def forward(self, images: Tensor) -> Tensor:
        return self.head(F.pixel_shuffle(F.pixel_unshuffle(self.body(images), 16), 16))


def even(num_classes: int) -> nn.Module:
    return Even(num_classes)


class Flat(Plain):
    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images)).movedim(1, -1)


def flat(num_classes: int) -> nn.Module:
    return Flat(num_classes)


class OfTheBatch(Plain):
    def forward(self, images: Tensor) -> Tensor:
        logits = self.head(self.body(images))
        return logits + images.mean() if self.training else logits + logits.mean(dim=0, keepdim=True)


def of_the_batch(num_classes: int) -> nn.Module:
    return OfTheBatch(num_classes)


class Chancy(Plain):
    def forward(self, images: Tensor) -> Tensor:
        return F.dropout(self.head(self.body(images)), 0.5, training=True)


def chancy(num_classes: int) -> nn.Module:
    return Chancy(num_classes)


class Hidden(Plain):
    """A random projection that its state does not hold."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.register_buffer("projection", torch.randn(num_classes, num_classes), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return torch.einsum("nkhw,kj->njhw", self.head(self.body(images)), self.projection)


def hidden(num_classes: int) -> nn.Module:
    return Hidden(num_classes)


class NeedsHelper(WithHelper):
    def forward(self, images: Tensor) -> Tensor:
        features = self.body(images)
        return self.head(features) + self.helper(features)


def needs_helper(num_classes: int) -> nn.Module:
    return NeedsHelper(num_classes)


class NoHelper(Plain):
    training_only = ("helpers",)


def no_helper(num_classes: int) -> nn.Module:
    return NoHelper(num_classes)


class NoPlace(Plain):
    places = MappingProxyType({"penultimate": "helpers"})


def no_place(num_classes: int) -> nn.Module:
    return NoPlace(num_classes)


def wrong_loss(num_classes: int) -> nn.Module:
    return Plain(num_classes)


def wrong_space(num_classes: int, width: int = 8) -> nn.Module:
    return Plain(num_classes, width)


def wrong_member(num_classes: int, width: int = 8) -> nn.Module:
    return Plain(num_classes, width)


def not_plain(num_classes: int, widths: tuple[int, ...] = (8,)) -> nn.Module:
    return Plain(num_classes, widths[0])


plain.space = {"width": (4, 8)}
wrong_loss.loss = "dices"
wrong_space.space = {"depth": (1, 2)}
wrong_member.space = {"width": (8, 0)}
