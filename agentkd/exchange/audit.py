"""The audit log: who fetched what, and who asked for what it may not have.

What is handed over is a line each, for it is what the log is for, and costs who asks a piece that was made or read for it. A
refusal costs an asker next to nothing, so what refusals write has a bound: a few lines a minute for each key, and one that counts
the rest.
"""

import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentkd.durable import make_folder
from agentkd.errors import StorageError
from agentkd.exchange.grants import Entry
from agentkd.messages.bodies import Body, KnowledgeRequest, Piece, Way
from agentkd.names import NO_DIGEST, TeacherId

INTERVAL_S = 60.0
MAX_ALONE = 10
"""Refusals of one key in an interval that are a line each; the others are counted in one."""
REFUSED = "refused"

log = logging.getLogger(__name__)


@dataclass
class _Refusals:
    """Those of one key in the interval that began at ``since``: how many have lines, and those that have none, by kind."""

    entry: Entry | None
    since: float
    since_text: str
    num_told: int = 0
    untold: Counter[str] = field(default_factory=Counter)


class Audit:
    """Appends lines of JSON to a 0600 file; without a path it keeps nothing. May be used from any thread.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, path: Path | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._refusals: dict[str, _Refusals] = {}
        self._lock = threading.Lock()

    def served(self, entry: Entry | None, request: Body, piece: Piece) -> None:
        """A piece that is about to be handed over to who asked for it.

        Raises:
            StorageError: as ``note``.
        """
        assert isinstance(request, KnowledgeRequest)
        way, kind = str(piece.way), str(request.kind)
        self.note(entry, kind=kind, digest=request.weights, size_bytes=piece.size_bytes, way=way, outcome="served")

    def streamed(self, entry: Entry | None, request: Body, num_bytes: int) -> None:
        """A stream that begins of a piece that was offered, and how many bytes it is to bring.

        Raises:
            StorageError: as ``note``.
        """
        assert isinstance(request, KnowledgeRequest)
        kind = str(request.kind)
        self.note(entry, kind=kind, digest=request.weights, size_bytes=num_bytes, way=str(Way.STREAM), outcome="streamed")

    def refused(self, entry: Entry | None, kind: str, digest: TeacherId) -> None:
        """A fetch that is refused.

        Raises:
            StorageError: as ``note``.
        """
        self.note(entry, kind=kind, digest=digest, size_bytes=0, way="", outcome=REFUSED)

    def note(self, entry: Entry | None, *, kind: str, digest: TeacherId, size_bytes: int, way: str, outcome: str) -> None:
        """One fetch. Of a key's refusals beyond ``MAX_ALONE`` in an interval only the number is kept.

        Raises:
            StorageError: it cannot be written; then the fetch must not be answered.
        """
        if self._path is None:
            return
        self.sum_up()
        with self._lock:
            if outcome == REFUSED and not self._is_told_alone(entry, kind):
                return
            self._write(self._path, entry, kind=kind, digest=digest, size_bytes=size_bytes, way=way, outcome=outcome)

    def sum_up(self, *, is_over: bool = False) -> None:
        """Writes the numbers of refusals whose interval has ended, or all of them. To be called now and then."""
        if self._path is None:
            return
        with self._lock:
            now = self._clock()
            for key, refusals in list(self._refusals.items()):
                if is_over or now - refusals.since >= INTERVAL_S:
                    try:
                        self._tell_number(self._path, refusals)
                    except StorageError as error:
                        log.error("%d refusals are not in the audit log yet: %s", refusals.untold.total(), error)
                        refusals.since = now
                    else:
                        del self._refusals[key]

    def close(self) -> None:
        """Leaves nothing unsaid."""
        self.sum_up(is_over=True)

    def _is_told_alone(self, entry: Entry | None, kind: str) -> bool:
        key = entry.public_key if entry else ""
        refusals = self._refusals.setdefault(key, _Refusals(entry, self._clock(), _utc()))
        if refusals.num_told < MAX_ALONE:
            refusals.num_told += 1
            return True
        refusals.untold[kind] += 1
        return False

    def _tell_number(self, path: Path, refusals: _Refusals) -> None:
        if refusals.untold:
            kinds, count = ", ".join(sorted(refusals.untold)), refusals.untold.total()
            told = {"kind": kinds, "digest": NO_DIGEST, "size_bytes": 0, "way": "", "outcome": REFUSED}
            self._write(path, refusals.entry, **told, count=count, since=refusals.since_text)

    def _write(self, path: Path, entry: Entry | None, **told: Any) -> None:
        who = {"name": entry.name if entry else "", "public_key": entry.public_key if entry else ""}
        line = {"at": _utc()} | who | told
        try:
            make_folder(path.parent)
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(descriptor, (json.dumps(line) + "\n").encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StorageError.of(path, error) from error


def _utc() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
