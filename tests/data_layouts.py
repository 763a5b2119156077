"""Published datasets as they lie on people's disks, made tiny: the same folders, names, modes and files, with the true labels.

Each function fills a folder but for its ``dataset.yaml``, and returns what must be read from it: labels by split and name.
"""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from annotation_layouts import coco, labelme, roboflow_coco, salt_runs, segments_instances
from laying import UAVID, Truth, colored, picture, save, scene
from PIL import Image


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

PAGE = (Path(__file__).parents[1] / "docs" / "how-to" / "published-datasets.md").read_text(encoding="utf-8")
DOCUMENTED = dict(re.findall(r"^## ([^\n]+)\n.*?^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
