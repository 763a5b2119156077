"""dataset.yaml: unknown keys, contradictions and other encodings are refused with what to write; usual spellings work."""

import codecs
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from agentkd.config import load_experiment
from agentkd.datasets.description import ABOUT, Description, read_description
from agentkd.datasets.opening import open_dataset
from agentkd.datasets.samples import split_indices
from agentkd.errors import ConfigError, DatasetError

TOY = {"name": "toy", "classes": ["a", "b"]}
COLORED = {"format": "color-mask", "colors": [[1, 1, 1], [2, 2, 2]]}
_random = np.random.default_rng(2)


def described(root: Path, **keys: object) -> Description:
    (root / "dataset.yaml").write_text(yaml.safe_dump(TOY | keys))
    return read_description(root)


def folder(root: Path, splits: dict[str, list[str]], label: np.ndarray | None = None, **keys: object) -> str:
    """Images like no other, with two classes each."""
    for split, stems in splits.items():
        for stem in stems:
            for kind in ("images", "masks"):
                (root / kind / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(_random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(root / "images" / split / f"{stem}.png")
            mask = np.arange(256, dtype=np.uint8).reshape(16, 16) % 2 if label is None else label
            Image.fromarray(mask).save(root / "masks" / split / f"{stem}.png")
    described(root, **keys)
    return f"folder:path={root}"


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"clases": ["a"]}, "unknown key 'clases'; did you mean 'classes'"),
        ({"ignoreindex": 3}, "did you mean 'ignore_index'"),
        ({"layout": {"image": "x"}}, "unknown key 'layout.image'; did you mean 'images'"),
        ({"stray_pixels": 2}, "stray_pixels: .*less than 1; found 2"),
        ({"strap": 1}, "unknown key 'strap'"),
        ({"names": ["a", "b"]}, "unknown key 'names'; did you mean 'classes'"),
        ({"Classes": ["a", "b"]}, "unknown key 'Classes'; did you mean 'classes'"),
        ({"Ignore-Label": 0}, "did you mean 'ignore_index'"),
        ({"images": "x"}, r"unknown key 'images'; did you mean 'layout.images'"),
        ({"nc": 2}, "did you mean 'num_classes'"),
        ({"int": 1}, "unknown key 'int'"),
        ({"layout": {"strange": "x"}}, "unknown key 'layout.strange'"),
        ({"splits": {"strange": [1]}}, "splits.strange.0 is 1"),
        ({"frobnicate": 1}, "unknown key 'frobnicate'; known: alpha, .*values"),
        ({"colors": [[1, 1, 1], [2, 2, 2]], "colours": [[1, 1, 1], [2, 2, 2]]}, "colors and colours are both there"),
        ({"colors": [[1, 1, 1], [1, 1, 1]]}, "classes 'a' and 'b' have the same color"),
        ({"colors": [[1, 1, 1], [1, 1, 256]]}, r"color \[1, 1, 256\] is none"),
        ({"colors": [[1, 1, 1]]}, "2 classes but 1 colors"),
        (
            {"colors": [[1, 1, 1], [2, 2, 2]], "ignored_colors": [[2, 2, 2]]},
            r"color \[2, 2, 2\] is ignored, and that of class 'b'",
        ),
        ({"format": "color-mask"}, "a color-mask needs colors"),
        ({"format": "index"}, "format: .*'index-mask'"),
        ({"classes": ["a", "a"]}, "two classes are called 'a'"),
        ({"classes": ["a"]}, "classes: .*at least 2"),
        ({"classes": [False, "b"]}, "classes.0 is False, which YAML takes for a bool; write it in quotes"),
        ({"classes": ["a", 2]}, "classes.1 is 2, which YAML takes for a int; write it in quotes"),
        ({"classes": [str(n) for n in range(256)]}, "256 classes; expected at most 255, as many as a byte holds"),
        ({"splits": {"train": [1, 2]}}, "splits.*1.* write it in quotes"),
        ({"ignore_index": 1}, r"ignore_index 1 is the class 'b'; expected a number that is no class, 2 to 255"),
        ({"ignore_index": 0}, r"take 'a' out of classes, .*ignored_values: \[0\] and first_value: 1"),
        ({"ignore_index": 256}, "ignore_index: .*255"),
        ({"format": "binary-mask", "classes": ["a", "b", "c"]}, "a binary-mask has two classes, not 3"),
        ({"values": {0: "a", 1: "x"}}, "values: 'x' is no class; expected one of a, b"),
        ({"values": {0: "a"}}, "values has none for class 'b'"),
        ({"values": {0: "a", 1: "b"}, "ignored_values": [1]}, "1 is both in values and in ignored_values"),
        ({"ignored_values": [1]}, "ignored value 1 is that of class 'b'"),
        ({"values": {0: "a", 1: "b"}, "first_value": 1}, "first_value and values say the same thing"),
        (
            {"format": "binary-mask", "values": {0: "b", 255: "a"}},
            "values does not apply to format: binary-mask; it belongs to index",
        ),
        ({"format": "binary-mask", "first_value": 1}, "first_value does not apply to format: binary-mask"),
        ({"format": "binary-mask", "label_divisor": 2}, "label_divisor does not apply to format: binary-mask"),
        ({"format": "binary-mask", "threshold": 127}, "threshold does not apply to format: binary-mask; .* threshold-mask"),
        ({"format": "binary-mask", "ignored_values": "others"}, "ignored_values: others does not apply to format: binary-mask"),
        ({"format": "threshold-mask", "ignored_values": "others"}, "ignored_values: others does not apply"),
        ({"format": "threshold-mask", "values": {0: "b", 255: "a"}}, "values does not apply to format: threshold-mask"),
        ({"format": "threshold-mask", "stray_pixels": 0.5}, "stray_pixels does not apply to format: threshold-mask"),
        ({"threshold": 9}, "threshold does not apply to format: index-mask"),
        ({"background": "a"}, "background does not apply to format: index-mask; it belongs to labelme"),
        ({"ignored_colors": [[9, 9, 9]]}, "ignored_colors does not apply to format: index-mask; it belongs to color-mask"),
        ({"ignored_values": ["7"]}, "'7' in values or ignored_values is no number"),
        ({**COLORED, "values": {0: "b", 1: "a"}}, "values does not apply to format: color-mask"),
        ({**COLORED, "ignored_values": [0]}, "ignored_values of a color-mask can only be others; expected ignored_colors"),
        ({"format": "coco", "background": "a", "alpha": "omit"}, "alpha does not apply to format: coco"),
        ({"splits": ["train", "train", "val"]}, "splits names 'train' twice; expected each split once"),
        ({"scale": [5, 5]}, r"scale is \[5.0, 5.0\]; expected \[low, high\]"),
        ({"format": "labelme"}, "labelme needs background"),
        ({"format": "coco", "background": "x"}, "background 'x' is no class"),
        ({"format": "segments", "background": "a"}, "release is the release file"),
        ({"num_classes": 3}, "num_classes is 3, but 2 classes are listed"),
        ({"id_channel": "grey"}, "id_channel: .*'red'"),
    ],
)
def test_what_contradicts_itself_or_is_unknown_is_refused(tmp_path: Path, keys: dict[str, object], told: str) -> None:
    with pytest.raises(DatasetError, match=rf"dataset.yaml: .*{told}"):
        described(tmp_path, **keys)


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"unknown key 'colr'.*unknown key 'x'"):
        described(tmp_path, colr=1, x=2)


def test_both_spellings_of_color_and_all_that_tells_people_something_are_taken(tmp_path: Path) -> None:
    colors = [[1, 1, 1], [2, 2, 2]]
    for spelling in ("colors", "colours"):
        keys = {"format": "color-mask", spelling: colors, "ignored_" + spelling: [[3, 3, 3]]}
        assert described(tmp_path, **keys).ignored_colors == ((3, 3, 3),)
    assert described(tmp_path, palette="colour").palette == "color"
    described(tmp_path, **{key: {"any": ["thing"]} for key in ABOUT - {"num_classes"}}, num_classes=2)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "holds nothing"),
        (b"- a\n", "holds list"),
        (b"name: [", "dataset.yaml: "),
        (b"name: a\nname: b\n", "the key 'name' is there twice"),
        (codecs.BOM_UTF16_LE + "name: a".encode("utf-16-le"), "is text in UTF-16; expected UTF-8"),
        (codecs.BOM_UTF16_BE + "name: a".encode("utf-16-be"), "is text in UTF-16"),
        ("name: a".encode("utf-16-le"), "in UTF-16 without a mark"),
        (codecs.BOM_UTF32_LE + "name: a".encode("utf-32-le"), "is text in UTF-32"),
        ("name: x\nclasses: [Büro, b]".encode("latin-1"), "is not UTF-8: byte 0xfc in line 2 .*Latin-1"),
        (b"name: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        (b"? {a: b}\n: 1\n", "cannot be a key|unhashable"),
    ],
)
def test_a_file_that_is_no_description_is_refused_by_name(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "dataset.yaml").write_bytes(content)
    with pytest.raises(DatasetError, match=told):
        read_description(tmp_path)


def test_a_mark_of_utf_8_and_other_letters_are_taken(tmp_path: Path) -> None:
    (tmp_path / "dataset.yaml").write_bytes(codecs.BOM_UTF8 + "name: t\r\nclasses: [Büro, 火]\r\n".encode())
    assert read_description(tmp_path).classes == ("Büro", "火")


def test_a_description_of_another_name_is_pointed_at(tmp_path: Path) -> None:
    (tmp_path / "dataset.yml").write_text("name: a")
    with pytest.raises(DatasetError, match=r"has no dataset.yaml, but dataset.yml: rename it"):
        read_description(tmp_path)


# Splits as people call them.


@pytest.mark.parametrize(
    ("train", "validation"), [("train", "val"), ("Train", "Valid"), ("training", "validation"), ("TRAIN", "dev")]
)
def test_splits_are_found_by_the_names_that_people_give_them(tmp_path: Path, train: str, validation: str) -> None:
    data = open_dataset(folder(tmp_path, {train: ["a", "b"], validation: ["c"], "testing": ["d"]}))
    assert {split: len(indices) for split, indices in data.splits.items()} == {"train": 2, "validation": 1, "test": 1}
    for called in (train, "train", "training"):
        assert split_indices(data, called) == data.splits["train"]
    assert split_indices(data, validation) == data.splits["validation"]


def test_a_split_held_out_leaves_the_one_that_is_there_for_testing(tmp_path: Path) -> None:
    spec = folder(tmp_path, {"train": ["a_1", "b_1", "c_1", "d_1"], "valid": ["e_1"]})
    assert {split: len(found) for split, found in open_dataset(f"{spec},holdout=0.25").splits.items()} == {
        "train": 3,
        "validation": 1,
        "test": 1,
    }
    with pytest.raises(DatasetError, match=r"holdout=0.25 behind their path"):
        split_indices(open_dataset(folder(tmp_path / "flat", {"train": ["a"]})), "validation")
    spec = folder(tmp_path / "all", {"train": ["a_1", "b_1"], "validation": ["c_1"], "test": ["d_1"]})
    with pytest.raises(DatasetError, match="has a validation split and a test split already; expected no holdout"):
        open_dataset(f"{spec},holdout=0.5")


def test_a_path_may_have_commas_and_signs(tmp_path: Path) -> None:
    for name in ("a,b", "c,d=e", "size=3x3", "f, g"):
        spec = folder(tmp_path / name, {"train": ["x"]})
        assert open_dataset(f"{spec},size=32x32").sample(0).image.shape == (32, 32, 3)
    with pytest.raises(DatasetError, match="unknown option 'sise'; expected one of holdout, path, size"):
        open_dataset(f"folder:path={tmp_path / 'a,b'},sise=32x32")
    with pytest.raises(DatasetError, match="size is given twice"):
        open_dataset(f"folder:path={tmp_path / 'a,b'},size=32x32,size=64x64")


# What is said.


def test_the_same_bytes_in_two_splits_are_said_and_no_run_begins(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = folder(tmp_path, {"train": ["a", "b"], "val": ["c", "d"]})
    shutil.copy(tmp_path / "images/train/a.png", tmp_path / "images/val/c.png")
    data = open_dataset(spec)
    assert "1 image is in two splits byte for byte, such as " in caplog.text
    data.check()
    for derived in (data, open_dataset(f"few:1:{spec}"), open_dataset(f"joined:{spec}|{spec}")):
        with pytest.raises(DatasetError, match=r"images/train/a.png in 'train' and .*images/val/c.png in 'validation'"):
            derived.check_splits()
    experiment = tmp_path / "e.yaml"
    experiment.write_text(yaml.safe_dump({"name": "e", "data": {"dataset": spec}, "families": ["unet"]}))
    with pytest.raises(ConfigError, match=r"data.dataset: .* in two splits byte for byte"):
        load_experiment(experiment)
    described(tmp_path, duplicates="allowed")
    open_dataset(spec).check_splits()
    load_experiment(experiment)


def test_the_same_name_and_the_same_group_in_two_splits_are_counted(tmp_path: Path) -> None:
    same = open_dataset(folder(tmp_path / "s", {"train": ["1", "2", "3"], "val": ["2", "3"]})).notices
    assert len(same) == 1 and "2 names are in more than one split, 2, 3 in train and validation" in same[0]
    groups = folder(tmp_path / "g", {"train": ["clip_1", "other_1"], "val": ["clip_2"]})
    (said,) = open_dataset(groups).notices
    assert "1 group is in more than one split: clip in train and validation" in said and "group_separator: ''" in said
    described(tmp_path / "g", group_separator="")
    assert open_dataset(groups).notices == ()
    assert open_dataset(groups).group(0) == "clip_1"


def test_what_is_left_over_is_said_when_data_are_opened_and_checked_once_each(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = folder(tmp_path, {"train": ["a"], "val": ["b"]})
    shutil.copy(tmp_path / "masks/train/a.png", tmp_path / "masks/train/nobody.png")
    with caplog.at_level(logging.WARNING):
        data = open_dataset(spec)
        data.check()
    assert caplog.text.count("1 files are left over: masks/train/nobody.png") == 1
    assert open_dataset(f"unlabelled:{spec}").notices == open_dataset(spec).notices


def test_a_mask_of_0_and_255_does_not_become_one_class_in_silence(tmp_path: Path) -> None:
    mask = (np.arange(256).reshape(16, 16) % 2 * 255).astype(np.uint8)
    spec = folder(tmp_path, {"train": ["a", "b"], "val": ["c"]}, mask)
    told = r"in split 'train' only one class has pixels, 'a'; 50.0 % of the pixels are 255, .*.* format: binary-mask"
    with pytest.raises(DatasetError, match=told):
        open_dataset(spec).check()
    described(tmp_path, format="binary-mask")
    open_dataset(spec).check()
    described(tmp_path, values={0: "a", 255: "b"})
    open_dataset(spec).check()


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_in_which_nothing_is_labelled_is_refused(tmp_path: Path, split: str) -> None:
    spec = folder(tmp_path, {"train": ["a"], "val": ["b"]})
    for path in (tmp_path / "masks" / split).iterdir():
        Image.fromarray(np.full((16, 16), 255, np.uint8)).save(path)
    with pytest.raises(DatasetError, match=r"every pixel of split .* has the label 255, which is 'not labelled'"):
        open_dataset(spec).check()


def test_classes_that_no_pixel_has_and_masks_of_one_value_are_said(tmp_path: Path) -> None:
    spec = folder(tmp_path, {"train": ["a", "b"], "val": ["c"], "test": ["d"]}, classes=["a", "b", "c", "d"])
    label = np.full((16, 16), 2, np.uint8)
    Image.fromarray(label).save(tmp_path / "masks/test/d.png")
    Image.fromarray(0 * label).save(tmp_path / "masks/val/c.png")
    data = open_dataset(spec)
    data.check()
    assert data.notices == (
        "toy: no pixel anywhere is 'd'",
        "toy: no pixel of split 'test' is 'a' or 'b'",
        "toy: every labelled pixel of split 'test' is 'c': whoever always answers so is right",
        "toy: no pixel of split 'train' is 'c'",
        "toy: no pixel of split 'validation' is 'b' or 'c'",
        "toy: every labelled pixel of split 'validation' is 'a': whoever always answers so is right",
        "toy: 1 of 1 masks of split 'test' hold one value only: d",
        "toy: 1 of 1 masks of split 'validation' hold one value only: c",
    )


def test_sizes_are_counted_by_split_without_reading_pixels(tmp_path: Path) -> None:
    spec = folder(tmp_path, {"train": ["a", "b"], "val": ["c"]})
    Image.new("RGB", (20, 16)).save(tmp_path / "images/train/b.png")
    data = open_dataset(spec)
    assert data.sizes == {"train": {(16, 16): 1, (16, 20): 1}, "validation": {(16, 16): 1}}
    assert open_dataset(f"{spec},size=64x32").sizes == {"train": {(32, 64): 2}, "validation": {(32, 64): 1}}
    assert open_dataset(f"few:1:{spec}").sizes["train"] == {(16, 16): 1}
    assert open_dataset(f"joined:{spec}|{spec}").sizes["train"] == {(16, 16): 2, (16, 20): 2}
    assert open_dataset("generated:size=32x16,train=2").sizes["train"] == {(16, 32): 2}
    assert open_dataset("own.datasets:Scenes").sizes == {}


# Digests: those of before, which records name, and others where other labels are read.


def fixed(root: Path, **keys: object) -> str:
    """The same bytes on every machine: PGM and PPM."""
    for split, numbers in {"train": (1, 2), "val": (3,)}.items():
        for number in numbers:
            for kind, magic, channels in (("images", b"P6", 3), ("masks", b"P5", 1)):
                (root / kind / split).mkdir(parents=True, exist_ok=True)
                content = bytes((at * number) % 2 for at in range(16 * 16 * channels))
                (root / kind / split / f"v_{number}.{'ppm' if channels == 3 else 'pgm'}").write_bytes(
                    magic + b" 16 16 255\n" + content
                )
    described(root, layout={"images": "images/{split}/{stem}.*", "masks": "masks/{split}/{stem}.*"}, **keys)
    return f"folder:path={root}"


def test_digests_are_those_of_before(tmp_path: Path) -> None:
    assert open_dataset(fixed(tmp_path)).digest == "5837171e0e8e9e8375789fbc2b29c3b9c4b6aea45c115b85e5459d1474308ae1"
    assert (
        open_dataset(fixed(tmp_path, format="binary-mask")).digest
        == "002016d4b3b2200bd36172e2889a6f5610ee91c46334b1d1b5bea3050babe592"
    )
    assert (
        open_dataset(fixed(tmp_path) + ",size=32x32").digest == "0c35f2213b0848fd70b390c446b7acbff3f954c7b7370c75a2ebab76026c1cc5"
    )
    assert (
        open_dataset(fixed(tmp_path, splits={"train": ["v_1"], "val": ["v_3"]})).digest
        == "c565b43e4292a2ddc52294dc284696029ec6601c69ca000b4fc43268dfb68358"
    )


OTHERWISE = [
    {"first_value": 1},
    {"values": {0: "b", 1: "a"}},
    {"ignored_values": [7]},
    {"label_divisor": 2},
    {"id_channel": "red"},
    {"palette": "color"},
    {"alpha": "omit"},
    {"scale": [0, 1]},
    {"format": "color-mask", "colors": [[0, 0, 0], [1, 1, 1]]},
    {"format": "color-mask", "colors": [[1, 1, 1], [0, 0, 0]]},
    {"format": "threshold-mask"},
    {"format": "threshold-mask", "threshold": 1},
    {"orientation": "stored"},
]


def test_whatever_is_read_otherwise_has_a_digest_of_its_own(tmp_path: Path) -> None:
    digests = [open_dataset(fixed(tmp_path, **keys)).digest for keys in [{}, *OTHERWISE]]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize(
    ("classes", "told"),
    [
        (["a", ""], "class 1 is called '', which nobody can read"),
        (["  ", "b"], "class 0 is called '  ', which nobody can read"),
        (["a", "\u200b"], "class 1 is called .*, which nobody can read"),
        (["fire", "smoke", "Fire"], "classes 'fire' and 'Fire' differ in case or spaces alone"),
        (["fire", "fire "], "classes 'fire' and 'fire ' differ in case or spaces alone"),
        (["burnt  area", "burnt\u00a0area"], "differ in case or spaces alone"),
        (["Stra\u00dfe", "STRASSE"], "differ in case or spaces alone"),
        (["caf\u00e9", "cafe\u0301"], "differ in case or spaces alone"),
        (["fire", "fire"], "two classes are called 'fire'"),
    ],
)
def test_classes_have_names_that_people_can_read_and_tell_apart(tmp_path: Path, classes: list[str], told: str) -> None:
    with pytest.raises(DatasetError, match=told):
        described(tmp_path, classes=classes)


def test_a_dataset_has_a_name_that_people_can_read(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="name is ' ', which nobody can read"):
        described(tmp_path, name=" ")


ALIASES = [
    (["train", "val", "valid"], "'val' and 'valid', which are all names for 'validation'", "train, val"),
    (["train", "validation", "val"], "'validation' and 'val', which", "train, validation"),
    (["train", "dev", "Valid", "val", "test"], "'val' and 'Valid' and 'dev', which", "train, val, test"),
    (["Train", "training", "val"], "'Train' and 'training', which are all names for 'train'", "Train, val"),
    (["train", "Train", "val"], "'train' and 'Train', which", "train, val"),
    (["train", "val", "test", "testing"], "'test' and 'testing', which are all names for 'test'", "train, val, test"),
]


@pytest.mark.parametrize(("splits", "both", "left"), ALIASES, ids=lambda part: part if isinstance(part, str) else "")
@pytest.mark.parametrize("options", ["", ",holdout=0.5"])
def test_two_names_of_one_split_are_refused_with_the_line_to_write(
    tmp_path: Path, splits: list[str], both: str, left: str, options: str
) -> None:
    spec = folder(tmp_path, {split: [f"{split}1_x", f"{split}2_x"] for split in splits})
    with pytest.raises(DatasetError, match=f"has the splits {both}.*write splits: ") as refused:
        open_dataset(spec + options)
    line = str(refused.value).partition("write splits: [")[2].partition("]")[0].split(", ")
    assert sorted(line) == sorted(left.split(", "))
    described(tmp_path, splits=line)
    data = open_dataset(spec)
    assert len(data.splits) == len(line)
    assert sum("files are left over" in text for text in data.notices) == 1


def test_listed_splits_may_have_two_such_names_if_one_is_ours(tmp_path: Path) -> None:
    spec = folder(tmp_path, {split: [f"{split}1_x"] for split in ("train", "validation", "dev")})
    described(tmp_path, splits=["train", "validation", "dev"])
    assert sorted(open_dataset(spec).splits) == ["dev", "train", "validation"]
    folder(tmp_path, {"valid": ["valid1_x"]})
    for listed in (["train", "dev", "valid"], {name: [f"{name}1_x"] for name in ("train", "dev", "valid")}):
        described(tmp_path, splits=listed)
        with pytest.raises(DatasetError, match=r"'valid' and 'dev', which .*; to use 'valid', list train, valid alone in splits"):
            open_dataset(spec)


def test_an_ignored_file_that_is_nowhere_is_said(tmp_path: Path) -> None:
    spec = folder(tmp_path, {"train": ["a_x"], "val": ["b_x"]})
    (tmp_path / "images" / "train" / "notes.txt").write_text("x")
    patterns = ["images/train/notes.txt", "**/*.txt", "*.md", "images/*/c_x.png", "README"]
    described(tmp_path, ignored_files=patterns)
    said = [text for text in open_dataset(spec).notices if "matches no file" in text]
    assert [text.split("'")[1] for text in said] == ["*.md", "images/*/c_x.png", "README"]
    assert all(text.startswith(f"{tmp_path / 'dataset.yaml'}: ignored_files: ") for text in said)
    described(tmp_path, ignored_files=patterns[:2])
    assert not any("matches no file" in text for text in open_dataset(spec).notices)
