"""The reference of errors and exit codes, from the error tree."""

import inspect
from pathlib import Path

from agentkd import errors
from agentkd.errors import AgentKDError

HEAD = """# Errors and exit codes

Every error that agentkd raises on purpose is one of these classes; all are `agentkd.AgentKDError`, and names of `agentkd`. A
script catches them by class; a program that runs `agentkd` looks at the exit code. What a message means, and what to do
about it, is in [troubleshooting](../troubleshooting.md).

## Exit codes
"""
FILE = Path(errors.__file__)


def classes() -> list[type[AgentKDError]]:
    """Every class of errors, in the order of the code."""
    found = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, AgentKDError)]
    return sorted(found, key=lambda kind: inspect.getsourcelines(kind)[1])


def page() -> str:
    """The whole page."""
    by_code: dict[int, list[str]] = {}
    for kind in classes():
        by_code.setdefault(kind.exit_code, []).append(f"[`{kind.__name__}`](#{kind.__name__.lower()})")
    lines = [HEAD, "", "| exit code | when |", "|---|---|"]
    for code in sorted({*by_code, *errors.OTHER_EXITS}):
        lines.append(f"| {code} | {errors.OTHER_EXITS.get(code) or ', '.join(by_code[code])} |")
    tree = inspect.cleandoc(errors.__doc__ or "").split("::\n\n")[1].split("\n\n")[0]
    lines += ["", "## The tree", "", "```", inspect.cleandoc(tree), "```", "", "## Each error"]
    for kind in classes():
        text = inspect.cleandoc(kind.__doc__ or "").replace("``", "`")
        said, _, arguments = text.partition("\n\nArgs:\n")
        lines += ["", f"### {kind.__name__}", "", " ".join(said.split())]
        lines += ["", f"Exit code {kind.exit_code}, code `{kind.code}` in messages between agents."]
        names = [f"`{name}`" for name in inspect.signature(kind.__init__).parameters if name not in ("self", "args", "kwargs")]
        if names and "__init__" in vars(kind):
            lines += ["", f"It is made of {', '.join(names)}."]
        lines += ["", *fields(arguments)] if arguments else []
    return "\n".join(lines) + "\n"


def fields(arguments: str) -> list[str]:
    """The arguments as a list."""
    found: list[str] = []
    for line in inspect.cleandoc(arguments).splitlines():
        if line.startswith(" "):
            found[-1] += " " + line.strip()
        else:
            name, _, text = line.partition(": ")
            found.append(f"- `{name}`: {text}")
    return found
