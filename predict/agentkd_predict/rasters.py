"""Rasters by rasterio: large images read in strips, and what lies on a map.

The system's libraries say what a band is; what is refused names the option that would decide.
"""

import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags, PhotometricInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from agentkd_predict.areas import Georeference, ellipsoid_in
from agentkd_predict.errors import InputError, no_descriptors, words
from agentkd_predict.meaning import BY_MODE, FULL_16, WIDE_CHANNELS, Pixels, Scale, Valid, of_8_bits, stretched
from agentkd_predict.pictures import Head, damage

DRIVERS = {
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "GTiff"),
    **dict.fromkeys((b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51"), "JP2OpenJPEG"),
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
}
"""By how a file begins, the one of GDAL's drivers that reads it; no other is asked."""
CACHE_MB = 64
MAX_BLOCK_BYTES = 256 << 20
IN_STRIPS = ("TIFF", "PNG", "JPEG", "MPO", "JPEG2000")
PLAIN = (*(BY_MODE[mode] for mode in ("L", "LA", "P", "RGB", "RGBA", "I;16", "I", "F")), WIDE_CHANNELS)
SETTINGS = {"GDAL_CACHEMAX": CACHE_MB, "GDAL_ERROR_ON_LIBJPEG_WARNING": "YES", "GDAL_PAM_ENABLED": "YES"}
FAILURES = (RasterioError, OSError, ValueError, MemoryError)
COLORS = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


class RasterSource:
    """An open raster that is read in windows as wide as itself.

    Raises:
        InputError: which of its bands are red, green and blue is not known, or its blocks are too large to be read one by one.
    """

    def __init__(
        self, path: Path, scale: Scale | None, bands: tuple[int, ...], told: tuple[str, ...] = (), *, is_learned: bool = False
    ) -> None:
        self.path, self._scale, self._is_in_scale, self._told = path, scale, False, told
        with ExitStack() as opened:
            opened.enter_context(rasterio.Env(**SETTINGS))
            self._raster = opened.enter_context(_open(path))
            self.height, self.width = self._raster.height, self._raster.width
            _check_single(self._raster, path)
            _check_blocks(self._raster, path)
            self._bands = bands or _colors(self._raster, path)
            self._check_bands()
            self._palette = _palette(self._raster) if self._is_palette() else None
            self._is_negative = self._raster.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"
            self._kind = np.dtype(self._raster.dtypes[self._bands[0] - 1])
            if is_learned and self._kind == np.uint8:
                self._told, self._scale = (*told, *of_8_bits(scale)), None
            self._check_kind()
            self.georeference = _georeference(self._raster)
            self._has_gaps = self.georeference is not None and not self._is_full()
            self._opened = opened.pop_all()

    @property
    def notices(self) -> tuple[str, ...]:
        """What is known from the beginning; and once all rows are read: whether none of their values lay in the scale."""
        if self._scale is None or self._kind == np.uint8 or self._is_in_scale:
            return self._told
        black, white = self._scale
        return (*self._told, f"all its values lie beyond --scale {black:g},{white:g}, so that it is all black or white")

    def rows(self, top: int, bottom: int) -> tuple[Pixels, Valid | None]:
        window = Window(0, top, self.width, bottom - top)
        try:
            values = self._raster.read(list(self._bands), window=window)
            valid = self._raster.dataset_mask(window=window) > 0 if self._has_gaps else None
        except FAILURES as error:
            if no_descriptors(error):
                raise
            told = words(error.__cause__ or error, self.path)
            raise InputError(self.path, f"is damaged in rows {top} to {bottom} ({told})", "a whole file") from None
        if values.dtype.kind == "f":
            finite = np.isfinite(values).all(axis=0)
            if not finite.all() and self.georeference is None:
                found = f"holds {int((~finite).sum())} values that are no numbers (NaN or infinite) in rows {top} to {bottom}"
                raise InputError(self.path, found, "numbers")
            if not finite.all():
                valid = finite if valid is None else valid & finite
        return self._colors(values, valid), valid

    def close(self) -> None:
        self._opened.close()

    def _colors(self, values: NDArray[Any], valid: Valid | None) -> Pixels:
        if self._palette is not None:
            return self._palette[values[0]]
        if self._kind != np.uint8:
            values = self._scaled(values, valid)
        if self._is_negative:
            values = 255 - values
        channels = values if len(values) == 3 else np.repeat(values, 3, axis=0)
        return np.ascontiguousarray(channels.transpose(1, 2, 0))

    def _scaled(self, values: NDArray[Any], valid: Valid | None) -> Pixels:
        assert self._scale is not None
        black, white = self._scale
        is_inside = (values >= black) & (values <= white)
        if valid is not None:
            is_inside, values = is_inside & valid, np.where(valid, values, black)
        self._is_in_scale |= bool(is_inside.any())
        if self._kind == np.uint16 and len(values) > 1 and self._scale == FULL_16:
            return (values >> 8).astype(np.uint8)
        return stretched(values, (black, white))

    def _is_full(self) -> bool:
        return all(MaskFlags.all_valid in flags for flags in self._raster.mask_flag_enums)

    def _is_palette(self) -> bool:
        return len(self._bands) == 1 and self._raster.colorinterp[self._bands[0] - 1] is ColorInterp.palette

    def _check_bands(self) -> None:
        count = self._raster.count
        if len(self._bands) not in (1, 3) or not all(1 <= band <= count for band in self._bands):
            told = ",".join(map(str, self._bands))
            raise InputError(self.path, f"has {count} bands, and --bands says {told}", "one of them, or three: red, green, blue")

    def _check_kind(self) -> None:
        bits = self._raster.tags(self._bands[0], ns="IMAGE_STRUCTURE").get("NBITS")
        if self._kind == np.uint8 and bits:
            raise InputError(self.path, f"has {bits} bits a band", "8 or more; convert it")
        if self._kind.kind not in "uif":
            raise InputError(self.path, f"holds {self._kind}", "integers or floating point")
        if self._raster.photometric is PhotometricInterp.cmyk:
            raise InputError(self.path, "is stored as CMYK, which is not read in strips", "RGB; convert it")
        if self._kind == np.uint8 and self._scale not in (None, (0, 255)):
            black, white = self._scale or (0, 0)
            raise InputError(self.path, f"has 8 bits, to which --scale {black:g},{white:g} does not apply", "no --scale")
        if self._kind != np.uint8 and self._scale is None:
            expected = "--scale LOW,HIGH: the values that become black and white"
            raise InputError(self.path, f"holds {self._kind}", expected)


def open_raster(
    path: Path, scale: Scale | None, bands: tuple[int, ...], told: tuple[str, ...] = (), *, is_learned: bool = False
) -> RasterSource:
    """A raster of any size.

    Args:
        path: of the file.
        scale: the values that become black and white, of more than 8 bits.
        bands: those that are red, green and blue, from 1; none: as the file says.
        told: notices that there are already.
        is_learned: whether the scale is the network's; then one with 8 bits is taken as it is.

    Raises:
        InputError: it cannot be read, or not in strips, or its bands are not known.
    """
    return RasterSource(path, scale, bands, told, is_learned=is_learned)


def lies_on_a_map(path: Path) -> bool:
    """Whether a file says where it lies. One that cannot be opened does not."""
    try:
        with rasterio.Env(**SETTINGS), _open(path) as raster:
            return _georeference(raster) is not None
    except InputError:
        return False


def check_strips(path: Path, head: Head, most: int) -> None:
    """That a large picture, which does not lie on a map, can be read in strips and means then what it means otherwise.

    Raises:
        InputError: it cannot.
    """
    size = f"has {head.width}x{head.height} pixels"
    if head.file_format not in IN_STRIPS:
        raise InputError(
            path, f"{size}, and {head.file_format} is decoded whole", f"TIFF, PNG or JPEG, or at most {most:,} pixels"
        )
    if head.meaning not in PLAIN:
        expected = f"gray or RGB, or at most {most:,} pixels"
        raise InputError(path, f"{size}, and is stored as {head.meaning.stored}, which is decoded whole", expected)
    if head.has_steps:
        kind = "a PNG that is not interlaced" if head.file_format == "PNG" else "a JPEG that is not progressive"
        raise InputError(path, f"{size} that come in several passes, so that it is decoded whole", f"{kind}, or a tiled TIFF")
    if head.file_format == "JPEG2000" and _jpeg2000_tile(path) > most:
        raise InputError(path, f"{size} in one piece, so that it is decoded whole", "JPEG 2000 in tiles, or a tiled TIFF")


def _jpeg2000_tile(path: Path) -> int:
    """Pixels of a tile, from the marker SIZ."""
    with path.open("rb") as file:
        data = file.read(1 << 16)
    at = data.find(b"\xff\x4f\xff\x51") + 4
    width, height = (int.from_bytes(data[at + place : at + place + 4], "big") for place in (20, 24))
    return width * height


def _open(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            head = file.read(12)
        driver = next((name for begins, name in DRIVERS.items() if head.startswith(begins)), "GTiff")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return rasterio.open(path.absolute(), driver=driver)
    except FAILURES as error:
        if no_descriptors(error):
            raise
        raise damage(path, error) from None


def _check_single(raster: Any, path: Path) -> None:
    count = len(raster.subdatasets)
    if count > 1:
        expected = "one; files of several pages are not read: save each in a file of its own"
        raise InputError(path, f"holds {count} pictures", expected)


def _check_blocks(raster: Any, path: Path) -> None:
    height, width = raster.block_shapes[0]
    size = height * width * np.dtype(raster.dtypes[0]).itemsize * raster.count
    if size > MAX_BLOCK_BYTES:
        found = f"is stored in blocks of {width}x{height}, {size / 2**20:,.0f} MiB each, which are decoded whole"
        raise InputError(path, found, "smaller ones: gdal_translate -co TILED=YES")


def _colors(raster: Any, path: Path) -> tuple[int, ...]:
    """Which bands are red, green and blue, or gray."""
    meant = list(raster.colorinterp)
    if all(color in meant for color in COLORS):
        return tuple(meant.index(color) + 1 for color in COLORS)
    seen = [band for band, color in enumerate(meant, 1) if color is not ColorInterp.alpha]
    is_told = all(meant[band - 1] in (ColorInterp.gray, ColorInterp.undefined, ColorInterp.palette) for band in seen)
    if len(seen) in (1, 3) and (is_told or len(seen) == 1):
        return tuple(seen)
    told = ", ".join(color.name for color in meant)
    raise InputError(path, f"has {raster.count} bands ({told})", "--bands RED,GREEN,BLUE: which of them, from 1")


def _palette(raster: Any) -> Pixels:
    table = np.zeros((256, 3), dtype=np.uint8)
    for entry, color in raster.colormap(1).items():
        if entry < 256:
            table[entry] = color[:3]
    return table


def _georeference(raster: Any) -> Georeference | None:
    matrix = tuple(raster.transform)[:6]
    if raster.crs is None and raster.transform.is_identity:
        return None
    kind, unit, ellipsoid = "unknown", 1.0, (0.0, 0.0)
    if raster.crs is not None and raster.transform.is_identity:
        return Georeference(matrix, raster.crs, kind)
    if raster.crs is not None and raster.crs.is_geographic:
        kind, unit, ellipsoid = "geographic", raster.crs.units_factor[1], ellipsoid_in(raster.crs.wkt)
    elif raster.crs is not None and raster.crs.is_projected:
        kind, unit, ellipsoid = "projected", raster.crs.linear_units_factor[1], ellipsoid_in(raster.crs.wkt)
        told = raster.crs.to_dict()
        if told.get("proj") == "merc" and told.get("nadgrids") == "@null":
            kind = "web mercator"
    return Georeference(matrix, raster.crs, kind, unit, ellipsoid)
