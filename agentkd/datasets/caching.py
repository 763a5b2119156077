"""Decoded samples within a cap in bytes: in files that all agents of a host share, and a few in each process's own memory.

The files are read through the system's page cache, so that a host decodes an image once and holds it once, and its memory is
still there for whoever needs it more. What is kept stays: trainings go through their data in turns, and of a cycle that is
longer than a cache the newest are the last that will be asked for again. Whatever goes wrong here, a sample is decoded anew;
also where a file does not have the checksum that it names, which is of what it is, too.
"""

import contextlib
import fcntl
import logging
import os
import shutil
import struct
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from agentkd.datasets.balance import Counts
from agentkd.datasets.samples import Sample
from agentkd.durable import make_folder
from agentkd.names import Digest

OWN_BYTES = 64 * 1024**2
SPARE_BYTES = 1024**3
UNUSED_S = 600.0
HEADER = struct.Struct("<8sIIIII")
MAGIC = b"agentkd3"
COUNTS_HEADER = struct.Struct("<8sI")
COUNTS_MAGIC = b"agentkdd"
CHECKED = COUNTS_HEADER.size  # what stands behind this is what a checksum is of

log = logging.getLogger(__name__)

Read = Callable[[int], Sample]


class OwnMemory:
    """The samples that were asked for last, in the memory of this process."""

    def __init__(self, max_bytes: int = OWN_BYTES) -> None:
        self._max_bytes, self._num_bytes = max_bytes, 0
        self._samples: OrderedDict[int, Sample] = OrderedDict()
        self._lock = threading.Lock()

    def sample(self, index: int, read: Read) -> Sample:
        """That sample, which ``read`` is asked for if it is not here."""
        with self._lock:
            found = self._samples.get(index)
            if found is not None:
                self._samples.move_to_end(index)
                return found
        made = read(index)
        with self._lock:
            if index not in self._samples:
                self._samples[index] = made
                self._num_bytes += _size_of(made)
            while self._num_bytes > self._max_bytes:
                _, dropped = self._samples.popitem(last=False)
                self._num_bytes -= _size_of(dropped)
        return made


class SharedSamples:
    """Files of decoded samples, in a folder that only this user may enter; written once, read by every agent of the host.

    When it is full, data that nobody has used for ten minutes make room; else nothing more is kept.

    Args:
        place: the folder; made when it is needed.
        max_bytes: what the files may take in all.
    """

    def __init__(self, place: Path, max_bytes: int) -> None:
        self._place, self._max_bytes = place, max_bytes
        self._is_safe: bool | None = None
        self._used_at: dict[Digest, float] = {}

    def sample(self, data: Digest, index: int, read: Read) -> Sample:
        """That sample of those data, from its file if there is one; ``read`` makes it otherwise."""
        file = self._place / data / str(index)
        try:
            if not self._may_use():
                return read(index)
            found = _load(file)
            if found is not None:
                self._note_use(data)
                return found
        except OSError as error:
            self._give_up(error)
        made = read(index)
        with contextlib.suppress(OSError):  # a full disk is nobody's trouble here
            if self._is_safe and _is_plain(made) and self._reserve(HEADER.size + len(made.name.encode()) + _size_of(made), data):
                _save(file, made)
        return made

    def counts(self, data: Digest, name: str, num_rows: int, count: Callable[[], Counts]) -> Counts:
        """The pixels of each class in so many samples of those data, from their file if there is one; else as ``count`` says."""
        file = self._place / data / f"{name}.counts"
        with contextlib.suppress(OSError):
            if self._may_use() and (found := _load_counts(file, num_rows)) is not None:
                self._note_use(data)
                return found
        made = count()
        with contextlib.suppress(OSError):
            if self._is_safe and self._reserve(COUNTS_HEADER.size + made.nbytes, data):
                _save_counts(file, made)
        return made

    def _may_use(self) -> bool:
        if self._is_safe is None:
            make_folder(self._place, mode=0o700)
            found = self._place.lstat()
            self._is_safe = found.st_uid == os.getuid() and not found.st_mode & 0o077
            if not self._is_safe:
                log.warning("decoded images are not kept: %s must be a folder that only you may enter", self._place)
        return self._is_safe

    def _give_up(self, error: OSError) -> None:
        log.warning("decoded images are not kept: %s", error)
        self._is_safe = False

    def _note_use(self, data: Digest) -> None:
        now = time.monotonic()
        if now - self._used_at.get(data, 0.0) > UNUSED_S / 10:
            self._used_at[data] = now
            with contextlib.suppress(FileNotFoundError):  # somebody has just removed it
                os.utime(self._place / data)

    def _reserve(self, num_bytes: int, data: Digest) -> bool:
        """Takes so many bytes of what there may be in all, if they are left, and the disk has more than it needs for the work."""
        if shutil.disk_usage(self._place).free - num_bytes < SPARE_BYTES:
            return False
        with self._ledger() as ledger:
            used = int(ledger.read_text() or 0)
            if used + num_bytes > self._max_bytes:
                os.utime(ledger)
                used -= self._drop_unused(data, now=ledger.stat().st_mtime)
            has_room = used + num_bytes <= self._max_bytes
            ledger.write_text(str(used + num_bytes * has_room))
        return has_room

    @contextlib.contextmanager
    def _ledger(self) -> Iterator[Path]:
        """The file that says how many bytes are taken, which nobody else reads or writes meanwhile."""
        path = self._place / "used"
        with path.open("a") as locked:
            fcntl.flock(locked, fcntl.LOCK_EX)
            yield path

    def _drop_unused(self, data: Digest, now: float) -> int:
        """Removes other data that nobody has used for long by the file system's clock; returns how many bytes they took."""
        freed = 0
        for folder in self._place.iterdir():
            if (
                len(folder.name) == len(data)
                and folder.is_dir()
                and folder.name != data
                and now - folder.stat().st_mtime > UNUSED_S
            ):
                freed += sum(file.stat().st_size for file in folder.iterdir())
                shutil.rmtree(folder, ignore_errors=True)
        return freed


def _size_of(sample: Sample) -> int:
    return sample.image.nbytes + sample.label.nbytes


def _is_plain(sample: Sample) -> bool:
    """Whether it can be written as it is: what an own dataset makes may be of another kind."""
    are_bytes = sample.image.dtype == sample.label.dtype == np.uint8
    return are_bytes and sample.label.ndim == 2 and sample.image.ndim == 3 and sample.image.shape[:2] == sample.label.shape


def _load(file: Path) -> Sample | None:
    """The sample in a file; ``None`` if there is none, or not a whole and sound one."""
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return None
    if len(data) < HEADER.size:
        return None
    magic, checksum, height, width, channels, name_size = HEADER.unpack_from(data)
    at, pixels = HEADER.size + name_size, height * width
    if magic != MAGIC or len(data) != at + (channels + 1) * pixels or checksum != _checksum(file, memoryview(data)[CHECKED:]):
        return None
    image = np.frombuffer(data, np.uint8, channels * pixels, at).reshape(height, width, channels)
    label = np.frombuffer(data, np.uint8, pixels, at + channels * pixels).reshape(height, width)
    return Sample(image=image, label=label, name=data[HEADER.size : at].decode())


def _load_counts(file: Path, num_rows: int) -> Counts | None:
    """The counts in a file; ``None`` if there is none, or not a whole and sound one of so many rows."""
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return None
    size = len(data) - COUNTS_HEADER.size
    if not num_rows or size <= 0 or size % (8 * num_rows):
        return None
    magic, checksum = COUNTS_HEADER.unpack_from(data)
    if magic != COUNTS_MAGIC or checksum != _checksum(file, memoryview(data)[CHECKED:]):
        return None
    return np.frombuffer(data, "<i8", offset=COUNTS_HEADER.size).astype(np.int64).reshape(num_rows, -1)


def _save(file: Path, sample: Sample) -> None:
    """Writes a sample that others see whole or not at all."""
    height, width, channels = sample.image.shape
    name = sample.name.encode()
    image, label = (np.ascontiguousarray(pixels).data for pixels in (sample.image, sample.label))
    rest = HEADER.pack(MAGIC, 0, height, width, channels, len(name))[CHECKED:] + name
    _write(file, MAGIC + struct.pack("<I", _checksum(file, rest, image, label)) + rest, image, label)


def _save_counts(file: Path, counts: Counts) -> None:
    numbers = np.ascontiguousarray(counts, dtype="<i8").data
    _write(file, COUNTS_HEADER.pack(COUNTS_MAGIC, _checksum(file, numbers)), numbers)


def _checksum(file: Path, *parts: bytes | memoryview) -> int:
    """Of what a file is called, and of which data it is, and of what stands behind the checksum in it."""
    found = zlib.crc32(f"{file.parent.name}/{file.name}".encode())
    for data in parts:
        found = zlib.crc32(data, found)
    return found


def _write(file: Path, *parts: bytes | memoryview) -> None:
    """Writes a file that others see whole or not at all."""
    part = file.with_name(f"{file.name}.{os.getpid()}.{threading.get_ident()}.part")
    make_folder(part.parent)
    try:
        with part.open("wb") as out:
            for data in parts:
                out.write(data)
        part.replace(file)
    except OSError:
        part.unlink(missing_ok=True)
        raise
