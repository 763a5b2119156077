"""Recordings of lessons: what a student was told in each step, so that it, or another, can be told again without the teacher.

A recording is an artifact that lists the pieces of a lesson by digest; the pieces are artifacts as they travelled. This module
knows which lessons are recorded, what they take, what they saved, and which are dropped first when there are too many.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from agentkd import canonical
from agentkd.artifacts.store import Store
from agentkd.canonical import digest_bytes
from agentkd.durable import discard
from agentkd.errors import ArtifactError
from agentkd.names import Digest
from agentkd.plain import read_json
from agentkd.task import Distill, Task, TaskResult

GIB = 1024**3
MAX_BYTES = 64 * 2**20
"""The most that the list of a lesson's pieces may take: half a million pieces."""
COLUMNS = {
    "weights": "uint8",
    "request": "uint8",
    "piece": "uint8",
    "step": "int64",
    "size_bytes": "int64",
    "teacher_s": "float64",
}


@dataclass(frozen=True)
class Told:
    """One piece that a student was told.

    Args:
        request: digest of what was asked, see ``agentkd.agents.lessons.request_digest``; equal requests have equal answers.
        piece: digest of the answer.
        teacher_s: seconds that the teacher took for it.
    """

    weights: Digest
    step: int
    request: Digest
    piece: Digest
    size_bytes: int
    teacher_s: float


@dataclass(frozen=True)
class RecordingReport:
    """What recording lessons costs and saves.

    Args:
        size_bytes: of the pieces that are kept; pieces that two lessons share count once.
        num_served: answers that came from a recording instead of a teacher.
        saved_s: seconds of teachers' work that these answers did not cost.
        kept_s: seconds that students waited for their recordings to be written.
    """

    num_lessons: int
    num_pieces: int
    size_bytes: int
    max_bytes: int
    num_dropped: int
    num_served: int
    saved_s: float
    kept_s: float

    @property
    def pays(self) -> bool:
        """Whether recording has saved more time than it took."""
        return self.saved_s > self.kept_s

    def __str__(self) -> str:
        verdict = "pays" if self.pays else "has not paid yet"
        return (
            f"{self.num_lessons} lessons recorded, {self.num_pieces} pieces, {self.size_bytes / 1e6:.1f} of "
            f"{self.max_bytes / 1e6:.0f} MB, {self.num_dropped} dropped; {self.num_served} answers served from them, "
            f"{self.saved_s:.1f} s of teachers saved for {self.kept_s:.1f} s of writing: recording {verdict}"
        )


def encode(told: Iterable[Told]) -> bytes:
    """A recording as safetensors bytes: a row for each piece, in the order of steps and weights."""
    rows = sorted(told, key=lambda one: (one.step, one.weights))
    return save(
        {
            **{name: _digests([getattr(one, name) for one in rows]) for name in ("weights", "request", "piece")},
            "step": np.array([one.step for one in rows], dtype=np.int64),
            "size_bytes": np.array([one.size_bytes for one in rows], dtype=np.int64),
            "teacher_s": np.array([one.teacher_s for one in rows], dtype=np.float64),
        },
        {"kind": "recording"},
    )


def read(store: Store, digest: Digest) -> bytes:
    """The bytes of a recording in a store.

    Raises:
        ArtifactError: they are not there, damaged, or more than a recording can have.
    """
    return store.get(digest, max_bytes=MAX_BYTES)


def pieces(data: bytes) -> set[Digest]:
    """The pieces of a recording.

    Raises:
        ArtifactError: the bytes are no recording.
    """
    return {Digest(bytes(row).hex()) for row in _columns(data)["piece"]}


def decode(data: bytes) -> tuple[Told, ...]:
    """The rows of a recording.

    Raises:
        ArtifactError: the bytes are no recording.
    """
    columns = _columns(data)
    names = ("weights", "request", "piece")
    digests = [[Digest(bytes(row).hex()) for row in columns[name]] for name in names]
    numbers = [columns[name].tolist() for name in ("step", "size_bytes", "teacher_s")]
    return tuple(
        Told(weights=weights, step=step, request=request, piece=piece, size_bytes=size, teacher_s=seconds)
        for weights, request, piece, step, size, seconds in zip(*digests, *numbers, strict=True)
    )


def _columns(data: bytes) -> "dict[str, np.ndarray[tuple[int, ...], np.dtype[Any]]]":
    """The columns of a recording, each of its kind, all of one length, and with numbers that can be.

    Raises:
        ArtifactError: the bytes are no recording.
    """
    try:
        columns = load(data)
        count = len(columns["step"])
        for name, kind in COLUMNS.items():
            if columns[name].dtype != kind or columns[name].shape != ((count, 32) if kind == "uint8" else (count,)):
                raise ValueError(f"{name} is {columns[name].dtype} of shape {columns[name].shape}")
            if kind != "uint8" and not (np.isfinite(columns[name]).all() and (columns[name] >= 0).all()):
                raise ValueError(f"{name} has a number that cannot be")
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ArtifactError(f"{digest_bytes(data)[:12]} is no recording of a lesson ({error})") from error
    return columns


@dataclass(frozen=True)
class Listed:
    """What stands in the list of an unfinished lesson.

    Args:
        told: of the lines that are whole.
        damaged: how many lines are not. A last line that has no end was being written, and is none.
    """

    told: tuple[Told, ...]
    damaged: int


def line(told: Told) -> bytes:
    """A line of the list of an unfinished lesson. It names its own digest."""
    return json.dumps(asdict(told) | {"digest": canonical.digest(asdict(told))}).encode() + b"\n"


def read_list(path: Path) -> Listed:
    """What stands in the list of an unfinished lesson; nothing if there is none.

    Raises:
        OSError: it cannot be read.
    """
    if not path.is_file():
        return Listed((), 0)
    *whole, rest = path.read_bytes().split(b"\n")
    read = [_read_line(text) for text in whole]
    unique = {(told.weights, told.step): told for told in read if told is not None}
    return Listed(tuple(unique.values()), read.count(None) + (b"\0" in rest))


def _read_line(text: bytes) -> Told | None:
    try:
        fields = read_json(text)
        digest = fields.pop("digest")
        told = Told(**fields)
        return told if digest == canonical.digest(fields) else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _is_whole(rows: Iterable[Told], num_teachers: int) -> bool:
    """Whether nothing is missing: after a power cut the list may lack steps, which are then asked again."""
    steps: dict[Digest, set[int]] = {}
    for told in rows:
        steps.setdefault(told.weights, set()).add(told.step)
    return len(steps) == num_teachers and all(seen == set(range(len(seen))) for seen in steps.values())


def _digests(values: list[Digest]) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    return np.frombuffer(b"".join(bytes.fromhex(value) for value in values), dtype=np.uint8).reshape(len(values), 32)


@dataclass(frozen=True)
class _Lesson:
    record: Digest
    epochs: int
    pieces: dict[Digest, int]


class Recordings:
    """The recorded lessons of a run, in the order in which they ended. ``note`` is told of every result.

    Args:
        max_bytes: the most that their pieces (``size_bytes``) may take; the lessons that ended first are dropped first.
    """

    def __init__(self, store: Store, *, max_bytes: int = 4 * GIB) -> None:
        self._store, self._max_bytes = store, max_bytes
        self._lessons: dict[Digest, _Lesson] = {}
        self._of: dict[Digest, list[Digest]] = {}
        self._uses: Counter[Digest] = Counter()
        self.size_bytes = 0
        self._num_dropped = self._num_served = 0
        self._saved_s = self._kept_s = 0.0

    @property
    def is_any(self) -> bool:
        """Whether a lesson is recorded at all."""
        return bool(self._lessons)

    def note(self, task: Task, result: TaskResult) -> None:
        """Takes note of a result; one without a recording, or whose pieces are not all there, adds nothing."""
        exchange = result.exchange
        if exchange is None or not isinstance(task, Distill):
            return
        self._num_served += exchange.recorded
        self._saved_s += exchange.saved_s
        self._kept_s += exchange.kept_s
        if not exchange.record or exchange.record in self._lessons or exchange.record not in self._store:
            return
        rows = decode(read(self._store, exchange.record))
        pieces = {told.piece: told.size_bytes for told in rows}
        if any(piece not in self._store for piece in pieces):
            self._num_dropped += 1
            return
        epochs = result.epochs if _is_whole(rows, len(task.teachers)) else 0
        self._lessons[exchange.record] = _Lesson(exchange.record, epochs, pieces)
        self.size_bytes += sum(size for piece, size in pieces.items() if piece not in self._uses)
        self._uses.update(pieces.keys())
        for teacher in task.teachers:
            self._of.setdefault(task.lesson_digest(teacher), []).append(exchange.record)

    def find(self, task: Task) -> tuple[tuple[Digest, ...], frozenset[Digest]]:
        """Recordings that hold answers for a task, and the weights of those teachers that need not be asked at all."""
        records: dict[Digest, None] = {}
        spared = set()
        if not isinstance(task, Distill):
            return (), frozenset()
        for teacher in task.teachers:
            lessons = [
                self._lessons[record] for record in self._of.get(task.lesson_digest(teacher), ()) if record in self._lessons
            ]
            if lessons:
                longest = max(lessons, key=lambda lesson: lesson.epochs)
                records[longest.record] = None
                if longest.epochs >= task.recipe.epochs:
                    spared.add(teacher.weights)
        return tuple(records), frozenset(spared)

    def parts(self, records: Iterable[Digest]) -> set[Digest]:
        """All artifacts that recordings consist of: lists, and the pieces that are kept."""
        pieces = (self._lessons[record].pieces for record in records if record in self._lessons)
        return set(records).union(*pieces)

    def collect(self, in_use: Iterable[Digest] = ()) -> tuple[Digest, ...]:
        """Drops the pieces of the oldest lessons that are not in use until the rest fits; returns those lessons' recordings.

        The lists stay: they still say what was told, and ``verify`` can say what is missing.
        """
        kept, dropped = set(in_use), []
        for record in list(self._lessons):
            if self.size_bytes > self._max_bytes and record not in kept:
                dropped.append(record)
                self._drop(self._lessons.pop(record).pieces)
        self._num_dropped += len(dropped)
        return tuple(dropped)

    def report(self) -> RecordingReport:
        """What recording cost and saved so far."""
        return RecordingReport(
            num_lessons=len(self._lessons),
            num_pieces=len(self._uses),
            size_bytes=self.size_bytes,
            max_bytes=self._max_bytes,
            num_dropped=self._num_dropped,
            num_served=self._num_served,
            saved_s=self._saved_s,
            kept_s=self._kept_s,
        )

    def _drop(self, pieces: dict[Digest, int]) -> None:
        self._uses.subtract(pieces.keys())
        for piece in [piece for piece in pieces if not self._uses[piece]]:
            del self._uses[piece]
            self.size_bytes -= pieces[piece]
            discard(self._store.path(piece))
