"""A dataset without its samples: what plans and reports say of a user's own one whose code is not to be run."""

from typing import NoReturn

from agentkd.architecture import IMAGENET, Normalization
from agentkd.canonical import FrozenData
from agentkd.datasets.samples import Color, Dataset, images_of
from agentkd.errors import DatasetError
from agentkd.names import Digest


class Outline(FrozenData):
    """What a dataset is called, its classes, channels and splits, and its content's digest. A ``Dataset`` that has no samples."""

    name: str
    classes: tuple[str, ...]
    colors: tuple[Color, ...]
    ignore_index: int
    splits: dict[str, tuple[int, ...]]
    content_digest: Digest
    images: Normalization = IMAGENET

    @property
    def digest(self) -> Digest:
        """SHA-256 over the content."""
        return self.content_digest

    @property
    def channels(self) -> tuple[str, ...]:
        """What the channels of its images are called."""
        return self.images.channels

    @property
    def normalization(self) -> Normalization:
        """How a network sees them that does not say otherwise."""
        return self.images

    def sample(self, index: int) -> NoReturn:
        """Not here.

        Raises:
            DatasetError: always.
        """
        raise DatasetError(self.name, "is only known by its outline", "its code, which was not to be run")

    def group(self, index: int) -> str:
        """Not known."""
        return ""

    def check(self) -> None:
        """There is nothing to be looked at."""


def outline(dataset: Dataset) -> Outline:
    """The outline of a dataset."""
    return Outline(
        name=getattr(dataset, "name", ""),
        classes=dataset.classes,
        colors=getattr(dataset, "colors", ()),
        ignore_index=dataset.ignore_index,
        splits={name: tuple(indices) for name, indices in dataset.splits.items()},
        content_digest=Digest(dataset.digest),
        images=images_of(dataset),
    )
