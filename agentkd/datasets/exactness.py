"""Whether a picture's file gives back the values that were put in, by what it says of itself."""

from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from agentkd.datasets.pictures import FILE_FORMAT

ALWAYS_LOSSY = ("JPEG", "MPO", "AVIF")
LOSSY_IN_TIFF = ("jpeg", "tiff_jpeg", "webp", "tiff_sgilog", "tiff_sgilog24")
HEAD = 1 << 16

# Markers of JPEG 2000, and where after one stands which wavelets it says.
START, END, TILE, DATA = 0x4F, 0xD9, 0x90, 0x93
SIZES, STYLE, STYLE_OF_ONE = 0x51, 0x52, 0x53
REVERSIBLE = 1


def is_lossy(image: Image.Image, path: Path) -> bool:
    """Whether what a mask holds may be other values than were put in. JPEG 2000 and WebP have both kinds, and say which."""
    name = image.info[FILE_FORMAT]
    if name == "WEBP":
        return "VP8L" not in _webp_chunks(path.read_bytes())
    if name == "JPEG2000":
        return not _is_reversible(path.read_bytes())
    return name in ALWAYS_LOSSY or image.info.get("compression") in LOSSY_IN_TIFF


def _webp_chunks(data: bytes) -> list[str]:
    """The kinds of the chunks of a WebP; what a chunk holds may look like another one."""
    found, at = [], 12
    while at + 8 <= len(data):
        found.append(data[at : at + 4].decode("latin-1"))
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    return found


def _is_reversible(data: bytes) -> bool:
    """Whether all of a JPEG 2000 is made by the wavelets of whole numbers, in its main header and in those of its tiles."""
    told = [content[at : at + 1] for at, content in _styles(data)]
    return bool(told) and all(one == bytes([REVERSIBLE]) for one in told)


def _styles(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Of each marker of a style its content, and where in that the wavelets stand."""
    at = data.find(bytes([0xFF, START, 0xFF, SIZES])) + 2
    width, tile_end = 1, 0
    while 2 <= at <= len(data) - 4 and data[at] == 0xFF and data[at + 1] != END:
        marker, size = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        content = data[at + 4 : at + 2 + size]
        if marker == SIZES:
            width = 1 if int.from_bytes(content[34:36], "big") < 257 else 2
        elif marker == TILE:
            tile_size = int.from_bytes(content[2:6], "big")
            tile_end = at + tile_size if tile_size else len(data)
        elif marker == STYLE:
            yield 9, content
        elif marker == STYLE_OF_ONE:
            yield width + 5, content
        at = tile_end if marker == DATA else at + 2 + size
