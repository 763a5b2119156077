"""What published datasets are made of here: tiny images, labels of two boxes, and what must be read of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

Label = np.ndarray
Truth = dict[str, dict[str, Label]]
HEIGHT, WIDTH = 24, 32
BOX = (slice(4, 12), slice(4, 16))
CORNERS = [(4, 4), (15, 4), (15, 11), (4, 11)]
OTHER_BOX = (slice(14, 20), slice(10, 26))
UAVID = [(0, 0, 0), (128, 0, 0), (128, 64, 128)]
OTHER_CORNERS = [(10, 14), (25, 14), (25, 19), (10, 19)]

_random = np.random.default_rng(5)


def picture(path: Path) -> None:
    """An image that is like no other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(_random.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(path)


def scene(back: int, one: int, other: int, dtype: type = np.uint8) -> Label:
    """Two boxes on a background."""
    label = np.full((HEIGHT, WIDTH), back, dtype)
    label[BOX], label[OTHER_BOX] = one, other
    return label


def save(path: Path, pixels: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def colored(label: Label, colors: Sequence[tuple[int, int, int]]) -> np.ndarray:
    return np.array(colors, dtype=np.uint8)[label]
