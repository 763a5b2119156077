"""Commands on data: what is in a dataset."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentkd.cli.app import Format
from agentkd.cli.ending import say
from agentkd.cli.typed import path
from agentkd.errors import INTERRUPTED, StorageError
from agentkd.visible import visible_line

if TYPE_CHECKING:
    from agentkd.checks.dataset import Look, Progress

PROBLEMS = 1
SAY_EVERY_S = 10.0

data_app = typer.Typer(help="Look at data before anything learns from them.", no_args_is_help=True, rich_markup_mode=None)


@data_app.callback()
def data() -> None:
    """Look at data before anything learns from them."""


@data_app.command("check")
def check(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATA", help="A folder with dataset.yaml, that file, or a specification: folder:path=DIR,holdout=0.25."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(parser=path, help="Folder for samples.png; by default data-check/NAME in the current folder.")
    ] = None,
    sample: Annotated[
        int, typer.Option(min=0, help="Read so many images of each split, evenly spread, and open no other; 0 for all.")
    ] = 0,
    most: Annotated[int, typer.Option(min=0, help="Name so many problems, pairs and files; the others are counted.")] = 20,
    pictures: Annotated[bool, typer.Option("--pictures/--no-pictures", help="Whether samples.png is written.")] = True,
    output_format: Format = "text",
) -> None:
    """Look at a dataset: splits, classes, sizes, groups, duplicates, and every file that a run would refuse.

    Reads each image and mask once; one fault does not hide the next one. FAIL is what a run refuses, warn what may be meant, such
    as a class with less than 0.1 % of the pixels, or images of two splits that look almost the same (two hashes of 64 bits differ
    by 8 at most). samples.png shows eight images beside their masks, with a legend. Nothing is written among the data.

    Ends with 0 if a run would take the data, with 1 if it would not, with 17 if there is nothing to look at, such as no
    dataset.yaml or a wrong one. Ctrl-C says what was found so far, and ends with 130.

    Examples: agentkd data check my-fires; agentkd data check my-fires --sample 200; agentkd data check generated:seed=7
    """
    from agentkd.checks.dataset import look_at_dataset
    from agentkd.report.data_check import lines, verdict

    with _shown_progress() as progress:
        look = look_at_dataset(dataset, sample=sample, out=out, progress=progress)
    found = look.findings
    shown, lost = "", None
    try:
        shown = _draw(look, out) if pictures and found.is_complete else ""
    except StorageError as error:  # what was found is told all the same
        lost = error
    if output_format == "json":
        say(json.dumps({**found.as_data(), "pictures": shown if shown.endswith(".png") else ""}, indent=2))
    else:
        for line in lines(found, most):
            say(visible_line(line))
        if shown:
            say(visible_line(f"pictures   {shown}"))
        say(verdict(found))
    if lost:
        raise lost
    if not found.is_complete:
        raise typer.Exit(INTERRUPTED)
    if not found.is_sound:
        raise typer.Exit(PROBLEMS)


def _draw(look: "Look", out: Path | None) -> str:
    """The file of the pictures, or why there is none."""
    from agentkd.report.data_check import default_place, write_sheet

    place = out or default_place(look.findings)
    if look.is_among(place):
        return "none: this is the data's own folder, in which nothing is written; --out says where else"
    return str(write_sheet(look, place) or "none: no image could be read")


@contextmanager
def _shown_progress() -> "Iterator[Progress]":
    """A bar on a terminal; elsewhere a line on standard error now and then."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if console.is_terminal:
        with Bar(console=console, transient=True) as bar:
            task = bar.add_task("opening", total=None)
            yield lambda done, count: bar.update(task, description="reading", completed=done, total=count)
        return
    latest = time.monotonic()

    def tell(done: int, count: int) -> None:
        nonlocal latest
        if time.monotonic() - latest >= SAY_EVERY_S:
            latest = time.monotonic()
            say(f"{done:,} of {count:,} images read", err=True)

    yield tell
