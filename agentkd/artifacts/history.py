"""The records of a run, found by what they were asked for and by what they made."""

import sys
from collections.abc import Iterable

from safetensors import SafetensorError
from safetensors.numpy import load

from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.recordings import Recordings
from agentkd.artifacts.run_folder import RunFolder
from agentkd.errors import ArtifactError, ConfigError
from agentkd.names import Digest

MIN_PREFIX = 4
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
            ConfigError: there is none, or more than one.
        """
        found = {key: record for key, record in self.by_task.items() if key.startswith(beginning)}
        found |= {r.task.key: r for made, r in self._makers.items() if made.startswith(beginning)}
        if len(beginning) < MIN_PREFIX or len(found) != 1:
            count = f"{len(found)} tasks begin so" if found else "no task, and nothing that one made, begins so"
            raise ConfigError(
                f"{beginning!r}: {count}; give at least {MIN_PREFIX} characters of one, as agentkd lineage prints them"
            )
        return next(iter(found.values()))


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
