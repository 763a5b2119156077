"""Places that are called the same in all families, and names of modules."""

import pytest
import torch
from torch import Tensor, nn

from agentkd.errors import ContractError
from agentkd.networks import families
from agentkd.networks.blocks import SegmentationNetwork
from agentkd.networks.build import OwnNetwork, build
from agentkd.training.taps import tapped

MEMBERS = {
    "pidnet_s": [{"planes": 16, "ppm_planes": 16, "head_planes": 16}, {"planes": 16, "pyramid": "dappm", "fusion": "bag"}],
    "cnn_i2i_bisenet": [{"width": 0.25, "skips": 0}, {"width": 0.25, "skips": 2, "stem_stride": 1}],
    "unet": [{"base": 8, "depth": 2}, {"base": 8, "depth": 4, "skip": "add", "stem_stride": 2}],
    "unetpp": [{"base": 8, "depth": 2, "deep_supervision": False}, {"base": 8, "depth": 3, "deep_supervision": False}],
}
PLACES = ("bottleneck", "penultimate")


def networks() -> list[tuple[str, SegmentationNetwork]]:
    return [
        (f"{family} {settings}", build(families.resolve(family, 4, settings), seed=1).eval())
        for family, members in MEMBERS.items()
        for settings in members
    ]


@pytest.mark.parametrize(("name", "network"), networks())
def test_every_member_of_every_family_has_both_places(name: str, network: SegmentationNetwork) -> None:
    with torch.no_grad():
        found = tapped(network, torch.randn(2, 3, 64, 64), PLACES)
    deepest, last = (found[f"tap.{place}"] for place in PLACES)
    assert deepest.dim() == last.dim() == 4 and len(deepest) == len(last) == 2, name
    assert last.shape[-2:] == found["logits"].shape[-2:]
    assert deepest.shape[-1] < last.shape[-1] and deepest.shape[-2] < last.shape[-2]


@pytest.mark.parametrize(("name", "network"), networks())
def test_logits_are_made_of_the_last_place_alone(name: str, network: SegmentationNetwork) -> None:
    handle = network.tappable["penultimate"].register_forward_hook(lambda module, inputs, output: torch.ones_like(output))
    with torch.no_grad():
        one, other = network(torch.randn(2, 3, 64, 64))["logits"]
    handle.remove()
    assert torch.equal(one, other), name


class Named(nn.Module):
    places = {"bottleneck": "body", "penultimate": "body.1"}  # noqa: RUF012, as users write it

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
        self.penultimate = nn.Conv2d(4, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.penultimate(self.body(images))


def test_an_own_network_says_where_its_places_are_and_a_module_of_that_name_goes_before() -> None:
    network = OwnNetwork(Named())
    assert network.tappable["bottleneck"] is network.network.body
    assert network.tappable["penultimate"] is network.network.penultimate


def test_a_place_that_an_own_network_does_not_name_is_refused_like_any_other_tap() -> None:
    network = OwnNetwork(nn.Sequential(nn.Conv2d(3, 2, 1)))
    with pytest.raises(ContractError, match="'tap' differs: teacher has '0', student expects 'bottleneck'"):
        tapped(network, torch.randn(1, 3, 8, 8), ("bottleneck",))
