"""What the samples of a dataset come to, one after the other: classes, sizes, likenesses, and which are worth a picture.

It grows by some 500 bytes a sample and holds no pixels but tiny pictures of them. What is to be said of it is decided elsewhere.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agentkd.architecture import RGB
from agentkd.datasets.census import Census, count_labels
from agentkd.datasets.files import FileDataset, Looked
from agentkd.datasets.likeness import Looks
from agentkd.datasets.samples import Dataset, Size, as_rgb, read_sample

NUM_PICTURES = 8


@dataclass
class Survey:
    """All that was seen so far.

    Args:
        census: pixels of each label, by splits.
        channels: what those of the images are called.
        with_class: by splits, in how many images each label has pixels.
        sizes: how many images have each size.
        looks: what images look like.
        twins: images with the same pixels in two splits, by index; only of datasets that are not made of files.
        names: what samples are called, of those that may be shown.
    """

    census: Census
    channels: tuple[str, ...] = RGB
    with_class: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    sizes: Counter[Size] = field(default_factory=Counter)
    looks: Looks = field(default_factory=Looks)
    twins: list[tuple[int, int]] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    _seen: dict[bytes, tuple[str, int]] = field(default_factory=dict)
    _best: dict[int, tuple[float, int]] = field(default_factory=dict)

    def add(self, index: int, split: str, looked: Looked, *, is_file: bool) -> None:
        """One more sample."""
        sample, counts = looked.sample, looked.counts
        self.census.add(split, sample.name, counts)
        self.with_class[split] = self.with_class.get(split, np.zeros(256, dtype=np.int64)) + (counts > 0)
        height, width = sample.label.shape
        self.sizes[height, width] += 1
        self.looks.add(index, as_rgb(sample.image, self.channels))
        self.names[index] = sample.name
        if not is_file:
            self._compare(index, split, hashlib.sha256(np.ascontiguousarray(sample.image).tobytes()).digest())
        for label in np.flatnonzero(counts).tolist():
            share = float(counts[label] / counts.sum())
            if share > self._best.get(label, (0.0, 0))[0]:
                self._best[label] = (share, index)

    def _compare(self, index: int, split: str, content: bytes) -> None:
        before = self._seen.setdefault(content, (split, index))
        if before[0] != split:
            self.twins.append((before[1], index))

    def worth_showing(self, splits: Mapping[str, Sequence[int]], num_classes: int) -> list[int]:
        """Some samples: of each class the one that has most of it, rare classes first; then others, evenly spread over splits.

        Of each split there is one, if they are few enough.
        """
        total = sum(self.with_class.values(), np.zeros(256, dtype=np.int64))
        rare_first = sorted((label for label in self._best if label < num_classes), key=lambda label: (int(total[label]), label))
        known = ([index for index in indices if index in self.names] for indices in splits.values())
        spread = [indices for indices in known if indices]
        chosen = dict.fromkeys(self._best[label][1] for label in rare_first[: max(0, NUM_PICTURES - len(spread))])
        for at in range(NUM_PICTURES):
            for indices in spread:
                if len(chosen) < NUM_PICTURES:
                    chosen[indices[at * len(indices) // NUM_PICTURES]] = None
        return sorted(list(chosen)[:NUM_PICTURES])


def reader_of(dataset: Dataset) -> Callable[[int], Looked]:
    """Reads a sample of a dataset and counts its labels.

    Raises (what it returns):
        DatasetError: it is not as described.
        ConfigError: own code raises something.
    """
    if isinstance(dataset, FileDataset):
        return dataset.look

    def look(index: int) -> Looked:
        sample = read_sample(dataset, index)
        return Looked(sample, count_labels(sample.label))

    return look
