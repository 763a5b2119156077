"""Run lengths in a CSV file, as competitions give them: an image's name, perhaps a class, and ``start length start length ...``.

Pixels count from 1, down the columns. Several rows of one image add up; later ones cover earlier ones.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

from agentkd.datasets.annotations import Names, Parsed, fill_runs
from agentkd.datasets.coco import find_image
from agentkd.datasets.description import Description
from agentkd.datasets.masks import Seen
from agentkd.datasets.patterns import IMAGE_ENDINGS, composed
from agentkd.datasets.samples import Pixels, Size
from agentkd.datasets.splits import some
from agentkd.datasets.text import read_text
from agentkd.errors import DatasetError

Rows = list[tuple[str, str]]


class RunLengthReader:
    """Reads the CSV file: columns image and runs for two classes, or image, class and runs."""

    def __init__(self, description: Description) -> None:
        self._names, self._classes, self._files = Names(description), description.classes, Parsed(_parse)
        self.seen = Seen()
        self._of_two = (
            description.classes[1 - self._names.background]
            if len(description.classes) == 2 and self._names.background < 2
            else ""
        )

    def label(self, annotation: Path, image: Path, size: Size) -> Pixels:
        """The label of an image: its rows in their order."""
        label = self._names.empty(size)
        for name, text in find_image(self._files(annotation), image.with_suffix(""), annotation):
            name = name or self._of_two
            if not name:
                raise DatasetError(
                    annotation,
                    "has no column for the class",
                    "columns image, class, runs; without class, two classes of which one is the background",
                )
            number = self._names.label(name, annotation)
            try:
                values = [int(part) for part in text.split()]
            except ValueError:
                values = [0]
            if len(values) % 2:
                raise DatasetError(
                    annotation, f"holds runs of {image.name} that are none: {text[:40]!r}", "start length start length ..."
                )
            label[fill_runs(size, [start - 1 for start in values[::2]], values[1::2], annotation)] = number
        return label

    def notices(self, annotation: Path, images: Sequence[Path]) -> list[str]:
        """Images that the file lists and that are not there."""
        there = {composed(image.stem) for image in images}
        unused = [name for name in self._files(annotation) if name.rpartition("/")[2] not in there]
        return [f"{annotation}: lists {len(unused):,} images that are not there: {some(unused)}"] if unused else []


def _parse(path: Path) -> dict[str, Rows]:
    try:
        rows = [row for row in csv.reader(read_text(path).splitlines()) if row]
    except csv.Error as error:
        raise DatasetError(path, f"is not CSV ({error})", "columns image, class, runs, or image, runs") from None
    widths = {len(row) for row in rows}
    if len(rows) < 2 or widths not in ({2}, {3}):
        raise DatasetError(
            path,
            f"has rows of {', '.join(map(str, sorted(widths)))} columns",
            "a heading, then columns image, class, runs, or image, runs",
        )
    listed: dict[str, Rows] = {}
    for first, *between, runs in rows[1:]:
        stem, dot, ending = first.rpartition(".")
        name = composed(stem if dot and ending.lower() in IMAGE_ENDINGS else first)
        listed.setdefault(name, []).append((between[0].strip() if between else "", runs))
    return listed
