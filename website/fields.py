"""The reference of the experiment file: every field of its models, as they are in the code."""

import json
import re
from typing import Any

from pydantic import BaseModel

from agentkd.experiment import Experiment
from agentkd.recipe import Recipe
from agentkd.search.settings import RECIPE_SPACE

HEAD = """# The experiment file

Every field that an experiment file can have, with its type, its default and its range. What a file leaves out has its
default; an unknown field is an error, and all errors are told at once. `agentkd run FILE --dry-run` checks a file and starts
nothing. A short file is enough:

```yaml
name: first
data: {dataset: "generated:seed=7,size=64x64,train=16,validation=8,test=8"}
families: [unet, pidnet_s]
```

`--set search.trials=5` overrides a field on the command line. How to use the fields together is told in [how to
run](../how-to/run.md); the words are in the [glossary](../glossary.md).

*Changed later* says what happens when a run has begun and the same command is given with another value. Recorded tasks are
kept wherever their inputs are still the same."""
# Title, model and path in the file of each part, from the top of the file down; a part that is new follows by itself.
PARTS = (
    ("The file itself", "Experiment", ""),
    ("data", "DataConfig", "data"),
    ("families.NAME", "FamilyConfig", "families"),
    ("recipe", "Recipe", "recipe"),
    ("recipe.views", "ViewSettings", "recipe"),
    ("baseline", "BaselineConfig", "baseline"),
    ("search", "SearchConfig", "search"),
    ("search.pruning: median", "Pruning", "search"),
    ("search.pruning: halving", "Halving", "search"),
    ("recipe_space: a range", "Range", "search"),
    ("recipe_space: choices", "Choices", "search"),
    ("round1, round2", "RoundConfig", "round1"),
    ("distillation", "Distillation", "round1"),
    ("objective soft_targets", "SoftTargets", "round1"),
    ("objective boundary", "Boundary", "round1"),
    ("objective dkd", "Dkd", "round1"),
    ("objective dist", "Dist", "round1"),
    ("objective channel", "ChannelWise", "round1"),
    ("objective features", "Features", "round1"),
    ("objective attention", "Attention", "round1"),
    ("objective pairwise", "Pairwise", "round1"),
    ("objective ifvd", "Ifvd", "round1"),
    ("objective own", "Own", "round1"),
    ("what an own objective sends", "Payload", "round1"),
    ("select", "Select", "select"),
    ("evaluation, arithmetic", "Arithmetic", "evaluation"),
    ("launch", "LaunchConfig", "launch"),
)
# What another value does to a run that has begun, by the first part of a field's path, and by its whole path where that differs.
LATER = {
    "name": "another name of the run; nothing is done again",
    "launch": "at any time; nothing is done again",
    "seed": "everything is done again",
    "data": "everything is done again, if the images or their labels are others; another path to the same data changes nothing",
    "families": "a new family is added; what differs for one does its tasks again",
    "recipe": "every training is done again",
    "baseline": "baselines are done again, and what follows from them",
    "search": "the search is done again, and what follows from it; baselines are kept",
    "search.trials": "more: those that are made are kept, and others follow; fewer: the search is cut there",
    "search.patience": "trials that are made are kept; the search goes on, or ends earlier",
    "search.candidates": "trials are kept; both rounds are planned again",
    "search.confirm": "trials are kept; candidates are trained again as it says, and rounds follow",
    "search.confirm_seeds": "trials are kept; candidates are trained again as it says, and rounds follow",
    "round1": "both rounds are done again; baselines and search are kept",
    "round2": "round 2 is done again; all before it is kept",
    "select": "trainings are kept where the same networks are still wanted; the choices are made again",
    "evaluation": "the looks at the test split are done again",
    "control": "on: the students' trainings alone are added; off: they are left out of the report",
    "test_every_stage": "looks at the test split are added, or left out of the report",
    "seeds": "more: the runs with further seeds are added; those that are made are kept",
}
UNITS = {"_s": "seconds", "_gib": "GiB", "_height": "pixels", "_width": "pixels", "epochs": "epochs", "steps": "steps"}
Schema = dict[str, Any]
MANY = 4


def anchor(title: str) -> str:
    """Of a heading, on the site and on GitHub."""
    return re.sub(r"[^a-z0-9_ -]", "", title.lower()).replace(" ", "-")


def plain(text: str) -> str:
    """A docstring as Markdown in one table cell."""
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|")


def page() -> str:
    """The whole page."""
    schema = Experiment.model_json_schema()
    recipe = Recipe.model_json_schema()
    definitions: dict[str, Schema] = {**schema["$defs"], **recipe.pop("$defs", {}), "Recipe": recipe, "Experiment": schema}
    parts = [*PARTS, *((name, name, "") for name in definitions if name not in {name for _, name, _ in PARTS})]
    titles = {name: title for title, name, _ in parts}
    lines = [HEAD, ""]
    for title, name, path in parts:
        if "properties" not in definitions[name]:
            continue
        found = definitions[name]
        words = " ".join(found.get("description", "").split()).replace("``", "`")
        lines += [f"## {title}", "", *([words, ""] if words and name != "Experiment" else []), *table(found, path, titles), ""]
        if name == "SearchConfig":
            lines += ["What is searched beside the architecture if `recipe_space` is left out:", "", "```yaml"]
            lines += [f"{field}: {one}" for field, one in searched().items()] + ["```", ""]
    return "\n".join(lines)


def table(found: Schema, path: str, titles: dict[str, str]) -> list[str]:
    """The fields of one part. What changing them later does is said of all of them, and of those that differ in their place."""
    lines = ["| field | type and range | default | meaning |", "|---|---|---|---|"]
    for name, field in found["properties"].items():
        if name in ("kind", "code"):
            continue
        said = plain(field["description"])
        if told := LATER.get(f"{path}.{name}".strip(".")):
            said += f" *Changed later:* {told}."
        kind = ", ".join(filter(None, [type_of(field, titles), range_of(name, field)]))
        lines.append(f"| `{name}` | {kind} | {default_of(found, name, field)} | {said} |")
    return [*lines, "", f"*Changed later:* {LATER[path]}."] if path else lines


def searched() -> dict[str, str]:
    """The default of ``search.recipe_space``, as it would be written."""
    plainest = {name: parameter.model_dump(exclude_defaults=True) for name, parameter in RECIPE_SPACE.items()}
    return {name: json.dumps(one).replace('"', "") for name, one in plainest.items()}


def type_of(field: Schema, titles: dict[str, str]) -> str:
    """What may stand there, in words."""
    if "enum" in field:
        return ", ".join(f"`{one}`" for one in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if "$ref" in field:
        title = titles[field["$ref"].rpartition("/")[2]]
        return f"[{title}](#{anchor(title)})"
    if "oneOf" in field and len(field["oneOf"]) > MANY:
        return "objective, by its `kind` (below)"
    for several in ("anyOf", "oneOf"):
        if several in field:
            return ", or ".join(dict.fromkeys(type_of(one, titles) for one in field[several]))
    match field.get("type"):
        case "array":
            return f"list of {type_of(field['items'], titles)}" if field.get("items") else "list"
        case "object":
            inner = field.get("additionalProperties")
            return f"mapping to {type_of(inner, titles)}" if isinstance(inner, dict) and inner else "mapping"
        case "integer":
            return "whole number"
        case "boolean":
            return "`true`, `false`"
        case "string":
            return "text"
        case "null":
            return "`null`"
        case other:
            return str(other or "any value")


def default_of(found: Schema, name: str, field: Schema) -> str:
    """The default as it would be written in a file."""
    if name in found.get("required", ()):
        return "must be given"
    if "default" not in field:
        return "see below" if (name, found["title"]) == ("recipe_space", "SearchConfig") else "empty"
    value = field["default"]
    if isinstance(value, dict):
        return "see below" if value else "empty"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "`[{kind: " + value[0]["kind"] + "}]`" if "kind" in value[0] else "see below"
    return "empty" if value in ("", []) else f"`{json.dumps(value)}`"


def range_of(name: str, field: Schema) -> str:
    """Limits and unit."""
    parts = [field, *field.get("anyOf", ())]

    def limit(key: str) -> Any:
        return next((part[key] for part in parts if key in part), None)

    low, high = limit("minimum"), limit("maximum")
    above, below = limit("exclusiveMinimum"), limit("exclusiveMaximum")
    said = []
    if above is not None:
        said.append(f"above {number(above)}")
    if low is not None:
        said.append(f"{number(low)} or more" if high is None and below is None else f"from {number(low)}")
    if high is not None:
        said.append(f"to {number(high)}")
    if below is not None:
        said.append(f"below {number(below)}")
    fewest, most = limit("minItems") or limit("minProperties"), limit("maxItems") or limit("maxProperties")
    if fewest or most:
        said.append(f"{fewest or 0} to {most} of them" if most else f"{fewest} or more of them")
    if limit("maxLength"):
        said.append(f"at most {limit('maxLength')} characters")
    unit = next((word for ending, word in UNITS.items() if re.search(rf"{ending}$", name)), "")
    return ", ".join(filter(None, [" ".join(said), unit]))


def number(value: float) -> str:
    """As people write it."""
    return f"{value:,}" if isinstance(value, int) or value == int(value) else f"{value:g}"


def models() -> list[type[BaseModel]]:
    """Every model that an experiment file is read with."""
    found: list[type[BaseModel]] = []
    waiting: list[Any] = [Experiment, Recipe]
    while waiting:
        one = waiting.pop()
        if isinstance(one, type) and issubclass(one, BaseModel):
            if one not in found:
                found.append(one)
                waiting += [field.annotation for field in one.model_fields.values()]
        else:
            waiting += getattr(one, "__args__", ())
    return found
