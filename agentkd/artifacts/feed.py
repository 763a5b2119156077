"""The feed of a run: what happens in it, a line of JSON each, for whoever watches. Nothing is decided by what stands there.

A coordinator appends to it while agents work. It is never synced, begun anew with each sitting and whenever it is long, and the
one before is kept; each begins with how things stand. What cannot be written is not said: no run ends or waits for that. What a
run has come to stands in the journal, which is the truth of it.
"""

import errno
import logging
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from agentkd.names import NO_TASK, AgentName, TaskKey, TeacherId

FORMAT: Literal[1] = 1
MAX_BYTES = 4 * 2**20
"""Of one file of the feed; there are two at most."""
MAX_LINE = 16_384
MAX_NAME, MAX_TEXT = 200, 1000
EVERY_READER = 0o644

log = logging.getLogger(__name__)

Name = Annotated[str, Field(max_length=MAX_NAME)]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class Line(BaseModel):
    """One thing that happened. ``t`` is seconds since the sitting began, by a clock that does not jump."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    t: Amount = 0.0


class Began(Line):
    """A sitting began, or its feed was begun anew (``is_continued``); how things stand follows.

    Args:
        at: when the sitting began (UTC, ISO 8601).
        clock: what the coordinator's monotonic clock said then: the same clock as that of processes on the same host.
        host: of the coordinator, as of ``HelloRequest``.
    """

    what: Literal["began"] = "began"
    format: Literal[1] = FORMAT
    at: Annotated[str, Field(max_length=20)]
    clock: Amount
    host: Name
    pid: Count
    is_continued: bool = False


class Agent(Line):
    """How an agent is now, all of it.

    Args:
        role: what it was started for; a guest was started by somebody else.
        condition: starting, late, idle, busy, adopting or teaching.
        host: as of ``HelloRequest``; ``pid`` is its process there.
        weights: what it teaches, or is about to.
    """

    what: Literal["agent"] = "agent"
    agent: AgentName
    role: Literal["learning", "teaching", "guest"]
    condition: Name
    device: Name = ""
    slot: int = 0
    host: Name = ""
    pid: Count = 0
    task: TaskKey = NO_TASK
    weights: Name = ""


class Gone(Line):
    """An agent is no longer there."""

    what: Literal["gone"] = "gone"
    agent: AgentName


class Started(Line):
    """An agent was given a task.

    Args:
        label: what it is for, for people.
        teachers: of those that are asked, the weights, or the task of a student that teaches it, and the agent.
    """

    what: Literal["started"] = "started"
    task: TaskKey
    agent: AgentName
    attempt: Count
    label: Text
    kind: Name
    family: Name
    epochs: Count = 0
    teachers: Annotated[tuple[tuple[TeacherId, AgentName], ...], Field(max_length=64)] = ()


class Moved(Line):
    """A student hears one of its teachers at another agent now."""

    what: Literal["moved"] = "moved"
    agent: AgentName
    teacher: TeacherId
    at: AgentName


class Progress(Line):
    """How far a task is. ``received_bytes`` and ``waited_s`` are of its teachers, and of the whole of this attempt."""

    what: Literal["progress"] = "progress"
    task: TaskKey
    step: Count
    steps: Count
    loss: float | None = None
    score: Share | None = None
    received_bytes: Count = 0
    waited_s: Amount = 0.0


class Ended(Line):
    """A task has a result, which is about to be recorded, or was given up (status ``failed``)."""

    what: Literal["ended"] = "ended"
    task: TaskKey
    agent: AgentName
    attempts: Count
    status: Name
    score: Share = 0.0
    parameters: Count = 0
    seconds: Amount = 0.0
    text: Text = ""


class Planned(Line):
    """How many tasks are recorded and expected, and how long the rest may take; ``None`` while nobody can say."""

    what: Literal["planned"] = "planned"
    num_recorded: Count
    num_expected: Count
    left_s: Amount | None = None


class Said(Line):
    """Something worth telling to people."""

    what: Literal["said"] = "said"
    text: Text


class Over(Line):
    """The sitting is over; ``text`` says why, unless all was done. One that is killed does not say so."""

    what: Literal["over"] = "over"
    text: Text = ""


AnyLine = Annotated[
    Began | Agent | Gone | Started | Moved | Progress | Ended | Planned | Said | Over, Field(discriminator="what")
]
_LINES: TypeAdapter[AnyLine] = TypeAdapter(AnyLine)


class FeedWriter:
    """Appends to a feed. One thread calls its methods, none of which raises.

    Args:
        path: of the feed; ``earlier`` is where the one before is kept.
        restate: the lines with which a file begins; of any but the first of a sitting (then it is told true) how things stand.
        on_failure: told once, if nothing more can be written.
    """

    def __init__(
        self, path: Path, earlier: Path, restate: Callable[[bool], Iterable[Line]], on_failure: Callable[[str], None]
    ) -> None:
        self._path, self._earlier, self._restate, self._on_failure = path, earlier, restate, on_failure
        self._pending: list[str] = []
        self._descriptor = -1
        self._size = 0
        self._has_begun = self._has_failed = False

    def add(self, line: Line) -> None:
        """Has a line written with the next ``flush``."""
        if not self._has_failed:
            self._pending.append(line.model_dump_json(exclude_none=True) + "\n")

    def flush(self) -> None:
        """Writes what was added."""
        if self._has_failed or not self._pending:
            return
        data = "".join(self._pending).encode()
        try:
            if self._descriptor < 0 or self._size + len(data) > MAX_BYTES:
                self._begin_anew()
            self._write(data)
        except OSError as error:
            self._fail(error)
        self._pending.clear()

    def close(self) -> None:
        """Writes what was added, and lets go of the file."""
        self.flush()
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._has_failed = -1, True

    def _begin_anew(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        for path in (self._path, self._earlier):
            if path.is_symlink() or (path.exists() and not stat.S_ISREG(path.lstat().st_mode)):
                raise OSError(errno.EEXIST, "something else stands there", str(path))
        if self._path.exists():
            self._path.replace(self._earlier)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        self._descriptor, self._size = os.open(self._path, flags, EVERY_READER), 0
        pending, self._pending = self._pending, []
        for line in self._restate(self._has_begun):
            self.add(line)
        self._has_begun = True
        self._pending, restated = pending, self._pending
        self._write("".join(restated).encode())

    def _write(self, data: bytes) -> None:
        self._size += len(data)
        while data:
            data = data[os.write(self._descriptor, data) :]

    def _fail(self, error: OSError) -> None:
        self._has_failed = True
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        text = (
            f"{self._path} cannot be written ({error.strerror}): what happens from now on is not to be watched; the run goes on"
        )
        log.warning("%s", text)
        self._on_failure(text)


class FeedReader:
    """Reads a feed as it grows. What is no line of one is passed over.

    Args:
        path: of the feed, which need not be there; ``earlier`` as of ``FeedWriter``.
    """

    def __init__(self, path: Path, earlier: Path) -> None:
        self._path = path
        self._identity: tuple[int, int] | None = None
        self._position = 0
        self._rest = b""
        self._waiting = deque([earlier])

    def read(self) -> list[AnyLine]:
        """What was written since it was asked last; at the first time also what stands in the feed before.

        A file that is begun anew meanwhile is read from its beginning, where it says how things stand.
        """
        found: list[AnyLine] = []
        while self._waiting:
            found += _parsed(_whole(self._waiting.popleft()).split(b"\n"))
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return found
        with open(descriptor, "rb") as file:  # noqa: PTH123
            seen = os.fstat(file.fileno())
            if not stat.S_ISREG(seen.st_mode):
                return found
            if (seen.st_dev, seen.st_ino) != self._identity or seen.st_size < self._position:
                self._identity, self._position, self._rest = (seen.st_dev, seen.st_ino), 0, b""
            file.seek(self._position)
            data = file.read(2 * MAX_BYTES)
        self._position += len(data)
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[: MAX_LINE + 1]
        return found + _parsed(lines)


def _whole(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b""
    with open(descriptor, "rb") as file:  # noqa: PTH123
        return file.read(2 * MAX_BYTES) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""


def _parsed(lines: list[bytes]) -> list[AnyLine]:
    found = []
    for line in lines:
        if not 0 < len(line) <= MAX_LINE:
            continue
        try:
            found.append(_LINES.validate_json(line))
        except (ValidationError, ValueError):  # of a later version, damaged, or somebody else's
            continue
    return found
