"""The experiment file: YAML with overrides in, frozen checked data out. All problems are reported at once, with their paths."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import Field, ValidationError, field_validator

from agentkd.architecture import Setting
from agentkd.canonical import FrozenData
from agentkd.datasets.opening import open_dataset
from agentkd.datasets.samples import split_indices
from agentkd.errors import ConfigError, DatasetError, Problem, must_be
from agentkd.launch.settings import LaunchConfig
from agentkd.networks import families
from agentkd.plain import MAX_YAML, read_file, read_yaml, text_of
from agentkd.recipe import Distillation, Recipe
from agentkd.search.settings import Pruning, RecipeSpace, SearchConfig

Data = TypeVar("Data", bound=FrozenData)


class DataConfig(FrozenData):
    """Which data, and the names of its splits. The search never sees the test split."""

    dataset: str = Field(description="dataset specification, for example generated:seed=7,size=96x96,train=64")
    train: str = "train"
    validation: str = "validation"
    test: str = Field(default="test", description="split for the final evaluation; empty for none")


class BaselineConfig(FrozenData):
    """Each family's own architecture, trained."""

    epochs: int = Field(default=120, ge=1)


class FamilyConfig(FrozenData):
    """What differs for one family.

    Args:
        settings: of its baseline, where they differ from the published ones.
        recipe: recipe fields.
        weights: file of pretrained weights (made by ``agentkd weights``); every training from scratch inherits what matches.
        space: replaces the family's own search space.
        recipe_space: searched training hyperparameters that differ from ``search.recipe_space``.
    """

    settings: dict[str, Setting] = Field(default_factory=dict)
    recipe: dict[str, Any] = Field(default_factory=dict)
    weights: str = ""
    space: dict[str, tuple[Setting, ...]] | None = None
    recipe_space: RecipeSpace = Field(default_factory=dict)


class RoundConfig(FrozenData):
    """One round of distillation.

    Args:
        teachers: who teaches: ``largest`` (as in the paper: most deploy parameters), ``best`` mIoU, or ``ensemble`` (all others).
        students: students per teacher at most (round 1).
        keep_best: a student that lost mIoU goes on with its earlier weights. Recorded either way.
        recipe: recipe fields that differ in this round.
    """

    epochs: int = Field(default=50, ge=1)
    teachers: Literal["largest", "best", "ensemble"] = "largest"
    students: int = Field(default=2, ge=1)
    keep_best: bool = True
    distillation: Distillation = Distillation()
    recipe: dict[str, Any] = Field(default_factory=dict)


class Experiment(FrozenData):
    """An experiment file."""

    name: str = Field(min_length=1, max_length=100)
    seed: int = Field(default=1, ge=0, lt=2**31)
    data: DataConfig
    families: dict[str, FamilyConfig] = Field(min_length=1, max_length=100)
    recipe: dict[str, Any] = Field(default_factory=dict)
    baseline: BaselineConfig = BaselineConfig()
    search: SearchConfig = SearchConfig()
    round1: RoundConfig = RoundConfig(teachers="best")
    round2: RoundConfig = RoundConfig()
    launch: LaunchConfig = LaunchConfig()

    @field_validator("families", mode="before")
    @classmethod
    def _list_or_mapping(cls, value: Any) -> Any:
        if isinstance(value, list):
            return {str(name): {} for name in value}
        if isinstance(value, dict):
            return {name: item or {} for name, item in value.items()}
        return value

    def result_inputs(self) -> dict[str, Any]:
        """Everything that decides results: all but how agents are launched."""
        return {name: value for name, value in self.canonical().items() if name != "launch"}


PARTS: tuple[type[FrozenData], ...] = (
    Experiment,
    DataConfig,
    FamilyConfig,
    BaselineConfig,
    SearchConfig,
    Pruning,
    RoundConfig,
    LaunchConfig,
    Distillation,
)


def load_experiment(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Reads and checks an experiment file; ``overrides`` are ``a.b=value`` texts whose value is YAML.

    Raises:
        ConfigError: all problems found, each with its path in the file.
    """
    must_be(path, (str, Path), "the experiment file", "its path")
    must_be(overrides, (list, tuple), "overrides", "a list of a.b=value")
    path = Path(path)
    try:
        data = read_yaml(text_of(read_file(path, max_bytes=4 * MAX_YAML)))
    except OSError as error:
        raise ConfigError(f"cannot read experiment file {path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"experiment file {path} is not YAML, or says too much: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds {type(data).__name__}; expected a mapping with name, data, families")
    for override in overrides:
        apply_override(data, override)
    return check_experiment(data, source=str(path))


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


def demo_file() -> Path:
    """The demo's experiment file: beside the package when installed, in ``examples`` in a checkout."""
    package = Path(__file__).parent
    installed = package / "examples" / "demo.yaml"
    return installed if installed.is_file() else package.parent / "examples" / "kd_nas" / "demo.yaml"


def check_experiment(data: dict[str, Any], *, source: str) -> Experiment:
    """The experiment in plain data, or all its problems."""
    problems: list[Problem] = []
    experiment = None
    try:
        experiment = Experiment.model_validate(data)
    except ValidationError as error:
        problems += [_as_problem(dict(item)) for item in error.errors(include_url=False)]
    problems += _check_families(data)
    problems += _check_recipes(data)
    problems += _check_dataset(data)
    if problems or experiment is None:
        raise ConfigError(problems, source=source)
    return experiment


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


def build_recipe(experiment: Experiment, family: str, **fields: Any) -> Recipe:
    """The recipe of a family: published, then the experiment's, then the family's, then the given fields."""
    layers = (families.published_recipe(family), experiment.recipe, experiment.families[family].recipe, fields)
    merged: dict[str, Any] = {}
    for layer in layers:
        merged |= layer
    return Recipe.model_validate(merged)


def _as_problem(error: dict[str, Any], kind: type[FrozenData] | None = None) -> Problem:
    path = ".".join(str(part) for part in error["loc"])
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


def _check_families(data: dict[str, Any]) -> list[Problem]:
    listed = data.get("families")
    if not isinstance(listed, dict | list):
        return []
    problems = []
    for name in listed:
        config = listed[name] if isinstance(listed, dict) else None
        settings = config.get("settings") if isinstance(config, dict) else None
        try:
            families.resolve(str(name), 2, settings if isinstance(settings, dict) else None)
        except ConfigError as error:
            problems += [
                Problem(f"families.{name}" + (f".{p.path}" if p.path not in ("", "family") else ""), p.text)
                for p in error.problems
            ]
        weights = config.get("weights") if isinstance(config, dict) else None
        if weights and not Path(str(weights)).is_file():
            problems.append(Problem(f"families.{name}.weights", f"no such file: {weights}"))
        space = config.get("space") if isinstance(config, dict) else None
        if isinstance(space, dict) and name in families.FAMILIES:
            known = families.FAMILIES[name].settings.model_fields
            problems += [Problem(f"families.{name}.space.{key}", "unknown setting") for key in space if key not in known]
    return problems


def _check_recipes(data: dict[str, Any]) -> list[Problem]:
    """Recipes are layers of fields; each layer is checked on its own so that the path is right."""
    layers: list[tuple[str, Any]] = [("recipe", data.get("recipe"))]
    listed = data.get("families")
    if isinstance(listed, dict):
        layers += [
            (f"families.{name}.recipe", config.get("recipe")) for name, config in listed.items() if isinstance(config, dict)
        ]
    for part in ("round1", "round2"):
        section = data.get(part)
        if isinstance(section, dict):
            layers.append((f"{part}.recipe", section.get("recipe")))
    problems = []
    for path, layer in layers:
        if isinstance(layer, dict):
            try:
                Recipe.model_validate(layer)
            except ValidationError as error:
                found = [_as_problem(dict(item)) for item in error.errors(include_url=False)]
                problems += [Problem(f"{path}.{p.path}" if p.path else path, p.text) for p in found]
    return problems


def _check_dataset(data: dict[str, Any]) -> list[Problem]:
    """Opens the dataset and looks at every file, so that nothing is found missing hours later."""
    section = data.get("data")
    if not isinstance(section, dict) or not isinstance(section.get("dataset"), str):
        return []
    try:
        dataset = open_dataset(section["dataset"])
        dataset.check()
        dataset.check_splits()
    except (DatasetError, ConfigError) as error:
        return [Problem("data.dataset", str(error))]
    problems = []
    for role in ("train", "validation", "test"):
        split = section.get(role, role)
        if role == "test" and (not split or ("test" not in section and "test" not in dataset.splits)):
            continue
        try:
            split_indices(dataset, str(split))
        except DatasetError as error:
            problems.append(Problem(f"data.{role}", str(error)))
    return problems
