"""What a dataset is: labelled images by index, classes, splits, and a digest over the content."""

import hashlib
import reprlib
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agentkd.architecture import MAX_CHANNELS, RGB, Normalization, colors_among, usual_normalization
from agentkd.code.running import told
from agentkd.datasets.splits import VALIDATION, known_name
from agentkd.errors import DatasetError

Pixels = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]
Size = tuple[int, int]
Color = tuple[int, int, int]
ValueScale = tuple[tuple[float, float], ...] | None
IGNORE_INDEX = 255
MAX_COMPARED = 20_000
"""Samples of which only reading them tells that they are the same: more than so many are not compared."""
MAX_PIXELS = 64_000_000
"""The most that an image has: a larger one is to be made smaller, or cut."""


@dataclass(frozen=True)
class Sample:
    """One labelled image: ``image [H,W,C]``, RGB if its dataset says nothing else, and ``label [H,W]``, both uint8."""

    image: Pixels
    label: Pixels
    name: str


class Dataset(Protocol):
    """A finite labelled set. Reading is thread-safe; the same index always gives the same sample.

    ``digest`` is a SHA-256 over the content: two datasets with one digest give the same samples. One whose images are not RGB has
    ``channels``, their names; and one that knows how a network had best see them has ``normalization``.
    """

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def colors(self) -> tuple[Color, ...]: ...
    @property
    def ignore_index(self) -> int: ...
    @property
    def splits(self) -> Mapping[str, tuple[int, ...]]: ...
    @property
    def digest(self) -> str: ...

    def sample(self, index: int) -> Sample:
        """The sample under a global index (the numbers in ``splits``)."""
        ...

    def group(self, index: int) -> str:
        """What must not be split: the video or clip that a sample comes from."""
        ...

    def check(self) -> None:
        """Reads everything once. Raises ``DatasetError`` for the first sample that is not as described."""
        ...


def channels_of(dataset: Dataset) -> tuple[str, ...]:
    """What the channels of a dataset's images are called, in their order: as the dataset says, or red, green and blue."""
    return tuple(getattr(dataset, "channels", RGB))


def images_of(dataset: Dataset) -> Normalization:
    """The channels of a dataset's images, and how a network sees them that does not say otherwise: as the dataset says, or usual.

    Raises:
        DatasetError: they cannot be channels.
    """
    said = getattr(dataset, "normalization", None)
    try:
        return said.for_channels(channels_of(dataset)) if said else usual_normalization(channels_of(dataset))
    except ValueError as error:
        text = f"its channels are {reprlib.repr(channels_of(dataset))}, and its normalization is {said or 'not given'}"
        raise DatasetError(
            getattr(dataset, "name", ""), text, f"1 to {MAX_CHANNELS} names, and a mean and deviation of each"
        ) from error


def value_scale_of(dataset: Dataset) -> ValueScale:
    """Which values of its files with more than 8 bits became black and white.

    Returns:
        A pair for all channels, or one for each; nothing if its files have 8 bits, or it is not made of files; ``None`` where
        that is not known.
    """
    found: ValueScale = getattr(dataset, "value_scale", ())
    return found


def is_blank(name: str) -> bool:
    """Whether nothing of a name can be seen."""
    return not any(letter.isprintable() and not letter.isspace() for letter in name)


def problem_of_names(classes: Sequence[str]) -> str:
    """Why these are no names of classes that a person can tell apart; nothing if they are.

    Example:
        >>> problem_of_names(["Fire", "Smoke", "fire "])
        "classes 'Fire' and 'fire ' differ in case or spaces alone; expected one of them, or names that differ"
    """
    seen: dict[str, str] = {}
    for at, name in enumerate(classes):
        if is_blank(name):
            return f"class {at} is called {name!r}, which nobody can read; expected a name"
        plain = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        before = seen.setdefault(plain, name)
        if before == name and name in classes[:at]:
            return f"two classes are called {name!r}"
        if before != name:
            return f"classes {before!r} and {name!r} differ in case or spaces alone; expected one of them, or names that differ"
    return ""


def split_indices(dataset: Dataset, split: str) -> tuple[int, ...]:
    """The sample indices of a split, called by its name here or by another that people use: ``training``, ``val``, ``Test``.

    Raises:
        DatasetError: no such split, or it is empty.
    """
    known = ", ".join(f"{name} ({len(indices):,})" for name, indices in dataset.splits.items())
    split = known_name(split, dataset.splits)
    if split not in dataset.splits:
        advice = "; of files, holdout=0.25 behind their path takes a quarter of train" if split == VALIDATION else ""
        raise DatasetError(dataset.name, f"has no split {split!r}", f"one of: {known}{advice}")
    if not dataset.splits[split]:
        raise DatasetError(dataset.name, f"split {split!r} is empty", "at least one sample")
    return dataset.splits[split]


def size_of(dataset: Dataset, index: int) -> Size:
    """(height, width) of a sample: as the dataset says, or of the sample itself if it does not."""
    known = getattr(dataset, "size_of", None)
    if known is not None:
        return known(index)
    height, width = read_sample(dataset, index).label.shape
    return height, width


def labels_of(dataset: Dataset, index: int) -> NDArray[np.bool_]:
    """Which labels, 0 to 255, have pixels in a sample: as the dataset says, or by the sample itself if it does not."""
    known = getattr(dataset, "labels_of", None)
    if known is not None:
        return known(index)
    return np.bincount(read_sample(dataset, index).label.ravel(), minlength=256) > 0


def count_classes(dataset: Dataset, indices: Sequence[int]) -> NDArray[np.int64]:
    """Pixels of each class in each of these samples, [N,K]. What is not labelled, or of no class, is not counted.

    Raises:
        ConfigError: a sample of a user's own dataset raises something.
        DatasetError: a sample is none.
    """
    num_classes = len(dataset.classes)
    counts = np.zeros((len(indices), num_classes), dtype=np.int64)
    for row, index in enumerate(indices):
        counts[row] = np.bincount(read_sample(dataset, index).label.ravel(), minlength=256)[:num_classes]
    if dataset.ignore_index < num_classes:
        counts[:, dataset.ignore_index] = 0
    return counts


def fingerprint(dataset: Dataset, index: int) -> bytes:
    """What two samples have in common only if they are one image: as the dataset says, or the hash of the pixels."""
    known = getattr(dataset, "fingerprint", None)
    if known is not None:
        return known(index)
    image = np.ascontiguousarray(read_sample(dataset, index).image)
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()


def read_sample(dataset: Dataset, index: int) -> Sample:
    """A sample of a dataset that may be a user's own.

    Raises:
        ConfigError: it raises something.
        DatasetError: its sample is none.
    """
    name = getattr(dataset, "name", "") or type(dataset).__name__
    with told(f"{name}: sample {index} cannot be read"):
        sample, count = dataset.sample(index), len(channels_of(dataset))
        found = [f"{part.dtype} {list(part.shape)}" for part in (sample.image, sample.label)]
        is_right = sample.image.dtype == sample.label.dtype == np.uint8 and sample.image.shape == (*sample.label.shape, count)
    if not is_right or sample.label.ndim != 2:
        text = f"sample {index} has an image of {found[0]} and a label of {found[1]}"
        raise DatasetError(name, text, f"uint8 [H, W, {count}] and uint8 [H, W]")
    return sample


def check_splits(dataset: Dataset) -> None:
    """That what is tested has not been learned: as the dataset says, or by its samples if it does not, unless they are too many.

    Raises:
        DatasetError: an image is in two splits.
    """
    check = getattr(dataset, "check_splits", None)
    if check is not None:
        check()
    elif len({index for indices in dataset.splits.values() for index in indices}) <= MAX_COMPARED:
        refuse_twins(dataset, lambda index: fingerprint(dataset, index))


def refuse_twins(dataset: Dataset, what: Callable[[int], bytes], *, is_excused: Callable[[int, int], bool] | None = None) -> None:
    """That no image is in two splits.

    Args:
        dataset: whose splits.
        what: two samples have in common only if they are one image.
        is_excused: two samples for which it does not matter.

    Raises:
        DatasetError: some are.
    """
    first: dict[bytes, tuple[str, int]] = {}
    twins = []
    for split, indices in dataset.splits.items():
        for index in indices:
            before = first.setdefault(what(index), (split, index))
            if before[0] != split and not (is_excused and is_excused(before[1], index)):
                twins.append((before, (split, index)))
    if twins:
        (one, at), (other, at_other) = twins[0]
        both = f"{dataset.sample(at).name} in {one!r} and {dataset.sample(at_other).name} in {other!r}"
        text = f"{len(twins):,} image{'s are' if len(twins) > 1 else ' is'} in two splits, such as {both}"
        raise DatasetError(getattr(dataset, "name", ""), text, "each image in one split")


def read_size(text: str, name: str) -> Size:
    """``"WxH"`` as (height, width)."""
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise DatasetError(name, f"size {text[:80]!r} is not a size", "WIDTHxHEIGHT, for example 240x180") from None
    if min(width, height) < 16:
        raise DatasetError(name, f"size {text} is too small", "at least 16 pixels each way")
    if width * height > MAX_PIXELS:
        raise DatasetError(name, f"size {text[:80]} has too many pixels", f"at most {MAX_PIXELS:,}")
    return height, width


def resize_pixels(image: Pixels, label: Pixels, size: Size | None) -> tuple[Pixels, Pixels]:
    """Image (area-averaging) and label (nearest) at ``size``; unchanged for ``None``."""
    if size is None or image.shape[:2] == size:
        return image, label
    target = (size[1], size[0])
    small = resized(image, target, Image.Resampling.BOX if size[0] < image.shape[0] else Image.Resampling.BILINEAR)
    return small, np.asarray(Image.fromarray(label).resize(target, Image.Resampling.NEAREST))


def resized(
    image: Pixels, size: tuple[int, int], how: Image.Resampling, box: tuple[float, float, float, float] | None = None
) -> Pixels:
    """A part of an image [H,W,C] at another size, (width, height): each channel by itself, whichever it is."""
    if image.shape[2] == len(RGB):
        return np.asarray(Image.fromarray(image).resize(size, how, box=box))
    channels = (Image.fromarray(np.ascontiguousarray(image[:, :, at])) for at in range(image.shape[2]))
    return np.stack([np.asarray(channel.resize(size, how, box=box)) for channel in channels], axis=2)


def as_rgb(image: Pixels, channels: Sequence[str]) -> Pixels:
    """An image [H,W,C] as people are shown it, RGB: its colors; of one without them the first channel, as gray."""
    colors = colors_among(channels)
    return np.ascontiguousarray(image[:, :, list(colors)] if colors else np.repeat(image[:, :, :1], len(RGB), axis=2))
