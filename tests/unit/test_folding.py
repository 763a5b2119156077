"""A network made ready for inference computes the same with less: without what training needs, normalizations in convolutions."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lively_networks import lively, pictures
from torch import nn

from agentkd.deploy.inference import Inference
from agentkd.errors import ConfigError
from agentkd.networks.blocks import SegmentationNetwork
from agentkd.networks.build import OwnNetwork
from agentkd.networks.families import FAMILIES, resolve
from agentkd.networks.folding import drop_training_parts, fold_normalizations

SMALL: dict[str, dict[str, Any]] = {
    "pidnet_s": {"planes": 16},
    "pidnet_m": {"planes": 16},
    "pidnet_l": {"planes": 16, "num_blocks": 1, "num_blocks3": 1, "num_blocks4": 1},
    "cnn_i2i_bisenet": {"width": 0.5, "i2i_width": 8, "skips": 1},
    "unet": {"base": 8, "depth": 2},
    "unetpp": {"base": 8, "depth": 2, "deep_supervision": True},
}


def normalizations(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folded_network_of_every_family_says_the_same_with_fewer_parts(family: str) -> None:
    segmenter = lively(resolve(family, 4, SMALL[family]))
    before = {name: value.clone() for name, value in segmenter.state_dict().items()}
    inference = Inference(segmenter)
    images = pictures(2, 64, 96)
    with torch.no_grad():
        assert torch.allclose(inference(images), segmenter(images), atol=1e-4)
    assert all(torch.equal(before[name], value) for name, value in segmenter.state_dict().items()), (
        "the network itself was changed"
    )
    kept = {name for name, _ in inference.network.named_parameters()}
    dropped = (*segmenter.network.training_only, *filter(None, [segmenter.network.adversary]))
    assert not [name for name in kept for part in dropped if name.startswith(f"{part}.")]
    assert inference.num_folded > 5 and normalizations(inference.network) < normalizations(segmenter.network)
    if not family.startswith("pidnet"):  # whose heads normalize before they activate and convolve
        assert normalizations(inference.network) == 0


def test_a_network_is_folded_alike_each_time() -> None:
    segmenter = lively(resolve("cnn_i2i_bisenet", 4, SMALL["cnn_i2i_bisenet"]))
    assert len({Inference(segmenter).num_folded for _ in range(8)}) == 1


class Halved(nn.Conv2d):
    """Whose weights are not those that are used."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(input, self.weight / 2, self.bias)


class Case(nn.Module):
    def __init__(self, conv: nn.Module, forward: Callable[["Case", torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.conv, self.norm, self.other, self.does = conv, nn.BatchNorm2d(6), nn.BatchNorm2d(6), forward

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.does(self, images)


def conv(**options: Any) -> nn.Conv2d:
    return nn.Conv2d(3, 6, 3, padding=1, **options)


CASES: dict[str, tuple[nn.Module, Callable[[Case, torch.Tensor], torch.Tensor], int]] = {
    "alone": (conv(), lambda m, x: m.norm(m.conv(x)), 1),
    "in groups": (conv(groups=3, bias=False), lambda m, x: m.norm(m.conv(x)).relu(), 1),
    "transposed": (nn.ConvTranspose2d(3, 6, 2, stride=2), lambda m, x: m.norm(m.conv(x)), 1),
    "transposed in groups": (nn.ConvTranspose2d(3, 6, 2, stride=2, groups=3), lambda m, x: m.norm(m.conv(x)), 0),
    "seen by another too": (conv(), lambda m, x: m.norm(y := m.conv(x)) + y, 0),
    "normalized twice": (conv(), lambda m, x: m.norm(y := m.conv(x)) + m.other(y), 0),
    "seen through a view": (conv(), lambda m, x: m.norm(y := m.conv(x)) + y.mean(dim=1, keepdim=True), 0),
    "not that which it sees": (conv(), lambda m, x: m.norm(m.conv(x).relu()), 0),
    "convolved twice": (conv(), lambda m, x: m.norm(m.conv(x)) + m.conv(x.flip(-1)), 0),
    "of other weights than it has": (Halved(3, 6, 3, padding=1), lambda m, x: m.norm(m.conv(x)), 0),
}


@pytest.mark.parametrize("name", CASES)
def test_only_a_normalization_that_alone_sees_a_convolution_becomes_a_part_of_it(name: str) -> None:
    module, forward, count = CASES[name]
    torch.manual_seed(0)
    network = OwnNetwork(Case(module, forward)).eval()
    for norm in (network.network.norm, network.network.other):
        for value in (norm.weight, norm.bias, norm.running_mean):
            nn.init.normal_(value)
        nn.init.uniform_(norm.running_var, 0.1, 3)
    images = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        expected = network(images)["logits"]
        assert fold_normalizations(network, images) == count
        assert torch.allclose(network(images)["logits"], expected, atol=1e-5)


def test_a_convolution_that_is_an_answer_itself_stays_as_it_is() -> None:
    class Answering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = conv(), nn.BatchNorm2d(6)
            nn.init.uniform_(self.norm.running_var, 0.1, 3)

        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            raw = self.conv(images)
            return {"logits": self.norm(raw), "raw": raw}

    network = OwnNetwork(Answering()).eval()
    images = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        expected = network(images)["raw"]
        assert fold_normalizations(network, images) == 0 and torch.equal(network(images)["raw"], expected)


def test_weights_that_two_convolutions_share_stay_as_they_are() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.norm = conv(), conv(), nn.BatchNorm2d(6)
            self.two.weight = self.one.weight
            nn.init.uniform_(self.norm.running_var, 0.1, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.one(x)) + self.two(x)

    network = OwnNetwork(Twice()).eval()
    images = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        expected = network(images)["logits"]
        assert fold_normalizations(network, images) == 0 and torch.equal(network(images)["logits"], expected)


def test_an_own_network_that_needs_what_it_calls_for_training_alone_is_told_so() -> None:
    class Wrong(SegmentationNetwork):
        training_only = ("extra",)

        def __init__(self) -> None:
            super().__init__()
            self.extra, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)

        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": self.head(self.extra(images))}

    segmenter = lively(resolve("unet", 3, SMALL["unet"]))
    segmenter.network = Wrong().eval()
    with pytest.raises(ConfigError, match=r"cannot be made ready for inference.*NoneType"):
        Inference(segmenter)
    network = Wrong()
    drop_training_parts(network)
    assert network.extra is None
