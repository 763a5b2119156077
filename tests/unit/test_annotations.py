"""Annotations in text: what they mean, and what is refused in them, by file."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from annotation_layouts import rle_text, run_counts
from hypothesis import given
from hypothesis import strategies as st
from laying import BOX, CORNERS, HEIGHT, OTHER_BOX, WIDTH, picture
from PIL import Image

from agentkd.datasets.coco import _numbers
from agentkd.datasets.opening import Opened, open_dataset
from agentkd.errors import DatasetError

CLASSES = ["back", "fire", "smoke"]
FLAT = [float(part) for corner in CORNERS for part in corner]


def opened(root: Path, layout: dict[str, str], **keys: object) -> Opened:
    described = {"name": "t", "classes": CLASSES, "background": "back", "layout": layout}
    (root / "dataset.yaml").write_text(yaml.safe_dump(described | keys))
    return open_dataset(f"folder:path={root}")


def labelme(root: Path, *shapes: Any, **keys: object) -> Opened:
    picture(root / "a.png")
    head = {"imageHeight": keys.pop("height", HEIGHT), "imageWidth": WIDTH}
    (root / "a.json").write_text(json.dumps(head | {"shapes": list(shapes)}))
    return opened(root, {"images": "{stem}.png", "masks": "{stem}.json"}, format="labelme", **keys)


def coco(root: Path, change: Callable[[dict[str, Any]], object] = lambda data: None, **keys: object) -> Opened:
    picture(root / "a.png")
    data: dict[str, Any] = {
        "images": [{"id": 7, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 1, "name": "fire"}, {"id": 2, "name": "smoke"}],
        "annotations": [{"image_id": 7, "category_id": 1, "segmentation": [list(FLAT)]}],
    }
    change(data)
    (root / "all.json").write_text(json.dumps(data))
    return opened(root, {"images": "{stem}.png", "masks": "all.json"}, format="coco", **keys)


def runs(root: Path, text: str, **keys: object) -> Opened:
    picture(root / "a.png")
    (root / "runs.csv").write_text(text)
    return opened(root, {"images": "{stem}.png", "masks": "runs.csv"}, format="run-lengths", **keys)


def shape(label: str = "fire", kind: str = "polygon", points: Any = CORNERS) -> dict[str, Any]:
    return {"label": label, "shape_type": kind, "points": points}


# Labelme.


def test_later_shapes_cover_earlier_ones_and_what_none_covers_is_the_background(tmp_path: Path) -> None:
    label = labelme(tmp_path, shape(), shape("smoke", points=[[4, 4], [7, 4], [7, 11], [4, 11]])).sample(0).label
    assert label[5, 5] == 2 and label[5, 10] == 1 and label[0, 0] == 0
    ignored = labelme(tmp_path, shape(), background="ignored").sample(0).label
    assert np.array_equal(np.unique(ignored), [1, 255]) and (ignored[BOX] == 1).all()


def test_a_circle_is_round(tmp_path: Path) -> None:
    label = labelme(tmp_path, shape(kind="circle", points=[[16, 12], [16, 20]])).sample(0).label
    assert abs(int((label == 1).sum()) - np.pi * 8**2) < 30 and label[12, 16] == 1 and label[5, 9] == 0


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        (
            [shape("fier")],
            r"a.json: something is annotated as 'fier'; expected one of .*; in dataset.yaml, values: \{fier: CLASS\}",
        ),
        ([shape("a\x1b[2Jb")], r"annotated as 'a\\x1b\[2Jb'"),
        ([shape(kind="line", points=[[1, 1], [5, 5]])], "holds a line of 2 points as 'fire'"),
        ([shape(kind="point", points=[[1, 1]])], "holds a point of 1 points"),
        ([shape(points=[[1, 1], [2, 2]])], "holds a polygon of 2 points"),
        ([shape(points=[[1], [2], [3]])], "an outline that is none"),
        ([shape(points="abc")], "an outline that is none"),
        ([shape(points=[[1, 1], [1e9, 1], [2, 2]])], "corners that are nowhere"),
        ([shape(kind="mask", points=[[1, 1], [4, 4]]) | {"mask": "!!"}], "a mask that cannot be read"),
        (["text"], "a shape that is none"),
    ],
)
def test_a_shape_without_area_or_class_is_refused(tmp_path: Path, shapes: list[Any], told: str) -> None:
    with pytest.raises(DatasetError, match=told):
        labelme(tmp_path, *shapes).sample(0)


def small_mask(height: int, width: int) -> str:
    written = io.BytesIO()
    Image.fromarray(np.full((height, width), 255, dtype=np.uint8)).save(written, "PNG")
    return base64.b64encode(written.getvalue()).decode()


def test_a_mask_lies_at_the_pixel_next_to_its_corner(tmp_path: Path) -> None:
    label = labelme(tmp_path, shape(kind="mask", points=[[3.6, 2.7], [7, 5]]) | {"mask": small_mask(3, 4)}).sample(0).label
    expected = np.zeros((HEIGHT, WIDTH), dtype=bool)
    expected[3:6, 4:8] = True
    assert np.array_equal(label == 1, expected)


@pytest.mark.parametrize("corner", [(-2, 3), (3, -2), (WIDTH - 3, 3), (3, HEIGHT - 2)])
def test_a_mask_that_leaves_the_image_on_any_side_is_refused(tmp_path: Path, corner: tuple[int, int]) -> None:
    left, top = corner
    drawn = shape(kind="mask", points=[[left, top], [left + 3, top + 2]]) | {"mask": small_mask(3, 4)}
    with pytest.raises(DatasetError, match=f"a.json: holds a mask of 4x3 at {left},{top}, which leaves the image"):
        labelme(tmp_path, drawn).sample(0)


def test_a_file_for_an_image_of_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"a.json: mask is 32x20; expected 32x24 as a.png"):
        labelme(tmp_path, shape(), height=20).sample(0)


@pytest.mark.parametrize(
    ("content", "told"), [(b"", "is not JSON"), (b"[1]", "holds a JSON list"), (b"{}", "has no list 'shapes'")]
)
def test_a_file_that_is_none_is_refused_by_name(tmp_path: Path, content: bytes, told: str) -> None:
    data = labelme(tmp_path, shape())
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DatasetError, match=rf"a\.json: {told}"):
        data.sample(0)


def test_what_annotators_call_otherwise_is_named_or_ignored(tmp_path: Path) -> None:
    assert labelme(tmp_path, shape("fogo"), values={"fogo": "fire"}).sample(0).label[5, 5] == 1
    assert labelme(tmp_path, shape("?"), ignored_values=["?"]).sample(0).label[5, 5] == 255
    assert labelme(tmp_path, shape("?"), ignored_values="others").sample(0).label[5, 5] == 255
    assert labelme(tmp_path, shape("1"), values={1: "smoke"}).sample(0).label[5, 5] == 2


# COCO.


def _append(part: str, item: Any) -> Callable[[dict[str, Any]], object]:
    return lambda data: data[part].append(item)


def _segmentation(value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda data: data["annotations"][0].update(segmentation=value)


SIZE = [HEIGHT, WIDTH]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda data: data.pop("images"), "all.json: is not as COCO has it: KeyError.'images'"),
        (
            _append("annotations", {"id": 3, "image_id": 8, "category_id": 1, "segmentation": []}),
            r"all.json: annotation 3 has image_id 8, which is not among its images \(7\); expected each image_id listed",
        ),
        (
            _append("annotations", {"image_id": 7, "category_id": 9, "segmentation": []}),
            r"all.json: an annotation has category_id 9, which is not among its categories \(1, 2\); expected each category_id "
            "listed in categories: add it there, or remove the annotation",
        ),
        (_append("annotations", {"image_id": [7], "category_id": 1, "segmentation": []}), "is not as COCO has it: TypeError"),
        (
            _append("categories", {"id": 1, "name": "smoke"}),
            "all.json: calls 1 both fire and smoke; expected a number of its own",
        ),
        (_append("images", {"id": 8, "file_name": "a.png", "height": 1, "width": 1}), "lists a.png twice"),
        (lambda data: data["images"][0].update(file_name="b.png"), r"a.png: is not listed in .*all.json"),
        (lambda data: data["images"][0].update(height=1), r"all.json: mask is 32x1; expected 32x24"),
        (lambda data: data["categories"][0].update(name="x"), "something is annotated as 'x'"),
        (_segmentation([]), "annotates a fire in a.png with a box alone"),
        (_segmentation([[1, 2, 3]]), "holds an outline of a.png that is none"),
        (_segmentation([FLAT, [1, 1, 9, 9]]), "holds an outline of 2 corners in a.png, as fire; expected three"),
        (_segmentation([[]]), "holds an outline of 0 corners in a.png, as fire"),
        (_segmentation("x"), "no outline, and no run lengths of 32x24"),
        (_segmentation({"size": [WIDTH, HEIGHT], "counts": [768]}), "no run lengths of 32x24"),
        (_segmentation({"size": SIZE, "counts": [1, 2]}), "run lengths of 3 pixels for 32x24"),
        (_segmentation({"size": SIZE, "counts": [-1, 769]}), "run lengths that are none"),
        (_segmentation({"size": SIZE, "counts": "\x01"}), "text is broken"),
        (_segmentation({"size": SIZE, "counts": "P"}), "text is broken"),
    ],
)
def test_what_is_not_as_coco_has_it_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], object], told: str) -> None:
    with pytest.raises(DatasetError, match=told):
        coco(tmp_path, change).sample(0)


@pytest.mark.parametrize("name", ["a.png", "train2017/a.png", "./a.png", "x/y/a.png"])
def test_images_are_found_by_the_end_of_their_path(tmp_path: Path, name: str) -> None:
    data = coco(tmp_path, lambda data: data["images"][0].update(file_name=name))
    assert (data.sample(0).label[BOX] == 1).all()


def test_images_of_one_name_in_two_folders_are_told_apart(tmp_path: Path) -> None:
    for folder in ("p", "q"):
        picture(tmp_path / folder / "a.png")

    def two(data: dict[str, Any]) -> None:
        data["images"] = [{"id": at, "file_name": f"{at}/a.png", "height": HEIGHT, "width": WIDTH} for at in ("p", "q")]
        data["annotations"] = [
            {"image_id": at, "category_id": number, "segmentation": [FLAT]} for number, at in ((1, "p"), (2, "q"))
        ]

    coco(tmp_path, two)
    (tmp_path / "a.png").unlink()
    data = opened(tmp_path, {"images": "*/{stem}.png", "masks": "all.json"}, format="coco")
    assert [(data.sample(at).name, int(data.sample(at).label[5, 5])) for at in (0, 1)] == [("p/a", 1), ("q/a", 2)]


def test_listed_images_that_are_not_there_are_said(tmp_path: Path) -> None:
    data = coco(tmp_path, _append("images", {"id": 8, "file_name": "gone.png", "height": 1, "width": 1}))
    data.check()
    assert any("all.json: lists 1 images that are not there: gone.png" in text for text in data.notices)


@given(st.lists(st.integers(0, 2**40), max_size=12))
def test_run_lengths_written_as_text_are_read_again(counts: list[int]) -> None:
    assert _numbers(rle_text(counts), Path("x")) == counts


def test_run_lengths_of_any_area_are_read(tmp_path: Path) -> None:
    area = np.random.default_rng(1).random((HEIGHT, WIDTH)) < 0.4
    for area_now in (area, ~area):
        counts = run_counts(area_now)
        for form in (counts, rle_text(counts)):
            data = coco(tmp_path, _segmentation({"size": SIZE, "counts": form}))
            assert np.array_equal(data.sample(0).label == 1, area_now)


def test_several_outlines_are_one_area_in_which_one_makes_no_hole(tmp_path: Path) -> None:
    inner = [6.0, 6.0, 8.0, 6.0, 8.0, 8.0, 6.0, 8.0]
    label = coco(tmp_path, _segmentation([FLAT, inner, [20.0, 16.0, 24.0, 16.0, 24.0, 20.0]])).sample(0).label
    assert (label[BOX] == 1).all() and label[17, 23] == 1


def test_run_lengths_have_holes(tmp_path: Path) -> None:
    area = np.zeros((HEIGHT, WIDTH), dtype=bool)
    area[BOX], area[6:8, 6:8] = True, False
    for form in (run_counts(area), rle_text(run_counts(area))):
        label = coco(tmp_path, _segmentation({"size": SIZE, "counts": form})).sample(0).label
        assert np.array_equal(label == 1, area)


@pytest.mark.parametrize("crowd", [0, 1])
def test_annotations_cover_each_other_in_the_order_of_the_file_crowds_too(tmp_path: Path, crowd: int) -> None:
    area = np.zeros((HEIGHT, WIDTH), dtype=bool)
    area[:, 8:20] = True
    second = {"image_id": 7, "category_id": 2, "iscrowd": crowd, "segmentation": {"size": SIZE, "counts": run_counts(area)}}
    label = coco(tmp_path, _append("annotations", second)).sample(0).label
    assert label[5, 5] == 1 and label[5, 10] == 2 and label[20, 10] == 2
    label = coco(tmp_path, lambda data: data["annotations"].insert(0, second)).sample(0).label
    assert label[5, 5] == 1 and label[5, 10] == 1 and label[20, 10] == 2


# Run lengths in CSV.


def test_runs_go_down_the_columns_from_1_on(tmp_path: Path) -> None:
    label = runs(tmp_path, f"id,rle\na,1 3 {HEIGHT + 1} 2\n", classes=["back", "fire"]).sample(0).label
    assert np.argwhere(label == 1).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [2, 0]]


def test_rows_of_one_image_add_up_by_class(tmp_path: Path) -> None:
    label = (
        runs(tmp_path, "ImageId,ClassId,EncodedPixels\na.png,1,1 2\na.png,2,5 1\n", values={1: "fire", 2: "smoke"})
        .sample(0)
        .label
    )
    assert label[:6, 0].tolist() == [1, 1, 0, 0, 2, 0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("id,rle\na,1 2 3\n", r"holds runs of a.png that are none: '1 2 3'"),
        ("id,rle\na,1 x\n", "holds runs of a.png that are none"),
        ("id,rle\na,760 10\n", "a run of 10 pixels from pixel 760 on, which leaves an image of 32x24"),
        ("id,rle\na,0 1\n", "from pixel 0 on"),
        ("id,rle\nb,1 1\n", r"is not listed in .*runs.csv"),
        ("id,rle\n", "has rows of 2 columns"),
        ("a,b,c,d\na,1,2,3\n", "has rows of 4 columns"),
        ("id,class,rle\na,9,1 1\n", "something is annotated as '9'"),
    ],
)
def test_runs_that_are_none_are_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(DatasetError, match=told):
        runs(tmp_path, text, classes=["back", "fire"]).sample(0)


def test_without_a_class_there_must_be_two(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="has no column for the class"):
        runs(tmp_path, "id,rle\na,1 1\n").sample(0)


# Their content names the dataset.


def test_an_edited_annotation_is_another_dataset(tmp_path: Path) -> None:
    assert labelme(tmp_path, shape()).digest != labelme(tmp_path, shape(points=[*CORNERS[:3], (5, 11)])).digest
    root = tmp_path / "coco"
    assert coco(root).digest != coco(root, lambda data: data["categories"][0].update(name="smoke")).digest
    assert coco(root).digest != coco(root, background="smoke").digest


def test_an_edited_release_is_another_dataset(tmp_path: Path) -> None:
    from data_layouts import DOCUMENTED, LAYOUTS

    name = "Segments.ai, instances"
    LAYOUTS[name](tmp_path)
    (tmp_path / "dataset.yaml").write_text(DOCUMENTED[name])
    before = open_dataset(f"folder:path={tmp_path}").digest
    release = tmp_path / "fires-v1.json"
    release.write_text(release.read_text().replace('"category_id": 2', '"category_id": 1'))
    after = open_dataset(f"folder:path={tmp_path}")
    assert after.digest != before and np.array_equal(np.unique(after.sample(0).label), [0, 255])
    assert (after.sample(0).label[OTHER_BOX] == 0).all()


def _instances(root: Path, change: Callable[[dict[str, Any]], object]) -> Opened:
    from data_layouts import DOCUMENTED, LAYOUTS

    name = "Segments.ai, instances"
    LAYOUTS[name](root)
    (root / "dataset.yaml").write_text(DOCUMENTED[name])
    release = json.loads((root / "fires-v1.json").read_text())
    change(release["dataset"])
    (root / "fires-v1.json").write_text(json.dumps(release))
    return open_dataset(f"folder:path={root}")


def _two_sets(name: str) -> Callable[[dict[str, Any]], object]:
    """A second set of labels, after the first one, in which the classes are the other way round."""
    other = {"attributes": {"annotations": [{"id": 3, "category_id": 2}, {"id": 70000, "category_id": 1}]}}
    return lambda dataset: [sample["labels"].update({name: other}) for sample in dataset["samples"]]


def test_of_several_sets_of_labels_a_bitmap_is_read_by_the_one_in_its_name(tmp_path: Path) -> None:
    label = _instances(tmp_path, _two_sets("predictions")).sample(0).label
    assert (label[BOX] == 0).all() and (label[OTHER_BOX] == 1).all()
    for path in tmp_path.glob("*_label_ground-truth.png"):
        path.rename(path.with_name(path.name.replace("ground-truth", "mine")))
    text = (tmp_path / "dataset.yaml").read_text().replace("ground-truth", "mine")
    (tmp_path / "dataset.yaml").write_text(text)
    with pytest.raises(DatasetError, match=r"_label_mine.png: says nothing of which set .* has ground-truth, predictions for"):
        open_dataset(f"folder:path={tmp_path}").sample(0)


def test_images_of_a_release_are_found_by_the_end_of_their_path_and_listed_once(tmp_path: Path) -> None:
    data = _instances(tmp_path, lambda dataset: dataset["samples"][0].update(name="day/clip1_0001.jpg"))
    with pytest.raises(DatasetError, match=r"clip1_0001.jpg: is not listed in"):
        data.sample(0)
    (tmp_path / "again").mkdir()
    twice = _instances(tmp_path / "again", lambda dataset: dataset["samples"].append(dataset["samples"][0]))
    with pytest.raises(DatasetError, match=r"lists clip1_0001\.jpg twice"):
        twice.sample(0)


def test_a_number_of_a_release_stands_for_one_name(tmp_path: Path) -> None:
    def again(part: str, item: dict[str, Any]) -> Callable[[dict[str, Any]], object]:
        def change(dataset: dict[str, Any]) -> None:
            annotations = [sample["labels"]["ground-truth"]["attributes"]["annotations"] for sample in dataset["samples"]]
            for places in annotations if part == "annotations" else [dataset["task_attributes"]["categories"]]:
                places.append(item)

        return change

    for part, item in (("categories", {"id": 1, "name": "x"}), ("annotations", {"id": 3, "category_id": 2})):
        (tmp_path / part).mkdir()
        with pytest.raises(DatasetError, match=r"fires-v1.json: calls '?[13]'? both .* and "):
            _instances(tmp_path / part, again(part, item)).sample(0)


def test_of_names_that_end_alike_the_longest_that_a_bitmap_has_is_its_set(tmp_path: Path) -> None:
    name = "mine_label_ground-truth"
    _instances(tmp_path, _two_sets(name))
    for path in tmp_path.glob("*_label_ground-truth.png"):
        path.rename(path.with_name(path.name.replace("ground-truth", name)))
    text = (tmp_path / "dataset.yaml").read_text().replace("ground-truth", name)
    (tmp_path / "dataset.yaml").write_text(text)
    label = open_dataset(f"folder:path={tmp_path}").sample(0).label
    assert (label[BOX] == 1).all() and (label[OTHER_BOX] == 0).all()
