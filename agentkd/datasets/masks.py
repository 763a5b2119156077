"""Labels from masks of pixels: numbers or colors, by the formats of ``dataset.yaml``.

``meaning`` says which numbers or colors a file holds; here they become classes. A reader of annotations in text has the same two
methods, see ``Reader``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agentkd.datasets.description import OTHERS, Description
from agentkd.datasets.exactness import is_lossy
from agentkd.datasets.meaning import Numbers, Opaque, alpha_of, mask_colors, mask_numbers
from agentkd.datasets.pictures import ALPHA, FILE_FORMAT, ORIENTATION, RAW_MODE, open_image
from agentkd.datasets.samples import Color, Pixels, Size
from agentkd.errors import DatasetError

# How far JPEG moves a value; classes that are nearer to each other than twice this cannot be told apart in one.
NOISE = 32
UNKNOWN = -1
SMALL = 1 << 16


@dataclass
class Seen:
    """What was seen of files that are pictures, once they were read.

    Args:
        turned: the orientation tag by which a file was turned.
        perhaps_cut: files of JPEG 2000 that were read as they are.
    """

    turned: dict[Path, int] = field(default_factory=dict)
    perhaps_cut: set[Path] = field(default_factory=set)


class Reader(Protocol):
    """Reads what labels an image, of one format. Thread-safe."""

    seen: Seen

    def label(self, annotation: Path, image: Path, size: Size) -> Pixels:
        """The label [H,W] of an image.

        Raises:
            DatasetError: it is not as described, or of another size.
        """
        ...

    def notices(self, annotation: Path, images: Sequence[Path]) -> list[str]:
        """What is to be said of a file that labels these images, once they were read."""
        ...


class PixelMasks:
    """Masks that are images."""

    def __init__(self, description: Description) -> None:
        self._description = description
        self._table = _class_of_number(description)
        self._strays: dict[Path, int] = {}
        self.seen = Seen()

    def label(self, annotation: Path, image: Path, size: Size) -> Pixels:
        """The label of an image, of its size."""
        description = self._description
        mask = open_mask(annotation, description, image, size, self.seen)
        is_exact = not is_lossy(mask, annotation)
        if is_exact and mask.info[FILE_FORMAT] == "JPEG2000":
            self.seen.perhaps_cut.add(annotation)
        if not is_exact and description.format != "threshold-mask":
            label, opaque = self._without_noise(mask, annotation)
        elif description.format == "color-mask":
            colors, opaque = mask_colors(mask, description, annotation)
            label = self._by_color(colors, annotation)
        else:
            if description.format == "threshold-mask" and mask.mode in ("RGB", "YCbCr", "CMYK") and not description.id_channel:
                mask = _as_gray(mask)
            numbers, opaque = mask_numbers(mask, description, annotation)
            if annotation in self.seen.perhaps_cut and description.format == "binary-mask" and len(np.unique(numbers)) > 2:
                text = f"binary-mask is JPEG 2000, and holds {len(np.unique(numbers))} values: perhaps it was cut to save space"
                raise DatasetError(annotation, text, "two values, or the mask saved as PNG")
            label = self._by_number(numbers, annotation)
        return label if opaque is None else np.where(opaque, label, description.ignore_index).astype(np.uint8)

    def notices(self, annotation: Path, images: Sequence[Path]) -> list[str]:
        """Pixels of a JPEG mask that are no class's."""
        count = self._strays.get(annotation, 0)
        return [f"{annotation}: {count} pixels that compression left between the classes are not labelled"] if count else []

    def _by_number(self, numbers: Numbers, path: Path) -> Pixels:
        description, ignore = self._description, self._description.ignore_index
        if description.format == "index-mask":
            if description.label_divisor > 1:
                numbers = numbers // description.label_divisor
            label = self._translated(numbers)
            unknown = label == UNKNOWN
            if unknown.any():
                raise self._unknown_number(numbers[unknown], path)
            return label.astype(np.uint8)
        known = (
            []
            if description.ignored_values == OTHERS
            else [value for value in description.ignored_values if isinstance(value, int)]
        )
        negative = (numbers < 0) & ~np.isin(numbers, known)
        if negative.any():
            value, count = int(numbers[negative][0]), int(negative.sum())
            expected = f"0 or more; if it means that nothing is labelled, write ignored_values: [{value}] in dataset.yaml"
            raise DatasetError(path, f"{description.format} holds the negative value {value} ({count} such pixels)", expected)
        least = description.threshold if description.format == "threshold-mask" else 1
        second = (numbers >= least).astype(np.uint8)
        second[np.isin(numbers, known)] = ignore
        return second

    def _translated(self, numbers: Numbers) -> NDArray[np.int16]:
        """The class of each number, or ``UNKNOWN``."""
        other = self._description.ignore_index if self._description.ignored_values == OTHERS else UNKNOWN
        low, high = int(numbers.min()), int(numbers.max())
        if low >= 0 and high < SMALL:
            table = np.full(max(high + 1, 256), other, dtype=np.int16)
            for number, label in self._table.items():
                if 0 <= number <= high:
                    table[number] = label
            return table[numbers]
        values, where = np.unique(numbers, return_inverse=True)
        return np.array([self._table.get(int(value), other) for value in values], dtype=np.int16)[where.reshape(numbers.shape)]

    def _unknown_number(self, unknown: Numbers, path: Path) -> DatasetError:
        description = self._description
        values, counts = np.unique(unknown, return_counts=True)
        others = f" ({len(values)} such values)" if len(values) > 1 else ""
        text = f"mask holds the unknown value {int(values[0])} in {int(counts[0])} pixels{others}"
        if description.label_divisor > 1:
            text = text.replace("the unknown value", f"after division by {description.label_divisor} the unknown value")
        if description.values:
            known = ", ".join(map(str, sorted(self._table)))
        else:
            first = description.first_value
            known = f"{first} to {first + len(description.classes) - 1} or {description.ignore_index}"
        advice = "; in dataset.yaml, values says what others mean, ignored_values that they are not labelled"
        if set(values.tolist()) == {len(description.classes)} and not (description.values or description.first_value):
            advice += ", first_value: 1 that the first class is 1"
        if len(description.classes) == 2 and set(values.tolist()) <= {127, 128, 254, 255}:
            advice += ", format: binary-mask that all but 0 is the second class"
        return DatasetError(path, text, known + advice)

    def _by_color(self, colors: Pixels, path: Path) -> Pixels:
        packed = _packed(colors)
        table = _class_of_color(self._description)
        keys = np.array(sorted(table), dtype=np.uint32)
        at = np.minimum(np.searchsorted(keys, packed), len(keys) - 1)
        matched = keys[at] == packed
        if not matched.all() and self._description.ignored_values != OTHERS:
            color = int(packed[~matched][0])
            count = int((packed == color).sum())
            text = f"mask holds the unknown color {color >> 16},{color >> 8 & 255},{color & 255} in {count} pixels"
            raise DatasetError(path, text, "one of the classes' colors, or of ignored_colors")
        label = np.array([table[int(key)] for key in keys], dtype=np.uint8)[at]
        return np.where(matched, label, self._description.ignore_index).astype(np.uint8)

    def _without_noise(self, mask: Image.Image, path: Path) -> tuple[Pixels, Opaque | None]:
        """The nearest class of each pixel of a compressed mask; what is near to none is a stray, and not labelled."""
        description = self._description
        if description.format == "color-mask":
            colors, opaque = mask_colors(mask, description, path)
            table = [(color, label) for label, color in enumerate(description.colors)]
            table += [(color, description.ignore_index) for color in description.ignored_colors]
            points, pixels = np.array([color for color, _ in table], dtype=np.int16), colors.astype(np.int16)
        else:
            plain = mask if description.id_channel else _as_gray(mask, path)
            numbers, opaque = mask_numbers(plain, description, path)
            levels = {0: 0, 255: 1} if description.format == "binary-mask" else self._table
            table = [((level, level, level), label) for level, label in levels.items() if 0 <= level <= 255]
            points, pixels = np.array([[color[0]] for color, _ in table], dtype=np.int16), numbers.astype(np.int16)[:, :, None]
        self._check_apart(points, table, path)
        best = np.full(pixels.shape[:2], 256, dtype=np.int16)
        label = np.full(pixels.shape[:2], description.ignore_index, dtype=np.uint8)
        for point, (_, number) in zip(points, table, strict=True):
            distance = np.abs(pixels - point).max(axis=2)
            nearer = distance < best
            best[nearer], label[nearer] = distance[nearer], number
        stray = best > NOISE
        count = int(stray.sum())
        if count > description.stray_pixels * stray.size:
            at = tuple(np.argwhere(stray)[0])
            text = (
                f"{description.format} is compressed with loss, and {count} of its {stray.size} pixels "
                f"({100 * count / stray.size:.1f} %) are near to no class, such as {','.join(map(str, pixels[at].tolist()))}"
            )
            advice = " two classes can be told by format: threshold-mask and threshold;" if len(description.classes) == 2 else ""
            share = f"at most stray_pixels: {description.stray_pixels:g};{advice} or masks saved without loss, as PNG"
            raise DatasetError(path, text, share)
        label[stray] = description.ignore_index
        self._strays[path] = count
        return label, opaque

    def _check_apart(self, points: NDArray[np.int16], table: list[tuple[Color, int]], path: Path) -> None:
        for at, point in enumerate(points):
            for other, (_, label) in zip(points[:at], table[:at], strict=True):
                if label != table[at][1] and int(np.abs(point - other).max()) <= 2 * NOISE:
                    both = f"{other.tolist()} and {point.tolist()}"
                    text = f"{self._description.format} is compressed with loss: {both} cannot be told apart"
                    raise DatasetError(
                        path, text, "masks saved without loss, as PNG; for black and white ones, format: threshold-mask"
                    )


def open_mask(annotation: Path, description: Description, image: Path, size: Size, seen: Seen) -> Image.Image:
    """A mask of an image, turned as its own tag says if tags are followed.

    Raises:
        DatasetError: it is no whole picture, or not of the image's size.
    """
    mask = open_image(annotation, is_turned=description.orientation == "shown")
    orientation = mask.info[ORIENTATION] if description.orientation == "shown" else 1
    check_size(annotation, (mask.height, mask.width), image, size, orientation)
    if orientation != 1:
        seen.turned[annotation] = orientation
    return mask


def check_size(annotation: Path, found: Size, image: Path, size: Size, orientation: int = 1) -> None:
    """That what labels an image is of its size.

    Args:
        annotation: what labels it.
        found: its size.
        image: the image.
        size: of that.
        orientation: the tag by which what labels it was turned.

    Raises:
        DatasetError: it is not.
    """
    if found != size:
        expected = f"{size[1]}x{size[0]} as {image.name}"
        if found == size[::-1]:
            expected += "; if it was drawn on the image as it lies in the file, not turned by its tag, write orientation: stored"
        turned = f", turned as its own orientation tag, {orientation}, says" if orientation != 1 else ""
        raise DatasetError(annotation, f"mask is {found[1]}x{found[0]}{turned}", expected)


def _class_of_number(description: Description) -> dict[int, int]:
    """What each number in an index mask is labelled."""
    ignore = description.ignore_index
    table = {ignore: ignore}
    if description.ignored_values != OTHERS:
        table |= {value: ignore for value in description.ignored_values if isinstance(value, int)}
    if description.values:
        named = ((value, name) for value, name in description.values.items() if isinstance(value, int))
        return table | {value: description.classes.index(name) for value, name in named}
    return table | {description.first_value + label: label for label in range(len(description.classes))}


def _class_of_color(description: Description) -> dict[int, int]:
    table = {color: label for label, color in enumerate(description.colors)}
    table |= dict.fromkeys(description.ignored_colors, description.ignore_index)
    return {red << 16 | green << 8 | blue: label for (red, green, blue), label in table.items()}


def _packed(colors: Pixels) -> NDArray[np.uint32]:
    wide = colors.astype(np.uint32)
    return (wide[:, :, 0] << 16 | wide[:, :, 1] << 8 | wide[:, :, 2]).astype(np.uint32)


def _as_gray(mask: Image.Image, path: Path | None = None) -> Image.Image:
    """A mask in colors that are all but gray, as gray.

    Raises:
        DatasetError: they are not, and it matters (``path`` is given).
    """
    if len(mask.getbands()) < 3:
        return mask
    if path is not None:
        pixels: NDArray[Any] = np.asarray(mask.convert("RGB")).astype(np.int16)
        if int((pixels.max(axis=2) - pixels.min(axis=2)).max()) > 2 * NOISE:
            raise DatasetError(path, "mask is in colors", "format: color-mask, or gray values")
    gray = mask.convert("L")
    gray.info = mask.info | {RAW_MODE: "L", ALPHA: alpha_of(mask)}
    return gray
