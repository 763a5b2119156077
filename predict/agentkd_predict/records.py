"""What came of each file, as CSV and JSON."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentkd_predict.files import write_whole
from agentkd_predict.visible import visible

FIELDS = ("image", "class", "pixels", "share", "hectares")
Counts = NDArray[np.int64]


@dataclass
class Areas:
    """How much of an image each class covers, while its rows are counted.

    Args:
        num_classes: K.
        row_hectares: of a pixel in each row, or None where that is not known.
    """

    num_classes: int
    row_hectares: NDArray[np.float64] | None = None
    pixels: Counts = field(init=False)
    hectares: NDArray[np.float64] | None = field(init=False)

    def __post_init__(self) -> None:
        self.pixels = np.zeros(self.num_classes, dtype=np.int64)
        self.hectares = None if self.row_hectares is None else np.zeros(self.num_classes)

    def add_rows(self, top: int, mask: NDArray[np.uint8]) -> None:
        """Counts rows of a mask ``[h,W]``; what is no class is not counted."""
        for row, values in enumerate(mask, top):
            counts = np.bincount(values, minlength=self.num_classes)[: self.num_classes]
            self.pixels += counts
            if self.hectares is not None and self.row_hectares is not None:
                self.hectares += counts * self.row_hectares[row]


@dataclass(frozen=True)
class Done:
    """A file that was done: the paths are relative to the folder, ``hectares`` are None where they are not known."""

    image: str
    files: dict[str, str]
    height: int
    width: int
    pixels: tuple[int, ...]
    hectares: tuple[float, ...] | None
    seconds: float
    notices: tuple[str, ...] = ()
    frames: int | None = None

    @property
    def total(self) -> int:
        return sum(self.pixels)


@dataclass(frozen=True)
class Failed:
    """A file that could not be done, and why."""

    image: str
    reason: str


def write_records(
    folder: Path, about: dict[str, Any], classes: Sequence[str], done: Sequence[Done], failed: Sequence[Failed]
) -> None:
    """Writes ``summary.csv`` and ``summary.json`` into a folder.

    Raises:
        StorageError: they cannot be written.
    """
    rows = [row for one in done for row in _rows(one, classes)]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(FIELDS)
    writer.writerows(["" if cell is None else cell for cell in row] for row in rows)
    write_whole(folder / "summary.csv", visible(text.getvalue().replace("\r\n", "\n")))
    told = about | {
        "classes": list(classes),
        "images": [_object(one, classes) for one in done],
        "failed": [{"image": one.image, "reason": one.reason} for one in failed],
    }
    write_whole(folder / "summary.json", json.dumps(told, indent=2, ensure_ascii=True) + "\n")


def _rows(one: Done, classes: Sequence[str]) -> list[tuple[Any, ...]]:
    hectares: Sequence[float | None] = [None] * len(classes) if one.hectares is None else one.hectares
    return [
        (one.image, name, pixels, _share(pixels, one.total), None if area is None else round(area, 6))
        for name, pixels, area in zip(classes, one.pixels, hectares, strict=True)
    ]


def _object(one: Done, classes: Sequence[str]) -> dict[str, Any]:
    return {
        "image": one.image,
        "files": one.files,
        "height": one.height,
        "width": one.width,
        **({} if one.frames is None else {"frames": one.frames}),
        "pixels": dict(zip(classes, one.pixels, strict=True)),
        "share": {name: _share(pixels, one.total) for name, pixels in zip(classes, one.pixels, strict=True)},
        "hectares": None if one.hectares is None else dict(zip(classes, one.hectares, strict=True)),
        "seconds": round(one.seconds, 3),
        "notices": list(one.notices),
    }


def _share(pixels: int, total: int) -> float:
    return round(pixels / total, 6) if total else 0.0
