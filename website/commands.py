"""The reference of the command line: every command with its words, arguments and options, from the program itself."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from agentkd.cli import app
from agentkd_predict import cli as predict_cli

HEAD = """# The command line

Every command of `agentkd`, as `agentkd COMMAND --help` says it. What a command ends with is in [errors and exit
codes](errors.md). `--debug` before a command shows what happens, and a traceback where something goes wrong."""


def page() -> str:
    """The whole page."""
    listed = list(commands(typer.main.get_command(app), "agentkd"))
    lines = [HEAD, "", "| command | what it does |", "|---|---|"]
    lines += [f"| [`{name}`](#{anchor(name)}) | {first(command)} |" for name, command in listed]
    for name, command in listed:
        lines += ["", f"## {name}", "", *told(name, command)]
    return "\n".join(lines) + "\n"


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every command that can be typed and is not hidden, in the order of the help."""
    for word, inner in command.commands.items():
        if inner.hidden:
            continue
        if hasattr(inner, "commands"):
            yield from commands(inner, f"{name} {word}")
        elif word == "predict":
            yield f"{name} {word}", typer.main.get_command(predict_cli.app)  # which it hands its words over to
        else:
            yield f"{name} {word}", inner


def anchor(name: str) -> str:
    """Of a heading, on the site and on GitHub."""
    return name.replace(" ", "-")


def first(command: Any) -> str:
    """Its first sentence."""
    return cell(inspect.cleandoc(command.help or "").partition("\n\n")[0])


def told(name: str, command: Any) -> list[str]:
    """One command: how it is typed, what it does, and its words."""
    arguments = [one for one in command.params if is_argument(one)]
    options = [one for one in command.params if not is_argument(one) and not one.hidden]
    usage = " ".join([name, *(spelled(one) for one in arguments), *(["[OPTIONS]"] if options else [])])
    text = inspect.cleandoc(command.help or "")
    lines = ["```", usage, "```", "", *(" ".join(part.split()) + "\n" for part in text.split("\n\n"))]
    if command.epilog:
        lines += [inspect.cleandoc(command.epilog), ""]
    rows = [(f"`{word(one)}`", one) for one in arguments] + [(f"`{spelled(one)}`", one) for one in options]
    if rows:
        lines += ["| word | what it says | by default |", "|---|---|---|"]
        lines += [f"| {shown} | {cell(one.help or '')}{limits(one)} | {default(one)} |" for shown, one in rows]
    return lines


def is_argument(one: Any) -> bool:
    """Whether it has its place, and no name."""
    return not any(name.startswith("-") for name in one.opts)


def word(one: Any) -> str:
    """What stands for an argument's value."""
    return str(one.metavar or one.name.upper())


def spelled(one: Any) -> str:
    """As it is typed: an argument by the word that stands for it, an option by its names and the word for its value."""
    if is_argument(one):
        shown = word(one).removesuffix("...") + ("..." if one.nargs == -1 else "")
        return shown if one.required else f"[{shown}]"
    names = ", ".join(one.opts) + (f" / {', '.join(one.secondary_opts)}" if one.secondary_opts else "")
    return names if one.is_flag else f"{names} {one.metavar or kind(one)}"


def kind(one: Any) -> str:
    """What an option's value is."""
    annotation = one.type_descriptor.annotation
    return {int: "NUMBER", float: "NUMBER", Path: "PATH"}.get(annotation, "TEXT")


def limits(one: Any) -> str:
    """Of a number."""
    low, high = getattr(one, "min", None), getattr(one, "max", None)
    if low is None and high is None:
        return ""
    return f" ({low if low is not None else ''} to {high})" if high is not None else f" ({low} or more)"


def default(one: Any) -> str:
    """Where nothing is typed."""
    if one.required:
        return "must be given"
    value = one.default
    if value is None or value == "" or callable(value) or not one.show_default:
        return ""
    if isinstance(value, bool):
        return "" if not value else "on"
    return f"`{value}`"


def cell(text: str) -> str:
    """As text in a table."""
    return re.sub(r"(?<!`)\b([a-z]+\.[a-z_]+=\S+)(?!`)", r"`\1`", " ".join(text.split())).replace("|", "\\|").replace("<", "\\<")
