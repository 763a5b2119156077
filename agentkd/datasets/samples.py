"""What a dataset is: labelled images by index, classes, splits, and a digest over the content."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agentkd.datasets.splits import VALIDATION, known_name
from agentkd.errors import DatasetError

Pixels = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]
Size = tuple[int, int]
Color = tuple[int, int, int]
IGNORE_INDEX = 255
MAX_PIXELS = 64_000_000
"""The most that an image has: a larger one is to be made smaller, or cut."""


@dataclass(frozen=True)
class Sample:
    """One labelled image: ``image [H,W,3]`` RGB and ``label [H,W]``, both uint8."""

    image: Pixels
    label: Pixels
    name: str


class Dataset(Protocol):
    """A finite labelled set. Reading is thread-safe; the same index always gives the same sample.

    ``digest`` is a SHA-256 over the content: two datasets with one digest give the same samples.
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
    height, width = dataset.sample(index).label.shape
    return height, width


def check_splits(dataset: Dataset) -> None:
    """That the splits of a dataset which can tell have nothing in common.

    Raises:
        DatasetError: they have.
    """
    check = getattr(dataset, "check_splits", None)
    if check is not None:
        check()


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
    small = Image.fromarray(image).resize(target, Image.Resampling.BOX if size[0] < image.shape[0] else Image.Resampling.BILINEAR)
    return np.asarray(small), np.asarray(Image.fromarray(label).resize(target, Image.Resampling.NEAREST))
