"""Files of sockets: where they can lie, and that only their owner removes them, or whoever finds that it is gone.

A socket file lies in a folder of this user alone, in ``XDG_RUNTIME_DIR`` or in the folder for temporary files. Where neither will
do there is none, and the reasons are told; whoever listens takes TCP on this host instead. A channel holds a lock on a file
beside its sockets for as long as it lives. Process ids prove nothing: containers that share a folder do not see each other's.
"""

import contextlib
import fcntl
import os
import secrets
import socket
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agentkd.errors import DESCRIPTORS_USED_UP, DescriptorsError
from agentkd.exchange.doors import closed_name

MAX_PATH_BYTES = 107
"""``sun_path`` has 108 bytes on Linux, the last of them zero."""
LOCK, SOCKET = ".lock", ".sock"
LONGEST_NAME = len(f"{2**22}-{'0' * 16}-9{SOCKET}")


@dataclass(frozen=True)
class Place:
    """A folder where sockets may lie; ``reason`` says why they cannot, or is empty."""

    folder: Path
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.folder}: {self.reason}" if self.reason else str(self.folder)


def places() -> Iterator[Place]:
    """The folders that come into question, the best first, each looked at. One that can be had is there afterwards.

    Raises:
        DescriptorsError: none is left to look with.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and not Path(runtime).is_absolute():
        yield Place(Path(runtime), "XDG_RUNTIME_DIR is not an absolute path")
    elif runtime:
        yield _looked_at(Path(runtime), "XDG_RUNTIME_DIR")
    try:
        yield _looked_at(Path(tempfile.gettempdir()), "the folder for temporary files (TMPDIR)")
    except OSError as error:  # of those that there are none can be written to
        yield Place(Path(os.environ.get("TMPDIR") or "/tmp"), f"no file can be made there ({error.strerror})")


class SocketFiles:
    """The socket files of one channel, and the lock that says that it lives.

    Args:
        folder: of a place that can be had.

    Raises:
        OSError: the folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        _sweep(folder)
        name = f"{os.getpid()}-{secrets.token_hex(8)}"
        self._folder, self._name, self._files = folder, name, list[Path]()
        self._lock = folder / (name + LOCK)
        unlocked = folder / f".{name}"  # nobody looks for it, so it is held before anybody can find it
        self._descriptor = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unlocked.rename(self._lock)
        except OSError:  # without locks nobody removes what has none
            unlocked.unlink(missing_ok=True)

    def new(self) -> Path:
        """A path for one more socket. A second bind on one path would steal it silently, so none is given twice."""
        path = self._folder / f"{self._name}-{len(self._files)}{SOCKET}"
        self._files.append(path)
        return path

    def remove(self) -> None:
        """Removes them all, and those of owners that were killed meanwhile. Nothing happens the second time."""
        for file in (*self._files, *map(closed_name, self._files), self._lock):
            file.unlink(missing_ok=True)
        self._files.clear()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            _sweep(self._folder)


def take(found: list[Place]) -> SocketFiles | None:
    """Socket files in the first place that can be had; ``None`` if none can. What was looked at is added to ``found``."""
    for place in places():
        found.append(place)
        if not place.reason:
            try:
                return SocketFiles(place.folder)
            except OSError as error:
                found[-1] = Place(place.folder, f"no file can be made there ({error.strerror})")
    return None


def sweep() -> None:
    """Removes the sockets of owners that were killed, wherever they may lie; who makes or removes any does so in passing."""
    for place in places():
        if not place.reason:
            with contextlib.suppress(OSError):  # what cannot be removed now is no reason to stop
                _sweep(place.folder)


def _looked_at(parent: Path, what: str) -> Place:
    folder = parent / f"agentkd-{os.getuid()}"
    if len(os.fsencode(folder)) + 1 + LONGEST_NAME > MAX_PATH_BYTES:
        return Place(folder, f"{what} is too long: the path of a socket has {MAX_PATH_BYTES} bytes at most")
    try:
        os.fsencode(folder).decode()
    except UnicodeDecodeError:
        return Place(folder, f"{what} is not in UTF-8")
    try:
        reason = _strange(parent.stat(), what)
        if not reason:
            folder.mkdir(mode=0o700, exist_ok=True)
            reason = _not_private(folder)
        if not reason:
            _try_socket(folder)
    except OSError as error:
        if error.errno in DESCRIPTORS_USED_UP:
            raise DescriptorsError(folder, error.errno) from error
        return Place(folder, f"no socket can be made there ({error.strerror})")
    return Place(folder, reason)


def _strange(found: os.stat_result, what: str) -> str:
    """Why a folder's owner, or others, could put something else in the place of ours."""
    if found.st_uid not in (0, os.getuid()):
        return f"{what} belongs to another user"
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        return f"others may replace what is in {what}; run: chmod +t"
    return ""


def _not_private(folder: Path) -> str:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        return f"it must be a folder that only you may enter; remove it or run: chmod 700 {folder}"
    return ""


def _try_socket(folder: Path) -> None:
    path = folder / f".{secrets.token_hex(8)}"
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as trial:
        trial.bind(str(path))
    path.unlink()


def _sweep(folder: Path) -> None:
    """Removes the sockets of owners whose lock nobody holds: they were killed."""
    for lock in folder.glob(f"*{LOCK}"):
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # it lives, or there are no locks
            continue
        else:
            for file in folder.glob(f"{lock.stem}-*{SOCKET}*"):
                file.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)
        finally:
            os.close(descriptor)
