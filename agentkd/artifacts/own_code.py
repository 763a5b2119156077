"""Own code between a process and a store: kept where a task that names it is to be done, and let run where that may be.

And own code as people are shown it. Only ``let_run`` lets any run.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from agentkd.artifacts.store import Store
from agentkd.code import loading
from agentkd.code.source import MAX_BYTES, SourceCode
from agentkd.datasets.opening import own_names
from agentkd.errors import ArtifactError
from agentkd.names import Digest
from agentkd.objectives import Own
from agentkd.task import RUNS_CODE, Decide, Task, Taught
from agentkd.visible import visible_line


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
            loading.provide(SourceCode.decode(store.get(digest, max_bytes=MAX_BYTES)))


@dataclass(frozen=True)
class Listing:
    """Own code as it is shown: its digest, what names it, and how many lines each of its files has; none if it is not there."""

    digest: Digest
    names: tuple[str, ...]
    lines: dict[str, int]

    def __str__(self) -> str:
        files = ", ".join(f"{file} ({count} line{'s' if count != 1 else ''})" for file, count in self.lines.items())
        names = visible_line(", ".join(self.names))
        return f"code {self.digest} of {names}: {files or 'its source is not here'}"

    def as_data(self) -> dict[str, Any]:
        """As plain data."""
        return {"digest": self.digest, "names": list(self.names), "lines": self.lines}


def named(task: Task) -> Iterator[tuple[str, Digest]]:
    """(what names it, code) of everything in a task that is its user's own, teachers too. What names own code without it, too."""
    teachers = [teacher.architecture for teacher in task.taught_by if teacher.architecture is not None]
    networks = [task.architecture, *teachers]
    yield from ((one.family, one.code) for one in networks if one.code or ":" in one.family)
    if task.data.code or own_names(task.data.spec):
        yield task.data.spec, task.data.code
    if isinstance(task, Decide) and task.rules.rule:
        yield task.rules.rule, task.rules.code
    if isinstance(task, Taught):
        yield from ((o.path, o.code) for o in task.distillation.objectives if isinstance(o, Own))


def listed(tasks: Iterable[Task], store: Store) -> tuple[Listing, ...]:
    """The own code that tasks name, each once, in their order. Nothing of it is run.

    Raises:
        ArtifactError: it is damaged, or no code.
    """
    names: dict[Digest, dict[str, None]] = {}
    for task in tasks:
        for name, code in named(task):
            if code:
                names.setdefault(code, {})[name] = None
    return tuple(Listing(code, tuple(by), _lines(code, store)) for code, by in names.items())


def _lines(code: Digest, store: Store) -> dict[str, int]:
    if code not in store:
        return {}
    files = SourceCode.decode(store.get(code, max_bytes=MAX_BYTES)).files
    return {path: len(text.splitlines()) for path, text in sorted(files.items())}


def source(code: Digest, store: Store) -> dict[str, str]:
    """The files of a code; none if it is not there, or cannot be read."""
    try:
        return SourceCode.decode(store.get(code, max_bytes=MAX_BYTES)).files
    except ArtifactError:
        return {}
