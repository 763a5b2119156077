"""Commands to begin with: init, schema."""

import json
from pathlib import Path
from typing import Annotated

import typer

from agentkd.cli.app import Format
from agentkd.cli.ending import say
from agentkd.cli.typed import path
from agentkd.errors import ConfigError, StorageError

PROBLEMS = 1
MAX_SCHEMA = 2**20


def init(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET", help="A folder with dataset.yaml, that file, or a specification: folder:path=DIR,size=480x360."
        ),
    ],
    file: Annotated[
        Path | None, typer.Argument(parser=path, metavar="FILE", help="The experiment file to make; by default NAME.yaml.")
    ] = None,
    sample: Annotated[int, typer.Option(min=0, help="Read so many images of each split, evenly spread; 0 for all.")] = 200,
    output_format: Format = "text",
) -> None:
    """Make an experiment file for a dataset: commented, sized for this machine, with what the data were found to be.

    Looks at the data as agentkd data check does, and suggests crop, batch, epochs and families. Writes FILE, and beside it the
    JSON Schema by which editors complete and check it. Overwrites nothing. Ends with 1 if a run would refuse the data.
    """
    from agentkd.checks.beginning import as_text, suggest
    from agentkd.launch.devices import count_cuda_devices
    from agentkd.report.data_check import lines, verdict
    from agentkd.report.experiment_schema import NAME, modeline

    made, found = suggest(dataset, device="cuda" if count_cuda_devices() else "cpu", sample=sample)
    if made is None:
        if output_format == "json":
            say(json.dumps({"file": None, "problems": list(found.problems)}, indent=2))
        else:
            for line in lines(found, 20):
                say(line)
            say(f"{verdict(found)}; no experiment was written: mend the data first")
        raise typer.Exit(PROBLEMS)
    place = file or Path(f"{made.name}.yaml")
    schema = place.with_name(NAME)
    if place.exists() or place.is_symlink():
        raise ConfigError(f"{place} is there already, and nothing is overwritten; name another file")
    _write_schema(schema)
    _write_new(place, as_text(made, modeline(f"./{NAME}"), place))
    if output_format == "json":
        say(json.dumps({"file": str(place), "schema": str(schema), "problems": [], "warnings": list(found.warnings)}, indent=2))
        return
    for warning in found.warnings:
        say(f"warning: {warning}", err=True)
    say(f"{place}: an experiment for {made.dataset}, with {', '.join(made.families)}; beside it {schema.name} for editors")
    say(f"next: agentkd run {place} --dry-run --measure")


def schema(
    file: Annotated[
        Path | None, typer.Argument(parser=path, metavar="FILE", help="Where to write it; printed if it is not given.")
    ] = None,
) -> None:
    """Print or write the JSON Schema of the experiment file, by which editors complete, explain and check it.

    The first line of an experiment file then is: # yaml-language-server: $schema=FILE
    """
    from agentkd.report.experiment_schema import modeline, schema_text

    if file is None:
        return say(schema_text().rstrip())
    _write_schema(file)
    say(f"{file}: write as the first line of an experiment file: {modeline(str(file))}")


def _write_schema(place: Path) -> None:
    """Writes the schema, where none is or an older one of it; nothing else is overwritten."""
    from agentkd.durable import write_whole
    from agentkd.plain import read_file, read_json
    from agentkd.report.experiment_schema import schema_text

    text = schema_text()
    if place.is_symlink() or place.exists():
        try:
            known = read_json(read_file(place, max_bytes=MAX_SCHEMA)) if place.is_file() and not place.is_symlink() else None
        except (OSError, ValueError):
            known = None
        if not isinstance(known, dict) or not str(known.get("$id", "")).startswith("urn:agentkd:experiment:"):
            raise ConfigError(f"{place} is there already, and is no schema of agentkd; name another file")
    try:
        write_whole(place, text.encode())
    except OSError as error:
        raise StorageError.of(place, error) from error


def _write_new(place: Path, text: str) -> None:
    """Writes a file that is not there."""
    try:
        with place.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{place} is there already, and nothing is overwritten; name another file") from None
    except OSError as error:
        raise StorageError.of(place, error) from error
