"""What an image file means, by how it stores its pixels: the table, and colors made by it.

It is the table of agentkd's datasets, as far as that is about images: a network sees what it saw when it learned. Nothing is
converted that the table does not name; what is refused says what would decide.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agentkd_predict.errors import InputError

Pixels = NDArray[np.uint8]
Valid = NDArray[np.bool_]
Scale = tuple[float, float]
FULL_8, FULL_16 = (0, 255), (0, 65535)
ROWS_AT_ONCE = 256


class Treatment(StrEnum):
    """What becomes of an image."""

    COLORS = "its colors"
    SCALED = "`--scale LOW,HIGH` becomes 0 to 255; refused without it"
    HIGH_BYTES = (
        "the upper 8 bits (of a PPM, the nearest) with `--scale 0,65535`; with another one TIFF and JPEG 2000 by rasterio; "
        "refused without it"
    )
    REFUSED = "refused"


@dataclass(frozen=True)
class Meaning:
    """A row of the table: how pixels are stored, in words; Pillow's modes; what becomes of them."""

    stored: str
    modes: tuple[str, ...]
    image: Treatment


FEW_BITS = Meaning("gray, 2 or 4 bits, or a PGM up to another value than 255", (), Treatment.COLORS)
FEW_BITS_A_CHANNEL = Meaning("RGB, 5 or 6 bits a channel, or a PPM up to less than 255", (), Treatment.COLORS)
ODD_MAXIMUM = Meaning("a PGM or PPM up to a value between 255 and 65535", (), Treatment.REFUSED)
WHITE_IS_ZERO = Meaning("TIFF in which 0 is white", (), Treatment.COLORS)
WIDE_CHANNELS = Meaning("several channels of 16 bits", (), Treatment.HIGH_BYTES)
INKS = Meaning("CMYK, YCbCr", ("CMYK", "YCbCr"), Treatment.COLORS)
OTHER = Meaning("anything else", (), Treatment.REFUSED)
MEANINGS = (
    Meaning("1 bit", ("1",), Treatment.COLORS),
    Meaning("gray, 8 bits", ("L",), Treatment.COLORS),
    FEW_BITS,
    Meaning("gray with alpha", ("LA",), Treatment.COLORS),
    Meaning("palette (also GIF)", ("P",), Treatment.COLORS),
    Meaning("palette with alpha", ("PA",), Treatment.COLORS),
    Meaning("RGB", ("RGB",), Treatment.COLORS),
    Meaning("RGB with alpha", ("RGBA",), Treatment.COLORS),
    INKS,
    Meaning("gray, 16 bits", ("I;16", "I;16L", "I;16B", "I;16N"), Treatment.SCALED),
    Meaning("integers of 32 bits", ("I",), Treatment.SCALED),
    Meaning("floating point", ("F",), Treatment.SCALED),
    WIDE_CHANNELS,
    FEW_BITS_A_CHANNEL,
    ODD_MAXIMUM,
    WHITE_IS_ZERO,
    OTHER,
)
BY_MODE = {mode: meaning for meaning in MEANINGS for mode in meaning.modes}


def meaning_of(image: Image.Image, raw: str) -> Meaning:
    """The row for an image whose file stores it in this raw mode of Pillow's."""
    kind, _, bits = raw.partition(";")
    if bits.startswith("to ") and int(bits[3:]) > 255:
        return ODD_MAXIMUM
    if bits.startswith("to ") or raw == "BGR;16" or (len(kind) > 1 and bits.startswith("15")):  # 5, 6 and 5 bits in 16
        return FEW_BITS_A_CHANNEL
    if len(kind.strip("X")) > 1 and bits.startswith("16"):
        return WIDE_CHANNELS
    if kind == "L" and bits[:3].rstrip("IRN").isdecimal():
        return FEW_BITS
    if image.format == "TIFF" and kind in ("1", "L") and "I" in bits:
        return WHITE_IS_ZERO
    return BY_MODE.get(image.mode, OTHER)


def as_colors(image: Image.Image, meaning: Meaning, raw: str, scale: Scale | None, path: Path) -> Pixels:
    """An image as RGB [H,W,3] uint8. Alpha, and profiles of color, are left out of account.

    Raises:
        InputError: how it is stored does not say which color its values are.
    """
    if meaning.image is Treatment.SCALED:
        return _scaled(np.asarray(image), scale, path, meaning.stored)
    _check_scale(meaning, scale, path)
    if meaning.image is Treatment.REFUSED:
        stored = meaning.stored if meaning is not OTHER else raw
        raise InputError(path, f"image is stored as {stored}", "gray or RGB, 8 or 16 bits")
    found: Pixels = np.empty((image.height, image.width, 3), dtype=np.uint8)
    for part in _strips(image.height):  # of the whole there would be further copies
        found[part] = np.asarray(image.crop((0, part.start, image.width, part.stop)).convert("RGB"))
    return found


def of_8_bits(scale: Scale | None) -> tuple[str, ...]:
    """What is to be known of an image with 8 bits if a network learned from images with more, in which these values were ends."""
    if scale in (None, FULL_8):
        return ()
    black, white = scale or FULL_8
    return (
        f"has 8 bits, which are taken as they are; the network learned from images with more, in which {black:g} was black and "
        f"{white:g} white: it is right if this one was made 0 to 255 in the same way",
    )


def stretched(values: NDArray[Any], scale: Scale) -> Pixels:
    """Values as 0 to 255, of which those of the scale, and beyond it, are black and white."""
    black, white = scale
    return np.rint(np.clip((values.astype(np.float64) - black) / (white - black), 0, 1) * 255).astype(np.uint8)


def _check_scale(meaning: Meaning, scale: Scale | None, path: Path) -> None:
    """That a scale is given where it must be, and is not where it means nothing.

    Raises:
        InputError: it is not so.
    """
    if meaning.image is Treatment.COLORS and scale not in (None, FULL_8):
        text = f"image has {meaning.stored}, to which --scale {scale[0]:g},{scale[1]:g} does not apply" if scale else ""
        raise InputError(path, text, "no --scale, or images with more than 8 bits a channel")
    if meaning.image is Treatment.HIGH_BYTES and scale != FULL_16:
        expected = "--scale 0,65535, which keeps the upper 8 bits; any other scale for TIFF and JPEG 2000"
        raise InputError(path, f"image has {meaning.stored}", expected)


def _scaled(values: NDArray[Any], scale: Scale | None, path: Path, stored: str) -> Pixels:
    """Values ``[H,W]`` of more than 8 bits as gray ``[H,W,3]``.

    Raises:
        InputError: there is no scale, or no value lies in it, or one is no number.
    """
    finite = np.isfinite(values)
    if not finite.all():
        raise InputError(path, f"image holds {int((~finite).sum())} values that are no numbers (NaN or infinite)", "numbers")
    low, high = values.min(), values.max()
    if scale is None:
        text = f"image has {stored}, values {low:g} to {high:g}"
        raise InputError(path, text, "--scale LOW,HIGH: the values that become black and white")
    black, white = scale
    if high < black or low > white:
        raise InputError(
            path, f"all values, {low:g} to {high:g}, lie beyond --scale {black:g},{white:g}", "a scale that they are in"
        )
    found: Pixels = np.empty((*values.shape, 3), dtype=np.uint8)
    for part in _strips(len(values)):
        found[part] = stretched(values[part], scale)[:, :, None]
    return found


def _strips(height: int) -> list[slice]:
    return [slice(top, min(top + ROWS_AT_ONCE, height)) for top in range(0, height, ROWS_AT_ONCE)]
