"""Where pixels come from, some rows at a time, whatever the file.

Up to ``MAX_PIXELS`` a picture is decoded whole by Pillow. What is larger, or lies on a map, is read in strips by rasterio, which
is not installed by itself; a large picture that is turned by its tag goes through a file on the disk first.
"""

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from PIL import Image

from agentkd_predict.areas import Georeference
from agentkd_predict.errors import InputError, writing
from agentkd_predict.meaning import FULL_16, WIDE_CHANNELS, Pixels, Scale, Treatment, Valid, of_8_bits
from agentkd_predict.pictures import ON_ITS_SIDE, Head, look, read_picture

MAX_PIXELS = 64_000_000
"""The most that is decoded whole."""
ROWS_AT_ONCE = 256
TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
JPEG_2000 = (b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51")
GEO = "pip install agentkd-predict[geo]"


class Source(Protocol):
    """An image that gives its rows. Not to be shared by threads; rows may be asked for again, and in any order.

    ``georeference`` says where it lies, if it says so itself; ``notices`` what is to be known of it, once all rows
    are read.
    """

    path: Path
    height: int
    width: int
    georeference: Georeference | None

    @property
    def notices(self) -> tuple[str, ...]: ...

    def rows(self, top: int, bottom: int) -> tuple[Pixels, Valid | None]:
        """Rows ``[bottom - top, W, 3]`` RGB, and which of their pixels hold data (None: all).

        Raises:
            InputError: the file is damaged there, or what it holds has no color.
        """
        ...

    def close(self) -> None:
        """Gives up the file."""
        ...


class PictureSource:
    """A picture that was decoded whole."""

    def __init__(self, path: Path, pixels: Pixels, notices: tuple[str, ...] = ()) -> None:
        self.path, self._pixels, self.notices = path, pixels, notices
        self.height, self.width = pixels.shape[:2]
        self.georeference: Georeference | None = None

    def rows(self, top: int, bottom: int) -> tuple[Pixels, Valid | None]:
        return self._pixels[top:bottom], None

    def close(self) -> None:
        pass


class TurnedSource:
    """Another source as its orientation tag says, from a file without a name that holds all its pixels."""

    def __init__(self, source: Source, orientation: int, folder: Path) -> None:
        self.path, self.notices = source.path, source.notices
        self.georeference: Georeference | None = None
        self._orientation, self._height, self._width = orientation, source.height, source.width
        is_on_its_side = orientation in ON_ITS_SIDE
        self.height, self.width = (self._width, self._height) if is_on_its_side else (self._height, self._width)
        with writing(folder):
            self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 as long as the source
        try:
            for top in range(0, source.height, ROWS_AT_ONCE):
                pixels, _ = source.rows(top, min(top + ROWS_AT_ONCE, source.height))
                with writing(folder):
                    self._file.write(np.ascontiguousarray(pixels).data)
            with writing(folder):
                self._file.flush()
        except BaseException:
            self._file.close()
            raise
        finally:
            source.close()

    def rows(self, top: int, bottom: int) -> tuple[Pixels, Valid | None]:
        is_back = self._orientation in (3, 4, 7, 8)
        length = self.height
        first, last = (length - bottom, length - top) if is_back else (top, bottom)
        if self._orientation not in ON_ITS_SIDE:
            size = self._width * 3
            data = os.pread(self._file.fileno(), (last - first) * size, first * size)
            found = np.frombuffer(data, dtype=np.uint8).reshape(last - first, self._width, 3)
            is_mirrored = self._orientation in (2, 3)
        else:
            size = (last - first) * 3
            places = ((row * self._width + first) * 3 for row in range(self._height))
            data = b"".join(os.pread(self._file.fileno(), size, place) for place in places)
            found = np.frombuffer(data, dtype=np.uint8).reshape(self._height, last - first, 3).transpose(1, 0, 2)
            is_mirrored = self._orientation in (6, 7)
        found = found[::-1] if is_back else found
        return np.ascontiguousarray(found[:, ::-1] if is_mirrored else found), None

    def close(self) -> None:
        self._file.close()


def open_source(path: Path, scale: Scale | None, bands: tuple[int, ...], folder: Path, *, is_learned: bool = False) -> Source:
    """The image in a file, as it is shown.

    Args:
        path: of the file.
        scale: the values that become black and white, of images with more than 8 bits.
        bands: of a raster, those that are red, green and blue, from 1; none: as the file says.
        folder: where a large picture is put that must be turned.
        is_learned: whether the scale is the network's, and not asked for: then an image with 8 bits is taken as it is, with a
            notice.

    Raises:
        InputError: it is no image that can be read here.
        StorageError: a large picture has no room in the folder.
    """
    is_raster, notices = _begins_with(path, TIFFS + JPEG_2000), tuple[str, ...]()
    if is_raster and _has_rasterio():
        from agentkd_predict.rasters import lies_on_a_map, open_raster

        if bands or lies_on_a_map(path):
            return open_raster(path, scale, bands, is_learned=is_learned)
    elif is_raster and bands:
        raise InputError(path, "--bands needs rasterio", f"it to be there: {GEO}")
    head = look(path)
    if bands:
        raise InputError(path, f"is a {head.file_format}, of which --bands says nothing", "a GeoTIFF, or no --bands")
    if is_raster and not _has_rasterio() and _has_geo_tags(path):
        notices = (f"its georeference is left out: {GEO} reads it",)
    if is_learned and head.meaning.image is Treatment.COLORS:
        scale, notices = None, (*notices, *of_8_bits(scale))
    if is_raster and head.meaning is WIDE_CHANNELS and scale not in (None, FULL_16):
        if _has_rasterio():
            return _in_strips(path, head, scale, folder)
        black, white = scale or FULL_16
        raise InputError(path, f"has 16 bits a channel, and --scale {black:g},{white:g} needs rasterio", f"it to be there: {GEO}")
    if head.height * head.width <= MAX_PIXELS:
        return PictureSource(path, read_picture(path, scale), notices)
    return _large(path, head, scale, folder, notices)


def _large(path: Path, head: Head, scale: Scale | None, folder: Path, notices: tuple[str, ...]) -> Source:
    if not _has_rasterio():
        found = f"has {head.width}x{head.height} pixels, and more than {MAX_PIXELS:,} are not decoded at once"
        raise InputError(path, found, f"rasterio, which reads it in strips: {GEO}")
    from agentkd_predict.rasters import check_strips

    check_strips(path, head, MAX_PIXELS)
    return _in_strips(path, head, scale, folder, notices)


def _in_strips(path: Path, head: Head, scale: Scale | None, folder: Path, notices: tuple[str, ...] = ()) -> Source:
    from agentkd_predict.rasters import open_raster

    source = open_raster(path, scale, (), notices)
    return source if head.orientation == 1 else TurnedSource(source, head.orientation, folder)


def _has_geo_tags(path: Path) -> bool:
    """Whether a TIFF says where it lies: the tags ModelPixelScale, ModelTransformation, GeoKeyDirectory."""
    with path.open("rb") as file, Image.open(file) as image:
        return bool({33550, 34264, 34735} & set(getattr(image, "tag_v2", ())))


def _has_rasterio() -> bool:
    return find_spec("rasterio") is not None


def _begins_with(path: Path, marks: tuple[bytes, ...]) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(12).startswith(marks)
    except OSError:
        return False
