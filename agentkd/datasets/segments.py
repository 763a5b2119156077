"""Segments.ai: bitmaps of instances, and a release file (JSON) that says which class each instance has.

A bitmap is RGBA read as numbers of 32 bits, the lowest byte first, without the alpha; 0 is not annotated.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from agentkd.datasets.annotations import Names, Parsed, read_json
from agentkd.datasets.description import Description
from agentkd.datasets.masks import Seen, open_mask
from agentkd.datasets.patterns import composed
from agentkd.datasets.samples import Pixels, Size
from agentkd.errors import DatasetError


class SegmentsReader:
    """Reads instance bitmaps by the classes of a release file."""

    def __init__(self, description: Description, release: Path) -> None:
        self._names, self._releases, self._release = Names(description), Parsed(_parse), release
        self._description, self.seen = description, Seen()

    def label(self, annotation: Path, image: Path, size: Size) -> Pixels:
        """The label of an image: the class of each pixel's instance."""
        mask = open_mask(annotation, self._description, image, size, self.seen)
        if mask.mode not in ("RGBA", "RGB"):
            raise DatasetError(annotation, f"bitmap is {mask.mode}", "RGBA, as Segments.ai exports instances")
        pixels = np.asarray(mask).astype(np.uint32)
        numbers = pixels[:, :, 0] | pixels[:, :, 1] << 8 | pixels[:, :, 2] << 16
        release = self._release
        instances = self._releases(release).get(composed(image.name))
        if instances is None:
            raise DatasetError(image, f"is not listed in {release}", "a release that holds it")
        label = self._names.empty(size)
        for number in np.unique(numbers).tolist():
            if number:
                if number not in instances:
                    raise DatasetError(
                        annotation, f"holds instance {number}, which {release} does not list", "one of the image's annotations"
                    )
                label[numbers == number] = self._names.label(instances[number], annotation)
        return label

    def notices(self, annotation: Path, images: Sequence[Path]) -> list[str]:
        """Nothing."""
        return []


def _parse(path: Path) -> dict[str, dict[int, str]]:
    """The classes' names of each image's instances."""
    try:
        dataset = read_json(path)["dataset"]
        names = {item["id"]: str(item["name"]) for item in dataset["task_attributes"]["categories"]}
        listed: dict[str, dict[int, str]] = {}
        for sample in dataset["samples"]:
            for labelled in (sample.get("labels") or {}).values():
                found = (labelled or {}).get("attributes", {}).get("annotations", [])
                listed[composed(sample["name"])] = {int(item["id"]): names[item["category_id"]] for item in found}
        return listed
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(path, f"is not as Segments.ai has it: {error!r} is missing or wrong", "a release file") from None
