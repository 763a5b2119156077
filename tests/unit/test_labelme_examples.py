"""The same photos as Labelme's outlines, as COCO and as masks of Pascal VOC, made from each other by Labelme's own programs: all
three are read alike.

Found through AGENTKD_LABELME, the folder ``examples`` of Debian's package ``labelme-examples`` (by default where the package puts
it); skipped elsewhere. ``apt-get download labelme-examples`` and ``dpkg -x`` lay it out without installing it.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from agentkd.datasets.opening import Opened, open_dataset

EXAMPLES = Path(os.environ.get("AGENTKD_LABELME", "/usr/share/doc/labelme-examples/examples"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (EXAMPLES / "instance_segmentation").is_dir(), reason="labelme-examples are not here"),
]
IGNORED = 255
OUTLINES = {"images": "{stem}.jpg", "masks": "{stem}.json"}
MASKS = {"images": "JPEGImages/{stem}.jpg", "masks": "SegmentationClassPNG/{stem}.png"}
LISTED = {"images": "JPEGImages/{stem}.jpg", "masks": "annotations.json"}

Open = Callable[..., Opened]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """Opens a folder of the examples, by links to its files, with a description of ours."""

    def open_with(folder: Path, labels: Path, **keys: object) -> Opened:
        place = tmp_path / "-".join(folder.relative_to(EXAMPLES).parts)
        place.mkdir()
        for entry in folder.iterdir():
            (place / entry.name).symlink_to(entry)
        classes = labels.read_text().strip().split("\n")[1:]  # the first is __ignore__
        described = {"name": place.name, "classes": classes, "group_separator": "", **keys}
        (place / "dataset.yaml").write_text(yaml.safe_dump(described))
        return open_dataset(f"folder:path={place}")

    return open_with


def labelme(opened: Open, part: str) -> Opened:
    keys = {"background": "_background_", "ignored_values": ["__ignore__"], "layout": OUTLINES}
    return opened(EXAMPLES / part / "data_annotated", EXAMPLES / part / "labels.txt", format="labelme", **keys)


def voc(opened: Open, part: str) -> Opened:
    keys = {"format": "index-mask", "palette": "index", "layout": MASKS}
    return opened(EXAMPLES / part / "data_dataset_voc", EXAMPLES / part / "labels.txt", **keys)


def coco(opened: Open, part: str) -> Opened:
    keys = {"format": "coco", "background": "_background_", "layout": LISTED}
    return opened(EXAMPLES / part / "data_dataset_coco", EXAMPLES / part / "labels.txt", **keys)


def by_name(data: Opened) -> dict[str, np.ndarray]:
    samples = [data.sample(index) for indices in data.splits.values() for index in indices]
    return {sample.name: sample.label for sample in samples}


@pytest.mark.parametrize(("part", "count"), [("semantic_segmentation", 3), ("instance_segmentation", 3), ("video_annotation", 5)])
def test_outlines_are_filled_as_labelme_fills_them(opened: Open, part: str, count: int) -> None:
    outlines, masks = by_name(labelme(opened, part)), by_name(voc(opened, part))
    assert outlines.keys() == masks.keys() and len(masks) == count
    assert {name: int((outlines[name] != mask).sum()) for name, mask in masks.items()} == dict.fromkeys(masks, 0)


def test_coco_says_the_same_but_of_what_its_export_leaves_out(opened: Open) -> None:
    outlines, listed = by_name(labelme(opened, "instance_segmentation")), by_name(coco(opened, "instance_segmentation"))
    assert outlines.keys() == listed.keys()
    shares = {}
    for name, label in outlines.items():
        differs = label != listed[name]
        # Outlines called __ignore__ are not labelled in Labelme and in the masks; COCO has no such annotation.
        assert np.array_equal(differs, label == IGNORED)
        shares[name] = round(100 * differs.mean(), 2)
    assert shares == {"2011_000003": 5.60, "2011_000006": 0.48, "2011_000025": 0.0}


def test_the_order_of_outlines_decides_where_they_overlap(opened: Open) -> None:
    """In this photo an outline to be ignored lies partly on a person, who was outlined before."""
    label = by_name(labelme(opened, "instance_segmentation"))["2011_000003"]
    beneath = by_name(coco(opened, "instance_segmentation"))["2011_000003"][label == IGNORED]
    assert {int(number) for number in np.unique(beneath)} == {0, 15}
