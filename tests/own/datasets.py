"""Datasets as users bring them: some that keep to the contract, and some that break it in one place."""

import hashlib
import itertools
import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from agentkd.datasets.opening import open_dataset
from agentkd.datasets.samples import Sample


class Scenes:
    """Ten generated scenes as a class of a user's own."""

    name, ignore_index = "scenes", 255
    inner = open_dataset("generated:seed=3,size=32x32,train=6,validation=4,test=0")
    classes: tuple[str, ...] = inner.classes
    colors = inner.colors
    splits: Mapping[str, tuple[int, ...]] = {"train": (0, 1, 2, 3, 4, 5), "validation": (6, 7, 8, 9)}

    @property
    def digest(self) -> str:
        return hashlib.sha256(type(self).__name__.encode()).hexdigest()

    def sample(self, index: int) -> Sample:
        return self.inner.sample(index)

    def group(self, index: int) -> str:
        return str(index)

    def check(self) -> None:
        """Reads everything."""


class Blank(Scenes):
    classes = ("Burnt", " ")


class Alike(Scenes):
    classes = ("Burnt", "burnt")


class Twice(Scenes):
    splits: Mapping[str, tuple[int, ...]] = {"train": (0, 1, 2, 3), "validation": (3, 4)}


class Untested(Scenes):
    splits: Mapping[str, tuple[int, ...]] = {"train": (0, 1, 2, 3)}


class TwinClasses(Scenes):
    classes = ("a", "b", "c", "d", "a")


class Colorless(Scenes):
    colors = Scenes.colors[:2]


class IgnoresAClass(Scenes):
    ignore_index = 2


class WideLabels(Scenes):
    def sample(self, index: int) -> Sample:
        sample = super().sample(index)
        return replace(sample, label=sample.label.astype(np.int64))


class UnknownLabels(Scenes):
    def sample(self, index: int) -> Sample:
        sample = super().sample(index)
        return replace(sample, label=np.where(sample.label == 0, 77, sample.label).astype(np.uint8))


class SmallLabels(Scenes):
    def sample(self, index: int) -> Sample:
        sample = super().sample(index)
        return replace(sample, label=sample.label[::2, ::2])


class Noisy(Scenes):
    def sample(self, index: int) -> Sample:
        sample = super().sample(index)
        return replace(sample, image=np.random.default_rng().integers(0, 255, sample.image.shape, dtype=np.uint8))


_shifts = itertools.count()


class Drifting(Scenes):
    """Another content each time it is opened."""

    def __init__(self) -> None:
        self.shift = next(_shifts) % 251

    def sample(self, index: int) -> Sample:
        sample = super().sample(index)
        return replace(sample, image=sample.image + np.uint8(self.shift))


class Hashed(Scenes):
    @property
    def digest(self) -> str:
        return f"{hash(self.name) & (2**64 - 1):064x}"


class Timed(Scenes):
    def __init__(self) -> None:
        self.opened = time.monotonic_ns()

    @property
    def digest(self) -> str:
        return f"{self.opened:064x}"


class Named(Scenes):
    digest = "version-1"  # type: ignore[assignment]


class Unsound(Scenes):
    def check(self) -> None:
        raise ValueError("sample 3 is damaged")
