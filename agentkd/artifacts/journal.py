"""The journal: every finished task, committed once, in SQLite. It is the truth of a run; all else can be rebuilt from it.

One writer (the coordinator). A record's key is the digest of the task's inputs, so the same work is never recorded twice;
the same key with other weights is an alarm, never an overwrite.
"""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from agentkd import canonical
from agentkd.errors import ArtifactError, StorageError
from agentkd.task import Task, TaskResult

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS records (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    task TEXT NOT NULL UNIQUE,
    inputs TEXT NOT NULL,
    outputs TEXT NOT NULL,
    agent TEXT NOT NULL,
    attempts INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS exchanges (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    task TEXT NOT NULL,
    teacher_weights TEXT NOT NULL,
    teacher_agent TEXT NOT NULL,
    student_agent TEXT NOT NULL
) STRICT;
"""


@dataclass(frozen=True)
class Record:
    """A finished task: its inputs, outputs, who did it and in how many attempts."""

    task: Task
    result: TaskResult
    agent: str
    attempts: int


class Journal:
    """An open journal. Use as a context manager."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        try:
            if read_only:
                self._connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
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
            raise StorageError(path, error.strerror or str(error)) from error

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._connection.close()

    def commit(self, record: Record, teachers: tuple[tuple[str, str], ...] = ()) -> bool:
        """Writes a record and its exchanges (teacher weights, teacher agent) durably; false if the task was recorded before.

        Raises:
            ArtifactError: the task is recorded with other weights: it is not deterministic.
            StorageError: the disk is full or not writable; nothing of the record is kept.
        """
        key = record.task.digest
        known = self.find(key)
        if known is not None:
            if known.weights != record.result.weights:
                raise ArtifactError(f"task {key} gave weights {record.result.weights} after {known.weights}: not deterministic")
            return False
        try:
            with self._connection:
                self._connection.execute(
                    "INSERT INTO records (task, inputs, outputs, agent, attempts) VALUES (?, ?, ?, ?, ?)",
                    (key, _text(record.task.canonical()), _text(record.result.canonical()), record.agent, record.attempts),
                )
                self._connection.executemany(
                    "INSERT INTO exchanges (task, teacher_weights, teacher_agent, student_agent) VALUES (?, ?, ?, ?)",
                    [(key, weights, agent, record.agent) for weights, agent in teachers],
                )
        except sqlite3.DatabaseError as error:
            raise self._translate(error) from error
        return True

    def find(self, task: str) -> TaskResult | None:
        """The result recorded for a task digest."""
        row = self._connection.execute("SELECT outputs FROM records WHERE task = ?", (task,)).fetchone()
        return TaskResult.model_validate_json(row[0]) if row else None

    def records(self) -> Iterator[Record]:
        """All records in the order in which they were committed."""
        try:
            for inputs, outputs, agent, attempts in self._connection.execute(
                "SELECT inputs, outputs, agent, attempts FROM records ORDER BY number"
            ):
                yield Record(Task.model_validate_json(inputs), TaskResult.model_validate_json(outputs), agent, attempts)
        except sqlite3.DatabaseError as error:
            raise self._translate(error) from error

    def exchanges(self) -> list[tuple[str, str, str, str]]:
        """(task, teacher weights, teacher agent, student agent) of every lesson."""
        rows = self._connection.execute(
            "SELECT task, teacher_weights, teacher_agent, student_agent FROM exchanges ORDER BY number"
        )
        return [(str(a), str(b), str(c), str(d)) for a, b, c, d in rows]

    def get_meta(self, key: str) -> Any:
        """A JSON value noted under a key, or ``None``."""
        row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0]) if row else None

    def set_meta(self, key: str, value: Any) -> None:
        """Notes a JSON value under a key."""
        try:
            with self._connection:
                self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))
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
            return StorageError(self.path, str(error))
        return ArtifactError(f"{self.path} is damaged ({error}); restore it from a copy or begin in another folder")


def _text(value: Any) -> str:
    return canonical.encode(value).decode()
