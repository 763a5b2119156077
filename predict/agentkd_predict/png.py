"""PNG files written some rows at a time: Pillow's writer wants the whole picture.

Source: W3C, Portable Network Graphics (PNG) Specification, sections 5, 9 and 11.
"""

import struct
import zlib
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from agentkd_predict.meaning import Pixels

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PALETTE, TRUE_COLOR = 3, 2
AS_IT_IS, UP = 0, 2
LEVEL = 4


class PngWriter:
    """A PNG with a palette, or with three channels, of 8 bits. What the file cannot take is raised as ``OSError``.

    Args:
        file: to write to, from where it stands.
        height: in pixels.
        width: in pixels.
        palette: a color for each value; none: rows are RGB.
    """

    def __init__(self, file: BinaryIO, height: int, width: int, palette: Sequence[tuple[int, int, int]] = ()) -> None:
        self._file, self._width = file, width
        self._channels = 1 if palette else 3
        self._packer = zlib.compressobj(LEVEL)
        self._above = np.zeros((1, width * self._channels), dtype=np.uint8)
        kind = PALETTE if palette else TRUE_COLOR
        file.write(SIGNATURE)
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0))
        if palette:
            self._chunk(b"PLTE", bytes(value for color in palette for value in color))

    def write(self, rows: Pixels) -> None:
        """Adds rows, ``[h,W]`` of values or ``[h,W,3]`` of colors."""
        flat = rows.reshape(len(rows), self._width * self._channels)
        lines: NDArray[np.uint8] = np.empty((len(flat), flat.shape[1] + 1), dtype=np.uint8)
        if self._channels == 1:
            lines[:, 0], lines[:, 1:] = AS_IT_IS, flat
        else:
            lines[:, 0] = UP
            lines[:1, 1:] = flat[:1] - self._above
            lines[1:, 1:] = flat[1:] - flat[:-1]
            self._above = flat[-1:].copy()
        self._data(self._packer.compress(lines.data))

    def finish(self) -> None:
        """Adds the end."""
        self._data(self._packer.flush())
        self._chunk(b"IEND", b"")

    def _data(self, data: bytes) -> None:
        if data:
            self._chunk(b"IDAT", data)

    def _chunk(self, kind: bytes, data: bytes) -> None:
        self._file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
