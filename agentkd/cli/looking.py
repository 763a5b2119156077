"""Commands that look at something: reports, networks, weights, this machine."""

import json
from pathlib import Path
from typing import Annotated

import typer

from agentkd.cli.app import (
    Bind,
    CpusPerAgent,
    Devices,
    Engine,
    Format,
    GpusPerAgent,
    ImageChannels,
    Overrides,
    Teachers,
    given_fields,
    read_settings,
)
from agentkd.cli.ending import say
from agentkd.cli.typed import path
from agentkd.errors import ConfigError
from agentkd.visible import visible_line

MAX_LISTED = 20


def report(
    run_folder: Annotated[Path, typer.Argument(parser=path, metavar="RUN", help="Run folder, finished or not.")],
    out: Annotated[
        Path | None,
        typer.Option(parser=path, help="Folder to write to; by default RUN/report, or elsewhere if RUN can only be read."),
    ] = None,
    output_format: Format = "text",
) -> None:
    """Write RUN/report (table, figures, page) again from the records, and print the table. The run's data are not needed.

    Of a community's folder the page says what was done in it, and by whom.
    """
    from dataclasses import asdict

    from rich.console import Console

    from agentkd.artifacts.run_folder import RunFolder
    from agentkd.report.closing import columns, print_summary
    from agentkd.report.of_community import is_of_community, write_community_report
    from agentkd.report.table import table_rows
    from agentkd.report.write import place_for, write_report

    folder = RunFolder(run_folder).must_exist()
    if is_of_community(folder):
        made = write_community_report(folder, out or place_for(folder))
        if output_format == "json":
            return say(json.dumps([asdict(row) for row in made.rows], indent=2))
        heads = ("task", "network", "by", "taught by", "score", "weights")
        rows = [
            (row.label, row.network, row.agent, row.teachers or "-", row.score or "-", row.weights or "-") for row in made.rows
        ]
        for line in columns([heads, *rows]):
            say(line)
        return say(f"report: {made.page}")
    written = write_report(folder, out or place_for(folder))
    if output_format == "json":
        say(json.dumps(table_rows(written.outlook), indent=2))
        return
    print_summary(written.outlook, Console(emoji=False))
    say(f"report: {written.page}")


def networks(
    classes: Annotated[int, typer.Option(min=2, help="Number of classes K.")] = 5,
    family: Annotated[str | None, typer.Option(help="One family only, or package.module:builder.")] = None,
    channels: ImageChannels = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting of the family.")] = None,
    output_format: Format = "text",
) -> None:
    """List the families with their parameter counts: total (all that trains), network (no discriminator), deploy."""
    from agentkd.networks.build import count_architecture
    from agentkd.networks.families import FAMILIES, resolve

    if settings and not family:
        raise ConfigError("--set needs --family, because settings differ from family to family")
    chosen = read_settings(settings)
    rows = []
    for name in [family] if family else FAMILIES:
        architecture = resolve(name, classes, chosen, images=channels)
        counts = count_architecture(architecture)
        size = {"total": counts.total, "network": counts.network, "deploy": counts.deploy}
        rows.append(
            {
                "family": name,
                "num_classes": classes,
                "channels": list(architecture.channels),
                "settings": architecture.settings,
                **size,
            }
        )
    if output_format == "json":
        say(json.dumps(rows, indent=2))
        return
    say(f"{'family':<20}{'total':>14}{'network':>14}{'deploy':>14}   (K = {classes})")
    for row in rows:
        say(f"{row['family']:<20}{row['total']:>14,}{row['network']:>14,}{row['deploy']:>14,}")


def weights(
    file: Annotated[Path, typer.Argument(parser=path, help="Weights: .safetensors, .pt or .pth with a plain state dict.")],
    out: Annotated[Path, typer.Argument(parser=path, help="Where to write agentkd's form (.safetensors).")],
    family: Annotated[str, typer.Option(help="The family they belong to, or package.module:builder.")],
    classes: Annotated[
        int | None, typer.Option(min=2, help="Number of classes K; that which the file says, or 5, if it is not given.")
    ] = None,
    channels: ImageChannels = None,
    names: Annotated[str, typer.Option(metavar="A,B,...", help="What the classes are called, in the order of the logits.")] = "",
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting of the family.")] = None,
    least: Annotated[
        float,
        typer.Option(min=0, max=1, help="Refuse if less than this share of the tensors of the file, or of the network, fits."),
    ] = 0.5,
    output_format: Format = "text",
) -> None:
    """Import weights that you have; families.NAME.weights in an experiment file then starts from them.

    Says which tensors were loaded, missing, unexpected and of another shape. Code in the file is never run.
    """
    from agentkd.coordinator.importing import bring

    given = tuple(name.strip() for name in names.split(",")) if names else ()
    found = bring(
        file,
        out,
        family,
        classes or len(given) or None,
        given,
        images=channels,
        settings=read_settings(settings),
        least_share=least,
    )
    if output_format == "json":
        say(json.dumps(found.as_data(), indent=2))
        return
    for number, line in enumerate(found.lines()):
        if number == MAX_LISTED:
            say("... (--format json lists all)")
            break
        say(visible_line(line))
    say(f"{out}: {found}")


def doctor(
    file: Annotated[
        Path | None, typer.Argument(parser=path, help="Experiment file: whether it can be run here is checked as well.")
    ] = None,
    out: Annotated[Path | None, typer.Option(parser=path, help="Its run folder; by default runs/NAME.")] = None,
    devices: Devices = None,
    engine: Engine = None,
    gpus_per_agent: GpusPerAgent = None,
    cpus_per_agent: CpusPerAgent = None,
    teachers: Teachers = None,
    bind: Bind = None,
    overrides: Overrides = None,
    output_format: Format = "text",
) -> None:
    """Check this machine: Python, packages, devices, sockets, disk; and an experiment, if one is given. Starts nothing.

    With --engine it looks at that engine instead, and starts two processes through it: how long that takes, which devices each
    sees, whether they reach this machine and each other. --set launch.options=[...] says what the engine is told besides.

    Ends with 1 if the machine lacks something, with 2 if something is wrong with the experiment.
    """
    from agentkd.report.doctor import examine, examine_engine, examine_file

    given = {"engine": engine, "gpus_per_agent": gpus_per_agent, "cpus_per_agent": cpus_per_agent, "bind": bind}
    of_engine = {name: value for name, value in given.items() if value is not None}
    said = {name.removeprefix("launch."): value for name, value in read_settings(overrides).items()} if engine else {}
    findings = examine_engine(said | of_engine) if engine else examine()
    of_file = examine_file(file, given_fields(overrides, devices=devices, teachers=teachers), out) if file else []
    if output_format == "json":
        say(json.dumps([finding.as_data() for finding in [*findings, *of_file]], indent=2))
    else:
        for finding in [*findings, *of_file]:
            say(f"{finding.mark:<4} {finding.name:<12} {finding.text}")
    if not all(finding.is_ok for finding in findings):
        raise typer.Exit(1)
    if not all(finding.is_ok for finding in of_file):
        raise typer.Exit(ConfigError.exit_code)
