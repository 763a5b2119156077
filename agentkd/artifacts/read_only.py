"""A journal's file opened to be read, also where nothing may be written: a folder of somebody else, a disk mounted to be read.

SQLite shares a journal with its writer by two files beside it. Where they cannot be made or opened, the file is read as it lies
if nothing waits beside it, or else as a copy in which what waits is there.
"""

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

CANNOT_SHARE = {
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_IOERR,  # a file system that has no locks, or cannot map a file
    sqlite3.SQLITE_PROTOCOL,
}


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that reads.

    Raises:
        sqlite3.Error: the file cannot be read by any way.
        OSError: it may not be read, or cannot be copied.
    """
    with contextlib.ExitStack() as held:
        try:
            connection = held.enter_context(_connected(path, "mode=ro"))
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in CANNOT_SHARE or not path.is_file():
                raise
            with path.open("rb"):  # or who may read it is the reason
                waiting = path.with_name(f"{path.name}-wal")
            if waiting.is_file() and waiting.stat().st_size:
                place = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="agentkd-journal-")))
                for file in (waiting, path):
                    shutil.copyfile(file, place / file.name)
                connection = held.enter_context(_connected(place / path.name, "mode=rw"))
            else:
                connection = held.enter_context(_connected(path, "mode=ro&immutable=1"))
        yield connection


@contextmanager
def _connected(path: Path, how: str) -> Iterator[sqlite3.Connection]:
    """A connection that was tried: SQLite opens a file at the first statement."""
    with contextlib.closing(sqlite3.connect(f"file:{quote(bytes(path.absolute()))}?{how}", uri=True)) as connection:
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA schema_version").fetchone()
        yield connection
