"""A second kind of data beside the generated scenes, with two classes of its own: a bright road through dark ground."""

import hashlib
from collections.abc import Mapping

import numpy as np

from agentkd.datasets.samples import Sample

SIZE = 32


class Roads:
    """Twenty-four images, 16 to learn from, 4 to validate and 4 to test."""

    name, ignore_index = "roads", 255
    classes = ("Ground", "Road")
    colors = ((60, 60, 60), (220, 220, 220))
    splits: Mapping[str, tuple[int, ...]] = {
        "train": tuple(range(16)),
        "validation": tuple(range(16, 20)),
        "test": tuple(range(20, 24)),
    }

    @property
    def digest(self) -> str:
        return hashlib.sha256(b"roads of two kinds").hexdigest()

    def sample(self, index: int) -> Sample:
        random = np.random.default_rng(index)
        rows, columns = np.mgrid[:SIZE, :SIZE]
        slope, start = random.uniform(-1, 1), random.uniform(8, 24)
        label = (np.abs(columns - start - slope * (rows - SIZE / 2)) < 4).astype(np.uint8)
        blue = np.array([30, 40, 120]) + random.integers(-10, 10, 3)
        image = np.where(label[..., None] == 1, np.array([240, 240, 40]), blue) + random.normal(0, 6, (SIZE, SIZE, 3))
        return Sample(image.clip(0, 255).astype(np.uint8), label, f"road {index}")

    def group(self, index: int) -> str:
        return str(index)

    def check(self) -> None:
        """Nothing is on a disk."""
