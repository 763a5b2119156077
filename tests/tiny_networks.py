"""A user's own families, small enough that a training takes a second. A plan reads their spaces; who builds one needs torch."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def tiny(num_classes: int, width: int = 12) -> "nn.Module":
    from tiny_modules import TinyNet

    return TinyNet(num_classes, width)


def other(num_classes: int, width: int = 16) -> "nn.Module":
    from tiny_modules import TinyNet

    return TinyNet(num_classes, width)


tiny.space = {"width": (8, 10, 12)}
other.space = {"width": (8, 12, 16)}


def broken(num_classes: int, width: int = 8) -> "nn.Module":
    from tiny_modules import BrokenNet

    return BrokenNet(num_classes, width)


def picky(num_classes: int, width: int = 8) -> "nn.Module":
    from tiny_modules import PickyNet

    return PickyNet(num_classes, width)


def slow(num_classes: int, width: int = 16) -> "nn.Module":
    from tiny_modules import SlowNet

    return SlowNet(num_classes, width)


def classifier(num_classes: int, width: int = 8) -> "nn.Module":
    from tiny_modules import Classifier

    return Classifier(num_classes, width)


def headed(num_classes: int, width: int = 12) -> "nn.Module":
    from tiny_modules import HeadedNet

    return HeadedNet(num_classes, width)


def width_by_classes(num_classes: int, width: int = 12) -> "nn.Module":
    from tiny_modules import WidthByClasses

    return WidthByClasses(num_classes, width)


def misnamed(num_classes: int, width: int = 12) -> "nn.Module":
    from tiny_modules import Misnamed

    return Misnamed(num_classes, width)


def hyphens(num_classes: int, width: int = 12) -> "nn.Module":
    from tiny_modules import Hyphens

    return Hyphens(num_classes, width)


def endless(num_classes: int, width: int = 12) -> "nn.Module":
    from tiny_modules import Endless

    return Endless(num_classes, width)


for _builder in (tiny, other, broken, picky, slow, classifier, headed):
    _builder.normalization = "imagenet"
