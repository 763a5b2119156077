"""The public names are one list: for type checkers, for the running program and for whoever looks around."""

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import agentkd
from agentkd import errors, objectives

TYPED = Path(__file__).parents[1] / "typed"
MODULES = {"errors", "objectives", "testing"}


def imported_for_checkers() -> dict[str, str]:
    """Name to place, as the TYPE_CHECKING block has them."""
    tree = ast.parse(inspect.getsource(agentkd))
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    found = {}
    for line in block.body:
        assert isinstance(line, ast.ImportFrom)
        for alias in line.names:
            assert alias.asname == alias.name, f"{alias.name} is not exported unless it is imported as itself"
            found[alias.name] = str(line.module)
    return found


def test_checkers_and_programs_see_the_same_names_from_the_same_places() -> None:
    assert imported_for_checkers() == agentkd._PLACE_OF
    assert sorted([*agentkd._PLACE_OF, "__version__"]) == sorted(agentkd.__all__)
    assert set(agentkd.__all__) <= set(dir(agentkd))


@pytest.mark.parametrize("name", agentkd.__all__)
def test_a_name_is_there(name: str) -> None:
    assert getattr(agentkd, name) is not None


def test_all_errors_and_objectives_are_public_and_little_else() -> None:
    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.AgentKDError)}
    taught = {kind.__name__ for kind in get_args(get_args(objectives.Objective)[0])}
    assert kinds | taught <= set(agentkd.__all__)
    assert len(set(agentkd.__all__) - kinds - taught - MODULES - {"__version__"}) <= 27


def test_a_name_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'Comunity'; it has .*Community") as caught:
        _ = agentkd.Comunity
    assert (caught.value.name, caught.value.obj) == ("Comunity", agentkd)


@pytest.mark.parametrize(
    "expression",
    [
        "agentkd.objectives.Dkd()",
        "agentkd.errors.ConfigError('x')",
        "agentkd.Own(path='a:B')",
        "agentkd.Educated",
        "agentkd.testing",
    ],
)
def test_a_fresh_process_finds_it(expression: str) -> None:
    subprocess.run([sys.executable, "-c", f"import agentkd; {expression}"], check=True, timeout=120)


def test_everything_can_be_imported_at_once() -> None:
    names: dict[str, object] = {}
    exec("from agentkd import *", names)
    assert set(agentkd.__all__) <= set(names)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_type_checker_refuses_what_is_wrong_and_nothing_else(tmp_path: Path) -> None:
    """As a user has it: strict, with no configuration of ours."""
    assert (Path(agentkd.__file__).parent / "py.typed").is_file()
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--cache-dir", str(tmp_path), "--no-pretty"]
    command += ["--follow-imports", "silent", "--no-error-summary", "--hide-error-context", "right.py", "wrong.py"]
    environment = os.environ | {"MYPYPATH": str(Path(agentkd.__file__).parents[1])}
    done = subprocess.run(command, cwd=TYPED, env=environment, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 1, done.stderr
    reported = re.findall(r"^(\w+)\.py:(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.MULTILINE)
    found = {("wrong", number, code) for file, number, code in reported if file == "wrong"}
    assert [entry for entry in reported if entry[0] != "wrong"] == [], done.stdout
    lines = (TYPED / "wrong.py").read_text(encoding="utf-8").splitlines()
    expected = {
        ("wrong", str(number), code)
        for number, line in enumerate(lines, start=1)
        if "  # " in line
        for code in line.rpartition("  # ")[2].split(",")
    }
    assert found == expected, done.stdout
