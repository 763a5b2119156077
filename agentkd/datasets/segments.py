"""Segments.ai: bitmaps of instances, and a release file (JSON) that says which class each instance has.

A bitmap is RGBA read as numbers of 32 bits, the lowest byte first, without the alpha; 0 is not annotated.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from agentkd.datasets.annotations import Names, Parsed, numbered, read_json
from agentkd.datasets.coco import find_image
from agentkd.datasets.description import Description
from agentkd.datasets.masks import Seen, open_mask
from agentkd.datasets.patterns import composed
from agentkd.datasets.samples import Pixels, Size
from agentkd.errors import DatasetError
from agentkd.visible import visible

Sets = dict[str, dict[int, str]]


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
        instances = _chosen(find_image(self._releases(release), image, release), annotation, release)
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


def _chosen(sets: Sets, annotation: Path, release: Path) -> dict[int, str]:
    """The instances of the set of labels that a bitmap is of: ``STEM_label_SET.png``; of the only one, whatever it is called.

    Raises:
        DatasetError: there are several, and the file's name says none of them.
    """
    if len(sets) == 1:
        return next(iter(sets.values()))
    named = [name for name in sets if composed(annotation.stem).endswith(f"_label_{name}")]
    if not named:
        text = f"says nothing of which set of labels it is, and {release} has {', '.join(sets) or 'none'} for its image"
        raise DatasetError(annotation, text, "a name that ends in _label_ and the set, as Segments.ai exports it")
    return sets[max(named, key=len)]


def _parse(path: Path) -> dict[str, Sets]:
    """The classes' names of each image's instances, by sets of labels."""
    try:
        dataset = read_json(path)["dataset"]
        names = numbered(((item["id"], str(item["name"])) for item in dataset["task_attributes"]["categories"]), path)
        listed: dict[str, Sets] = {}
        for sample in dataset["samples"]:
            name, sets = composed(str(sample["name"])), Sets()
            for chosen, labelled in (sample.get("labels") or {}).items():
                found = (labelled or {}).get("attributes", {}).get("annotations", [])
                if labelled:
                    instances = ((int(item["id"]), names[item["category_id"]]) for item in found)
                    sets[composed(str(chosen))] = numbered(instances, path)
            if listed.setdefault(name, sets) is not sets:
                raise DatasetError(path, f"lists {visible(name)} twice", "each image once")
        return listed
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(path, f"is not as Segments.ai has it: {error!r} is missing or wrong", "a release file") from None
