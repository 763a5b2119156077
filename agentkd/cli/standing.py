"""Commands that say how things stand in run folders: status, ls, show, logs. They change nothing."""

import json
from pathlib import Path
from typing import Annotated

import typer

from agentkd.cli.app import Format
from agentkd.cli.ending import say
from agentkd.cli.records import opened
from agentkd.cli.typed import path
from agentkd.errors import INTERRUPTED
from agentkd.visible import visible_line

RUNS = Path("runs")
OfRun = Annotated[Path, typer.Option("--run", parser=path, metavar="RUN", help="Run folder.")]


def status(
    run: Annotated[Path, typer.Argument(parser=path, metavar="RUN|BUNDLE", help="Run folder, or a bundle (.zip).")],
    output_format: Format = "text",
) -> None:
    """Say how a run stands: what is done, what goes on, who holds the folder, what is next, and the time left if it is known.

    Reads the folder alone, also while somebody works in it.
    """
    from rich.console import Console

    from agentkd.report.closing import next_steps, print_next, print_summary
    from agentkd.report.standing import next_of, standing_of, told

    with opened(run) as folder:
        standing = standing_of(folder)
        if output_format == "json":
            say(json.dumps(standing.as_data() | {"run": str(run)}, indent=2))
            return
        for line in told(standing, run):
            say(visible_line(line))
        console = Console(emoji=False)
        if standing.outlook is None:
            return
        if standing.outlook.rows:
            print_summary(standing.outlook, console)
        page = run / "report" / "report.html"
        done = standing.outlook.is_finished and page.is_file()
        print_next(next_steps(standing.outlook, run, page) if done else next_of(standing, run), console)


def ls(
    folder: Annotated[
        Path | None,
        typer.Argument(parser=path, metavar="FOLDER", help="Where runs lie; by default runs, or the current folder without it."),
    ] = None,
    output_format: Format = "text",
) -> None:
    """List the runs in a folder, up to three levels down: state, tasks, best network, size, when it was last written to."""
    from agentkd.report.closing import columns
    from agentkd.report.standing import listed, must_be_folder, runs_below, size_bytes, standing_or_problem

    place = must_be_folder(folder or (RUNS if RUNS.is_dir() else Path()))
    found = [(standing_or_problem(one), size_bytes(one.place)) for one in runs_below(place)]
    if output_format == "json":
        say(json.dumps([standing.as_data() | {"size_bytes": size} for standing, size in found], indent=2))
        return
    if not found:
        say(f"{place}: no run is here; make one with: agentkd run FILE")
        return
    heads = ["run", "experiment", "state", "tasks", "best", "of", "size", "last record"]
    for line in columns([heads, *(listed(standing, size) for standing, size in found)], right=(3, 4, 6)):
        say(line)


def show(
    digest: Annotated[
        str, typer.Argument(metavar="DIGEST|KEY", help="Of anything in the run: the digest or key, or its first characters.")
    ],
    run: Annotated[Path, typer.Option("--run", parser=path, help="Run folder, or a bundle (.zip).")],
    output_format: Format = "text",
) -> None:
    """Say what a digest is: a task, weights, a recorded lesson, a dataset, own code; with inputs, results, and who used it.

    Where a network comes from, back to the beginning, says agentkd lineage.
    """
    from agentkd.artifacts.history import read_history
    from agentkd.artifacts.own_code import listed
    from agentkd.artifacts.showing import lines, shown

    with opened(run) as folder:
        history = read_history(folder)
        code = {one.digest: one for one in listed((record.task for record in history.by_task.values()), folder.store)}
        found = shown(digest, history, folder.store, code)
    if output_format == "json":
        say(json.dumps(found.as_data(), indent=2))
        return
    for line in lines(found):
        say(visible_line(line))


def logs(
    run: OfRun,
    agent: Annotated[
        str, typer.Argument(metavar="AGENT", help="agent-1, or coordinator; without it the logs that there are are listed.")
    ] = "",
    num_lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="So many from the end; 0 for all.")] = 50,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what is written, until nobody works in the folder, or Ctrl-C.")
    ] = False,
    output_format: Format = "text",
) -> None:
    """Print the end of an agent's log, or of the coordinator's, which has a line for whatever happened.

    With --format json each line is a document of its own, so that following them can be read by a program.
    """
    from agentkd.artifacts.run_folder import RunFolder
    from agentkd.report.tailing import following, is_at_rest, last_lines, log_names, log_of

    folder = RunFolder(run).must_exist()

    def show_line(line: str) -> None:
        say(json.dumps({"agent": agent, "line": line}) if output_format == "json" else line)

    if not agent:
        names = [{"agent": name, "size_bytes": log_of(folder, name).stat().st_size} for name in log_names(folder)]
        if output_format == "json":
            say(json.dumps(names, indent=2))
        for one in names if output_format == "text" else ():
            say(visible_line(f"{one['agent']:<20} {one['size_bytes']:>12,} bytes"))
        return
    place = log_of(folder, agent)
    lines, end = last_lines(place, num_lines)
    for line in lines:
        show_line(line)
    if not follow:
        return
    try:
        for line in following(place, end, lambda: is_at_rest(folder)):
            show_line(line)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
