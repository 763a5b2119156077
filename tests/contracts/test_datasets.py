"""Datasets of every kind keep to the published contract, and the contract notices who does not."""

from pathlib import Path

import pytest
import yaml
from data_layouts import DOCUMENTED, LAYOUTS
from PIL import Image

from agentkd.testing import check_dataset

GENERATED = "generated:seed=7,size=48x40,train=6,validation=3,test=2"
KINDS = [
    GENERATED,
    GENERATED + ",light=infrared",
    f"unlabelled:{GENERATED}",
    f"few:3:{GENERATED}",
    f"only:Fire+Smoke:{GENERATED}",
    f"joined:{GENERATED}|{GENERATED.replace('seed=7', 'seed=8')}",
    "own.datasets:Scenes",
]
BROKEN = {
    "Missing": "must be opened: ConfigError: .*has no 'Missing'",
    "Twice": "must be in one split, once; 3 is in train, and in validation",
    "Untested": "must have a split 'validation' with samples",
    "TwinClasses": "two classes are called 'a'",
    "Colorless": "a color for each of 5 classes; there are 2",
    "IgnoresAClass": "the ignore index must be a label that is no class, 5 to 255; it is 2",
    "WideLabels": r"the label must be uint8 \[H,W\] .* it is int64",
    "SmallLabels": r"of the image's size \(32, 32\); it is uint8 \(16, 16\)",
    "UnknownLabels": r"labels must be 0 to 4 or 255; there are \[77\]",
    "Noisy": "a second time sample .* is another",
    "Drifting": "when it is opened again sample .* is another",
    "Hashed": "in another process it must have the same digest",
    "Timed": "opened again it must have the same digest",
    "Named": "must be a SHA-256 in hexadecimal; it is 'version-1'",
    "Unsound": "its own check must pass: ValueError: sample 3 is damaged",
}


@pytest.mark.parametrize("spec", KINDS)
def test_a_dataset_keeps_to_the_contract(spec: str) -> None:
    check_dataset(spec)


@pytest.mark.parametrize("mask_format", ["index-mask", "binary-mask"])
def test_a_folder_keeps_to_it(tmp_path: Path, mask_format: str) -> None:
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump({"name": "toy", "format": mask_format, "classes": ["a", "b"]}))
    for split in ("train", "val"):
        for kind, mode in (("images", "RGB"), ("masks", "L")):
            (tmp_path / kind / split).mkdir(parents=True)
            for number in range(3):
                Image.new(mode, (40, 32), number % 2).save(tmp_path / kind / split / f"{split}_{number}.png")
    check_dataset(f"folder:path={tmp_path}")


@pytest.mark.parametrize("name", ["Cityscapes", "COCO", "UAVid"])
def test_a_published_dataset_keeps_to_it(tmp_path: Path, name: str) -> None:
    LAYOUTS[name](tmp_path)
    (tmp_path / "dataset.yaml").write_text(DOCUMENTED[name], encoding="utf-8")
    check_dataset(f"folder:path={tmp_path}")


def test_camvid_keeps_to_it(tmp_path: Path) -> None:
    for name, mode in (("train", "RGB"), ("trainannot", "L"), ("val", "RGB"), ("valannot", "L")):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.new(mode, (40, 32), number).save(tmp_path / name / f"000{number}TP_{name[:3]}.png")
    check_dataset(f"camvid:path={tmp_path}")


@pytest.mark.parametrize(("name", "text"), BROKEN.items())
def test_a_dataset_that_breaks_it_is_told_where(name: str, text: str) -> None:
    with pytest.raises(AssertionError, match=text):
        check_dataset(f"own.datasets:{name}")
