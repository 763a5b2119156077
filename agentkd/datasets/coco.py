"""COCO: one JSON file for all images of a split, with outlines and run lengths. Later annotations cover earlier ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from agentkd.datasets.annotations import Names, Parsed, fill, fill_runs, numbered, points_of, read_json
from agentkd.datasets.description import Description
from agentkd.datasets.masks import Seen, check_size
from agentkd.datasets.patterns import composed
from agentkd.datasets.samples import Pixels, Size
from agentkd.datasets.splits import some
from agentkd.errors import DatasetError
from agentkd.visible import visible


@dataclass
class _Listed:
    """What a file says of one image."""

    file_name: str
    size: Size
    annotations: list[tuple[str, Any]] = field(default_factory=list)


class CocoReader:
    """Reads COCO's instances: polygons and both forms of run lengths. Images are found by ``file_name``."""

    def __init__(self, description: Description) -> None:
        self._names, self._files, self.seen = Names(description), Parsed(_parse), Seen()

    def label(self, annotation: Path, image: Path, size: Size) -> Pixels:
        """The label of an image: its annotations in the file's order."""
        listed = find_image(self._files(annotation), image, annotation)
        check_size(annotation, listed.size, image, size)
        label = self._names.empty(size)
        for name, segmentation in listed.annotations:
            number = self._names.label(name, annotation)
            if segmentation == []:
                text = f"annotates a {name} in {listed.file_name} with a box alone"
                raise DatasetError(annotation, text, "outlines or run lengths; export it for segmentation")
            if isinstance(segmentation, list):
                if not all(isinstance(flat, list) and len(flat) % 2 == 0 for flat in segmentation):
                    raise DatasetError(
                        annotation, f"holds an outline of {listed.file_name} that is none", "lists x1, y1, x2, y2, ..."
                    )
                outlines = [points_of(list(zip(flat[::2], flat[1::2], strict=True)), annotation) for flat in segmentation]
                short = next((outline for outline in outlines if len(outline) < 3), None)
                if short is not None:
                    raise DatasetError(
                        annotation,
                        f"holds an outline of {len(short)} corners in {listed.file_name}, as {name}",
                        "three or more: a point or a line has no area, and two corners are a box to some programs",
                    )
                fill(label, outlines, number)
            else:
                label[_runs(segmentation, size, annotation)] = number
        return label

    def notices(self, annotation: Path, images: Sequence[Path]) -> list[str]:
        """Images that the file lists and that are not there."""
        listed = self._files(annotation)
        used = {id(find_image(listed, image, annotation)) for image in images}
        unused = {id(record): record.file_name for record in listed.values() if id(record) not in used}
        return [f"{annotation}: lists {len(unused):,} images that are not there: {some([*unused.values()])}"] if unused else []


def find_image(listed: Mapping[str, Any], image: Path, annotation: Path) -> Any:
    """What is listed under an image's path, or the longest end of it.

    Raises:
        DatasetError: nothing.
    """
    parts = composed(image.as_posix()).split("/")
    for at in range(len(parts)):
        name = "/".join(parts[at:])
        if name in listed:
            return listed[name]
    raise DatasetError(
        image, f"is not listed in {annotation}", "each image listed by its file name; or name those that are not in ignored_files"
    )


def _parse(path: Path) -> dict[str, _Listed]:
    data = read_json(path)
    try:
        names = numbered(((item["id"], str(item["name"])) for item in data["categories"]), path)
        by_id = {
            item["id"]: _Listed(str(item["file_name"]), (int(item["height"]), int(item["width"]))) for item in data["images"]
        }
        for item in data["annotations"]:
            image, category = item["image_id"], item["category_id"]
            _must_be_listed("image", image, by_id, item, path)
            _must_be_listed("category", category, names, item, path)
            by_id[image].annotations.append((names[category], item["segmentation"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            path, f"is not as COCO has it: {error!r} is missing or wrong", "images, categories and annotations with segmentation"
        ) from None
    listed: dict[str, _Listed] = {}
    for record in by_id.values():
        name = composed(record.file_name).removeprefix("./")
        if listed.setdefault(name, record) is not record:
            raise DatasetError(path, f"lists {record.file_name} twice", "each image once")
    ends: dict[str, _Listed | None] = {}
    for name, record in listed.items():
        end = name.rpartition("/")[2]
        ends[end] = None if end in ends else record
    return {end: record for end, record in ends.items() if record} | listed


def _must_be_listed(what: str, number: Any, listed: Mapping[Any, object], item: Mapping[str, Any], path: Path) -> None:
    """That what an annotation belongs to is there.

    Raises:
        DatasetError: it is not.
    """
    if number in listed:
        return
    which = f"annotation {item['id']!r}" if "id" in item else "an annotation"
    several = {"image": "images", "category": "categories"}[what]
    known = some([*map(repr, listed)]) if listed else "none"
    raise DatasetError(
        path,
        visible(f"{which} has {what}_id {number!r}, which is not among its {several} ({known})"),
        f"each {what}_id listed in {several}: add it there, or remove the annotation",
    )


def _runs(segmentation: Any, size: Size, path: Path) -> "np.ndarray[Any, np.dtype[np.bool_]]":
    """Pixels of COCO's run lengths: alternately off and on, down the columns, as numbers or as text."""
    if not isinstance(segmentation, dict) or segmentation.get("size") != list(size):
        raise DatasetError(path, f"holds a segmentation that is no outline, and no run lengths of {size[1]}x{size[0]}", "either")
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        counts = _numbers(counts, path)
    if not isinstance(counts, list) or not all(isinstance(count, int) and count >= 0 for count in counts):
        raise DatasetError(path, "holds run lengths that are none", "a list of numbers, or COCO's text")
    if sum(counts) != size[0] * size[1]:
        raise DatasetError(
            path, f"holds run lengths of {sum(counts)} pixels for {size[1]}x{size[0]}", f"{size[0] * size[1]} pixels"
        )
    ends = np.cumsum(counts).tolist()
    return fill_runs(size, ends[0:-1:2], counts[1::2], path)


def _numbers(text: str, path: Path) -> list[int]:
    """COCO's text: five bits a letter from ``0`` on, the sixth says that more follow; from the fourth on, differences."""
    counts: list[int] = []
    at = 0
    while at < len(text):
        value, shift, more = 0, 0, True
        while more:
            letter = ord(text[at]) - 48 if at < len(text) else -1
            if not 0 <= letter < 64 or shift > 60:
                raise DatasetError(path, "holds run lengths whose text is broken", "COCO's text")
            value |= (letter & 31) << shift
            more, shift, at = bool(letter & 32), shift + 5, at + 1
            if not more and letter & 16:
                value |= -1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return counts
