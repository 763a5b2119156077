"""Equal networks have equal digests, and others have not: by building both, whatever their settings are."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structures import structure

from agentkd.architecture import Architecture
from agentkd.networks.families import FAMILIES, all_settings, complete, conditions, resolve, search_space
from agentkd.networks.settings import NetworkSettings
from agentkd.networks.widths import plainest_factor, round_width

EVERY = pytest.mark.parametrize("family", FAMILIES)
# Small ones, of which many are built; what is small here is not what is compared.
SMALL = {"num_blocks": 1, "num_blocks3": 1, "num_blocks4": 1, "blocks1": 1, "blocks2": 1, "blocks3": 1, "blocks4": 1}
MANY = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def legal(kind: type[NetworkSettings], name: str) -> st.SearchStrategy[Any]:
    """Any value that a setting takes, and often one that differs little from another."""
    field = kind.model_fields[name]
    annotation = field.annotation
    if get_origin(annotation) is not None and get_args(annotation):
        return st.sampled_from(get_args(annotation))
    if annotation is bool:
        return st.booleans()
    bounds = {type(one).__name__: one for one in field.metadata}
    if annotation is int:
        low, high = bounds["Ge"].ge, min(bounds["Le"].le, 160)
        step = bounds["MultipleOf"].multiple_of if "MultipleOf" in bounds else 1
        return st.integers(-(-low // step), high // step).map(lambda number: number * step)
    low = bounds["Ge"].ge if "Ge" in bounds else 0.01
    high = min(bounds["Le"].le if "Le" in bounds else 0.9, 2.0)
    return st.one_of(
        st.sampled_from([0.5, 0.75, 1.0, 1.5, 2.0, 0.7501, 0.76, 0.99]).filter(lambda x: low <= x <= high), st.floats(low, high)
    )


@st.composite
def neighbors(draw: Callable[..., Any], family: str) -> tuple[Architecture, Architecture]:
    """Two architectures of a family that differ in up to three settings, as they are given."""
    row = FAMILIES[family]
    free = [name for name in row.settings.model_fields if name not in SMALL and name not in ("dropout", "convs", "bottlenecks")]
    one = {name: value for name, value in SMALL.items() if name in row.settings.model_fields}
    one |= {name: draw(legal(row.settings, name)) for name in free}
    names = draw(st.lists(st.sampled_from(free), min_size=1, max_size=3, unique=True))
    other = one | {name: draw(legal(row.settings, name)) for name in names}
    return resolve(family, 3, one), resolve(family, 3, other)


@EVERY
def test_two_networks_are_equal_if_and_only_if_their_digests_are(family: str) -> None:
    @MANY
    @given(neighbors(family))
    def holds(pair: tuple[Architecture, Architecture]) -> None:
        one, other = pair
        assert (structure(one) == structure(other)) == (one.digest == other.digest), (one.settings, other.settings)

    holds()


@EVERY
def test_what_is_written_builds_the_network_that_was_given(family: str) -> None:
    """The settings that stand for others make no other network, and stand for themselves."""

    @MANY
    @given(neighbors(family))
    def holds(pair: tuple[Architecture, Architecture]) -> None:
        for architecture in pair:
            assert complete(architecture) == architecture == resolve(family, 3, dict(architecture.settings))

    holds()


CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "no discriminator": (
        "cnn_i2i_bisenet",
        {"discriminator": False},
        {"discriminator": False, "discriminator_width": 8, "discriminator_layers": 1},
    ),
    "cap above every level": ("unet", {}, {"max_width": 512}),
    "cap above every level of a shallow one": ("unet", {"depth": 2}, {"depth": 2, "max_width": 130}),
    "cap and base": ("unet", {"base": 8, "growth": 1.0}, {"base": 64, "max_width": 8}),
    "added skips": ("unetpp", {"skip": "add", "up": "bilinear_1x1"}, {"skip": "add", "up": "bilinear"}),
    "1x1 has no type": ("unet", {"kernel": 1}, {"kernel": 1, "convolution": "dilated", "padding": "reflect"}),
    "1x1 blocks have no type": ("pidnet_s", {"block_kernel": 1}, {"block_kernel": 1, "convolution": "separable"}),
    "planes": ("pidnet_s", {}, {"planes": 31}),
    "factor": ("pidnet_m", {"width4": 0.75}, {"width4": 0.7512}),
    "factor of two branches": ("pidnet_s", {"planes": 24, "side_width": 0.75}, {"planes": 24, "side_width": 0.749}),
    "width of the ResNet": ("cnn_i2i_bisenet", {}, {"width": 1.001}),
    "growth": ("unet", {"base": 16, "depth": 2}, {"base": 16, "depth": 2, "growth": 2.01}),
    "base": ("unet", {"base": 17, "depth": 1}, {"base": 16, "depth": 1, "growth": 2.2}),
}


@pytest.mark.parametrize(("family", "one", "other"), CASES.values(), ids=CASES.keys())
def test_settings_that_make_no_difference_are_in_no_digest(family: str, one: dict[str, Any], other: dict[str, Any]) -> None:
    first, second = resolve(family, 5, one), resolve(family, 5, other)
    assert structure(first) == structure(second) and first == second and first.digest == second.digest


@pytest.mark.parametrize(("family", "one", "other"), CASES.values(), ids=CASES.keys())
def test_what_was_written_before_is_still_read_and_builds_the_same(
    family: str, one: dict[str, Any], other: dict[str, Any]
) -> None:
    before = resolve(family, 5, other, as_written=True)
    assert before.settings | other == before.settings, "as it was given"
    read = Architecture.model_validate(before.canonical())
    assert read.digest == before.digest and structure(read) == structure(resolve(family, 5, one))


@EVERY
def test_published_networks_and_members_of_earlier_spaces_are_written_as_before(family: str) -> None:
    """But for those of which there were two: they have the digest of the one that is kept."""
    assert resolve(family, 5) == resolve(family, 5, as_written=True)
    for name, values in search_space(family, edition=1).items():
        for value in values:
            now, before = resolve(family, 5, {name: value}), resolve(family, 5, {name: value}, as_written=True)
            assert now == before or now.digest == resolve(family, 5).digest, (name, value)


def combinations(family: str, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    space = search_space(family)
    yield from (dict(zip(names, values, strict=True)) for values in itertools.product(*(space[name] for name in names)))


@EVERY
def test_a_dimension_is_searched_if_and_only_if_its_values_differ(family: str) -> None:
    """Each alone with all others as published; those with a condition with all values of what it looks at."""
    space, known = search_space(family), conditions(family)
    for name, values in space.items():
        condition = known.get(name)
        for others in combinations(family, condition.names) if condition else [{}]:
            digests = {resolve(family, 5, {**others, name: value}).digest for value in values}
            makes_a_difference = condition is None or condition.holds(all_settings(resolve(family, 5, others)))
            assert (len(digests) > 1) == makes_a_difference, (name, others)
            assert condition or len(digests) == len(set(values)), name


def test_every_condition_looks_at_what_is_searched() -> None:
    for family in FAMILIES:
        for name, condition in conditions(family).items():
            assert {name, *condition.names} <= search_space(family).keys() and name not in condition.names


@pytest.mark.parametrize("bases", [(128,), (64, 32), (64, 128, 256, 512), (8,)])
def test_the_plainest_factor_is_the_same_for_all_that_give_the_same_widths(bases: tuple[int, ...]) -> None:
    def widths_of(factor: float) -> tuple[int, ...]:
        return tuple(round_width(base * factor) for base in bases)

    found: dict[tuple[int, ...], set[float | None]] = {}
    for step in range(1, 2000):
        widths = widths_of(step / 1000)
        found.setdefault(widths, set()).add(plainest_factor(widths_of, widths, (1.0, 0.75, 0.5), 0.001, 2.0))
    assert len(found) > 1
    for widths, factors in found.items():
        (factor,) = factors
        assert factor is not None and widths_of(factor) == widths
    assert plainest_factor(widths_of, (9,) * len(bases), (1.0,), 0.001, 2.0) is None, "no factor gives a width of 9"
