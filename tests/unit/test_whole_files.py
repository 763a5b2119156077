"""Files that end early are refused, whatever their format; those that are whole are not, however they were made."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from storing import LABEL, PICTURE, dataset, encoded

from agentkd.datasets.pictures import open_image
from agentkd.errors import DatasetError

SMOOTH = np.clip(np.add.outer(np.linspace(0, 240, 48), np.linspace(0, 15, 64))[:, :, None] * [1, 0.9, 0.8], 0, 255).astype(
    np.uint8
)
ROUGH = np.clip(SMOOTH + np.random.default_rng(4).integers(0, 16, SMOOTH.shape), 0, 255).astype(np.uint8)
EOI = b"\xff\xd9"
JPEGS: dict[str, dict[str, object]] = {
    "at once": {},
    "with tables of its own": {"optimize": True, "quality": 95, "subsampling": 0},
    "in several scans": {"progressive": True},
    "with restarts": {"restart_marker_blocks": 2},
    "in several scans with restarts": {"progressive": True, "restart_marker_blocks": 3},
}
MODES = ["RGB", "L", "CMYK"]


def jpeg(mode: str, name: str) -> bytes:
    parts = [Image.fromarray(np.ascontiguousarray(part)) for part in (*ROUGH.transpose(2, 0, 1), ROUGH[::-1, :, 0])]
    picture = Image.merge("CMYK", parts) if mode == "CMYK" else Image.fromarray(ROUGH).convert(mode)
    return encoded(picture, "JPEG", **JPEGS[name])


def opened(path: Path, content: bytes) -> np.ndarray:
    path.write_bytes(content)
    return np.asarray(open_image(path))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_whose_end_marker_comes_early_is_not_filled_with_gray(tmp_path: Path, name: str, mode: str) -> None:
    whole, path = jpeg(mode, name), tmp_path / "a.jpg"
    pixels = opened(path, whole)
    for share in np.linspace(0.1, 0.95, 9):
        cut = whole[: int(len(whole) * share)].rstrip(b"\xff")
        in_scan = len(cut) > whole.rindex(b"\xff\xda") + 14
        for content in (cut + EOI, cut, *([cut + EOI + whole[len(cut) :]] if in_scan else [])):
            path.write_bytes(content)
            try:
                found = np.asarray(open_image(path))
            except DatasetError as error:
                assert str(error).startswith(str(path)) and ("ends early" in str(error) or "cannot be read" in str(error))
            else:
                assert np.array_equal(found, pixels), f"{share:.2f} of it"
    path.write_bytes(whole[: (whole.rindex(b"\xff\xda") + len(whole)) // 2].rstrip(b"\xff") + EOI)
    with pytest.raises(DatasetError, match=r"a\.jpg: ends early: .*; expected a whole file; copy or download it again"):
        open_image(path)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize("more", [b"", b"\0" * 100, b"\xff\xd8\xff\xd9", b"SEFT" + bytes(range(200))], ids=len)
def test_a_whole_jpeg_may_have_something_behind_its_end(tmp_path: Path, name: str, mode: str, more: bytes) -> None:
    whole = jpeg(mode, name)
    assert np.array_equal(opened(tmp_path / "a.jpg", whole + more), np.asarray(Image.open(io.BytesIO(whole))))


@pytest.mark.parametrize("shape", [(1, 1), (7, 9), (16, 16), (17, 33)])
@pytest.mark.parametrize("name", JPEGS)
def test_a_whole_jpeg_may_be_gray_to_its_end(tmp_path: Path, name: str, shape: tuple[int, int]) -> None:
    gray = np.full((*shape, 3), 128, np.uint8)
    assert np.array_equal(opened(tmp_path / "a.jpg", encoded(Image.fromarray(gray), "JPEG", **JPEGS[name])), gray)


def test_scans_that_make_it_sharper_must_be_there(tmp_path: Path) -> None:
    whole = jpeg("RGB", "in several scans")
    last_scan = whole.rindex(b"\xff\xda")
    before = whole.rindex(b"\xff\xc4", 0, last_scan) if b"\xff\xc4" in whole[last_scan - 80 : last_scan] else last_scan
    with pytest.raises(DatasetError, match="ends early: the last of its scans, which make it sharper, are missing"):
        opened(tmp_path / "a.jpg", whole[:before] + EOI)
    with pytest.raises(DatasetError, match="ends early: its end marker comes before its last block of pixels"):
        opened(tmp_path / "a.jpg", whole[: (last_scan + len(whole)) // 2].rstrip(b"\xff") + EOI)


def test_a_file_that_was_found_whole_is_not_decoded_twice_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset(tmp_path, jpeg("RGB", "in several scans"), Image.fromarray(np.resize(LABEL, (48, 64))), "jpg")
    data._dataset.sample(0)
    monkeypatch.setattr("agentkd.datasets.wholeness._check_jpeg", lambda *_: pytest.fail("looked at again"))
    data._dataset.sample(0)


def chunks(content: bytes) -> list[tuple[int, int]]:
    """Where each chunk of a PNG begins and ends."""
    found, at = [], 8
    while at < len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        found.append((at, end))
        at = end
    return found


def test_a_png_without_its_end_is_refused(tmp_path: Path) -> None:
    whole, path = encoded(Image.fromarray(PICTURE), "PNG"), tmp_path / "a.png"
    assert np.array_equal(opened(path, whole + b"more"), PICTURE)
    for size in (*range(8, len(whole), 7), *range(len(whole) - 20, len(whole))):
        with pytest.raises(DatasetError, match=r"a\.png: (ends early: its last chunk, IEND, is missing|cannot be read)"):
            opened(path, whole[:size])
        if size < len(whole) - 4:
            with pytest.raises(DatasetError, match=r"a\.png"):
                opened(path, whole[:size] + bytes(len(whole) - size))
    with pytest.raises(
        DatasetError, match=r"ends early: its last chunk, IEND, is missing \(1,\d+ bytes\); expected a whole file"
    ):
        opened(path, whole[: chunks(whole)[-1][0]])


OTHERS: dict[str, tuple[str, dict[str, object]]] = {
    "TIFF": ("TIFF", {}),
    "TIFF, LZW": ("TIFF", {"compression": "tiff_lzw"}),
    "TIFF, deflate": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    "TIFF, JPEG": ("TIFF", {"compression": "jpeg"}),
    "GIF": ("GIF", {}),
    "BMP": ("BMP", {}),
    "WebP": ("WEBP", {}),
    "WebP without loss": ("WEBP", {"lossless": True}),
    "JPEG 2000": ("JPEG2000", {}),
    "JPEG 2000 with loss": ("JPEG2000", {"irreversible": True, "quality_layers": [10]}),
    "JPEG 2000, its stream alone": ("JPEG2000", {"no_jp2": True}),
    "PPM": ("PPM", {}),
    "PCX": ("PCX", {}),
    "TGA": ("TGA", {}),
    "TGA, run lengths": ("TGA", {"compression": "tga_rle"}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OTHERS)
def test_no_other_format_shows_less_than_it_says(tmp_path: Path, name: str) -> None:
    file_format, options = OTHERS[name]
    whole, path = encoded(Image.fromarray(ROUGH), file_format, **options), tmp_path / "a.x"
    pixels = opened(path, whole)
    for size in sorted({int(len(whole) * share) for share in np.linspace(0.02, 1, 50, endpoint=False)}):
        path.write_bytes(whole[:size])
        try:
            found = np.asarray(open_image(path))
        except DatasetError as error:
            assert str(error).startswith(str(path))
        else:
            assert np.array_equal(found, pixels), f"{size} of {len(whole)} bytes"


@pytest.mark.parametrize("side", ["images", "masks"])
def test_the_check_of_data_finds_files_that_end_early_and_opening_does_not_look(tmp_path: Path, side: str) -> None:
    cut = encoded(Image.fromarray(PICTURE if side == "images" else LABEL), "PNG")[:-12]
    pair = (cut, Image.fromarray(LABEL)) if side == "images" else (Image.fromarray(PICTURE), cut)
    data = dataset(tmp_path, *pair)
    with pytest.raises(DatasetError, match=rf"{side}/train/a\.png: ends early: its last chunk"):
        data.check()
