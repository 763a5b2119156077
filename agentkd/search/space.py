"""A search space as data: each parameter is a list of choices or a range."""

from typing import Any

from pydantic import Field, model_validator

from agentkd.architecture import Setting
from agentkd.canonical import FrozenData

ARCHITECTURE_PREFIX = "architecture."
RECIPE_PREFIX = "recipe."


class Range(FrozenData):
    """Values between ``low`` and ``high``, both included; ``log`` searches orders of magnitude evenly."""

    low: float
    high: float
    log: bool = False
    integer: bool = False

    @model_validator(mode="after")
    def _check(self) -> "Range":
        if self.low >= self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError("a logarithmic range must be positive")
        return self


class Choices(FrozenData):
    """One of the listed values."""

    values: tuple[Setting, ...] = Field(min_length=1)


Parameter = Range | Choices
Space = dict[str, Parameter]
Values = dict[str, Any]


def split_values(values: Values) -> tuple[Values, Values]:
    """The architecture's settings and the recipe's fields among a trial's values."""
    settings = {k.removeprefix(ARCHITECTURE_PREFIX): v for k, v in values.items() if k.startswith(ARCHITECTURE_PREFIX)}
    recipe = {k.removeprefix(RECIPE_PREFIX): v for k, v in values.items() if k.startswith(RECIPE_PREFIX)}
    return settings, recipe
