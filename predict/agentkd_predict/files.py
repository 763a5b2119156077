"""Files that appear whole or not at all, several of one image together."""

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from agentkd_predict.errors import StorageError, writing

PART = re.compile(r"\.[0-9a-f]{12}\.part(\..*)?")
FOLDERS = ("masks", "overlays", "probabilities", "videos")


class Files:
    """The files of one image while they are written: each beside its place, under a hidden name, until all are moved there.

    Used as a context: what is not kept when it ends is removed.
    """

    def __init__(self) -> None:
        self._parts: dict[Path, Path] = {}

    def __enter__(self) -> "Files":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *trace: object) -> None:
        for part in self._parts.values():
            part.unlink(missing_ok=True)
        if isinstance(error, StorageError):
            for place, part in self._parts.items():
                if str(part) == error.place:  # by the name that a user knows
                    raise StorageError(place, error.reason.replace(part.name, place.name)) from error

    def part(self, place: Path) -> Path:
        """Where to write what will be at a place.

        Raises:
            StorageError: there can be no folder for it.
        """
        with writing(place.parent):
            place.parent.mkdir(parents=True, exist_ok=True)
        self._parts[place] = place.parent / f".{secrets.token_hex(6)}.part{place.suffix}"
        return self._parts[place]

    def keep(self) -> None:
        """Moves all to their places, in place of what is there.

        Raises:
            StorageError: one cannot be.
        """
        for place, part in list(self._parts.items()):
            with writing(place):
                part.replace(place)
            del self._parts[place]


@contextlib.contextmanager
def at_work_in(out: Path) -> Iterator[None]:
    """A run into a folder, which is made if it is not there. What runs that were killed have left there is removed first.

    Each run holds a lock on the folder, which the system gives back however the run ends. Whoever has it alone knows that no
    other run is alive, so that the parts there are nobody's; beside a run that is alive nothing is removed.

    Raises:
        StorageError: there can be no such folder.
    """
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        with contextlib.suppress(
            ImportError, OSError
        ):  # neither locks nor sweeping everywhere, and a run without them is as good
            import fcntl

            descriptor = os.open(out, os.O_RDONLY)
            held.callback(os.close, descriptor)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _sweep(out)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield


def _sweep(out: Path) -> None:
    """Removes parts among what is written into such a folder, and nothing else."""
    for place in (out, *(out / name for name in FOLDERS)):
        for root, folders, names in os.walk(place):
            if place == out:
                folders.clear()
            for name in filter(PART.fullmatch, names):
                with contextlib.suppress(OSError):
                    Path(root, name).unlink()


def write_whole(place: Path, text: str) -> None:
    """Writes a text file, in the place of one that may be there.

    Raises:
        StorageError: it cannot be.
    """
    with Files() as files:
        part = files.part(place)
        with writing(place):
            part.write_text(text, encoding="utf-8", newline="")
        files.keep()
