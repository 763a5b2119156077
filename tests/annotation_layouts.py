"""Published datasets whose labels are annotations in text, made tiny; see ``data_layouts``."""

import base64
import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from laying import CORNERS, HEIGHT, OTHER_BOX, OTHER_CORNERS, WIDTH, Truth, picture, save, scene
from PIL import Image


def _polygon(name: str, corners: Sequence[tuple[int, int]], **more: object) -> dict[str, object]:
    return {"label": name, "points": [list(corner) for corner in corners], "shape_type": "polygon", "flags": {}, **more}


def labelme(root: Path) -> Truth:
    truth: Truth = {"train": {}, "test": {}}
    buffer = io.BytesIO()
    Image.fromarray(np.full((6, 16), 255, np.uint8)).convert("1").save(buffer, "PNG")
    small = {"label": "fumo", "shape_type": "mask", "points": [[10, 14], [25, 19]]}
    small["mask"] = base64.b64encode(buffer.getvalue()).decode()
    kinds = {
        "polygon": _polygon("fumo", OTHER_CORNERS),
        "rectangle": {"label": "fumo", "shape_type": "rectangle", "points": [[25, 19], [10, 14]]},
        "mask": small,
    }
    for split, folder in (("train", "train_valid_json"), ("test", "test_json")):
        for number, second in enumerate(kinds.values()):
            stem = f"{split}_frame{number}"
            picture(root / "PNG" / split / "frames" / f"{stem}.png")
            path = root / "JSON" / folder / f"{stem}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            data = {"version": "5.0.1", "shapes": [_polygon("fogo", CORNERS), second], "imagePath": f"{stem}.png"}
            path.write_text(json.dumps({**data, "imageHeight": HEIGHT, "imageWidth": WIDTH, "imageData": None}))
            truth[split][stem] = scene(0, 1, 2)
    return truth


def rle_text(counts: Sequence[int]) -> str:
    """COCO's text for run lengths, written from its description."""
    text = ""
    for at, count in enumerate(counts):
        value = count - counts[at - 2] if at > 2 else count
        while True:
            bits, value = value & 31, value >> 5
            done = value == (-1 if bits & 16 else 0)
            text += chr(48 + bits + (0 if done else 32))
            if done:
                break
    return text


def run_counts(area: np.ndarray) -> list[int]:
    """Lengths of runs down the columns, beginning with those that are off."""
    flat = area.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat.astype(np.int8), [0]])))
    ends = [0, *edges.tolist(), *([] if edges.size and edges[-1] == flat.size else [flat.size])]
    return np.diff(ends).tolist()


def _area(box: tuple[slice, slice]) -> np.ndarray:
    area = np.zeros((HEIGHT, WIDTH), dtype=bool)
    area[box] = True
    return area


def _coco(stems: Sequence[str], categories: Sequence[str], folder: str = "") -> dict[str, object]:
    flat = [float(part) for corner in CORNERS for part in corner]
    counts = run_counts(_area(OTHER_BOX))
    annotations, images = [], []
    for number, stem in enumerate(stems):
        images.append({"id": number + 100, "file_name": f"{folder}{stem}.jpg", "height": HEIGHT, "width": WIDTH})
        forms = rle_text(counts) if number % 2 else counts
        second = {"counts": forms, "size": [HEIGHT, WIDTH]}
        for category, segmentation, crowd in ((1, [flat], 0), (2, second, 1)):
            annotations.append(
                {"image_id": number + 100, "category_id": category, "segmentation": segmentation, "iscrowd": crowd}
            )
    named = [{"id": number, "name": name, "supercategory": "none"} for number, name in enumerate(categories)]
    return {"images": images, "annotations": annotations, "categories": named}


def coco(root: Path) -> Truth:
    truth: Truth = {"train": {}, "validation": {}}
    (root / "annotations").mkdir()
    for split, ours in (("train2017", "train"), ("val2017", "validation")):
        stems = [f"{len(split)}0000000{number}" for number in range(2)]
        for stem in stems:
            picture(root / split / f"{stem}.jpg")
            truth[ours][stem] = scene(0, 1, 2)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(_coco(stems, ["none", "person", "car"])))
    return truth


def roboflow_coco(root: Path) -> Truth:
    truth: Truth = {}
    for split, ours in (("train", "train"), ("valid", "validation"), ("test", "test")):
        stems = [f"DJI_{split}{number}_JPG.rf.0f3a{number}" for number in range(2)]
        for stem in stems:
            picture(root / split / f"{stem}.jpg")
            truth.setdefault(ours, {})[stem] = scene(0, 1, 2)
        (root / split / "_annotations.coco.json").write_text(json.dumps(_coco(stems, ["fires", "fire", "smoke"])))
    (root / "README.roboflow.txt").write_text("Provided by a Roboflow user\n")
    return truth


def segments_instances(root: Path) -> Truth:
    stems = ["clip1_0001", "clip2_0001"]
    numbers = scene(0, 3, 70000, np.uint32)  # 70000 needs the third byte
    pixels = np.stack([numbers & 255, numbers >> 8 & 255, numbers >> 16 & 255, np.full_like(numbers, 255)], axis=2).astype(
        np.uint8
    )
    samples = []
    for stem in stems:
        picture(root / f"{stem}.jpg")
        save(root / f"{stem}_label_ground-truth.png", pixels)
        listed = [{"id": 3, "category_id": 1}, {"id": 70000, "category_id": 2}]
        samples.append({"name": f"{stem}.jpg", "labels": {"ground-truth": {"attributes": {"annotations": listed}}}})
    categories = [{"id": 1, "name": "fire"}, {"id": 2, "name": "smoke"}]
    release = {"name": "v1", "dataset": {"task_attributes": {"categories": categories}, "samples": samples}}
    (root / "fires-v1.json").write_text(json.dumps(release))
    return {"train": dict.fromkeys(stems, scene(255, 0, 1))}


def salt_runs(root: Path) -> Truth:
    truth = {"train": {"000e218f21": scene(0, 1, 1), "003c477d7c": scene(0, 0, 0)}}
    counts = run_counts(truth["train"]["000e218f21"] == 1)
    ends = np.cumsum(counts)
    runs = " ".join(f"{start + 1} {length}" for start, length in zip(ends[0:-1:2], counts[1::2], strict=True))
    for stem in truth["train"]:
        picture(root / "train" / "images" / f"{stem}.png")
    with (root / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "rle_mask"], ["000e218f21", runs], ["003c477d7c", ""]])
    return truth
