"""The modules that ``tiny_networks`` builds."""

import time

from torch import Tensor, nn


class TinyNet(nn.Module):
    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


class BrokenNet(TinyNet):
    """Fails where there are numbers, so that nothing is seen before it learns."""

    def forward(self, images: Tensor) -> Tensor:
        if images.is_meta:
            return super().forward(images)
        raise RuntimeError("this network is broken")


class PickyNet(TinyNet):
    """Does not learn from batches of seven."""

    def forward(self, images: Tensor) -> Tensor:
        if len(images) == 7:
            raise RuntimeError("a batch of 7 is not for this network")
        return super().forward(images)


class SlowNet(TinyNet):
    """As slow as a teacher that is ten times larger, but only as a teacher."""

    def forward(self, images: Tensor) -> Tensor:
        if not self.training:
            time.sleep(0.1)
        return super().forward(images)


class Classifier(nn.Module):
    """One answer for a whole image."""

    head_modules = ("head",)

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


class HeadedNet(TinyNet):
    """Says which of its modules are its head: it may have several."""

    head_modules = ("head",)


class WidthByClasses(TinyNet):
    """Says so of one of its modules, and another depends on the number of classes too."""

    head_modules = ("head",)

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__(num_classes, width)
        self.mixed = nn.Conv2d(num_classes, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.mixed(super().forward(images))


class Misnamed(TinyNet):
    """Names a module that it does not have."""

    head_modules = ("classifier",)


class Hyphens(TinyNet):
    """A tensor of it has a name that none has that is handed over."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__(num_classes, width)
        self.more = nn.ModuleDict({"a-b": nn.Conv2d(3, 3, 1)})


class Endless(TinyNet):
    """A tensor of it has a name that is too long."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__(num_classes, width)
        self.more = nn.ModuleDict({"x" * 200: nn.Conv2d(3, 3, 1)})
