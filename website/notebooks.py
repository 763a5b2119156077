"""Notebooks of the tutorial, made from its pages: the same text, code and commands, cell by cell."""

import json
import re
from pathlib import Path
from typing import Any

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorial"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?![a-z]+:|#)([^)\s]+\.md)")
TOLD = 'DIGEST = [line.split()[1] for line in told if line.startswith("digest ")][-1]'


def chapters() -> list[Path]:
    """The pages that are run as they stand, in their order."""
    return sorted(TUTORIAL.glob("[0-9]-*.md"))


def cells(page: str) -> list[tuple[str, str]]:
    r"""Kind (``markdown`` or ``code``) and text of each cell.

    A piece of code or data becomes a cell that writes its file. Commands become cells that give them to the shell. Where a later
    command has ``DIGEST``, the cell before takes it from the line that begins with ``digest``.

    Example:
        >>> cells('Do:\n\n```bash\npython teach.py\nagentkd export DIGEST out\n```\n')[1:]
        [('code', '!python teach.py'), ('code', '!agentkd export {DIGEST} out')]
    """
    found: list[tuple[str, str]] = []
    done = 0
    for fence in FENCE.finditer(page):
        found.append(("markdown", page[done : fence.start()].strip()))
        done = fence.end()
        kind, text = fence.groups()
        if kind == "bash":
            found += [("code", "!" + line.replace("DIGEST", "{DIGEST}")) for line in text.splitlines()]
        elif name := file_name(text):
            found.append(("code", f"%%writefile {name}\n{text.rstrip()}"))
        else:
            found.append(("markdown", fence[0].strip()))
    found.append(("markdown", page[done:].strip()))
    said = "\n".join(text for kind, text in found if kind == "code" and text.startswith("%%writefile"))
    prints = {name for name in re.findall(r"^%%writefile (\S+)$", said, re.MULTILINE) if 'print("digest"' in part(said, name)}
    return [(kind, noting(text, prints) if kind == "code" else text) for kind, text in found if text]


def part(said: str, name: str) -> str:
    """The text of one file among those that are written."""
    return said.partition(f"%%writefile {name}\n")[2].partition("%%writefile")[0]


def noting(text: str, prints: set[str]) -> str:
    """A command whose script prints a digest, with that kept for later commands."""
    command = text.removeprefix("!")
    if text == command or command.removeprefix("python ") not in prints:
        return text
    return f'told = !{command}\nprint("\\n".join(told))\n{TOLD}'


def file_name(text: str) -> str:
    """What a piece of code or data says in its first line it is saved as; empty if it says nothing."""
    found = re.match(r"# ([\w./-]+\.\w+)\n", text)
    return found[1] if found else ""


def notebook(page: str) -> str:
    """The notebook as JSON, without outputs. Links to pages lead to them as they lie in the repository."""
    made = []
    for number, (kind, text) in enumerate(cells(page)):
        cell: dict[str, Any] = {
            "cell_type": kind,
            "id": f"cell-{number}",
            "metadata": {},
            "source": text.splitlines(keepends=True),
        }
        made.append(cell | {"execution_count": None, "outputs": []} if kind == "code" else cell)
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    whole = {"cells": made, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def written() -> dict[Path, str]:
    """Every notebook by its place."""
    return {path.with_suffix(".ipynb"): notebook(path.read_text(encoding="utf-8")) for path in chapters()}
