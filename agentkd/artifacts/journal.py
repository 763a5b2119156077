"""The journal: every finished task, committed once, in SQLite. It is the truth of a run; all else can be rebuilt from it.

One writer (the coordinator). A record's key is the digest of the task's inputs, so the same work is never recorded twice;
the same key with other weights is an alarm, never an overwrite. Each record has a digest that covers the one before, so nothing
can be changed, taken out or put in between without a trace. What is noted beside the records (the experiment, what trials saw) is
under a seal: the sum of the digests of all notes.

Whoever reads one may have it from somebody else: the file passes a gate before anything in it is read, and what it says is
checked where it is taken out.
"""

import contextlib
import json
import operator
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, TypeVar, cast

from pydantic import Field, TypeAdapter

from agentkd import canonical
from agentkd.artifacts import gate
from agentkd.artifacts.gate import Gate, first_line
from agentkd.artifacts.read_only import opened
from agentkd.artifacts.removal import OwnFiles
from agentkd.artifacts.seals import NOTES, NOTES_AND_SEAL, SEAL, Sealed, seal
from agentkd.durable import sync_folder
from agentkd.errors import ArtifactError, StorageError
from agentkd.names import NO_DIGEST, AgentName, Digest, TaskKey
from agentkd.plain import read_json
from agentkd.task import Task, TaskResult, read_task
from agentkd.task.work import MAX_TASK_BYTES

SCHEMA_VERSION = 2
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS sittings (number INTEGER PRIMARY KEY AUTOINCREMENT, provenance TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS records (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    task TEXT NOT NULL UNIQUE,
    inputs TEXT NOT NULL,
    outputs TEXT NOT NULL,
    circumstances TEXT NOT NULL,
    sitting INTEGER NOT NULL REFERENCES sittings (number),
    digest TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE IF NOT EXISTS asks (
    study TEXT NOT NULL,
    trial INTEGER NOT NULL,
    seen TEXT NOT NULL,
    PRIMARY KEY (study, trial)
) STRICT;
"""
NO_RECORD = NO_DIGEST
LAST = chr(0x10FFFF)  # behind every other character
MAX_OUTPUTS = 4 * 2**20
MAX_ASKS = 100_000
Asks = dict[str, dict[int, tuple[int, ...]]]
Value = TypeVar("Value")
Number = Annotated[int, Field(ge=0, strict=True)]


@dataclass(frozen=True)
class Record:
    """A finished task: its inputs and outputs, and how it came about.

    Args:
        agent: who did it, in which of its ``attempts``.
        label: what it was for, for people.
        teachers: (weights, agent) of each teacher that was there.
        at: when it was committed (UTC, ISO 8601); filled in by ``Journal.commit``.
    """

    task: Task
    result: TaskResult
    agent: AgentName
    attempts: int
    label: str = ""
    teachers: tuple[tuple[Digest, AgentName], ...] = ()
    at: str = field(default="", compare=False)

    @property
    def circumstances(self) -> dict[str, Any]:
        """What neither decides the result nor is one."""
        teachers = [list(teacher) for teacher in self.teachers]
        told = {"agent": self.agent, "attempts": self.attempts, "label": self.label, "teachers": teachers}
        return told | {"at": self.at or time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


class _Circumstances(canonical.FrozenData):
    """What neither decides a result nor is one, as it stands in the journal."""

    agent: AgentName
    attempts: Number
    label: str
    teachers: tuple[tuple[Digest, AgentName], ...]
    at: str = Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")


@dataclass(frozen=True)
class Row:
    """A record as it stands in the journal: texts, and the digest that covers them and the record before."""

    number: int
    task: TaskKey
    inputs: str
    outputs: str
    circumstances: str
    sitting: int
    digest: Digest

    @property
    def record(self) -> Record:
        """What the texts say.

        Raises:
            ValueError: they are not those of a record (pydantic's ``ValidationError`` is one).
        """
        if len(self.inputs) > MAX_TASK_BYTES or len(self.outputs) > MAX_OUTPUTS:
            raise ValueError("it is larger than a task, or what comes of one, can be")
        how = _Circumstances.model_validate(read_json(self.circumstances))
        result = TaskResult.model_validate(read_json(self.outputs))
        return Record(read_task(read_json(self.inputs)), result, how.agent, how.attempts, how.label, how.teachers, how.at)

    @property
    def at(self) -> str:
        """When it was committed (UTC, ISO 8601)."""
        return _Circumstances.model_validate(read_json(self.circumstances)).at

    def expected_digest(self, previous: Digest, provenance: str) -> Digest:
        """The digest that it must have, after the record with digest ``previous``, in a sitting of this provenance."""
        return _chain(previous, self.inputs, self.outputs, self.circumstances, provenance)


class Journal:
    """An open journal. Use as a context manager."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self._sitting, self._provenance = 0, _text({})
        was_there = True
        with contextlib.ExitStack() as held:
            try:
                if read_only:
                    self._connection = held.enter_context(opened(path))
                else:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    was_there = path.exists()
                    self._connection = held.enter_context(contextlib.closing(sqlite3.connect(path)))
            except sqlite3.DatabaseError as error:
                raise gate.translated(path, error) from error
            except OSError as error:
                if isinstance(error, PermissionError) and read_only:
                    raise ArtifactError(f"{path} cannot be read: {error.strerror}; ask its owner for a bundle of it") from error
                raise StorageError.of(path, error) from error
            self._pass_gate(read_only, was_there)
            self._held = held.pop_all()

    def _pass_gate(self, read_only: bool, was_there: bool) -> None:
        try:
            self._gate = Gate(self.path, self._connection, SCHEMA)
            if not read_only:
                mode = self._connection.execute("PRAGMA journal_mode=WAL").fetchone()
                self._connection.execute("PRAGMA synchronous=FULL")
                if self._gate.is_empty:
                    if was_there:
                        self._must_be_new()
                    self._begin()
                self._own_files = OwnFiles(self.path, has_log=mode == ("wal",))
            elif self._gate.is_empty:
                raise self._gate.refused("is empty")
        except sqlite3.DatabaseError as error:
            raise gate.translated(self.path, error) from error
        self._check_version()

    def _must_be_new(self) -> None:
        """Nothing is recorded here: then nothing can lie here that was, or a run would begin anew in what is left of another."""
        beside = self.path.with_name("artifacts")
        if next(beside.glob("*/*.safetensors"), None) is not None:
            raise self._gate.refused(f"is empty, though artifacts of a run lie in {beside}")

    def _begin(self) -> None:
        """Makes the tables of a new journal, all at once: one that has some of them alone is no journal any more."""
        self._gate.renew()
        version = ("schema_version", str(SCHEMA_VERSION))
        noted = f"INSERT INTO meta VALUES {version}; INSERT INTO meta VALUES ('{SEAL}', '{json.dumps(seal([(*version, '')]))}');"
        self._connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} {noted} COMMIT;")
        try:
            sync_folder(self.path.parent)
        except OSError as error:
            raise StorageError.of(self.path, error) from error

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._held.close()

    def begin_sitting(self, provenance: dict[str, Any]) -> None:
        """Says where the records that follow come from. It is written down with the first of them."""
        self._sitting, self._provenance = 0, _text(provenance)

    def commit(self, *records: Record, provenance: dict[str, Any] | None = None) -> bool:
        """Writes records durably, all of them or none; false if all tasks were recorded before.

        Args:
            records: of tasks that are done.
            provenance: where they come from, if that is not where this sitting does; then they have a sitting of their own.

        Raises:
            ArtifactError: a task is recorded with other weights: it is not deterministic.
            StorageError: the disk is full or not writable; nothing of the records is kept.
        """
        new = [record for record in records if not self._has(record)]
        if not new:
            return False
        told = self._provenance if provenance is None else _text(provenance)
        sitting = self._sitting if provenance is None else self._last_sitting_of(told)
        with self._writing():
            if not sitting:
                cursor = self._connection.execute("INSERT INTO sittings (provenance) VALUES (?)", (told,))
                sitting = cast(int, cursor.lastrowid)
            for record in new:
                self._insert(record, sitting, told)
        self._sitting = sitting if provenance is None else 0  # a sitting that goes on after another one is a new one
        return True

    def _last_sitting_of(self, provenance: str) -> int:
        """The last sitting, if it has this provenance; 0 if not."""
        last = "SELECT number, provenance FROM sittings ORDER BY number DESC LIMIT 1"
        return next((number for number, text in self._select(last, int, str) if text == provenance), 0)

    def _has(self, record: Record) -> bool:
        """Whether a task is recorded, with these weights."""
        key = record.task.key
        known = self.find(key)
        if known is not None and known.weights != record.result.weights:
            raise ArtifactError(f"task {key} gave weights {record.result.weights} after {known.weights}: not deterministic")
        return known is not None

    def _insert(self, record: Record, sitting: int, provenance: str) -> None:
        inputs, outputs, how = (_text(v) for v in (record.task.canonical(), record.result.canonical(), record.circumstances))
        last = next(self._select("SELECT digest FROM records ORDER BY number DESC LIMIT 1", str), None)
        digest = _chain(last[0] if last else NO_RECORD, inputs, outputs, how, provenance)
        self._connection.execute(
            "INSERT INTO records (task, inputs, outputs, circumstances, sitting, digest) VALUES (?, ?, ?, ?, ?, ?)",
            (record.task.key, inputs, outputs, how, sitting, digest),
        )

    def note_asks(self, asks: Asks) -> None:
        """Writes down durably which results each trial sees that is asked for now: by study and trial number."""
        rows = [(study, trial, _text(list(seen))) for study, trials in asks.items() for trial, seen in trials.items()]
        with self._writing():
            self._connection.executemany("INSERT INTO asks VALUES (?, ?, ?)", rows)
            self._renew_seal(more=[(study, seen, str(trial)) for study, trial, seen in rows])

    def asks(self) -> Asks:
        """What every trial saw, where that was written down.

        Raises:
            ArtifactError: it cannot have seen that, or there are more than 100,000.
        """
        found: Asks = {}
        listed = self._ordered("SELECT study, trial, seen FROM asks ORDER BY study, trial", 2, str, int, str)
        for count, (study, trial, text) in enumerate(listed, start=1):
            seen = self._parsed(text, tuple[Number, ...], f"what trial {trial} saw")
            if count > MAX_ASKS or any(number >= trial for number in seen):
                raise self._gate.refused(f"says of trial {trial} what cannot be, or of too many")
            found.setdefault(study, {})[trial] = seen
        return found

    def find(self, key: TaskKey) -> TaskResult | None:
        """The result recorded for a task."""
        found = next(self._select("SELECT outputs FROM records WHERE task = ?", str, given=(key,)), None)
        return self._parsed(found[0], TaskResult, f"the result of task {key[:12]}") if found else None

    def records(self) -> Iterator[Record]:
        """All records in the order in which they were committed; for the errors see ``records_and_sittings``."""
        return (record for record, _ in self.records_and_sittings())

    def records_and_sittings(self) -> Iterator[tuple[Record, int]]:
        """The same, each with the number of its sitting.

        Raises:
            ArtifactError: one cannot be read, or is not as it was committed.
        """
        for row in self._chained():
            try:
                record = row.record
            except ValueError as error:
                raise self._gate.refused(f"has a record {row.number} that is none ({first_line(error)})") from error
            yield record, row.sitting

    def must_be_whole(self) -> "Journal":
        """This journal, if every record is as it was committed: its digest that of its content and of the record before.

        Raises:
            ArtifactError: one is not.
        """
        for _ in self._chained():
            pass
        return self

    def _chained(self) -> Iterator[Row]:
        self._check_seal()
        previous, sitting, provenance = NO_RECORD, 0, ""
        for row in self.rows():
            if row.sitting != sitting:
                sitting, provenance = row.sitting, _text(self.sitting(row.sitting))
            is_filed = row.task == TaskKey(canonical.digest_bytes(row.inputs.encode()))
            if row.digest != row.expected_digest(previous, provenance) or not is_filed:
                text = (
                    f"has a record {row.number} that was changed: its digest is not that of its content and of the record before"
                )
                raise self._gate.refused(text)
            previous = row.digest
            yield row

    def rows(self, *, after: int = 0) -> Iterator[Row]:
        """The records as they stand, those behind the one with that number."""
        columns = "number, task, inputs, outputs, circumstances, sitting, digest"
        kinds = (int, str, str, str, str, int, str)
        query = f"SELECT {columns} FROM records WHERE number > {int(after)} ORDER BY number"
        return (Row(*row) for row in self._ordered(query, 1, *kinds))

    def sittings(self) -> dict[int, dict[str, Any]]:
        """Provenance of each sitting, by number."""
        listed = self._ordered("SELECT number, provenance FROM sittings ORDER BY number", 1, int, str)
        return {number: self._parsed(text, dict[str, Any], f"the provenance of sitting {number}") for number, text in listed}

    def sitting(self, number: int) -> dict[str, Any] | None:
        """Provenance of one; ``None`` if there is none of that number."""
        found = next(self._select("SELECT provenance FROM sittings WHERE number = ?", str, given=(number,)), None)
        return self._parsed(found[0], dict[str, Any], f"the provenance of sitting {number}") if found else None

    def last_sitting(self) -> dict[str, Any]:
        """Provenance of the last; empty if there is none."""
        found = next(self._select("SELECT number FROM sittings ORDER BY number DESC LIMIT 1", int), None)
        return (self.sitting(found[0]) if found else None) or {}

    def check(self) -> list[str]:
        """What SQLite finds wrong with the file; nothing if it is sound."""
        try:
            self._gate.renew()
            found = [str(row[0]) for row in self._connection.execute("PRAGMA integrity_check(10)")]
        except sqlite3.DatabaseError as error:
            found = [str(error)]
        return [] if found == ["ok"] else found

    def copy_to(self, path: Path, **meta: Any) -> None:
        """Writes the journal as one file of its own, compact, with values noted besides."""
        try:
            self._gate.renew()
            self._connection.execute("VACUUM INTO ?", (str(path),))
            copy = sqlite3.connect(path)
            with contextlib.closing(copy), copy:
                copy.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", [(k, json.dumps(v)) for k, v in meta.items()])
                renewed = json.dumps(seal(copy.execute(NOTES).fetchall()))
                copy.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (SEAL, renewed))
        except sqlite3.DatabaseError as error:
            raise gate.surroundings(path, error) from error

    def get_meta(self, key: str, kind: type[Value] | Any = Any) -> Any:
        """A JSON value noted under a key, or ``None``.

        Args:
            key: under which it is noted.
            kind: what it must be, as pydantic reads it.

        Raises:
            ArtifactError: it is something else.
        """
        found = next(self._select("SELECT value FROM meta WHERE key = ?", str, given=(key,)), None)
        return self._parsed(found[0], kind, f"its {key}") if found else None

    def set_meta(self, key: str, value: Any) -> None:
        """Notes a JSON value under a key."""
        text = json.dumps(value)
        with self._writing():
            old = self._connection.execute("SELECT key, value, '' FROM meta WHERE key = ?", (key,)).fetchall()
            self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, text))
            self._renew_seal(more=[(key, text, "")], less=old)

    def noted(self, prefix: str, kind: Any) -> dict[str, Any]:
        """JSON values noted under this prefix, by the rest of their keys.

        Raises:
            ArtifactError: one is something else.
        """
        listed = self._select("SELECT key, value FROM meta WHERE key >= ? AND key < ?", str, str, given=(prefix, prefix + LAST))
        return {key.removeprefix(prefix): self._parsed(text, kind, f"its {key}") for key, text in listed}

    def note(self, prefix: str, values: Mapping[str, Any]) -> None:
        """Notes JSON values under this prefix, all of them or none."""
        rows = [(prefix + key, json.dumps(value)) for key, value in values.items()]
        with self._writing():
            find = "SELECT key, value, '' FROM meta WHERE key = ?"
            old = [found for key, _ in rows for found in self._connection.execute(find, (key,))]
            self._connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)
            self._renew_seal(more=[(*row, "") for row in rows], less=old)

    def adopt(self, values: Mapping[str, Any], asks: Asks) -> None:
        """Notes values under their keys, and what each trial saw instead of what was noted of it; all of it or nothing."""
        seen = [(study, trial, _text(list(saw))) for study, trials in asks.items() for trial, saw in trials.items()]
        with self._writing():
            for key, value in values.items():
                self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))
            self._connection.execute("DELETE FROM asks")
            self._connection.executemany("INSERT INTO asks VALUES (?, ?, ?)", seen)
            self._renew_seal()

    def _renew_seal(self, more: Iterable[Sealed] = (), less: Iterable[Sealed] = ()) -> None:
        """After notes were written, in the same transaction. Without knowing which, of all that there are."""
        found = self._connection.execute("SELECT value FROM meta WHERE key = ?", (SEAL,)).fetchone()
        if found is None or not (more or less):  # the journal was begun by a version that had none
            renewed = seal(self._connection.execute(NOTES).fetchall())
        else:
            renewed = seal(more, less, since=self._parsed(found[0], Digest, "its seal"))
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (SEAL, json.dumps(renewed)))

    def _check_seal(self) -> None:
        """Whether all notes are as they were written, whoever changed them.

        Raises:
            ArtifactError: they are not.
        """
        notes = list(self._select(NOTES_AND_SEAL, str, str, str))
        sealed = [value for key, value, trial in notes if (key, trial) == (SEAL, "")]
        if sealed and sealed != [json.dumps(seal(note for note in notes if (note[0], note[2]) != (SEAL, "")))]:
            raise self._gate.refused("notes what was not written there: its seal is not that of its asks and settings")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction: all of it or nothing."""
        try:
            self._gate.renew()
            with self._connection:
                yield
            self._own_files.must_be_there(self._connection)
        except sqlite3.DatabaseError as error:
            raise gate.translated(self.path, error) from error

    def _select(self, query: str, *kinds: type, given: tuple[Any, ...] = ()) -> Iterator[Any]:
        """Rows whose columns are of these kinds. A file that says more than it has bytes says some of it many times."""
        size_bytes, said = self._gate.renew(), 0
        try:
            for row in self._connection.execute(query, given):
                if tuple(map(type, row)) != kinds:
                    raise self._gate.refused(f"has another kind of value than {', '.join(kind.__name__ for kind in kinds)}")
                said += 2 + sum(len(value) for value in row if type(value) is str)
                if said > size_bytes and said > (size_bytes := self._gate.renew()):
                    raise self._gate.refused("says more than it has bytes")
                yield row
        except sqlite3.DatabaseError as error:
            raise gate.translated(self.path, error) from error

    def _ordered(self, query: str, by: int, *kinds: type) -> Iterator[Any]:
        """The same, each after the one before by its first columns, so none twice."""
        previous: Any = None
        for row in self._select(query, *kinds):
            if previous is not None and not operator.lt(previous, row[:by]):
                raise self._gate.refused(f"has {row[0]!r} after {previous[0]!r}, which cannot be")
            previous = row[:by]
            yield row

    def _parsed(self, text: str, kind: Any, what: str) -> Any:
        try:
            return _reader(kind).validate_python(read_json(text))
        except ValueError as error:
            raise self._gate.refused(f"does not say {what} in a way that can be read ({first_line(error)})") from error

    def _check_version(self) -> None:
        version = self.get_meta("schema_version")
        if version != SCHEMA_VERSION:
            raise ArtifactError(f"{self.path} has journal version {version}; this agentkd reads {SCHEMA_VERSION}")


@cache
def _reader(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _text(value: Any) -> str:
    return canonical.encode(value).decode()


def _chain(previous: Digest, inputs: str, outputs: str, circumstances: str, provenance: str) -> Digest:
    return canonical.digest([previous, inputs, outputs, circumstances, provenance])
