"""Datasets made of others: without labels, with fewer images or classes, or several joined. They add nothing of their own."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agentkd import canonical
from agentkd.datasets.samples import (
    Color,
    Dataset,
    Sample,
    Size,
    ValueScale,
    channels_of,
    check_splits,
    fingerprint,
    images_of,
    labels_of,
    refuse_twins,
    size_of,
    value_scale_of,
)
from agentkd.errors import DatasetError
from agentkd.names import Digest


class _Derived:
    """What a dataset shares with the one that it is made of."""

    def __init__(self, name: str, of: Dataset, digest: Digest) -> None:
        self.name, self.digest, self._of = name, digest, of
        self.classes: tuple[str, ...] = of.classes
        self.colors: tuple[Color, ...] = of.colors
        self.ignore_index: int = of.ignore_index
        self.splits: Mapping[str, tuple[int, ...]] = of.splits
        self.channels, self.normalization = channels_of(of), images_of(of)
        self.value_scale: ValueScale = value_scale_of(of)

    def sample(self, index: int) -> Sample:
        """A labelled image."""
        return self._of.sample(index)

    def group(self, index: int) -> str:
        """The video or clip that a sample comes from."""
        return self._of.group(index)

    @property
    def notices(self) -> tuple[str, ...]:
        """What is to be said of the one that it is made of."""
        return getattr(self._of, "notices", ())

    @property
    def files(self) -> dict[str, str]:
        """The files of the one that it is made of, with what marks their content."""
        return getattr(self._of, "files", {})

    @property
    def places(self) -> tuple[Path, ...]:
        """The folders in which its files are."""
        return getattr(self._of, "places", ())

    def size_of(self, index: int) -> Size:
        """(height, width) of a sample."""
        return size_of(self._of, index)

    def fingerprint(self, index: int) -> bytes:
        """What two samples have in common only if they are one image."""
        return fingerprint(self._of, index)

    def labels_of(self, index: int) -> NDArray[np.bool_]:
        """Which labels have pixels in a sample."""
        return labels_of(self._of, index)

    def check(self) -> None:
        """Reads everything once."""
        self._of.check()

    def check_splits(self) -> None:
        """Whether the splits have something in common."""
        check_splits(self._of)


class Unlabelled(_Derived):
    """The images of a dataset, none of whose training labels can be seen: every pixel of them has the ignored label."""

    def __init__(self, of: Dataset) -> None:
        super().__init__(f"unlabelled {of.name}", of, canonical.digest(["unlabelled", of.digest]))
        self._hidden = frozenset(of.splits.get("train", ()))

    def sample(self, index: int) -> Sample:
        """An image; labelled if it is not for training."""
        sample = self._of.sample(index)
        if index not in self._hidden:
            return sample
        return Sample(sample.image, np.full_like(sample.label, self.ignore_index), sample.name)

    def labels_of(self, index: int) -> NDArray[np.bool_]:
        """None of an image for training."""
        return np.arange(256) == self.ignore_index if index in self._hidden else labels_of(self._of, index)


class FewImages(_Derived):
    """A dataset of which only so many training images are there, evenly spread over the split. The other splits are whole."""

    def __init__(self, of: Dataset, how_many: int) -> None:
        train = of.splits.get("train", ())
        if not 1 <= how_many <= len(train):
            raise DatasetError(of.name, f"{how_many} of its training images cannot be taken", f"1 to {len(train)}")
        super().__init__(f"{how_many} images of {of.name}", of, canonical.digest(["few", how_many, of.digest]))
        taken = tuple(train[i * len(train) // how_many] for i in range(how_many))
        self.splits = {**of.splits, "train": taken}


class OnlyClasses(_Derived):
    """A dataset in which only the pixels of some classes count. The classes keep their numbers."""

    def __init__(self, of: Dataset, kept: Sequence[str]) -> None:
        unknown = [name for name in kept if name not in of.classes]
        if unknown or not kept:
            raise DatasetError(of.name, f"has no class {', '.join(unknown) or '(none given)'}", f"of: {', '.join(of.classes)}")
        super().__init__(f"{'+'.join(kept)} of {of.name}", of, canonical.digest(["only", sorted(kept), of.digest]))
        self._kept = np.isin(np.arange(256), [of.classes.index(name) for name in kept])

    def sample(self, index: int) -> Sample:
        """An image whose other classes are ignored."""
        sample = self._of.sample(index)
        label = np.where(self._kept[sample.label], sample.label, self.ignore_index).astype(np.uint8)
        return Sample(sample.image, label, sample.name)

    def labels_of(self, index: int) -> NDArray[np.bool_]:
        """Those of the classes that count."""
        found = labels_of(self._of, index)
        kept = found & self._kept
        kept[self.ignore_index] |= bool((found & ~self._kept).any())
        return kept


class JoinedDataset(_Derived):
    """Several datasets of the same classes as one; each split holds those of all."""

    def __init__(self, parts: Sequence[Dataset]) -> None:
        first = parts[0]
        for part in parts[1:]:
            if (part.classes, part.ignore_index) != (first.classes, first.ignore_index):
                raise DatasetError(part.name, f"has classes {', '.join(part.classes)}", f"those of {first.name}: {first.classes}")
            if channels_of(part) != channels_of(first):
                told = f"those of {first.name}: {', '.join(channels_of(first))}"
                raise DatasetError(part.name, f"has images of the channels {', '.join(channels_of(part))}", told)
        digest = canonical.digest(["joined", [part.digest for part in parts]])
        super().__init__(" and ".join(part.name for part in parts), first, digest)
        self._parts = tuple(parts)
        scales = {value_scale_of(part) for part in parts} - {()}
        self.value_scale = next(iter(scales), ()) if len(scales) < 2 else None
        self._stride = 1 + max(index for part in parts for indices in part.splits.values() for index in indices)
        names = dict.fromkeys(name for part in parts for name in part.splits)
        self.splits = {
            name: tuple(at * self._stride + index for at, part in enumerate(parts) for index in part.splits.get(name, ()))
            for name in names
        }

    @property
    def num_parts(self) -> int:
        """How many datasets."""
        return len(self._parts)

    def part(self, index: int) -> int:
        """Which of the datasets a sample comes from."""
        return index // self._stride

    def sample(self, index: int) -> Sample:
        """A labelled image of one of them."""
        at, own = divmod(index, self._stride)
        return self._parts[at].sample(own)

    def group(self, index: int) -> str:
        """The video or clip that a sample comes from."""
        at, own = divmod(index, self._stride)
        return f"{at}/{self._parts[at].group(own)}"

    @property
    def notices(self) -> tuple[str, ...]:
        """What is to be said of each of them."""
        return tuple(text for part in self._parts for text in getattr(part, "notices", ()))

    @property
    def files(self) -> dict[str, str]:
        """The files of each of them, with what marks their content."""
        named = ((at, getattr(part, "files", {})) for at, part in enumerate(self._parts))
        return {f"part {at}: {file}": mark for at, files in named for file, mark in files.items()}

    @property
    def places(self) -> tuple[Path, ...]:
        """The folders in which the files of any of them are."""
        return tuple(place for part in self._parts for place in getattr(part, "places", ()))

    def size_of(self, index: int) -> Size:
        """(height, width) of a sample of one of them."""
        at, own = divmod(index, self._stride)
        return size_of(self._parts[at], own)

    def fingerprint(self, index: int) -> bytes:
        """What two samples have in common only if they are one image."""
        at, own = divmod(index, self._stride)
        return fingerprint(self._parts[at], own)

    def labels_of(self, index: int) -> NDArray[np.bool_]:
        """Which labels have pixels in a sample of one of them."""
        at, own = divmod(index, self._stride)
        return labels_of(self._parts[at], own)

    def check(self) -> None:
        """Reads everything once."""
        for part in self._parts:
            part.check()

    def check_splits(self) -> None:
        """Whether the splits of one of them have something in common, or those of one with those of another."""
        for part in self._parts:
            check_splits(part)
        refuse_twins(self, self.fingerprint, is_excused=lambda one, other: self.part(one) == self.part(other))
