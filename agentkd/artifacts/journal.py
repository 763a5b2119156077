"""The journal: every finished task, committed once, in SQLite. It is the truth of a run; all else can be rebuilt from it.

One writer (the coordinator). A record's key is the digest of the task's inputs, so the same work is never recorded twice;
the same key with other weights is an alarm, never an overwrite. Each record has a digest that covers the one before, so nothing
can be changed, taken out or put in between without a trace.
"""

import contextlib
import errno
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from agentkd import canonical
from agentkd.errors import ArtifactError, StorageError
from agentkd.names import NO_DIGEST, AgentName, Digest, TaskKey
from agentkd.task import Task, TaskResult, read_task

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
Asks = dict[str, dict[int, tuple[int, ...]]]


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
        how = json.loads(self.circumstances)
        return Record(
            read_task(json.loads(self.inputs)),
            TaskResult.model_validate_json(self.outputs),
            AgentName(how["agent"]),
            how["attempts"],
            how["label"],
            tuple((Digest(weights), AgentName(agent)) for weights, agent in how["teachers"]),
            how["at"],
        )

    def expected_digest(self, previous: Digest, provenance: str) -> Digest:
        """The digest that it must have, after the record with digest ``previous``, in a sitting of this provenance."""
        return _chain(previous, self.inputs, self.outputs, self.circumstances, provenance)


class Journal:
    """An open journal. Use as a context manager."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self._sitting, self._provenance = 0, _text({})
        try:
            if read_only:
                self._connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._connection = sqlite3.connect(path)
                self._connection.execute("PRAGMA journal_mode=WAL")
                self._connection.execute("PRAGMA synchronous=FULL")
                self._connection.executescript(SCHEMA)
            self._check_version(read_only)
        except sqlite3.DatabaseError as error:
            raise self._translate(error) from error
        except OSError as error:
            raise StorageError.of(path, error) from error

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._connection.close()

    def begin_sitting(self, provenance: dict[str, Any]) -> None:
        """Says where the records that follow come from. It is written down with the first of them."""
        self._sitting, self._provenance = 0, _text(provenance)

    def commit(self, *records: Record) -> bool:
        """Writes records durably, all of them or none; false if all tasks were recorded before.

        Raises:
            ArtifactError: a task is recorded with other weights: it is not deterministic.
            StorageError: the disk is full or not writable; nothing of the records is kept.
        """
        new = [record for record in records if not self._has(record)]
        if not new:
            return False
        with self._writing():
            if not self._sitting:
                cursor = self._connection.execute("INSERT INTO sittings (provenance) VALUES (?)", (self._provenance,))
            sitting = self._sitting or cast(int, cursor.lastrowid)
            for record in new:
                self._insert(record, sitting)
        self._sitting = sitting
        return True

    def _has(self, record: Record) -> bool:
        """Whether a task is recorded, with these weights."""
        key = record.task.key
        known = self.find(key)
        if known is not None and known.weights != record.result.weights:
            raise ArtifactError(f"task {key} gave weights {record.result.weights} after {known.weights}: not deterministic")
        return known is not None

    def _insert(self, record: Record, sitting: int) -> None:
        inputs, outputs, how = (_text(v) for v in (record.task.canonical(), record.result.canonical(), record.circumstances))
        last = self._connection.execute("SELECT digest FROM records ORDER BY number DESC LIMIT 1").fetchone()
        digest = _chain(last[0] if last else NO_RECORD, inputs, outputs, how, self._provenance)
        self._connection.execute(
            "INSERT INTO records (task, inputs, outputs, circumstances, sitting, digest) VALUES (?, ?, ?, ?, ?, ?)",
            (record.task.key, inputs, outputs, how, sitting, digest),
        )

    def note_asks(self, asks: Asks) -> None:
        """Writes down durably which results each trial sees that is asked for now: by study and trial number."""
        rows = [(study, trial, _text(list(seen))) for study, trials in asks.items() for trial, seen in trials.items()]
        with self._writing():
            self._connection.executemany("INSERT INTO asks VALUES (?, ?, ?)", rows)

    def asks(self) -> Asks:
        """What every trial saw, where that was written down."""
        found: Asks = {}
        for study, trial, seen in self._select("SELECT study, trial, seen FROM asks ORDER BY study, trial"):
            found.setdefault(study, {})[trial] = tuple(json.loads(seen))
        return found

    def find(self, key: TaskKey) -> TaskResult | None:
        """The result recorded for a task."""
        row = self._connection.execute("SELECT outputs FROM records WHERE task = ?", (key,)).fetchone()
        return TaskResult.model_validate_json(row[0]) if row else None

    def records(self) -> Iterator[Record]:
        """All records in the order in which they were committed."""
        return (row.record for row in self.rows())

    def rows(self) -> Iterator[Row]:
        """The same as they stand."""
        columns = "number, task, inputs, outputs, circumstances, sitting, digest"
        return (Row(*row) for row in self._select(f"SELECT {columns} FROM records ORDER BY number"))

    def sittings(self) -> dict[int, dict[str, Any]]:
        """Provenance of each sitting, by number."""
        return {
            number: json.loads(text) for number, text in self._select("SELECT number, provenance FROM sittings ORDER BY number")
        }

    def check(self) -> list[str]:
        """What SQLite finds wrong with the file; nothing if it is sound."""
        try:
            found = [str(row[0]) for row in self._connection.execute("PRAGMA integrity_check")]
        except sqlite3.DatabaseError as error:
            return [str(error)]
        return [] if found == ["ok"] else found

    def copy_to(self, path: Path, **meta: Any) -> None:
        """Writes the journal as one file of its own, compact, with values noted besides."""
        try:
            self._connection.execute("VACUUM INTO ?", (str(path),))
            copy = sqlite3.connect(path)
            with contextlib.closing(copy), copy:
                copy.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", [(k, json.dumps(v)) for k, v in meta.items()])
        except sqlite3.DatabaseError as error:
            raise _refusal(path, error) from error

    def get_meta(self, key: str) -> Any:
        """A JSON value noted under a key, or ``None``."""
        row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0]) if row else None

    def set_meta(self, key: str, value: Any) -> None:
        """Notes a JSON value under a key."""
        with self._writing():
            self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction: all of it or nothing."""
        try:
            with self._connection:
                yield
        except sqlite3.DatabaseError as error:
            raise self._translate(error) from error

    def _select(self, query: str) -> Iterator[Any]:
        try:
            yield from self._connection.execute(query)
        except sqlite3.DatabaseError as error:
            raise self._translate(error) from error

    def _check_version(self, read_only: bool) -> None:
        version = self.get_meta("schema_version")
        if version is None and not read_only:
            self.set_meta("schema_version", SCHEMA_VERSION)
        elif version != SCHEMA_VERSION:
            raise ArtifactError(f"{self.path} has journal version {version}; this agentkd reads {SCHEMA_VERSION}")

    def _translate(self, error: sqlite3.DatabaseError) -> ArtifactError | StorageError:
        if isinstance(error, sqlite3.OperationalError):
            return _refusal(self.path, error)
        return ArtifactError(f"{self.path} is damaged ({error}); restore it from a copy or begin in another folder")


def _refusal(path: Path, error: sqlite3.DatabaseError) -> StorageError:
    """What SQLite's words mean. It does not tell that there is no descriptor left, so one is tried."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
        return StorageError.of(path, OSError(errno.ENOSPC, ""))
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as refused:
        return StorageError.of(path, refused)
    return StorageError(path, str(error))


def _text(value: Any) -> str:
    return canonical.encode(value).decode()


def _chain(previous: Digest, inputs: str, outputs: str, circumstances: str, provenance: str) -> Digest:
    return canonical.digest([previous, inputs, outputs, circumstances, provenance])
