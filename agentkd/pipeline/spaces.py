"""What a family's study searches: dimensions of its architecture and of its recipe, each where it makes a difference."""

from collections.abc import Mapping
from typing import Any

from agentkd.architecture import Architecture
from agentkd.canonical import Proviso
from agentkd.experiment import Experiment
from agentkd.networks import families
from agentkd.networks.spaces import EDITION, FIRST_EDITION
from agentkd.pipeline.own import OwnParts
from agentkd.recipe import CONDITIONS, Recipe
from agentkd.search.space import ARCHITECTURE_PREFIX, RECIPE_PREFIX, Choices, ConditionalSpace, Space, Values

LOSS = f"{RECIPE_PREFIX}loss"
NOT_NESTED = tuple(name for name in Recipe.model_fields if name != "views")


def search_space(experiment: Experiment, family: str, own: OwnParts, fixed: Values, *, edition: int = EDITION) -> Space:
    """What a family's study searches: its own (or the file's) architecture space, and the recipe's.

    Args:
        experiment: of whose families one is.
        family: its name.
        own: what of the experiment is a user's own.
        fixed: what is not searched, by the names that it would have.
        edition: of the spaces here; in the first every parameter is always searched.
    """
    replaced = experiment.families[family].space
    theirs = own.family(family).space if families.is_own(family) else families.search_space(family, edition=edition)
    architecture = theirs if replaced is None else replaced
    space: Space = {f"{ARCHITECTURE_PREFIX}{name}": Choices(values=values) for name, values in architecture.items()}
    recipe = experiment.search.recipe_space | experiment.families[family].recipe_space
    space |= {f"{RECIPE_PREFIX}{name}": parameter for name, parameter in recipe.items()}
    return space if edition == FIRST_EDITION else ConditionalSpace(space, _provisos(family), fixed)


def written(architecture: Architecture, recipe: Recipe) -> Values:
    """Every setting of an architecture and every field of a recipe, by the names that a study has."""
    settings = families.all_settings(architecture)
    found: Values = {f"{ARCHITECTURE_PREFIX}{name}": value for name, value in settings.items()}
    return found | {f"{RECIPE_PREFIX}{name}": getattr(recipe, name) for name in NOT_NESTED}


def _provisos(family: str) -> dict[str, Proviso]:
    """When what is searched makes a difference, by the names that a study has."""
    found = {f"{RECIPE_PREFIX}{name}": _prefixed(proviso, RECIPE_PREFIX) for name, proviso in CONDITIONS.items()}
    known = families.conditions(family)
    found |= {f"{ARCHITECTURE_PREFIX}{name}": _prefixed(proviso, ARCHITECTURE_PREFIX) for name, proviso in known.items()}
    for name in (f"{ARCHITECTURE_PREFIX}{name}" for name in families.seen_by_loss(family)):
        found[name] = _with_family_loss(found.get(name))
    return found


def _prefixed(proviso: Proviso, prefix: str) -> Proviso:
    def holds(values: Mapping[str, Any]) -> bool:
        return proviso.holds({name.removeprefix(prefix): value for name, value in values.items()})

    return Proviso(proviso.text, tuple(prefix + name for name in proviso.names), holds)


def _with_family_loss(proviso: Proviso | None) -> Proviso:
    def holds(values: Mapping[str, Any]) -> bool:
        return values[LOSS] != "cross_entropy" and (proviso is None or proviso.holds(values))

    texts = ["loss is not cross_entropy", *([proviso.text] if proviso else [])]
    return Proviso(" and ".join(texts), (LOSS, *(proviso.names if proviso else ())), holds)
