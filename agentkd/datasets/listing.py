"""Every file below a folder, listed once; what systems leave behind is left out."""

import os
from pathlib import Path

from agentkd.datasets.manner import Refuse, at_once
from agentkd.datasets.patterns import IMAGE_ENDINGS
from agentkd.errors import DatasetError, check_descriptors

LEFT_OUT = frozenset(
    ["Thumbs.db", "ehthumbs.db", "desktop.ini", "Desktop.ini", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found"]
)


def list_files(place: Path, refuse: Refuse = at_once) -> list[str]:
    """Every file below a folder, relative to it, in the order of folders' and files' names. Hidden ones are left out.

    Args:
        place: the folder.
        refuse: what is done with what cannot be listed.

    Raises:
        DatasetError: a folder that cannot be read, or is linked into itself; an image that is a link to nothing.
    """
    found: list[str] = []
    _list(str(place), "", found, (), refuse)
    return found


def is_image(name: str) -> bool:
    """Whether a file is called as images are."""
    return name.rpartition(".")[2].lower() in IMAGE_ENDINGS


def _list(place: str, below: str, found: list[str], above: tuple[tuple[int, int], ...], refuse: Refuse) -> None:
    folder = os.path.join(place, below) if below else place  # noqa: PTH118 a million times
    try:
        status = os.stat(folder)  # noqa: PTH116
        own = (status.st_dev, status.st_ino)
        if own in above:
            refuse(DatasetError(folder, "is a link to a folder that it lies in", "folders without such links"))
            return
        with os.scandir(folder) as entries:
            seen = [entry for entry in entries if entry.name[0] != "." and entry.name not in LEFT_OUT]
            inside = sorted((entry.name, entry.is_dir(), entry.is_file()) for entry in seen)
    except OSError as error:
        check_descriptors(folder, error)
        refuse(DatasetError(folder, f"cannot be read ({error.strerror or error})"))
        return
    for name, is_folder, is_file in inside:
        if is_folder:
            _list(place, f"{below}{name}/", found, (*above, own), refuse)
        elif is_file:
            found.append(below + name)
        elif is_image(name):
            refuse(DatasetError(f"{place}/{below}{name}", "is no file, but a link to nothing, or a pipe", "a file"))
