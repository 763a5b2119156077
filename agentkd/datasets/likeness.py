"""Images that look almost the same, though their bytes differ: saved again, made smaller, or neighboring frames of one video.

A difference hash (dHash) says of 64 places of an image, made 9x8 and gray, whether it gets brighter to the right. Two images look
alike if at most ``MAX_BITS`` of these differ and their pictures of 16x16 differ by at most ``MAX_DISTANCE`` of 255 on average,
after each was moved to the same mean and spread, so that brightness and contrast do not count. Images of almost one color have
nothing to be compared by, and are left out. What was mirrored, turned or cropped is not found.

Source: the idea of the difference hash is David Oftedal's and Neal Krawetz's ("Kind of Like That", 2013); the code is our own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agentkd.datasets.samples import Pixels

MAX_BITS = 8
MAX_DISTANCE = 6.0
SIDE, MIN_SPREAD, SPREAD = 16, 3.0, 48.0
NEAREST = 4
BLOCK = 64


@dataclass(frozen=True, slots=True)
class Alike:
    """An image that looks almost like one of an earlier split, and in how many of 64 bits they differ."""

    earlier: int
    later: int
    num_bits: int


@dataclass
class Looks:
    """What images look like: some 270 bytes each."""

    hashes: dict[int, int] = field(default_factory=dict)
    pictures: dict[int, Pixels] = field(default_factory=dict)

    def add(self, index: int, image: Pixels) -> None:
        """Keeps what an image [H,W,3] looks like, unless it is almost of one color."""
        gray = Image.fromarray(image).convert("L")
        small = np.asarray(gray.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32)
        if small.std() < MIN_SPREAD:
            return
        steps = np.asarray(gray.resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
        bits = np.packbits(steps[:, 1:] > steps[:, :-1])
        self.hashes[index] = int.from_bytes(bits.tobytes(), "big")
        even = (small - small.mean()) / small.std() * SPREAD + 128
        self.pictures[index] = np.clip(even, 0, 255).astype(np.uint8)

    def alike(self, splits: Mapping[str, Sequence[int]]) -> Iterator[Alike]:
        """Every image that looks like one of an earlier split, with the one that it looks most like."""
        earlier: list[int] = []
        for indices in splits.values():
            known = [index for index in indices if index in self.hashes]
            if earlier:
                before = np.array([self.hashes[index] for index in earlier], dtype=np.uint64)
                for at in range(0, len(known), BLOCK):
                    yield from self._nearest(known[at : at + BLOCK], earlier, before)
            earlier += known

    def _nearest(self, later: Sequence[int], earlier: Sequence[int], before: "NDArray[np.uint64]") -> Iterator[Alike]:
        own = np.array([self.hashes[index] for index in later], dtype=np.uint64)
        num_bits = np.bitwise_count(own[:, None] ^ before[None, :])
        for row, index in zip(num_bits, later, strict=True):
            near = np.flatnonzero(row <= MAX_BITS)
            for at in near[np.argsort(row[near], kind="stable")][:NEAREST].tolist():
                apart = self.pictures[index].astype(np.int16) - self.pictures[earlier[at]].astype(np.int16)
                if float(np.abs(apart).mean()) <= MAX_DISTANCE:
                    yield Alike(earlier[at], index, int(row[at]))
                    break
