"""Published datasets as they lie on people's disks, made tiny: the same folders, names, modes and files, with the true labels.

Each function fills a folder but for its ``dataset.yaml``, and returns what must be read from it: labels by split and name.
"""

import base64
import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

Label = np.ndarray
Truth = dict[str, dict[str, Label]]
HEIGHT, WIDTH = 24, 32
BOX = (slice(4, 12), slice(4, 16))
CORNERS = [(4, 4), (15, 4), (15, 11), (4, 11)]
OTHER_BOX = (slice(14, 20), slice(10, 26))
OTHER_CORNERS = [(10, 14), (25, 14), (25, 19), (10, 19)]

_random = np.random.default_rng(5)


def picture(path: Path) -> None:
    """An image that is like no other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(_random.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(path)


def scene(back: int, one: int, other: int, dtype: type = np.uint8) -> Label:
    """Two boxes on a background."""
    label = np.full((HEIGHT, WIDTH), back, dtype)
    label[BOX], label[OTHER_BOX] = one, other
    return label


def save(path: Path, pixels: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def colored(label: Label, colors: Sequence[tuple[int, int, int]]) -> np.ndarray:
    return np.array(colors, dtype=np.uint8)[label]


def cityscapes(root: Path) -> Truth:
    truth: Truth = {"train": {}, "validation": {}}
    for split, ours, cities in (("train", "train", ("aachen", "bochum")), ("val", "validation", ("lindau",))):
        for city in cities:
            for number in range(2):
                stem = f"{city}_00000{number}_000019"
                picture(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png")
                labels = root / "gtFine" / split / city
                save(labels / f"{stem}_gtFine_labelIds.png", scene(3, 7, 26))
                save(labels / f"{stem}_gtFine_instanceIds.png", scene(3, 7, 26001, np.uint16))
                save(labels / f"{stem}_gtFine_color.png", colored(scene(0, 1, 2), [(0, 0, 0), (128, 64, 128), (0, 0, 142)]))
                (labels / f"{stem}_gtFine_polygons.json").write_text("{}")
                truth[ours][f"{city}/{stem}"] = scene(255, 0, 2)
    (root / "README").write_text("license")
    return truth


def camvid(root: Path) -> Truth:
    for stem in ("0001TP_006690", "0001TP_006720", "0006R0_f00930", "0016E5_00390"):
        picture(root / "701_StillsRaw_full" / f"{stem}.png")
        save(root / "LabeledApproved_full" / f"{stem}_L.png", colored(scene(0, 1, 2), [(0, 0, 0), (128, 64, 128), (64, 0, 128)]))
    (root / "label_colors.txt").write_text("64 128 64\tAnimal\n")
    label = scene(255, 0, 1)
    return {"train": dict.fromkeys(("0001TP_006690", "0001TP_006720", "0006R0_f00930", "0016E5_00390"), label)}


def camvid_segnet(root: Path) -> Truth:
    truth: Truth = {}
    for split, ours in (("train", "train"), ("val", "validation"), ("test", "test")):
        for number in range(2):
            stem = f"{split}TP_{number}"
            picture(root / split / f"{stem}.png")
            save(root / f"{split}annot" / f"{stem}.png", scene(11, 0, 3))
            truth.setdefault(ours, {})[stem] = scene(11, 0, 3)
        (root / f"{split}.txt").write_text("/SegNet/CamVid/...\n")
    return truth


def loveda(root: Path) -> Truth:
    truth: Truth = {"train": {}, "validation": {}}
    for split, ours in (("Train", "train"), ("Val", "validation")):
        for place in ("Rural", "Urban"):
            for number in (0, 1):  # the same numbers in both
                picture(root / split / place / "images_png" / f"{number}.png")
                values = scene(0, 2, 7) if place == "Rural" else scene(1, 3, 6)
                save(root / split / place / "masks_png" / f"{number}.png", values)
                truth[ours][f"{place}/{number}"] = np.where(values == 0, 255, values - 1).astype(np.uint8)
    picture(root / "Test" / "Rural" / "images_png" / "4191.png")
    return truth


UAVID = [(0, 0, 0), (128, 0, 0), (128, 64, 128)]


def uavid(root: Path) -> Truth:
    truth: Truth = {"train": {}, "validation": {}}
    for split, ours, sequences in (("uavid_train", "train", (1, 2)), ("uavid_val", "validation", (16,))):
        for sequence in sequences:
            for frame in ("000000", "000100"):
                picture(root / split / f"seq{sequence}" / "Images" / f"{frame}.png")
                label = scene(0, 1, 2) if sequence == 1 else scene(2, 0, 1)
                save(root / split / f"seq{sequence}" / "Labels" / f"{frame}.png", colored(label, UAVID))
                truth[ours][f"seq{sequence}/{frame}"] = label
    picture(root / "uavid_test" / "seq21" / "Images" / "000000.png")
    return truth


def ade20k(root: Path) -> Truth:
    truth: Truth = {"train": {}, "validation": {}}
    for split, short, ours in (("training", "train", "train"), ("validation", "val", "validation")):
        for number in (1, 2):
            stem = f"ADE_{short}_0000000{number}"
            picture(root / "images" / split / f"{stem}.jpg")
            save(root / "annotations" / split / f"{stem}.png", scene(0, 1, 3))
            truth[ours][stem] = scene(255, 0, 2)
    (root / "objectInfo150.txt").write_text("Idx\tRatio\n")
    return truth


def voc(root: Path) -> Truth:
    lists = {"train": ["2007_000032", "2007_000039"], "val": ["2008_000033"]}
    for stem in [*lists["train"], *lists["val"], "2012_004331"]:
        picture(root / "JPEGImages" / f"{stem}.jpg")
    for stem in [*lists["train"], *lists["val"]]:
        mask = Image.fromarray(scene(0, 2, 255))
        mask.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [0, 0, 0] * 252 + [224, 224, 192])
        path = root / "SegmentationClass" / f"{stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        mask.save(path)
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    for split, stems in lists.items():
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in stems))
    label = scene(0, 2, 255)
    return {"train": dict.fromkeys(lists["train"], label), "validation": dict.fromkeys(lists["val"], label)}


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


def roboflow_masks(root: Path) -> Truth:
    truth: Truth = {}
    for split, ours in (("train", "train"), ("valid", "validation"), ("test", "test")):
        for number in range(2):
            stem = f"DJI_{split}{number}_JPG.rf.0f3a{number}"
            picture(root / split / f"{stem}.jpg")
            save(root / split / f"{stem}_mask.png", scene(0, 1, 2))
            truth.setdefault(ours, {})[stem] = scene(0, 1, 2)
        (root / split / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, fire\n2, smoke\n")
    return truth


def segments_semantic(root: Path) -> Truth:
    stems = ["clip1_0001", "clip1_0002", "clip2_0001"]
    for stem in stems:
        picture(root / f"{stem}.jpg")
        save(root / f"{stem}_label_ground-truth_semantic.png", scene(0, 1, 2))
        save(root / f"{stem}_label_ground-truth_semantic_colored.png", colored(scene(0, 1, 2), UAVID))
    return {"train": dict.fromkeys(stems, scene(255, 0, 1))}


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


def mmsegmentation(root: Path) -> Truth:
    truth: Truth = {"train": {}, "validation": {}}
    for split, ours in (("train", "train"), ("val", "validation")):
        for number in range(2):
            stem = f"{split}{number}"
            picture(root / "img_dir" / split / f"{stem}.jpg")
            save(root / "ann_dir" / split / f"{stem}.png", scene(0, 1, 255))
            truth[ours][stem] = scene(0, 1, 255)
    return truth


def salt_masks(root: Path) -> Truth:
    truth: Truth = {"train": {}}
    for stem in ("000e218f21", "003c477d7c"):
        picture(root / "train" / "images" / f"{stem}.png")
        save(root / "train" / "masks" / f"{stem}.png", scene(0, 65535, 0, np.uint16))
        truth["train"][stem] = scene(0, 1, 0)
    picture(root / "test" / "images" / "0005bb9630.png")
    (root / "depths.csv").write_text("id,z\n000e218f21,800\n")
    return truth


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


def mapillary(root: Path) -> Truth:
    truth: Truth = {"train": {}, "validation": {}}
    for split, ours in (("training", "train"), ("validation", "validation")):
        for number in range(2):
            stem = f"{split[0]}Xz-{number}_k"
            picture(root / split / "images" / f"{stem}.jpg")
            numbers = scene(2 * 256, 0 * 256 + 3, 1 * 256 + 200, np.uint16)
            save(root / split / "v1.2" / "instances" / f"{stem}.png", numbers)
            truth[ours][stem] = scene(2, 0, 1)
    (root / "config_v1.2.json").write_text("{}")
    return truth


LAYOUTS: dict[str, Callable[[Path], Truth]] = {
    "Cityscapes": cityscapes,
    "CamVid": camvid,
    "CamVid as SegNet arranged it": camvid_segnet,
    "LoveDA": loveda,
    "UAVid": uavid,
    "ADE20K": ade20k,
    "Pascal VOC": voc,
    "Labelme": labelme,
    "COCO": coco,
    "Roboflow, COCO": roboflow_coco,
    "Roboflow, masks": roboflow_masks,
    "Segments.ai, semantic": segments_semantic,
    "Segments.ai, instances": segments_instances,
    "MMSegmentation": mmsegmentation,
    "Kaggle salt, masks": salt_masks,
    "Kaggle salt, run lengths": salt_runs,
    "Mapillary Vistas": mapillary,
}
