"""Which classes have pixels in which split: what can be said of labels once all were read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agentkd.datasets.samples import Pixels
from agentkd.datasets.splits import TRAIN, VALIDATION, some
from agentkd.errors import DatasetError


@dataclass
class Census:
    """Pixels of each label, split by split, and the images whose labels are one value."""

    name: str
    classes: tuple[str, ...]
    ignore_index: int
    counts: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    uniform: dict[str, list[str]] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)

    def add(self, split: str, name: str, counts: NDArray[np.int64]) -> None:
        """One image's pixels of each label, 0 to 255."""
        self.counts[split] = self.counts.get(split, np.zeros(256, dtype=np.int64)) + counts
        self.images[split] = self.images.get(split, 0) + 1
        if np.count_nonzero(counts) == 1:
            self.uniform.setdefault(split, []).append(name)

    def judge(self, hint: str = "") -> list[str]:
        """What is to be said.

        Args:
            hint: what to write if one class is left.

        Raises:
            DatasetError: nothing can be learned: in ``train``, fewer than two classes have pixels, or in ``validation`` none.
        """
        for split in (TRAIN, VALIDATION):
            if split in self.counts and not self._present(split):
                text = f"every pixel of split {split!r} has the label {self.ignore_index}, which is 'not labelled'"
                raise DatasetError(self.name, text, f"pixels of {', '.join(self.classes)}{hint}")
        if TRAIN in self.counts and len(self._present(TRAIN)) == 1:
            share = self.counts[TRAIN][self.ignore_index] / self.counts[TRAIN].sum()
            text = f"in split {TRAIN!r} only one class has pixels, {self._present(TRAIN)[0]!r}"
            text += f"; {100 * share:.1f} % of the pixels are {self.ignore_index}, which is 'not labelled'" if share else ""
            raise DatasetError(self.name, text, f"two classes or more{hint}")
        return [*self._absent(), *self._same_values()]

    def _present(self, split: str) -> list[str]:
        return [name for label, name in enumerate(self.classes) if self.counts[split][label]]

    def _absent(self) -> list[str]:
        """Classes that no pixel has: anywhere, or in one split."""
        said = []
        nowhere = [name for name in self.classes if not any(name in self._present(split) for split in self.counts)]
        if nowhere:
            said.append(f"{self.name}: no pixel anywhere is {_either(nowhere)}")
        for split in self.counts:
            present = self._present(split)
            absent = [name for name in self.classes if name not in present and name not in nowhere]
            if not present:
                said.append(f"{self.name}: no pixel of split {split!r} is labelled")
                continue
            if absent:
                said.append(f"{self.name}: no pixel of split {split!r} is {_either(absent)}")
            if len(present) == 1:
                said.append(
                    f"{self.name}: every labelled pixel of split {split!r} is {present[0]!r}: whoever always answers so is right"
                )
        return said

    def _same_values(self) -> list[str]:
        """Masks with one value only."""
        return [
            f"{self.name}: {len(names):,} of {self.images[split]:,} masks of split {split!r} hold one value only: {some(names)}"
            for split, names in self.uniform.items()
        ]


def count_labels(label: Pixels) -> NDArray[np.int64]:
    """Pixels of each label, 0 to 255."""
    return np.bincount(label.ravel(), minlength=256)


def _either(names: Sequence[str]) -> str:
    return " or ".join(repr(name) for name in names)


def merged(problems: Mapping[int, DatasetError]) -> DatasetError:
    """One error of many: the first one, and how many more there are."""
    _, first = min(problems.items(), key=lambda item: item[0])
    if len(problems) == 1:
        return first
    places = [error.place for _, error in sorted(problems.items())][1:]
    advice = "agentkd data check names all"
    expected = f"{first.expected}; {len(places):,} more refused: {some(places)}; {advice}".removeprefix("; ")
    return DatasetError(first.place, first.found, expected)
