"""The records of a run, found by what they were asked for and by what they made."""

import sys
from collections.abc import Iterable

from safetensors import SafetensorError
from safetensors.numpy import load

from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.naming import is_beginning, only
from agentkd.artifacts.recordings import Recordings
from agentkd.artifacts.run_folder import RunFolder
from agentkd.artifacts.store import Store
from agentkd.errors import ArtifactError
from agentkd.names import Digest, TaskKey

MAX_TRACE = 64 * 2**20
"""The most bytes that the losses of a training can have: eight million steps."""


class History:
    """All records in their order. ``by_task`` has them by the task's key."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.by_task = {record.task.key: record for record in records}
        self._makers: dict[Digest, Record] = {}
        for record in self.by_task.values():
            for digest in record.result.artifacts:
                self._makers.setdefault(digest, record)

    def maker(self, artifact: Digest) -> Record | None:
        """The first record that made an artifact; ``None`` if it came from outside."""
        return self._makers.get(artifact)

    def find(self, beginning: str) -> Record:
        """The record of a task, or of what it made, by the first characters of either name.

        Raises:
            ConfigError: nothing begins so, or what several tasks are or made, which it lists.
        """
        named: dict[str, tuple[TaskKey, str]] = {
            digest: (record.task.key, f"of {_called(record)}") for digest, record in self._makers.items()
        }
        named |= {key: (key, f"task {_called(record)}") for key, record in self.by_task.items()}
        return self.by_task[only(beginning, named)]

    def find_artifact(self, beginning: str, store: Store) -> Digest:
        """What was made, or brought along, by the first characters of its digest, or of the key of the task that made it.

        Of a task that made several things its weights are meant, or the knowledge.

        Raises:
            ConfigError: nothing begins so, or several things do, which it lists.
        """
        named: dict[str, tuple[Digest, str]] = {}
        if is_beginning(beginning):
            named = {digest: (digest, "brought along") for digest in store.beginning_with(beginning)}
        named |= {digest: (digest, f"of {_called(record)}") for digest, record in self._makers.items()}
        for key, record in self.by_task.items():
            if result := record.result.weights or record.result.knowledge:
                named[key] = (result, f"task {_called(record)}")
        return only(beginning, named)


def _called(record: Record) -> str:
    return record.label or record.task.kind


def read_history(folder: RunFolder) -> History:
    """The history of a run folder.

    Raises:
        ArtifactError: it is no run folder, or its journal is damaged.
    """
    with Journal(folder.must_exist().journal, read_only=True) as journal:
        return History(journal.records())


def read_recordings(folder: RunFolder) -> Recordings:
    """The recorded lessons of a run folder, with no limit on what they take."""
    found = Recordings(folder.store, max_bytes=sys.maxsize)
    for record in read_history(folder).by_task.values():
        found.note(record.task, record.result)
    return found


def read_losses(data: bytes) -> list[float]:
    """The loss of every step, from a trace.

    Raises:
        ArtifactError: it is none.
    """
    try:
        return [float(value) for value in load(data)["loss"]]
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"not the trace of a training ({error})") from error
