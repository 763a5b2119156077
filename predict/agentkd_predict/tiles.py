"""Where tiles lie, and how much of each counts: pure.

Along one axis, neighboring tiles overlap. In the middle of an overlap lies a *seam*, half as wide as ``overlap`` says, in which
one tile fades out as the other fades in (the squares of cosine and sine, whose sum is 1); beyond it one tile counts alone. So a
pixel counts only if it is at least ``overlap // 4`` from an edge of the tile that is not the image's own: a network that looks
no further gives exactly what it gives for the whole image. For one that makes images smaller inside, that needs tiles that begin
on its grid; where the last one has to begin further back for that, it is longer.
"""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Span = tuple[int, int]


@dataclass(frozen=True)
class Axis:
    """Tiles along one axis.

    Args:
        length: of the image, in pixels.
        tile: the length of each tile but the last, which ends where the image does.
        starts: where each begins.
        seams: from where to where each fades into the next.
    """

    length: int
    tile: int
    starts: tuple[int, ...]
    seams: tuple[Span, ...]

    def __len__(self) -> int:
        return len(self.starts)

    def span(self, index: int) -> Span:
        """From where to where a tile lies."""
        start = self.starts[index]
        return start, (self.length if index == len(self.starts) - 1 else start + self.tile)

    @property
    def longest(self) -> int:
        """The length of the longest tile."""
        return max(self.tile, self.length - self.starts[-1])

    def used(self, index: int) -> Span:
        """The part of a tile that counts at all."""
        return (self.seams[index - 1][0] if index else 0), (self.seams[index][1] if index < len(self.seams) else self.length)

    def settled(self, index: int) -> Span:
        """What no later tile adds to, once this one is added."""
        return (self.seams[index - 1][0] if index else 0), (self.seams[index][0] if index < len(self.seams) else self.length)

    def weights(self, index: int) -> Floats:
        """How much each pixel of the used part counts. Over all tiles the sum is 1 everywhere."""
        first, last = self.used(index)
        found = np.ones(last - first, dtype=np.float32)
        if index:
            width = self.seams[index - 1][1] - self.seams[index - 1][0]
            found[:width] = _rise(width)
        if index < len(self.seams):
            width = self.seams[index][1] - self.seams[index][0]
            found[len(found) - width :] *= 1 - _rise(width)
        return found


@cache
def _rise(width: int) -> Floats:
    return (np.sin((np.arange(width) + 0.5) / max(width, 1) * np.pi / 2) ** 2).astype(np.float32)


def lay(length: int, tile: int, overlap: int, grid: int = 1) -> Axis:
    """The fewest tiles that cover an axis, begin on a grid and overlap by at least so much; the last ends where the image does.

    Args:
        length: of the image, 1 or more.
        tile: the length of a tile; 0, or one that the image is not longer than, makes one tile of the image.
        overlap: of neighboring tiles, at most half a tile.
        grid: tiles begin at its multiples, so that the last is longer by less than that. Of tiles so short that this would leave
            no step between them it is halved.

    Example:
        >>> lay(100, 40, 8).starts, lay(100, 40, 8).seams
        ((0, 32, 60), ((34, 38), (64, 68)))
        >>> lay(110, 40, 8, grid=32).starts, lay(110, 40, 8, grid=32).span(2)
        ((0, 32, 64), (64, 110))
    """
    if not tile or length <= tile:
        return Axis(length, length, (0,), ())
    if not 0 <= overlap <= tile // 2:
        raise ValueError(f"an overlap of {overlap} does not fit tiles of {tile}: at most {tile // 2}")
    while grid > tile - overlap:
        grid //= 2
    step = (tile - overlap) // grid * grid
    starts = tuple(dict.fromkeys((*range(0, length - tile, step), (length - tile) // grid * grid)))
    half = overlap // 4
    centers = [(after + before + tile) // 2 for before, after in pairwise(starts)]
    return Axis(length, tile, starts, tuple((center - half, center + half) for center in centers))
