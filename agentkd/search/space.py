"""A search space as data: each parameter is a list of choices or a range."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator, model_validator

from agentkd.architecture import Setting
from agentkd.canonical import ExplainedData, Proviso

ARCHITECTURE_PREFIX = "architecture."
RECIPE_PREFIX = "recipe."


class Range(ExplainedData):
    """Values between ``low`` and ``high``, both included; ``log`` searches orders of magnitude evenly."""

    low: float
    """Smallest value, included."""
    high: float
    """Largest value, included; above ``low``."""
    log: bool = False
    """Whether orders of magnitude are searched evenly, rather than values."""
    integer: bool = False
    """Whether only whole numbers are meant."""

    @model_validator(mode="after")
    def _check(self) -> "Range":
        if self.low >= self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError("a logarithmic range must be positive")
        return self


class Choices(ExplainedData):
    """One of the listed values."""

    values: tuple[Setting, ...] = Field(min_length=1)
    """The values: words, numbers, true and false."""

    @field_validator("values", mode="before")
    @classmethod
    def _are_words_or_numbers(cls, value: Any) -> Any:
        """A sampler, and the storage of a study, tell values apart by whether they are equal."""
        wrong = (
            next((one for one in value if isinstance(one, list | tuple | dict)), None)
            if isinstance(value, list | tuple)
            else None
        )
        if wrong is not None:
            text = f"{str(wrong)[:80]} is none of the values that can be searched: words, numbers, true and false"
            raise ValueError(f"{text}; say it where it is not searched, such as recipe, or leave it out")
        return value


Parameter = Range | Choices
Space = dict[str, Parameter]
Values = dict[str, Any]


class ConditionalSpace(dict[str, Parameter]):
    """A space some of whose parameters are not searched where they make no difference.

    A parameter stands behind those that its proviso looks at, in the order of the space otherwise.

    Args:
        space: its parameters.
        provisos: by parameter, when it makes a difference. They name parameters as the space does.
        fixed: what parameters that are not in the space are.
    """

    def __init__(self, space: Space, provisos: Mapping[str, Proviso], fixed: Values) -> None:
        super().__init__()
        self._provisos = {name: proviso for name, proviso in provisos.items() if name in space}
        self._fixed = fixed
        left = dict(space)
        while left:
            free = (name for name in left if not any(n in left for n in self._names(name)))
            name = next(free, next(iter(left)))
            self[name] = left.pop(name)

    def is_searched(self, name: str, values: Values) -> bool:
        """Whether a parameter makes a difference, with values for those before it."""
        proviso = self._provisos.get(name)
        return proviso is None or proviso.holds({n: values.get(n, self._fixed.get(n)) for n in proviso.names})

    def searched(self, values: Values) -> Values:
        """Those of a trial's values that make a difference."""
        return {name: value for name, value in values.items() if self.is_searched(name, values)}

    def _names(self, name: str) -> tuple[str, ...]:
        return self._provisos[name].names if name in self._provisos else ()


def is_searched(space: Space, name: str, values: Values) -> bool:
    """Whether a parameter of a space makes a difference, with values for those before it."""
    return not isinstance(space, ConditionalSpace) or space.is_searched(name, values)


def split_values(values: Values) -> tuple[Values, Values]:
    """The architecture's settings and the recipe's fields among a trial's values."""
    settings = {k.removeprefix(ARCHITECTURE_PREFIX): v for k, v in values.items() if k.startswith(ARCHITECTURE_PREFIX)}
    recipe = {k.removeprefix(RECIPE_PREFIX): v for k, v in values.items() if k.startswith(RECIPE_PREFIX)}
    return settings, recipe
