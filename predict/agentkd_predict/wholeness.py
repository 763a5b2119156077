"""Whether a picture's file goes on to its end. Pillow says so of most formats; here is what it takes for whole and is not.

A JPEG whose scan breaks off before an end marker is filled with gray, a PNG may lack its end, and of a JPEG 2000 that was
cut as much is shown as is there. It takes a pass over the file's bytes; some JPEG files are decoded a second time.
"""

import io
import random
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageChops, ImageFile

from agentkd_predict.errors import InputError

SIGNATURE = 8
BLOCK, GRAY, NEAR_GRAY = 8, 128, 8
SOI, EOI, SOS, TEM = 0xD8, 0xD9, 0xDA, 0x01
RESTARTS = range(0xD0, 0xD8)
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
ONE_PASS, PROGRESSIVE = (0xC0, 0xC1), (0xC2, 0xCA)
NUM_COEFFICIENTS = 64
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def check_whole(path: Path, picture: ImageFile.ImageFile) -> None:
    """That nothing is missing at the end of a file.

    Args:
        path: of the file.
        picture: what was made of it, loaded, and not turned.

    Raises:
        InputError: it ends early; where, if that is known.
        OSError: it cannot be read.
    """
    if picture.format in ("JPEG", "MPO"):
        _check_jpeg(path, picture)
    elif picture.format in ENDS:
        data = path.read_bytes()
        lacking = ENDS[picture.format](data)
        if lacking:
            raise _early(path, f"{lacking} ({len(data):,} bytes)")


def _early(path: Path, lacking: str) -> InputError:
    return InputError(path, f"ends early: {lacking}", "a whole file; copy or download it again")


def _check_jpeg(path: Path, picture: ImageFile.ImageFile) -> None:
    data = path.read_bytes()
    found = _Structure.of(data)
    if not found.end:
        raise _early(path, f"it has no end marker ({len(data):,} bytes)")
    if not found.is_refined():
        raise _early(path, f"the last of its scans, which make it sharper, are missing ({found.end:,} bytes to its end marker)")
    if found.num_scans == 1 and found.frame in ONE_PASS and not _ends_gray(picture):
        return
    # What is behind the last block of a whole picture is not read; in the place of blocks that are missing, it is.
    more = b"".join(bytes([*(random.Random(at).choices(range(255), k=64)), 0xFF, 0xD0 + at]) for at in range(8))
    with Image.open(io.BytesIO(data[: found.end] + more + data[found.end :]), formats=("JPEG",)) as other:
        if ImageChops.difference(other, picture).getbbox():
            raise _early(path, f"its end marker comes before its last block of pixels ({found.end:,} bytes to it)")


def _ends_gray(picture: Image.Image) -> bool:
    """Whether its last block could be what stands for one that is missing."""
    if picture.mode not in ("L", "RGB"):
        return True
    right, bottom = picture.size
    block = picture.crop(((right - 1) // BLOCK * BLOCK, (bottom - 1) // BLOCK * BLOCK, right, bottom)).convert("L")
    return all(abs(value - GRAY) <= NEAR_GRAY for value in block.tobytes())


@dataclass
class _Structure:
    """What the markers of a JPEG say: its kind of frame, its scans, and where the end marker stands (0: nowhere)."""

    frame: int = 0
    num_scans: int = 0
    end: int = 0
    precision: dict[int, list[int]] = field(default_factory=dict)
    """By component, for each coefficient how many of its lowest bits are still missing."""

    @classmethod
    def of(cls, data: bytes) -> "_Structure":
        found = cls()
        for marker, at, content in _segments(data):
            if marker == EOI:
                found.end = at
            elif marker in FRAMES and len(content) >= 6:
                found.frame = marker
                found.precision = {component: [NUM_COEFFICIENTS] * NUM_COEFFICIENTS for component in content[6::3]}
            elif marker == SOS and len(content) >= 4:
                found.num_scans += 1
                found._refine(content)
        return found

    def is_refined(self) -> bool:
        """Whether every coefficient came to its last bit, where they come in several scans."""
        return self.frame not in PROGRESSIVE or not any(map(any, self.precision.values()))

    def _refine(self, content: bytes) -> None:
        first, last, bits = content[-3:]
        for component in content[1 : 1 + 2 * content[0] : 2]:
            missing = self.precision.get(component, [])
            missing[first : last + 1] = [bits & 15] * len(missing[first : last + 1])


def _segments(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Marker, place and content of each segment to the first end marker; what is between them is skipped."""
    at = data.find(b"\xff", 2)
    while 0 <= at < len(data) - 1:
        marker = data[at + 1]
        if marker == EOI:
            yield marker, at, b""
            return
        if marker in (0x00, 0xFF, TEM, SOI) or marker in RESTARTS:
            at = data.find(b"\xff", at + (1 if marker == 0xFF else 2))
            continue
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        yield marker, at, data[at + 4 : at + 2 + size]
        at += 2 + size
        after = _AFTER_SCAN.search(data, at) if marker == SOS else None
        at = (after.end() - 2 if after else -1) if marker == SOS else data.find(b"\xff", at)


def _png_lacks(data: bytes) -> str:
    at = SIGNATURE
    while at + 12 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        at += 12 + size
        if kind == b"IEND" and at <= len(data):
            return ""
    return "its last chunk, IEND, is missing"


def _jpeg2000_lacks(data: bytes) -> str:
    lacking = "its end marker is missing"
    at = data.find(b"\xff\x4f\xff\x51")
    at = data.find(b"\xff\x90", at)
    while at >= 0 and data[at : at + 2] == b"\xff\x90" and at + 12 <= len(data):
        size = int.from_bytes(data[at + 6 : at + 10], "big")
        at = at + size if size else data.rfind(b"\xff\xd9")
    return "" if at >= 0 and data[at : at + 2] == b"\xff\xd9" else lacking


ENDS: dict[str, Callable[[bytes], str]] = {"PNG": _png_lacks, "JPEG2000": _jpeg2000_lacks}
"""By Pillow's name of a format, what says what its bytes lack at their end; nothing if they are whole."""
