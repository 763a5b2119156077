"""The places that a run needs on this machine, looked at as a run does: for its folder, for sockets, for temporary files."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from agentkd.artifacts.file_system import shortcomings
from agentkd.exchange.socket_files import places

Finding = tuple[str, bool, str]
"""What was looked at, whether it will do, and what was seen."""


def look_at_places(folder: Path) -> Iterator[Finding]:
    """Each of them. ``folder`` is where runs are to be."""
    yield _run_folders(folder)
    yield _temporary_files()
    yield _socket_files()


def _run_folders(folder: Path) -> Finding:
    try:
        found = shortcomings(folder)
    except OSError as error:
        return "run folders", False, f"nothing can be written in {folder} ({error.strerror}); give runs another folder with --out"
    if found:
        return "run folders", False, f"{folder} cannot hold runs: {'; '.join(found)}; give them one on a local disk with --out"
    return "run folders", True, f"{folder} has locks, and keeps files from others and for good"


def _temporary_files() -> Finding:
    given = os.environ.get("TMPDIR", "")
    try:
        with tempfile.TemporaryDirectory(prefix="agentkd-"):
            taken = tempfile.gettempdir()
    except OSError as error:
        return "temporary files", False, f"none can be made ({error.strerror}); set TMPDIR to a folder that you may write to"
    is_given = not given or os.path.realpath(given) == os.path.realpath(taken)
    return "temporary files", True, f"in {taken}" + ("" if is_given else f", for TMPDIR={given} cannot be written to")


def _socket_files() -> Finding:
    looked_at = list(places())
    usable = next((place for place in looked_at if not place.reason), None)
    refused = "; ".join(str(place) for place in looked_at if place.reason)
    if usable is None:
        return "socket files", True, f"none can be had, so TCP on this host is taken: {refused}"
    return "socket files", True, f"in {usable.folder}" + (f"; not in {refused}" if refused else "")
