"""One image through a network, row by row of tiles: what is held grows with the image's width and not with its height."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from agentkd_predict.blending import Blend, order
from agentkd_predict.errors import InputError, UsageError
from agentkd_predict.files import Files
from agentkd_predict.meaning import Pixels, Scale, Valid
from agentkd_predict.network import Network
from agentkd_predict.products import Product, masked, products
from agentkd_predict.records import Areas, Done
from agentkd_predict.sources import Source
from agentkd_predict.tiles import Axis, Floats, lay
from agentkd_predict.views import Views, averaged

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Tiling:
    """How an image is cut.

    Args:
        tile: the side of a tile in pixels, rounded up to the network's grid; 0: the image is one tile.
        overlap: of neighboring tiles in pixels.
    """

    tile: int = 512
    overlap: int = 64

    def axes(self, network: Network, height: int, width: int) -> tuple[Axis, Axis]:
        """The tiles of an image, by rows and by columns.

        Raises:
            UsageError: the overlap is more than half a tile.
        """
        side = self.fitting(network)
        return lay(height, side[0], self.overlap, network.grid), lay(width, side[1], self.overlap, network.grid)

    def fitting(self, network: Network) -> tuple[int, int]:
        """Height and width of a tile as the network takes it; (0, 0) for images that are not cut.

        Raises:
            UsageError: the overlap is more than half a tile.
        """
        length = -(-self.tile // network.grid) * network.grid
        side = network.fixed_size or (network.fitting((length, length)) if self.tile else (0, 0))
        if min(side) and not 0 <= self.overlap <= min(side) // 2:
            raise UsageError(f"--overlap {self.overlap}: expected 0 to {min(side) // 2}, half of --tile {min(side)}")
        return side


@dataclass(frozen=True)
class Wanted:
    """What is to be made of images, and how.

    Args:
        tiling: how they are cut.
        views: how each tile is looked at.
        has_overlay: whether an overlay is written too.
        has_probabilities: whether probabilities are.
        scale: the values that become black and white, of images with more than 8 bits; None: as the network says it learned.
        takes_other_scale: whether that may be another than the network says.
        bands: of rasters, those that are red, green and blue.
    """

    tiling: Tiling = field(default_factory=Tiling)
    views: Views = field(default_factory=Views)
    has_overlay: bool = False
    has_probabilities: bool = False
    scale: Scale | None = None
    bands: tuple[int, ...] = ()
    takes_other_scale: bool = False

    def places(self, out: Path, name: str, *, is_map: bool) -> dict[str, Path]:
        """The files that are made of an image."""
        picture, numbers = (".tif", ".tif") if is_map else (".png", ".npy")
        found = {"mask": out / "masks" / (name + picture)}
        if self.has_overlay:
            found["overlay"] = out / "overlays" / (name + picture)
        if self.has_probabilities:
            found["probabilities"] = out / "probabilities" / (name + numbers)
        return found

    def video_places(self, out: Path, name: str) -> dict[str, Path]:
        """The files that are made of a video."""
        return {"overlay": out / "videos" / f"{name}.mp4", "frames": out / "videos" / f"{name}.csv"}


class Strip:
    """Rows of a source, each read once though rows of tiles overlap."""

    def __init__(self, source: Source) -> None:
        self._source, self._top = source, 0
        self._pixels: Pixels = np.empty((0, source.width, 3), dtype=np.uint8)
        self._valid: Valid | None = None

    def rows(self, top: int, bottom: int) -> tuple[Pixels, Valid | None]:
        """Rows from further down than those before, as ``Source.rows`` gives them."""
        end = self._top + len(self._pixels)
        kept = max(end - top, 0)
        pixels, valid = self._source.rows(top + kept, bottom) if top + kept < bottom else (self._pixels[:0], None)
        if valid is None and self._valid is not None:
            valid = np.ones(pixels.shape[:2], dtype=np.bool_)
        if valid is not None and kept:
            before = np.ones(self._pixels.shape[:2], dtype=np.bool_) if self._valid is None else self._valid
            valid = np.concatenate([before[len(before) - kept :], valid])
        if kept:
            pixels = np.concatenate([self._pixels[len(self._pixels) - kept :], pixels])
        self._top, self._pixels, self._valid = top, pixels, valid
        return pixels, valid


def predict_image(
    network: Network, source: Source, wanted: Wanted, places: dict[str, Path], out: Path, progress: Progress
) -> Done:
    """Makes all that is wanted of an image; the files appear when all of them are whole.

    Args:
        network: that says what is where.
        source: the image.
        wanted: what is made.
        places: where, as ``Wanted.places`` says.
        out: the folder that the record's paths are relative to.
        progress: is told which share of the image is done.

    Raises:
        InputError: the image, or the network on it, fails.
        NetworkError: what the network computes are no probabilities.
        StorageError: a file cannot be written.
    """
    began, georeference = time.monotonic(), source.georeference
    areas = Areas(len(network.classes), None if georeference is None else georeference.hectares(source.height))
    with Files() as files:
        parts = {name: files.part(place) for name, place in places.items()}
        made = products(parts, (source.height, source.width), network.about.colors, georeference)
        try:
            for top, mask, pixels, valid in settled(network, source, wanted, made, progress):
                mask = masked(mask, valid)
                areas.add_rows(top, mask)
                for product in made:
                    product.add_rows(top, mask, pixels)
            for product in made:
                product.finish()
        except MemoryError:
            raise InputError(source.path, "there is not enough memory for it", "a smaller --tile") from None
        finally:
            for product in made:
                product.close()
        files.keep()
    hectares = None if areas.hectares is None else tuple(areas.hectares.tolist())
    kept = {name: str(place.relative_to(out)) for name, place in places.items()}
    seconds, pixels_of = time.monotonic() - began, tuple(areas.pixels.tolist())
    return Done(str(source.path), kept, source.height, source.width, pixels_of, hectares, seconds, source.notices)


def settled(
    network: Network, source: Source, wanted: Wanted, made: Sequence[Product], progress: Progress
) -> Iterator[tuple[int, Pixels, Pixels, Valid | None]]:
    """Rows of the mask, with those of the image and where it has data, from top to bottom."""
    rows, columns = wanted.tiling.axes(network, source.height, source.width)
    blend, strip = Blend(rows, columns, len(network.classes)), Strip(source)
    unknown: Floats = np.full((len(network.classes), rows.longest, columns.longest), 1 / len(network.classes), dtype=np.float32)
    mask: Pixels = np.empty((0, 0), dtype=np.uint8)
    for row, column in order(rows, columns):
        first, last = rows.span(row)
        top, bottom = rows.settled(row)
        if column == 0:
            pixels, valid = strip.rows(first, last)
            mask = np.empty((bottom - top, source.width), dtype=np.uint8)
        left, right = columns.span(column)
        if valid is None or valid[:, left:right].any():
            found = averaged(network, pixels[:, left:right], wanted.views, source.path)
        else:
            found = unknown[:, : last - first, : right - left]
        block = blend.add(row, column, found)
        for product in made:
            product.add_block(block)
        width = block.probabilities.shape[2]
        mask[:, block.left : block.left + width] = block.probabilities.argmax(axis=0)
        progress((row * len(columns) + column + 1) / (len(rows) * len(columns)))
        if column == len(columns) - 1:
            part = slice(top - first, bottom - first)
            yield top, mask, pixels[part], None if valid is None else valid[part]
