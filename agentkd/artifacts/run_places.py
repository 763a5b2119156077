"""What may stand where in a run folder: files and folders that lie in it, and nothing that leads out of it.

A run folder may come from somebody who means harm. A link in it would have somebody else's file read, packed, overwritten or
removed; a pipe would be waited for, a device written to. So whoever is about to use a run folder has its known places looked at
first, all of them, whichever it needs. The folder as a whole may be a link: that is its user's choice of where it lies.

What changes while it is used is not seen: who can write to the folder then has the user's rights in it anyway.
"""

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agentkd.errors import ArtifactError, StorageError, check_descriptors

JOURNAL = ("journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm", "journal.sqlite-journal")
FILES = (
    *JOURNAL,
    *("experiment.yaml", "study.db", "study.db-wal", "study.db-shm", "study.db-journal", "lock", "contact.json", "replay.json"),
    *("feed.jsonl", "feed-before.jsonl"),
    *("environment.txt", "croissant.json", "ro-crate-metadata.json", "manifest-sha256.txt"),
)
FOLDERS = {"agents": 4, "artifacts": 1, "cache": 1, "cards": 1, "checkpoints": 2, "keys": 2, "logs": 1, "report": 1}
"""How many levels of them are looked at. An artifact that is no file is none, and an image that was decoded is made again."""
WRITTEN = (
    *("journal.sqlite", "experiment.yaml", "study.db", "lock", "contact.json", "replay.json", "feed"),
    *("checkpoints", "keys", "logs", "report"),
)
"""Where files are changed in place, by what their names begin with. An artifact never is; a replay shares them with its run."""
PACKED = ("experiment.yaml", "report")
"""What goes into a bundle as it lies, and is named by no digest."""
COORDINATOR_LOG = "coordinator.log"
OUT_OF_REACH = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG)
"""Why nothing can be seen under a name, and nobody can be led anywhere by it either."""
KINDS = {stat.S_ISLNK: "a link", stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket"}


@dataclass(frozen=True)
class Strange:
    """A place of a run folder where something else stands than may: which, what, and what was to stand there."""

    path: Path
    what: str
    expected: str

    def __str__(self) -> str:
        return f"is {self.what}, and only {self.expected} may stand there"


def strange_places(place: Path) -> Iterator[Strange]:
    """The places of a run folder, which need not be there, that are no files or folders of its own.

    Raises:
        StorageError: they cannot be looked at.
    """
    for name in FILES:
        mode = _mode(place / name)
        if mode and not stat.S_ISREG(mode):
            yield Strange(place / name, _kind(place / name, mode), "a file")
    for name, depth in FOLDERS.items():
        mode = _mode(place / name)
        if mode and not stat.S_ISDIR(mode):
            yield Strange(place / name, _kind(place / name, mode), "a folder")
        elif mode:
            yield from _strange_below(place / name, depth)


def must_lead_somewhere(place: Path) -> None:
    """Refuses a link that leads to nothing, for which nobody knows what was to be there.

    Raises:
        ArtifactError: the place is such a link.
    """
    if place.is_symlink() and not place.exists():
        raise ArtifactError(
            f"{place} is {_kind(place, stat.S_IFLNK)}, where nothing is; remove the link, or choose another folder"
        )


def places_of_others(place: Path) -> list[Path]:
    """What stands at the known places of a folder without a journal: no run has put it there, so it is somebody's, and stays.

    Empty folders are nobody's. A run that ended before it had a journal has left its lock, and a log of its coordinator.

    Raises:
        StorageError: they cannot be looked at.
    """
    if any(_mode(place / name) for name in JOURNAL[:1]):
        return []
    left = [place / name for name in FILES if name != "lock" and _mode(place / name)]
    for name, depth in FOLDERS.items():
        files = [path for path, mode in _below(place / name, depth + 1) if not stat.S_ISDIR(mode)]
        left += [path for path in files if path.name != COORDINATOR_LOG]
    return left


def shared_places(place: Path, names: tuple[str, ...]) -> Iterator[Strange]:
    """Files at these places that have another name elsewhere as well, which is not known to belong to the run (hard links)."""
    files = [place / name for name in FILES if name.startswith(names)]
    for name, depth in FOLDERS.items():
        if name in names:
            files += [path for path, mode in _below(place / name, depth) if stat.S_ISREG(mode)]
    for path in files:
        found = _status(path)
        if found and stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
            yield Strange(path, "a file with another name elsewhere (a hard link)", "one without")


def _strange_below(folder: Path, depth: int) -> Iterator[Strange]:
    if not os.access(folder, os.R_OK) and os.access(folder, os.X_OK):
        yield Strange(folder, "a folder whose content cannot be listed", "one whose content can")
    for path, mode in _below(folder, depth):
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            yield Strange(path, _kind(path, mode), "a file or a folder")
        elif stat.S_ISDIR(mode) and not os.access(path, os.R_OK) and os.access(path, os.X_OK):
            yield Strange(path, "a folder whose content cannot be listed", "one whose content can")


def _below(folder: Path, depth: int) -> Iterator[tuple[Path, int]]:
    """What lies in a folder and so many levels down, with its mode; no link is followed."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        _must_be_out_of_reach(folder, error)
        return
    for path in paths:
        mode = _mode(path)
        if mode:
            yield path, mode
        if stat.S_ISDIR(mode) and depth > 1:
            yield from _below(path, depth - 1)


def _mode(path: Path) -> int:
    found = _status(path)
    return found.st_mode if found else 0


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except OSError as error:
        _must_be_out_of_reach(path, error)
        return None


def _must_be_out_of_reach(path: Path, error: OSError) -> None:
    if error.errno not in OUT_OF_REACH:
        check_descriptors(path, error)
        raise StorageError.of(path, error) from error


def _kind(path: Path, mode: int) -> str:
    found = next((word for is_one, word in KINDS.items() if is_one(mode)), "a file" if stat.S_ISREG(mode) else "a device")
    if stat.S_ISLNK(mode):
        try:
            return f"{found} (to {path.readlink()})"
        except OSError:  # it has gone meanwhile
            return found
    return found
