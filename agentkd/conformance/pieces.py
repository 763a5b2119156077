"""Pieces as octets: images to be sent and what numbers a file holds, made and read without any tensor library."""

import json
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agentkd.conformance.clause import expect
from agentkd.conformance.probe import BrokenClauseError

IMAGES, SIDE = 2, 64
LOGITS = "logits"
METADATA = "__metadata__"
LETTERS = {"F32": "f", "F16": "e", "BF16": "H", "I8": "b", "U8": "B"}  # of bfloat16 the octets: the upper half of a float32


@dataclass(frozen=True)
class Numbers:
    """A tensor: its number type, its shape and all its values in order."""

    dtype: str
    shape: list[int]
    values: tuple[float, ...]

    def of_image(self, number: int) -> tuple[float, ...]:
        """Those of one image, whose numbers stand together."""
        size = math.prod(self.shape[1:])
        return self.values[number * size : (number + 1) * size]

    def of_pixels(self) -> Iterator[tuple[float, ...]]:
        """Those of each pixel, image by image.

        Raises:
            BrokenClauseError: they are not [N,K,h,w].
        """
        expect(len(self.shape) == 4, f"logits of shape {self.shape}")
        classes, size = self.shape[1], math.prod(self.shape[2:])
        for image in range(self.shape[0]):
            for pixel in range(size):
                first = image * classes * size + pixel
                yield self.values[first : first + classes * size : size]


def images(
    *, shape: tuple[int, ...] = (IMAGES, 3, SIDE, SIDE), low: float = 0.0, high: float = 1.0, name: str = "images"
) -> bytes:
    """A safetensors file of small images of a pattern."""
    count = math.prod(shape)
    return file_of([low + (high - low) * (index % 17) / 16 for index in range(count)], shape, name)


def flat_images(levels: tuple[float, ...]) -> bytes:
    """A safetensors file of images that are gray all over, each of a level of its own."""
    shape = (len(levels), 3, SIDE, SIDE)
    return file_of([level for level in levels for _ in range(math.prod(shape[1:]))], shape)


def file_of(numbers: Sequence[float], shape: tuple[int, ...], name: str = "images") -> bytes:
    """A safetensors file of one tensor of float32."""
    count = len(numbers)
    header = json.dumps({name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * count]}}).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + struct.pack(f"<{count}f", *numbers)


def header_of(data: bytes) -> dict[str, dict[str, object]]:
    """What a safetensors file says of its tensors, by name, and of itself.

    Raises:
        BrokenClauseError: it is none.
    """
    try:
        (size,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + size])
        is_one = isinstance(header, dict) and all(isinstance(entry, dict) for entry in header.values())
    except (struct.error, ValueError) as error:
        raise BrokenClauseError(f"the piece is no safetensors file: {error}") from error
    expect(is_one, "the piece is no safetensors file: its header is no map of maps")
    return header


def names_in(data: bytes) -> set[str]:
    """What the tensors in a safetensors file are called."""
    return header_of(data).keys() - {METADATA}


def end_of(data: bytes) -> int:
    """Where the last tensor in a safetensors file ends."""
    ends = [len(_tensor_in(data, name)[2]) for name in names_in(data)]
    return 8 + int.from_bytes(data[:8], "little") + sum(ends)


def logits_in(data: bytes) -> tuple[str, list[int], bytes]:
    """Number type, shape and octets of the logits in a safetensors file.

    Raises:
        BrokenClauseError: there are none.
    """
    return _tensor_in(data, LOGITS)


def numbers_in(data: bytes, name: str = LOGITS) -> Numbers:
    """The logits in a safetensors file, or another tensor.

    Raises:
        BrokenClauseError: there are none, or not as many as their shape says.
    """
    dtype, shape, octets = _tensor_in(data, name)
    letter = LETTERS.get(dtype, "")
    is_whole = bool(letter) and len(octets) == struct.calcsize(letter) * math.prod(shape)
    expect(is_whole, f"{len(octets)} octets are no {dtype or 'numbers'} of shape {shape}")
    values = struct.unpack(f"<{math.prod(shape)}{letter}", octets)
    if dtype == "BF16":
        values = struct.unpack(f"<{len(values)}f", struct.pack(f"<{len(values)}I", *(half << 16 for half in values)))
    return Numbers(dtype, shape, values)


def _tensor_in(data: bytes, name: str) -> tuple[str, list[int], bytes]:
    try:
        (size,) = struct.unpack_from("<Q", data)
        entry = json.loads(data[8 : 8 + size])[name]
        begin, end = entry["data_offsets"]
        return entry["dtype"], list(entry["shape"]), data[8 + size + begin : 8 + size + end]
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise BrokenClauseError(f"the piece is no safetensors file with {name}: {error}") from error
