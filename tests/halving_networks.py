"""A user's own network that halves its images twice and doubles them again: it takes multiples of four alone."""

import torch
from torch import nn


class Halving(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.up = nn.Sequential(nn.MaxPool2d(2), nn.ConvTranspose2d(8, 8, 2, stride=2), nn.ReLU())
        self.head = nn.ConvTranspose2d(16, num_classes, 2, stride=2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.down(images)
        return self.head(torch.cat([x, self.up(x)], dim=1))


def halving(num_classes: int) -> nn.Module:
    return Halving(num_classes)
