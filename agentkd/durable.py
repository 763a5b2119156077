"""Files that stay: synced before they get their name, and the folder that holds the name synced after it.

A file system may write a name to the disk before what stands under it, and a power cut then leaves an empty file, or one of NULs.
"""

import contextlib
import errno
import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)

NOT_THERE = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOTTY)
"""What a system says that cannot do something, rather than one that has failed at it."""


_KEPT: dict[Path, tuple[int, int]] = {}
"""The folders that this process works in: device and number of each."""


def sync_file(path: Path) -> None:
    """What was written to a file stays."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """The names in a folder stay. A folder cannot be synced everywhere where its files can."""
    try:
        sync_file(folder)
    except OSError as error:
        if error.errno not in NOT_THERE:
            raise


def keep(folder: Path) -> None:
    """From now on this process makes nothing in a folder once that is not what it is now: moved, removed, or another's."""
    status = folder.stat()
    _KEPT[folder.absolute()] = (status.st_dev, status.st_ino)


def keep_no_more(folder: Path) -> None:
    """It is used no more; nothing if it was not kept."""
    _KEPT.pop(folder.absolute(), None)


def make_folder(folder: Path, *, mode: int = 0o777) -> None:
    """A folder that is there and stays, with all above it that were made for it.

    Raises:
        FileNotFoundError: it would be in one that is to be kept, and is gone.
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    for kept, known in _KEPT.items() if missing else ():
        if folder.absolute().is_relative_to(kept) and identity(kept) != known:
            raise FileNotFoundError(errno.ENOENT, "its folder was moved or removed while it was in use", str(kept))
    folder.mkdir(mode=mode, parents=True, exist_ok=True)
    for made in reversed(missing):
        sync_folder(made.parent)


def identity(path: Path) -> tuple[int, int] | None:
    """Device and number of what lies there, which another in its place does not have; ``None`` if nothing does."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def put_in_place(whole: Path, path: Path) -> None:
    """A file that was written whole under another name of the same folder gets its own, and stays."""
    sync_file(whole)
    whole.replace(path)
    sync_folder(path.parent)


def discard(path: Path) -> None:
    """Removes a file that nobody needs any more. One that cannot be removed now is none's failure: the next start sweeps it."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s is left for the next start to remove: %s", path, error.strerror)


def write_whole(path: Path, data: bytes) -> None:
    """A file appears whole or not at all, and stays; a link in its place is replaced, and what it leads to stays too."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:
            file.write(data)
        put_in_place(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        with contextlib.suppress(OSError):  # what failed first is the reason
            temporary.unlink(missing_ok=True)
        raise
