"""``agentkd data check``: one fault does not hide the next, nothing is written among the data, and runs refuse the same."""

import io
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agentkd.checks.dataset import look_at_dataset
from agentkd.checks.findings import Findings
from agentkd.cli import app
from agentkd.cli.ending import run_to_the_end
from agentkd.config import open_data
from agentkd.datasets.contact_sheet import CHECKER, GAP, GRAYS, HEIGHT, LINE, WIDTH, contact_sheet
from agentkd.datasets.likeness import Looks
from agentkd.datasets.manner import STRICT
from agentkd.datasets.opening import open_dataset, open_in
from agentkd.datasets.samples import as_rgb, channels_of
from agentkd.errors import ConfigError, DatasetError

SIZE = (48, 64)
YAML = "name: fires\nclasses: [Burnt, Fire]\n"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("AGENTKD_DATA", raising=False)


def scenery(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((SIZE[1], SIZE[0]), Image.Resampling.BICUBIC)


def halves(size: tuple[int, int] = SIZE) -> np.ndarray:
    label = np.zeros(size, dtype=np.uint8)
    label[: size[0] // 2] = 1
    return label


class Laid:
    """A dataset in the folder layout, to be spoiled."""

    def __init__(self, root: Path, yaml: str = YAML, **counts: int) -> None:
        self.root, seed = root, 0
        root.mkdir()
        (root / "dataset.yaml").write_text(yaml)
        for split, count in (counts or {"train": 4, "val": 2}).items():
            for number in range(count):
                seed += 1
                self.image(split, f"{split}{number}", scenery(seed))
                self.mask(split, f"{split}{number}", halves())

    def image(self, split: str, stem: str, image: Image.Image | bytes) -> Path:
        path = self.root / "images" / split / f"{stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image) if isinstance(image, bytes) else image.save(path)
        return path

    def mask(self, split: str, stem: str, label: np.ndarray) -> Path:
        path = self.root / "masks" / split / f"{stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(label).save(path)
        return path

    def look(self, **options: Any) -> Findings:
        return look_at_dataset(str(self.root), **options).findings


@pytest.fixture
def laid(tmp_path: Path) -> Laid:
    return Laid(tmp_path / "data")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = run_to_the_end(app, ["data", "check", *arguments])
    said = capsys.readouterr()
    return status, said.out, said.err


def state(place: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in place.rglob("*")}


def test_a_sound_dataset_is_counted_class_by_class_and_split_by_split(laid: Laid) -> None:
    laid.mask("train", "train0", np.full(SIZE, 255, np.uint8))
    found = laid.look()
    assert found.is_sound and found.is_complete and (found.num_images, found.num_read) == (6, 6)
    assert [(split.name, split.num_images, split.num_read) for split in found.splits] == [("train", 4, 4), ("validation", 2, 2)]
    shares = {(one.split, one.name): (one.share, one.num_images) for one in found.classes}
    assert shares[("train", "Fire")] == (0.5, 3) and shares[("validation", "Burnt")] == (0.5, 2)
    assert found.not_labelled == {"train": 0.25, "validation": 0.0}
    assert found.format == "index-mask" and found.spec == f"folder:path={laid.root}"


def test_every_fault_is_named_and_the_rest_is_done(laid: Laid) -> None:
    laid.image("train", "train1", b"<html>404</html>")
    laid.image("train", "train2", b"")
    laid.mask("train", "train3", halves((40, 64)))
    laid.image("train", "alone", scenery(50))
    (laid.root / "images" / "train" / "gone.png").symlink_to("/nowhere/at/all")
    (laid.root / "images" / "train" / "again").symlink_to(laid.root / "images")
    strange = halves()
    strange[0, 0] = 77
    laid.mask("val", "val1", strange)
    found = laid.look()
    told = "\n".join(found.problems)
    for text in (
        "train1.png: is a page of HTML",
        "train2.png: is empty",
        "train3.png: mask is 64x40; expected 64x48",
        "alone.png: image without mask",
        "gone.png: is no file, but a link to nothing",
        "again/: is a link to a folder that it lies in",
        "val1.png: mask holds the unknown value 77 in 1 pixels",
    ):
        assert text in told
    assert len(found.problems) == 7 and found.num_read == 2 and not found.is_sound


def test_two_files_where_one_is_meant_are_told_and_the_rest_is_done(laid: Laid) -> None:
    (laid.root / "dataset.yaml").write_text(YAML + 'layout: {masks: "masks/{split}/{stem}.*"}\n')
    scenery(60).save(laid.root / "images" / "train" / "train0.bmp")
    Image.fromarray(halves()).save(laid.root / "masks" / "train" / "train1.gif")
    found = laid.look()
    assert [text.partition("are both ")[2].partition(";")[0] for text in found.problems] == [
        "images of one name",
        "masks of images/train/train1.png",
    ]
    assert found.num_read == 4


def test_a_list_that_names_what_is_not_there_does_not_hide_the_rest(laid: Laid) -> None:
    for folder in ("images", "masks"):
        for path in (laid.root / folder).rglob("*.png"):
            path.rename(laid.root / folder / path.name)
    layout = 'layout: {images: "images/{stem}.png", masks: "masks/{stem}.png"}\n'
    (laid.root / "dataset.yaml").write_text(
        f"{YAML}{layout}splits: {{train: [train0, nowhere, train0, elsewhere], val: [val0], test: none.txt}}\n"
    )
    found = laid.look()
    assert sum("which is not there" in text for text in found.problems) == 2
    assert any("lists 'train0' twice" in text for text in found.problems)
    assert any("none.txt: cannot be read" in text for text in found.problems)
    assert found.num_read == 2 and len(found.problems) == 4


def test_a_split_without_masks_is_one_fault(laid: Laid) -> None:
    for number in range(30):
        laid.image("test", f"test{number}", scenery(100 + number))
    (problem,) = laid.look().problems
    assert "image without mask (30 such images)" in problem and "write splits: [train, val]" in problem


def test_annotations_that_cannot_be_read_are_one_fault_however_many_images_they_label(tmp_path: Path) -> None:
    laid = Laid(tmp_path / "coco", "name: c\nclasses: [a, b]\nformat: coco\nbackground: a\nlayout: {masks: '{split}.json'}\n")
    for split in ("train", "val"):
        (laid.root / f"{split}.json").write_text("{")
    found = laid.look()
    assert len(found.problems) == 2 and "train.json: is not JSON" in found.problems[0] and "so 4 times" in found.problems[0]


def spoil_value(laid: Laid) -> None:
    laid.mask("train", "train0", np.full(SIZE, 9, np.uint8))


def spoil_bytes(laid: Laid) -> None:
    laid.image("val", "val0", (laid.root / "images/train/train0.png").read_bytes())


def spoil_class(laid: Laid) -> None:
    for number in range(4):
        laid.mask("train", f"train{number}", np.zeros(SIZE, np.uint8))


def spoil_validation(laid: Laid) -> None:
    for number in range(2):
        laid.mask("val", f"val{number}", np.full(SIZE, 255, np.uint8))


def spoil_mask(laid: Laid) -> None:
    (laid.root / "masks/train/train0.png").unlink()


def allow(laid: Laid) -> None:
    spoil_bytes(laid)
    (laid.root / "dataset.yaml").write_text(f"{YAML}duplicates: allowed\n")


@pytest.mark.parametrize("spoil", [lambda laid: None, spoil_value, spoil_bytes, spoil_class, spoil_validation, spoil_mask, allow])
def test_what_it_refuses_a_run_refuses_in_the_same_words(laid: Laid, spoil: Any) -> None:
    spoil(laid)
    _, problems = open_data({"dataset": f"folder:path={laid.root}", "test": ""}, says=False)
    assert [problem.text for problem in problems] == list(laid.look().problems)


@pytest.mark.parametrize("spec", ["generated:seed=1,size=32x32,train=6,validation=3,test=2", "few:2:folder:path=DATA"])
def test_any_specification_is_looked_at(laid: Laid, spec: str) -> None:
    found = look_at_dataset(spec.replace("DATA", str(laid.root))).findings
    assert found.is_sound and found.num_read in (11, 4) and found.classes


def test_the_description_may_be_named_and_a_folder_of_any_name(tmp_path: Path) -> None:
    laid = Laid(tmp_path / "my data,size=3")
    assert look_at_dataset(str(laid.root / "dataset.yaml")).findings == laid.look()


def test_classes_that_are_absent_or_rare_are_told(tmp_path: Path) -> None:
    laid = Laid(tmp_path / "rare", "name: r\nclasses: [Burnt, Fire, Smoke, Ash]\n")
    label = halves()
    label[0, 0] = 2
    laid.mask("train", "train0", label)
    told = "\n".join(laid.look().warnings)
    assert "no pixel anywhere is 'Ash'" in told and "no pixel of split 'validation' is 'Smoke'" in told
    assert "only 0.0081 % of split 'train' is 'Smoke', in 1 of 4 images" in told


def test_sizes_are_told(laid: Laid) -> None:
    laid.image("train", "big", scenery(9).resize((128, 96)))
    laid.mask("train", "big", halves((96, 128)))
    laid.image("val", "small", scenery(10).resize((32, 24)))
    laid.mask("val", "small", halves((24, 32)))
    sizes = laid.look().sizes
    assert sizes is not None
    assert (sizes.smallest, sizes.median, sizes.largest, sizes.num_others) == ((32, 24), (64, 48), (128, 96), 2)


def test_files_left_over_and_groups_in_two_splits_are_told(laid: Laid) -> None:
    laid.mask("train", "extra", halves())
    for split in ("train", "val"):
        laid.image(split, f"clip_{split}", scenery(len(split) + 70))
        laid.mask(split, f"clip_{split}", halves())
    found = laid.look()
    assert found.left_over == ("masks/train/extra.png",) and found.in_several_splits == {"clip": ("train", "validation")}


def copies(image: Image.Image) -> Iterator[tuple[str, Image.Image]]:
    for quality in (90, 40):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        yield f"jpeg{quality}", Image.open(buffer).convert("RGB")
    yield "smaller", image.resize((40, 30))
    yield "larger", image.resize((200, 150))
    yield "darker", image.point(lambda value: int(value * 0.8))


@pytest.mark.parametrize("kind", [name for name, _ in copies(scenery(1))])
def test_an_image_that_was_saved_again_in_another_split_is_found(laid: Laid, kind: str) -> None:
    changed = dict(copies(scenery(1)))[kind]  # train0
    laid.image("val", "val0", changed)
    laid.mask("val", "val0", halves((changed.height, changed.width)))
    found = laid.look()
    assert [(Path(pair.first).stem, Path(pair.second).stem) for pair in found.alike] == [("train0", "val0")]
    assert found.is_sound and "look almost like one of an earlier split" in "\n".join(found.warnings)


def test_other_images_are_not_taken_for_the_same() -> None:
    looks, data = Looks(), open_in(STRICT, "generated:seed=3,size=64x64,train=60,validation=60,test=0")
    for indices in data.splits.values():
        for index in indices:
            looks.add(index, data.sample(index).image)
    assert len(looks.hashes) == 120 and not list(looks.alike(data.splits))


def test_images_of_one_color_are_not_compared() -> None:
    looks = Looks()
    for index, value in enumerate((0, 128, 255)):
        looks.add(index, np.full((20, 20, 3), value, np.uint8))
    assert not looks.hashes


def test_the_same_pixels_in_two_splits_of_an_own_dataset_are_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here" / "twin_data.py").write_text(
        "import numpy as np\n"
        "from agentkd.datasets.samples import Sample\n"
        "class Twins:\n"
        "    name, classes, colors, ignore_index = 'twins', ('a', 'b'), ((0, 0, 0), (9, 9, 9)), 255\n"
        "    splits, digest = {'train': (0, 1), 'validation': (2, 3)}, 'f' * 64\n"
        "    def sample(self, index):\n"
        "        if index == 1:\n"
        "            raise ValueError('no such thing')\n"
        "        image = np.random.default_rng(index % 2).integers(0, 255, (16, 16, 3), dtype=np.uint8)\n"
        "        return Sample(image, (np.arange(256).reshape(16, 16) % 2).astype(np.uint8), f's{index}')\n"
        "    def group(self, index): return str(index)\n"
        "    def check(self): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "here"))
    found = look_at_dataset("twin_data:Twins").findings
    assert [(pair.first, pair.second) for pair in found.twins] == [("s0", "s2")]
    assert any("sample 1 cannot be read (ValueError: no such thing)" in text for text in found.problems)


def test_of_a_sample_only_its_own_files_are_opened(tmp_path: Path) -> None:
    laid = Laid(tmp_path / "many", train=12, val=6)
    for number in (1, 2, 3, 5, 6, 8, 9, 10):  # in the order of their names 0, 11, 4 and 7 are taken
        laid.image("train", f"train{number}", b"broken")
    found = laid.look(sample=4)
    assert found.is_sound and [(split.num_images, split.num_read) for split in found.splits] == [(12, 4), (6, 4)]
    assert len(laid.look().problems) == 8


def test_that_a_class_is_not_in_a_sample_is_no_fault(laid: Laid) -> None:
    laid.mask("train", "train0", np.zeros(SIZE, np.uint8))
    found = laid.look(sample=1)
    assert found.is_sound and any("only one class has pixels" in text for text in found.warnings)


def test_interrupted_it_says_what_was_found_so_far(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    laid = Laid(tmp_path / "many", train=40, val=2)
    laid.image("train", "train0", b"")

    def press(done: int, count: int) -> None:
        if done == 5:
            os.kill(os.getpid(), signal.SIGINT)

    found = laid.look(progress=press)
    assert not found.is_complete and 4 <= found.num_read < 42 and found.problems

    from agentkd.checks import dataset as module

    real = module.look_at_dataset
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "look_at_dataset", lambda text, **options: real(text, **{**options, "progress": press}))
        status, out, err = run(capsys, str(laid.root))
    assert status == 130 and "interrupted, so this is not all" in out and "is empty" in out and not err
    assert not list((tmp_path / "here").iterdir())


def test_nothing_is_written_among_the_data(
    laid: Laid, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = state(laid.root)
    status, out, _ = run(capsys, str(laid.root))
    assert status == 0 and "data-check/fires/samples.png" in out and Path("data-check/fires/samples.png").is_file()
    Path("way").symlink_to(laid.root)
    for out_folder in (laid.root / "images" / "new", Path("way") / "x", laid.root):
        status, _, err = run(capsys, str(laid.root), f"--out={out_folder}")
        assert status == 2 and "the data's own folder" in err
    monkeypatch.chdir(laid.root / "images")
    status, out, _ = run(capsys, "..")
    assert status == 0 and "none: this is the data's own folder" in out
    assert state(laid.root) == before


@pytest.mark.parametrize(
    ("argument", "told", "status"),
    [
        ("nowhere", "nowhere: is not there; expected a folder, its dataset.yaml, or a specification", 17),
        ("", "is not there", 17),
        ("~nobody-at-all/x", "nobody of that name has a home here", 17),
        ("e.yaml", "an experiment file is looked at by agentkd doctor FILE", 17),
        ("empty", "has no dataset.yaml", 17),
        ("nonsense:x=1", "is not a dataset", 17),
        ("typo", "unknown key 'clases'; did you mean 'classes'?", 17),
    ],
)
def test_what_is_nothing_to_look_at_is_refused(argument: str, told: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    Path("e.yaml").write_text("name: x\n")
    Path("empty").mkdir()
    Path("typo").mkdir()
    Path("typo/dataset.yaml").write_text("name: x\nclases: [a, b]\n")
    found, out, err = run(capsys, argument)
    assert found == status and told in err and not out


def test_a_program_can_read_it(laid: Laid, capsys: pytest.CaptureFixture[str]) -> None:
    laid.image("train", "train1", b"")
    status, out, err = run(capsys, str(laid.root), "--format=json", "--most=0")
    data = json.loads(out)
    assert status == 1 and not err and data["is_sound"] is False and "train1.png: is empty" in data["problems"][0]
    assert data["pictures"].endswith("samples.png") and data["sizes"]["median"] == [64, 48] and data["num_read"] == 5


def test_pictures_that_cannot_be_written_take_nothing_of_what_was_found(laid: Laid, capsys: pytest.CaptureFixture[str]) -> None:
    Path("taken").write_text("mine")
    status, out, err = run(capsys, str(laid.root), "--out=taken/x")
    assert status == 16 and "taken" in err and "6 of 6 images read" in out and Path("taken").read_text() == "mine"
    status, out, _ = run(capsys, str(laid.root), "--out=taken/x", "--format=json")
    assert status == 16 and json.loads(out)["num_read"] == 6


def test_so_many_are_named_and_the_others_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    laid = Laid(tmp_path / "many", train=12, val=2)
    for number in range(9):
        laid.image("train", f"train{number}", b"")
    status, out, _ = run(capsys, str(laid.root), "--most=4", "--no-pictures")
    assert status == 1 and out.count("is empty") == 4 and "FAIL: 5 more" in out and "9 problems" in out
    assert not Path("data-check").exists()


def test_one_image_and_an_empty_split_and_a_huge_image_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    laid = Laid(tmp_path / "one", train=1)
    head = bytearray((laid.root / "images/train/train0.png").read_bytes())
    found = laid.look()
    assert found.is_sound and found.num_read == 1 and any("has no split 'validation'" in text for text in found.warnings)
    (laid.root / "dataset.yaml").write_text(f"{YAML}splits: {{train: [train0], val: []}}\n")
    assert any("split 'validation'" in text for text in laid.look().warnings)
    import zlib

    head[16:24] = (60_000).to_bytes(4, "big") * 2
    head[29:33] = zlib.crc32(bytes(head[12:29])).to_bytes(4, "big")
    laid.image("train", "train0", bytes(head))
    (problem,) = laid.look().problems
    assert "is too large" in problem and "cut it into tiles" in problem


def test_a_picture_shows_image_and_mask_side_by_side_and_what_is_not_labelled() -> None:
    data = open_dataset("generated:seed=1,size=32x32,train=2,validation=1,test=0")
    sample = data.sample(data.splits["train"][0])
    sample.label[:16], sample.label[16:] = 255, 3
    pixels = np.asarray(Image.open(io.BytesIO(contact_sheet("t", data, [("a", sample)]))).convert("RGB"))
    left, top = 12 + WIDTH + 2, 12 + 22 + 22
    mask = pixels[top : top + HEIGHT, left : left + WIDTH]
    middle = WIDTH // 2
    assert tuple(mask[HEIGHT - 20, middle]) == data.colors[3]
    assert {tuple(color) for color in mask[5 : 5 + 4 * CHECKER, middle - 40 : middle + 40].reshape(-1, 3)} == {
        (g, g, g) for g in GRAYS
    }
    assert pixels.shape[0] > top + HEIGHT + 22


def test_a_sheet_shows_rare_classes_and_every_split(tmp_path: Path) -> None:
    laid = Laid(tmp_path / "rare", "name: r\nclasses: [Burnt, Fire, Smoke]\n", train=30, val=3, test=3)
    label = halves()
    label[0, :9] = 2
    laid.mask("train", "train17", label)
    look = look_at_dataset(str(laid.root))
    chosen = look.survey.worth_showing(look.dataset.splits, 3)
    names = {look.survey.names[index] for index in chosen}
    assert len(chosen) == 8 and "train17" in names
    assert all(any(name.startswith(split) for name in names) for split in ("train", "val", "test"))


def test_data_that_are_opened_to_learn_from_are_as_strict_as_before(laid: Laid) -> None:
    laid.image("train", "alone", scenery(50))
    with pytest.raises(DatasetError, match=r"alone.png: image without mask; expected"):
        open_dataset(f"folder:path={laid.root}")


def test_where_it_may_write_is_looked_at_before_anything_is_read(laid: Laid) -> None:
    with pytest.raises(ConfigError, match="the data's own folder"):
        laid.look(out=laid.root / "x", progress=lambda done, count: pytest.fail("it was read"))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 16])
def test_images_of_any_channels_are_looked_at_and_shown_as_they_are_to_people(count: int, tmp_path: Path) -> None:
    spec = f"generated:seed=1,size=32x32,train=4,validation=2,test=2,channels={count}"
    look = look_at_dataset(spec)
    assert look.findings.is_sound and look.findings.num_read == 8
    sample = look.dataset.sample(0)
    sheet = np.asarray(Image.open(io.BytesIO(contact_sheet("t", look.dataset, [("one", sample)]))).convert("RGB"))
    shown = as_rgb(sample.image, channels_of(look.dataset))  # enlarged with hard edges, seven times
    left, top = GAP + (WIDTH - 225) // 2, GAP + LINE + LINE
    assert np.array_equal(sheet[top + 2, left + 2], shown[0, 0]) and np.array_equal(sheet[top + 222, left + 222], shown[-1, -1])


def test_an_image_that_lacks_a_channel_is_named_and_the_rest_is_looked_at(tmp_path: Path) -> None:
    place = tmp_path / "data"
    for folder in ("images/train", "masks/train"):
        (place / folder).mkdir(parents=True)
    for stem in ("a", "b", "c", "d"):
        for channel in ("red", "nir"):
            Image.fromarray(np.full((8, 8), 90, dtype=np.uint8)).save(place / "images/train" / f"{stem}_{channel}.png")
        Image.fromarray(np.tile(np.arange(2, dtype=np.uint8), (8, 4))).save(place / "masks/train" / f"{stem}.png")
    (place / "dataset.yaml").write_text(
        "name: d\nformat: index-mask\nclasses: [x, y]\nchannels: [red, nir]\n"
        'layout: {images: "images/{split}/{stem}_{channel}.png", masks: "masks/{split}/{stem}.png"}\n'
    )
    for lost in ("b_nir.png", "d_red.png"):
        (place / "images/train" / lost).unlink()
    findings = look_at_dataset(str(place)).findings
    said = " ".join(findings.problems)
    assert "no file of channel nir of this image" in said and "b_nir.png" in said and "d_red.png" in said
    assert findings.num_read == 2
