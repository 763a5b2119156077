"""What the file system of a run folder must be able to do: locks, files that stay, and files that are kept from others.

It is tried before anything starts, since what lacks one of them (NFS without its lock service, exFAT, some FUSE mounts) would
fail in the middle, or not at all until it matters.
"""

import fcntl
import os
import tempfile
from pathlib import Path

from agentkd.durable import NOT_THERE
from agentkd.errors import ArtifactError, StorageError


def shortcomings(place: Path) -> list[str]:
    """What cannot be done in a folder that is there; nothing if all can.

    Raises:
        OSError: it cannot be written to.
    """
    found = []
    with tempfile.TemporaryDirectory(prefix=".agentkd-", dir=place) as trial:
        try:
            Path(trial).chmod(0o700)
        except OSError as error:
            if Path(trial).stat().st_mode & 0o077:
                found.append(f"it keeps nothing from others ({error.strerror}), and the keys of agents lie there")
        else:
            if Path(trial).stat().st_mode & 0o077:
                found.append("it keeps nothing from others, and the keys of agents lie there")
        descriptor = os.open(Path(trial) / "trial", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            what = "it has no locks ({}), so nobody would notice a second coordinator"
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            what = "what is written is not made to stay ({}), so records could be lost"
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in NOT_THERE:
                raise
            found.append(what.format(error.strerror))
        finally:
            os.close(descriptor)
    return found


def must_do(place: Path) -> None:
    """That a folder, which is there, can hold a run.

    Raises:
        ArtifactError: its file system cannot do what that takes.
        StorageError: it cannot be written to.
    """
    try:
        found = shortcomings(place)
    except OSError as error:
        raise StorageError.of(place, error) from error
    if found:
        raise ArtifactError(
            f"{place} is on a file system that a run cannot be in: {'; '.join(found)}; choose a folder on a local disk (--out)"
        )
