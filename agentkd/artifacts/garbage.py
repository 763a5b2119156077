"""What a run folder holds that nothing refers to, what could be done without, and at what price."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentkd.artifacts import recordings
from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.listings import noted_artifacts
from agentkd.artifacts.run_folder import RunFolder
from agentkd.artifacts.store import SUFFIX
from agentkd.errors import StorageError
from agentkd.names import NO_DIGEST, Digest


@dataclass(frozen=True)
class Sparable:
    """Artifacts that something refers to, and that could be done without.

    Args:
        what: in words.
        price: what could not be done any more.
    """

    what: str
    price: str
    files: tuple[Path, ...]

    @property
    def size_bytes(self) -> int:
        """What they take."""
        return sum(path.stat().st_size for path in self.files)


@dataclass(frozen=True)
class Garbage:
    """What can go.

    Args:
        unreferenced: nothing refers to these; leftovers of interrupted transfers are among them.
        told: what teachers told in recorded lessons; ``None`` if there is nothing.
        others: what else is referred to.
    """

    unreferenced: tuple[Path, ...]
    told: Sparable | None
    others: tuple[Sparable, ...]

    @property
    def sparable(self) -> tuple[Sparable, ...]:
        """What is referred to and could be done without, soft targets first."""
        return (self.told, *self.others) if self.told else self.others

    @property
    def size_bytes(self) -> int:
        """What is unreferenced takes."""
        return sum(path.stat().st_size for path in self.unreferenced)

    def as_data(self) -> dict[str, Any]:
        """As plain data."""
        sparable = [
            {"what": s.what, "price": s.price, "num_files": len(s.files), "size_bytes": s.size_bytes} for s in self.sparable
        ]
        return {"num_unreferenced": len(self.unreferenced), "size_bytes": self.size_bytes, "sparable": sparable}


def find_garbage(folder: RunFolder) -> Garbage:
    """Looks through a run folder; nobody may work in it meanwhile."""
    with Journal(folder.must_exist().journal, read_only=True) as journal:
        records = list(journal.records())
        noted = noted_artifacts(journal)
    needed = {digest for record in records for digest in (*record.result.artifacts, *(d for _, d in record.task.references()))}
    told = _told(folder, records)
    unfinished = _unfinished(folder)
    kept = needed | noted | {piece for pieces in told.values() for piece in pieces} | unfinished
    files = [path for path in sorted(folder.store.place.rglob("*")) if path.is_file()]
    unreferenced = tuple(path for path in files if path.suffix != SUFFIX or path.stem not in kept)
    pieces = {piece for listed in told.values() for piece in listed} - needed
    traces = {record.result.trace for record in records} - {NO_DIGEST}
    pictures = {record.result.predictions for record in records} - {NO_DIGEST}
    taught = _sparable(folder, f"what teachers told in {len(told)} lessons", "they need teachers to be replayed", pieces)
    others = (
        _sparable(folder, "class maps of evaluations", "the report shows no pictures", pictures),
        _sparable(folder, "losses of every step", "a divergence is located to the epoch, not to the step", traces),
    )
    unreferenced = tuple(dict.fromkeys((*unreferenced, *folder.leftovers())))
    return Garbage(unreferenced, taught if taught.files else None, tuple(one for one in others if one.files))


def remove(files: Iterable[Path]) -> int:
    """Removes files; returns how many there were.

    Raises:
        StorageError: one cannot be removed.
    """
    count = 0
    for path in files:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError.of(path, error) from error
        count += 1
    return count


def _told(folder: RunFolder, records: Iterable[Record]) -> dict[Digest, set[Digest]]:
    """The pieces of each recorded lesson."""
    listed = {record.result.exchange.record for record in records if record.result.exchange} - {NO_DIGEST}
    return {digest: recordings.pieces(recordings.read(folder.store, digest)) for digest in listed if digest in folder.store}


def _unfinished(folder: RunFolder) -> set[Digest]:
    """What unfinished lessons have stored already."""
    lists = folder.checkpoints.glob("*.lesson.jsonl")
    return {told.piece for path in lists for told in recordings.read_list(path).told}


def _sparable(folder: RunFolder, what: str, price: str, digests: Iterable[Digest]) -> Sparable:
    paths = (folder.store.path(digest) for digest in sorted(digests))
    return Sparable(what, price, tuple(path for path in paths if path.is_file()))
