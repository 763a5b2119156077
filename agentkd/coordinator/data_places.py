"""What a run notes of its data, which lie elsewhere: their outline, their files with a mark of each, and where they were.

So plans and reports need no data, a correction is told by the files that changed, and a replay finds the data from elsewhere.
"""

import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from agentkd.architecture import IMAGENET, Normalization
from agentkd.artifacts.journal import Journal
from agentkd.artifacts.store import Store
from agentkd.canonical import FrozenData
from agentkd.code.source import CodeDigest
from agentkd.datasets.opening import Opened, open_again
from agentkd.datasets.options import DATA_FOLDER_VARIABLE, looking_below
from agentkd.datasets.outline import Outline
from agentkd.datasets.samples import Color
from agentkd.errors import ArtifactError, DatasetError
from agentkd.names import NO_DIGEST, Digest
from agentkd.pipeline.own import OwnParts

PLACES = "data_places"
MAX_LISTING = 512 * 2**20
MAX_NAMED = 3


class NotedData(FrozenData):
    """The data of an experiment as they were.

    Args:
        images: how many each split has.
        shown: their channels, and how a network sees them that does not say otherwise.
        files: the artifact that lists their files; empty if they are none.
    """

    name: str
    classes: tuple[str, ...]
    colors: tuple[Color, ...]
    ignore_index: int
    images: dict[str, int]
    content_digest: Digest
    shown: Normalization = IMAGENET
    files: CodeDigest = NO_DIGEST

    def opened(self, spec: str, own: OwnParts) -> Opened:
        """The dataset without its samples."""
        outline = Outline(
            name=self.name,
            classes=self.classes,
            colors=self.colors,
            ignore_index=self.ignore_index,
            splits=dict.fromkeys(self.images, ()),
            content_digest=self.content_digest,
            images=self.shown,
        )
        return Opened(spec, outline, own.data.code if own.data else NO_DIGEST)


class DataPlaces(FrozenData):
    """Folders below which the data were looked for: absolute ones, and as seen from the run's."""

    absolute: tuple[str, ...] = Field(default=(), max_length=10)
    relative: tuple[str, ...] = Field(default=(), max_length=10)


def note_data(dataset: Opened, store: Store) -> NotedData:
    """What is noted of a dataset. The list of its files is put into a store.

    Raises:
        StorageError: it cannot be.
    """
    files = dataset.files
    listing = "".join(f"{mark}{json.dumps(file)}\n" for file, mark in files.items())
    return NotedData(
        name=dataset.name,
        classes=dataset.classes,
        colors=dataset.colors,
        ignore_index=dataset.ignore_index,
        images={split: len(indices) for split, indices in dataset.splits.items()},
        content_digest=dataset.digest,
        shown=dataset.normalization,
        files=store.put(zlib.compress(listing.encode(), 1)) if files else NO_DIGEST,
    )


def changed_files(store: Store, before: NotedData, dataset: Opened) -> str:
    """What is other in a dataset than was noted of it, by file where that is known."""
    was, now = _listed(store, before.files), dataset.files
    kinds = {
        "changed": [file for file, mark in was.items() if now.get(file, mark) != mark],
        "gone": [file for file in was if file not in now],
        "new": [file for file in now if was and file not in was],
    }
    said = [f"{_named(files)} {'is' if len(files) == 1 else 'are'} {what}" for what, files in kinds.items() if files]
    if not said:
        known = "its files are the same, so how they are read or split is not (dataset.yaml)" if was else "its content is another"
        return f"{known} since this run was begun"
    return f"{', '.join(said)} since this run was begun, of {len(was):,} files"


def noted_places(run: Path) -> dict[str, Any]:
    """Where the data of a run may lie, as it is noted in its journal."""
    given = os.environ.get(DATA_FOLDER_VARIABLE)
    found = [str(base.absolute()) for base in (Path.cwd(), *([Path(given)] if given else []))]
    absolute = tuple(filter(_is_text, found))
    relative = tuple(filter(_is_text, (os.path.relpath(base, run.absolute()) for base in found)))
    return {PLACES: DataPlaces(absolute=absolute, relative=relative).canonical()}


def _is_text(name: str) -> bool:
    """Not a name in another encoding, which a journal cannot hold."""
    return name.encode(errors="ignore").decode() == name


def bases(journal: Journal, run: Path) -> Iterator[str]:
    """Folders below which the data of a run may be found; the first is empty: as if nothing were known."""
    yield ""
    places: DataPlaces | None = journal.get_meta(PLACES, DataPlaces)
    if places is not None:
        yield from places.absolute
        yield from (os.path.normpath(run.absolute() / base) for base in places.relative)


def found_here(spec: str, content_digest: Digest, bases: Iterator[str]) -> tuple[Opened | None, str, str]:
    """A dataset, if it is here as it was, and below which folder.

    Returns:
        The dataset, the folder, and if there is none with that content why not.
    """
    reason = ""
    for base in dict.fromkeys(bases):
        with looking_below(base):
            try:
                opened = open_again(spec, NO_DIGEST)
            except DatasetError as error:
                reason = reason or str(error)
                continue
        if opened.digest == content_digest:
            return opened, base, ""
        reason = f"{opened.name}: its content is another now"
    return None, "", reason


def _listed(store: Store, digest: Digest) -> dict[str, str]:
    """The marks of files, by name; none if they were not listed, or the list is not there or damaged."""
    if not digest:
        return {}
    try:
        unpacked = zlib.decompressobj().decompress(store.get(digest, max_bytes=MAX_LISTING), MAX_LISTING)
        lines = [line for line in unpacked.decode().split("\n") if line]
        return {str(json.loads(line[16:])): line[:16] for line in lines}
    except (ArtifactError, ValueError, zlib.error):
        return {}


def _named(files: list[str]) -> str:
    listed = ", ".join(files[:MAX_NAMED])
    return listed if len(files) <= MAX_NAMED else f"{listed} and {len(files) - MAX_NAMED:,} more"
