"""The command: what it writes, what it refuses, what it says of files that cannot be done while the others are."""

import csv
import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import CLASSES, COLORS, export, scene
from PIL import Image, ImageOps

import agentkd_predict
from agentkd.cli import predicting
from agentkd.errors import ConfigError
from agentkd_predict.cli import run
from agentkd_predict.files import at_work_in
from agentkd_predict.inputs import find
from agentkd_predict.png import PngWriter
from agentkd_predict.running import predict
from agentkd_predict.telling import Lines

ROOT = Path(__file__).parents[2]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return export(tmp_path / "n.onnx")


def save(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def typed(*arguments: object) -> int:
    return run(["--threads", "1", *map(str, arguments)])


def test_a_mask_has_the_classes_colors_and_tiles_do_not_show(tmp_path: Path, model: Path) -> None:
    pixels, out = scene(150, 333), tmp_path / "out"
    image = save(tmp_path / "a.png", pixels)
    assert typed(model, image, "--out", out, "--tile", 64, "--overlap", 16, "--overlay", "--probabilities") == 0
    expected = pixels.argmax(axis=2)
    mask = Image.open(out / "masks" / "a.png")
    assert mask.mode == "P" and np.array_equal(np.asarray(mask), expected)
    assert np.array_equal(np.asarray(mask.convert("RGB")), np.array(COLORS, dtype=np.uint8)[expected])
    overlay = (pixels.astype(np.uint16) + np.array(COLORS, dtype=np.uint16)[expected]) // 2
    assert np.array_equal(np.asarray(Image.open(out / "overlays" / "a.png")), overlay)
    probabilities = np.load(out / "probabilities" / "a.npy", mmap_mode="r")
    assert probabilities.dtype == np.float16 and np.array_equal(probabilities.argmax(axis=0), expected)
    logits = pixels.transpose(2, 0, 1) / 255 * 50
    exact = np.exp(logits - logits.max(axis=0))
    assert np.allclose(probabilities, exact / exact.sum(axis=0), atol=1e-3)


def test_the_summary_counts_pixels_and_names_what_failed(tmp_path: Path, model: Path) -> None:
    save(tmp_path / "in" / "b" / "x.jpg", scene(30, 40))
    pixels = scene(20, 30)
    save(tmp_path / "in" / "a.png", pixels)
    (tmp_path / "in" / "page.jpg").write_text("<!DOCTYPE html>")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    (tmp_path / "in" / ".hidden.png").write_text("")
    out = tmp_path / "in" / "out"
    assert typed(model, tmp_path / "in", "--out", out) == 1
    told = json.loads((out / "summary.json").read_text())
    assert [Path(one["image"]).name for one in told["images"]] == ["a.png", "x.jpg"]
    assert [one["image"] for one in told["failed"]] == [str(tmp_path / "in" / "page.jpg")]
    assert "is a page of HTML" in told["failed"][0]["reason"] and told["classes"] == list(CLASSES)
    counts = np.bincount(pixels.argmax(axis=2).ravel(), minlength=3).tolist()
    rows = list(csv.DictReader((out / "summary.csv").open()))
    assert [int(row["pixels"]) for row in rows[:3]] == counts and [row["class"] for row in rows[:3]] == list(CLASSES)
    assert float(rows[0]["share"]) == pytest.approx(counts[0] / 600, abs=1e-6) and rows[0]["hectares"] == ""
    assert told["network"]["sha256"] == agentkd_predict.Network(model).digest()
    assert sorted(path.relative_to(out).as_posix() for path in (out / "masks").rglob("*.png")) == ["masks/a.png", "masks/b/x.png"]
    assert typed(model, tmp_path / "in", "--out", out, "--overwrite") == 1
    assert len(json.loads((out / "summary.json").read_text())["images"]) == 2


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[0x0112] = orientation
    return made


WIDE = scene(20, 30)[:, :, 0].astype(np.uint16) * 100
FILES: dict[str, tuple[Any, str]] = {
    "1x1.png": (Image.fromarray(scene(1, 1)), ""),
    "wide.png": (Image.fromarray(scene(3, 20_000)), ""),
    "tall.png": (Image.fromarray(scene(20_000, 2)), ""),
    "inks.jpg": (Image.fromarray(scene(20, 30)).convert("CMYK"), ""),
    "16.png": (Image.fromarray(WIDE), r"image has gray, 16 bits, values \d+ to \d+; expected --scale LOW,HIGH"),
    "gray.png": (Image.fromarray(scene(20, 30)[:, :, 0]), ""),
    "gray-alpha.png": (Image.merge("LA", [Image.new("L", (30, 20), 4), Image.new("L", (30, 20), 0)]), ""),
    "animated.gif": ("animated", "holds 2 pictures; expected one; animations"),
    "nothing.png": (b"", "is empty; expected an image"),
    "page.jpg": (b"<!DOCTYPE html>\n<html></html>", "is a page of HTML, perhaps that of a failed download"),
    "pointer.tif": (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer, not the file itself"),
    "cut.png": ("cut", "cannot be read as an image"),
    "text.mp4": (b"hello", "cannot be read as a video"),
}


@pytest.mark.parametrize("name", FILES)
def test_every_file_has_a_clear_answer_and_the_rest_is_done(tmp_path: Path, model: Path, name: str) -> None:
    content, words = FILES[name]
    path = tmp_path / "in" / name
    save(tmp_path / "in" / "sound.png", scene(9, 9))
    if content == "animated":
        Image.new("RGB", (9, 9)).save(path, save_all=True, append_images=[Image.new("RGB", (9, 9), "red")])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "cut":
        whole = save(path, scene(50, 50)).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    else:
        content.save(path)
    assert typed(model, tmp_path / "in", "--out", tmp_path / "out") == (1 if words else 0)
    told = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert len(told["images"]) == (1 if words else 2)
    assert (tmp_path / "out" / "masks" / "sound.png").exists()
    left = [one.name for one in (tmp_path / "out").rglob("*") if ".part" in one.name]
    assert not left
    if words:
        assert re.search(words, told["failed"][0]["reason"])
    else:
        made = Image.open(tmp_path / "out" / "masks" / f"{path.stem}.png")
        assert made.size == Image.open(path).size


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_mask_is_turned_as_the_image_is_shown(tmp_path: Path, model: Path, orientation: int) -> None:
    image = save(tmp_path / "a.png", scene(20, 30), exif=exif(orientation))
    assert typed(model, image, "--out", tmp_path / "out") == 0
    shown = np.asarray(ImageOps.exif_transpose(Image.open(image)))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "masks" / "a.png")), shown.argmax(axis=2))


def test_names_of_one_stem_are_told_apart(tmp_path: Path) -> None:
    for name in ("p/a.png", "p/a.jpg", "q/a.png", "q/A.JPG", "q/b.png", "b.c.png", "b.png", "b.png.png"):
        save(tmp_path / name, scene(2, 2), format="PNG")
    names = {one.path.relative_to(tmp_path).as_posix(): one.name for one in find([tmp_path], tmp_path / "out").inputs}
    assert len({name.casefold() for name in names.values()}) == 8
    assert names["p/a.png"] == "p/a.png" and names["p/a.jpg"] == "p/a.jpg" and names["q/b.png"] == "q/b"
    assert names["q/a.png"] == "q/a.png" and names["q/A.JPG"] == "q/A.JPG", "on some disks q/a and q/A are one file"
    files = [tmp_path / "p" / "a.png", tmp_path / "q" / "a.png", tmp_path / "p" / ".." / "p" / "a.png"]
    assert [one.name for one in find(files, tmp_path / "out").inputs] == ["p/a", "q/a"]
    assert [one.name for one in find(files[:1], tmp_path / "out").inputs] == ["a"]


def test_what_is_there_is_not_replaced_unasked_and_nothing_is_done(
    tmp_path: Path, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "b.png"):
        save(tmp_path / "in" / name, scene(9, 9))
    kept = tmp_path / "out" / "masks" / "b.png"
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    assert typed(model, tmp_path / "in", "--out", tmp_path / "out") == 2
    assert "masks/b.png would be replaced; --overwrite does so" in capfd.readouterr().err
    assert kept.read_text() == "mine" and not (tmp_path / "out" / "masks" / "a.png").exists()
    assert typed(model, tmp_path / "in", "--out", tmp_path / "out", "--overwrite") == 0
    assert Image.open(kept).size == (9, 9)


WRONG: list[tuple[list[str], int, str]] = [
    (["--tile", "-1"], 2, "--tile"),
    (["--tile", "x"], 2, "--tile"),
    (["--overlap", "300"], 2, "--overlap 300: expected 0 to 256, half of --tile 512"),
    (["--scales", "0"], 2, "--scales"),
    (["--scales", "1,1"], 2, "expected different numbers"),
    (["--scales", "nan"], 2, "--scales"),
    (["--scale", "5,5"], 2, "expected LOW,HIGH"),
    (["--scale", "5"], 2, "expected LOW,HIGH"),
    (["--other-scale"], 2, "--other-scale: says nothing without --scale"),
    (["--bands", "0,1,2"], 2, "--bands"),
    (["--bands", "1,2"], 2, "--bands"),
    (["--classes", "a,b,c"], 2, "says itself what its classes"),
    (["--device", "tpu"], 2, "--device 'tpu'"),
    (["--threads", "-1"], 2, "--threads"),
    (["--out", ""], 2, "--out"),
    (["--nothing"], 2, "--nothing"),
    (["nowhere.png"], 2, "nowhere.png: there is no such file or folder"),
]


@pytest.mark.parametrize(("options", "status", "words"), WRONG, ids=[" ".join(options) for options, _, _ in WRONG])
def test_wrong_options_are_named_and_nothing_is_written(
    tmp_path: Path, model: Path, options: list[str], status: int, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    image = save(tmp_path / "a.png", scene(9, 9))
    assert typed(model, image, "--out", tmp_path / "out", *options) == status
    told = capfd.readouterr().err
    assert words in " ".join(told.replace("│", " ").split()) and "Traceback" not in told
    assert not (tmp_path / "out").exists()


def test_a_full_disk_ends_it_with_a_sentence_and_no_half_file(
    tmp_path: Path, model: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(writer: PngWriter, rows: np.ndarray) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    image = save(tmp_path / "a.png", scene(9, 9))
    with monkeypatch.context() as patch:
        patch.setattr(PngWriter, "write", full)
        assert typed(model, image, "--out", tmp_path / "out") == 16
    told = capfd.readouterr().err
    assert (
        f"cannot write {tmp_path / 'out' / 'masks' / 'a.png'}: the disk is full; free some space" in told and ".part" not in told
    )
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_what_is_made_of_images_does_not_come_among_them(
    tmp_path: Path, model: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = save(tmp_path / "in" / "a.png", scene(9, 9))
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for out in (tmp_path / "in", tmp_path / "link"):
        assert typed(model, tmp_path / "in", "--out", out) == 2
        assert f"--out {out}: is the folder with the images; give another, such as {out}/predicted" in capfd.readouterr().err
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["a.png"]
    monkeypatch.chdir(tmp_path / "in")
    assert typed(model, ".", "--out", ".") == 2
    assert typed(model, image, "--out", tmp_path / "in") == 0


def test_a_file_in_place_of_the_folder_and_a_model_that_is_not_there_are_named(
    tmp_path: Path, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    image = save(tmp_path / "a.png", scene(9, 9))
    assert typed(model, image, "--out", image) == 2
    assert f"--out {image}: there is a file of that name" in capfd.readouterr().err
    assert typed(model, image, "--out", "/dev/null/out") == 16
    assert typed(tmp_path / "none.onnx", image, "--out", tmp_path / "o") == 15


def test_an_interrupted_run_leaves_what_is_whole_and_says_what_that_is(tmp_path: Path, model: Path) -> None:
    class Interrupts(agentkd_predict.running.Quiet):
        def advance(self, index: int, share: float) -> None:
            if index == 1:
                raise KeyboardInterrupt

    for name in "abc":
        save(tmp_path / "in" / f"{name}.png", scene(9, 9))
    with pytest.raises(KeyboardInterrupt):
        predict(agentkd_predict.Network(model), [tmp_path / "in"], tmp_path / "out", teller=Interrupts())
    assert [path.name for path in (tmp_path / "out" / "masks").iterdir()] == ["a.png"]
    assert len(json.loads((tmp_path / "out" / "summary.json").read_text())["images"]) == 1


DIES = """
import os, signal, sys
from pathlib import Path
from agentkd_predict.files import Files, at_work_in
out = Path(sys.argv[1])
with at_work_in(out), Files() as files:
    for name in ("masks/b/x.png", "probabilities/x.npy", "summary.csv"):
        files.part(out / name).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_run_left_is_removed_by_the_next_and_nothing_else(tmp_path: Path, model: Path) -> None:
    image, out = save(tmp_path / "a.png", scene(9, 9)), tmp_path / "out"
    others = [out / "masks" / ".mine.part.png", out / "own" / ".0123456789ab.part.png", out / "masks" / "0123456789ab.part.png"]
    for path in others:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text("kept")
    with at_work_in(out):  # another run that is alive, whose parts they could be
        ended = subprocess.run([sys.executable, "-c", DIES, str(out)], check=False, timeout=120)
        assert ended.returncode == -signal.SIGKILL
        left = [path for path in out.rglob("*.part*") if path not in others]
        assert len(left) == 3
        assert typed(model, image, "--out", out) == 0
        assert all(path.exists() for path in left)
    assert typed(model, image, "--out", out, "--overwrite") == 0
    assert not any(path.exists() for path in left) and all(path.exists() for path in others)


def test_names_do_not_act_on_a_terminal(tmp_path: Path, model: Path) -> None:
    save(tmp_path / "in" / "a\x1b[31m.png", scene(9, 9))
    (tmp_path / "in" / "b\x1b]0;x\x07.jpg").write_text("")
    told = io.StringIO()
    with Lines(told) as lines:
        predict(agentkd_predict.Network(model), [tmp_path / "in"], tmp_path / "out", teller=lines)
    assert "\x1b" not in told.getvalue() and "\x07" not in told.getvalue() and r"a\x1b[31m.png: 9x9" in told.getvalue()
    assert "\x1b" not in (tmp_path / "out" / "summary.csv").read_text() + (tmp_path / "out" / "summary.json").read_text()


@pytest.mark.parametrize("parts", [[7], [1] * 7, [3, 4]])
def test_png_written_by_rows_is_what_pillow_reads(tmp_path: Path, parts: list[int]) -> None:
    pixels, numbers = scene(7, 5), scene(7, 5)[:, :, 0] % 3
    for name, values, colors in (("a.png", pixels, ()), ("b.png", numbers, COLORS)):
        with (tmp_path / name).open("wb") as file:
            writer, top = PngWriter(file, 7, 5, colors), 0
            for count in parts:
                writer.write(values[top : top + count])
                top += count
            writer.finish()
        with Image.open(tmp_path / name) as image:
            image.verify()
        assert np.array_equal(np.asarray(Image.open(tmp_path / name)), values)


def test_neither_command_imports_torch_nor_the_other_package(tmp_path: Path, model: Path) -> None:
    image = save(tmp_path / "a.png", scene(9, 9))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "predict"), *sys.path])}
    for number, package in enumerate(("agentkd", "agentkd_predict")):
        words = ["predict"] if package == "agentkd" else []
        words += [str(model), str(image), "--out", str(tmp_path / f"out{number}"), "--threads", "1"]
        code = (
            f"import sys; sys.argv[1:] = {words!r}\nfrom {package}.__main__ import main\ntry: main()\n"
            "except SystemExit as ended: assert not ended.code, ended.code\n"
            "print(sorted({'torch', 'agentkd.config', 'agentkd'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == ("['agentkd']" if package == "agentkd" else "[]")
        assert (tmp_path / f"out{number}" / "masks" / "a.png").exists()


def test_a_package_that_is_not_installed_is_told_with_the_line_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predicting, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install agentkd-predict"):
        predicting.predict(["a.onnx"])
