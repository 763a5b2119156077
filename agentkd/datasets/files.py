"""Readers of labelled images in folders: the folder layout with its ``dataset.yaml``, and CamVid as SegNet arranged it.

Nothing is inferred silently: the description names classes, colors, ignored value and mask kind, and whatever does not
fit is an error that names the file, what was found and what was expected.
"""

import hashlib
import struct
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from pydantic import ConfigDict, Field, model_validator

from agentkd.canonical import FrozenData
from agentkd.datasets.samples import IGNORE_INDEX, MAX_PIXELS, Color, Pixels, Sample, Size, hold_out, resize_pixels
from agentkd.errors import DatasetError, check_descriptors
from agentkd.names import Digest
from agentkd.plain import MAX_YAML, read_yaml

DESCRIPTION = "dataset.yaml"
CACHED_SAMPLES = 2048
CHECKING_THREADS = 4
FORMATS = ("PNG", "JPEG", "JPEG2000", "TIFF", "WEBP", "BMP", "GIF", "PPM", "TGA")
"""What images may be: none that another program is started for."""

MaskKind = Literal["index-mask", "color-mask", "binary-mask", "threshold-mask"]


class Layout(FrozenData):
    """Where files lie, with ``{split}`` and ``{stem}``; any extension may be ``*``."""

    images: str = "images/{split}/{stem}.*"
    masks: str = "masks/{split}/{stem}.png"


class Description(FrozenData):
    """The content of ``dataset.yaml`` that reading needs.

    Args:
        format: ``index-mask`` holds class numbers, ``color-mask`` the classes' colors, ``binary-mask`` 0 and any other
            value for two classes, ``threshold-mask`` (for JPEG) the second class from ``threshold`` on.
        ignore_index: the class number that means "not labelled"; in color masks, any color of ``ignored_colors``.
        group: how a file's group (video, clip) is found in its stem: everything before the last ``group_separator``.
        splits: stems of each split; by default the folders found.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    format: MaskKind = "index-mask"
    layout: Layout = Layout()
    classes: tuple[str, ...] = Field(min_length=2)
    colors: tuple[Color, ...] = Field(alias="colours", default=())
    ignored_colors: tuple[Color, ...] = ()
    ignore_index: int = Field(default=IGNORE_INDEX, ge=0, le=255)
    threshold: int = Field(default=127, ge=1, le=255)
    group_separator: str = "_"
    splits: dict[str, tuple[str, ...]] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _either_spelling(cls, data: object) -> object:
        if isinstance(data, dict) and "colors" in data:
            data = {**data, "colours": data["colors"]}
            del data["colors"]
        return data

    @model_validator(mode="after")
    def _check(self) -> "Description":
        if self.colors and len(self.colors) != len(self.classes):
            raise ValueError(f"{len(self.classes)} classes but {len(self.colors)} colours")
        if self.format == "color-mask" and not self.colors:
            raise ValueError("a color-mask needs colours, one a class")
        if self.format in ("binary-mask", "threshold-mask") and len(self.classes) != 2:
            raise ValueError(f"a {self.format} has two classes, not {len(self.classes)}")
        return self


@dataclass(frozen=True)
class Pair:
    """One image file and its mask file."""

    image: Path
    mask: Path
    split: str
    stem: str


class FileDataset:
    """A ``Dataset`` of image and mask files."""

    def __init__(self, description: Description, pairs: list[Pair], *, place: Path, size: Size | None, holdout: str = "") -> None:
        self.name, self.place = description.name, place
        self.classes, self.ignore_index = description.classes, description.ignore_index
        self.colors = description.colors or spread_colors(len(description.classes))
        self._description, self._pairs, self._size = description, pairs, size
        splits: dict[str, tuple[int, ...]] = {}
        for index, pair in enumerate(pairs):
            splits[pair.split] = (*splits.get(pair.split, ()), index)
        if "validation" not in splits and "val" in splits and not holdout:
            splits["validation"] = splits.pop("val")
        if holdout:
            splits = hold_out(splits, {i: self.group(i) for i in splits.get("train", ())}, holdout, name=self.name)
            if "test" not in splits and "val" in splits:
                splits["test"] = splits.pop("val")
        self.splits = splits
        self.digest = _content_digest(description, pairs, size, splits)
        self._cached = lru_cache(maxsize=CACHED_SAMPLES)(self._read)

    def sample(self, index: int) -> Sample:
        """The sample under an index, at the requested size."""
        return self._cached(index)

    def group(self, index: int) -> str:
        """The part of the stem before the last separator; the whole stem if there is none."""
        stem = self._pairs[index].stem
        return stem.rpartition(self._description.group_separator)[0] or stem

    def check(self) -> None:
        """Reads every image and mask once, in parallel."""
        with ThreadPoolExecutor(CHECKING_THREADS) as pool:
            for _ in pool.map(self._read, range(len(self._pairs))):
                pass

    def _read(self, index: int) -> Sample:
        pair = self._pairs[index]
        image = _open_image(pair.image).convert("RGB")
        mask = _open_image(pair.mask)
        if image.size != mask.size:
            raise DatasetError(
                pair.mask, f"mask is {mask.size[0]}x{mask.size[1]}", f"{image.size[0]}x{image.size[1]} as {pair.image.name}"
            )
        label = _decode_mask(mask, self._description, pair.mask)
        pixels, label = resize_pixels(np.asarray(image), label, self._size)
        return Sample(image=pixels, label=label, name=pair.stem)


def open_folder(place: Path, *, size: Size | None = None, holdout: str = "") -> FileDataset:
    """A dataset in the folder layout.

    Raises:
        DatasetError: no or a wrong description, an image without mask, a split that is listed but not there.
    """
    description = _read_description(place)
    pairs = list(_find_pairs(place, description))
    if not pairs:
        raise DatasetError(place, "no images found", f"files like {description.layout.images}")
    return FileDataset(description, pairs, place=place, size=size, holdout=holdout)


CAMVID_CLASSES = ("Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist")
CAMVID_VOID = 11


def open_camvid(place: Path, *, size: Size | None = None, holdout: str = "") -> FileDataset:
    """CamVid in SegNet's form: ``{train,val,test}`` and ``{train,val,test}annot``, 11 classes, value 11 is void."""
    description = Description(
        name="camvid",
        classes=CAMVID_CLASSES,
        ignore_index=CAMVID_VOID,
        layout=Layout(images="{split}/{stem}.png", masks="{split}annot/{stem}.png"),
    )
    if not (place / "train").is_dir():
        raise DatasetError(place, "no folder train", "CamVid with train, trainannot, val, valannot, test, testannot")
    pairs = [
        pair
        for split in ("train", "val", "test")
        if (place / split).is_dir()
        for pair in _pairs_of_split(place, description, split)
    ]
    return FileDataset(description, pairs, place=place, size=size, holdout=holdout)


def spread_colors(count: int) -> tuple[Color, ...]:
    """Distinct colors for classes that come without."""
    return tuple(((53 * i + 60) % 256, (101 * i + 30) % 256, (197 * i + 90) % 256) for i in range(count))


def _read_description(place: Path) -> Description:
    path = place / DESCRIPTION
    if not place.is_dir():
        raise DatasetError(place, "no such folder", "a folder with dataset.yaml; set AGENTKD_DATA or give an absolute path")
    if not path.is_file():
        raise DatasetError(place, f"has no {DESCRIPTION}", "a description; see docs/how-to/datasets.md")
    try:
        with path.open(encoding="utf-8") as file:
            return Description.model_validate(read_yaml(file.read(MAX_YAML + 1)))
    except (OSError, ValueError) as error:
        raise DatasetError(path, str(error)) from None


def _find_pairs(place: Path, description: Description) -> Iterable[Pair]:
    if description.splits:
        splits = list(description.splits)
    else:
        parent = place / description.layout.images.partition("{split}")[0]
        splits = sorted(folder.name for folder in parent.iterdir() if folder.is_dir()) if parent.is_dir() else []
    for split in splits:
        yield from _pairs_of_split(place, description, split)


def _pairs_of_split(place: Path, description: Description, split: str) -> list[Pair]:
    pattern = description.layout.images.replace("{split}", split).replace("{stem}", "*")
    found = {path.stem: path for path in _glob(place, pattern)}
    listed = description.splits.get(split)
    missing = [stem for stem in listed or () if stem not in found]
    if missing:
        raise DatasetError(place, f"split {split!r} lists {missing[0]!r} and {len(missing) - 1} more that are not there", pattern)
    pairs = []
    for stem in listed or found:
        template = description.layout.masks.replace("{split}", split).replace("{stem}", stem)
        masks = _glob(place, template)
        if not masks:
            raise DatasetError(found[stem], "image without mask", str(place / template))
        pairs.append(Pair(image=found[stem], mask=masks[0], split=split, stem=stem))
    return pairs


def _glob(place: Path, pattern: str) -> list[Path]:
    """The files below a dataset's folder that fit a pattern.

    Raises:
        DatasetError: the pattern leads out of the folder, or is none.
    """
    try:
        if ".." in Path(pattern).parts or "**" in pattern:
            raise ValueError("it must name files of the dataset's own folder")
        return sorted(path for path in place.glob(pattern) if path.is_file())
    except (ValueError, NotImplementedError, OSError) as error:
        raise DatasetError(
            place / DESCRIPTION, f"layout {pattern[:200]!r} finds nothing ({error})", "one like images/{split}/{stem}.png"
        ) from None


def _open_image(path: Path) -> Image.Image:
    """An image, read; none that becomes more than its file lets one expect.

    Raises:
        DatasetError: it is none, or has too many pixels.
    """
    try:
        image = Image.open(path, formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise DatasetError(path, f"has {image.width}x{image.height} pixels", f"at most {MAX_PIXELS:,}; make it smaller")
        image.load()
    except Image.DecompressionBombError:
        raise DatasetError(path, "has too many pixels", f"at most {MAX_PIXELS:,}; make it smaller") from None
    except (
        OSError,
        ValueError,
        SyntaxError,
        LookupError,
        ArithmeticError,
        TypeError,
        EOFError,
        struct.error,
        zlib.error,
    ) as error:
        if isinstance(error, OSError):
            check_descriptors(path, error)
        raise DatasetError(path, f"cannot be read as an image ({error})") from None
    return image


def _decode_mask(mask: Image.Image, description: Description, path: Path) -> Pixels:
    if description.format == "color-mask":
        return _decode_colors(np.asarray(mask.convert("RGB")), description, path)
    values = np.asarray(mask if mask.mode in ("L", "P", "1") else mask.convert("L")).astype(np.uint8)
    if description.format == "binary-mask":
        return (values > 0).astype(np.uint8)
    if description.format == "threshold-mask":
        return (values >= description.threshold).astype(np.uint8)
    known = np.zeros(256, dtype=bool)
    known[: len(description.classes)] = True
    known[description.ignore_index] = True
    counts = np.bincount(values.ravel(), minlength=256)
    unknown = np.flatnonzero((counts > 0) & ~known)
    if unknown.size:
        value = int(unknown[0])
        expected = f"0 to {len(description.classes) - 1} or {description.ignore_index}"
        raise DatasetError(path, f"mask holds the unknown value {value} in {int(counts[value])} pixels", expected)
    return values


def _decode_colors(pixels: Pixels, description: Description, path: Path) -> Pixels:
    packed = (pixels.astype(np.uint32) * np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)).sum(axis=2)
    label = np.full(packed.shape, description.ignore_index, dtype=np.uint8)
    matched = np.zeros(packed.shape, dtype=bool)
    table = [*enumerate(description.colors), *((description.ignore_index, color) for color in description.ignored_colors)]
    for value, (red, green, blue) in table:
        here = packed == (red << 16 | green << 8 | blue)
        label[here] = value
        matched |= here
    if not matched.all():
        color = int(packed[~matched][0])
        count = int((packed == color).sum())
        text = f"mask holds the unknown color {color >> 16},{color >> 8 & 255},{color & 255} in {count} pixels"
        raise DatasetError(path, text, "one of the classes' colours")
    return label


def _content_digest(description: Description, pairs: list[Pair], size: Size | None, splits: dict[str, tuple[int, ...]]) -> Digest:
    """Over classes, ignored value, size, splits and the bytes of every file, in order."""
    sha = hashlib.sha256()
    sha.update(repr((description.classes, description.ignore_index, description.format, size, sorted(splits.items()))).encode())
    for pair in pairs:
        for path in (pair.image, pair.mask):
            try:
                sha.update(hashlib.sha256(path.read_bytes()).digest())
            except OSError as error:
                check_descriptors(path, error)
                raise DatasetError(path, f"cannot be read ({error})") from None
    return Digest(sha.hexdigest())
