"""Images of other channels than RGB: what their files hold, band by band, as levels from 0 to 255.

A file has all channels, or there is one file for each. Pillow reads what it gives back as it lies in the file; what a TIFF or
JPEG 2000 holds besides, more channels or more bits of several, rasterio reads (``pip install 'agentkd[geo]'``), and NumPy its own
arrays. Where an image lies on the earth is left out of account.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import TiffImagePlugin

from agentkd.architecture import RGB
from agentkd.datasets.description import Description
from agentkd.datasets.meaning import AsImage, levels_of, meaning_of
from agentkd.datasets.pictures import DAMAGE, ORIENTATION, RAW_MODE, image_size, open_image, stored_in
from agentkd.datasets.samples import MAX_PIXELS, Pixels, Size
from agentkd.errors import DatasetError, check_descriptors
from agentkd.visible import visible

Values = NDArray[Any]
ARRAY = b"\x93NUMPY"
# The drivers of GDAL by how files begin: no others, which might read more than this file.
DRIVERS = {
    b"II*\0": "GTiff",
    b"MM\0*": "GTiff",
    b"II+\0": "GTiff",
    b"MM\0+": "GTiff",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JP2OpenJPEG",
    b"\xff\x4f\xff\x51": "JP2OpenJPEG",
}
SETTINGS = {"GDAL_PAM_ENABLED": "NO", "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}
ORIENTATION_TAG = 274
FULL_16 = (0, 65535)
GEO = "rasterio, which reads such files: pip install 'agentkd[geo]'"


def read_channels(files: Sequence[Path], description: Description, *, is_known: bool = False) -> tuple[Pixels, int]:
    """An image [H,W,C] uint8 of the channels that are described, and the orientation tag by which it was turned.

    Args:
        files: one with all channels, or one for each, in their order.
        description: of the dataset.
        is_known: whether these files were opened before, see ``open_image``.

    Raises:
        DatasetError: a file cannot be read, or holds another number of channels, or it is not known which values are black.
    """
    names = tuple(description.channels)
    colors = names == RGB and len(files) == 1  # gray is RGB then, and the upper 8 of 16 bits are what the table of meanings says
    found, orientation = [], 1
    for file in files:
        values, orientation = _read(file, is_turned=description.orientation == "shown", is_known=is_known)
        if colors and values.shape[2] == 1:
            values = np.repeat(values, len(RGB), axis=2)
        expected = len(names) if len(files) == 1 else 1
        if values.shape[2] != expected:
            raise DatasetError(file, f"has {_counted(values)}", f"{expected}{_of(names) if len(files) == 1 else ''}")
        found.append(values)
    sizes = {values.shape[:2]: file for file, values in zip(files, found, strict=True)}
    if len(sizes) > 1:
        (one, first), (other, second), *_ = sizes.items()
        text = f"is of {one[1]}x{one[0]} pixels, and {second.name} of the same image of {other[1]}x{other[0]}"
        raise DatasetError(first, text, "channels of one size; resample them")
    bands = [(file, values[:, :, at]) for file, values in zip(files, found, strict=True) for at in range(values.shape[2])]
    scales = description.scales
    levels = [
        _levels(band, scale, file, name, has_high_bytes=colors)
        for (file, band), scale, name in zip(bands, scales, names, strict=True)
    ]
    return np.stack(levels, axis=2), orientation


def is_beyond_pillow(file: Path, scale: tuple[float, float] | None) -> bool:
    """Whether an image of RGB is in a file for rasterio: Pillow does not know its kind of TIFF or JPEG 2000, or drops bits.

    Raises:
        DatasetError: it cannot be read at all.
    """
    begins = _begin(file)
    if not _driver(begins):
        return False
    stored = stored_in(file)
    if stored and stored.num_bands < len(RGB):
        return stored.num_samples >= len(RGB)
    if stored:
        return stored.num_bits > 8 and (";16" not in stored.raw or scale not in (None, FULL_16))
    try:
        with _Raster(file, begins) as raster:
            return raster.num_channels in (1, len(RGB))
    except DatasetError:  # which Pillow says better
        return False


def size_of_channels(file: Path, *, is_turned: bool) -> Size:
    """(height, width) of an image by one of its files.

    Raises:
        DatasetError: it cannot be read.
    """
    begins = _begin(file)
    if begins.startswith(ARRAY):
        height, width = _array(file).shape[:2]
        return height, width
    if _is_for_rasterio(file, begins):
        with _Raster(file, begins) as raster:
            return raster.size
    return image_size(file, is_turned=is_turned)


def _levels(values: Values, scale: tuple[float, float] | None, file: Path, name: str, *, has_high_bytes: bool) -> Pixels:
    """A channel [H,W] from 0 to 255."""
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    if values.dtype == np.uint8 and scale in (None, (0, 255)):
        return np.ascontiguousarray(values)
    if values.dtype == np.uint16 and scale == FULL_16 and has_high_bytes:
        return (values >> 8).astype(np.uint8)
    if values.dtype == np.uint8:
        text = f"channel {name} has 8 bits, to which scale: {list(scale or ())} does not apply"
        raise DatasetError(file, text, "no scale in dataset.yaml, or channels with more than 8 bits")
    return levels_of(values, scale, file, f"values of {values.dtype} in channel {name}")


def _read(file: Path, *, is_turned: bool, is_known: bool) -> tuple[Values, int]:
    """What a file holds [H,W,n], and its orientation tag."""
    begins = _begin(file)
    if begins.startswith(ARRAY):
        return _array(file), 1
    if _is_for_rasterio(file, begins):
        _must_not_be_turned(file, begins, is_turned=is_turned)
        with _Raster(file, begins) as raster:
            return raster.values(), 1
    image = open_image(file, is_turned=is_turned, is_known=is_known)
    meaning = meaning_of(image)
    if meaning.image not in (AsImage.COLORS, AsImage.SCALED) or image.mode in ("P", "PA", "CMYK"):
        stored = f"{meaning.stored} ({image.info.get(RAW_MODE, image.mode)})"
        raise DatasetError(
            file, f"image is stored as {stored}", "channels of 8 or 16 bits, or of floating point, in TIFF or NumPy"
        )
    values = np.asarray(image.convert("RGB") if image.mode == "YCbCr" else image)
    return values if values.ndim == 3 else values[:, :, None], image.info[ORIENTATION] if is_turned else 1


def _counted(values: Values) -> str:
    return f"{values.shape[2]} channel{'s' if values.shape[2] > 1 else ''}"


def _of(names: Sequence[str]) -> str:
    return f" ({', '.join(names)}), as channels in dataset.yaml says"


def _begin(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(16)
    except OSError as error:
        check_descriptors(file, error)
        raise DatasetError(file, f"cannot be read ({error.strerror or error})", "an image file") from None


def _driver(begins: bytes) -> str:
    return next((name for start, name in DRIVERS.items() if begins.startswith(start)), "")


def _is_for_rasterio(file: Path, begins: bytes) -> bool:
    stored = stored_in(file) if _driver(begins) else None
    return bool(_driver(begins)) and not (stored and stored.is_kept)


def _array(file: Path) -> Values:
    """An array [H,W,C] or [H,W] of NumPy; its file is mapped, so that a head that lies takes no memory."""
    try:
        values = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, TypeError) as error:
        check_descriptors(file, error)
        told = visible(str(error)).replace("\n", " ")[:200]
        raise DatasetError(file, f"cannot be read as an array of numbers ({told})", "a whole file of numpy.save") from None
    if values.ndim not in (2, 3) or values.dtype.kind not in "buif" or not values.size:
        raise DatasetError(file, f"holds {values.dtype} {list(values.shape)}", "numbers [height, width, channels]")
    _must_be_small(file, *values.shape[:2])
    return np.asarray(values if values.ndim == 3 else values[:, :, None])


def _must_be_small(file: Path, height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        expected = f"at most {MAX_PIXELS:,} pixels; make it smaller, or cut it into tiles"
        raise DatasetError(file, f"is too large ({width}x{height} pixels)", expected)


def _must_not_be_turned(file: Path, begins: bytes, *, is_turned: bool) -> None:
    """That a TIFF of bands has no orientation tag that is to be followed: rasterio does not."""
    if _driver(begins) != "GTiff" or not is_turned:
        return
    try:
        with file.open("rb") as opened:
            head = opened.read(16)
            opened.seek(0)
            is_big = b"+" in head[2:4]
            tags = TiffImagePlugin.ImageFileDirectory_v2(head if is_big else head[:8])
            opened.seek(tags.next)
            tags.load(opened)
            turned = tags.get(ORIENTATION_TAG, 1)
    except DAMAGE:  # whoever reads it will say so
        return
    if turned != 1:
        raise DatasetError(file, f"has the orientation tag {turned}", "none, or orientation: stored in dataset.yaml")


class _Raster:
    """A file that rasterio has open.

    Raises:
        DatasetError: it cannot be opened, is too large, or holds several pictures; or rasterio is not here.
    """

    def __init__(self, file: Path, begins: bytes) -> None:
        try:
            import rasterio  # only where a file needs it
        except ImportError:
            found = "holds channels or bits that Pillow does not read"
            raise DatasetError(file, found, GEO) from None
        self._file, self._failures = file, (rasterio.errors.RasterioError, OSError, ValueError, MemoryError)
        self._env = rasterio.Env(**SETTINGS)
        self._env.__enter__()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
                self._raster = rasterio.open(file.absolute(), driver=_driver(begins))
        except self._failures as error:
            self._env.__exit__(None, None, None)
            raise self._damage(error) from None
        self.size: Size = (self._raster.height, self._raster.width)
        self.num_channels: int = self._raster.count

    def __enter__(self) -> "_Raster":
        return self

    def __exit__(self, *_: object) -> None:
        self._raster.close()
        self._env.__exit__(None, None, None)

    def values(self) -> Values:
        """All of it, [H,W,n]."""
        _must_be_small(self._file, *self.size)
        if len(self._raster.subdatasets) > 1:
            expected = "one; files of several pages are not read: save each in a file of its own"
            raise DatasetError(self._file, f"holds {len(self._raster.subdatasets)} pictures", expected)
        if any(np.dtype(kind).kind not in "uif" for kind in self._raster.dtypes):
            raise DatasetError(self._file, f"holds {', '.join(dict.fromkeys(self._raster.dtypes))}", "real numbers")
        try:
            read: Values = self._raster.read()
        except self._failures as error:
            raise self._damage(error) from None
        return np.ascontiguousarray(read.transpose(1, 2, 0))

    def _damage(self, error: BaseException) -> DatasetError:
        check_descriptors(self._file, error)
        told = visible(str(error.__cause__ or error)).replace(str(self._file.absolute()), self._file.name)[:200]
        return DatasetError(self._file, f"cannot be read as an image of several channels ({told})", "a whole file")
