"""Own code between a process and a store: kept where a task that names it is to be done, and let run where that may be."""

from collections.abc import Iterable

from agentkd.artifacts.store import Store
from agentkd.code import loading
from agentkd.code.source import SourceCode
from agentkd.names import Digest
from agentkd.task import RUNS_CODE, Task


def codes_of(task: Task) -> tuple[Digest, ...]:
    """The own code that runs where a task is executed."""
    return tuple(digest for what, digest in task.reads() if what == RUNS_CODE)


def keep_code(task: Task, store: Store) -> None:
    """Has in the store what own code a task refers to, as far as it was provided to this process: where it was named first.

    Raises:
        StorageError: it cannot be written.
    """
    for _, digest in task.references():
        if loading.is_provided(digest) and digest not in store:
            store.put(loading.provided(digest).encode())


def let_run(codes: Iterable[Digest], store: Store) -> None:
    """Provides stored code to this process. To be called only where whoever this process works for wants it to run.

    Raises:
        ArtifactError: it is not in the store, damaged, or no code.
        ConfigError: as ``provide``.
    """
    for digest in codes:
        if not loading.is_provided(digest):
            loading.provide(SourceCode.decode(store.get(digest)))
