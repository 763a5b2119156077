"""The command line: reads options at the edge and calls the library. Every import that costs time is made where it is needed."""

from agentkd.cli import keys, looking, protocol, records, running  # noqa: F401  (they add their commands)
from agentkd.cli.app import app, main

__all__ = ["app", "main"]
