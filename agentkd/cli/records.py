"""Commands on what is recorded: replay, verify, lineage, compare, pack, unpack, tidy up."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentkd.cli.app import Format
from agentkd.cli.ending import say
from agentkd.cli.typed import path
from agentkd.errors import ConfigError, StorageError
from agentkd.visible import visible_line

if TYPE_CHECKING:
    from agentkd.artifacts.lineage import Ancestor
    from agentkd.artifacts.run_folder import RunFolder
    from agentkd.replay.verdicts import ReplayReport, Verdict

Run = Annotated[Path, typer.Argument(parser=path, metavar="RUN|BUNDLE", help="Run folder, or a bundle (.zip).")]
DIFFERS = 1
MAX_SHOWN = 12
WIDTH_OF_FILES = 1_000_000
MAX_INDENTED = 15


def replay(
    run: Run,
    task: Annotated[
        list[str] | None, typer.Option(help="A task, or what it made, by digest or its first characters; all without it.")
    ] = None,
    from_record: Annotated[
        bool, typer.Option("--from-record", help="No teacher is started: every lesson must be recorded.")
    ] = False,
    live: Annotated[bool, typer.Option("--live", help="Teachers are asked again, also where a lesson is recorded.")] = False,
    swap: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Replace one thing, keep the rest: teacher=DIGEST (or OLD:NEW), temperature=4, codec=int8, alpha=0.3.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(parser=path, help="Folder of the replay; by default RUN-replay beside the run.")
    ] = None,
    devices: Annotated[str, typer.Option(help="As for agentkd run.")] = "auto",
    tolerance: Annotated[
        float, typer.Option(min=0, help="Difference in mIoU (or accuracy) that another environment may make.")
    ] = 0.01,
    reuse: Annotated[
        bool, typer.Option("--reuse", help="Go on with a replay that was interrupted: what it has executed counts.")
    ] = False,
    allow_code: Annotated[
        bool,
        typer.Option(
            "--allow-code",
            help="Run the own code (networks, datasets, objectives) that the run holds; listed first. It can do what you can.",
        ),
    ] = False,
    output_format: Format = "text",
) -> None:
    """Execute recorded tasks again and compare: bit-identical, within tolerance, or diverged at which epoch and step.

    Lessons that are recorded are told from the record; teachers are started for the others. Ends with 1 if something diverged.
    Every task is executed, in a new folder; an interrupted replay goes on with --reuse. Own code runs only with --allow-code.
    """
    from rich.console import Console

    from agentkd.artifacts.run_folder import RunFolder
    from agentkd.replay.perform import ReplayOptions, TeachersFrom, default_out, what_runs
    from agentkd.replay.perform import replay as perform
    from agentkd.replay.swaps import read_swap
    from agentkd.report.live import PlainWatcher

    if from_record and live:
        raise ConfigError("--from-record and --live exclude each other")
    swaps = tuple(read_swap(text) for text in swap or [])
    teaching = TeachersFrom.RECORD if from_record else TeachersFrom.LIVE if live else TeachersFrom.EITHER
    options = ReplayOptions(tuple(task or ()), teaching, swaps, devices, tolerance, reuse=reuse, allows_code=allow_code)
    with opened(run) as folder:
        place = out or default_out(run.with_suffix("") if run.is_file() else run, swaps, reuse=reuse)
        watcher = None if output_format == "json" else PlainWatcher(Console(emoji=False))
        for one in what_runs(folder, options):
            say(f"runs {one}", err=True)
        report = perform(folder, RunFolder(place).must_be_for_a_run(), options, watcher)
    try:
        (place / "replay.json").write_text(json.dumps(report.as_data(), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError.of(place, error) from error
    if output_format == "json":
        say(json.dumps(report.as_data(), indent=2))
    else:
        _print_report(report)
        say(f"details: {place / 'replay.json'}")
    if not report.is_confirmed:
        raise typer.Exit(DIFFERS)


def verify(run: Run, output_format: Format = "text") -> None:
    """Check every digest, record and reference of a run or a bundle. Ends with 1 if something is damaged, missing or changed."""
    from rich.console import Console
    from rich.status import Status

    from agentkd.artifacts.bundle import verify_bundle
    from agentkd.artifacts.run_folder import RunFolder
    from agentkd.artifacts.verification import verify as look_through

    with Status("reading", console=Console(stderr=True)) as status:
        if run.is_file():
            found = verify_bundle(run)
        else:
            found = look_through(RunFolder(run), lambda path: status.update(f"reading {path.name[:16]}..."))
    if output_format == "json":
        say(json.dumps(found.as_data(), indent=2))
    else:
        for problem in found.problems:
            say(f"FAIL {problem}")
        for note in found.notes:
            say(f"note {note}")
        verdict = f"{len(found.problems)} problems" if found.problems else "all sound"
        say(f"{found.num_records} records, {found.num_artifacts} artifacts, {found.size_bytes / 1e6:.1f} MB: {verdict}")
    if found.problems:
        raise typer.Exit(DIFFERS)


def lineage(
    digest: Annotated[str, typer.Argument(help="Weights, or another artifact or task: the digest or its first characters.")],
    run: Annotated[Path, typer.Option("--run", parser=path, help="Run folder, or a bundle (.zip).")],
    output_format: Format = "text",
) -> None:
    """Show where a network comes from: architecture, data, start, every teacher and what it told, back to the beginning."""
    from rich.console import Console
    from rich.tree import Tree

    from agentkd.artifacts.history import read_history
    from agentkd.artifacts.lineage import as_data, describe, trace_back
    from agentkd.artifacts.own_code import listed

    with opened(run) as folder:
        history = read_history(folder)
        code = {one.digest: one for one in listed((record.task for record in history.by_task.values()), folder.store)}
        root = trace_back(digest, history, code)
    if output_format == "json":
        say(json.dumps(as_data(root), indent=2))
        return

    def shown(lines: Iterable[str]) -> str:
        return "\n".join(map(visible_line, lines))

    def grow(tree: Tree, ancestor: "Ancestor", generations: int = MAX_INDENTED) -> None:
        if ancestor.ancestors and not generations:
            tree.add(f"... more: agentkd lineage {ancestor.name[:12]}", highlight=False)
            return
        for before in ancestor.ancestors:
            lines = [f"{before.relation} {before.name[:12]}", *describe(before, most=None)]
            grow(tree.add(shown(lines), highlight=False), before, generations - 1)

    tree = Tree(shown([root.name, *describe(root, most=None)]), highlight=False)
    grow(tree, root)
    console = Console(markup=False, emoji=False)
    if not console.is_terminal:  # a file has no width at which lines must be broken, or cut
        console.width = WIDTH_OF_FILES
    console.print(tree)


def diff(
    first: Annotated[Path, typer.Argument(parser=path, metavar="RUN", help="Run folder or bundle.")],
    second: Annotated[Path, typer.Argument(parser=path, metavar="RUN", help="Another.")],
    output_format: Format = "text",
) -> None:
    """Compare two runs: configuration, environment, and what came out of the tasks that both did."""
    from agentkd.artifacts.comparison import compare

    with opened(first) as a, opened(second) as b:
        found = compare(a, b)
    if output_format == "json":
        say(json.dumps(found.as_data(), indent=2))
        return
    parts = (("configuration", found.configuration), ("environment", found.environment), ("own code", found.own_code))
    for title, listed in parts:
        say(f"{title}: {'the same' if not listed else ''}")
        for field, ours, theirs in listed:
            say(f"  {field}: {_short(ours)} | {_short(theirs)}")
    others = [one for one in found.same if not one.is_identical]
    say(f"tasks of both: {len(found.same)}, {len(found.same) - len(others)} with the same weights")
    for one in others:
        say(f"  {one.label} ({one.task[:12]}): {one.text}")
    for name, only in zip((first, second), found.only, strict=True):
        say(f"only in {name}: {len(only)}")
        for label, score in only[:MAX_SHOWN]:
            say(f"  {label}: {100 * score:.2f} %")
        if len(only) > MAX_SHOWN:
            say(f"  ... and {len(only) - MAX_SHOWN} more (--format json lists all)")


def bundle(
    run: Annotated[Path, typer.Argument(parser=path, metavar="RUN", help="Run folder.")],
    out: Annotated[Path, typer.Argument(parser=path, metavar="OUT.zip", help="The bundle to write.")],
    artifacts: Annotated[
        str,
        typer.Option(help="all; winners (final weights and what they come from, no recordings); records (none, only records)."),
    ] = "all",
    damaged: Annotated[
        bool, typer.Option("--damaged", help="Pack the run although it is damaged; verify will say so of the bundle as well.")
    ] = False,
    output_format: Format = "text",
) -> None:
    """Pack a run into one file that opens, verifies and replays on another machine, with RO-Crate metadata and model cards."""
    from agentkd.artifacts.run_folder import RunFolder
    from agentkd.artifacts.verification import must_be_sound
    from agentkd.report.packing import write_bundle

    if not damaged:
        must_be_sound(RunFolder(run).must_exist())
    written = write_bundle(RunFolder(run), out, artifacts)
    if output_format == "json":
        told = {"num_files": written.num_files, "size_bytes": written.size_bytes, "sha256": written.sha256}
        code = [one.as_data() for one in written.code]
        return say(json.dumps({"file": str(out), **told, "num_left_out": written.num_left_out, "code": code}, indent=2))
    say(f"{out}: {written.num_files} files, {written.size_bytes / 1e6:.1f} MB\nSHA-256 {written.sha256}")
    for one in written.code:
        say(f"carries {one}")
    if written.num_left_out:
        say(f"{written.num_left_out} artifacts were left out; what needs them cannot be replayed from this bundle")


def unbundle(
    file: Annotated[Path, typer.Argument(parser=path, metavar="BUNDLE", help="A bundle (.zip).")],
    out: Annotated[Path | None, typer.Argument(parser=path, metavar="RUN", help="Folder to make; by default runs/NAME.")] = None,
    output_format: Format = "text",
) -> None:
    """Verify a bundle and unpack it into a run folder, but for its pages: what is in report/ and cards/ stays in the bundle."""
    from agentkd.artifacts.bundle import unpack

    place = out or Path("runs") / file.stem
    found = unpack(file, place)
    if output_format == "json":
        return say(json.dumps({"run": str(place)} | found.as_data(), indent=2))
    say(f"{place}: {found.num_records} records, {found.num_artifacts} artifacts, all sound")
    for note in found.notes:
        say(f"note {note}")
    say(f"next: agentkd replay {place}")


def gc(
    run: Annotated[Path, typer.Argument(parser=path, metavar="RUN", help="Run folder.")],
    apply: Annotated[bool, typer.Option("--apply", help="Remove what nothing refers to; without it it is only listed.")] = False,
    recordings: Annotated[
        bool, typer.Option("--recordings", help="With --apply: remove what teachers told as well, at the price that is listed.")
    ] = False,
    output_format: Format = "text",
) -> None:
    """Say what a run holds that nothing refers to, and what could be spared at which price. Removes nothing unless told to."""
    from agentkd.artifacts.garbage import find_garbage, remove
    from agentkd.artifacts.run_folder import RunFolder, RunLock
    from agentkd.exchange.socket_files import sweep

    folder = RunFolder(run).must_exist()
    lock = RunLock(folder)
    with lock if apply else lock.looked_at():
        found = find_garbage(folder)
        if output_format == "json":
            say(json.dumps(found.as_data(), indent=2))
        else:
            say(f"unreferenced: {len(found.unreferenced)} files, {found.size_bytes / 1e6:.1f} MB")
            for one in found.sparable:
                size = f"{len(one.files)} files, {one.size_bytes / 1e6:.1f} MB"
                say(f"could be spared: {one.what}: {size}; then {one.price}")
        if apply:
            sweep()
            told = found.told.files if recordings and found.told else ()
            say(f"removed {remove([*found.unreferenced, *told])} files", err=output_format == "json")
        elif found.unreferenced or recordings:
            say("nothing was removed; do it with --apply", err=output_format == "json")


@contextmanager
def opened(run: Path) -> "Iterator[RunFolder]":
    """A run folder, or that of a bundle, verified and unpacked for as long as it is looked at."""
    import tempfile

    from agentkd.artifacts.bundle import unpack
    from agentkd.artifacts.run_folder import RunFolder

    if not run.is_file():
        yield RunFolder(run).must_exist()
        return
    with tempfile.TemporaryDirectory(prefix="agentkd-bundle-") as place:
        unpack(run, Path(place) / "run")
        yield RunFolder(Path(place) / "run")


def _print_report(report: "ReplayReport") -> None:
    from agentkd.replay.verdicts import Outcome

    for verdict in report.verdicts:
        if verdict.outcome in (Outcome.IDENTICAL, Outcome.KEPT, Outcome.ELSEWHERE):
            continue
        say(f"{verdict.outcome}: {verdict.label} (task {verdict.task[:12]})")
        _print_difference(verdict)
    counts = ", ".join(f"{report.count(outcome)} {outcome}" for outcome in Outcome if report.count(outcome))
    say(f"{len(report.verdicts)} tasks: {counts}")
    for text in report.lacking:
        say(f"not here: {text}")
    say(f"{report.num_executed} tasks executed, {report.num_reused} reused from before")
    for one in report.code:
        say(f"ran {one}")
    say(f"lessons with a teacher: {report.num_taught_live}")
    if report.plan:
        say(f"plan: {report.plan}")


def _print_difference(verdict: "Verdict") -> None:
    now = verdict.now
    if verdict.reason:
        say(f"  {verdict.reason}")
    if verdict.divergence:
        say(f"  first difference: epoch {verdict.divergence.epoch}, loss of step {verdict.divergence.step}")
    if now is None:
        return
    measure = verdict.measure
    percent = 100 * measure.must_be_of(now)
    say(f"  {measure.text(verdict.then)} then, {percent:.2f} % now ({100 * verdict.difference:+.2f})")
    for epoch, before, after in verdict.epochs:
        say(f"  epoch {epoch}: {_percent(before)} then, {_percent(after)} now")
    for number, pair in enumerate(zip(verdict.then.class_iou, now.class_iou, strict=False)):
        say(f"  class {number}: IoU {_percent(pair[0])} then, {_percent(pair[1])} now")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 50 else text[:47] + "..."
