"""Recorded tasks of another run, taken over where they are the same: by their keys, with what they made, each byte verified.

A task's key is the digest of all that decides it, so what another run recorded under that key is what would come out here. What
is taken over stands in the journal as it was recorded, in a sitting of its own, whose provenance is that of the run it is from.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from agentkd.artifacts import recordings
from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.run_folder import RunFolder
from agentkd.artifacts.store import Store
from agentkd.canonical import digest_file
from agentkd.durable import make_folder, sync_folder
from agentkd.errors import ArtifactCorruptError, ConfigError, StorageError
from agentkd.names import NO_DIGEST, Digest, TaskKey
from agentkd.task import Status

REUSED_FROM = "reused_from"


class Lender:
    """Another run, from which recorded tasks may be taken over. It is only read.

    Raises:
        ArtifactError: it is no run folder, or its journal is damaged.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder.must_exist()
        with Journal(folder.journal, read_only=True) as journal:
            found = list(journal.records_and_sittings())
            self._provenance = journal.sittings()
            self._last = next((row.digest for row in reversed(list(journal.rows()))), NO_DIGEST)
        self._records = {record.task.key: (record, sitting) for record, sitting in found}

    def find(self, key: TaskKey) -> Record | None:
        """What is recorded of a task, if that can be taken over: what it made is there. A failure is not: here it may go well."""
        found = self._records.get(key)
        if found is None or found[0].result.status is Status.FAILED:
            return None
        return found[0] if all(digest in self.folder.store for digest in found[0].result.artifacts) else None

    def records(self) -> list[Record]:
        """All that can be taken over."""
        return [record for key in self._records if (record := self.find(key)) is not None]

    def sitting(self, record: Record) -> int:
        """In which sitting of its run a record came about."""
        return self._records[record.task.key][1]

    def provenance(self, record: Record) -> dict[str, Any]:
        """Where a record comes from: what its own run says of that, and which run that is."""
        said = self._provenance.get(self.sitting(record), {})
        here = {"run": self.folder.place.absolute().name, "last_record": self._last}
        before = said.get(REUSED_FROM)
        return said | {REUSED_FROM: [*(before if isinstance(before, list) else []), here]}

    def hand_over(self, record: Record, store: Store) -> None:
        """Has all that a record names in another store: the same files where both are on one disk, copies elsewhere.

        Raises:
            ArtifactCorruptError: one is not what its digest says; nothing of it is handed over.
            StorageError: the store takes no more.
        """
        for digest in dict.fromkeys(self._parts(record)):
            hand_over(self.folder.store, store, digest)

    def _parts(self, record: Record) -> Iterator[Digest]:
        yield from record.result.artifacts
        yield from (digest for _, digest in record.task.references() if digest in self.folder.store)
        recorded = record.result.exchange.record if record.result.exchange else ""
        if recorded:
            pieces = recordings.pieces(recordings.read(self.folder.store, Digest(recorded)))
            yield from (piece for piece in sorted(pieces) if piece in self.folder.store)  # some may have been dropped


def hand_over(source: Store, store: Store, digest: Digest) -> None:
    """Has an artifact of one store in another, verified."""
    if digest in store:
        return
    there, here = source.must_have(digest), store.path(digest)
    try:
        with os.fdopen(os.open(there, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            actual = digest_file(file)
        if actual != digest:
            raise ArtifactCorruptError(there, digest, actual)
        make_folder(here.parent)
        with contextlib.suppress(OSError):
            os.link(there, here)
            sync_folder(here.parent)
            return
    except OSError as error:
        raise StorageError.of_use(error.filename or here, error) from error
    store.put(source.get(digest))


def first_lenders(others: Sequence[Lender], keys: Iterable[TaskKey]) -> dict[tuple[Lender, int], list[Record]]:
    """Of these tasks those that another run has recorded: by the first that has, and its sitting."""
    found: dict[tuple[Lender, int], list[Record]] = {}
    for key in keys if others else ():
        for lender in others:
            record = lender.find(key)
            if record is not None:
                found.setdefault((lender, lender.sitting(record)), []).append(record)
                break
    return found


def lenders(places: Sequence[Path | str], borrower: RunFolder) -> tuple[Lender, ...]:
    """Other runs, in the order in which they are asked.

    Raises:
        ConfigError: one is the run itself.
        ArtifactError: one is no run folder, or damaged.
    """
    found = []
    for place in map(Path, places):
        if place.resolve() == borrower.place.resolve():
            raise ConfigError(
                f"--reuse {place} is the run itself, whose recorded tasks are never done again anyway; leave it out"
            )
        found.append(Lender(RunFolder(place)))
    return tuple(found)
