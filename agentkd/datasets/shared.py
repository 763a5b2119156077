"""Data as a kind of knowledge: a dataset packed into one file that is named by its SHA-256, and read where it has arrived.

The file is in the safetensors format. Its samples stand in the order of the splits, numbered from 0, in runs of equal size:
``run.R.images`` [n,H,W,C] and ``run.R.labels`` [n,H,W], uint8; ``groups`` [N], int32, says which samples belong together. The
metadata have one entry, ``agentkd``: classes, colors, the ignored label, how many samples each split has, and of images that are
not RGB their channels. Nothing in it can
be executed, and nothing of where the data were (paths, names of files) is in it.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from agentkd import canonical
from agentkd.architecture import IMAGENET, MAX_CLASS_NAME, MAX_CLASSES, Normalization
from agentkd.canonical import FrozenData
from agentkd.datasets.files import spread_colors
from agentkd.datasets.samples import (
    MAX_PIXELS,
    Color,
    Dataset,
    Sample,
    Size,
    ValueScale,
    channels_of,
    images_of,
    size_of,
    split_indices,
)
from agentkd.errors import DatasetError, check_descriptors
from agentkd.names import SHARED, Digest
from agentkd.plain import read_json
from agentkd.visible import visible_line

METADATA = "agentkd"
MAX_SAMPLES = 1_000_000
MAX_RUNS = 8_000
"""Of samples of equal size, one after the other: a file of this format has two tensors for each, and a head of a mebibyte."""
MAX_HEAD_BYTES = 1024 * 1024
MAX_PACKED_BYTES = 2 * 1024**3
MIN_SIDE = 16
Level = Annotated[int, Field(ge=0, le=255)]
SplitName = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9_.-]+$")]

_places: dict[str, Path] = {}  # folders of artifacts of this process, by their path
_lock = threading.Lock()


class PackedData(FrozenData):
    """What a file of data says of itself.

    Args:
        splits: how many samples each has, in their order.
        images: their channels, and how a network sees them that does not say otherwise; left out if they are RGB and usual.
    """

    model_config = ConfigDict(extra="ignore")

    kind: Literal["data"] = "data"
    name: str = Field(max_length=200)
    classes: tuple[Annotated[str, Field(min_length=1, max_length=MAX_CLASS_NAME)], ...] = Field(
        min_length=2, max_length=MAX_CLASSES
    )
    colors: tuple[tuple[Level, Level, Level], ...]
    ignore_index: Level
    splits: dict[SplitName, Annotated[int, Field(ge=0, le=MAX_SAMPLES)]] = Field(min_length=1, max_length=64)
    images: Normalization = IMAGENET

    @model_serializer(mode="wrap")
    def _leave_out_usual_images(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        plain: dict[str, Any] = handler(self)
        if self.images == IMAGENET:
            del plain["images"]
        return plain

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.colors) != len(self.classes) or len(set(self.classes)) < len(self.classes):
            raise ValueError("there is not one color for each class, or two classes have one name")
        if not 0 < sum(self.splits.values()) <= MAX_SAMPLES:
            raise ValueError(f"there are {sum(self.splits.values()):,} samples; there may be 1 to {MAX_SAMPLES:,}")
        return self


def pack(dataset: Dataset, splits: Sequence[str], *, max_bytes: int = MAX_PACKED_BYTES) -> bytes:
    """Some splits of a dataset as one file: the same dataset and splits always give the same bytes.

    Raises:
        DatasetError: a split is not there or empty, or it is too much for one file.
    """
    found = {split: split_indices(dataset, split) for split in splits}
    indices = [index for each in found.values() for index in each]
    twice = len(found) < len(splits) or len(set(indices)) < len(indices)
    if twice or not indices:
        raise DatasetError(dataset.name, f"{', '.join(splits) or 'no split'}: nothing, or a sample twice", "splits apart")
    sizes = [size_of(dataset, index) for index in indices]
    size_bytes = sum((1 + len(channels_of(dataset))) * height * width for height, width in sizes)
    runs = list(_runs(sizes))
    hint = "fewer (few:16:SPEC), or all of one size (size=WIDTHxHEIGHT)"
    if size_bytes > max_bytes or len(indices) > MAX_SAMPLES:
        raise DatasetError(dataset.name, f"has {len(indices):,} samples of {size_bytes:,} bytes in all: too much to share", hint)
    if len(runs) > MAX_RUNS:
        raise DatasetError(dataset.name, f"has images of {len(runs):,} sizes in turn, too many to share", hint)
    numbers: dict[str, int] = {}
    groups = [numbers.setdefault(dataset.group(index), len(numbers)) for index in indices]
    arrays: dict[str, NDArray[Any]] = {"groups": np.asarray(groups, dtype=np.int32)}
    for number, (first, last) in enumerate(runs):
        samples = [dataset.sample(index) for index in indices[first:last]]
        arrays[f"run.{number}.images"] = np.stack([sample.image for sample in samples])
        arrays[f"run.{number}.labels"] = np.stack([sample.label for sample in samples])
    told = PackedData(
        name=visible_line(dataset.name)[:200],
        classes=tuple(dataset.classes),
        colors=tuple(getattr(dataset, "colors", ()) or spread_colors(len(dataset.classes))),
        ignore_index=dataset.ignore_index,
        splits={split: len(each) for split, each in found.items()},
        images=images_of(dataset),
    )
    # not canonical JSON, which would sort the splits: their order is that of the samples
    text = json.dumps(told.model_dump(mode="json"), separators=(",", ":"), ensure_ascii=False)
    packed: bytes = save(arrays, metadata={METADATA: text})
    head = int.from_bytes(packed[:8], "little")
    if head > MAX_HEAD_BYTES:
        raise DatasetError(dataset.name, f"needs {head:,} bytes to say what is in it: too much to share", hint)
    return packed


class SharedDataset:
    """A ``Dataset`` that was packed: read from its file, sample by sample.

    Raises:
        DatasetError: the file is damaged, or no such dataset: another digest, sizes, number types, or labels that are no class.
    """

    def __init__(self, path: Path, digest: Digest) -> None:
        self._path, self.digest = path, digest
        self._named = f"shared data {digest[:12]}"
        try:
            with path.open("rb") as file:
                head = int.from_bytes(file.read(8), "little")
                file.seek(0)
                actual = canonical.digest_file(file)
        except OSError as error:
            check_descriptors(path, error)
            raise DatasetError(str(path), f"cannot be read ({error.strerror or error})") from None
        if actual != digest:
            raise self._damaged(f"has the digest {actual[:12]}")
        if head > MAX_HEAD_BYTES:
            raise self._damaged(f"has a head of {head:,} bytes")
        try:
            self._file = _open(path)
            told = read_json((self._file.metadata() or {}).get(METADATA, "{}"))
            packed = PackedData.model_validate(told, strict=False)
            self._read_runs(packed)
        except (SafetensorError, OSError, ValidationError, ValueError) as error:
            check_descriptors(path, error)
            said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            raise self._damaged(f"is no dataset: {visible_line(said)[:200]}") from None
        self.name, self.classes, self.ignore_index = packed.name, packed.classes, packed.ignore_index
        self.colors: tuple[Color, ...] = packed.colors
        self.channels, self.normalization = packed.images.channels, packed.images
        self.value_scale: ValueScale = None  # they came as levels; of which values is not said
        ends = np.cumsum([0, *packed.splits.values()]).tolist()
        self.splits = {
            name: tuple(range(first, last)) for name, first, last in zip(packed.splits, ends[:-1], ends[1:], strict=True)
        }
        self.check()

    def _read_runs(self, packed: PackedData) -> None:
        """Where each sample stands: its run, its place there, and its size."""
        names = set(self._file.keys())
        num_runs = (len(names) - 1) // 2
        if names != {"groups", *(f"run.{run}.{part}" for run in range(num_runs) for part in ("images", "labels"))}:
            raise ValueError("it has other tensors than runs of images and labels, and groups")
        groups = self._slice("groups", "I32", 1)
        self._starts, self._sizes, total = [], [], 0
        for run in range(num_runs):
            images, labels = (self._slice(f"run.{run}.{part}", "U8", rank) for part, rank in (("images", 4), ("labels", 3)))
            count, height, width = labels
            if images != [count, height, width, len(packed.images.channels)] or count < 1:
                raise ValueError(f"run {run} has images {images} and labels {labels}")
            if min(height, width) < MIN_SIDE or height * width > MAX_PIXELS:
                raise ValueError(f"run {run} has images of {height}x{width}; they have {MIN_SIDE} to {MAX_PIXELS:,} pixels")
            self._starts.append(total)
            self._sizes.append((height, width))
            total += count
        if [total] != groups or total != sum(packed.splits.values()):
            raise ValueError(f"it holds {total} samples and says {sum(packed.splits.values())}")
        self._groups = self._file.get_tensor("groups")
        self._total = total

    def _slice(self, name: str, dtype: str, rank: int) -> list[int]:
        found = self._file.get_slice(name)
        shape: list[int] = list(found.get_shape())
        if found.get_dtype() != dtype or len(shape) != rank:
            raise ValueError(f"{name} is {found.get_dtype()} {shape}")
        return shape

    def _place(self, index: int) -> tuple[int, int]:
        if not 0 <= index < self._total:
            raise DatasetError(self._named, f"has no sample {index}", f"0 to {self._total - 1}")
        run = int(np.searchsorted(self._starts, index, side="right")) - 1
        return run, index - self._starts[run]

    def sample(self, index: int) -> Sample:
        """A labelled image."""
        run, at = self._place(index)
        image, label = (self._file.get_slice(f"run.{run}.{part}")[at : at + 1][0] for part in ("images", "labels"))
        return Sample(image, label, f"{index}")

    def group(self, index: int) -> str:
        """What must not be split, by number."""
        return str(self._groups[index])

    def size_of(self, index: int) -> Size:
        """(height, width) of a sample."""
        return self._sizes[self._place(index)[0]]

    def check(self) -> None:
        """Reads all labels once.

        Raises:
            DatasetError: a label is no class and not the ignored one.
        """
        may = np.zeros(256, dtype=bool)
        may[: len(self.classes)] = may[self.ignore_index] = True
        for index in range(self._total):
            run, at = self._place(index)
            labels = self._file.get_slice(f"run.{run}.labels")[at : at + 1]
            if not may[labels].all():
                raise self._damaged(f"has the label {int(labels[~may[labels]][0])} in sample {index}")

    def _damaged(self, found: str) -> DatasetError:
        return DatasetError(self._named, found, "a file that share_data made")


def kind_of(path: Path) -> str:
    """What kind of knowledge a stored file says that it is, such as ``data``; whether it is right is not looked at.

    Empty of what says nothing, such as own code.
    """
    try:
        with _open(path) as file:
            told = read_json((file.metadata() or {}).get(METADATA, "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        check_descriptors(path, error)
        return ""
    return str(told.get("kind", "")) if isinstance(told, dict) else ""


def _open(path: Path) -> Any:
    """The file, mapped; its head has been checked."""
    return safe_open(path, framework="numpy")


def _runs(sizes: Sequence[Size]) -> Iterator[tuple[int, int]]:
    """(first, behind the last) of samples of equal size that stand together."""
    first = 0
    for at in range(1, len(sizes) + 1):
        if at == len(sizes) or sizes[at] != sizes[first]:
            yield first, at
            first = at


def look_in(artifacts: Path) -> None:
    """Has this process look for shared data in a folder of artifacts too; in the last one first."""
    with _lock:
        _places.pop(str(artifacts), None)
        _places[str(artifacts)] = artifacts


def open_shared(digest: Digest) -> SharedDataset:
    """Data that have arrived in this process's folder.

    Raises:
        DatasetError: they have not, or as ``SharedDataset``.
    """
    with _lock:
        places = [*reversed(_places.values())]
    for place in places:
        path = place / digest[:2] / f"{digest}.safetensors"
        if path.is_file() and not path.is_symlink():
            return SharedDataset(path, digest)
    raise DatasetError(f"{SHARED}{digest[:12]}", "has not arrived here", "data of share_data or obtain_data in this folder")
