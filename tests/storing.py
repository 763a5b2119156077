"""Images and masks stored in every way, as bytes and as datasets of one image, for the tests of what they mean."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from agentkd.datasets.opening import Opened, open_dataset

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
