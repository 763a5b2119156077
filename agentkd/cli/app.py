"""The command line itself, and the options that several commands have."""

import sys
from typing import Annotated, Any

import typer

from agentkd.errors import AgentKDError, ConfigError, as_agentkd_error
from agentkd.visible import visible

Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Override a field of the experiment file.")
]
Devices = Annotated[str | None, typer.Option(help="auto, cpu:2, or cuda:0,cuda:1. One agent learns on each slot at a time.")]
Format = Annotated[str, typer.Option("--format", help="text for people, json for programs.")]


def read_settings(items: list[str] | None) -> dict[str, Any]:
    """What ``--set NAME=VALUE`` says; values are YAML.

    Raises:
        ConfigError: an item is not of that form.
    """
    from agentkd.plain import read_yaml

    found: dict[str, Any] = {}
    for item in items or []:
        name, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"--set {item!r}: expected name=value")
        try:
            found[name] = read_yaml(value)
        except ValueError as error:
            raise ConfigError(f"--set {item!r}: the value is not YAML: {error}") from None
    return found


def given_fields(overrides: list[str] | None, devices: str | None) -> list[str]:
    """Everything that an option sets in an experiment file."""
    return [*(overrides or []), *([f"launch.devices={devices}"] if devices else [])]


def say(text: str, *, err: bool = False) -> None:
    """Prints text, of which some may be somebody else's: nothing in it acts on the terminal."""
    typer.echo(visible(text), err=err)


app = typer.Typer(
    name="agentkd",
    help="Neural networks as agents that teach each other: architecture search and knowledge distillation, replayable.",
    epilog="Begin with: agentkd demo",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)


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
) -> None:
    """What goes before a command."""


def main() -> None:
    """Runs the command line; an expected error prints its text and ends with its exit code."""
    try:
        app()
    except (AgentKDError, OSError) as error:
        told = as_agentkd_error(error)
        if not isinstance(told, AgentKDError):
            raise
        say(f"error: {told}", err=True)
        sys.exit(told.exit_code)
