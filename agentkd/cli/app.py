"""The command line itself, and the options that several commands have."""

import json
import re
import sys
from typing import Annotated, Any, NoReturn

import typer

from agentkd.cli.ending import run_to_the_end, say
from agentkd.cli.typed import bind, images, output_format
from agentkd.errors import ConfigError, exit_codes

Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Override a field of the experiment file.")
]
Devices = Annotated[
    str | None,
    typer.Option(help="auto, cpu:2, cuda:0,cuda:1, or cuda:0x2: two on one GPU. An agent learns on each slot at a time."),
]
Engine = Annotated[str | None, typer.Option(help="What starts agents: local, ray, srun, ssh or command.")]
Agents = Annotated[int | None, typer.Option(min=1, help="How many learn at a time, where --devices does not say it.")]
GpusPerAgent = Annotated[float | None, typer.Option(min=0, help="0.5 for two agents on a GPU.")]
CpusPerAgent = Annotated[int | None, typer.Option(min=1, help="Cores of an agent.")]
Teachers = Annotated[
    str | None,
    typer.Option(help="Where agents teach: beside those that learn, spread (where the fewest agents are), or devices: cuda:1."),
]
Bind = Annotated[
    str | None,
    typer.Option(parser=bind, metavar="TEXT", help="Where to listen for other hosts: an address or interface of this one."),
]
ImageChannels = Annotated[
    Any,
    typer.Option(
        parser=images, metavar="C|A,B,...", help="How many channels images have, or what these are called; RGB if not said."
    ),
]
Format = Annotated[str, typer.Option("--format", parser=output_format, help="text for people, json for programs.")]


def read_settings(items: list[str] | None) -> dict[str, Any]:
    """What ``--set NAME=VALUE`` says; values are YAML.

    Raises:
        ConfigError: an item is not of that form.
    """
    from agentkd.plain import read_yaml

    found: dict[str, Any] = {}
    for item in items or []:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set {item!r}: expected name=value")
        try:
            found[name] = read_yaml(value)
        except ValueError as error:
            raise ConfigError(f"--set {item!r}: the value is not YAML: {error}") from None
    return found


def given_fields(overrides: list[str] | None, **launch: str | float | None) -> list[str]:
    """Everything that an option sets in an experiment file: fields, and those of ``launch`` by their names."""
    # Text is text, whatever YAML would make of it.
    given = {name: json.dumps(value) for name, value in launch.items() if value is not None}
    return [*(overrides or []), *(f"launch.{name}={value}" for name, value in given.items())]


def _epilog() -> str:
    """What stands at the end of the help. A line with the backspace alone keeps those that follow it as they are."""
    codes = [f"  {code:>3}  {means}" for code, means in exit_codes().items()]
    return "\n\n".join(["Begin with: agentkd demo, or agentkd init DATASET", "\b\n" + "\n".join(["Exit codes:", *codes])])


app = typer.Typer(
    name="agentkd",
    help="Neural networks as agents that teach each other: architecture search and knowledge distillation, replayable.",
    epilog=_epilog(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def summarize(group: typer.Typer) -> None:
    """Has each command of a group, and of the groups in it, listed with the first sentence of its help, whole."""
    for command in group.registered_commands:
        command.short_help = first_sentence(command.callback.__doc__ or "") if command.callback else None
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            inner.short_help = first_sentence(str(inner.typer_instance.info.help))
            summarize(inner.typer_instance)


def first_sentence(text: str) -> str:
    r"""The first sentence of a docstring, on one line.

    Example:
        >>> first_sentence("Do it: a.b(c). Then\n    rest.\n\nMore.")
        'Do it: a.b(c).'
    """
    paragraph = " ".join(text.split("\n\n")[0].split())
    found = re.match(r".*?\.(?=\s|$)", paragraph)
    return found[0] if found else paragraph


def _say_version(is_asked: bool) -> None:
    if is_asked:
        from agentkd import __version__

        say(f"agentkd {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say the version and end.")
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Show the log and the traceback of an error; also after a command, or AGENTKD_DEBUG=1."),
    ] = False,
) -> None:
    """What goes before a command; ``--debug`` is taken out before, wherever it stands."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs the command line, by default on what was typed, and ends the program with the exit status of what came of it."""
    sys.exit(run_to_the_end(app, sys.argv[1:] if arguments is None else arguments))
