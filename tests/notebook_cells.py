"""The cells of a notebook, executed without a kernel: files are written, commands are typed, anything else is Python."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from experiments import environment

WAIT_S = 400


def run(cells: list[tuple[str, str]], place: Path) -> list[tuple[str, str]]:
    """Executes the cells in a folder; returns each command with what it printed.

    Raises:
        AssertionError: a command ended with another status than 0.
    """
    said: list[tuple[str, str]] = []
    names: dict[str, Any] = {}

    def typed(command: str) -> str:
        line = re.sub(r"\{(\w+)\}", lambda found: str(names[found[1]]), command)
        said.append((command, _output(line, place)))
        return said[-1][1]

    names["_typed"] = lambda command: typed(command).splitlines()
    for kind, text in cells:
        first, _, rest = text.partition("\n")
        if kind != "code":
            continue
        if first.startswith("%%writefile "):
            path = place / first.split()[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{rest}\n", encoding="utf-8")
        elif first.startswith("!"):
            typed(first[1:])
        else:
            exec(re.sub(r"^(\w+) = !(.*)$", lambda found: f"{found[1]} = _typed({found[2]!r})", text, flags=re.MULTILINE), names)
    return said


def _output(line: str, place: Path) -> str:
    program, _, words = line.partition(" ")
    command = {"agentkd": f'"{sys.executable}" -m agentkd', "python": f'"{sys.executable}"'}[program]
    done = subprocess.run(
        f"{command} {words}",
        shell=True,
        cwd=place,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
    return done.stdout
