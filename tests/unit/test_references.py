"""References are made from the code: nothing is stale, no field and no public name is without words."""

import ast
import doctest
import inspect
import json
from pathlib import Path
from types import ModuleType

import pytest
import typer.main
from pydantic import BaseModel

import agentkd
from agentkd import testing
from agentkd.cli import app
from agentkd.experiment import Experiment
from agentkd.messages.dialogues import DIALOGUES, LIFE
from agentkd.messages.specification import dialogues_page
from agentkd.recipe import Recipe
from website import api, beyond, commands, fields, notebooks, references

ROOT = Path(__file__).parents[2]
PAGES = references.pages()
GOLDEN = ROOT / "tests" / "public_api.json"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_the_code_says(name: str) -> None:
    assert (references.REFERENCE / name).read_text(encoding="utf-8") == PAGES[name], "run: make references"


@pytest.mark.parametrize("path", notebooks.chapters(), ids=lambda path: path.stem)
def test_a_notebook_is_its_page(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    made = notebooks.notebook(page)
    assert path.with_suffix(".ipynb").read_text(encoding="utf-8") == made, "run: make references"
    pieces = [text for kind, text in notebooks.FENCE.findall(page) if kind != "bash"]
    written = [text for kind, text in notebooks.cells(page) if text.startswith("%%writefile ")]
    assert [text.partition("\n")[2] for text in written] == [piece.rstrip() for piece in pieces], "every piece says its file"
    assert not [target for target in notebooks.LINK.findall(made) if not (path.parent / target).exists()]


@pytest.mark.parametrize("model", fields.models(), ids=lambda model: model.__name__)
def test_every_field_of_an_experiment_is_explained(model: type[BaseModel]) -> None:
    silent = [name for name, field in model.model_fields.items() if name != "kind" and not field.description]
    assert not silent, f"say below each what it means: {silent}"


def test_the_json_schema_explains_every_field() -> None:
    for schema in (Experiment.model_json_schema(), Recipe.model_json_schema()):
        for name, found in {"": schema, **schema["$defs"]}.items():
            silent = [field for field, one in found.get("properties", {}).items() if field != "kind" and "description" not in one]
            assert not silent, f"{name} says nothing of {silent}"


def test_the_page_of_fields_has_each_model_and_field_once() -> None:
    text = PAGES["experiment.md"]
    assert {name for _, name, _ in fields.PARTS} <= {model.__name__ for model in fields.models()}
    for model in fields.models():
        for name in set(model.model_fields) - {"kind", "code"}:
            assert f"| `{name}` |" in text, f"{model.__name__}.{name} is on no line"
    assert "`lag`" in text and "How many trials of one study run side by side" in text
    assert "| `clip_norm` | number, 0 or more | `0.0` | Largest norm of the whole gradient" in text
    assert "| `lease_s` | number, above 1, seconds | `20.0` |" in text


def test_every_command_has_words_and_so_has_every_option() -> None:
    for name, command in commands.commands(typer.main.get_command(app), "agentkd"):
        assert command.help, f"{name} says nothing of itself"
        silent = [one.name for one in command.params if not one.help and one.name not in ("help", "arguments")]
        assert not silent, f"{name} says nothing of {silent}"
        assert f"\n## {name}\n" in PAGES["commands.md"]


def test_every_public_name_is_told_in_its_place() -> None:
    assert not api.left_out(), "give it a place in website/api.py"


def described() -> dict[str, object]:
    """Every public name with its signature, and of a class its public methods; what has no words is empty."""
    found: dict[str, object] = {}
    for prefix, module, names in (("", agentkd, agentkd.__all__), ("testing.", testing, testing.__all__)):
        for name in names:
            one = getattr(module, name)
            if isinstance(one, type) and not issubclass(one, Exception):
                found[prefix + name] = {"": signature(one), **methods(one)}
            elif callable(one):
                found[prefix + name] = signature(one)
    return found


def methods(kind: type) -> dict[str, str]:
    """Those that a class defines itself, or takes from a class of agentkd."""
    homes = [home for home in kind.__mro__ if home.__module__.startswith("agentkd")]
    names = {name for home in homes for name in vars(home) if not name.startswith(("_", "model_"))}
    return {name: signature(inspect.getattr_static(kind, name)) for name in sorted(names)}


def signature(one: object) -> str:
    """As it is called, with the names of its arguments and whether they have defaults."""
    if isinstance(one, property):
        return "property"
    one = getattr(one, "__func__", one)
    if not callable(one):
        return "value"
    try:
        given = inspect.signature(one).parameters.values()
    except (TypeError, ValueError):
        return "callable"
    return f"({', '.join(f'{p.name}=' if p.default is not p.empty else str(p.name) for p in given)})"


def test_the_public_names_are_those_that_are_listed() -> None:
    """Who changes one on purpose writes the list anew: ``python tests/unit/test_references.py``, and says so in CHANGELOG.md."""
    assert json.loads(GOLDEN.read_text(encoding="utf-8")) == described()


def documented(one: object) -> bool:
    one = getattr(one, "fget", None) or getattr(one, "__func__", one)
    return bool(inspect.getdoc(one))


@pytest.mark.parametrize("name", sorted(set(agentkd.__all__) - {"__version__"}))
def test_a_public_name_and_its_methods_have_words(name: str) -> None:
    one = getattr(agentkd, name)
    assert inspect.cleandoc(one.__doc__ or ""), f"agentkd.{name}"
    if isinstance(one, type):
        silent = [
            method
            for method, told in methods(one).items()
            if told != "value" and not documented(inspect.getattr_static(one, method))
        ]
        assert not silent, f"agentkd.{name}: {silent}"


def test_every_dialogue_has_both_diagrams_and_they_name_every_message() -> None:
    for part, dialogue in zip(dialogues_page().split("\n## ")[1:], DIALOGUES, strict=False):
        assert part.startswith(f"{dialogue.name}\n") and "stateDiagram-v2" in part
        drawn = part.partition("sequenceDiagram")[2]
        if dialogue is not LIFE:
            assert all(f": {move.message.__name__}" in drawn for move in dialogue.moves), dialogue.name
            assert drawn.count("  alt ") + drawn.count("  loop ") == drawn.count("  end\n")


def test_links_that_leave_the_folder_of_documents_lead_to_pages_of_the_site() -> None:
    text = "[a](../CHANGELOG.md) [b](how-to/run.md#x) [c](../examples/exchange.py) ![d](images/demo.png)"
    turned = "[a](changes.md) [b](how-to/run.md#x) [c](source/examples/exchange.py.md) ![d](images/demo.png)"
    fence = "\n```\n[e](../README.md)\n```\n"
    assert beyond.relink("docs/x.md", text + fence) == turned + fence
    assert beyond.relink("CHANGELOG.md", "[a](docs/how-to/run.md)") == "[a](how-to/run.md)"
    assert {"CHANGELOG.md", "protocols/protocol.md", "examples/exchange.py"} <= set(beyond.everything())


@pytest.mark.parametrize("module", [beyond, notebooks], ids=lambda module: module.__name__)
def test_examples_in_what_makes_the_site_run(module: ModuleType) -> None:
    assert doctest.testmod(module) != (0, 0) and doctest.testmod(module).failed == 0


def test_what_makes_the_site_is_no_part_of_the_library() -> None:
    for path in (ROOT / "agentkd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and str(node.module).startswith("website")), path


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(described(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
