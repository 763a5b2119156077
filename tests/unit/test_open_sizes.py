"""A network that is exported is the same at every size, also where it asks for one: borders, normalization, up-sampling."""

from typing import Any

import pytest
import torch
from lively_networks import lively, pictures
from torch import nn

from agentkd.deploy.inference import Inference, as_program
from agentkd.networks.blocks import InstanceNorm, conv
from agentkd.networks.families import resolve

# Down to maps of one pixel, which have nothing to reflect and no variance.
SIZES = [(32, 32), (33, 47), (64, 64), (97, 130), (128, 65), (301, 96)]
ASKING: dict[str, dict[str, Any]] = {
    "unet": {
        "base": 8,
        "depth": 4,
        "convs": 1,
        "stem_stride": 2,
        "norm": "instance",
        "padding": "reflect",
        "kernel": 5,
        "convolution": "dilated",
    },
    "unetpp": {"base": 8, "depth": 2, "convs": 1, "up": "pixel_shuffle", "padding": "reflect"},
    "cnn_i2i_bisenet": {
        "width": 0.5,
        **dict.fromkeys(("blocks1", "blocks2", "blocks3", "blocks4"), 1),
        "i2i_width": 8,
        "skips": 2,
        "i2i_upsampling": "transpose",
        "padding": "reflect",
    },
    "pidnet_s": {
        "planes": 16,
        "num_blocks": 1,
        "num_blocks3": 1,
        "num_blocks4": 1,
        "bottlenecks": 1,
        "padding": "reflect",
        "block_kernel": 5,
        "convolution": "dilated",
        "upsampling": "nearest",
    },
}


@pytest.mark.parametrize("family", ASKING)
def test_a_program_says_at_every_size_what_the_network_says(family: str) -> None:
    segmenter = lively(resolve(family, 3, ASKING[family]))
    program = as_program(Inference(segmenter)).module()
    for number, size in enumerate(SIZES):
        images = pictures(1 + number % 2, *size)
        with torch.no_grad():
            expected, found = segmenter(images), program(images)
        assert expected.std() > 0.01, "a network that says the same everywhere shows nothing"
        assert torch.allclose(found, expected, atol=1e-4), f"{size}: {(found - expected).abs().max()}"


def test_what_an_own_network_needs_of_sizes_is_needed_of_a_program_as_well() -> None:
    segmenter = lively(resolve("halving_networks:halving", 3))
    assert segmenter.multiple > 1
    program = as_program(Inference(segmenter)).module()
    for sides in ((8, 12), (9, 11)):
        images = pictures(1, *(segmenter.multiple * side for side in sides))
        with torch.no_grad():
            assert torch.allclose(program(images), segmenter(images), atol=1e-5)


class Both(nn.Module):
    """What asks for a size, alone."""

    def __init__(self) -> None:
        super().__init__()
        self.bordered = conv(2, 2, 5, padding="reflect", dilation=2)
        self.norm = InstanceNorm(2, affine=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.bordered(x))


@pytest.mark.parametrize("sides", [(1, 1), (1, 7), (4, 4), (5, 4), (5, 5), (9, 6)])
def test_borders_and_single_pixels_are_computed_both_ways_while_sizes_are_open(
    sides: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    module, x = Both().eval(), torch.randn(2, 2, *sides)
    nn.init.normal_(module.norm.weight)
    expected = module(x)
    monkeypatch.setattr("agentkd.networks.open_sizes.always", lambda condition: False)
    monkeypatch.setattr("agentkd.networks.blocks.is_open", lambda: True)
    assert torch.allclose(module(x), expected, atol=1e-5)
