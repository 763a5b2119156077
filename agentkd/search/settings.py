"""How a study searches, as an experiment says it."""

import difflib
import re
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from agentkd.canonical import ExplainedData
from agentkd.recipe import MAX_EPOCHS, Distillation, Recipe
from agentkd.search.space import Choices, Range

MAX_TRIALS = 100_000
Count = Literal["total", "deploy", "macs", "latency"]
Objective = Literal["miou", "distilled_miou", "scalarized", "pareto"]
RULES = ("smallest_within", "best", "pareto_knee")
OWN_RULE = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*")


def known_or_own(value: str, known: Sequence[str]) -> str:
    """A rule's name, or the path of a user's own, as it is.

    Raises:
        ValueError: it is neither.
    """
    if value not in known and not OWN_RULE.fullmatch(value):
        like = difflib.get_close_matches(value, known, n=1)
        advice = f"did you mean {like[0]!r}?" if like else f"known: {', '.join(known)}, or module:name of a function of yours"
        raise ValueError(f"{value!r} is not known; {advice}")
    return value


def own_path(value: str, known: Sequence[str]) -> str:
    """The path of a user's own rule; empty if it is a known one."""
    return "" if value in known else value


class Select(ExplainedData):
    """Which of several networks goes on: the search's winner, what a lesson made or what was before it, and the final winner."""

    rule: Annotated[str, AfterValidator(partial(known_or_own, known=RULES))] = "smallest_within"
    """``smallest_within``: the smallest of those whose mIoU is within ``tolerance`` of the best; a lesson is kept unless it lost
    more than ``lesson_tolerance``. ``best``: the best mIoU. ``pareto_knee``: where mIoU over the logarithm of the size bends
    most. ``module:name``: a user's function, which is given a list of ``agentkd.search.selection.Candidate`` and returns one of
    them.
    """
    tolerance: float = Field(default=0.007, ge=0, lt=1)
    """In mIoU, in [0, 1). 0.007 gives the winners of every search of the paper's Table I."""
    lesson_tolerance: float = Field(default=0.007, ge=0, lt=1)
    """By how much less mIoU a lesson is kept by that rule: the taught network is no smaller, so it should be what cannot be told
    from noise.
    """
    count: Count = "total"
    """What is small: ``total`` parameters (all that trains, as the paper counts), ``deploy`` (what inference needs), ``macs``
    (multiply-accumulates of one image), or ``latency`` (milliseconds for one image, measured by the agent that trained the
    network; give all agents the same device).
    """
    baseline: bool = True
    """Whether a family's baseline is a candidate beside the trials."""

    @property
    def own_rule(self) -> str:
        """The path of a user's own function; empty if the rule is built in."""
        return own_path(self.rule, RULES)


class Pruning(ExplainedData):
    """Median pruning: a trial stops after an epoch if its best mIoU so far is below the median of earlier trials'."""

    kind: Literal["median"] = "median"
    startup_trials: int = Field(default=5, ge=1, le=MAX_TRIALS)
    """Completed trials before anything is pruned."""
    warmup_epochs: int = Field(default=10, ge=0, le=MAX_EPOCHS)
    """Epochs that every trial may finish."""


class Halving(ExplainedData):
    """Successive halving: a trial goes on after a rung if it is among the best there of the trials that it sees, and itself.

    Source: Li et al., "A system for massively parallel hyperparameter tuning" (ASHA), 2020, as in Optuna's
    ``SuccessiveHalvingPruner``.
    """

    kind: Literal["halving"]
    first_epoch: int = Field(default=1, ge=1, le=MAX_EPOCHS)
    """The first rung; the next ones are at ``factor`` times as many epochs each."""
    factor: int = Field(default=3, ge=2, le=100)
    """One of so many goes on at each rung."""
    startup_trials: int = Field(default=1, ge=1, le=MAX_TRIALS)
    """Trials at a rung before anything is pruned there."""


def _kind_of_pruning(value: object) -> str | None:
    """A file need not name the median, and records of before do not."""
    named = value.get("kind", "median") if isinstance(value, dict) else getattr(value, "kind", None)
    return f"<{named}>" if named in ("median", "halving") else None


MEDIAN, HALVING = "<median>", "<halving>"
AnyPruning = Annotated[
    Annotated[Pruning, Tag(MEDIAN)] | Annotated[Halving, Tag(HALVING)],
    Discriminator(
        _kind_of_pruning, custom_error_type="pruning", custom_error_message="expected kind: median or halving, or null for none"
    ),
]


def _known_field(name: str) -> str:
    if name in Recipe.model_fields:
        return name
    like = difflib.get_close_matches(name, Recipe.model_fields, n=1)
    advice = f"did you mean {like[0]!r}?" if like else f"known: {', '.join(Recipe.model_fields)}"
    raise ValueError(f"{name!r} is not a field of the recipe; {advice}")


def _kind(value: object) -> str | None:
    """Which kind of parameter is meant, so that what is wrong with it is told of that kind alone."""
    if isinstance(value, Range | Choices):
        return RANGE if isinstance(value, Range) else CHOICES
    if not isinstance(value, dict):
        return None
    return CHOICES if "values" in value else RANGE


RANGE, CHOICES = "<range>", "<choices>"
SearchedParameter = Annotated[
    Annotated[Range, Tag(RANGE)] | Annotated[Choices, Tag(CHOICES)],
    Discriminator(
        _kind, custom_error_type="parameter", custom_error_message="expected low and high (and log, integer), or values: a list"
    ),
]
RecipeSpace = dict[Annotated[str, AfterValidator(_known_field)], SearchedParameter]
RECIPE_SPACE: RecipeSpace = {
    "learning_rate": Range(low=1e-4, high=5e-2, log=True),
    "weight_decay": Range(low=1e-5, high=1e-3, log=True),
    "momentum": Choices(values=(0.8, 0.9, 0.95)),
    "batch_size": Choices(values=(2, 4, 8)),
}


class SearchConfig(ExplainedData):
    """One TPE study per family."""

    objective: Objective = "miou"
    """What is looked for. ``miou``; ``distilled_miou``: each trial is a lesson by the family's baseline, so that a network is
    judged by what it becomes when it is taught; ``scalarized``: mIoU less ``cost_weight`` times the cost relative to the
    baseline's; ``pareto``: mIoU up and each cost down at once, and the front are the candidates.
    """
    costs: tuple[Count, ...] = ()
    """What ``scalarized`` (their mean) and ``pareto`` count; empty for what ``select.count`` does."""
    cost_weight: float = Field(default=0.05, ge=0, le=1)
    """Of ``scalarized``: what the baseline's whole cost counts, in mIoU, in [0, 1]."""
    lesson: Distillation | None = None
    """How the baseline teaches for ``distilled_miou``; left out, as in round 1."""
    epochs: int = Field(default=50, ge=1, le=MAX_EPOCHS)
    """Epochs of each trial."""
    trials: int = Field(default=20, ge=1, le=MAX_TRIALS)
    """Trials of each family's study at most. Those that break a limit (infeasible ones) do not count."""
    startup_trials: int = Field(default=10, ge=1, le=MAX_TRIALS)
    """Trials drawn by lot before the sampler learns from results."""
    inherit_weights: bool = False
    """Whether a trial begins with the matching tensors of the best completed trial that it sees."""
    confirm: int = Field(default=0, ge=0, le=MAX_TRIALS)
    """So many of the best candidates are trained again with other seeds before one is chosen; 0 for none."""
    confirm_seeds: int = Field(default=2, ge=1, le=100)
    """Other seeds of each."""
    patience: int = Field(default=10, ge=0, le=MAX_TRIALS)
    """Stop when the objective (of ``pareto``, the front) has not improved for so many trials in a row; 0 never stops early."""
    order: Literal["strict", "as_completed"] = "strict"
    """``strict``: trial n sees the results of trials up to n - lag, whatever the timing, and the same search comes out every
    time. ``as_completed``: it sees all that are finished when it is asked for; what it saw is recorded, so that the run can be
    gone on with and replayed. No agent waits for a slow trial then.
    """
    lag: int = Field(default=2, ge=1, le=MAX_TRIALS)
    """How many trials of one study run side by side. In ``strict`` order trial n sees the results of trials up to n - lag, so
    another ``lag`` is another search.
    """
    published_first: bool = True
    """Whether the published settings are the first trial, which has no limits. The baseline, which is the same network trained
    longer, can do without.
    """
    max_infeasible: int = Field(default=200, ge=1, le=MAX_TRIALS)
    """The study ends after so many suggestions that broke a limit (``max_deploy_ratio`` and the like), which cost no training."""
    max_deploy_ratio: float = Field(default=1.0, ge=0)
    """Limit on the parameters that inference needs, relative to the baseline's; 0 for none. A network above it is not trained."""
    max_macs_ratio: float = Field(default=0.0, ge=0)
    """The same limit for the multiply-accumulates of one image; 0 for none."""
    max_latency_ratio: float = Field(default=0.0, ge=0)
    """The same limit for the milliseconds of one image, measured by the agent that is to train the network; 0 for none."""
    candidates: int = Field(default=4, ge=1, le=MAX_TRIALS)
    """Size of the set that goes on to round 1, at most: the best of the front of mIoU against size. One of them teaches, and
    students are taken from them.
    """
    pruning: AnyPruning | None = Pruning()
    """When a hopeless trial is stopped early: ``kind: median`` (the default), ``kind: halving``, or ``null`` for never. There is
    none with ``objective: pareto``.
    """
    recipe_space: RecipeSpace = Field(default_factory=lambda: dict(RECIPE_SPACE))
    """Training hyperparameters that are searched beside the architecture: a recipe field, and its range or choices."""

    @model_validator(mode="before")
    @classmethod
    def _several_objectives_are_not_pruned(cls, value: Any) -> Any:
        """The default is none there; what is written is looked at below."""
        if isinstance(value, dict) and value.get("objective") == "pareto" and "pruning" not in value:
            return value | {"pruning": None}
        return value

    @model_validator(mode="after")
    def _check_objective(self) -> Self:
        if self.objective == "pareto" and self.pruning is not None:
            raise ValueError(
                "objective pareto has several objectives, of which none alone says when a trial is hopeless (Optuna prunes no "
                "such study either); write pruning: null, or objective: scalarized"
            )
        if self.costs and self.objective not in ("scalarized", "pareto"):
            raise ValueError(
                f"costs are of the objectives scalarized and pareto, and the objective is {self.objective}; leave them out"
            )
        if len(set(self.costs)) < len(self.costs):
            raise ValueError(f"costs names one twice ({', '.join(self.costs)}); name each once")
        if self.lesson is not None and self.objective != "distilled_miou":
            raise ValueError(f"lesson is of the objective distilled_miou, and the objective is {self.objective}; leave it out")
        return self
