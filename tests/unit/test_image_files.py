"""What an image file means: the documents show the code's table, and each way to store pixels is read so or refused."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from storing import BOX, LABEL, PICTURE, UNTURN, H, W, dataset, encoded, of_image, of_mask, palette, png, tagged

from agentkd.datasets.meaning import MEANINGS
from agentkd.datasets.opening import open_dataset
from agentkd.errors import DatasetError

ROOT = Path(__file__).parents[2]


def test_the_documents_show_the_table_of_the_code() -> None:
    page = (ROOT / "docs/how-to/datasets.md").read_text(encoding="utf-8")
    rows = [
        f"| {row.stored}{', *' if row.has_alpha else ''} | {row.image} | {row.mask} |".replace(", *", " \\*") for row in MEANINGS
    ]
    table = page[page.index("| stored as | an image is | a mask is |") :].split("\n\n")[0].splitlines()
    assert table[2:] == rows


# Images.

COLORS = {
    "gray": (Image.fromarray(PICTURE[:, :, 0]), "png", np.repeat(PICTURE[:, :, :1], 3, 2)),
    "1 bit": (Image.fromarray(BOX), "png", np.repeat(np.where(BOX, 255, 0).astype(np.uint8)[:, :, None], 3, 2)),
    "gray with alpha": (
        Image.merge("LA", [Image.fromarray(PICTURE[:, :, 0]), Image.new("L", (W, H), 9)]),
        "png",
        np.repeat(PICTURE[:, :, :1], 3, 2),
    ),
    "RGBA": (Image.fromarray(np.dstack([PICTURE, PICTURE[:, :, 0]])), "png", PICTURE),
    "a palette": (
        palette(LABEL, [(1, 2, 3), (40, 50, 60), (7, 8, 9)]),
        "gif",
        np.array([(1, 2, 3), (40, 50, 60), (7, 8, 9)], np.uint8)[LABEL],
    ),
    "TIFF": (Image.fromarray(PICTURE), "TIFF", PICTURE),
}


@pytest.mark.parametrize("name", COLORS)
def test_images_are_their_colors(tmp_path: Path, name: str) -> None:
    image, ending, colors = COLORS[name]
    assert np.array_equal(of_image(tmp_path, image, ending), colors)


WIDE = (PICTURE[:, :, 0].astype(np.uint16) * 100 + 1000).astype(np.uint16)
SCALED = {
    "16 bits": Image.fromarray(WIDE),
    "16 bits, TIFF": encoded(Image.fromarray(WIDE), "TIFF"),
    "16 bits, other order of bytes": encoded(Image.frombytes("I;16B", (W, H), WIDE.astype(">u2").tobytes()), "TIFF"),
    "32 bits": encoded(Image.fromarray(WIDE.astype(np.int32)), "TIFF"),
    "floating point": encoded(Image.fromarray(WIDE.astype(np.float32)), "TIFF"),
}


@pytest.mark.parametrize("name", SCALED)
def test_more_than_8_bits_are_scaled_as_stated_or_refused(tmp_path: Path, name: str) -> None:
    stored = SCALED[name]
    ending = "tif" if isinstance(stored, bytes) else "png"
    with pytest.raises(
        DatasetError, match=r"images/train/a\.\w+: image has .*, values 1[0-9]{3} to 26[0-9]{3}; expected scale: \[low, high\]"
    ):
        of_image(tmp_path, stored, ending)
    level = np.rint(np.clip((WIDE.astype(float) - 2000) / 18000, 0, 1) * 255).astype(np.uint8)
    assert np.array_equal(of_image(tmp_path, stored, ending, scale=[2000, 20000]), np.repeat(level[:, :, None], 3, 2))
    with pytest.raises(DatasetError, match=r"lie beyond scale: \[0, 255\]"):
        of_image(tmp_path, stored, ending, scale=[0, 255])


def test_a_scale_is_not_left_out_of_account_in_silence(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"images/train/a.png: image has RGB, to which scale: \[0.0, 100.0\] does not apply"):
        of_image(tmp_path, Image.fromarray(PICTURE), scale=[0, 100])
    assert np.array_equal(of_image(tmp_path, Image.fromarray(PICTURE), scale=[0, 255]), PICTURE)


def test_channels_of_16_bits_keep_their_upper_half_if_that_is_stated(tmp_path: Path) -> None:
    wide = PICTURE.astype(np.uint16) * 257
    stored = png(wide.reshape(H, W * 3), 16, 2)
    with pytest.raises(DatasetError, match=r"several channels of 16 bits; expected scale: \[0, 65535\]"):
        of_image(tmp_path, stored)
    assert np.array_equal(of_image(tmp_path, stored, scale=[0, 65535]), PICTURE)


@pytest.mark.parametrize(("head", "channels"), [(b"P5", 1), (b"P6", 3)])
def test_a_scale_does_not_apply_to_values_that_were_spread_already(tmp_path: Path, head: bytes, channels: int) -> None:
    wide = np.repeat(PICTURE[:, :, 0].astype(">u2"), channels, 1)
    for scale in ([0, 1000], [0, 65535]):
        with pytest.raises(
            DatasetError, match="stored as a PGM or PPM up to a value between 255 and 65535; expected gray or RGB"
        ):
            of_image(tmp_path, head + b" 24 16 1000\n" + wide.tobytes(), "ppm", scale=scale)
    if channels == 3:
        with pytest.raises(DatasetError, match=r"several channels of 16 bits; expected scale: \[0, 65535\]"):
            of_image(tmp_path, head + b" 24 16 65535\n" + wide.tobytes(), "ppm")


def test_a_pixel_that_is_no_number_is_refused(tmp_path: Path) -> None:
    stored = encoded(Image.fromarray(np.where(BOX, np.nan, 0.5).astype(np.float32)), "TIFF")
    with pytest.raises(DatasetError, match="85 values that are no numbers"):
        of_image(tmp_path, stored, "tif", scale=[0, 1])


# Orientation.


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", UNTURN)
def test_an_image_is_turned_as_its_tag_says(tmp_path: Path, orientation: int, file_format: str) -> None:
    smooth = np.repeat(np.where(BOX, 250, 5).astype(np.uint8)[:, :, None], 3, 2)
    data = dataset(tmp_path, tagged(smooth, orientation, file_format), Image.fromarray(LABEL), file_format.lower())
    sample = data.sample(0)
    assert sample.image[sample.label == 1].min() > 200 and sample.image[sample.label != 1].max() < 50
    assert data.sizes == {"train": {(H, W): 1}}
    data.check()
    assert any("1 images are turned" in text for text in data.notices)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", UNTURN)
def test_a_mask_is_turned_as_its_own_tag_says(tmp_path: Path, orientation: int, file_format: str) -> None:
    mask = tagged(LABEL, orientation, file_format)
    assert np.array_equal(of_mask(tmp_path, mask), LABEL)
    data = dataset(tmp_path, tagged(PICTURE, orientation, file_format), mask, orientation="stored")
    both = data.sample(0)
    assert data.sizes == {"train": {both.label.shape: 1}}
    assert np.array_equal(both.label, np.asarray(Image.fromarray(LABEL).transpose(UNTURN[orientation])))
    assert np.array_equal(both.image, np.asarray(Image.fromarray(PICTURE).transpose(UNTURN[orientation])))


def test_a_turned_image_has_another_digest_and_stored_has_one_too(tmp_path: Path) -> None:
    image = tagged(PICTURE, 6, "PNG")
    shown = dataset(tmp_path, image, Image.fromarray(LABEL)).digest
    assert shown != dataset(tmp_path, image, Image.fromarray(LABEL), orientation="stored").digest


# Damaged files.

WHOLE = encoded(Image.fromarray(PICTURE), "PNG")
DAMAGED = {
    "empty": (b"", "is empty"),
    "truncated": (WHOLE[: len(WHOLE) // 2], "cannot be read as an image"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "is a Git LFS pointer, .* git lfs pull"),
    "annex": (b"/annex/objects/SHA256E-s3--0.png\n", "is a git-annex pointer"),
    "HTML": (b"\n<!DOCTYPE HTML><html><body>404</body></html>", "is a page of HTML"),
    "XML": (b"\xef\xbb\xbf<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is XML"),
    "JSON": (b'{"message": "Not Found"}', "is JSON"),
    "ZIP": (b"PK\x03\x04aaaa", "is a ZIP archive"),
    "NumPy": (b"\x93NUMPY\x01\0", "is a NumPy array"),
    "HEIC": (b"\0\0\0\x18ftypheic" + bytes(40), "is a HEIC image"),
    "text": (b"hello", "cannot be read as an image"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 16\n%%EndComments\n", "cannot be read as an image"),
    "an animation": (
        encoded(Image.fromarray(PICTURE), "GIF", save_all=True, append_images=[Image.fromarray(PICTURE[::-1])]),
        "holds 2 pictures",
    ),
    "pages": (
        encoded(Image.fromarray(PICTURE), "TIFF", save_all=True, append_images=[Image.fromarray(PICTURE[::-1])]),
        "holds 2 pictures",
    ),
    "an animated PNG": (
        encoded(Image.fromarray(PICTURE), "PNG", save_all=True, append_images=[Image.fromarray(PICTURE[::-1])]),
        "holds 2 pictures",
    ),
}


@pytest.mark.parametrize("side", ["images", "masks"])
@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_named_with_what_it_is(tmp_path: Path, name: str, side: str) -> None:
    content, told = DAMAGED[name]
    pair = (content, Image.fromarray(LABEL)) if side == "images" else (Image.fromarray(PICTURE), content)
    data = dataset(tmp_path, *pair)
    with pytest.raises(DatasetError, match=rf"{side}/train/a\.png: {told}"):
        data.check()


def test_a_bomb_is_named(tmp_path: Path) -> None:
    bomb = encoded(Image.new("1", (14000, 13000)), "PNG")
    with pytest.raises(DatasetError, match=r"a\.png: is too large.*cut it into tiles"):
        dataset(tmp_path, bomb, Image.fromarray(LABEL)).check()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DatasetError, match=r"a\.png: is too large"):
            dataset(tmp_path, encoded(Image.new("1", (10000, 9500)), "PNG"), Image.fromarray(LABEL)).check()


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM", "JPEG2000", "TGA", "PCX"])
def test_nothing_but_dataset_errors_comes_of_damage(tmp_path: Path, file_format: str) -> None:
    random, raw = np.random.default_rng(3), encoded(Image.fromarray(PICTURE), file_format)
    data = dataset(tmp_path, raw, Image.fromarray(LABEL), "x", layout={"images": "images/{split}/{stem}.x"})
    path = tmp_path / "images/train/a.x"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for turn in range(150):
            damaged = bytearray(raw[: random.integers(1, len(raw))] if turn % 2 else raw)
            for _ in range(random.integers(0, 4)):
                damaged[random.integers(min(len(damaged), 60 if turn % 3 else len(damaged)))] ^= 1 << random.integers(8)
            path.write_bytes(damaged)
            try:
                data._dataset.sample(0)
            except DatasetError as error:
                assert "/train/a." in str(error)


def test_every_damaged_file_is_counted(tmp_path: Path) -> None:
    for stem in "abc":
        for kind, pixels in (("images", PICTURE), ("masks", LABEL)):
            (tmp_path / kind / "train").mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / kind / "train" / f"{stem}.png")
    for stem in "bc":
        (tmp_path / "masks/train" / f"{stem}.png").write_bytes(b"")
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump({"name": "t", "classes": ["a", "b", "c"]}))
    with pytest.raises(DatasetError, match=r"train/b\.png: is empty; expected an image; 1 more refused: .*train/c\.png"):
        open_dataset(f"folder:path={tmp_path}").check()


# Masks that are turned otherwise than their images.


@pytest.mark.parametrize("of_image_tag", [1, 3])
@pytest.mark.parametrize("of_mask_tag", [2, 3, 4])
def test_a_mask_that_is_turned_otherwise_than_its_image_is_said(tmp_path: Path, of_image_tag: int, of_mask_tag: int) -> None:
    image = tagged(PICTURE, of_image_tag, "PNG") if of_image_tag != 1 else Image.fromarray(PICTURE)
    mask = tagged(LABEL, of_mask_tag, "PNG")
    data = dataset(tmp_path, image, mask)
    data.check()
    said = [text for text in data.notices if "masks are turned" in text]
    tags = f"masks/train/a.png (tag {of_mask_tag}, its image {of_image_tag}); if masks lie in their files as images do"
    assert len(said) == (of_image_tag != of_mask_tag)
    assert all(tags in text and "write orientation: stored" in text for text in said)
    stored = dataset(tmp_path, image, mask, orientation="stored")
    stored.check()
    assert not any("turned" in text for text in stored.notices)


def test_a_mask_that_is_of_another_size_because_it_was_turned_is_told_so(tmp_path: Path) -> None:
    mask = tagged(LABEL.T.copy(), 6, "PNG")
    with pytest.raises(DatasetError, match=r"mask is 16x24, turned as its own orientation tag, 6, says; .*orientation: stored"):
        dataset(tmp_path, Image.fromarray(PICTURE), mask).check()
    dataset(tmp_path, Image.fromarray(PICTURE), mask, orientation="stored").check()


# PPM, PGM and BMP of few bits.


@pytest.mark.parametrize("maximum", [1, 3, 7, 31, 100, 127, 200, 254])
@pytest.mark.parametrize("head", ["P2", "P3", "P5", "P6"])
def test_values_up_to_another_maximum_are_spread_and_none_is_above_it(tmp_path: Path, head: str, maximum: int) -> None:
    channels = 3 if head in ("P3", "P6") else 1
    values = np.random.default_rng(maximum).integers(0, maximum + 1, (H, W, channels), dtype=np.uint8)
    values[0, 0], values[-1, -1] = 0, maximum

    def stored(values: np.ndarray) -> bytes:
        body = " ".join(map(str, values.ravel().tolist())).encode() if head in ("P2", "P3") else values.tobytes()
        return f"{head} {W} {H} {maximum}\n".encode() + body

    expected = np.rint(values / maximum * 255).astype(np.uint8)
    assert np.array_equal(of_image(tmp_path, stored(values), "ppm"), np.broadcast_to(expected, (H, W, 3)))
    values[3, 4] = maximum + 1
    with pytest.raises(
        DatasetError, match=rf"a\.ppm: (says that its values go to {maximum}, and holds {maximum + 1} \(|cannot be)"
    ):
        of_image(tmp_path, stored(values), "ppm")


@pytest.mark.parametrize("head", ["P3", "P6"])
def test_a_ppm_of_16_bits_becomes_the_nearest_of_8(tmp_path: Path, head: str) -> None:
    wide = np.random.default_rng(6).integers(0, 1 << 16, (H, W, 3)).astype(">u2")
    body = " ".join(map(str, wide.ravel().tolist())).encode() if head == "P3" else wide.tobytes()
    pixels = of_image(tmp_path, f"{head} {W} {H} 65535\n".encode() + body, "ppm", scale=[0, 65535])
    assert np.array_equal(pixels, np.rint(wide.astype(float) / 257).astype(np.uint8))


MASKS_OF_BMP = {"5-6-5": (0xF800, 0x07E0, 0x001F), "5-5-5": (0x7C00, 0x03E0, 0x001F)}


def bmp(pixels: np.ndarray, masks: tuple[int, int, int]) -> bytes:
    """A BMP with 16 bits a pixel."""
    packed = np.zeros(pixels.shape[:2], np.uint32)
    for channel, mask in enumerate(masks):
        bits = bin(mask).count("1")
        packed |= (pixels[:, :, channel].astype(np.uint32) >> 8 - bits) * (mask & -mask)
    body = packed[::-1].astype("<u2").tobytes()
    head = np.array([40, W, H, 1 | 16 << 16, 3, len(body), 0, 0, 0, 0, *masks], "<u4").tobytes()
    return b"BM" + np.array([14 + len(head) + len(body), 0, 14 + len(head)], "<u4").tobytes() + head + body


@pytest.mark.parametrize("name", MASKS_OF_BMP)
def test_a_bmp_of_16_bits_has_5_or_6_bits_a_channel(tmp_path: Path, name: str) -> None:
    stored = bmp(PICTURE, MASKS_OF_BMP[name])
    assert np.abs(of_image(tmp_path, stored, "bmp").astype(int) - PICTURE).max() < 8
    with pytest.raises(DatasetError, match="mask is stored as: RGB, 5 or 6 bits a channel"):
        of_mask(tmp_path / "mask", bmp(np.stack([LABEL] * 3, 2) * 100, MASKS_OF_BMP[name]), "bmp")
