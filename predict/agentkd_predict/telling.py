"""How far it is, on standard error: a bar with the time left on a terminal, a line for each file elsewhere."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from agentkd_predict.records import Done, Failed
from agentkd_predict.visible import visible

SPEED_OVER_S = 600.0


class Lines:
    """Tells by lines, above a bar if there is a terminal. Used as a context, so that the bar goes when it ends."""

    def __init__(self, stream: TextIO | None = None, *, is_quiet: bool = False) -> None:
        self._is_quiet = is_quiet
        self._console = Console(file=stream or sys.stderr, soft_wrap=True, highlight=False, markup=False, emoji=False)
        self._bar = Progress(
            TextColumn("{task.fields[shown]}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=is_quiet or not self._console.is_terminal,
            speed_estimate_period=SPEED_OVER_S,
            transient=True,
        )
        self._names: list[str] = []
        self._task = self._bar.add_task("", total=None, shown="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def begin(self, paths: Sequence[Path]) -> None:
        self._names = [visible(path.name).replace("\n", "\\n") for path in paths]
        self._bar.update(self._task, total=len(paths))

    def advance(self, index: int, share: float) -> None:
        shown = f"{index + 1}/{len(self._names)} {self._names[index][:40]}"
        self._bar.update(self._task, completed=index + share, shown=shown)

    def done(self, one: Done) -> None:
        for notice in one.notices:
            self._say(f"note: {one.image}: {notice}")
        if not self._console.is_terminal and not self._is_quiet:
            size = f"{one.width}x{one.height}" + ("" if one.frames is None else f", {one.frames} frames")
            self._say(f"{one.image}: {size}, {one.seconds:.1f} s")

    def failed(self, one: Failed) -> None:
        self._say(f"failed: {one.image}: {one.reason}")

    def _say(self, text: str) -> None:
        self._console.print(Text(visible(text).replace("\n", "\\n")))
