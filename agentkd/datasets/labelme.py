"""Labelme: a JSON file for each image, with outlines. Later ones cover earlier ones."""

import base64
import binascii
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from agentkd.datasets.annotations import Names, fill, points_of, read_json
from agentkd.datasets.description import Description
from agentkd.datasets.masks import Seen, check_size
from agentkd.datasets.pictures import DAMAGE
from agentkd.datasets.samples import Pixels, Size
from agentkd.errors import DatasetError

CORNERS_OF_A_CIRCLE = 180


class LabelmeReader:
    """Reads Labelme's files: polygons, rectangles, circles and masks."""

    def __init__(self, description: Description) -> None:
        self._names, self.seen = Names(description), Seen()

    def label(self, annotation: Path, image: Path, size: Size) -> Pixels:
        """The label of an image: its shapes in their order."""
        data = read_json(annotation)
        shapes = data.get("shapes")
        if not isinstance(shapes, list):
            raise DatasetError(annotation, "has no list 'shapes'", "a file that Labelme wrote")
        written = (data.get("imageHeight"), data.get("imageWidth"))
        if isinstance(written[0], int) and isinstance(written[1], int):
            check_size(annotation, (written[0], written[1]), image, size)
        label = self._names.empty(size)
        for shape in shapes:
            if not isinstance(shape, dict):
                raise DatasetError(annotation, "holds a shape that is none", "an object with label and points")
            self._draw(label, shape, annotation)
        return label

    def notices(self, annotation: Path, images: Sequence[Path]) -> list[str]:
        """Nothing."""
        return []

    def _draw(self, label: Pixels, shape: dict[str, Any], path: Path) -> None:
        number = self._names.label(str(shape.get("label")), path)
        kind, points = shape.get("shape_type") or "polygon", points_of(shape.get("points"), path)
        if kind == "polygon" and len(points) > 2:
            fill(label, [points], number)
        elif kind == "rectangle" and len(points) == 2:
            (left, top), (right, bottom) = points
            fill(label, [[(left, top), (right, top), (right, bottom), (left, bottom)]], number)
        elif kind == "circle" and len(points) == 2:
            (x, y), radius = points[0], math.dist(*points)
            turns = [2 * math.pi * at / CORNERS_OF_A_CIRCLE for at in range(CORNERS_OF_A_CIRCLE)]
            fill(label, [[(x + radius * math.cos(turn), y + radius * math.sin(turn)) for turn in turns]], number)
        elif kind == "mask" and points:
            left, top = (round(part) for part in points[0])
            _paste(label, _small_mask(shape.get("mask"), path), top, left, number, path)
        else:
            expected = "polygons of three corners or more, rectangles, circles and masks: a point or a line has no area"
            raise DatasetError(path, f"holds a {kind} of {len(points)} points as {shape.get('label')!r}", expected)


def _small_mask(text: object, path: Path) -> Pixels:
    try:
        with Image.open(io.BytesIO(base64.b64decode(str(text), validate=True)), formats=("PNG",)) as image:
            return np.asarray(image.convert("L"))
    except (binascii.Error, *DAMAGE):
        raise DatasetError(path, "holds a mask that cannot be read", "a PNG in base64, as Labelme writes it") from None


def _paste(label: Pixels, mask: Pixels, top: int, left: int, number: int, path: Path) -> None:
    height, width = mask.shape
    if top < 0 or left < 0 or top + height > label.shape[0] or left + width > label.shape[1]:
        raise DatasetError(path, f"holds a mask of {width}x{height} at {left},{top}, which leaves the image", "masks within it")
    label[top : top + height, left : left + width][mask > 0] = number
