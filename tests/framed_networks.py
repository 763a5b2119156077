"""A user's own network in a frame, as people build upon a library: some names begin with ``model.``, others do not."""

import torch
from torch import nn


class Framed(nn.Module):
    """A frame."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.head = nn.Conv2d(4, num_classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.model(images))


def framed(num_classes: int) -> nn.Module:
    return Framed(num_classes)
