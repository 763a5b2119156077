"""Commands that look at something: reports, networks, weights, this machine."""

import json
from pathlib import Path
from typing import Annotated

import typer

from agentkd.cli.app import Format, read_settings, say
from agentkd.errors import ConfigError, StorageError


def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, finished or not.")],
    output_format: Format = "text",
) -> None:
    """Write RUN/report (table, figures, page) again from the records, and print the table."""
    from agentkd.artifacts.run_folder import RunFolder
    from agentkd.report.table import markdown_table, table_rows
    from agentkd.report.write import write_report

    folder = RunFolder(run_folder).must_exist()
    written = write_report(folder)
    if output_format == "json":
        say(json.dumps(table_rows(written.outlook), indent=2))
        return
    say(markdown_table(written.outlook))
    say(f"report: {written.page}")


def networks(
    classes: Annotated[int, typer.Option(min=2, help="Number of classes K.")] = 5,
    family: Annotated[str | None, typer.Option(help="One family only, or package.module:builder.")] = None,
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
        architecture = resolve(name, classes, chosen)
        counts = count_architecture(architecture)
        size = {"total": counts.total, "network": counts.network, "deploy": counts.deploy}
        rows.append({"family": name, "num_classes": classes, "settings": architecture.settings, **size})
    if output_format == "json":
        say(json.dumps(rows, indent=2))
        return
    say(f"{'family':<20}{'total':>14}{'network':>14}{'deploy':>14}   (K = {classes})")
    for row in rows:
        say(f"{row['family']:<20}{row['total']:>14,}{row['network']:>14,}{row['deploy']:>14,}")


def weights(
    file: Annotated[Path, typer.Argument(help="Published checkpoint: .safetensors, .pt or .pth with a plain state dict.")],
    out: Annotated[Path, typer.Argument(help="Where to write agentkd's form (.safetensors).")],
    family: Annotated[str, typer.Option(help="The family the weights belong to.")],
    classes: Annotated[int, typer.Option(min=2, help="Number of classes K.")] = 5,
) -> None:
    """Import weights that you have; families.NAME.weights in an experiment file then starts from them."""
    from agentkd.coordinator.importing import what_a_file_says
    from agentkd.knowledge.weights import agree_on_network, encode_weights
    from agentkd.networks.build import build
    from agentkd.networks.families import resolve
    from agentkd.networks.weights import import_weights, read_checkpoint

    architecture = resolve(family, classes)
    network = build(architecture, seed=0)
    found = import_weights(network, read_checkpoint(file))
    agree_on_network(what_a_file_says(file), architecture)
    try:
        out.write_bytes(encode_weights(architecture, dict(network.state_dict())))
    except OSError as error:
        raise StorageError.of(out, error) from error
    say(f"{out}: {found}")


def doctor(output_format: Format = "text") -> None:
    """Check this machine: Python, packages, devices, sockets, disk. Ends with 1 if something is missing."""
    from agentkd.report.doctor import examine

    findings = examine()
    if output_format == "json":
        say(json.dumps([finding.as_data() for finding in findings], indent=2))
    else:
        for finding in findings:
            say(f"{'ok  ' if finding.is_ok else 'FAIL'} {finding.name:<12} {finding.text}")
    if not all(finding.is_ok for finding in findings):
        raise typer.Exit(1)
