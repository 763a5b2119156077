"""What is made of an image: its mask, an overlay, probabilities; each written as its rows are settled."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from agentkd_predict.areas import Georeference
from agentkd_predict.blending import Block
from agentkd_predict.errors import writing
from agentkd_predict.meaning import Pixels, Valid
from agentkd_predict.metadata import Color
from agentkd_predict.png import PngWriter

NO_DATA = 255
"""In the mask of a map: the source says that there is nothing."""
BLACK = (0, 0, 0)
ROWS_AT_ONCE = 64


class Product(Protocol):
    """A file that grows. Raises ``StorageError`` where it cannot."""

    def add_block(self, block: Block) -> None:
        """Takes probabilities."""
        ...

    def add_rows(self, top: int, mask: Pixels, pixels: Pixels) -> None:
        """Takes rows of the mask ``[h,W]`` and of the image ``[h,W,3]``."""
        ...

    def finish(self) -> None:
        """Makes it whole."""
        ...

    def close(self) -> None:
        """Gives up the file, whole or not."""
        ...


class PngMask:
    """The mask as PNG with the classes' colors as palette."""

    def __init__(self, place: Path, size: tuple[int, int], colors: Sequence[Color]) -> None:
        self._place = place
        with writing(place):
            self._file: BinaryIO = place.open("wb")
            self._writer = PngWriter(self._file, *size, colors)

    def add_block(self, block: Block) -> None:
        pass

    def add_rows(self, top: int, mask: Pixels, pixels: Pixels) -> None:
        with writing(self._place):
            self._writer.write(mask)

    def finish(self) -> None:
        with writing(self._place):
            self._writer.finish()
            self._file.flush()

    def close(self) -> None:
        self._file.close()


class PngOverlay:
    """The image with the classes' colors over it, half and half."""

    def __init__(self, place: Path, size: tuple[int, int], colors: Sequence[Color]) -> None:
        self._place, self._colors = place, colors
        with writing(place):
            self._file: BinaryIO = place.open("wb")
            self._writer = PngWriter(self._file, *size)

    def add_block(self, block: Block) -> None:
        pass

    def add_rows(self, top: int, mask: Pixels, pixels: Pixels) -> None:
        for first in range(0, len(mask), ROWS_AT_ONCE):
            part = slice(first, first + ROWS_AT_ONCE)
            with writing(self._place):
                self._writer.write(overlaid(pixels[part], mask[part], self._colors))

    def finish(self) -> None:
        with writing(self._place):
            self._writer.finish()
            self._file.flush()

    def close(self) -> None:
        self._file.close()


class NpyProbabilities:
    """Probabilities ``[K,H,W]`` as float16 in a ``.npy``, which ``numpy.load(..., mmap_mode="r")`` need not read whole."""

    def __init__(self, place: Path, size: tuple[int, int], num_classes: int) -> None:
        self._place, (self._height, self._width), self._num_classes = place, size, num_classes
        with writing(place):
            self._file: BinaryIO = place.open("wb")
            header = {"descr": "<f2", "fortran_order": False, "shape": (num_classes, *size)}
            np.lib.format.write_array_header_1_0(self._file, header)
            self._start = self._file.tell()
            self._file.truncate(self._start + num_classes * self._height * self._width * 2)

    def add_block(self, block: Block) -> None:
        values = block.probabilities.astype("<f2")
        with writing(self._place):
            for number, channel in enumerate(values):
                for row, line in enumerate(channel, block.top):
                    self._file.seek(self._start + ((number * self._height + row) * self._width + block.left) * 2)
                    self._file.write(np.ascontiguousarray(line).data)

    def add_rows(self, top: int, mask: Pixels, pixels: Pixels) -> None:
        pass

    def finish(self) -> None:
        with writing(self._place):
            self._file.flush()

    def close(self) -> None:
        self._file.close()


def overlaid(pixels: Pixels, mask: Pixels, colors: Sequence[Color]) -> Pixels:
    """Pixels ``[h,w,3]`` mixed half and half with the colors of their classes; as they are where there is no data."""
    table: NDArray[Any] = np.array([*colors, *[BLACK] * (NO_DATA + 1 - len(colors))], dtype=np.uint16)
    mixed = ((pixels.astype(np.uint16) + table[mask]) // 2).astype(np.uint8)
    gaps = mask == NO_DATA
    if gaps.any():
        mixed[gaps] = pixels[gaps]
    return mixed


def masked(mask: Pixels, valid: Valid | None) -> Pixels:
    """The mask with 255 where there is no data."""
    if valid is not None:
        mask[~valid] = NO_DATA
    return mask


def products(
    places: dict[str, Path], size: tuple[int, int], colors: Sequence[Color], georeference: Georeference | None
) -> list[Product]:
    """What is to be made of an image, each at its place: ``mask``, ``overlay``, ``probabilities``.

    Raises:
        StorageError: a file cannot be begun.
    """
    made: list[Product] = []
    try:
        for name, place in places.items():
            made.append(_product(name, place, size, colors, georeference))
    except BaseException:
        for one in made:
            one.close()
        raise
    return made


def _product(
    name: str, place: Path, size: tuple[int, int], colors: Sequence[Color], georeference: Georeference | None
) -> Product:
    if georeference is not None:
        from agentkd_predict.maps import TiffMask, TiffOverlay, TiffProbabilities

        if name == "mask":
            return TiffMask(place, size, colors, georeference)
        if name == "overlay":
            return TiffOverlay(place, size, colors, georeference)
        return TiffProbabilities(place, size, len(colors), georeference)
    if name == "mask":
        return PngMask(place, size, colors)
    if name == "overlay":
        return PngOverlay(place, size, colors)
    return NpyProbabilities(place, size, len(colors))
