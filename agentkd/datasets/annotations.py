"""What readers of annotations in text share: names of classes, one parse of a file for all its images, areas filled."""

import json
import math
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from PIL import Image, ImageDraw

from agentkd.datasets.description import IGNORED, OTHERS, Description
from agentkd.datasets.samples import Pixels, Size
from agentkd.datasets.text import read_text
from agentkd.errors import DatasetError
from agentkd.visible import visible

Content = TypeVar("Content")


class Names:
    """Which label the annotators' names stand for: classes' own names, those of ``values``, and ``ignored_values``."""

    def __init__(self, description: Description) -> None:
        self._description = description
        self.background = (
            description.ignore_index if description.background == IGNORED else description.classes.index(description.background)
        )
        self._labels = {name: label for label, name in enumerate(description.classes)}
        self._labels |= {str(theirs): description.classes.index(ours) for theirs, ours in description.values.items()}
        if description.ignored_values != OTHERS:
            self._labels |= {str(theirs): description.ignore_index for theirs in description.ignored_values}

    def label(self, name: str, path: Path) -> int:
        """The label of what is annotated with a name.

        Raises:
            DatasetError: no class is called so.
        """
        label = self._labels.get(name, self._description.ignore_index if self._description.ignored_values == OTHERS else -1)
        if label < 0:
            expected = f"one of {', '.join(self._labels)}; in dataset.yaml, values: {{{name}: CLASS}} or ignored_values: [{name}]"
            raise DatasetError(path, f"something is annotated as {visible(repr(name))}", expected)
        return label

    def empty(self, size: Size) -> Pixels:
        """The label [H,W] of an image on which nothing is annotated."""
        return np.full(size, self.background, dtype=np.uint8)


class Parsed(Generic[Content]):
    """Files parsed once each, by whichever thread comes first; one that cannot be is not read again for each image."""

    def __init__(self, parse: Callable[[Path], Content]) -> None:
        self._parse, self._lock, self._known = parse, threading.Lock(), dict[Path, Content | DatasetError]()

    def __call__(self, path: Path) -> Content:
        """The content of a file.

        Raises:
            DatasetError: it is not as it should be.
        """
        with self._lock:
            if path not in self._known:
                try:
                    self._known[path] = self._parse(path)
                except DatasetError as error:
                    self._known[path] = error
            found = self._known[path]
        if isinstance(found, DatasetError):
            raise DatasetError(found.place, found.found, found.expected)
        return found


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        DatasetError: it does not.
    """
    try:
        data = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DatasetError(path, f"is not JSON ({visible(str(error))})", "a whole file of annotations") from None
    if not isinstance(data, dict):
        raise DatasetError(path, f"holds a JSON {type(data).__name__}", "an object")
    return data


def numbered(names: Iterable[tuple[Any, str]], path: Path) -> dict[Any, str]:
    """Names by their numbers.

    Raises:
        DatasetError: a number stands for two names.
    """
    found: dict[Any, str] = {}
    for number, name in names:
        if found.setdefault(number, name) != name:
            text = f"calls {visible(repr(number))} both {visible(found[number])} and {visible(name)}"
            raise DatasetError(path, text, "a number of its own for each")
    return found


def points_of(values: object, path: Path) -> list[tuple[float, float]]:
    """Corners (x, y) from ``[[x, y], ...]``.

    Raises:
        DatasetError: it is not that.
    """
    try:
        points = [(float(x), float(y)) for x, y in values]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise DatasetError(path, "holds an outline that is none", "a list of corners, two numbers each") from None
    if not all(math.isfinite(part) and abs(part) < 1e6 for point in points for part in point):
        raise DatasetError(path, "holds an outline with corners that are nowhere", "pixels of the image")
    return points


def fill(label: Pixels, outlines: Sequence[Sequence[tuple[float, float]]], number: int) -> None:
    """Fills outlines (three corners or more), with their borders, in place; several make one area."""
    canvas = Image.new("1", (label.shape[1], label.shape[0]))
    draw = ImageDraw.Draw(canvas)
    for outline in outlines:
        if len(outline) > 2:
            draw.polygon(list(outline), fill=1, outline=1)
    label[np.asarray(canvas)] = number


def fill_runs(size: Size, starts: Sequence[int], lengths: Sequence[int], path: Path) -> "np.ndarray[Any, np.dtype[np.bool_]]":
    """Pixels [H,W] of runs that go down the columns, one column after the other; the first pixel is 0.

    Raises:
        DatasetError: a run that leaves the image.
    """
    flat = np.zeros(size[0] * size[1], dtype=bool)
    for start, length in zip(starts, lengths, strict=True):
        if start < 0 or length < 0 or start + length > flat.size:
            text = f"holds a run of {length} pixels from pixel {start + 1} on, which leaves an image of {size[1]}x{size[0]}"
            raise DatasetError(path, text, "runs within the image")
        flat[start : start + length] = True
    return flat.reshape(size[1], size[0]).T
