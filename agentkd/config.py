"""The experiment file: YAML with overrides in, frozen checked data out. All problems are reported at once, with their paths."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, Field, ValidationError, field_validator

from agentkd.architecture import Setting
from agentkd.canonical import FrozenData
from agentkd.datasets.opening import open_dataset
from agentkd.datasets.samples import split_indices
from agentkd.errors import ConfigError, DatasetError, Problem
from agentkd.networks import families
from agentkd.recipe import Distillation, Recipe
from agentkd.search.space import Choices, Range

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


class PruningConfig(FrozenData):
    """Median pruning of trials."""

    startup_trials: int = Field(default=5, ge=1)
    warmup_epochs: int = Field(default=10, ge=0)


def _known_fields(value: dict[str, Range | Choices]) -> dict[str, Range | Choices]:
    unknown = sorted(set(value) - set(Recipe.model_fields))
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not a field of the recipe; known: {', '.join(Recipe.model_fields)}")
    return value


RecipeSpace = Annotated[dict[str, Range | Choices], AfterValidator(_known_fields)]
RECIPE_SPACE: RecipeSpace = {
    "learning_rate": Range(low=1e-4, high=5e-2, log=True),
    "weight_decay": Range(low=1e-5, high=1e-3, log=True),
    "momentum": Choices(values=(0.8, 0.9, 0.95)),
    "batch_size": Choices(values=(2, 4, 8)),
}


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


class SearchConfig(FrozenData):
    """One TPE study per family. The published settings are its first trial.

    Args:
        trials: feasible trials at most.
        patience: stop when mIoU has not improved for so many trials in a row; 0 never stops early.
        order: ``strict``: trial n sees the results of trials up to n - lag, whatever the timing, and the same search comes out
            every time. ``as_completed``: it sees all that are finished when it is asked for; what it saw is recorded, so that
            the run can be gone on with and replayed. No agent waits for a slow trial then.
        lag: so many trials of one study run side by side.
        max_deploy_ratio: limit on parameters, relative to the baseline's; 0 for none. Likewise ``max_macs_ratio``.
        candidates: size of the set that goes on to round 1, at most.
        recipe_space: training hyperparameters that are searched beside the architecture.
    """

    epochs: int = Field(default=50, ge=1)
    trials: int = Field(default=20, ge=1)
    patience: int = Field(default=10, ge=0)
    order: Literal["strict", "as_completed"] = "strict"
    lag: int = Field(default=2, ge=1)
    max_infeasible: int = Field(default=200, ge=1)
    max_deploy_ratio: float = Field(default=1.0, ge=0)
    max_macs_ratio: float = Field(default=0.0, ge=0)
    candidates: int = Field(default=4, ge=1)
    pruning: PruningConfig | None = PruningConfig()
    recipe_space: RecipeSpace = Field(default_factory=lambda: dict(RECIPE_SPACE))


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


class LaunchConfig(FrozenData):
    """How agents are started, watched and connected. Nothing here changes results.

    Args:
        teacher_copies: how many agents may teach with the same weights, if so many students learn from them at once.
        teacher_wait_s: how long a student waits for a teacher that does not answer before its lesson ends, to be tried again.
            Meanwhile another agent takes the place of a teacher that was lost, or a guest comes back.
        record_lessons: keep what teachers told, so that it can be replayed, and told again, with the teachers gone.
        max_record_gib: the most that recorded lessons may take; the oldest are dropped first.
    """

    devices: str = "auto"
    transport: Literal["auto", "shared", "store", "ipc", "tcp"] = "auto"
    port: int = Field(default=0, ge=0, le=65535)
    lease_s: float = Field(default=20.0, gt=1)
    hang_s: float = Field(default=900.0, gt=1)
    max_attempts: int = Field(default=3, ge=1)
    checkpoint_every_s: float = Field(default=30.0, ge=0)
    teacher_copies: int = Field(default=1, ge=1, le=64)
    teacher_wait_s: float = Field(default=300.0, gt=0)
    record_lessons: bool = False
    max_record_gib: float = Field(default=4.0, gt=0)


class Experiment(FrozenData):
    """An experiment file."""

    name: str = Field(min_length=1, max_length=100)
    seed: int = Field(default=1, ge=0, lt=2**31)
    data: DataConfig
    families: dict[str, FamilyConfig] = Field(min_length=1)
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
    PruningConfig,
    RoundConfig,
    LaunchConfig,
    Distillation,
)


def load_experiment(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Reads and checks an experiment file; ``overrides`` are ``a.b=value`` texts whose value is YAML.

    Raises:
        ConfigError: all problems found, each with its path in the file.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read experiment file {path}: {error.strerror}") from None
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds {type(data).__name__}; expected a mapping with name, data, families")
    for override in overrides:
        apply_override(data, override)
    return check_experiment(data, source=str(path))


def launch_settings(data: dict[str, Any]) -> LaunchConfig:
    """How agents are started, from plain data.

    Raises:
        ConfigError: all problems found, and the settings there are.
    """
    return checked(LaunchConfig, data, source="launch")


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
        target[keys[-1]] = yaml.safe_load(text)
    except yaml.YAMLError as error:
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
            if families.is_own(str(name)):
                families.load_own(str(name))
            families.resolve(str(name), 2, settings if isinstance(settings, dict) else None)
        except ConfigError as error:
            problems += [
                Problem(f"families.{name}" + (f".{p.path}" if p.path != "family" else ""), p.text) for p in error.problems
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
    except DatasetError as error:
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
