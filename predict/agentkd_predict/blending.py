"""Tiles' probabilities blended into an image's, row by row of tiles.

What is held is the seam below a row of tiles, and the one to the right of a tile: half the overlap, times the image's width,
times the number of classes, whatever the image's height.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from agentkd_predict.tiles import Axis, Floats


@dataclass(frozen=True)
class Block:
    """Probabilities ``[K,h,w]`` of a part of the image that no later tile adds to."""

    top: int
    left: int
    probabilities: Floats


class Blend:
    """Takes tiles in the order of reading, and gives what is settled."""

    def __init__(self, rows: Axis, columns: Axis, num_classes: int) -> None:
        self._rows, self._columns = rows, columns
        height, width = (max((last - first for first, last in axis.seams), default=0) for axis in (rows, columns))
        self._below: Floats = np.zeros((num_classes, height, columns.length), dtype=np.float32)
        self._right: Floats = np.zeros((num_classes, rows.longest, width), dtype=np.float32)

    def add(self, row: int, column: int, probabilities: Floats) -> Block:
        """Adds a tile's probabilities ``[K,h,w]``; returns the part of the image that is settled by it."""
        rows, columns = self._rows, self._columns
        (top, bottom), (left, right) = rows.used(row), columns.used(column)
        at = (
            slice(top - rows.starts[row], bottom - rows.starts[row]),
            slice(left - columns.starts[column], right - columns.starts[column]),
        )
        part = probabilities[:, *at] * rows.weights(row)[:, None] * columns.weights(column)
        if column:
            width = columns.seams[column - 1][1] - left
            part[:, :, :width] += self._right[:, : bottom - top]
        if column < len(columns.seams):
            settled = columns.seams[column][0]
            self._right[:, : bottom - top] = part[:, :, settled - left :]
            part, right = part[:, :, : settled - left], settled
        if row:
            height = rows.seams[row - 1][1] - top
            part[:, :height] += self._below[:, :, left:right]
        if row < len(rows.seams):
            settled = rows.seams[row][0]
            self._below[:, :, left:right] = part[:, settled - top :]
            part = part[:, : settled - top]
        return Block(top, left, part)


def order(rows: Axis, columns: Axis) -> Iterator[tuple[int, int]]:
    """Row and column of each tile, in the order of reading."""
    return ((row, column) for row in range(len(rows)) for column in range(len(columns)))
