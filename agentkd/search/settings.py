"""How a study searches, as an experiment says it."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from agentkd.canonical import FrozenData
from agentkd.recipe import MAX_EPOCHS, Recipe
from agentkd.search.space import Choices, Range

MAX_TRIALS = 100_000


class Pruning(FrozenData):
    """Median pruning: a trial stops after an epoch if its best mIoU so far is below the median of earlier trials'.

    Args:
        startup_trials: completed trials before anything is pruned.
        warmup_epochs: epochs that every trial may finish.
    """

    startup_trials: int = Field(default=5, ge=1, le=MAX_TRIALS)
    warmup_epochs: int = Field(default=10, ge=0, le=MAX_EPOCHS)


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
