"""How a study searches, as an experiment says it."""

import difflib
import re
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from agentkd.canonical import FrozenData
from agentkd.recipe import MAX_EPOCHS, Recipe
from agentkd.search.space import Choices, Range

MAX_TRIALS = 100_000
Count = Literal["total", "deploy", "macs"]
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


class Select(FrozenData):
    """Which of several networks goes on: the search's winner, what a lesson made or what was before it, and the final winner.

    Args:
        rule: ``smallest_within``: the smallest of those whose mIoU is within ``tolerance`` of the best; a lesson is kept unless
            it lost more than that. ``best``: the best mIoU. ``pareto_knee``: where mIoU over the logarithm of the size bends
            most. ``module:name``: a user's function, which is given a list of ``agentkd.search.selection.Candidate``
            and returns one of them.
        tolerance: in mIoU, in [0, 1). 0.007 gives the winners of every search of the paper's Table I.
        count: what is small: ``total`` parameters (all that trains, as the paper counts), ``deploy`` (what inference needs), or
            ``macs`` (multiply-accumulates of one image).
        baseline: whether a family's baseline is a candidate beside the trials.
    """

    rule: Annotated[str, AfterValidator(partial(known_or_own, known=RULES))] = "smallest_within"
    tolerance: float = Field(default=0.007, ge=0, lt=1)
    count: Count = "total"
    baseline: bool = True

    @property
    def own_rule(self) -> str:
        """The path of a user's own function; empty if the rule is built in."""
        return own_path(self.rule, RULES)


class Pruning(FrozenData):
    """Median pruning: a trial stops after an epoch if its best mIoU so far is below the median of earlier trials'.

    Args:
        startup_trials: completed trials before anything is pruned.
        warmup_epochs: epochs that every trial may finish.
    """

    startup_trials: int = Field(default=5, ge=1, le=MAX_TRIALS)
    warmup_epochs: int = Field(default=10, ge=0, le=MAX_EPOCHS)


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

    epochs: int = Field(default=50, ge=1, le=MAX_EPOCHS)
    trials: int = Field(default=20, ge=1, le=MAX_TRIALS)
    patience: int = Field(default=10, ge=0, le=MAX_TRIALS)
    order: Literal["strict", "as_completed"] = "strict"
    lag: int = Field(default=2, ge=1, le=MAX_TRIALS)
    max_infeasible: int = Field(default=200, ge=1, le=MAX_TRIALS)
    max_deploy_ratio: float = Field(default=1.0, ge=0)
    max_macs_ratio: float = Field(default=0.0, ge=0)
    candidates: int = Field(default=4, ge=1, le=MAX_TRIALS)
    pruning: Pruning | None = Pruning()
    recipe_space: RecipeSpace = Field(default_factory=lambda: dict(RECIPE_SPACE))
