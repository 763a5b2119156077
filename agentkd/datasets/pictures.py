"""Image files opened by Pillow: one picture each, whole, of a format that is read here, turned as its tag says.

Whatever is wrong with a file is a ``DatasetError`` that names it; Pillow's own errors do not leave this module.
"""

import io
import logging
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, TiffImagePlugin

from agentkd.datasets.samples import MAX_PIXELS, Size
from agentkd.datasets.wholeness import check_whole
from agentkd.errors import DatasetError, check_descriptors
from agentkd.visible import visible

# Pillow says on the screen that it does not read TIFFs of more than six channels, besides raising it; rasterio does.
logging.getLogger("PIL.TiffImagePlugin").addFilter(lambda record: "samples per pixel" not in record.msg)

FORMATS = ("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP", "JPEG2000", "PPM", "DIB", "PCX", "AVIF", "TGA")
RAW_MODE, FILE_FORMAT, ORIENTATION, ALPHA = "agentkd raw mode", "agentkd format", "agentkd orientation", "agentkd alpha"
ON_ITS_SIDE = (5, 6, 7, 8)
BITS_TAG, SAMPLES_TAG = 258, 277
TURNED_BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
TAGGED = (b"Exif", b"EXIF", b"eXIf", b"exif", b"Orientation")

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


def open_image(path: Path, *, is_turned: bool = True, is_known: bool = False) -> Image.Image:
    """The picture in a file, loaded.

    ``info`` says how the file stores it: ``RAW_MODE``, ``FILE_FORMAT``, and ``ORIENTATION`` as it was tagged.

    Args:
        path: of the file.
        is_turned: whether the orientation tag is followed.
        is_known: whether this file was opened before; then it is not looked for what only decoding it twice shows.

    Raises:
        DatasetError: it is no image of a format that is read here, or damaged, or too large, or holds several pictures, or ends
            early.
    """
    with _opened(path) as image:
        raw, file_format = _raw_mode(image), image.format or ""
        _check_single(image, path)
        orientation = _orientation(image)
        _check_maximum(image, path)
        image.load()
        check_whole(path, image, is_known=is_known)
        info = image.info | {RAW_MODE: raw, FILE_FORMAT: file_format, ORIENTATION: orientation}
        picture: Image.Image = image
        if orientation != 1 and is_turned:
            ImageOps.exif_transpose(image, in_place=True)
        elif orientation != 1 and file_format == "TIFF":  # which Pillow turns in any case
            picture = image.transpose(TURNED_BACK[orientation])
        picture.info = info
        return picture


def image_size(path: Path, *, is_turned: bool = True) -> Size:
    """(height, width) of a picture as its file says, without reading it whole.

    Raises:
        DatasetError: as ``open_image``, as far as that is seen.
    """
    with _opened(path) as image:
        width, height = image.size
        is_swapped = is_turned != (image.format == "TIFF") and _orientation(image) in ON_ITS_SIDE
        return (width, height) if is_swapped else (height, width)


@dataclass(frozen=True)
class Stored:
    """What a file's head says of how its picture is stored, and what Pillow makes of it.

    Args:
        raw: in Pillow's words.
        num_bands: that a loaded picture has.
        num_samples: that each pixel has in the file.
        num_bits: of the widest of these.
    """

    raw: str
    num_bands: int
    num_samples: int
    num_bits: int

    @property
    def is_kept(self) -> bool:
        """Whether a loaded picture has all that the file has: its channels and bits, and none multiplied with alpha."""
        is_narrow = self.num_bits <= 8 and self.raw.upper() == self.raw
        return self.num_samples == self.num_bands and (self.num_bands == 1 or is_narrow)


def stored_in(path: Path) -> Stored | None:
    """What a file's head says; ``None`` if Pillow does not know its kind."""
    try:
        with path.open("rb") as file, Image.open(file, formats=formats()) as image:
            raw, bands = _raw_mode(image), len(image.getbands())
            samples, bits = bands, 16 if ";16" in raw else 8
            if isinstance(image, TiffImagePlugin.TiffImageFile):
                samples, bits = image.tag_v2.get(SAMPLES_TAG, 1), max(image.tag_v2.get(BITS_TAG, (1,)))
            return Stored(raw, bands, samples, bits)
    except DAMAGE as error:
        check_descriptors(path, error)
        return None


def orientation_in(data: bytes) -> int:
    """The orientation tag, 1 to 8, in the bytes of an image file; 1 if there is none, or in a TIFF that Pillow always turned."""
    is_tiff = data[:4] in (b"II*\0", b"MM\0*")
    if not is_tiff and not any(mark in data for mark in TAGGED):
        return 1
    try:
        with Image.open(io.BytesIO(data), formats=formats()) as image:
            found = _orientation(image)
            return 1 if is_tiff and found < ON_ITS_SIDE[0] else found
    except DAMAGE:  # whoever reads it will say so
        return 1


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    try:
        # Not by its name: Pillow maps files that it can name into memory, and scrambles TIFFs then that lie on their side.
        with path.open("rb") as file, Image.open(file, formats=formats()) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{image.width}x{image.height} pixels")
            yield image
    except DatasetError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        expected = f"at most {MAX_PIXELS:,} pixels; make it smaller, or cut it into tiles"
        raise DatasetError(path, f"is too large, or made to look so ({visible(str(error))})", expected) from None
    except DAMAGE as error:
        check_descriptors(path, error)
        raise _damage(path, error) from None


def _damage(path: Path, error: BaseException) -> DatasetError:
    try:
        with path.open("rb") as file:
            head = file.read(256)
    except OSError as reason:
        return DatasetError(path, f"cannot be read ({reason.strerror or reason})", "an image file")
    if not head:
        return DatasetError(path, "is empty", "an image")
    begins = head.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    for start, found, expected in DISGUISES:
        if begins.startswith(start):
            return DatasetError(path, found, expected)
    if head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1"):
        return DatasetError(path, "is a HEIC image", "JPEG or PNG; convert it")
    told = visible(str(error)).replace(str(path), path.name).replace("\n", " ")[:200] or type(error).__name__
    return DatasetError(path, f"cannot be read as an image ({told})", f"a whole file of {', '.join(formats())}")


def _check_single(image: Image.Image, path: Path) -> None:
    """One picture: the further ones of a camera's MPO are previews, others are refused."""
    count = getattr(image, "n_frames", 1)
    if count > 1 and image.format != "MPO":
        raise DatasetError(
            path,
            f"holds {count} pictures",
            "one; animations and files of several pages are not read: save each in a file of its own",
        )


def _check_maximum(image: ImageFile.ImageFile, path: Path) -> None:
    """That a PGM or PPM holds nothing above the maximum that it names: Pillow makes that white."""
    codec, _, offset, arguments = image.tile[0] if image.tile else ("", (), 0, ())
    maximum = arguments[-1] if codec == "ppm" and isinstance(arguments, tuple) else None
    if not isinstance(maximum, int):
        return
    assert image.fp is not None
    image.fp.seek(offset)
    count = image.width * image.height * len(image.getbands())
    found = np.frombuffer(image.fp.read(count * (1 if maximum < 256 else 2)), dtype=np.uint8 if maximum < 256 else ">u2")
    above = found[found > maximum]
    if above.size:
        raise DatasetError(
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
