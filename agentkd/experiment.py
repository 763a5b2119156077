"""An experiment as data: what is run on which data, with every setting checked by itself. Torch-free."""

from functools import partial
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from agentkd.architecture import Setting
from agentkd.canonical import ExplainedData
from agentkd.launch.settings import LaunchConfig
from agentkd.networks import families
from agentkd.plain import no_file_name
from agentkd.recipe import AS_WRITTEN, MAX_EPOCHS, Arithmetic, Distillation, Recipe
from agentkd.search.settings import MAX_TRIALS, RecipeSpace, SearchConfig, Select, known_or_own, own_path

TEACHERS = ("largest", "best", "ensemble", "competence")


class DataConfig(ExplainedData):
    """Which data, and the names of its splits. The search never sees the test split."""

    dataset: str
    """Where the images are, as a specification: ``folder:path=photos``, or ``generated:seed=7,size=96x96,train=64``. See the
    how-to on your own images.
    """
    train: str = "train"
    """Name of the split that networks learn from."""
    validation: str = "validation"
    """Name of the split by which everything is chosen: epochs, trials, winners."""
    test: str = "test"
    """Name of the split for the final evaluation; empty for none. Nothing is chosen by it."""


class BaselineConfig(ExplainedData):
    """Each family's own architecture, trained."""

    epochs: int = Field(default=120, ge=1, le=MAX_EPOCHS)
    """Epochs of each family's own architecture, before anything is searched."""


class FamilyConfig(ExplainedData):
    """What differs for one family."""

    settings: dict[str, Setting] = Field(default_factory=dict)
    """Of its baseline, where they differ from the published ones."""
    recipe: dict[str, Any] = Field(default_factory=dict)
    """Recipe fields."""
    weights: str = ""
    """File of pretrained weights (made by ``agentkd weights``); every training from scratch inherits what matches."""
    space: dict[str, tuple[Setting, ...]] | None = None
    """Replaces the family's own search space."""
    recipe_space: RecipeSpace = Field(default_factory=dict)
    """Searched training hyperparameters that differ from ``search.recipe_space``."""
    trials: int = Field(default=0, ge=0, le=MAX_TRIALS)
    """Of its study; 0 for ``search.trials``."""


class RoundConfig(ExplainedData):
    """One round of distillation."""

    epochs: int = Field(default=50, ge=1, le=MAX_EPOCHS)
    """Epochs of each lesson."""
    teachers: Annotated[str, AfterValidator(partial(known_or_own, known=TEACHERS))] = "largest"
    """Who teaches: ``largest`` (as in the paper: the most of what ``select.count`` counts), ``best`` mIoU, ``ensemble`` (all
    others), ``competence`` (all others, each pixel by who knows best the class that it sees), or ``module:name``, a user's
    function: it is given the student and a list of the others, each an ``agentkd.search.selection.Candidate``, and returns those
    that teach.
    """
    students: int = Field(default=2, ge=1, le=10_000)
    """Students of a family at most (round 1), the search's winner first."""
    keep_best: bool = True
    """A student that lost mIoU (see ``select``) goes on with its earlier weights. Recorded either way."""
    distillation: Distillation = Distillation()
    """How the students are taught: objectives, ``alpha``, and so on."""
    recipe: dict[str, Any] = Field(default_factory=dict)
    """Recipe fields that differ in this round."""

    @property
    def has_one_teacher(self) -> bool:
        """Whether one network teaches all others."""
        return self.teachers in ("largest", "best")

    @property
    def own_rule(self) -> str:
        """The path of a user's own function; empty if who teaches is decided by a rule that is built in."""
        return own_path(self.teachers, TEACHERS)


class Experiment(ExplainedData):
    """An experiment file."""

    name: str = Field(min_length=1, max_length=100)
    """What the experiment is called. The run folder is ``runs/NAME`` if ``--out`` says nothing else."""
    seed: int = Field(default=1, ge=0, lt=2**31)
    """All random numbers follow from it: initial weights, views, suggestions of the search."""
    data: DataConfig
    """Which data, and the names of its splits."""
    families: dict[str, FamilyConfig] = Field(min_length=1, max_length=100)
    """Families of networks: a list of names, or each name with what differs for it. Own networks are ``module:name``."""
    recipe: dict[str, Any] = Field(default_factory=dict)
    """Recipe fields for every training, over those that each family comes with."""
    baseline: BaselineConfig = BaselineConfig()
    """First stage: each family's own architecture is trained."""
    search: SearchConfig = SearchConfig()
    """Second stage: one study per family looks for better settings."""
    round1: RoundConfig = RoundConfig(teachers="best")
    """Third stage: inside each family the best candidate teaches others."""
    round2: RoundConfig = RoundConfig()
    """Fourth stage: across families, the chosen teachers teach the other families' networks."""
    select: Select = Select()
    """Which network goes on, wherever there are several."""
    evaluation: Arithmetic = Arithmetic()
    """How networks compute when they are looked at on the test split."""
    control: bool = False
    """Whether every student is also trained alone, for as many epochs as its lesson, so that a gain can be told from that of
    longer training. Nothing goes on with what comes of it.
    """
    test_every_stage: bool = True
    """Whether what represents a family after each stage is looked at on the test split, when nothing is left to be chosen; else
    the final networks alone.
    """
    seeds: int = Field(default=1, ge=1, le=100)
    """How often all of it is done, with the seeds ``seed``, ``seed + 1`` and so on."""
    launch: LaunchConfig = LaunchConfig()
    """How agents are started, watched and connected. Nothing in it changes results."""

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

    def trials(self, family: str) -> int:
        """Feasible trials of a family's study at most."""
        return self.families[family].trials or self.search.trials

    def result_inputs(self) -> dict[str, Any]:
        """Everything that decides results: all but how agents are launched."""
        return {name: value for name, value in self.canonical().items() if name != "launch"}


# What records of before say nothing of, for then there was nothing to choose.
BEFORE: dict[str, Any] = {"select": {"rule": "best", "count": "deploy", "baseline": False}, "test_every_stage": False}


def _as_it_was(recorded: Any) -> Any:
    return BEFORE | recorded if isinstance(recorded, dict) else recorded


RecordedExperiment = Annotated[Experiment, BeforeValidator(_as_it_was)]
"""An experiment as it stands in records: one of an older version is planned as that planned it."""


def build_recipe(experiment: Experiment, family: str, *, as_written: bool = False, **fields: Any) -> Recipe:
    """The recipe of a family: that which it comes with, then the experiment's, then the family's, then the given fields.

    Args:
        experiment: of which it is.
        family: its name.
        as_written: leaves fields that make no difference as they are, as all versions did of which there are records.
        fields: of ``Recipe``.
    """
    layers = (families.default_recipe(family), experiment.recipe, experiment.families[family].recipe, fields)
    merged: dict[str, Any] = {}
    for layer in layers:
        merged |= layer
    return Recipe.model_validate(merged, context=AS_WRITTEN if as_written else None)
