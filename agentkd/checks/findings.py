"""What was found in a dataset that was looked at by itself. Plain data."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class SplitFound:
    """A split.

    Args:
        num_images: how many it has, or would have if all its files were sound.
        num_read: how many of them were read, and are sound.
        num_groups: how many videos or clips they come from.
    """

    name: str
    num_images: int
    num_read: int
    num_groups: int


@dataclass(frozen=True)
class ClassFound:
    """A class in a split.

    Args:
        share: of the labelled pixels of the split, 0 to 1; none if no pixel is labelled.
        num_images: in how many of the images that were read it has pixels.
    """

    name: str
    split: str
    num_pixels: int
    share: float | None
    num_images: int


@dataclass(frozen=True)
class SizesFound:
    """Sizes of images, (width, height), as they are learned.

    Args:
        most_frequent: that of most images.
        num_others: how many images have another one.
    """

    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]
    most_frequent: tuple[int, int]
    num_others: int
    num_sizes: int


@dataclass(frozen=True)
class PairFound:
    """Two images in two splits that are the same, or look so.

    Args:
        num_bits: how many of the 64 bits of their hashes differ; none if all their bytes, or pixels, are the same.
    """

    first: str
    first_split: str
    second: str
    second_split: str
    num_bits: int | None = None


@dataclass(frozen=True)
class Findings:
    """All of it.

    Args:
        spec: what was looked at.
        format: how labels are stored, or what kind of dataset it is.
        not_labelled: by splits, the share of pixels that have no label, 0 to 1.
        in_several_splits: groups of which images are in more than one split, each with those.
        left_over: files that are no image and no label of it, of those that lie beside or are images.
        twins: images that are in two splits.
        alike: images that look almost like one of an earlier split.
        problems: for what a run refuses these data, each with its file.
        warnings: what may be meant.
        sample: how many images of each split were to be read; 0 for all.
        is_complete: whether it was not interrupted.
    """

    spec: str
    name: str
    format: str
    class_names: tuple[str, ...]
    splits: tuple[SplitFound, ...]
    classes: tuple[ClassFound, ...]
    not_labelled: dict[str, float]
    sizes: SizesFound | None
    in_several_splits: dict[str, tuple[str, ...]]
    left_over: tuple[str, ...]
    twins: tuple[PairFound, ...]
    alike: tuple[PairFound, ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    sample: int
    is_complete: bool

    @property
    def is_sound(self) -> bool:
        """Whether a run would take them, as far as they were looked at."""
        return not self.problems

    @property
    def num_images(self) -> int:
        """In all splits."""
        return sum(split.num_images for split in self.splits)

    @property
    def num_read(self) -> int:
        """In all splits."""
        return sum(split.num_read for split in self.splits)

    def as_data(self) -> dict[str, Any]:
        """As plain data."""
        return {"is_sound": self.is_sound, "num_images": self.num_images, "num_read": self.num_read, **asdict(self)}
