"""Files that appear whole or not at all, several of one image together."""

import secrets
from pathlib import Path

from agentkd_predict.errors import writing


class Files:
    """The files of one image while they are written: each beside its place, under a hidden name, until all are moved there.

    Used as a context: what is not kept when it ends is removed.
    """

    def __init__(self) -> None:
        self._parts: dict[Path, Path] = {}

    def __enter__(self) -> "Files":
        return self

    def __exit__(self, *ended: object) -> None:
        for part in self._parts.values():
            part.unlink(missing_ok=True)

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
