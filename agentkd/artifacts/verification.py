"""A run looked through to the last byte: every record, every digest, every reference."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agentkd import canonical
from agentkd.artifacts import recordings
from agentkd.artifacts.journal import NO_RECORD, Journal, Record
from agentkd.artifacts.run_folder import RunFolder
from agentkd.artifacts.store import DIGEST, SUFFIX
from agentkd.errors import ArtifactError
from agentkd.names import NO_DIGEST, Digest, TaskKey

LEFT_OUT = "left_out"


@dataclass(frozen=True)
class Finding:
    """Something that is not as it must be: where, and what."""

    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


@dataclass(frozen=True)
class Verification:
    """What was looked at, and what was found.

    Args:
        problems: what is damaged, missing or changed.
        notes: what is not there and need not be.
    """

    num_records: int
    num_artifacts: int
    size_bytes: int
    problems: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    def as_data(self) -> dict[str, Any]:
        """As plain data."""
        problems = [vars(problem) for problem in self.problems]
        return vars(self) | {"problems": problems, "notes": list(self.notes), "is_sound": not problems}


def verify(folder: RunFolder, on_file: Callable[[Path], None] | None = None) -> Verification:
    """Looks through a run folder.

    Args:
        folder: the run.
        on_file: called before each artifact is read.

    Raises:
        ArtifactError: it is no run folder, or its journal cannot be read at all.
    """
    problems: list[Finding] = []
    notes: list[str] = []
    with Journal(folder.must_exist().journal, read_only=True) as journal:
        records = list(_check_journal(journal, folder, problems))
        left_out = {Digest(left) for left in journal.get_meta(LEFT_OUT) or []}
    sound, num_files, size = set(), 0, 0
    for path in sorted(folder.store.place.rglob("*")):
        if path.is_dir():
            continue
        if path.suffix != SUFFIX:
            notes.append(f"{path.relative_to(folder.place)} was left by an interrupted transfer; agentkd gc removes it")
            continue
        if on_file:
            on_file(path)
        num_files, size = num_files + 1, size + path.stat().st_size
        problem = _check_artifact(path)
        if problem:
            problems.append(Finding(str(path.relative_to(folder.place)), problem))
        sound.add(Digest(path.stem))
    problems += _check_references(folder, records, sound, left_out, notes)
    if left_out:
        notes.append(f"{len(left_out)} artifacts were left out of the bundle on purpose")
    return Verification(len(records), num_files, size, tuple(problems), tuple(notes))


def _check_journal(journal: Journal, folder: RunFolder, problems: list[Finding]) -> Iterator[Record]:
    """The records that can be read; what is wrong with them or with the file is added to the problems."""
    name = folder.journal.name
    damage = journal.check()
    problems += [Finding(name, text) for text in damage]
    try:
        sittings = journal.sittings()
    except ValueError as error:
        sittings = {}
        problems.append(Finding(f"{name}, sittings", f"cannot be read ({error})"))
    previous = NO_RECORD
    for row in journal.rows():
        place = f"{name}, record {row.number}"
        provenance = canonical.encode(sittings.get(row.sitting)).decode()
        if row.digest != row.expected_digest(previous, provenance):
            problems.append(Finding(place, "its digest is not that of its content and of the record before: it was changed"))
        previous = row.digest
        try:
            record = row.record
        except (ValidationError, ValueError, KeyError, TypeError) as error:
            problems.append(Finding(place, f"cannot be read ({str(error).splitlines()[0]})"))
            continue
        if not record.task.key == row.task == TaskKey(canonical.digest_bytes(row.inputs.encode())):
            problems.append(Finding(place, f"is filed under {row.task[:12]}, which is not the digest of its inputs"))
        yield record


def _check_artifact(path: Path) -> str:
    """What is wrong with a file; empty if nothing is."""
    if not DIGEST.fullmatch(path.stem) or path.parent.name != path.stem[:2]:
        return "is not named as an artifact is"
    if path.is_symlink():
        return "is a link"
    with path.open("rb") as file:
        actual = canonical.digest_file(file)
    return "" if actual == path.stem else f"is damaged: its digest is {actual[:12]}..."


def _check_references(
    folder: RunFolder, records: list[Record], present: set[Digest], left_out: set[Digest], notes: list[str]
) -> Iterator[Finding]:
    num_dropped = 0
    for record in records:
        place = f"task {record.task.key[:12]} ({record.label or record.task.kind})"
        made = [("made", digest) for digest in record.result.artifacts]
        for what, digest in (*record.task.references(), *made):
            if digest not in present and digest not in left_out:
                yield Finding(place, f"{what} {digest}, which is not there")
        recorded = record.result.exchange.record if record.result.exchange else NO_DIGEST
        if recorded in present:
            try:
                pieces = {told.piece for told in recordings.decode(folder.store.get(recorded))}
            except ArtifactError as error:
                yield Finding(place, str(error))
                continue
            num_dropped += bool(pieces - present - left_out)
    if num_dropped:
        notes.append(f"the pieces of {num_dropped} recorded lessons were dropped; they can be replayed with teachers")
