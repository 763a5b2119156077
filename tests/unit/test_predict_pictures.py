"""A network sees a file when it predicts as agentkd's datasets showed it when it learned: the same pixels, the same refusals."""

import random
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from storing import BOX, LABEL, PICTURE, H, W, encoded, palette, png

from agentkd.datasets.description import Description
from agentkd.datasets.meaning import MEANINGS, as_colors
from agentkd.datasets.pictures import open_image
from agentkd.errors import DatasetError
from agentkd_predict import InputError, meaning
from agentkd_predict.pictures import look, read_picture

GRAY, RGB = Image.fromarray(PICTURE[:, :, 0]), Image.fromarray(PICTURE)
WIDE = (PICTURE[:, :, 0].astype(np.uint16) * 100 + 1000).astype(np.uint16)
SCALES = (None, (0.0, 255.0), (0.0, 65535.0), (2000.0, 20000.0))
RGBA = Image.fromarray(np.dstack([PICTURE, PICTURE[:, :, 0]]))
CMYK = Image.merge("CMYK", [*RGB.split(), GRAY])


def tagged(file_format: str, orientation: int, picture: Image.Image = RGB) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture, file_format, exif=exif)


def plain_map(kind: bytes, most: int, values: np.ndarray) -> bytes:
    """A PGM or PPM."""
    return b"%s %d %d %d\n" % (kind, W, H, most) + values.astype(">u2" if most > 255 else "u1").tobytes()


STORED = {
    "gray": encoded(GRAY, "PNG"),
    "1 bit": encoded(Image.fromarray(BOX), "PNG"),
    "2 bits": png(LABEL, 2, 0),
    "4 bits": png(LABEL, 4, 0),
    "gray with alpha": encoded(Image.merge("LA", [GRAY, Image.new("L", (W, H), 9)]), "PNG"),
    "RGB": encoded(RGB, "PNG"),
    "RGBA": encoded(RGBA, "PNG"),
    "palette": encoded(palette(LABEL, [(1, 2, 3), (40, 50, 60), (7, 8, 9)]), "PNG"),
    "GIF": encoded(palette(LABEL, [(1, 2, 3), (40, 50, 60), (7, 8, 9)]), "GIF"),
    "CMYK": encoded(CMYK, "TIFF"),
    "CMYK, JPEG": encoded(CMYK, "JPEG"),
    "JPEG": encoded(RGB, "JPEG"),
    "JPEG in several scans": encoded(RGB, "JPEG", progressive=True),
    "gray JPEG": encoded(GRAY, "JPEG"),
    "WebP": encoded(RGB, "WEBP"),
    "BMP": encoded(RGB, "BMP"),
    "TIFF": encoded(RGB, "TIFF"),
    "TIFF, packed": encoded(RGB, "TIFF", compression="tiff_lzw"),
    "TIFF, JPEG": encoded(RGB, "TIFF", compression="jpeg"),
    "JPEG 2000": encoded(RGB, "JPEG2000"),
    "16 bits": encoded(Image.fromarray(WIDE), "PNG"),
    "16 bits, TIFF": encoded(Image.fromarray(WIDE), "TIFF"),
    "16 bits, RGB": png(WIDE[:, : W // 3 * 3], 16, 2),
    "32 bits": encoded(Image.fromarray(WIDE.astype(np.int32)), "TIFF"),
    "floating point": encoded(Image.fromarray(WIDE.astype(np.float32)), "TIFF"),
    "not a number": encoded(Image.fromarray(np.where(BOX, np.nan, WIDE).astype(np.float32)), "TIFF"),
    "PGM": plain_map(b"P5", 255, PICTURE[:, :, 0]),
    "PGM to 100": plain_map(b"P5", 100, PICTURE[:, :, 0] % 101),
    "PGM above its maximum": plain_map(b"P5", 100, PICTURE[:, :, 0]),
    "PGM to 1000": plain_map(b"P5", 1000, WIDE % 1001),
    "PGM to 65535": plain_map(b"P5", 65535, WIDE),
    "PPM to 65535": plain_map(b"P6", 65535, PICTURE.astype(np.uint16) * 257),
    "PPM to 31": plain_map(b"P6", 31, PICTURE % 32),
    "TGA": encoded(RGB, "TGA"),
    "PCX": encoded(RGB, "PCX"),
    "animated": encoded(RGB, "GIF", save_all=True, append_images=[GRAY.convert("RGB")]),
    "animated PNG": encoded(RGB, "PNG", save_all=True, append_images=[GRAY.convert("RGB")]),
    "several pages": encoded(RGB, "TIFF", save_all=True, append_images=[RGB.rotate(180)]),
    "1x1": encoded(RGB.crop((3, 4, 4, 5)), "PNG"),
    "no bytes": b"",
    "HTML": b"<!DOCTYPE html><html></html>",
    "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
    "another pointer": b"/annex/objects/SHA256E-s3--0.png\n",
    "a drawing": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "an archive": b"PK\x03\x04" + bytes(100),
    "HEIC": b"\0\0\0\x18ftypheic" + bytes(100),
    "nothing known": bytes(range(200)),
    **{
        f"{file_format} turned {value}": tagged(file_format, value)
        for file_format in ("JPEG", "TIFF", "PNG")
        for value in range(1, 10)
    },
}


def both(path: Path, scale: tuple[float, float] | None) -> tuple[np.ndarray | str, np.ndarray | str]:
    """What datasets make of a file, and what is made of it here: pixels, or why it is refused."""
    description = Description(name="t", classes=("a", "b"), scale=scale)
    found: list[np.ndarray | str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found.append(as_colors(open_image(path), description, path))
        except DatasetError as error:
            found.append(str(error))
        try:
            found.append(read_picture(path, scale))
        except InputError as error:
            found.append(str(error))
    return found[0], found[1]


def reason(text: str) -> str:
    """A refusal without what the option is called."""
    text = re.sub(r"scale: \[(\S+), (\S+?)\]( in dataset\.yaml)?", lambda found: f"--scale {found[1]},{found[2]}", text)
    text = text.replace("--scale low,high", "--scale LOW,HIGH").replace("no scale in dataset.yaml", "no --scale")
    return re.sub(r"(\d)\.0\b", r"\1", text)


@pytest.mark.parametrize("scale", SCALES, ids=str)
@pytest.mark.parametrize("name", STORED)
def test_a_file_is_what_it_is_for_datasets(tmp_path: Path, name: str, scale: tuple[float, float] | None) -> None:
    path = tmp_path / "a"
    path.write_bytes(STORED[name])
    expected, found = both(path, scale)
    if isinstance(expected, str) or isinstance(found, str):
        assert isinstance(expected, str) and isinstance(found, str), (expected, found)
        assert reason(expected) == found
    else:
        assert np.array_equal(expected, found)
        head = look(path)
        assert (head.height, head.width) == found.shape[:2]


def damaged(name: str) -> Iterator[bytes]:
    """Copies that were cut, and some in which bytes are others."""
    whole, chosen = STORED[name], random.Random(name)
    for _ in range(6):
        yield whole[: chosen.randrange(len(whole) + 1)]
    for _ in range(6):
        changed = bytearray(whole)
        for _ in range(3):
            changed[chosen.randrange(len(changed))] = chosen.randrange(256)
        yield bytes(changed)


@pytest.mark.parametrize("name", [name for name in STORED if STORED[name] and "turned" not in name])
def test_a_damaged_file_is_refused_where_datasets_refuse_it_and_names_itself(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a"
    for content in damaged(name):
        path.write_bytes(content)
        expected, found = both(path, None)
        assert isinstance(expected, str) == isinstance(found, str), (expected, found)
        assert str(path) in found if isinstance(found, str) else np.array_equal(expected, found)


def test_the_table_says_of_images_what_that_of_datasets_says() -> None:
    ours = [(row.stored, row.modes, row.image.name) for row in meaning.MEANINGS]
    assert ours == [(row.stored, row.modes, row.image.name) for row in MEANINGS]


def test_the_smaller_copies_in_a_tiff_are_no_further_pictures(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    small = RGB.resize((W // 2, H // 2))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    RGB.save(path, save_all=True, append_images=[small])
    assert np.array_equal(read_picture(path), PICTURE)
