"""What a step is fed: images, labels and where they come from."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Images ``[N,3,H,W]`` float32 and labels ``[N,H,W]`` int64, with the views they are: (sample index, view seed) pairs."""

    images: Tensor
    labels: Tensor
    views: tuple[tuple[int, int], ...] = ()
