"""Image files opened by Pillow: one picture each, whole, of a format that is read here, turned as its tag says.

What is read, and what is refused, is what agentkd's datasets read and refuse; a test holds the two together. Whatever is wrong
with a file is an ``InputError`` that names it; Pillow's own errors do not leave this module.
"""

import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps

from agentkd_predict.errors import InputError, no_descriptors, words
from agentkd_predict.meaning import Meaning, Pixels, as_colors, meaning_of
from agentkd_predict.wholeness import check_whole

# Pillow says on the screen that it does not read TIFFs of more than six channels, besides raising it; rasterio does.
logging.getLogger("PIL.TiffImagePlugin").addFilter(lambda record: "samples per pixel" not in record.msg)

FORMATS = ("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP", "JPEG2000", "PPM", "DIB", "PCX", "AVIF", "TGA")
ON_ITS_SIDE = (5, 6, 7, 8)
NEW_SUBFILE_TYPE = 254
SMALLER_OR_MASK = 0b101
"""Bits of that tag of a TIFF's page which is the same picture made smaller, or its mask: no further picture."""

# What files called .png and .jpg are instead, by how they begin.
DISGUISES = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself", "the file: git lfs pull"),
    (b"../.git/annex/", "is a git-annex pointer, not the file itself", "the file: git annex get"),
    (b"/annex/objects/", "is a git-annex pointer, not the file itself", "the file: git annex get"),
    (b"<!doctype html", "is a page of HTML, perhaps that of a failed download", "an image"),
    (b"<html", "is a page of HTML, perhaps that of a failed download", "an image"),
    (b"<?xml", "is XML", "an image"),
    (b"<svg", "is a drawing (SVG)", "an image of pixels, such as PNG"),
    (b"{", "is JSON", "an image"),
    (b"pk\x03\x04", "is a ZIP archive", "what is in it"),
    (b"\x1f\x8b", "is compressed with gzip", "what is in it"),
    (b"%pdf", "is a PDF", "an image"),
    (b"\x93numpy", "is a NumPy array", "an image"),
    (b"\x89hdf", "is an HDF5 file", "an image"),
)

# Everything that Pillow's readers have been seen to raise for damaged files.
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    EOFError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


@cache
def formats() -> tuple[str, ...]:
    """Those of ``FORMATS`` that the Pillow at hand knows, the frequent ones first."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@dataclass(frozen=True)
class Head:
    """What a file says of its picture, before that is read.

    Args:
        file_format: Pillow's name.
        height: as shown, in pixels.
        width: as shown, in pixels.
        orientation: its tag, 1 to 8.
        meaning: how its pixels are stored.
        has_steps: whether the whole picture is there from the first pass on (interlaced PNG, progressive JPEG).
    """

    file_format: str
    height: int
    width: int
    orientation: int
    meaning: Meaning
    has_steps: bool


def look(path: Path) -> Head:
    """The head of an image file of any size.

    Raises:
        InputError: it is no image of a format that is read here, or holds several pictures.
    """
    with _opened(path) as image:
        _check_single(image, path)
        orientation = _orientation(image)
        width, height = image.size
        if orientation in ON_ITS_SIDE and image.format != "TIFF":  # which Pillow has turned already
            width, height = height, width
        has_steps = bool(image.info.get("interlace") or image.info.get("progressive"))
        meaning = meaning_of(image, _raw_mode(image))
        return Head(image.format or "", height, width, orientation, meaning, has_steps)


def read_picture(path: Path, scale: tuple[float, float] | None = None) -> Pixels:
    """The picture in a file as it is shown, RGB [H,W,3] uint8.

    Args:
        path: of the file.
        scale: the values that become black and white, of images with more than 8 bits.

    Raises:
        InputError: it is no image of a format that is read here, or damaged, or holds several pictures, or ends early, or how it
            is stored does not say which color its values are.
    """
    with _opened(path) as image:
        raw = _raw_mode(image)
        _check_single(image, path)
        orientation = _orientation(image)
        _check_maximum(image, path)
        image.load()
        check_whole(path, image)
        if orientation != 1:
            ImageOps.exif_transpose(image, in_place=True)
        return as_colors(image, meaning_of(image, raw), raw, scale, path)


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    try:
        # Not by its name: Pillow maps files that it can name into memory, and scrambles TIFFs then that lie on their side.
        with _of_any_size(), path.open("rb") as file, Image.open(file, formats=formats()) as image:
            yield image
    except InputError:
        raise
    except DAMAGE as error:
        if no_descriptors(error):
            raise
        raise damage(path, error) from None


@contextmanager
def _of_any_size() -> Iterator[None]:
    """Pillow's own limit is put aside: how much is read at once is decided before a picture is."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def damage(path: Path, error: BaseException, *, what: str = "an image", whole: str = "") -> InputError:
    """What is wrong with a file that cannot be read: what it is instead, or else what the library said."""
    try:
        with path.open("rb") as file:
            head = file.read(256)
    except OSError as reason:
        return InputError(path, f"cannot be read ({reason.strerror or reason})", f"{what} file")
    if not head:
        return InputError(path, "is empty", what)
    begins = head.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    for start, found, expected in DISGUISES:
        if begins.startswith(start):
            return InputError(path, found, what if expected == "an image" else expected)
    if head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1"):
        return InputError(path, "is a HEIC image", "JPEG or PNG; convert it")
    return InputError(
        path, f"cannot be read as {what} ({words(error, path)})", whole or f"a whole file of {', '.join(formats())}"
    )


def _check_single(image: Image.Image, path: Path) -> None:
    """One picture: the further ones of a camera's MPO are previews, of a TIFF some are made smaller; others are refused."""
    count = getattr(image, "n_frames", 1)
    if count > 1 and image.format == "TIFF":
        count = _pages(image, count)
    if count > 1 and image.format != "MPO":
        raise InputError(
            path,
            f"holds {count} pictures",
            "one; animations and files of several pages are not read: save each in a file of its own",
        )


def _pages(image: Any, count: int) -> int:
    found = 0
    for page in range(count):
        image.seek(page)
        found += not int(image.tag_v2.get(NEW_SUBFILE_TYPE, 0)) & SMALLER_OR_MASK
    image.seek(0)
    return max(found, 1)


def _check_maximum(image: ImageFile.ImageFile, path: Path) -> None:
    """That a PGM or PPM holds nothing above the maximum that it names: Pillow makes that white."""
    codec, _, offset, arguments = image.tile[0] if image.tile else ("", (), 0, ())
    maximum = arguments[-1] if codec == "ppm" and isinstance(arguments, tuple) else None
    if not isinstance(maximum, int):
        return
    assert image.fp is not None
    image.fp.seek(offset)
    count = image.width * image.height * len(image.getbands())
    found: NDArray[Any] = np.frombuffer(
        image.fp.read(count * (1 if maximum < 256 else 2)), dtype=np.uint8 if maximum < 256 else ">u2"
    )
    above = found[found > maximum]
    if above.size:
        raise InputError(
            path, f"says that its values go to {maximum}, and holds {above[0]} ({above.size:,} such values)", "none above it"
        )


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """How the file stores the picture, in Pillow's words: ``RGB;16B`` for 16 bits a channel, ``L;3`` for gray from 0 to 3.

    ``RGB;to 100`` and ``I;to 1000`` are PPM and PGM up to that value, which Pillow spreads to 255 and 65535.
    """
    if image.format == "JPEG2000":
        return f"{image.mode};16" if _jpeg2000_bits(image) > 8 and len(image.getbands()) > 1 else image.mode
    for codec, _, _, arguments in image.tile:
        items = arguments if isinstance(arguments, tuple) else (arguments,)
        if codec in ("ppm", "ppm_plain") and image.mode == "L" and items[-1] != 255:
            return f"L;{items[-1]}"
        if codec in ("ppm", "ppm_plain") and image.mode == "RGB" and items[-1] != 255:
            return "RGB;16" if items[-1] == 65535 else f"RGB;to {items[-1]}"
        if codec in ("ppm", "ppm_plain") and image.mode == "I" and items[-1] != 65535:
            return f"I;to {items[-1]}"
        texts = [item for item in items if isinstance(item, str)]
        if texts:
            return texts[0]
    return image.mode


def _jpeg2000_bits(image: ImageFile.ImageFile) -> int:
    """Bits of the first channel, from the marker SIZ of the code stream."""
    assert image.fp is not None
    image.fp.seek(0)
    head = image.fp.read(1 << 16)
    at = head.find(b"\xff\x4f\xff\x51") + 2
    return (head[at + 40] & 0x7F) + 1


def _orientation(image: Image.Image) -> int:
    value = image.getexif().get(ExifTags.Base.Orientation, 1)
    return cast(int, value) if value in range(1, 9) else 1
