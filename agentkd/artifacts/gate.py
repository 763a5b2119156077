"""What a journal's file must be before it is read, whoever made it: SQLite that holds the tables of a journal and nothing else.

A file of SQLite can bring views, triggers and expressions that run when it is read, and pages that stand in many places at once.
Here the first are refused, and the second are given no more steps than an honest file of that size needs.
"""

import contextlib
import errno
import os
import sqlite3
import stat
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from pydantic import ValidationError

from agentkd.errors import ArtifactError, StorageError
from agentkd.plain import MAX_JSON

PAGE_BYTES = 4096
STEPS_TO_OPEN = 100_000
STEPS_A_BYTE = 8
STEPS_AT_ONCE = 1_000
LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: MAX_JSON + 2**16,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 100,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 2,
}
ADVICE = "see to its disk, and to who may write there, then run the command again"
HELD = "another program holds it (a database browser, a backup): end that, then run the command again"
# What is not the file's fault. All else that SQLite says of a file is.
SURROUNDINGS = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}


class Gate:
    """Watches over one connection to a journal. ``renew`` is called before a statement.

    Args:
        path: of the file.
        schema: the statements that make a journal's tables.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, schema: str) -> None:
        self._path, self._left, self._most_bytes = path, STEPS_TO_OPEN, 0
        connection.execute("PRAGMA trusted_schema = OFF")
        for category, limit in LIMITS.items():
            connection.setlimit(category, limit)
        connection.set_progress_handler(self._is_over, STEPS_AT_ONCE)
        try:
            found = tables(connection)
        except UnicodeDecodeError:  # so SQLite's own message, which quotes the file
            raise self.refused("has other tables than a journal, with names that are no text") from None
        if found and found != _expected(schema):
            strange = sorted(found ^ _expected(schema))[0]
            raise self.refused(f"has other tables than a journal: {strange[0]} {strange[1][:80]!r}")
        if found and connection.execute("PRAGMA encoding").fetchone() != ("UTF-8",):
            raise self.refused("is not in UTF-8")
        self.is_empty = not found

    def renew(self) -> int:
        """Allows the steps of one more statement; returns how many bytes the file has or had, with what is not yet in it."""
        size_bytes = 0  # of one that somebody removes while it is open
        for path in (self._path, self._path.with_name(f"{self._path.name}-wal")):
            with contextlib.suppress(OSError):
                size_bytes += path.stat().st_size
        self._most_bytes = max(self._most_bytes, size_bytes)
        self._left = STEPS_TO_OPEN + STEPS_A_BYTE * self._most_bytes
        return self._most_bytes

    def refused(self, reason: str) -> ArtifactError:
        """An error that says what is wrong with the file."""
        return refused(self._path, reason)

    def _is_over(self) -> bool:
        self._left -= STEPS_AT_ONCE
        return self._left < 0


def tables(connection: sqlite3.Connection) -> set[tuple[str, str, str]]:
    """Kind, name and statement of all that a file defines; line breaks and spaces do not count."""
    found = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema LIMIT 100")
    return {(str(kind), f"{name} of {table}", " ".join(str(sql or "").split())) for kind, name, table, sql in found}


@cache
def _expected(schema: str) -> set[tuple[str, str, str]]:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(schema)
        return tables(connection)


def first_line(error: Exception) -> str:
    """What is wrong, in one line that is not long; pydantic's first problem, without what it found."""
    if isinstance(error, ValidationError):
        problem = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, problem['loc']))[:100]}: {problem['msg'][:200]}"
    return " ".join(str(error).split())[:300]


def refused(path: Path, reason: str) -> ArtifactError:
    """An error that says what is wrong with a journal."""
    return ArtifactError(f"{path} is damaged, or no journal: it {reason}; restore it from a copy or begin in another folder")


def translated(path: Path, error: sqlite3.Error) -> ArtifactError | StorageError:
    """What SQLite says as an error of ours: of the file, or of its surroundings."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in SURROUNDINGS:
        return surroundings(path, error)
    if code == sqlite3.SQLITE_INTERRUPT:
        return refused(path, "takes more steps to read than a file of its size can")
    return refused(path, f"cannot be read ({error})")


def surroundings(path: Path, error: sqlite3.Error) -> ArtifactError | StorageError:
    """What SQLite's words mean. It does not tell that there is no descriptor left, so one is tried."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
        return StorageError.of(path, OSError(errno.ENOSPC, ""))
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as no_descriptor:
        return StorageError.of(path, no_descriptor)
    is_beginning = False
    with contextlib.suppress(OSError):
        is_beginning = path.stat().st_size <= PAGE_BYTES
    strange = next(_strange_neighbors(path, is_beginning=is_beginning), "")
    if strange:
        return refused(path, f"has {strange!r} beside it, which is none of SQLite's that belongs to a journal")
    is_held = getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    return StorageError(path, str(error), advice=HELD if is_held else ADVICE)


def _strange_neighbors(path: Path, *, is_beginning: bool) -> Iterator[str]:
    """What lies where SQLite keeps a journal's newest pages, and is not that.

    A rollback journal belongs to other databases, or to a journal that was beginning when the disk failed.
    """
    for suffix, belongs in (("-wal", True), ("-shm", True), ("-journal", is_beginning)):
        neighbor = path.with_name(path.name + suffix)
        with contextlib.suppress(OSError):
            if not (belongs and stat.S_ISREG(neighbor.lstat().st_mode)) and os.path.lexists(neighbor):
                yield neighbor.name
