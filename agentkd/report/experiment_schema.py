"""The experiment file as JSON Schema, for editors: from the same classes that check it, with what their docstrings say."""

import json
from typing import Any

from agentkd import __version__
from agentkd.canonical import FrozenData
from agentkd.experiment import Experiment
from agentkd.recipe import Recipe
from agentkd.visible import visible_line

DIALECT = "https://json-schema.org/draft/2020-12/schema"
NAME = "agentkd.schema.json"
"""How the file is called that ``agentkd init`` lays beside an experiment."""
LAYER = "RecipeFields"


def experiment_schema() -> dict[str, Any]:
    """The schema as plain data. An editor that has it completes and explains fields, and marks what is wrong."""
    schema = _explained(Experiment)
    parts: dict[str, Any] = schema["$defs"]
    parts[LAYER] = _layer(parts)
    for part in (schema, parts["FamilyConfig"], parts["RoundConfig"]):
        said = part["properties"]["recipe"]
        part["properties"]["recipe"] = {"$ref": f"#/$defs/{LAYER}"} | _description(said)
    families = schema["properties"]["families"]
    mapping = families | {"additionalProperties": {"anyOf": [{"$ref": "#/$defs/FamilyConfig"}, {"type": "null"}]}}
    names = {"type": "array", "items": {"type": "string"}, "minItems": 1, "uniqueItems": True}
    schema["properties"]["families"] = {"anyOf": [mapping, names]} | _description(families)
    described = "An experiment of agentkd, as agentkd run takes it."
    return {"$schema": DIALECT, "$id": f"urn:agentkd:experiment:{__version__}", **schema, "description": described}


def schema_text() -> str:
    """The schema as it is written to a file."""
    return json.dumps(experiment_schema(), indent=2) + "\n"


def modeline(place: str) -> str:
    """The line by which editors find the schema of a YAML file; the first of the file."""
    return f"# yaml-language-server: $schema={visible_line(place)}"


def _layer(parts: dict[str, Any]) -> dict[str, Any]:
    """Fields of a recipe: no layer needs all of them, and how many epochs are trained is said elsewhere."""
    recipe = _explained(Recipe)
    parts |= {name: part for name, part in recipe.pop("$defs", {}).items() if name not in parts}
    fields = {name: _without(field, "default") for name, field in recipe["properties"].items() if name != "epochs"}
    return {"title": LAYER, "type": "object", "properties": fields, "additionalProperties": False} | _description(recipe)


def _explained(kind: type[FrozenData]) -> dict[str, Any]:
    """The schema of a class in which each field has its own description."""
    schema = kind.model_json_schema()
    for part in (schema, *schema.get("$defs", {}).values()):
        if "description" in part:
            part["description"] = _summary(part["description"])
        for field in part.get("properties", {}).values():
            if "description" in field:
                field["description"] = _plain(field["description"])
            field.pop("title", None)  # the name again
    return schema


def _summary(docstring: str) -> str:
    """What a docstring says before its sections; each field has words of its own."""
    return _plain(docstring.partition("\n\nArgs:")[0].partition("\n\nSource:")[0])


def _plain(text: str) -> str:
    return " ".join(text.replace("``", "").split())


def _description(part: dict[str, Any]) -> dict[str, Any]:
    return {name: part[name] for name in ("description",) if name in part}


def _without(part: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key != name}
