"""A run looked through to the last byte: every record, every digest, every reference."""

import itertools
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentkd import canonical
from agentkd.artifacts import recordings
from agentkd.artifacts.gate import first_line
from agentkd.artifacts.journal import NO_RECORD, Journal, Record
from agentkd.artifacts.run_folder import RunFolder
from agentkd.artifacts.run_places import WRITTEN, shared_places, strange_places
from agentkd.artifacts.store import DIGEST, SUFFIX
from agentkd.errors import ArtifactError, made_again
from agentkd.names import NO_DIGEST, Digest, TaskKey
from agentkd.plain import MAX_YAML, read_yaml

LEFT_OUT = "left_out"
DAMAGED = "is damaged"
MAX_PROBLEMS = 1_000


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
    """Looks through a run folder, whoever made it. Nothing of it is executed, and it is read record by record.

    Args:
        folder: the run.
        on_file: called before each artifact is read.

    Raises:
        ArtifactError: it is no run folder, or its journal cannot be read at all.
    """
    with Journal(folder.must_have_journal().journal, read_only=True) as journal:
        strange = itertools.islice(strange_places(folder.place), MAX_PROBLEMS)
        left_out = set(journal.get_meta(LEFT_OUT, list[Digest]) or ())
        stored = _look_through(folder, on_file or (lambda path: None))
        problems = [Finding(str(one.path.relative_to(folder.place)), str(one)) for one in strange]
        problems += [Finding(folder.journal.name, text) for text in journal.check()]
        lacking: list[Finding] = []
        num_records = num_dropped = 0
        for record in _check_journal(journal, folder.journal.name, problems):
            num_records += 1
            found, is_dropped = _check_references(folder, record, stored.present, left_out)
            lacking += found[: max(0, MAX_PROBLEMS - len(lacking))]
            num_dropped += is_dropped
        problems += [*stored.problems, *lacking, *_check_experiment(folder, journal)]
    notes = stored.notes
    if lacking or any(one.text.startswith(DAMAGED) for one in stored.problems):
        notes.append(f"what is damaged or not there of artifacts: {made_again(folder.store.place)}; then look again")
    shared = next(shared_places(folder.place, WRITTEN), None)
    if shared:
        name = shared.path.relative_to(folder.place)
        notes.append(f"{name} has another name elsewhere (a hard link), so nobody writes here: copy the folder first")
    if num_dropped:
        notes.append(f"the pieces of {num_dropped} recorded lessons were dropped; they can be replayed with teachers")
    if left_out:
        notes.append(f"{len(left_out)} artifacts were left out of the bundle on purpose")
    return Verification(num_records, stored.num_files, stored.size_bytes, tuple(problems), tuple(notes))


def must_be_sound(folder: RunFolder) -> None:
    """Refuses a run in which something is damaged, missing or changed, before it is handed on.

    Raises:
        ArtifactError: it is so; or as ``verify``.
    """
    problems = verify(folder).problems
    if problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise ArtifactError(
            f"{folder.place} is damaged: {problems[0]}{more}; agentkd verify {folder.place} lists all. Restore it, or hand "
            "it on as it is with --damaged"
        )


@dataclass
class _Stored:
    """What lies where artifacts do."""

    present: set[Digest] = field(default_factory=set)
    problems: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    num_files: int = 0
    size_bytes: int = 0


def _look_through(folder: RunFolder, on_file: Callable[[Path], None]) -> _Stored:
    """Every artifact read; a link, a pipe or whatever else is no file is not."""
    found = _Stored()
    for path in _paths(folder.store.place):
        name = str(path.relative_to(folder.place))
        try:
            status = path.lstat()
            if path.suffix != SUFFIX and stat.S_ISREG(status.st_mode):
                found.notes.append(f"{name} was left by an interrupted transfer; agentkd gc removes it")
                continue
            on_file(path)
            problem = _check_artifact(path, status.st_mode)
        except OSError as error:
            found.problems.append(Finding(name, f"cannot be read ({error.strerror})"))
            continue
        found.num_files, found.size_bytes = found.num_files + 1, found.size_bytes + status.st_size
        if problem:
            found.problems.append(Finding(name, problem))
        found.present.add(Digest(path.stem))
    return found


def _paths(place: Path) -> Iterator[Path]:
    """What lies in the folders of a store, and beside them. No link is followed."""
    for path in sorted(place.iterdir()) if place.is_dir() and not place.is_symlink() else ():
        if path.is_dir() and not path.is_symlink():
            yield from sorted(path.iterdir())
        else:
            yield path


def _check_journal(journal: Journal, name: str, problems: list[Finding]) -> Iterator[Record]:
    """The records that can be read; what is wrong with them or with the file is added to the problems."""
    previous, sitting, provenance = NO_RECORD, 0, ""
    try:
        for row in journal.rows():
            place = f"{name}, record {row.number}"
            if row.sitting < sitting:
                problems.append(Finding(place, "is of an earlier sitting than the record before"))
            elif row.sitting > sitting:
                sitting, provenance = row.sitting, _provenance(journal, row.sitting, name, problems)
            if row.digest != row.expected_digest(previous, provenance):
                text = "its digest is not that of its content and of the record before: it was changed"
                problems.append(Finding(place, text))
            previous = row.digest
            try:
                record = row.record
            except ValueError as error:
                problems.append(Finding(place, f"cannot be read ({first_line(error)})"))
            else:
                if not record.task.key == row.task == TaskKey(canonical.digest_bytes(row.inputs.encode())):
                    text = f"is filed under {row.task[:12]}, which is not the digest of its inputs"
                    problems.append(Finding(place, text))
                yield record
            if len(problems) > MAX_PROBLEMS:
                problems.append(Finding(name, "has more problems than these, and was not read to its end"))
                return
        journal.asks()
    except ArtifactError as error:
        problems.append(Finding(name, str(error)))


def _provenance(journal: Journal, sitting: int, name: str, problems: list[Finding]) -> str:
    """Where the records of a sitting come from, as their digests say it; of none, or of one that cannot be read, ``null``."""
    try:
        return canonical.encode(journal.sitting(sitting)).decode()
    except ArtifactError as error:
        problems.append(Finding(f"{name}, sittings", f"cannot be read ({error})"))
        return canonical.encode(None).decode()


def _check_artifact(path: Path, mode: int) -> str:
    """What is wrong with a file; empty if nothing is."""
    if not DIGEST.fullmatch(path.stem) or path.suffix != SUFFIX or path.parent.name != path.stem[:2]:
        return "is not named as an artifact is"
    if stat.S_ISLNK(mode):
        return "is a link"
    if not stat.S_ISREG(mode):
        return "is no file"
    with path.open("rb") as file:
        actual = canonical.digest_file(file)
    return "" if actual == path.stem else f"{DAMAGED}: its digest is {actual[:12]}..."


def _check_references(
    folder: RunFolder, record: Record, present: set[Digest], left_out: set[Digest]
) -> tuple[list[Finding], bool]:
    """What a record names that is not there, and whether pieces of its recording were dropped."""
    place = f"task {record.task.key[:12]} ({record.label or record.task.kind})"
    made = [("made", digest) for digest in record.result.artifacts]
    problems = [
        Finding(place, f"{what} {digest}, which is not there")
        for what, digest in (*record.task.references(), *made)
        if digest not in present and digest not in left_out
    ]
    recorded = record.result.exchange.record if record.result.exchange else NO_DIGEST
    if recorded not in present:
        return problems, False
    try:
        pieces = recordings.pieces(recordings.read(folder.store, recorded))
    except ArtifactError as error:
        return [*problems, Finding(place, str(error))], False
    return problems, bool(pieces - present - left_out)


def _check_experiment(folder: RunFolder, journal: Journal) -> Iterator[Finding]:
    """Whether the experiment's file, if there is one, is what the run was begun with. How it is launched may be edited."""
    path, noted = folder.experiment, journal.get_meta("experiment")
    if path.is_symlink() or not path.is_file():
        return
    try:
        with path.open(encoding="utf-8") as file:
            found = read_yaml(file.read(MAX_YAML + 1))
    except OSError as error:
        yield Finding(path.name, f"cannot be read ({error.strerror})")
    except ValueError as error:
        yield Finding(path.name, f"cannot be read ({first_line(error)})")
    else:
        if isinstance(noted, dict) and (not isinstance(found, dict) or found | {"launch": 0} != noted | {"launch": 0}):
            yield Finding(path.name, "says another experiment than the journal, which this run was begun with")
