"""A lesson recorded while it is given, and lessons recorded before: both in the student's process.

What is told is stored on a thread of its own. A list of it lies beside the student's checkpoint, so a student that is killed
and starts again goes on with the recording too.
"""

import json
import queue
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from agentkd.artifacts import recordings
from agentkd.artifacts.recordings import Told
from agentkd.artifacts.store import Store
from agentkd.errors import StorageError

MAX_PENDING = 64


class Recorder:
    """Keeps what a student is told. One thread calls its methods.

    Args:
        index: where the list of what is stored already lies while the lesson lasts.
    """

    def __init__(self, index: Path, store: Store) -> None:
        self._index, self._store = index, store
        self._told = {(told.weights, told.step): told for told in recordings.read_list(index)}
        self._pending: queue.Queue[tuple[Told, bytes] | None] = queue.Queue(MAX_PENDING)
        self._failure: StorageError | None = None
        self.waited_s = 0.0
        self._thread = threading.Thread(target=self._write, name="agentkd-recorder", daemon=True)
        self._thread.start()

    def keep(self, told: Told, data: bytes = b"") -> None:
        """Takes a piece; ``piece`` of ``told`` may be empty, it is the digest of the data. Without data it is stored already.

        Raises:
            StorageError: an earlier piece could not be written.
        """
        if (told.weights, told.step) not in self._told:
            self._told[told.weights, told.step] = told
            self._put((told, data))

    def finish(self) -> str:
        """Waits until everything is stored, and stores the recording; returns its digest.

        Raises:
            StorageError: something could not be written.
        """
        self.close()
        self._raise()
        record = self._store.put(recordings.encode(recordings.read_list(self._index)))
        self._index.unlink(missing_ok=True)
        return record

    def close(self) -> None:
        """Waits until what was taken is written."""
        if self._thread.is_alive():
            self._put(None, checked=False)
            started = time.monotonic()
            self._thread.join()
            self.waited_s += time.monotonic() - started

    def _put(self, item: tuple[Told, bytes] | None, *, checked: bool = True) -> None:
        if checked:
            self._raise()
        started = time.monotonic()
        self._pending.put(item)
        self.waited_s += time.monotonic() - started

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _write(self) -> None:
        while (item := self._pending.get()) is not None:
            if self._failure is not None:
                continue
            told, data = item
            try:
                piece = self._store.put(data) if data else told.piece
                self._index.parent.mkdir(parents=True, exist_ok=True)
                with self._index.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(told) | {"piece": piece}) + "\n")
            except StorageError as error:
                self._failure = error
            except OSError as error:
                self._failure = StorageError(self._index, error.strerror or str(error))


def recorded(records: Iterable[str], store: Store) -> dict[str, Told]:
    """By the digest of a request, what was answered in these recordings.

    Raises:
        ArtifactError: one is not there, or damaged.
    """
    return {told.request: told for record in records for told in recordings.decode(store.get(record))}
