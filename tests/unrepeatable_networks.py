"""A user's own networks with operations that PyTorch has no repeatable form of: one not even on a CPU, one on CUDA."""

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
