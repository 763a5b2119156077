"""What is made of an image that lies on a map: GeoTIFFs in the same place, written as their rows are settled."""

import errno
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.transform import Affine
from rasterio.windows import Window

from agentkd_predict.areas import Georeference
from agentkd_predict.blending import Block
from agentkd_predict.errors import StorageError, words
from agentkd_predict.meaning import Pixels
from agentkd_predict.metadata import Color
from agentkd_predict.products import NO_DATA, ROWS_AT_ONCE, overlaid
from agentkd_predict.rasters import SETTINGS

SIDE = 256
PACKED = {"tiled": True, "blockxsize": SIDE, "blockysize": SIDE, "compress": "deflate", "BIGTIFF": "IF_SAFER"}


class _Tiff:
    def __init__(self, place: Path, size: tuple[int, int], georeference: Georeference, **profile: Any) -> None:
        self._place = place
        given = {"driver": "GTiff", "height": size[0], "width": size[1], "crs": georeference.crs} | profile
        given["transform"] = Affine(*georeference.transform)
        with ExitStack() as opened, _writing(place):
            opened.enter_context(rasterio.Env(**SETTINGS))
            self._raster = opened.enter_context(rasterio.open(place, "w", **given))
            self._opened = opened.pop_all()

    def add_block(self, block: Block) -> None:
        pass

    def add_rows(self, top: int, mask: Pixels, pixels: Pixels) -> None:
        pass

    def finish(self) -> None:
        with _writing(self._place):
            self._opened.close()

    def close(self) -> None:
        self._opened.close()


class TiffMask(_Tiff):
    """The mask, with the classes' colors; what has no data is 255."""

    def __init__(self, place: Path, size: tuple[int, int], colors: Sequence[Color], georeference: Georeference) -> None:
        super().__init__(place, size, georeference, count=1, dtype="uint8", nodata=NO_DATA, **PACKED)
        with _writing(place):
            self._raster.write_colormap(1, {number: (*color, 255) for number, color in enumerate(colors)})

    def add_rows(self, top: int, mask: Pixels, pixels: Pixels) -> None:
        with _writing(self._place):
            self._raster.write(mask, 1, window=Window(0, top, mask.shape[1], len(mask)))


class TiffOverlay(_Tiff):
    """The image with the classes' colors over it, half and half; clear where there is no data."""

    def __init__(self, place: Path, size: tuple[int, int], colors: Sequence[Color], georeference: Georeference) -> None:
        super().__init__(place, size, georeference, count=4, dtype="uint8", photometric="RGB", alpha="YES", **PACKED)
        self._colors = colors
        with _writing(place):
            self._raster.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]

    def add_rows(self, top: int, mask: Pixels, pixels: Pixels) -> None:
        for first in range(0, len(mask), ROWS_AT_ONCE):
            part = slice(first, first + ROWS_AT_ONCE)
            mixed = overlaid(pixels[part], mask[part], self._colors)
            alpha = np.where(mask[part] == NO_DATA, 0, 255).astype(np.uint8)
            values = np.concatenate([mixed, alpha[:, :, None]], axis=2).transpose(2, 0, 1)
            with _writing(self._place):
                self._raster.write(values, window=Window(0, top + first, mask.shape[1], len(mixed)))


class TiffProbabilities(_Tiff):
    """A band for each class, float16 and not compressed, so that it is written in any order."""

    def __init__(self, place: Path, size: tuple[int, int], num_classes: int, georeference: Georeference) -> None:
        layout = PACKED | {"nbits": 16, "interleave": "band", "compress": "none"}
        super().__init__(place, size, georeference, count=num_classes, dtype="float32", **layout)

    def add_block(self, block: Block) -> None:
        _, height, width = block.probabilities.shape
        with _writing(self._place):
            self._raster.write(block.probabilities, window=Window(block.left, block.top, width, height))


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    try:
        yield
    except (RasterioError, OSError) as error:
        is_full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        raise StorageError(place, "the disk is full" if is_full else words(error.__cause__ or error, place)) from error
