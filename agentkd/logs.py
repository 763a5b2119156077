"""Logging set-up for a process: who writes where, in which form. Domain code only calls ``logging.getLogger``."""

import logging
import sys
from pathlib import Path

LINE_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def to_stderr(level: int = logging.WARNING) -> None:
    """Send this process's log lines to standard error."""
    logging.basicConfig(level=level, format=LINE_FORMAT, stream=sys.stderr, force=True)


def to_file(path: Path, level: int = logging.INFO) -> None:
    """Send this process's log lines to a file as well, creating its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter(LINE_FORMAT))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(min(level, root.level))
