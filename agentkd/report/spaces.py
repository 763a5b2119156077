"""What is searched of a family, for people and programs: each dimension, the corners of the space, and how large it is.

``docs/reference/spaces.md`` is this of all families (``make spaces``). Torch is imported where networks are measured.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence

from agentkd.architecture import IMAGENET, RGB, Normalization, Setting
from agentkd.canonical import FrozenData
from agentkd.errors import ConfigError, Problem
from agentkd.networks import families
from agentkd.recipe import CONDITIONS, Recipe
from agentkd.search.settings import RECIPE_SPACE
from agentkd.search.space import Choices, Parameter, Range

CLASSES, SIDE = 5, 512
HEAD = """# The search spaces

Made by `make spaces`; what is written here by hand is lost. Of one family, with other classes or in JSON: `agentkd space FAMILY`.

*Range* is what `families.FAMILY.settings` takes, *searched* what a study chooses among unless `families.FAMILY.space` says
otherwise; *no; such as* is what `search.recipe_space` may have besides. A dimension whose condition does not hold is not
searched. Of several values that build one network, such as `bilinear` and `bilinear_1x1` where skips are added, one stands in
its digest, and it is counted once. Each study begins with the published network. Parameters and multiply-accumulates (MACs) of a
dimension are those of the published network with another value there: parameters in deployment, and MACs of one image.
"""


class Span(FrozenData):
    """The least and the most that one dimension makes of the published network by itself."""

    least: int
    most: int


class DimensionRow(FrozenData):
    """One dimension of a space, as it is told.

    Args:
        published: the value of the published network.
        legal: what the setting takes, in words.
        condition: when it is searched; empty for always.
        parameters: ``None`` if it was not measured; likewise ``macs``.
    """

    name: str
    searched: str
    published: str
    legal: str
    effect: str
    condition: str = ""
    parameters: Span | None = None
    macs: Span | None = None


class Corner(FrozenData):
    """A network at the edge of a space: every dimension at the value that makes the least, or the most, of something."""

    name: str
    settings: dict[str, Setting]
    total: int
    deploy: int
    macs: int


class SpaceDescription(FrozenData):
    """A family's search space. ``num_networks`` is how many different networks are in it."""

    family: str
    title: str
    num_classes: int
    channels: tuple[str, ...] = RGB
    num_networks: int
    dimensions: tuple[DimensionRow, ...]
    recipe: tuple[DimensionRow, ...]
    recipe_source: str
    corners: tuple[Corner, ...] = ()


def describe(
    family: str, num_classes: int = CLASSES, *, images: Normalization = IMAGENET, is_measured: bool = True
) -> SpaceDescription:
    """A family's search space; measured on images of 512x512 pixels, which takes some seconds.

    Raises:
        ConfigError: there is no such family, or it is a user's own, of which nothing but its values is known.
    """
    if family not in families.FAMILIES:
        known = ", ".join(families.FAMILIES)
        raise ConfigError(
            [Problem("family", f"no family {family!r} has a described space; those that come with agentkd: {known}")]
        )
    row = families.FAMILIES[family]
    rows = [_row(family, name) for name in row.space]
    corners: tuple[Corner, ...] = ()
    if is_measured:
        rows, corners = _measured(family, num_classes, images, rows)
    return SpaceDescription(
        family=family,
        title=row.title,
        num_classes=num_classes,
        channels=images.channels,
        num_networks=count_networks(family),
        dimensions=tuple(rows),
        recipe=tuple(_recipe_row(family, name, parameter) for name, parameter in (RECIPE_SPACE | OFFERED).items()),
        recipe_source=row.recipe_source,
        corners=corners,
    )


def count_networks(family: str) -> int:
    """How many different networks are in a family's space: of each group of dimensions that look at each other all are made."""
    space = families.search_space(family)
    found = 1
    for group in _groups(family):
        members = itertools.product(*(space[name] for name in group))
        found *= len({_digest(family, dict(zip(group, values, strict=True))) for values in members})
    return found


def _groups(family: str) -> list[tuple[str, ...]]:
    """The dimensions, those together that make fewer networks together than each by itself would let one think."""
    space, conditions = families.search_space(family), families.conditions(family)
    linked = {name: {name, *(conditions[name].names if name in conditions else ())} for name in space}
    alone = {name: len({_digest(family, {name: value}) for value in values}) for name, values in space.items()}
    for one, other in itertools.combinations(space, 2):
        pairs = itertools.product(space[one], space[other])
        if len({_digest(family, {one: a, other: b}) for a, b in pairs}) != alone[one] * alone[other]:
            linked[one].add(other)
    groups: list[set[str]] = []
    for names in linked.values():
        touched = [group for group in groups if group & names]
        groups = [group for group in groups if not group & names] + [names.union(*touched)]
    return [tuple(name for name in space if name in group) for group in groups]


def _digest(family: str, settings: dict[str, Setting]) -> str:
    return families.resolve(family, CLASSES, settings).digest


def _row(family: str, name: str) -> DimensionRow:
    row = families.FAMILIES[family]
    dimension = row.space[name]
    published = families.all_settings(families.resolve(family, CLASSES))[name]
    texts = ["`loss` is not `cross_entropy`"] if dimension.is_for_loss else []
    texts += [dimension.when.text] if dimension.when else []
    return DimensionRow(
        name=name,
        searched=_listed(dimension.values),
        published=_shown(published),
        legal=_legal(row.settings.model_json_schema()["properties"][name]),
        effect=dimension.effect,
        condition=" and ".join(texts),
    )


def _recipe_row(family: str, name: str, parameter: Parameter) -> DimensionRow:
    values = _searched(parameter)
    given = families.default_recipe(family)
    condition = CONDITIONS.get(name)
    usual = {field: info.default for field, info in Recipe.model_fields.items()} | given
    is_idle = condition is not None and not condition.holds(usual)
    schema = Recipe.model_json_schema()["properties"][name]
    return DimensionRow(
        name=name,
        searched=values if name in RECIPE_SPACE else f"no; such as {values}",
        published="not used" if is_idle else _shown(given.get(name, schema.get("default", ""))),
        legal=_legal(schema),
        effect=RECIPE_EFFECTS[name],
        condition=condition.text if condition else "",
    )


def _searched(parameter: Parameter) -> str:
    if isinstance(parameter, Range):
        return f"{parameter.low:g} to {parameter.high:g}{', logarithmic' if parameter.log else ''}"
    return _listed(parameter.values)


# What a search may choose among too, but does not unless a file says so.
OFFERED: dict[str, Parameter] = {
    "loss": Choices(values=("family", "ohem")),
    "class_weights": Choices(values=("none", "inverse", "effective")),
    "sampler": Choices(values=("uniform", "rare_class")),
    "sampler_temperature": Range(low=0.01, high=1.0, log=True),
}
RECIPE_EFFECTS = {
    "learning_rate": "of the first step, after the warm-up",
    "weight_decay": "pull of the weights towards zero",
    "momentum": "how long a gradient goes on to count",
    "batch_size": "images in a step",
    "loss": "cross-entropies over hard pixels alone, or as the family has them",
    "class_weights": "what a pixel counts, by its class",
    "sampler": "which images are seen, and how often",
    "sampler_temperature": "the smaller, the more often the rarest class is drawn",
}


def _legal(schema: dict[str, object]) -> str:
    """What a field takes, in words."""
    if "enum" in schema:
        values = schema["enum"]
        assert isinstance(values, list)
        return _listed(values)
    if "oneOf" in schema:
        kinds = schema["oneOf"]
        assert isinstance(kinds, list)
        return ", or ".join(_legal(kind) for kind in kinds)
    if schema.get("type") == "array":
        return "a number for each class"
    if schema.get("type") == "boolean":
        return "true, false"
    bounds = [
        f"{text} {_shown(schema[name])}"
        for name, text in (
            ("minimum", "from"),
            ("exclusiveMinimum", "above"),
            ("maximum", "to"),
            ("exclusiveMaximum", "below"),
            ("multipleOf", "in steps of"),
        )
        if name in schema
    ]
    return " ".join(bounds)


def _measured(
    family: str, num_classes: int, images: Normalization, rows: Sequence[DimensionRow]
) -> tuple[list[DimensionRow], tuple[Corner, ...]]:
    space = families.search_space(family)
    published = _corner(family, num_classes, images, "published", {})
    extremes: dict[str, dict[str, Setting]] = {"fewest parameters": {}, "most parameters": {}, "fewest MACs": {}, "most MACs": {}}
    found = []
    for row in rows:
        usual = families.all_settings(families.resolve(family, num_classes))[row.name]
        here = {
            value: published if value == usual else _corner(family, num_classes, images, row.name, {row.name: value})
            for value in space[row.name]
        }
        small = sorted(here, key=lambda value: (here[value].deploy, here[value].macs))
        cheap = sorted(here, key=lambda value: (here[value].macs, here[value].deploy))
        for name, value in zip(extremes, (small[0], small[-1], cheap[0], cheap[-1]), strict=True):
            extremes[name][row.name] = value
        found.append(
            row.replace(parameters=_span(one.deploy for one in here.values()), macs=_span(one.macs for one in here.values()))
        )
    return found, (published, *(_corner(family, num_classes, images, name, settings) for name, settings in extremes.items()))


def _corner(family: str, num_classes: int, images: Normalization, name: str, settings: dict[str, Setting]) -> Corner:
    from agentkd.networks.build import count_architecture
    from agentkd.networks.cost import measure_cost

    architecture = families.resolve(family, num_classes, settings, images=images)
    counts, cost = count_architecture(architecture), measure_cost(architecture, SIDE, SIDE)
    return Corner(name=name, settings=settings, total=counts.total, deploy=counts.deploy, macs=cost.num_macs)


def _span(values: Iterable[int]) -> Span:
    listed = list(values)
    return Span(least=min(listed), most=max(listed))


def _of_channels(channels: tuple[str, ...]) -> str:
    return "" if channels == RGB else f" and images of {len(channels)} channels"


def as_markdown(described: SpaceDescription) -> str:
    """A section of the page, which reads as well on a terminal."""
    lines = [f"## {described.family}", ""]
    about = f"{described.title}. {_power(described.num_networks)} networks"
    recipe = (
        f"recipe published by {described.recipe_source}" if described.recipe_source else "recipe of agentkd's own, not published"
    )
    lines += [f"{about}; {recipe}.", ""]
    if described.corners:
        lines += _table(
            ("corner", "parameters in deployment", "in all", "MACs at 512x512"),
            [(c.name, _millions(c.deploy), _millions(c.total), _billions(c.macs)) for c in described.corners],
        )
        lines += [
            f"With {described.num_classes} classes{_of_channels(described.channels)}. At a corner each dimension has the value "
            "that alone makes fewest or most.",
            "",
        ]
    lines += _table(
        ("dimension", "searched", "published", "range", "effect", "searched if", "parameters", "MACs"),
        [
            (
                f"`{d.name}`",
                d.searched,
                d.published,
                d.legal,
                d.effect,
                d.condition or "always",
                _between(d.parameters, _millions),
                _between(d.macs, _billions),
            )
            for d in described.dimensions
        ],
    )
    lines += _table(
        ("recipe", "searched", "as it comes", "range", "effect", "searched if"),
        [(f"`{d.name}`", d.searched, d.published, d.legal, d.effect, d.condition or "always") for d in described.recipe],
    )
    return "\n".join(lines)


def page() -> str:
    """The page of all families that come with agentkd."""
    return "\n".join([HEAD, *(as_markdown(describe(family)) for family in families.FAMILIES)]).rstrip("\n") + "\n"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = [head, tuple("---" for _ in head), *rows]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]


def _between(span: Span | None, shown: Callable[[int], str]) -> str:
    if span is None:
        return ""
    least, most = shown(span.least), shown(span.most)
    return least if least == most else f"{least} to {most}"


def _millions(number: int) -> str:
    return f"{number / 1e6:.2f}M" if number >= 1e6 else f"{number / 1e3:.0f}k"


def _billions(number: int) -> str:
    return f"{number / 1e9:.2f}G" if number >= 1e8 else f"{number / 1e6:.1f}M"


def _power(number: int) -> str:
    exponent = int(math.log10(number))
    return f"{number:,}" if exponent < 6 else f"{number / 10**exponent:.1f}e{exponent}"


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(_shown, values))


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
