"""The command that shows what is searched."""

import json
from typing import Annotated

import typer

from agentkd.cli.app import Format, ImageChannels
from agentkd.cli.ending import say


def space(
    family: Annotated[str, typer.Argument(help="A family that comes with agentkd.")],
    classes: Annotated[int, typer.Option(min=2, max=1000, help="Number of classes K.")] = 5,
    channels: ImageChannels = None,
    output_format: Format = "text",
) -> None:
    """Show what a search chooses among: each dimension, its range, effect and condition, the corners' costs, the size."""
    from agentkd.architecture import IMAGENET
    from agentkd.report.spaces import as_markdown, describe

    described = describe(family, classes, images=channels or IMAGENET)
    if output_format == "json":
        say(json.dumps(described.canonical(), indent=2))
    else:
        say(as_markdown(described).rstrip("\n"))
