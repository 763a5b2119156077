"""The log files of a run: which there are, how one ends, and what is written to it from now on."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from agentkd.artifacts.run_folder import RunFolder, RunLock
from agentkd.errors import ConfigError, UnusableError

SUFFIX = ".log"
COORDINATOR = "coordinator"
MAX_READ = 16 * 2**20
"""Of a log that is larger its end alone: an agent's is cut at half of that."""
POLL_S = 0.2
MAX_NAMED = 12


def log_names(folder: RunFolder) -> list[str]:
    """Whose logs there are: the coordinator's, then those of agents and of what started them, by number."""
    names = [path.name.removesuffix(SUFFIX) for path in folder.logs.glob(f"*{SUFFIX}") if path.is_file()]
    return sorted(names, key=lambda name: (name != COORDINATOR, name.rpartition("-")[0], len(name), name))


def log_of(folder: RunFolder, agent: str) -> Path:
    """The log of an agent, or of the coordinator.

    Raises:
        ConfigError: there is none; those that there are are named.
    """
    names = log_names(folder)
    if agent not in names:
        listed = ", ".join(names[:MAX_NAMED]) + (f" and {len(names) - MAX_NAMED:,} more" if len(names) > MAX_NAMED else "")
        raise ConfigError(f"{folder.place} has no log of {agent[:80]!r}; it has those of {listed or 'nobody'}")
    return folder.logs / f"{agent}{SUFFIX}"


def last_lines(path: Path, count: int) -> tuple[list[str], int]:
    """The last lines of a log, all of them if ``count`` is 0; and where it ended.

    Raises:
        UnusableError: it cannot be read.
    """
    data, end = _read(path, 0)
    lines = data.decode(errors="backslashreplace").splitlines()
    return (lines[-count:] if count else lines), end


def following(path: Path, since: int, is_over: Callable[[], bool]) -> Iterator[str]:
    """Whole lines as they are written, from a place on, until it is over and nothing more has come. Waits between them.

    A log that was cut meanwhile is read from its beginning.

    Raises:
        UnusableError: it cannot be read.
    """
    rest = b""
    while True:
        was_over = is_over()
        data, since = _read(path, since)
        whole, line_feed, left = (rest + data).rpartition(b"\n")
        rest = left
        if line_feed:
            yield from whole.decode(errors="backslashreplace").split("\n")
        if was_over and not data:
            if rest:
                yield rest.decode(errors="backslashreplace")
            return
        if not data:
            time.sleep(POLL_S)


def is_at_rest(folder: RunFolder) -> bool:
    """Whether nobody works in a run folder, so that nothing more is logged there."""
    return not RunLock(folder).is_held


def _read(path: Path, since: int) -> tuple[bytes, int]:
    """What stands in a file from a place on, of much its end; and where it ends."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            end = os.fstat(file.fileno()).st_size
            since = 0 if since > end else since
            file.seek(max(since, end - MAX_READ))
            data = file.read(MAX_READ)
            return data, file.tell()
    except OSError as error:
        raise UnusableError(path, error.strerror or str(error)) from error
