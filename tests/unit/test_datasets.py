"""Views are pure functions, readers are strict, splits keep groups together."""

import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from agentkd.architecture import UNIT
from agentkd.datasets.opening import open_dataset
from agentkd.datasets.order import step_views
from agentkd.datasets.pictures import open_image
from agentkd.datasets.samples import split_indices
from agentkd.datasets.views import make_view, whole_view
from agentkd.errors import ConfigError, DatasetError
from agentkd.recipe import ViewSettings

GENERATED = "generated:seed=7,size=48x40,train=12,validation=4,test=4"
SETTINGS = ViewSettings(crop_height=32, crop_width=48)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images of two clips in train, two in val."""
    description = {"name": "toy", "classes": ["a", "b", "c"], "ignore_index": 255}
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(description))
    for split, stems in {"train": ["x_1", "x_2", "x_3", "x_4", "y_1", "y_2"], "val": ["z_1", "z_2"]}.items():
        for kind in ("images", "masks"):
            (tmp_path / kind / split).mkdir(parents=True)
        for number, stem in enumerate(stems):
            Image.new("RGB", (40, 32), (number * 20, 0, 0)).save(tmp_path / "images" / split / f"{stem}.png")
            Image.new("L", (40, 32), number % 3).save(tmp_path / "masks" / split / f"{stem}.png")
    return tmp_path


def test_generated_scenes_are_a_pure_function_of_seed_and_index() -> None:
    one, two, other = open_dataset(GENERATED), open_dataset(GENERATED), open_dataset(GENERATED.replace("seed=7", "seed=8"))
    assert np.array_equal(one.sample(3).image, two.sample(3).image)
    assert not np.array_equal(one.sample(3).image, other.sample(3).image)
    assert one.digest == two.digest != other.digest
    assert one.sample(0).image.shape == (40, 48, 3)


def test_generated_scenes_hold_all_five_classes() -> None:
    dataset = open_dataset("generated:seed=1,size=64x64,train=16")
    seen = np.unique(np.concatenate([dataset.sample(i).label.ravel() for i in dataset.splits["train"]]))
    assert seen.tolist() == [0, 1, 2, 3, 4]


def test_a_view_is_the_same_on_any_worker_and_in_any_order() -> None:
    dataset = open_dataset(GENERATED)
    keys = [(index, seed) for index in range(6) for seed in range(3)]
    alone = [make_view(dataset, index, seed, SETTINGS, UNIT) for index, seed in keys]
    with ThreadPoolExecutor(4) as pool:
        shuffled = list(pool.map(lambda key: make_view(open_dataset(GENERATED), *key, SETTINGS, UNIT), reversed(keys)))[::-1]
    for a, b in zip(alone, shuffled, strict=True):
        assert np.array_equal(a.image, b.image) and np.array_equal(a.label, b.label)


def test_views_differ_between_seeds_samples_and_datasets() -> None:
    dataset = open_dataset(GENERATED)
    images = [make_view(dataset, index, seed, SETTINGS, UNIT).image for index, seed in ((0, 0), (0, 1), (1, 0))]
    assert not np.array_equal(images[0], images[1]) and not np.array_equal(images[0], images[2])


def test_label_and_image_are_transformed_alike(tmp_path: Path) -> None:
    """A picture whose red channel is its label stays so through scale, crop and flip."""
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump({"name": "t", "classes": [str(i) for i in range(200)]}))
    label = (np.arange(64)[:, None] + np.arange(64)[None, :]).astype(np.uint8)
    for kind in ("images", "masks"):
        (tmp_path / kind / "train").mkdir(parents=True)
    Image.fromarray(np.stack([label] * 3, axis=2)).save(tmp_path / "images/train/a.png")
    Image.fromarray(label).save(tmp_path / "masks/train/a.png")
    dataset = open_dataset(f"folder:path={tmp_path}")
    for seed in range(10):
        view = make_view(dataset, 0, seed, ViewSettings(crop_height=40, crop_width=40, color=0), UNIT)
        red = view.image[0] * 255
        assert np.abs(red - view.label)[2:-2, 2:-2].max() < 3


def test_images_smaller_than_the_crop_are_enlarged() -> None:
    view = make_view(open_dataset(GENERATED), 0, 0, ViewSettings(crop_height=96, crop_width=128), UNIT)
    assert view.image.shape == (3, 96, 128) and view.label.shape == (96, 128)


def test_every_pass_over_a_split_sees_every_sample_once() -> None:
    steps = [step_views(tuple(range(10, 22)), 4, view_seed=1, step=step, epoch_steps=3) for step in range(6)]
    for epoch in (steps[:3], steps[3:]):
        assert sorted(index for step in epoch for index, _ in step) == list(range(10, 22))
    assert [i for s in steps[:3] for i, _ in s] != [i for s in steps[3:] for i, _ in s]


def test_a_held_out_split_takes_whole_groups(folder: Path) -> None:
    dataset = open_dataset(f"folder:path={folder},holdout=0.3")
    assert {dataset.group(i) for i in dataset.splits["train"]} == {"x"}
    assert {dataset.group(i) for i in dataset.splits["validation"]} == {"y"}
    assert len(dataset.splits["test"]) == 2
    named = open_dataset(f"folder:path={folder},holdout=x")
    assert {named.group(i) for i in named.splits["validation"]} == {"x"}


def test_a_reader_resizes_and_reads_both_forms(folder: Path) -> None:
    dataset = open_dataset(f"folder:path={folder},size=20x16")
    assert dataset.sample(0).image.shape == (16, 20, 3)
    assert whole_view(dataset, 1, UNIT).label.tolist() == np.full((16, 20), 1).tolist()
    dataset.check()


def test_the_digest_changes_with_any_byte_of_any_file(folder: Path) -> None:
    before = open_dataset(f"folder:path={folder}").digest
    Image.new("L", (40, 32), 2).save(folder / "masks/train/x_1.png")
    assert open_dataset(f"folder:path={folder}").digest != before


def test_an_image_without_mask_is_named(folder: Path) -> None:
    (folder / "masks/train/x_2.png").unlink()
    with pytest.raises(DatasetError, match=r"x_2\.png: image without mask; expected .*masks/train/x_2\.png"):
        open_dataset(f"folder:path={folder}")


def test_an_unknown_mask_value_is_named_with_file_and_count(folder: Path) -> None:
    Image.new("L", (40, 32), 7).save(folder / "masks/train/x_3.png")
    with pytest.raises(DatasetError, match=r"x_3\.png: mask holds the unknown value 7 in 1280 pixels; expected 0 to 2 or 255"):
        open_dataset(f"folder:path={folder}").check()


def test_color_masks_are_read_by_their_colors(folder: Path) -> None:
    description = {
        "name": "toy",
        "format": "color-mask",
        "classes": ["a", "b"],
        "colours": [[1, 2, 3], [200, 0, 0]],
        "ignored_colors": [[0, 0, 0]],
    }
    (folder / "dataset.yaml").write_text(yaml.safe_dump(description))
    for path in folder.glob("masks/*/*.png"):
        Image.new("RGB", (40, 32), (200, 0, 0)).save(path)
    dataset = open_dataset(f"folder:path={folder}")
    assert np.unique(dataset.sample(0).label).tolist() == [1]
    Image.new("RGB", (40, 32), (9, 9, 9)).save(folder / "masks/train/x_1.png")
    with pytest.raises(DatasetError, match=r"unknown color 9,9,9"):
        open_dataset(f"folder:path={folder}").check()


@pytest.mark.parametrize("value", [1, 255])
def test_any_value_but_zero_is_the_second_class_of_a_binary_mask(folder: Path, value: int) -> None:
    (folder / "dataset.yaml").write_text(yaml.safe_dump({"name": "toy", "format": "binary-mask", "classes": ["a", "b"]}))
    Image.new("L", (40, 32), value).save(folder / "masks/train/x_1.png")
    assert np.unique(open_dataset(f"folder:path={folder}").sample(0).label).tolist() == [1]


def test_camvid_as_segnet_arranged_it(tmp_path: Path) -> None:
    for name in ("train", "trainannot", "val", "valannot"):
        (tmp_path / name).mkdir()
    for split in ("train", "val"):
        Image.new("RGB", (40, 32)).save(tmp_path / split / "0001TP_1.png")
        Image.new("L", (40, 32), 11).save(tmp_path / f"{split}annot" / "0001TP_1.png")
    dataset = open_dataset(f"camvid:path={tmp_path}")
    assert len(dataset.classes) == 11 and dataset.ignore_index == 11
    assert dataset.sample(0).label[0, 0] == 11
    assert set(dataset.splits) == {"train", "validation"}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("nothing", "is not a dataset"),
        ("generated:sede=3", "unknown option 'sede'"),
        ("generated:size=big", "size 'big' is not a size"),
        ("folder:size=32x32", "needs path=DIR"),
        ("folder:path=/nowhere", "no such folder"),
        ("no.module:name", "no module .no.module."),
        ("own.datasets:Scene", "has no 'Scene'; it has Scenes"),
        ("own.datasets:np", "is module; expected a callable that returns a dataset"),
        ("own.datasets:Blank", "own.datasets:Blank: class 1 is called ' ', which nobody can read"),
        ("own.datasets:Alike", "own.datasets:Alike: classes 'Burnt' and 'burnt' differ in case or spaces alone"),
    ],
)
def test_a_wrong_specification_says_what_would_be_right(spec: str, expected: str) -> None:
    with pytest.raises((DatasetError, ConfigError), match=expected):
        open_dataset(spec)


def test_a_missing_and_an_empty_split_are_refused(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"has no split 'test'; expected one of: train \(6\)"):
        split_indices(open_dataset(f"folder:path={folder}"), "test")
    with pytest.raises(DatasetError, match="split 'train' is empty"):
        split_indices(open_dataset("generated:train=0"), "train")


def test_the_same_sample_of_other_data_is_seen_in_another_way() -> None:
    """A view is a function of the dataset's digest too; these two have the same samples under the same numbers."""
    whole, few = open_dataset(GENERATED), open_dataset(f"few:12:{GENERATED}")
    assert whole.digest != few.digest and np.array_equal(whole.sample(3).image, few.sample(3).image)
    assert np.array_equal(whole_view(whole, 3, UNIT).image, whole_view(few, 3, UNIT).image)
    for settings in (SETTINGS, ViewSettings()):
        views = [make_view(data, 3, 5, settings, UNIT).image for data in (whole, few, whole)]
        assert np.array_equal(views[0], views[2]) and not np.array_equal(views[0], views[1])


def png(width: int, height: int, *, data: bytes = b"", extra: bytes = b"") -> bytes:
    """A PNG of a few bytes that says how large it is."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", data or zlib.compress(b"")) + chunk(b"IEND", b"")


TEXT = zlib.compress(b"x" * 100_000_000)
IMAGES = {
    "a bomb": png(100_000, 100_000),
    "a bomb that Pillow only warns of": png(12_000, 10_000),
    "as large as numbers go": png(2**31 - 1, 2**31 - 1),
    "just too large": png(8_000, 8_001),
    "half of one": png(10, 10, data=zlib.compress(b"\0" * 10)),
    "no data": png(10, 10, data=b"no data"),
    "text that grows": png(10, 10, extra=struct.pack(">I", len(TEXT) + 4) + b"zTXta\0\0" + b"x" + TEXT + b"\0\0\0\0"),
    "a picture that is a program": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(x) print\n%%EOF\n",
    "nothing": b"",
    "text": b"no picture",
    "a header alone": b"\x89PNG\r\n\x1a\n",
    "a picture that says little": b"P6 100000 100000 255\n",
    "a bitmap that lies": b"BM"
    + struct.pack("<IHHIIiiHHIIiiII", 58, 0, 0, 54, 40, 2**30, 2**30, 1, 24, 0, 4, 1, 1, 0, 0)
    + b"\0" * 4,
    "tiles without end": b"II*\0\x08\0\0\0" + struct.pack("<H", 2**16 - 1) + b"\xff" * 40,
}


@pytest.mark.parametrize("data", IMAGES.values(), ids=IMAGES)
def test_an_image_that_is_none_or_becomes_too_much_is_named(folder: Path, data: bytes) -> None:
    for kind in ("images", "masks"):
        path = folder / kind / "train" / "x_1.png"
        kept = path.read_bytes()
        path.write_bytes(data)
        with warnings.catch_warnings(), pytest.raises(DatasetError, match=r"x_1\.png"):
            warnings.simplefilter("ignore")
            open_dataset(f"folder:path={folder}").check()
        path.write_bytes(kept)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "name: !!python/object/apply:os.system [id]",
        "a: &a [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1 if n else ''}, *a{n - 1 if n else ''}]\n" for n in range(40)),
        "name: 2001-99-99",
        "\0",
        "name: toy\nclasses: [a, b]\nlayout: {images: '../../../{split}/*'}",
        "name: toy\nclasses: [a, b]\nlayout: {images: '/etc/*'}",
        "name: toy\nclasses: [a, b]\nlayout: {images: '**/{split}/**/*'}",
        "name: toy\nclasses: [a, b]\nlayout: {images: ''}",
        "name: toy\nclasses: [a, b]\nsplits: {'../..': [x]}",
    ],
    ids=[
        "nested",
        "a program",
        "aliases",
        "a date",
        "a nought",
        "above",
        "elsewhere",
        "all there is",
        "nothing",
        "a split above",
    ],
)
def test_a_description_that_does_harm_is_refused(folder: Path, text: str) -> None:
    (folder / "dataset.yaml").write_text(text)
    with pytest.raises(DatasetError, match=str(folder)):
        open_dataset(f"folder:path={folder}")
    (folder / "dataset.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(DatasetError, match=r"dataset\.yaml"):
        open_dataset(f"folder:path={folder}")


def test_generated_scenes_are_as_many_and_as_large_as_can_be() -> None:
    assert len(open_dataset("generated:train=1000000,size=8000x8000").splits["train"]) == 1_000_000
    assert open_dataset("generated:train=0").splits["train"] == ()
    for spec in ("train=1000001", "test=-1", "size=8000x8001", "size=16x99999999999"):
        with pytest.raises(DatasetError, match="generated"):
            open_dataset(f"generated:{spec}")
    with pytest.raises(DatasetError, match="joins too many"):
        open_dataset("joined:" + "|".join(["generated:train=1000000"] * 4))
    with pytest.raises(DatasetError, match="4,000"):
        open_dataset("unlabelled:" * 400 + "generated:")


@pytest.mark.parametrize("ending", ["png", "jpg", "jp2", "tif", "webp", "bmp", "gif", "ppm", "tga"])
def test_images_of_every_form_are_read_that_starts_no_other_program(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"image.{ending}"
    Image.new("RGB", (8, 6), (200, 100, 50)).save(path)
    assert open_image(path).size == (8, 6)
