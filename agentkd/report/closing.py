"""What is said of a run at its end: its networks in a table for people, and what to do with it next."""

import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from agentkd.networks.families import title
from agentkd.pipeline.plan import Outlook
from agentkd.report.headline import headline_text, teaching_text
from agentkd.report.table import epochs_text
from agentkd.report.texts import measure_shown, short_count
from agentkd.task import RUNS_CODE, TAUGHT_BY_CODE
from agentkd.visible import visible_line

SHOWN = 12
"""Characters of a digest that are enough to name it by."""
OPENERS = ("open",) if sys.platform == "darwin" else ("xdg-open",)


@dataclass(frozen=True)
class NextStep:
    """A line that can be pasted into a shell, and what it does."""

    what: str
    command: str


def print_summary(outlook: Outlook, console: Console) -> None:
    """Prints the table, and under it what came out in a line: drawn on a terminal, in plain columns elsewhere. Nothing is cut."""
    heads, rows, bold = _cells(outlook)
    if console.is_terminal:
        console.print(_drawn(heads, rows, bold))
    else:
        for line in columns([heads, *rows], right=_numbers(heads)):
            _print(console, line)
    for text in (headline_text(outlook), teaching_text(outlook)):
        if text:
            _print(console, text)


def print_next(steps: Sequence[NextStep], console: Console) -> None:
    """Prints what to do next, a line each, which can be pasted with what stands before it as a comment above."""
    _print(console, "Next:")
    for step in steps:
        _print(console, f"  # {step.what}")
        _print(console, f"  {step.command}")


def next_steps(outlook: Outlook, run: Path, page: Path) -> list[NextStep]:
    """Three things to do with a run that is finished; of one that is not, to go on is said by whoever ended it."""
    place = shlex.quote(str(run))
    found = [NextStep("look at the report", _opening(page))]
    winner = outlook.winner
    if winner is None:
        return [*found, NextStep("check every digest and record", f"agentkd verify {place}")]
    weights, own = winner.result.weights[:SHOWN], " --allow-code" if winner.task.runs_code else ""
    found.append(NextStep(f"export the winner ({title(winner.family)})", f"agentkd export {place} winner-{weights}{own}"))
    is_own = any(relation in (RUNS_CODE, TAUGHT_BY_CODE) for relation, _ in winner.task.references())
    command = f"agentkd verify {place} && agentkd replay {place} --task {winner.key[:SHOWN]}{' --allow-code' if is_own else ''}"
    return [*found, NextStep("check every digest, and do the winner's last training again", command)]


def columns(rows: Sequence[Sequence[str]], *, right: Iterable[int] = ()) -> list[str]:
    """Cells as lines of text, each column as wide as its widest cell.

    Args:
        rows: of the same length, the heads among them.
        right: columns of numbers.

    Example:
        >>> columns([["name", "size"], ["a", "12"]], right=[1])
        ['name  size', 'a       12']
    """
    shown = [[visible_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    numbers = set(right)
    lines = []
    for row in shown:
        cells = [
            f"{cell:>{width}}" if at in numbers else f"{cell:<{width}}"
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _cells(outlook: Outlook) -> tuple[list[str], list[list[str]], set[int]]:
    """Heads, a row for each family and stage of the first seed, and which of these is the winner's last."""
    measure = measure_shown(outlook)
    heads = ["family", "stage", f"{measure}, validation", "test", "parameters", "epochs (in all)", "weights", ""]
    order = {family: number for number, family in enumerate(outlook.trials)}
    standing = sorted(outlook.rows, key=lambda row: order.get(row.family, len(order)))
    rows, bold = [], set()
    last = {row.family: number for number, row in enumerate(standing)}
    for number, row in enumerate(standing):
        result, tested = row.entrant.result, outlook.tested.get(row.entrant.key)
        is_winner = outlook.winner is not None and row.entrant.key == outlook.winner.key and number == last[row.family]
        bold |= {number} if is_winner else set()
        rows.append(
            [
                title(row.family),
                row.stage.traits.title,
                f"{100 * measure.must_be_of(result):.2f} %",
                f"{100 * measure.must_be_of(tested.result):.2f} %" if tested else "-",
                short_count(result.num_parameters_total),
                epochs_text(row.entrant),
                result.weights[:SHOWN],
                "winner" if is_winner else "",
            ]
        )
    return heads, rows, bold


def _numbers(heads: Sequence[str]) -> range:
    return range(2, len(heads) - 2)


def _drawn(heads: list[str], rows: list[list[str]], bold: set[int]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    numbers = _numbers(heads)
    for at, head in enumerate(heads):
        table.add_column(head, justify="right" if at in numbers else "left", overflow="fold")
    for number, row in enumerate(rows):
        is_last = number + 1 < len(rows) and rows[number + 1][0] != row[0]
        cells = [visible_line(cell).replace("[", r"\[") for cell in row]
        if number and rows[number - 1][0] == row[0]:
            cells[0] = ""
        table.add_row(*cells, style="bold green" if number in bold else None, end_section=is_last)
    return table


def _opening(page: Path) -> str:
    """What opens a page on this machine."""
    opener = next((one for one in OPENERS if shutil.which(one)), "")
    return f"{opener} {shlex.quote(str(page))}" if opener else f"python3 -m webbrowser {page.absolute().as_uri()}"


def _print(console: Console, text: str) -> None:
    console.print(visible_line(text), highlight=False, markup=False, emoji=False, soft_wrap=True)
