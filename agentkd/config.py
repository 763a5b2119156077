"""The experiment file: YAML with overrides in, frozen checked data out. All problems are reported at once, with their paths."""

import copy
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from agentkd.canonical import FrozenData
from agentkd.code.running import told
from agentkd.datasets.opening import Opened, open_dataset, open_silently
from agentkd.datasets.samples import split_indices
from agentkd.errors import ConfigError, DatasetError, Problem, must_be
from agentkd.experiment import BaselineConfig, DataConfig, Experiment, FamilyConfig, RoundConfig
from agentkd.launch.settings import LaunchConfig
from agentkd.networks import families
from agentkd.plain import MAX_YAML, decode_text, read_file, read_yaml
from agentkd.recipe import WEIGHTS, WORD, Distillation, Recipe
from agentkd.search.settings import CHOICES, HALVING, MEDIAN, RANGE, Halving, Pruning, SearchConfig, Select

Data = TypeVar("Data", bound=FrozenData)
Place = tuple[str, ...]
Fault = tuple[Place, Problem]
ADDED = (RANGE, CHOICES, MEDIAN, HALVING, WORD, WEIGHTS, "[key]")


PARTS: tuple[type[FrozenData], ...] = (
    Experiment,
    DataConfig,
    FamilyConfig,
    BaselineConfig,
    SearchConfig,
    Pruning,
    Halving,
    RoundConfig,
    Select,
    LaunchConfig,
    Distillation,
    Recipe,
)


def load_experiment(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Reads and checks an experiment file; ``overrides`` are ``a.b=value`` texts whose value is YAML.

    Raises:
        ConfigError: all problems found, each with its path in the file.
    """
    must_be(path, (str, Path), "the experiment file", "its path")
    must_be(overrides, (list, tuple), "overrides", "a list of a.b=value")
    return check_experiment(read_experiment(path, overrides), source=str(path))


def read_experiment(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What an experiment file says, with overrides, not yet checked.

    Raises:
        ConfigError: it cannot be read, is no text in UTF-8, or no mapping.
    """
    path = Path(path)
    try:
        data = read_file(path, max_bytes=4 * MAX_YAML)
    except OSError as error:
        raise ConfigError(f"cannot read experiment file {path}: {error.strerror}") from None
    try:
        text = decode_text(data)
    except ValueError as error:
        raise ConfigError(f"experiment file {path} {error}; expected text in UTF-8; save it so") from None
    try:
        found = read_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{path} is not YAML, or says too much: {error}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path} holds {type(found).__name__}; expected a mapping with name, data, families")
    for override in overrides:
        apply_override(found, override)
    return found


def launch_settings(data: dict[str, Any], *, source: str = "launch") -> LaunchConfig:
    """How agents are started, from plain data.

    Raises:
        ConfigError: all problems found, and the settings there are.
    """
    return checked(LaunchConfig, data, source=source)


def checked(kind: type[Data], fields: Mapping[str, Any], *, source: str) -> Data:
    """Fields that a user gave, as an object of that kind.

    Raises:
        ConfigError: all problems found, each with its path.
    """
    try:
        return kind.model_validate(dict(fields))
    except ValidationError as error:
        problems = [_as_problem(dict(item), kind) for item in error.errors(include_url=False)]
        raise ConfigError(problems, source=source) from None


def dump_experiment(experiment: Experiment) -> str:
    """The experiment as YAML that ``load_experiment`` reads back, every default written out."""
    return yaml.safe_dump(experiment.canonical(), sort_keys=False)


def demo_file(name: str = "demo") -> Path:
    """A demo's experiment file: beside the package when installed, in ``examples`` in a checkout."""
    package = Path(__file__).parent
    installed = package / "examples" / f"{name}.yaml"
    return installed if installed.is_file() else package.parent / "examples" / "kd_nas" / f"{name}.yaml"


@dataclass(frozen=True)
class Read:
    """What an experiment file says.

    Args:
        experiment: it; if something is wrong with it, what is left of it without that; none if too little is left.
        problems: what is wrong with it, as far as the file alone shows.
        touched: the parts of it (``recipe``, ``search``, ...) that have problems.
    """

    experiment: "Experiment | None"
    problems: tuple[Problem, ...] = ()
    touched: frozenset[str] = frozenset()


def check_experiment(data: dict[str, Any], *, source: str) -> Experiment:
    """The experiment in plain data.

    Raises:
        ConfigError: all its problems, and those of its data.
    """
    read = look_through(data)
    section = data.get("data")
    problems = [*read.problems, *(open_data(section)[1] if isinstance(section, dict) else [])]
    if problems or read.experiment is None:
        raise ConfigError(problems, source=source)
    return read.experiment


def look_through(data: dict[str, Any]) -> Read:
    """What plain data say, and what is wrong with it. Of own code only families are run; data are not opened."""
    experiment, faults = _validated(data)
    faults += _check_families(data)
    faults += _check_recipes(data)
    faults += _check_lists(data)
    if not faults:
        return Read(experiment)
    problems = tuple(dict.fromkeys(problem for _, problem in faults))
    touched = frozenset(name for place, _ in faults for name in place if name in Experiment.model_fields)
    return Read(_validated(_without(data, [place for place, _ in faults]))[0], problems, touched)


def open_data(section: Mapping[str, Any], *, says: bool = True) -> tuple[Opened | None, list[Problem]]:
    """The dataset that the part ``data`` of a file names, after a look at every file of it: nothing is found missing later.

    Args:
        section: that part.
        says: whether what is doubtful in the data is logged.

    Returns:
        It, if it can be opened, and what is wrong with it.
    """
    if not isinstance(section.get("dataset"), str):
        return None, []
    try:
        dataset = (open_dataset if says else open_silently)(section["dataset"])
    except (DatasetError, ConfigError) as error:
        return None, [Problem("data.dataset", str(error))]
    problems = []
    for check in (partial(dataset.check, says=says), dataset.check_splits):
        try:
            with told(f"{dataset.spec}: its check cannot be done"):
                check()
        except (DatasetError, ConfigError) as error:
            problems.append(Problem("data.dataset", str(error)))
    for role in ("train", "validation", "test"):
        split = section.get(role, role)
        if role == "test" and (not split or ("test" not in section and "test" not in dataset.splits)):
            continue
        try:
            split_indices(dataset, str(split))
        except DatasetError as error:
            problems.append(Problem(f"data.{role}", str(error)))
    return dataset, problems


def apply_override(data: dict[str, Any], override: str) -> None:
    """Sets one dotted path in plain data.

    Raises:
        ConfigError: not ``path=value``.
    """
    must_be(override, str, "an override", "text, a.b=value")
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set {override!r}: expected a.b=value")
    keys = path.split(".")
    target = data
    for key in keys[:-1]:
        if isinstance(target.get(key), list):
            twice = _said_of_twice(target[key])
            if twice:
                raise ConfigError(f"--set {override!r}: {key}: {twice}")
            target[key] = {str(item): {} for item in target[key]}
        inner = target.setdefault(key, {})
        if inner is None:
            inner = target[key] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {override!r}: {key!r} is not a mapping")
        target = inner
    try:
        target[keys[-1]] = read_yaml(text)
    except ValueError as error:
        raise ConfigError(f"--set {override!r}: the value is not YAML: {error}") from None


def _validated(data: dict[str, Any]) -> tuple[Experiment | None, list[Fault]]:
    try:
        return Experiment.model_validate(data), []
    except ValidationError as error:
        found = [dict(item) for item in error.errors(include_url=False)]
        return None, [(_place(item), _as_problem(item)) for item in found]


def _place(error: dict[str, Any]) -> Place:
    """Where in the file it is, without what pydantic adds: the kind of a parameter, and that a key is meant."""
    return tuple(str(part) for part in error["loc"] if part not in ADDED)


def _without(data: dict[str, Any], places: Sequence[Place]) -> dict[str, Any]:
    """Plain data without what stands at these places; a name that is not right is another."""
    left = copy.deepcopy(data)
    if isinstance(left.get("families"), list):
        left["families"] = {str(name): {} for name in left["families"]}
    for place in places:
        target, at = left, 0
        while at < len(place) - 1 and isinstance(target.get(place[at]), dict) and place[at + 1] in target[place[at]]:
            target, at = target[place[at]], at + 1
        if place:
            target.pop(place[at], None)
        if place == ("search", "recipe_space"):
            target["recipe_space"] = {}  # the default is something else than was meant
    return {"name": "nameless"} | left


def _as_problem(error: dict[str, Any], kind: type[FrozenData] | None = None) -> Problem:
    path = ".".join(_place(error))
    if error["type"] == "extra_forbidden":
        return Problem(path, f"unknown key{_closest(path, kind)}")
    if error["type"] == "missing":
        return Problem(path, "is required")
    text = error["msg"].removeprefix("Value error, ")
    return Problem(path, f"{text}; found {error['input']!r}" if path else text)


def _closest(path: str, kind: type[FrozenData] | None) -> str:
    """A known key of that name, if one is spelled nearly so, or else all that this kind has."""
    known = sorted({name for part in ([kind] if kind else PARTS) for name in part.model_fields})
    matches = difflib.get_close_matches(path.rpartition(".")[2], known, n=1)
    if matches:
        return f"; did you mean {matches[0]!r}?"
    return f"; known: {', '.join(known)}" if kind and "." not in path else ""


def _check_families(data: dict[str, Any]) -> list[Fault]:
    listed = data.get("families")
    if not isinstance(listed, dict | list):
        return []
    faults: list[Fault] = []
    for name in map(str, listed):
        config = listed.get(name) if isinstance(listed, dict) else None
        settings = config.get("settings") if isinstance(config, dict) else None
        try:
            families.resolve(name, 2, settings if isinstance(settings, dict) else None)
        except ConfigError as error:
            for p in error.problems:
                path = f"families.{name}" + (f".{p.path}" if p.path not in ("", "family") else "")
                faults.append((("families", name), Problem(path, p.text)))
        weights = config.get("weights") if isinstance(config, dict) else None
        if weights and not Path(str(weights)).is_file():
            faults.append((("families", name, "weights"), Problem(f"families.{name}.weights", f"no such file: {weights}")))
    return faults


def _check_lists(data: dict[str, Any]) -> list[Fault]:
    """What stands twice in a list where each counts for itself. In a search space it is said elsewhere: there it may be meant."""
    faults: list[Fault] = []
    listed = data.get("families")
    if isinstance(listed, list):
        text = _said_of_twice(listed)
        faults += [((), Problem("families", text))] if text else []  # what is left of it can be looked at
    for part in ("round1", "round2"):
        section = data.get(part)
        taught = section.get("distillation") if isinstance(section, dict) else None
        place = (part, "distillation", "objectives")
        try:
            objectives = Distillation.model_validate(taught or {}).objectives
        except ValidationError:  # which is said where it is validated
            continue
        for at, objective in enumerate(objectives):
            if objective in objectives[:at]:
                text = f"{objective.kind} is there before, the same in all, so it counts double; leave it out, or change weight"
                faults.append((place, Problem(f"{'.'.join(place)}.{at}", text)))
    return faults


def _said_of_twice(names: Sequence[object]) -> str:
    """What is to be said of families that are listed more than once; nothing if none is."""
    every = list(map(str, names))
    twice = list(dict.fromkeys(name for name in every if every.count(name) > 1))
    if not twice:
        return ""
    once = ", ".join(dict.fromkeys(every))
    are = "are" if len(twice) > 1 else "is"
    return f"{', '.join(twice)} {are} listed more than once, and a family is searched once; write families: [{once}]"


def _elsewhere(place: Place) -> str:
    """Where the number of epochs is said that stands in a recipe."""
    every = "baseline.epochs, search.epochs, round1.epochs and round2.epochs say it"
    says = f"{place[0]}.epochs says it" if place[0] in ("round1", "round2") else every
    return f"epochs cannot be set in a recipe: {says}; leave it out here"


def _check_recipes(data: dict[str, Any]) -> list[Fault]:
    """Recipes are layers of fields; each layer is checked on its own so that the path is right."""
    layers: list[tuple[Place, Any]] = [(("recipe",), data.get("recipe"))]
    listed = data.get("families")
    if isinstance(listed, dict):
        parts = {str(name): config for name, config in listed.items() if isinstance(config, dict)}
        layers += [(("families", name, "recipe"), config.get("recipe")) for name, config in parts.items()]
    for part in ("round1", "round2"):
        section = data.get(part)
        if isinstance(section, dict):
            layers.append(((part, "recipe"), section.get("recipe")))
    faults: list[Fault] = []
    for place, layer in layers:
        if isinstance(layer, dict):
            if "epochs" in layer:
                faults.append(((*place, "epochs"), Problem(".".join((*place, "epochs")), _elsewhere(place))))
            try:
                Recipe.model_validate({name: value for name, value in layer.items() if name != "epochs"})
            except ValidationError as error:
                for item in map(dict, error.errors(include_url=False)):
                    problem, path = _as_problem(item), ".".join(place)
                    inner = (*place, *_place(item))
                    faults.append((inner, Problem(f"{path}.{problem.path}" if problem.path else path, problem.text)))
    return faults
