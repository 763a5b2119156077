"""What a step is fed: images, labels and where they come from."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Images ``[N,3,H,W]`` float32 and labels ``[N,H,W]`` int64, with the views they are: (sample index, view seed) pairs."""

    images: Tensor
    labels: Tensor
    views: tuple[tuple[int, int], ...] = ()


class Feed(Protocol):
    """Where batches come from. ``training_batch`` is a pure function of the step; several threads may call it at once."""

    @property
    def steps_per_epoch(self) -> int: ...
    def training_batch(self, step: int) -> Batch: ...
    def validation_batches(self) -> Generator[Batch, None, None]: ...
