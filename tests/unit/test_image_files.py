"""What an image file means: the documents show the code's table, and each way to store pixels is read so or refused."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from agentkd.datasets.meaning import MEANINGS
from agentkd.datasets.opening import Opened, open_dataset
from agentkd.errors import DatasetError

ROOT = Path(__file__).parents[2]
H, W = 16, 24
LABEL = np.zeros((H, W), np.uint8)
LABEL[2:7, 3:20], LABEL[9:13, 1:5] = 1, 2
PICTURE = np.random.default_rng(1).integers(0, 256, (H, W, 3), dtype=np.uint8)
BOX = LABEL == 1


def dataset(
    root: Path,
    image: Image.Image | bytes,
    mask: Image.Image | bytes,
    ending: str = "png",
    mask_ending: str = "png",
    **keys: object,
) -> Opened:
    """One image and its mask."""
    for kind, content, end in (("images", image, ending), ("masks", mask, mask_ending)):
        (root / kind / "train").mkdir(parents=True, exist_ok=True)
        path = root / kind / "train" / f"a.{end}"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content.save(path)
    description = {
        "name": "t",
        "classes": ["a", "b", "c"],
        "layout": {"images": "images/{split}/{stem}.*", "masks": "masks/{split}/{stem}.*"},
    }
    (root / "dataset.yaml").write_text(yaml.safe_dump(description | keys))
    return open_dataset(f"folder:path={root}")


def of_mask(root: Path, mask: Image.Image | bytes, ending: str = "png", **keys: object) -> np.ndarray:
    return dataset(root, Image.fromarray(PICTURE), mask, mask_ending=ending, **keys).sample(0).label


def of_image(root: Path, image: Image.Image | bytes, ending: str = "png", **keys: object) -> np.ndarray:
    return dataset(root, image, Image.fromarray(LABEL), ending, **keys).sample(0).image


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def png(values: np.ndarray, bits: int, kind: int) -> bytes:
    """A PNG written by hand: other bit depths than Pillow writes. ``values [H, samples of a row]``."""
    packed = []
    for row in values.tolist():
        number = 0
        for value in row:
            number = number << bits | value
        packed.append(b"\0" + (number << -len(row) * bits % 8).to_bytes((len(row) * bits + 7) // 8))
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[kind]
    head = struct.pack(">IIBBBBB", values.shape[1] // channels, values.shape[0], bits, kind, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(b"".join(packed))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks
    )


def palette(values: np.ndarray, colors: list[tuple[int, int, int]]) -> Image.Image:
    image = Image.fromarray(values.astype(np.uint8))
    image.putpalette([part for color in colors for part in color])
    return image


def test_the_documents_show_the_table_of_the_code() -> None:
    page = (ROOT / "docs/how-to/datasets.md").read_text(encoding="utf-8")
    rows = [
        f"| {row.stored}{', *' if row.has_alpha else ''} | {row.image} | {row.mask} |".replace(", *", " \\*") for row in MEANINGS
    ]
    table = page[page.index("| stored as | an image is | a mask is |") :].split("\n\n")[0].splitlines()
    assert table[2:] == rows


# Masks of numbers.

STORED = {
    "8 bits": (Image.fromarray(LABEL), "png"),
    "16 bits": (Image.fromarray(LABEL.astype(np.uint16)), "png"),
    "16 bits, TIFF": (Image.fromarray(LABEL.astype(np.uint16)), "tif"),
    "16 bits, TIFF, other order of bytes": (Image.frombytes("I;16B", (W, H), LABEL.astype(">u2").tobytes()), "tif"),
    "32 bits": (Image.fromarray(LABEL.astype(np.int32)), "tif"),
    "floating point": (Image.fromarray(LABEL.astype(np.float32)), "tif"),
    "RGB of three equal channels": (Image.fromarray(np.stack([LABEL] * 3, 2)), "png"),
    "RGBA": (Image.fromarray(np.dstack([LABEL, LABEL, LABEL, np.full_like(LABEL, 255)])), "png"),
    "gray with alpha": (Image.merge("LA", [Image.fromarray(LABEL), Image.new("L", (W, H), 255)]), "png"),
    "a colored palette": (palette(LABEL, [(0, 0, 0), (128, 0, 0), (0, 128, 0)]), "png"),
    "a palette that begins with white": (palette(LABEL, [(255, 255, 255), (0, 0, 0), (9, 1, 1)]), "png"),
    "a GIF": (palette(LABEL, [(0, 0, 0), (128, 0, 0), (0, 128, 0)]), "gif"),
    "WebP without loss": (encoded(Image.fromarray(np.stack([LABEL] * 3, 2)), "WEBP", lossless=True), "webp"),
    "BMP": (Image.fromarray(LABEL), "BMP"),
    "PGM": (Image.fromarray(LABEL), "pgm"),
    "TIFF, packed": (encoded(Image.fromarray(LABEL), "TIFF", compression="tiff_lzw"), "TIF"),
}


@pytest.mark.parametrize("name", STORED)
def test_numbers_are_read_however_they_are_stored(tmp_path: Path, name: str) -> None:
    assert np.array_equal(of_mask(tmp_path, *STORED[name]), LABEL)


def test_one_bit_is_zero_and_one(tmp_path: Path) -> None:
    assert np.array_equal(of_mask(tmp_path, Image.fromarray(BOX)), BOX)


@pytest.mark.parametrize("channel", ["red", "green", "blue", "alpha"])
def test_numbers_lie_in_the_channel_that_is_named(tmp_path: Path, channel: str) -> None:
    pixels = np.full((H, W, 4), 77, np.uint8)
    pixels[:, :, ["red", "green", "blue", "alpha"].index(channel)] = LABEL
    assert np.array_equal(of_mask(tmp_path, Image.fromarray(pixels), id_channel=channel), LABEL)


def test_numbers_in_three_channels_are_put_together(tmp_path: Path) -> None:
    pixels = np.stack([LABEL, LABEL, np.zeros_like(LABEL)], 2)
    label = of_mask(tmp_path, Image.fromarray(pixels), id_channel="rgb", values={0: "a", 257: "b", 514: "c"})
    assert np.array_equal(label, LABEL)


def test_values_beyond_a_byte_are_classes_if_they_are_listed(tmp_path: Path) -> None:
    mask = np.choose(LABEL, [7, 26001, 70000]).astype(np.int32)
    keys = {"values": {7: "a", 26001: "b", 70000: "c"}}
    assert np.array_equal(of_mask(tmp_path, Image.fromarray(mask), "tif", **keys), LABEL)


def test_several_values_are_one_class_and_others_are_ignored(tmp_path: Path) -> None:
    mask = LABEL.copy()
    mask[0, :3] = 9, 10, 200
    label = of_mask(tmp_path, Image.fromarray(mask), values={0: "a", 1: "b", 2: "c", 9: "c"}, ignored_values=[10, 200])
    assert label[0, :3].tolist() == [2, 255, 255] and np.array_equal(label[1:], LABEL[1:])
    assert of_mask(tmp_path, Image.fromarray(mask), ignored_values="others")[0, :3].tolist() == [255, 255, 255]


def test_a_255_may_be_a_class(tmp_path: Path) -> None:
    mask = np.where(BOX, 255, 0).astype(np.uint8)
    label = of_mask(tmp_path, Image.fromarray(mask), classes=["a", "b"], values={0: "a", 255: "b"})
    assert np.array_equal(label, BOX)


REFUSED_MASKS = {
    "16 bits beyond a byte": (Image.fromarray(np.where(BOX, 26001, 0).astype(np.uint16)), {}, "unknown value 26001 in 85 pixels"),
    "a value of 16 bits that is 255 at its end": (
        Image.fromarray(np.where(BOX, 511, 0).astype(np.uint16)),
        {},
        "unknown value 511",
    ),
    "negative": (encoded(Image.fromarray(np.where(BOX, -1, 0).astype(np.int32)), "TIFF"), {}, "unknown value -1"),
    "fractions": (encoded(Image.fromarray(LABEL / np.float32(2)), "TIFF"), {}, "holds 0.5, and 84 more values that are no whole"),
    "not a number": (encoded(Image.fromarray(np.where(BOX, np.nan, 0).astype(np.float32)), "TIFF"), {}, "holds nan"),
    "colors": (Image.fromarray(np.dstack([LABEL, 0 * LABEL, 0 * LABEL])), {}, "has the color 1,0,0, .*id_channel: red"),
    "a channel that is not there": (Image.fromarray(LABEL), {"id_channel": "red"}, "has no channel 'red': it is gray, 8 bits"),
    "alpha that is not there": (Image.fromarray(np.stack([LABEL] * 3, 2)), {"id_channel": "alpha"}, "has no channel 'alpha'"),
    "clear pixels": (
        Image.merge("LA", [Image.fromarray(LABEL), Image.fromarray(np.where(BOX, 0, 255).astype(np.uint8))]),
        {},
        "85 pixels that are not opaque; expected alpha: omit .* alpha: ignored",
    ),
    "channels of 16 bits": (png(np.repeat(LABEL, 3, 1), 16, 2), {}, "stored as: several channels of 16 bits"),
    "gray with alpha, 16 bits": (png(np.repeat(LABEL, 2, 1), 16, 4), {}, "stored as: several channels of 16 bits"),
    "gray, 2 bits": (png(LABEL, 2, 0), {}, "stored as: gray, 2 or 4 bits"),
    "gray, 4 bits": (png(LABEL, 4, 0), {}, "stored as: gray, 2 or 4 bits"),
    "CMYK": (encoded(Image.new("CMYK", (W, H)), "TIFF"), {}, "stored as: CMYK"),
    "LAB": (encoded(Image.new("LAB", (W, H)), "TIFF"), {}, "stored as: LAB in a TIFF"),
    "PGM up to 3": (b"P5 24 16 3\n" + LABEL.tobytes(), {}, "stored as: gray, 2 or 4 bits, or a PGM"),
    "white is zero": (encoded(Image.fromarray(LABEL), "TIFF", tiffinfo={262: 0}), {}, "TIFF in which 0 is white|unknown value"),
    "colors of 16 bits gray": (
        Image.fromarray(LABEL.astype(np.uint16)),
        {"format": "color-mask", "colors": [[0, 0, 0], [1, 1, 1], [2, 2, 2]]},
        "stored as: gray, 16",
    ),
    "JPEG": (encoded(Image.fromarray(LABEL), "JPEG"), {}, r"compressed with loss: \[\d\] and \[\d\] cannot be told apart"),
    "another size": (Image.fromarray(LABEL[:, :9]), {}, "mask is 9x16; expected 24x16 as a.png"),
    "lying": (Image.fromarray(LABEL.T.copy()), {}, "mask is 16x24; expected 24x16 as a.png; .*orientation: stored"),
}


@pytest.mark.parametrize("name", REFUSED_MASKS)
def test_what_does_not_say_which_class_it_means_is_refused(tmp_path: Path, name: str) -> None:
    mask, keys, told = REFUSED_MASKS[name]
    ending = "png" if not isinstance(mask, bytes) or mask[:4] == b"\x89PNG" else "tif" if mask[:2] in (b"II", b"MM") else "jpg"
    with pytest.raises(DatasetError, match=rf"masks/train/a\.\w+: .*{told}"):
        of_mask(tmp_path, mask, "pgm" if name.startswith("PGM") else ending, **keys)


def test_clear_pixels_are_what_the_description_says(tmp_path: Path) -> None:
    mask = Image.fromarray(np.dstack([LABEL, LABEL, LABEL, np.where(BOX, 0, 255).astype(np.uint8)]))
    assert np.array_equal(of_mask(tmp_path, mask, alpha="omit"), LABEL)
    assert np.array_equal(of_mask(tmp_path, mask, alpha="ignored"), np.where(BOX, 255, LABEL))


# Palettes.


def test_a_gray_palette_that_numbers_otherwise_must_be_explained(tmp_path: Path) -> None:
    """As Pillow writes a GIF: only the values that occur have entries, from 0 on."""
    mask = Image.fromarray(np.where(BOX, 2, 0).astype(np.uint8))
    with pytest.raises(
        DatasetError, match=r"numbers are \[0, 1\], its colors mean \[0, 2\]; expected palette: index or palette: color"
    ):
        of_mask(tmp_path, mask, "gif")
    assert np.unique(of_mask(tmp_path, mask, "gif", palette="color")).tolist() == [0, 2]
    assert np.unique(of_mask(tmp_path, mask, "gif", palette="index")).tolist() == [0, 1]


def test_a_palette_of_the_classes_colors_in_another_order_must_be_explained(tmp_path: Path) -> None:
    colors = [[10, 0, 0], [0, 20, 0], [0, 0, 30]]
    mask = palette(LABEL, [(0, 0, 30), (0, 20, 0), (10, 0, 0)])
    with pytest.raises(DatasetError, match="palette: index or palette: color"):
        of_mask(tmp_path, mask, colors=colors)
    assert np.array_equal(of_mask(tmp_path, mask, colors=colors, palette="color"), 2 - LABEL)
    assert np.array_equal(of_mask(tmp_path, mask, colors=colors, palette="index"), LABEL)
    assert np.array_equal(of_mask(tmp_path, mask, colors=colors, format="color-mask"), 2 - LABEL)


@pytest.mark.parametrize("mask_format", ["binary-mask", "threshold-mask"])
def test_a_white_first_entry_is_not_inverted(tmp_path: Path, mask_format: str) -> None:
    mask, two = palette(BOX, [(255, 255, 255), (0, 0, 0)]), {"classes": ["a", "b"], "format": mask_format, "threshold": 1}
    with pytest.raises(DatasetError, match="palette: index or palette: color"):
        of_mask(tmp_path, mask, **two)
    assert np.array_equal(of_mask(tmp_path, mask, palette="index", **two), BOX)
    assert np.array_equal(of_mask(tmp_path, mask, palette="color", **two), ~BOX)


# Two classes.

TWO = {
    "1 bit": Image.fromarray(BOX),
    "0 and 1": Image.fromarray(BOX.astype(np.uint8)),
    "0 and 255": Image.fromarray(np.where(BOX, 255, 0).astype(np.uint8)),
    "0 and 65535": Image.fromarray(np.where(BOX, 65535, 0).astype(np.uint16)),
    "0 and 256": Image.fromarray(np.where(BOX, 256, 0).astype(np.uint16)),
    "dark blue": Image.fromarray(np.dstack([0 * LABEL, 0 * LABEL, BOX.astype(np.uint8)])),
    "a palette": palette(BOX, [(0, 0, 0), (255, 255, 255)]),
    "2 bits": png(np.where(BOX, 3, 0), 2, 0),
}


@pytest.mark.parametrize("name", TWO)
def test_all_but_zero_is_the_second_class(tmp_path: Path, name: str) -> None:
    assert np.array_equal(of_mask(tmp_path, TWO[name], classes=["a", "b"], format="binary-mask"), BOX)


def test_a_value_of_a_binary_mask_may_be_ignored(tmp_path: Path) -> None:
    mask = Image.fromarray(np.choose(LABEL, [0, 255, 128]).astype(np.uint8))
    label = of_mask(tmp_path, mask, classes=["a", "b"], format="binary-mask", ignored_values=[128])
    assert np.array_equal(label, np.choose(LABEL, [0, 1, 255]))


# JPEG.


def test_a_jpeg_mask_of_black_and_white_is_read_and_what_lies_between_is_counted(tmp_path: Path) -> None:
    big = np.kron(BOX, np.ones((8, 8), bool))
    big = np.roll(big, 3, (0, 1))  # edges within the blocks of JPEG
    jpeg = encoded(Image.fromarray(np.where(big, 255, 0).astype(np.uint8)), "JPEG", quality=40)
    data = dataset(
        tmp_path,
        Image.new("RGB", big.shape[::-1]),
        jpeg,
        mask_ending="jpg",
        classes=["a", "b"],
        format="binary-mask",
        stray_pixels=0.05,
    )
    label = data.sample(0).label
    strays = label == 255
    assert np.array_equal(label[~strays], big[~strays]) and 0 < strays.mean() < 0.05
    data.check()
    assert any(f"{strays.sum()} pixels that compression left between the classes" in text for text in data.notices)
    strict = dataset(
        tmp_path,
        Image.new("RGB", big.shape[::-1]),
        jpeg,
        mask_ending="jpg",
        classes=["a", "b"],
        format="binary-mask",
        stray_pixels=0,
    )
    with pytest.raises(
        DatasetError, match=rf"{strays.sum()} of its {label.size} pixels .* near to no class, .*format: threshold-mask"
    ):
        strict.sample(0)


def test_a_jpeg_mask_in_colors_is_read_by_the_nearest(tmp_path: Path) -> None:
    colors = [[0, 0, 0], [200, 0, 0], [0, 0, 220]]
    big = np.kron(LABEL, np.ones((8, 8), np.uint8))
    jpeg = encoded(Image.fromarray(np.array(colors, np.uint8)[big]), "JPEG", quality=92, subsampling=0)
    data = dataset(tmp_path, Image.new("RGB", big.shape[::-1]), jpeg, mask_ending="jpg", format="color-mask", colors=colors)
    label = data.sample(0).label
    assert np.array_equal(label[label != 255], big[label != 255]) and (label == 255).mean() < 0.01
    near = dataset(
        tmp_path,
        Image.new("RGB", big.shape[::-1]),
        jpeg,
        mask_ending="jpg",
        format="color-mask",
        colors=[[0, 0, 0], [40, 0, 0], [0, 0, 220]],
    )
    with pytest.raises(DatasetError, match=r"\[0, 0, 0\] and \[40, 0, 0\] cannot be told apart"):
        near.sample(0)


def test_a_jpeg_of_zero_and_one_does_not_become_one_class_in_silence(tmp_path: Path) -> None:
    jpeg = encoded(Image.fromarray(BOX.astype(np.uint8)), "JPEG")
    data = dataset(tmp_path, Image.fromarray(PICTURE), jpeg, mask_ending="jpg", classes=["a", "b"], format="binary-mask")
    with pytest.raises(DatasetError, match="only one class has pixels, 'a'"):
        data.check()


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


def test_channels_of_16_bits_keep_their_upper_half_if_that_is_stated(tmp_path: Path) -> None:
    wide = PICTURE.astype(np.uint16) * 257
    stored = png(wide.reshape(H, W * 3), 16, 2)
    with pytest.raises(DatasetError, match=r"several channels of 16 bits; expected scale: \[0, 65535\]"):
        of_image(tmp_path, stored)
    assert np.array_equal(of_image(tmp_path, stored, scale=[0, 65535]), PICTURE)


def test_a_pixel_that_is_no_number_is_refused(tmp_path: Path) -> None:
    stored = encoded(Image.fromarray(np.where(BOX, np.nan, 0.5).astype(np.float32)), "TIFF")
    with pytest.raises(DatasetError, match="85 values that are no numbers"):
        of_image(tmp_path, stored, "tif", scale=[0, 1])


# Orientation.

UNTURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def tagged(shown: np.ndarray, orientation: int, file_format: str) -> bytes:
    """A file that looks like ``shown`` once it is turned."""
    exif = Image.Exif()
    exif[0x112] = orientation
    options = {"lossless": True} if file_format == "WEBP" else {"quality": 100, "subsampling": 0} if file_format == "JPEG" else {}
    return encoded(Image.fromarray(shown).transpose(UNTURN[orientation]), file_format, exif=exif, **options)


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


def test_a_turned_image_has_another_digest_and_stored_has_that_of_before(tmp_path: Path) -> None:
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
                data._dataset._read(0)
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
