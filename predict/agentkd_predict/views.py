"""The same pixels seen mirrored and at other sizes, and what a network says of them on average."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from agentkd_predict.meaning import Pixels
from agentkd_predict.network import Network, resized
from agentkd_predict.tiles import Floats


@dataclass(frozen=True)
class Views:
    """How each tile is looked at.

    Args:
        has_flips: also mirrored, left to right.
        is_upside_down: each of these also mirrored, top to bottom.
        scales: made larger or smaller by each of these.
    """

    has_flips: bool = False
    is_upside_down: bool = False
    scales: tuple[float, ...] = (1.0,)

    def __len__(self) -> int:
        return len(self.scales) * (1 + self.has_flips) * (1 + self.is_upside_down)

    @property
    def steps(self) -> Iterator[tuple[int, int]]:
        """The step along rows and along columns of each way to mirror."""
        for down in (1, -1) if self.is_upside_down else (1,):
            for right in (1, -1) if self.has_flips else (1,):
                yield down, right


def averaged(network: Network, pixels: Pixels, views: Views, place: Path | str) -> Floats:
    """The mean of the probabilities ``[K,H,W]`` of all views, each turned back.

    Raises:
        InputError: the network fails on one of them.
        NetworkError: what it computes are no probabilities.
    """
    if len(views) == 1 and views.scales == (1.0,):
        return network.probabilities(pixels, place)
    height, width = pixels.shape[:2]
    total: Floats = np.zeros((len(network.classes), height, width), dtype=np.float32)
    for scale in views.scales:
        size = max(round(height * scale), 1), max(round(width * scale), 1)
        seen = pixels
        if size != (height, width):
            seen = np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BILINEAR))
        for down, right in views.steps:
            found = network.probabilities(np.ascontiguousarray(seen[::down, ::right]), place)[:, ::down, ::right]
            total += found if size == (height, width) else resized(np.ascontiguousarray(found), (height, width))
    return total / np.float32(len(views))
