"""Is every value of every search space one that the recipe and the family take? Not only what a sampler happens to draw."""

import itertools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from agentkd.architecture import Setting
from agentkd.checks.concerns import Concern, warning
from agentkd.checks.fitting import refusals
from agentkd.checks.plan import RunPlan
from agentkd.errors import ConfigError
from agentkd.experiment import build_recipe
from agentkd.networks import families
from agentkd.search.space import Choices, Parameter, Range

NOT_SEARCHED = {"epochs": "search.epochs says it", "views": "it is a group of fields, not a value"}
MAX_PRODUCT = 256
MAX_TRIED = 2000
TRYING_TIMEOUT_S = 20.0
Settings = dict[str, Setting]


@dataclass(frozen=True)
class _Searched:
    """The space that a family's search has, and where it is said: in the file, or with the family."""

    family: str
    space: Mapping[str, tuple[Setting, ...]]
    in_file: bool

    @property
    def path(self) -> str:
        """Where it is said."""
        return f"families.{self.family}.space" if self.in_file else f"families.{self.family}"

    @property
    def source(self) -> str:
        """Where it is said if not in the file, as a part of a sentence."""
        return "" if self.in_file else f" (in {self.family}.space)"

    def where(self, name: str, at: int | None = None) -> str:
        """Where a setting's values are said, or one of them."""
        if not self.in_file:
            return self.path
        return f"{self.path}.{name}" if at is None else f"{self.path}.{name}.{at}"


def check_recipe_spaces(plan: RunPlan) -> list[Concern]:
    """The training hyperparameters that are searched, of all families and of single ones."""
    common = plan.experiment.search.recipe_space
    configs = {family: plan.experiment.families[family] for family in plan.families}
    found = []
    for name, parameter in common.items():
        searching = [family for family, config in configs.items() if name not in config.recipe_space]
        found += _check_parameter(plan, searching, name, parameter, f"search.recipe_space.{name}")
    for family, config in configs.items():
        for name, parameter in config.recipe_space.items():
            found += _check_parameter(plan, [family], name, parameter, f"families.{family}.recipe_space.{name}")
    return found


def check_architecture_spaces(plan: RunPlan) -> list[Concern]:
    """The settings of networks that are searched: the family's own space, or that of the file."""
    return [concern for family in plan.families for concern in _good_values(_searched_space(plan, family), plan)[1]]


def check_built_spaces(plan: RunPlan) -> list[Concern]:
    """Whether networks of a user's own spaces are built and take the images. Those that come with a family here are tested."""
    found = []
    for searched in (_searched_space(plan, family) for family in plan.families):
        if searched.in_file or families.is_own(searched.family):
            found += _check_built(plan, searched, _good_values(searched, plan)[0])
    return found


def _check_parameter(plan: RunPlan, searching: list[str], name: str, parameter: Parameter, path: str) -> list[Concern]:
    if name in NOT_SEARCHED:
        return [Concern(path, f"{name} cannot be searched: {NOT_SEARCHED[name]}; leave it out here")]
    found = list(_shape_of_range(parameter, path) if isinstance(parameter, Range) else _shape_of_choices(parameter.values, path))
    if any(concern.is_error for concern in found):
        return found
    if isinstance(parameter, Choices):
        values = {f"{path}.values.{at}": value for at, value in enumerate(parameter.values)}
        return found + _refused(plan, searching, name, values)
    ends = {"low": parameter.low, "high": parameter.high}
    refused = _refused(plan, searching, name, {f"{path}.{at}": int(v) if parameter.integer else v for at, v in ends.items()})
    if not refused and not parameter.integer:
        refused = _refused(plan, searching, name, {path: _between(parameter)}, "; integer: true makes it whole numbers alone")
    return found + refused


def _refused(plan: RunPlan, searching: list[str], name: str, values: dict[str, Any], advice: str = "") -> list[Concern]:
    """Those of the values, by their places, that the recipe of a family does not take."""
    found = []
    for place, value in values.items():
        why: dict[str, list[str]] = {}
        for family in searching:
            try:
                build_recipe(plan.experiment, family, **{name: value})
            except ValidationError as error:
                said = [item["msg"].removeprefix("Value error, ") for item in error.errors() if item["loc"][:1] == (name,)]
                why.setdefault("; ".join(said), []).append(family)
        for text, of in why.items():
            if text:
                found.append(Concern(place, f"{_shown(value)} cannot be {name} of {', '.join(of)}: {_small(text)}{advice}"))
    return found


def _between(parameter: Range) -> float:
    """Something between the ends of a range that is no whole number, if there is one."""
    between = parameter.low + (parameter.high - parameter.low) * 0.382
    return between + 0.25 if between.is_integer() and between + 0.25 < parameter.high else between


def _small(text: str) -> str:
    return text[:1].lower() + text[1:]


def _shape_of_range(parameter: Range, path: str) -> Iterator[Concern]:
    if not parameter.integer:
        return
    for end in ("low", "high"):
        value = getattr(parameter, end)
        if not float(value).is_integer():
            yield Concern(f"{path}.{end}", f"{value:g} is no whole number, and integer is true; write one")
        elif parameter.log and end == "low" and value < 1:
            yield Concern(f"{path}.low", f"{value:g} is below 1, where a logarithmic range of whole numbers begins")


def _shape_of_choices(values: tuple[Setting, ...], path: str) -> Iterator[Concern]:
    """A sampler tells values apart by whether they are equal."""
    for at, value in enumerate(values):
        for before in values[:at]:
            if before == value and type(before) is not type(value):
                text = f"{_shown(before)} and {_shown(value)} are one value to a search, for they are equal; keep one of them"
                yield Concern(path, text)
            elif before == value:
                yield warning(path, f"{_shown(value)} is there twice, so it is tried more often; keep one if that is not meant")


def _searched_space(plan: RunPlan, family: str) -> "_Searched":
    replaced = plan.experiment.families[family].space
    if replaced is not None:
        return _Searched(family, replaced, in_file=True)
    own = plan.own.family(family).space if families.is_own(family) else families.search_space(family)
    return _Searched(family, own, in_file=False)


def _good_values(searched: "_Searched", plan: RunPlan) -> tuple[dict[str, tuple[Setting, ...]], list[Concern]]:
    """The values that the family's settings take, and what is wrong with others."""
    found: list[Concern] = []
    good: dict[str, tuple[Setting, ...]] = {}
    family = searched.family
    for name, values in searched.space.items():
        if not values:
            text = f"{name} has no values to choose from{searched.source}; give one at least, or leave it out"
            found.append(Concern(searched.where(name), text))
            continue
        found += _shape_of_choices(values, searched.where(name))
        fine = []
        for at, value in enumerate(values):
            try:
                plan.architecture(family, {name: value})
                fine.append(value)
            except ConfigError as error:
                said = "; ".join(dict.fromkeys(_small(p.text) for p in error.problems))
                text = f"{_shown(value)} cannot be {name} of {family}{searched.source}: {said}"
                found.append(Concern(searched.where(name, at), text))
        if fine:
            good[name] = tuple(dict.fromkeys(fine))
    return good, found


def _check_built(plan: RunPlan, searched: "_Searched", space: dict[str, tuple[Setting, ...]]) -> list[Concern]:
    """Values with which no network is built, and combinations of others: all if they are few, else pairs."""
    from agentkd.networks.trying import try_network  # needs torch, which a plan does not

    family = searched.family
    own = plan.tried.get(family)
    if not space or own is None or isinstance(own, ConfigError) or refusals(plan, family, own):
        return []
    deadline = time.monotonic() + TRYING_TIMEOUT_S
    refused: list[tuple[Settings, str]] = []
    built: set[tuple[str, Setting]] = set()
    combinations = _combinations(space) if families.is_own(family) else _others(space, families.search_space(family))
    planned = list(itertools.islice(combinations, MAX_TRIED))
    tried = 0
    for settings in planned:
        if time.monotonic() > deadline:
            break
        tried += 1
        try:
            unfit = refusals(plan, family, try_network(plan.architecture(family, settings)))
        except ConfigError as error:
            unfit = [p.text for p in error.problems]
        if unfit:
            refused.append((settings, unfit[0]))
        else:
            built |= set(settings.items())
    bad = {item: why for settings, why in refused if len(settings) == 1 for item in settings.items() if item not in built}
    found = [
        Concern(searched.where(name, space[name].index(value)), f"with {name} {_shown(value)}{searched.source} {family} {why}")
        for (name, value), why in bad.items()
    ]
    others = [(settings, why) for settings, why in refused if not any(item in bad for item in settings.items())]
    if others:
        settings, why = others[0]
        together = " and ".join(f"{name} {_shown(value)}" for name, value in settings.items())
        text = (
            f"with {together}{searched.source} {family} {why}; {len(others):,} of {tried:,} combinations that were tried are so"
        )
        found.append(warning(searched.path, f"{text}: such trials fail, and the search goes on"))
    if tried < len(planned) or tried == MAX_TRIED:
        text = f"{tried:,} values and pairs of its space were tried, and there are more"
        found.append(warning(searched.path, f"{text}; trials with others may fail"))
    return found


def _others(space: Mapping[str, tuple[Setting, ...]], published: Mapping[str, tuple[Setting, ...]]) -> Iterator[Settings]:
    """Each value by itself that is not in the space of a family that comes with agentkd, of which every combination is built."""
    for name, values in space.items():
        yield from ({name: value} for value in values if value not in published.get(name, ()))


def _combinations(space: dict[str, tuple[Setting, ...]]) -> Iterator[Settings]:
    """Each value by itself; then all combinations if they are few, else all pairs."""
    for name, values in space.items():
        yield from ({name: value} for value in values)
    product = 1
    for values in space.values():
        product = min(product * len(values), MAX_PRODUCT + 1)
    if product <= MAX_PRODUCT and len(space) > 1:
        yield from (dict(zip(space, values, strict=True)) for values in itertools.product(*space.values()))
        return
    for one, other in itertools.combinations(space, 2):
        yield from ({one: a, other: b} for a, b in itertools.product(space[one], space[other]))


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) and f"{value:g}" != f"{round(value)}" else repr(value)[:80]
