"""The experiment file: YAML with overrides in, frozen checked data out. All problems are reported at once, with their paths."""

import copy
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, field_validator

from agentkd.architecture import Setting
from agentkd.canonical import FrozenData
from agentkd.code.running import told
from agentkd.datasets.opening import Opened, open_dataset, open_silently
from agentkd.datasets.samples import split_indices
from agentkd.errors import ConfigError, DatasetError, Problem, must_be
from agentkd.launch.settings import LaunchConfig
from agentkd.networks import families
from agentkd.plain import MAX_YAML, decode_text, no_file_name, read_file, read_yaml
from agentkd.recipe import MAX_EPOCHS, Distillation, Recipe
from agentkd.search.settings import (
    CHOICES,
    HALVING,
    MEDIAN,
    RANGE,
    Halving,
    Pruning,
    RecipeSpace,
    SearchConfig,
    Select,
    known_or_own,
    own_path,
)

Data = TypeVar("Data", bound=FrozenData)
Place = tuple[str, ...]
Fault = tuple[Place, Problem]
TEACHERS = ("largest", "best", "ensemble", "competence")
ADDED = (RANGE, CHOICES, MEDIAN, HALVING, "[key]")


class DataConfig(FrozenData):
    """Which data, and the names of its splits. The search never sees the test split."""

    dataset: str = Field(description="dataset specification, for example generated:seed=7,size=96x96,train=64")
    train: str = "train"
    validation: str = "validation"
    test: str = Field(default="test", description="split for the final evaluation; empty for none")


class BaselineConfig(FrozenData):
    """Each family's own architecture, trained."""

    epochs: int = Field(default=120, ge=1, le=MAX_EPOCHS)


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
        teachers: who teaches: ``largest`` (as in the paper: the most of what ``select.count`` counts), ``best`` mIoU,
            ``ensemble`` (all others), ``competence`` (all others, each pixel by who knows best the class that it sees), or
            ``module:name``, a user's function: it is given the student and a list of the others, each an
            ``agentkd.search.selection.Candidate``, and returns those that teach.
        students: students of a family at most (round 1), the search's winner first.
        keep_best: a student that lost mIoU (see ``select``) goes on with its earlier weights. Recorded either way.
        recipe: recipe fields that differ in this round.
    """

    epochs: int = Field(default=50, ge=1, le=MAX_EPOCHS)
    teachers: Annotated[str, AfterValidator(partial(known_or_own, known=TEACHERS))] = "largest"
    students: int = Field(default=2, ge=1, le=10_000)
    keep_best: bool = True
    distillation: Distillation = Distillation()
    recipe: dict[str, Any] = Field(default_factory=dict)

    @property
    def has_one_teacher(self) -> bool:
        """Whether one network teaches all others."""
        return self.teachers in ("largest", "best")

    @property
    def own_rule(self) -> str:
        """The path of a user's own function; empty if who teaches is decided by a rule that is built in."""
        return own_path(self.teachers, TEACHERS)


class Experiment(FrozenData):
    """An experiment file.

    Args:
        select: which network goes on, wherever there are several.
        control: whether every student is also trained alone, for as many epochs as its lesson, so that a gain can be told from
            that of longer training. Nothing goes on with what comes of it.
        test_every_stage: whether what represents a family after each stage is looked at on the test split, when nothing is left
            to be chosen; else the final networks alone.
        seeds: how often all of it is done, with the seeds ``seed``, ``seed + 1`` and so on.
    """

    name: str = Field(min_length=1, max_length=100)
    seed: int = Field(default=1, ge=0, lt=2**31)
    data: DataConfig
    families: dict[str, FamilyConfig] = Field(min_length=1, max_length=100)
    recipe: dict[str, Any] = Field(default_factory=dict)
    baseline: BaselineConfig = BaselineConfig()
    search: SearchConfig = SearchConfig()
    round1: RoundConfig = RoundConfig(teachers="best")
    round2: RoundConfig = RoundConfig()
    select: Select = Select()
    control: bool = False
    test_every_stage: bool = True
    seeds: int = Field(default=1, ge=1, le=100)
    launch: LaunchConfig = LaunchConfig()

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, value: str) -> str:
        """The run folder is called so if nothing else is said."""
        problem = no_file_name(value)
        if problem:
            raise ValueError(f"{problem}; expected what a folder can be called, for the run's is runs/NAME")
        return value

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


# What records of before say nothing of, for then there was nothing to choose.
BEFORE: dict[str, Any] = {"select": {"rule": "best", "count": "deploy", "baseline": False}, "test_every_stage": False}


def _as_it_was(recorded: Any) -> Any:
    return BEFORE | recorded if isinstance(recorded, dict) else recorded


RecordedExperiment = Annotated[Experiment, BeforeValidator(_as_it_was)]
"""An experiment as it stands in records: one of an older version is planned as that planned it."""

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


def demo_file() -> Path:
    """The demo's experiment file: beside the package when installed, in ``examples`` in a checkout."""
    package = Path(__file__).parent
    installed = package / "examples" / "demo.yaml"
    return installed if installed.is_file() else package.parent / "examples" / "kd_nas" / "demo.yaml"


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
