"""What an image file means, by how it stores its pixels: the table, and pixels and numbers made by it.

Nothing is converted that the table does not name; what is refused says which line of ``dataset.yaml`` would decide.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agentkd.datasets.description import Description
from agentkd.datasets.pictures import ALPHA, FILE_FORMAT, RAW_MODE
from agentkd.datasets.samples import Pixels
from agentkd.errors import DatasetError

Numbers = NDArray[np.integer[Any]]
Opaque = NDArray[np.bool_]


class AsImage(StrEnum):
    """What becomes of an image."""

    COLORS = "its colors"
    SCALED = "`scale: [low, high]` becomes 0 to 255; refused without it"
    HIGH_BYTES = (
        "the upper 8 bits (of a PPM, the nearest) with `scale: [0, 65535]`; with another one TIFF and JPEG 2000 by rasterio; "
        "refused without it"
    )
    REFUSED = "refused"


class AsMask(StrEnum):
    """What becomes of a mask."""

    NUMBERS = "its values"
    BITS = "0 and 1"
    FEW_BITS = "zero or not, in a binary mask; else refused: programs disagree whether its values are spread to 255"
    ENTRIES = "the numbers of its palette's entries, or their colors: as `palette` says, or if both say the same"
    CHANNELS = "its colors; or the gray value, if red, green and blue are equal; or what `id_channel` names"
    WHOLE = "its values, which must be whole numbers"
    REFUSED = "refused"


@dataclass(frozen=True)
class Meaning:
    """A row of the table.

    Args:
        stored: in words.
        modes: Pillow's.
        has_alpha: whether some pixels may not be opaque; in a mask they are refused unless ``alpha`` says what they are.
    """

    stored: str
    modes: tuple[str, ...]
    image: AsImage
    mask: AsMask
    has_alpha: bool = False


FEW_BITS = Meaning("gray, 2 or 4 bits, or a PGM up to another value than 255", (), AsImage.COLORS, AsMask.FEW_BITS)
FEW_BITS_A_CHANNEL = Meaning("RGB, 5 or 6 bits a channel, or a PPM up to less than 255", (), AsImage.COLORS, AsMask.REFUSED)
ODD_MAXIMUM = Meaning("a PGM or PPM up to a value between 255 and 65535", (), AsImage.REFUSED, AsMask.REFUSED)
WHITE_IS_ZERO = Meaning("TIFF in which 0 is white", (), AsImage.COLORS, AsMask.REFUSED)
WIDE_CHANNELS = Meaning("several channels of 16 bits", (), AsImage.HIGH_BYTES, AsMask.REFUSED)
OTHER = Meaning("anything else", (), AsImage.REFUSED, AsMask.REFUSED)
MEANINGS = (
    Meaning("1 bit", ("1",), AsImage.COLORS, AsMask.BITS),
    Meaning("gray, 8 bits", ("L",), AsImage.COLORS, AsMask.NUMBERS),
    FEW_BITS,
    Meaning("gray with alpha", ("LA",), AsImage.COLORS, AsMask.NUMBERS, has_alpha=True),
    Meaning("palette (also GIF)", ("P",), AsImage.COLORS, AsMask.ENTRIES),
    Meaning("palette with alpha", ("PA",), AsImage.COLORS, AsMask.ENTRIES, has_alpha=True),
    Meaning("RGB", ("RGB",), AsImage.COLORS, AsMask.CHANNELS),
    Meaning("RGB with alpha", ("RGBA",), AsImage.COLORS, AsMask.CHANNELS, has_alpha=True),
    Meaning("CMYK, YCbCr", ("CMYK", "YCbCr"), AsImage.COLORS, AsMask.REFUSED),
    Meaning("gray, 16 bits", ("I;16", "I;16L", "I;16B", "I;16N"), AsImage.SCALED, AsMask.NUMBERS),
    Meaning("integers of 32 bits", ("I",), AsImage.SCALED, AsMask.NUMBERS),
    Meaning("floating point", ("F",), AsImage.SCALED, AsMask.WHOLE),
    WIDE_CHANNELS,
    FEW_BITS_A_CHANNEL,
    ODD_MAXIMUM,
    WHITE_IS_ZERO,
    OTHER,
)
BY_MODE = {mode: meaning for meaning in MEANINGS for mode in meaning.modes}
CHANNELS = ("red", "green", "blue", "alpha")


def meaning_of(image: Image.Image) -> Meaning:
    """The row for an image that ``pictures.open_image`` opened."""
    raw, file_format = image.info.get(RAW_MODE, image.mode), image.info.get(FILE_FORMAT, "")
    kind, _, bits = raw.partition(";")
    if bits.startswith("to ") and int(bits[3:]) > 255:
        return ODD_MAXIMUM
    if bits.startswith("to ") or raw == "BGR;16" or (len(kind) > 1 and bits.startswith("15")):  # 5, 6 and 5 bits in 16
        return FEW_BITS_A_CHANNEL
    if len(kind.strip("X")) > 1 and bits.startswith("16"):
        return WIDE_CHANNELS
    if kind == "L" and bits[:3].rstrip("IRN").isdecimal():
        return FEW_BITS
    if file_format == "TIFF" and kind in ("1", "L") and "I" in bits:
        return WHITE_IS_ZERO
    return BY_MODE.get(image.mode, OTHER)


def as_colors(image: Image.Image, description: Description, path: Path) -> Pixels:
    """An image as RGB [H,W,3] uint8. Alpha, and profiles of color, are left out of account.

    Raises:
        DatasetError: how it is stored does not say which color its values are.
    """
    meaning, scale = meaning_of(image), description.scale
    if meaning.image is AsImage.SCALED:
        gray = levels_of(np.asarray(image), description.scales[0], path, meaning.stored)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if meaning.image is AsImage.COLORS and scale not in (None, (0, 255)):
        text = f"image has {meaning.stored}, to which scale: {list(scale)} does not apply" if scale else ""
        raise DatasetError(path, text, "no scale in dataset.yaml, or images with more than 8 bits a channel")
    if meaning.image is AsImage.HIGH_BYTES and scale != (0, 65535):
        expected = "scale: [0, 65535] in dataset.yaml, which keeps the upper 8 bits; any other scale for TIFF and JPEG 2000"
        raise DatasetError(path, f"image has {meaning.stored}", expected)
    if meaning.image is AsImage.REFUSED:
        stored = meaning.stored if meaning is not OTHER else image.info.get(RAW_MODE, image.mode)
        raise DatasetError(path, f"image is stored as {stored}", "gray or RGB, 8 or 16 bits")
    return np.asarray(image.convert("RGB"))


def mask_numbers(image: Image.Image, description: Description, path: Path) -> tuple[Numbers, Opaque | None]:
    """A mask as whole numbers [H,W], and which of its pixels are opaque (None: all).

    Raises:
        DatasetError: how it is stored does not say which numbers are meant.
    """
    meaning = meaning_of(image)
    if description.id_channel:
        numbers = _channel(image, description, path, meaning)
        return numbers, None if description.id_channel == "alpha" else _opaque(image, meaning, description, path)
    opaque = _opaque(image, meaning, description, path)
    if meaning.mask is AsMask.NUMBERS and meaning.has_alpha:
        return np.asarray(image)[:, :, 0], opaque
    if meaning.mask in (AsMask.NUMBERS, AsMask.BITS):
        values = np.asarray(image)
        return values.astype(np.uint8) if values.dtype == bool else values, opaque
    if meaning.mask is AsMask.WHOLE:
        return _whole(np.asarray(image), path), opaque
    if meaning.mask is AsMask.ENTRIES:
        return _entries(image, description, path), opaque
    if meaning.mask is AsMask.CHANNELS:
        return _gray(np.asarray(image)[:, :, :3], description, path), opaque
    if meaning.mask is AsMask.FEW_BITS and description.format == "binary-mask":
        return np.asarray(image), opaque
    raise _refused(image, meaning, description, path)


def mask_colors(image: Image.Image, description: Description, path: Path) -> tuple[Pixels, Opaque | None]:
    """A mask as colors [H,W,3], and which of its pixels are opaque (None: all).

    Raises:
        DatasetError: how it is stored does not say which colors are meant.
    """
    meaning = meaning_of(image)
    if meaning.mask in (AsMask.REFUSED, AsMask.WHOLE, AsMask.FEW_BITS) or image.mode[0] == "I":
        raise _refused(image, meaning, description, path)
    return np.asarray(image.convert("RGB")), _opaque(image, meaning, description, path)


def _refused(image: Image.Image, meaning: Meaning, description: Description, path: Path) -> DatasetError:
    stored = meaning.stored if meaning is not OTHER else f"{image.mode} in a {image.info.get(FILE_FORMAT, 'file')}"
    return DatasetError(
        path, f"{description.format} is stored as: {stored}", "8 or 16 bits gray, a palette or RGB; save it as PNG"
    )


def levels_of(values: NDArray[Any], scale: tuple[float, float] | None, path: Path, stored: str) -> Pixels:
    """Values [H,W] of more than 8 bits as levels, 0 to 255.

    Raises:
        DatasetError: there is no scale, no value lies in it, or some are no numbers.
    """
    finite = np.isfinite(values)
    if not finite.all():
        raise DatasetError(path, f"image holds {int((~finite).sum())} values that are no numbers (NaN or infinite)", "numbers")
    low, high = values.min(), values.max()
    if scale is None:
        text = f"image has {stored}, values {low:g} to {high:g}"
        raise DatasetError(path, text, "scale: [low, high] in dataset.yaml: the values that become black and white")
    black, white = scale
    if high < black or low > white:
        raise DatasetError(
            path, f"all values, {low:g} to {high:g}, lie beyond scale: [{black:g}, {white:g}]", "a scale that they are in"
        )
    level = np.clip((values.astype(np.float64) - black) / (white - black), 0, 1) * 255
    return np.rint(level).astype(np.uint8)


def _whole(values: NDArray[Any], path: Path) -> Numbers:
    with np.errstate(invalid="ignore"):
        wrong = ~(np.isfinite(values) & (values == np.rint(values)) & (np.abs(values) < 1 << 31))
    if wrong.any():
        text = f"mask holds {float(values[wrong][0]):g}, and {int(wrong.sum()) - 1} more values that are no whole numbers"
        raise DatasetError(path, text, "the numbers of classes")
    return values.astype(np.int64)


def _channel(image: Image.Image, description: Description, path: Path, meaning: Meaning) -> Numbers:
    name = description.id_channel
    bands = image.getbands()
    if meaning in (FEW_BITS_A_CHANNEL, ODD_MAXIMUM, WIDE_CHANNELS):
        raise _refused(image, meaning, description, path)
    if meaning.mask is not AsMask.CHANNELS or (name == "alpha" and not meaning.has_alpha):
        raise DatasetError(
            path, f"mask has no channel {name!r}: it is {meaning.stored}", "RGB" + ("A" if name == "alpha" else "")
        )
    pixels = np.asarray(image)
    if name == "rgb":
        return pixels[:, :, 0] + 256 * pixels[:, :, 1].astype(np.int32) + 65536 * pixels[:, :, 2].astype(np.int32)
    assert name is not None and len(bands) in (3, 4)
    return pixels[:, :, CHANNELS.index(name)]


def alpha_of(image: Image.Image) -> Pixels | None:
    """How opaque each pixel [H,W] is, by a channel or by a color or palette's entries that the file says are clear."""
    if ALPHA in image.info:
        return cast(Pixels, image.info[ALPHA])
    if image.mode in ("LA", "PA", "RGBA"):
        return np.asarray(image.getchannel("A"))
    clear = image.info.get("transparency")
    if clear is None:
        return None
    values = np.asarray(image)
    if image.mode == "P":
        table = np.full(256, 255, dtype=np.uint8)
        if isinstance(clear, bytes):
            table[: len(clear)] = np.frombuffer(clear[:256], dtype=np.uint8)
        else:
            table[clear] = 0
        return table[values]
    if meaning_of(image) is FEW_BITS:  # its values were spread to 255, that of the tag was not
        clear *= 255 // ((1 << int(image.info[RAW_MODE].partition(";")[2][:1])) - 1)
    if values.dtype == bool:
        clear = clear > 0
    is_clear = values == np.array(clear)
    return np.where(is_clear.all(axis=2) if values.ndim == 3 else is_clear, 0, 255).astype(np.uint8)


def _opaque(image: Image.Image, meaning: Meaning, description: Description, path: Path) -> Opaque | None:
    if description.alpha == "omit" or meaning.mask is AsMask.REFUSED:  # which is said of the whole mask
        return None
    alpha = alpha_of(image)
    if alpha is None:
        return None
    if description.alpha == "ignored":
        return alpha > 0
    if int(alpha.min()) < 255:
        count = int((alpha < 255).sum())
        expected = "alpha: omit in dataset.yaml, to forget about it, or alpha: ignored, if they are not labelled"
        raise DatasetError(path, f"mask has {count} pixels that are not opaque", expected)
    return None


def _gray(pixels: Pixels, description: Description, path: Path) -> Numbers:
    """The one value of three equal channels. For two classes any color is something else than black."""
    if (pixels == pixels[:, :, :1]).all():
        return pixels[:, :, 0]
    if description.format == "binary-mask":
        return pixels.max(axis=2)
    at = tuple(np.argwhere((pixels != pixels[:, :, :1]).any(axis=2))[0])
    color = ",".join(map(str, pixels[at].tolist()))
    expected = "format: color-mask, or id_channel: red (green, blue, rgb) in dataset.yaml if a channel holds the numbers"
    raise DatasetError(path, f"{description.format} has the color {color}, which is no number", expected)


def _entries(image: Image.Image, description: Description, path: Path) -> Numbers:
    """The numbers of a palette's entries, or their colors', in so far as it is clear which are meant."""
    entries = np.asarray(image)
    entries = entries[:, :, 0] if entries.ndim == 3 else entries
    if description.palette == "index":
        return entries
    used = np.unique(entries)
    flat = image.getpalette("RGB") or []
    colors = np.zeros((256, 3), dtype=np.uint8)
    colors[: len(flat) // 3] = np.array(flat[: len(flat) // 3 * 3], dtype=np.uint8).reshape(-1, 3)
    numbers = _numbers_of(colors, used, description)
    if description.palette == "color":
        if numbers is None:
            raise DatasetError(
                path, "mask has a palette whose colors are neither gray nor those of the classes", "palette: index"
            )
        return numbers[entries]
    if numbers is not None and not np.array_equal(_side(numbers[used], description), _side(used, description)):
        one, other = ((used, numbers[used])[at].tolist()[:6] for at in (0, 1))
        text = f"mask has a palette: its entries' numbers are {one}, its colors mean {other}"
        raise DatasetError(path, text, "palette: index or palette: color in dataset.yaml, whichever counts")
    return entries


def _numbers_of(colors: Pixels, used: Numbers, description: Description) -> Numbers | None:
    """What the colors of entries would mean: the classes that have them, or their gray value; None if neither."""
    listed = {color: description.first_value + at for at, color in enumerate(description.colors)}
    found = [listed.get((int(red), int(green), int(blue))) for red, green, blue in colors[used]]
    numbers = np.zeros(256, dtype=np.int64)
    known = [number for number in found if number is not None]
    if len(known) == len(found) and not description.values and description.format == "index-mask":
        numbers[used] = known
        return numbers
    if description.format == "binary-mask":
        return colors.max(axis=1)
    if (colors[used] == colors[used][:, :1]).all():
        numbers[used] = colors[used][:, 0]
        return numbers
    return None


def _side(numbers: Numbers, description: Description) -> NDArray[Any]:
    """As far as it decides about the class."""
    if description.format == "binary-mask":
        return numbers > 0
    return numbers >= description.threshold if description.format == "threshold-mask" else numbers
