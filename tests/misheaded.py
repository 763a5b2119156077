"""Own networks that say something else of their head than what it is."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def make(num_classes: int, how: str = "") -> "nn.Module":
    from misheaded_modules import KINDS

    made: Any = KINDS[how](num_classes)
    return made
