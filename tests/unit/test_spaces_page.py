"""``agentkd space`` and the page that is made of it: what they say is so, and the page is not stale (else: ``make spaces``)."""

import itertools
import json
from pathlib import Path

import pytest
from structures import structure
from typer.testing import CliRunner

from agentkd.architecture import IMAGENET, Normalization
from agentkd.cli import app
from agentkd.errors import ConfigError
from agentkd.networks.build import count_architecture
from agentkd.networks.families import FAMILIES, default_recipe, published_recipe, resolve, search_space
from agentkd.report import spaces
from agentkd.report.spaces import Corner, as_markdown, count_networks, describe

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "spaces.md"


def section(family: str) -> str:
    text = PAGE.read_text(encoding="utf-8")
    assert text.startswith(spaces.HEAD)
    parts = {part.partition("\n")[0]: part for part in text.split("\n## ")[1:]}
    assert list(parts) == list(FAMILIES)
    return parts[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_page_says_of_each_dimension_what_is_so(family: str) -> None:
    """All but what has to be measured."""
    found = [line.split(" | ") for line in section(family).splitlines() if line.startswith("| `")]
    described = describe(family, is_measured=False)
    rows = as_markdown(described).splitlines()
    expected = [line.split(" | ") for line in rows if line.startswith("| `")]
    assert [line[:6] for line in found if len(line) == 8] == [line[:6] for line in expected if len(line) == 8]
    assert [line for line in found if len(line) == 6] == [line for line in expected if len(line) == 6]
    assert rows[2] in section(family).splitlines(), "how large it is, and where its recipe is from"
    assert len(described.dimensions) == len(search_space(family)) == len([line for line in found if len(line) == 8])


def test_the_page_says_what_is_measured() -> None:
    """Of the family that is measured fastest; of the others the network that each space is told by."""
    assert section("unet").rstrip("\n") == as_markdown(describe("unet")).removeprefix("## ").rstrip("\n")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_page_has_the_costs_of_published_networks(family: str) -> None:
    described = describe(family, is_measured=False)
    published = described.replace(corners=(spaces._corner(family, spaces.CLASSES, IMAGENET, "published", {}),))
    (line,) = [line for line in as_markdown(published).splitlines() if line.startswith("| published ")]
    assert line in section(family).splitlines()


def test_the_size_counts_every_network_once() -> None:
    """All of them built, of a few dimensions; what the others add is a factor."""
    names = ("base", "depth", "growth", "max_width")
    space = search_space("unet")
    members = [dict(zip(names, values, strict=True)) for values in itertools.product(*(space[name] for name in names))]
    different = {str(structure(resolve("unet", 5, member))) for member in members}
    ups = [{"up": up, "skip": skip} for up in space["up"] for skip in space["skip"]]
    different_ups = {str(structure(resolve("unet", 5, one))) for one in ups}
    assert (len(members), len(ups), len(different_ups)) == (144, 10, 9)
    free = [name for name in space if name not in (*names, "up", "skip")]
    rest = 1
    for name in free:
        rest *= len(space[name])
    assert count_networks("unet") == len(different) * len(different_ups) * rest


def test_without_a_discriminator_there_is_one_network_and_not_nine() -> None:
    space = search_space("cnn_i2i_bisenet")
    product = 1
    for name, values in space.items():
        product *= len(values) if not name.startswith("discriminator") else 1
    assert count_networks("cnn_i2i_bisenet") == product * (3 * 3 + 1)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs without the measuring."""

    def corner(family: str, num_classes: int, images: Normalization, name: str, settings: dict[str, object]) -> Corner:
        counts = count_architecture(resolve(family, num_classes, settings, images=images))
        return Corner(name=name, settings=settings, total=counts.total, deploy=counts.deploy, macs=2 * counts.deploy)

    monkeypatch.setattr(spaces, "_corner", corner)


@pytest.mark.usefixtures("quick")
def test_corners_are_at_the_edge_and_spans_are_of_one_dimension() -> None:
    described = describe("unet", 3)
    published, fewest, most, *_ = described.corners
    assert published.deploy == count_architecture(resolve("unet", 3)).deploy
    assert (fewest.settings["base"], fewest.settings["depth"], fewest.settings["convolution"]) == (16, 2, "separable")
    assert (most.settings["base"], most.settings["depth"], most.settings["kernel"]) == (64, 5, 5)
    assert fewest.deploy < published.deploy < most.deploy
    base = next(row for row in described.dimensions if row.name == "base")
    assert base.parameters is not None
    assert base.parameters.least == count_architecture(resolve("unet", 3, {"base": 16})).deploy
    assert base.parameters.most == count_architecture(resolve("unet", 3, {"base": 64})).deploy


@pytest.mark.usefixtures("quick")
def test_the_command_says_it_to_people_and_to_programs() -> None:
    said = CliRunner().invoke(app, ["space", "cnn_i2i_bisenet"], catch_exceptions=False).output
    line = next(line for line in said.splitlines() if line.startswith("| `discriminator_width` "))
    condition = "`loss` is not `cross_entropy` and discriminator is true"
    assert f"| 8, 16, 32 | 32 | from 4 to 128 | width of the discriminator | {condition} |" in line
    told = json.loads(
        CliRunner().invoke(app, ["space", "unet", "--classes", "7", "--format", "json"], catch_exceptions=False).output
    )
    assert (told["family"], told["num_classes"], told["recipe_source"]) == ("unet", 7, "")
    momentum = next(row for row in told["recipe"] if row["name"] == "momentum")
    assert momentum["condition"] == "optimizer is sgd" and momentum["published"] == "not used"


@pytest.mark.parametrize("family", ["resnet", "tiny_networks:tiny", ""])
def test_of_what_does_not_come_with_agentkd_it_says_so(family: str) -> None:
    with pytest.raises(ConfigError, match=r"no family .* has a described space; those that come with agentkd: pidnet_s, "):
        describe(family)


def test_a_recipe_is_called_published_where_it_is() -> None:
    for family in ("pidnet_s", "pidnet_m", "pidnet_l", "cnn_i2i_bisenet"):
        assert published_recipe(family) == default_recipe(family) != {}
    for family in ("unet", "unetpp"):
        assert published_recipe(family) == {} and default_recipe(family)["optimizer"] == "adamw"
    assert published_recipe("tiny_networks:tiny") == default_recipe("tiny_networks:tiny") == {}
