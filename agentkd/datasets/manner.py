"""How a dataset is opened: what becomes of a fault of one file, and how many images are taken. To learn from, all at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from agentkd.errors import DatasetError

Refuse = Callable[[DatasetError], None]
"""What is done with a fault of one file or image. If it does not raise, that one is left out and the rest is looked at."""


def at_once(error: DatasetError) -> NoReturn:
    """The first fault is the end.

    Raises:
        DatasetError: always.
    """
    raise error


@dataclass(frozen=True, slots=True)
class Manner:
    """How a dataset is opened.

    Args:
        refuse: what is done with a fault.
        at_most: how many images of each split are taken, evenly spread; all for 0. The files of the others are not opened.
    """

    refuse: Refuse = at_once
    at_most: int = 0

    @property
    def goes_on(self) -> bool:
        """Whether every fault is told, and not the first alone."""
        return self.refuse is not at_once


STRICT = Manner()


def evenly(indices: Sequence[int], at_most: int) -> tuple[int, ...]:
    """So many of them, evenly spread, in their order; all for 0, or if there are no more."""
    count = len(indices)
    if not at_most or count <= at_most:
        return tuple(indices)
    return tuple(indices[at * count // at_most] for at in range(at_most))
