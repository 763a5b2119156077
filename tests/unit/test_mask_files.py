"""What a mask file means: each way to store numbers and colors is read so, or refused with the line that would decide."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from storing import BOX, LABEL, PICTURE, H, W, dataset, encoded, of_mask, palette, png

from agentkd.datasets.exactness import is_lossy
from agentkd.datasets.pictures import FILE_FORMAT
from agentkd.errors import DatasetError

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
    keys = {} if channel == "alpha" else {"alpha": "omit"}
    assert np.array_equal(of_mask(tmp_path, Image.fromarray(pixels), id_channel=channel, **keys), LABEL)


@pytest.mark.parametrize("channel", ["red", "rgb"])
def test_clear_pixels_are_no_matter_of_course_where_a_channel_is_named(tmp_path: Path, channel: str) -> None:
    nothing = np.zeros_like(LABEL)
    mask = Image.fromarray(np.dstack([LABEL, nothing, nothing, np.where(BOX, 0, 255).astype(np.uint8)]))
    with pytest.raises(DatasetError, match=r"masks/train/a.png: mask has 85 pixels that are not opaque; expected alpha: omit"):
        of_mask(tmp_path, mask, id_channel=channel)
    assert np.array_equal(of_mask(tmp_path, mask, id_channel=channel, alpha="omit"), LABEL)
    assert np.array_equal(of_mask(tmp_path, mask, id_channel=channel, alpha="ignored"), np.where(BOX, 255, LABEL))
    opaque = Image.fromarray(np.dstack([LABEL, nothing, nothing, np.full_like(LABEL, 255)]))
    assert np.array_equal(of_mask(tmp_path, opaque, id_channel=channel), LABEL)
    with pytest.raises(DatasetError, match="alpha: ignored does not go with id_channel: alpha"):
        of_mask(tmp_path, mask, id_channel="alpha", alpha="ignored")


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
    "PGM up to 3, as text": (
        b"P2 24 16 3\n" + " ".join(map(str, LABEL.ravel())).encode(),
        {},
        "stored as: gray, 2 or 4 bits, or a PGM",
    ),
    "PGM up to 1000": (
        b"P5 24 16 1000\n" + LABEL.astype(">u2").tobytes(),
        {"ignored_values": "others"},
        "stored as: a PGM or PPM up",
    ),
    "PGM, PPM up to 3": (
        b"P6 24 16 3\n" + np.repeat(LABEL, 3, 1).tobytes(),
        {"ignored_values": "others"},
        "stored as: RGB, 5 or 6 bits",
    ),
    "PGM, PPM up to 3, in red": (
        b"P6 24 16 3\n" + np.repeat(LABEL, 3, 1).tobytes(),
        {"id_channel": "red"},
        "stored as: RGB, 5 or 6 bits",
    ),
    "PGM, PPM as text up to 3, by colors": (
        b"P3 24 16 3\n" + " ".join(map(str, np.repeat(LABEL, 3, 1).ravel())).encode(),
        {"format": "color-mask", "colors": [[0, 0, 0], [85, 85, 85], [170, 170, 170]]},
        "stored as: RGB, 5 or 6 bits",
    ),
    "PGM, PPM of 16 bits": (
        b"P6 24 16 65535\n" + np.repeat(LABEL, 3, 1).astype(">u2").tobytes(),
        {},
        "stored as: several channels of 16 bits",
    ),
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


CLEAR = {  # the second class is clear
    "a palette": (palette(LABEL, [(0, 0, 0), (9, 0, 0), (0, 9, 0)]), "PNG", 1),
    "a palette, half clear": (palette(LABEL, [(0, 0, 0), (9, 0, 0), (0, 9, 0)]), "PNG", bytes([255, 128])),
    "a GIF": (palette(LABEL, [(0, 0, 0), (9, 0, 0), (0, 9, 0)]), "GIF", 1),
    "gray": (Image.fromarray(LABEL), "PNG", 1),
    "16 bits": (Image.fromarray(LABEL.astype(np.uint16)), "PNG", 1),
    "RGB": (Image.fromarray(np.stack([LABEL] * 3, 2)), "PNG", (1, 1, 1)),
}


@pytest.mark.parametrize("name", CLEAR)
def test_what_a_file_says_is_clear_is_not_opaque(tmp_path: Path, name: str) -> None:
    image, file_format, clear = CLEAR[name]
    mask, ending = encoded(image, file_format, transparency=clear), file_format.lower()
    with pytest.raises(DatasetError, match=r"masks/train/a\.\w+: mask has \d+ pixels that are not opaque; expected alpha: omit"):
        of_mask(tmp_path, mask, ending)
    assert np.array_equal(of_mask(tmp_path, mask, ending, alpha="omit"), LABEL)
    label = LABEL if isinstance(clear, bytes) else np.where(LABEL == 1, 255, LABEL)
    assert np.array_equal(of_mask(tmp_path, mask, ending, alpha="ignored"), label)


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
    mask, two = palette(BOX, [(255, 255, 255), (0, 0, 0)]), {"classes": ["a", "b"], "format": mask_format}
    two |= {"threshold": 1} if mask_format == "threshold-mask" else {}
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


@pytest.mark.parametrize("kind", [np.int32, np.float32])
@pytest.mark.parametrize("mask_format", ["binary-mask", "threshold-mask"])
def test_a_negative_value_of_two_classes_is_not_the_first(tmp_path: Path, mask_format: str, kind: type) -> None:
    two = {"classes": ["a", "b"], "format": mask_format}
    mask = encoded(Image.fromarray(np.choose(LABEL, [0, 255, -9999]).astype(kind)), "TIFF")
    with pytest.raises(DatasetError, match=r"masks/train/a.tif: .*negative value -9999 .*ignored_values: \[-9999\]"):
        of_mask(tmp_path, mask, "tif", **two)
    label = of_mask(tmp_path, mask, "tif", ignored_values=[-9999], **two)
    assert np.array_equal(label, np.choose(LABEL, [0, 1, 255]))
    if kind is np.float32:
        nothing = encoded(Image.fromarray(np.where(BOX, np.nan, 0).astype(kind)), "TIFF")
        with pytest.raises(DatasetError, match="holds nan"):
            of_mask(tmp_path, nothing, "tif", **two)


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


# Formats that have a kind without loss.

GRAYS = np.choose(LABEL, [0, 80, 160]).astype(np.uint8)
VALUES = {"values": {0: "a", 80: "b", 160: "c"}}
LOSSLESS = {
    "JPEG 2000": ("JPEG2000", {}),
    "JPEG 2000, its stream alone": ("JPEG2000", {"no_jp2": True}),
    "JPEG 2000 in tiles": ("JPEG2000", {"tile_size": (8, 8)}),
    "WebP": ("WEBP", {"lossless": True}),
    "WebP with a long profile": ("WEBP", {"lossless": True, "icc_profile": b"VP8 " * 3000}),
}
LOSSY = {
    "JPEG 2000": ("JPEG2000", {"irreversible": True, "quality_layers": [4]}),
    "JPEG 2000 in tiles": ("JPEG2000", {"irreversible": True, "tile_size": (8, 8)}),
    "WebP": ("WEBP", {"quality": 30}),
    "WebP whose profile speaks of the other kind": ("WEBP", {"quality": 30, "icc_profile": b"VP8L" * 30}),
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_a_mask_that_says_that_it_has_no_loss_is_read_as_it_is(tmp_path: Path, name: str) -> None:
    file_format, options = LOSSLESS[name]
    mask = LABEL if file_format == "JPEG2000" else np.stack([LABEL] * 3, 2)
    data = dataset(tmp_path, Image.fromarray(PICTURE), encoded(Image.fromarray(mask), file_format, **options), mask_ending="jp2")
    assert np.array_equal(data.sample(0).label, LABEL)
    data.check()
    cut = [text for text in data.notices if "whether values were cut to save space they do not say" in text]
    assert len(cut) == (file_format == "JPEG2000")


@pytest.mark.parametrize("name", LOSSY)
def test_a_mask_that_says_that_it_has_loss_is_not(tmp_path: Path, name: str) -> None:
    file_format, options = LOSSY[name]
    mask = Image.fromarray(LABEL if file_format == "JPEG2000" else np.stack([LABEL] * 3, 2))
    with pytest.raises(DatasetError, match=r"compressed with loss: \[\d\] and \[\d\] cannot be told apart"):
        of_mask(tmp_path, encoded(mask, file_format, **options), "jp2")
    far = Image.fromarray(GRAYS if file_format == "JPEG2000" else np.stack([GRAYS] * 3, 2))
    assert (of_mask(tmp_path, encoded(far, file_format, **options), "jp2", stray_pixels=0.99, **VALUES) == LABEL).mean() > 0.8


def test_one_component_of_a_jpeg_2000_with_loss_is_enough(tmp_path: Path) -> None:
    whole = encoded(Image.fromarray(LABEL), "JPEG2000", no_jp2=True)
    at = whole.index(b"\xff\x52")
    style = whole[at + 9 : at + 14]
    assert style[4] == 1
    of_one = b"\xff\x53\x00\x09\x00\x00" + style[:4] + b"\x00"
    told = whole[: at + 14] + of_one + whole[at + 14 :]
    path = tmp_path / "a.jp2"
    path.write_bytes(told)
    image = Image.fromarray(LABEL)
    image.info[FILE_FORMAT] = "JPEG2000"
    assert is_lossy(image, path)
    path.write_bytes(whole)
    assert not is_lossy(image, path)


def test_a_jpeg_2000_of_two_classes_with_more_values_was_cut(tmp_path: Path) -> None:
    mask = encoded(Image.fromarray(np.where(BOX, 255, 0).astype(np.uint8)), "JPEG2000", quality_layers=[60])
    with pytest.raises(DatasetError, match=r"binary-mask is JPEG 2000, and holds \d+ values: perhaps it was cut"):
        of_mask(tmp_path, mask, "jp2", format="binary-mask", classes=["a", "b"])
