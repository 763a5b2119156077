"""A lesson recorded while it is given, and lessons recorded before: both in the student's process.

What is told is stored on a thread of its own. A list of it lies beside the student's checkpoint, so a student that is killed
and starts again goes on with the recording too. No checkpoint is ahead of the list (``secure``), and the list stays until the
task's result has been committed: whenever a student is killed, what it will not ask again is listed.
"""

import logging
import queue
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from agentkd.artifacts import recordings
from agentkd.artifacts.recordings import Told
from agentkd.artifacts.store import Store
from agentkd.durable import make_folder, sync_file, sync_folder, write_whole
from agentkd.errors import ArtifactCorruptError, StorageError
from agentkd.names import Digest, TeacherId
from agentkd.shortage import start

log = logging.getLogger(__name__)

MAX_PENDING = 64
POLL_S = 0.5


class Recorder:
    """Keeps what a student is told. One thread calls its methods.

    Args:
        index: where the list of what is stored already lies while the lesson lasts. What it lists of an earlier attempt, and is
            still stored, need not be told again.
    """

    def __init__(self, index: Path, store: Store) -> None:
        self._index, self._store = index, store
        self._is_new = not index.is_file()
        self._mend()
        if not self._is_new:
            self._drop_damaged()
        self._told = {(told.weights, told.step) for told in self._stored()}
        self._pending: queue.Queue[tuple[Told, bytes] | threading.Event | None] = queue.Queue(MAX_PENDING)
        self._failure: StorageError | None = None
        self.waited_s = 0.0
        self._thread = threading.Thread(target=self._write, name="agentkd-recorder", daemon=True)
        start(self._thread)

    def keep(self, told: Told, data: bytes = b"") -> None:
        """Takes a piece; ``piece`` of ``told`` may be empty, it is the digest of the data. Without data it is stored already.

        Raises:
            StorageError: an earlier piece could not be written.
        """
        if (told.weights, told.step) not in self._told:
            self._raise()
            self._told.add((told.weights, told.step))
            self._put((told, data))

    def covers(self, teachers: Iterable[TeacherId], step: int) -> bool:
        """Whether all that these teachers told before a step is kept; so it is where a recording begins only now."""
        return self._is_new or all((teacher, before) in self._told for teacher in teachers for before in range(step))

    def secure(self) -> None:
        """Waits until what was taken is stored and listed, durably.

        Raises:
            StorageError: something could not be written.
        """
        written = threading.Event()
        self._put(written)
        started = time.monotonic()
        while not written.wait(POLL_S):
            self._check_thread()
        self.waited_s += time.monotonic() - started
        self._raise()

    def finish(self) -> Digest:
        """Waits until everything is stored, and stores the recording; returns its digest. The list stays.

        Raises:
            StorageError: something could not be written.
        """
        self.close()
        self._raise()
        return self._store.put(recordings.encode(self._stored()))

    def close(self) -> None:
        """Waits until what was taken is written."""
        if self._thread.is_alive():
            self._put(None)
            started = time.monotonic()
            self._thread.join()
            self.waited_s += time.monotonic() - started

    def _stored(self) -> list[Told]:
        """What is listed and stored. After a power cut a listed piece may be missing or damaged; then it was not told."""
        return [told for told in recordings.read_list(self._index).told if told.piece in self._store]

    def _drop_damaged(self) -> None:
        """What an earlier attempt has stored is looked at, for it would be recorded as it is."""
        for piece in {told.piece for told in self._stored()}:
            try:
                self._store.get(piece)
            except ArtifactCorruptError as error:
                log.warning("%s; its step is asked again", error)
                self._store.remove(piece)

    def _mend(self) -> None:
        """Leaves whole lines in the list, and sets a damaged one aside as it was."""
        if self._is_new:
            return
        try:
            data, listed = self._index.read_bytes(), recordings.read_list(self._index)
            whole = b"".join(map(recordings.line, listed.told))
            if listed.damaged:
                aside = self._index.with_name(f"{self._index.name}.damaged")
                write_whole(aside, data)
                log.warning(
                    "%s is damaged in %d lines, whose steps are asked again; as it was it is %s",
                    self._index,
                    listed.damaged,
                    aside,
                )
            if whole != data:
                write_whole(self._index, whole)
        except OSError as error:
            raise StorageError.of(self._index, error) from error

    def _put(self, item: tuple[Told, bytes] | threading.Event | None) -> None:
        started = time.monotonic()
        while True:
            try:
                self._pending.put(item, timeout=POLL_S)
                break
            except queue.Full:
                self._check_thread()
        self.waited_s += time.monotonic() - started

    def _check_thread(self) -> None:
        if not self._thread.is_alive():
            raise StorageError(self._index, "the thread that writes it has ended")

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _write(self) -> None:
        while (item := self._pending.get()) is not None:
            try:
                if self._failure is None:
                    self._sync() if isinstance(item, threading.Event) else self._list(*item)
            except StorageError as error:
                self._failure = error
            except OSError as error:
                self._failure = StorageError.of(self._index, error)
            if isinstance(item, threading.Event):
                item.set()

    def _list(self, told: Told, data: bytes) -> None:
        piece = self._store.put(data) if data else told.piece
        make_folder(self._index.parent)
        with self._index.open("ab") as file:
            file.write(recordings.line(replace(told, piece=piece)))

    def _sync(self) -> None:
        if self._index.is_file():
            sync_file(self._index)
            sync_folder(self._index.parent)


def recorded(records: Iterable[Digest], store: Store) -> dict[Digest, Told]:
    """By the digest of a request, what was answered in these recordings.

    Raises:
        ArtifactError: one is not there, or damaged.
    """
    return {told.request: told for record in records for told in recordings.decode(store.get(record))}
