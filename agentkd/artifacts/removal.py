"""Whether the files of an open journal are still those that were opened: whoever removes them in mid-run takes no record away.

What is committed to a file that was removed is lost when the run ends, though every commit succeeds. So it is looked for after
each, and what the connection still has is written where it belongs.
"""

import contextlib
import os
import sqlite3
from pathlib import Path

from agentkd.durable import identity
from agentkd.errors import StorageError

ADVICE = "find out who removes files there, then run the command again: it goes on from what is recorded"


class OwnFiles:
    """The files of one connection that writes.

    Args:
        path: of the journal.
        has_log: whether SQLite keeps its newest pages in a file beside it.
    """

    def __init__(self, path: Path, *, has_log: bool) -> None:
        self._path, self._log = path, path.with_name(f"{path.name}-wal") if has_log else None
        self._known = identity(path)

    def must_be_there(self, connection: sqlite3.Connection) -> None:
        """To be called after each commit.

        Raises:
            StorageError: one was removed, or another put in its place. What was committed is saved first, and where is said.
            sqlite3.Error: it cannot be saved.
        """
        if self._known is not None and identity(self._path) != self._known:
            place = self._save(connection)
            raise StorageError(
                self._path, f"it was removed while it was open; all that it recorded is saved as {place}", advice=ADVICE
            )
        if self._log is not None and not self._log.exists():
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            raise StorageError(self._log, "it was removed while it was open; all that is recorded is saved", advice=ADVICE)

    def _save(self, connection: sqlite3.Connection) -> Path:
        """Writes all of it to its own path, or beside it if something else lies there."""
        names = (self._path.name, *(f"{self._path.name}.saved-{number}" for number in range(1, 100)))
        place = next(place for name in names if not os.path.lexists(place := self._path.with_name(name)))
        with contextlib.closing(sqlite3.connect(place)) as saved:
            connection.backup(saved)
        return place
