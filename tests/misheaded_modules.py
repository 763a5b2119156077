"""The modules that ``misheaded`` makes."""

import torch
from torch import Tensor, nn

WIDTH = 6


class Base(nn.Module):
    head_modules: object = ("head",)

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.head: nn.Module = nn.Conv2d(WIDTH, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


class Twice(Base):
    head_modules = ("head", "head")


class Deep(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.mid = nn.Conv2d(WIDTH, WIDTH, 1)
        self.head = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 1), nn.Conv2d(WIDTH, num_classes, 1))


class Within(Deep):
    head_modules = ("head", "head.0")


class Tied(Deep):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.head[0].weight = self.mid.weight


class HalfAliased(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.again = self.head


class Aliased(HalfAliased):
    head_modules = ("head", "again")


class Scaled(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.scale = nn.Parameter(torch.ones(1, num_classes, 1, 1))


class Text(Base):
    head_modules = "head"


class Numbered(Base):
    head_modules = (1,)


class Rooted(Base):
    head_modules = ("",)


class Auxiliary(Base):
    training_only = "head"


class ReachedInto(Base):
    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.conv2d(self.body(images), self.head.weight, self.head.bias)


KINDS = {
    "twice": Twice,
    "within": Within,
    "tied": Tied,
    "half_aliased": HalfAliased,
    "aliased": Aliased,
    "scaled": Scaled,
    "text": Text,
    "numbered": Numbered,
    "rooted": Rooted,
    "auxiliary": Auxiliary,
    "reached_into": ReachedInto,
}
