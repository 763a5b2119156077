"""Logging set-up for a process: who writes where, in which form. Domain code only calls ``logging.getLogger``."""

import logging
import sys
from pathlib import Path

from agentkd.visible import visible

LINE_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class VisibleFormatter(logging.Formatter):
    """A record begins a line and nothing else does: what follows a line feed, in a traceback or in others' text, is indented."""

    def format(self, record: logging.LogRecord) -> str:
        """The record with nothing in it that acts on a terminal."""
        return visible(super().format(record)).replace("\n", "\n    ")


class _File(logging.FileHandler):
    """A file of lines, of which those are missing for which there was no room: why the disk is full is said elsewhere."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Nothing, if the disk takes no more; a line that is wrong in itself is told as ever."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def to_stderr(level: int = logging.WARNING) -> None:
    """Send this process's log lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(VisibleFormatter(LINE_FORMAT))
    logging.basicConfig(level=min(level, logging.getLogger().level), handlers=[handler], force=True)


def show_all() -> None:
    """Send all that agentkd has to say about what it does to standard error, and of others what is more than a remark."""
    to_stderr(logging.INFO)
    logging.getLogger("agentkd").setLevel(logging.DEBUG)


def to_file(path: Path, level: int = logging.INFO) -> None:
    """Send this process's log lines to a file as well, creating its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _File(path, encoding="utf-8")
    handler.setFormatter(VisibleFormatter(LINE_FORMAT))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(min(level, root.level))


def folder() -> Path | None:
    """Where this process keeps its log, if it keeps one in a file."""
    ours = [handler for handler in logging.getLogger().handlers if isinstance(handler.formatter, VisibleFormatter)]
    files = [handler for handler in ours if isinstance(handler, logging.FileHandler)]
    return Path(files[-1].baseFilename).parent if files else None
