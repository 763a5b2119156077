"""Types of convolutions, paddings and strides: each choice is built, runs at any size, trains, and is counted right."""

import itertools
from typing import Any

import pytest
import torch
from structures import structure
from torch import Tensor, nn
from torch.nn import functional as F

from agentkd.architecture import Architecture
from agentkd.networks.blocks import CONVOLUTIONS, SegmentationNetwork, SeparableConv, conv, kaiming_init
from agentkd.networks.build import build, count_architecture
from agentkd.networks.cost import measure_cost
from agentkd.networks.families import FAMILIES, all_settings, resolve, search_space
from agentkd.training.batches import Batch
from agentkd.training.losses import LOSSES, LossSettings

CLASSES = 3
LAYERS = ("convolution", "padding")
STRIDES = {
    "pidnet_s": ("stem_stride", "context_stride"),
    "pidnet_l": ("stem_stride", "context_stride"),
    "cnn_i2i_bisenet": ("stem_stride", "context_stride", "spatial_stride"),
    "unet": ("stem_stride", "down"),
    "unetpp": ("stem_stride", "down"),
}
PIDNET: dict[str, Any] = {"planes": 8, "num_blocks": 1, "num_blocks3": 1, "num_blocks4": 1, "ppm_planes": 8, "head_planes": 8}
SMALL: dict[str, dict[str, Any]] = {
    "pidnet_s": PIDNET,
    "pidnet_l": PIDNET,
    "cnn_i2i_bisenet": {"width": 0.125, "i2i_width": 8, "context_planes": 16, "spatial_planes": 8, "discriminator_width": 4},
    "unet": {"base": 8, "depth": 3, "convs": 1},
    "unetpp": {"base": 8, "depth": 2, "convs": 1, "deep_supervision": True},
}
SIZES = ((33, 47), (64, 64), (75, 101), (32, 32), (72, 104))


def corners() -> list[tuple[str, dict[str, Any]]]:
    found = []
    for family, strides in STRIDES.items():
        space = search_space(family)
        names = (*LAYERS, *strides)
        for values in itertools.product(*(space[name] for name in names)):
            found.append((family, dict(zip(names, values, strict=True))))
    return found


def stride_of(family: str, settings: dict[str, Any]) -> int:
    """Of the logits."""
    if family.startswith("unet"):
        return int(settings["stem_stride"])
    return 4 * int(settings["stem_stride"])


@pytest.mark.parametrize("family", STRIDES)
def test_every_combination_trains_and_evaluates_at_any_size(family: str) -> None:
    loss = LOSSES[FAMILIES[family].loss]
    for number, (_, settings) in enumerate(one for one in corners() if one[0] == family):
        height, width = SIZES[number % len(SIZES)]
        network = build(resolve(family, CLASSES, SMALL[family] | settings), seed=1)
        torch.manual_seed(number)
        batch = Batch(torch.randn(2, 3, height, width), torch.randint(0, CLASSES, (2, height, width)))
        terms = loss(network, network.train()(batch.images), batch, LossSettings(CLASSES, 255))
        total = torch.stack(list(terms.values())).sum()
        total.backward()
        assert torch.isfinite(total), settings
        left = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert not left, (settings, left)
        with torch.no_grad():
            logits = network.eval()(batch.images[:1])["logits"]
        stride = stride_of(family, settings)
        assert logits.shape == (1, CLASSES, -(-height // stride), -(-width // stride)) and logits.isfinite().all(), settings


def counted_by_hand(network: SegmentationNetwork, height: int, width: int) -> int:
    """MACs from the shapes that each convolution really sees: its weights once for each place of its output, or of its input."""
    found = 0

    def note(module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        nonlocal found
        assert isinstance(module, CONVOLUTIONS)
        at = given[0] if isinstance(module, nn.ConvTranspose2d) else made
        found += at.shape[-2] * at.shape[-1] * module.weight.numel()

    hooks = [m.register_forward_hook(note) for m in network.modules() if isinstance(m, CONVOLUTIONS)]
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, height, width))
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("family", STRIDES)
def test_every_combination_is_counted_as_by_hand(family: str) -> None:
    for number, (_, settings) in enumerate(one for one in corners() if one[0] == family):
        if number % 7:  # every value of every choice is in those that are left
            continue
        architecture = resolve(family, CLASSES, SMALL[family] | settings)
        cost = measure_cost(architecture, 64, 96)
        assert cost.num_macs == counted_by_hand(build(architecture, seed=1), 64, 96), settings
        assert cost.uncounted_operations == (), settings


def block_of(settings: dict[str, Any]) -> Architecture:
    return resolve("unet", 5, {"base": 8, "depth": 1, "convs": 1, "norm": "none", **settings})


# A U-Net of one level less: 3 -> 8 -> 16 channels, up to 8, 8 + 8 -> 8, and a head of 5.
REST = (16 * 8 * 4 + 8) + (8 * 5 + 5)
PARAMETERS = {
    "standard": (3 * 8 * 9 + 8) + (8 * 16 * 9 + 16) + (16 * 8 * 9 + 8) + REST,
    "dilated": (3 * 8 * 9 + 8) + (8 * 16 * 9 + 16) + (16 * 8 * 9 + 8) + REST,
    "separable": (3 * 9 + 3 * 8 + 8) + (8 * 9 + 8 * 16 + 16) + (16 * 9 + 16 * 8 + 8) + REST,
}
PIXELS = 64 * 64
MACS = {
    ("standard", 1): PIXELS * (3 * 8 * 9 + 16 * 8 * 9 + 8 * 5) + PIXELS // 4 * (8 * 16 * 9 + 16 * 8 * 4),
    ("separable", 1): PIXELS * (3 * 9 + 3 * 8 + 16 * 9 + 16 * 8 + 8 * 5) + PIXELS // 4 * (8 * 9 + 8 * 16 + 16 * 8 * 4),
    ("standard", 2): PIXELS // 4 * (3 * 8 * 9 + 16 * 8 * 9 + 8 * 5) + PIXELS // 16 * (8 * 16 * 9 + 16 * 8 * 4),
}


@pytest.mark.parametrize(("convolution", "parameters"), PARAMETERS.items())
def test_parameters_are_those_that_one_counts(convolution: str, parameters: int) -> None:
    assert count_architecture(block_of({"convolution": convolution})).total == parameters


@pytest.mark.parametrize(("settings", "macs"), MACS.items(), ids=str)
def test_multiplications_are_those_that_one_counts(settings: tuple[str, int], macs: int) -> None:
    convolution, stride = settings
    for more in ({}, {"padding": "reflect"}, {"down": "stride"}):
        assert measure_cost(block_of({"convolution": convolution, "stem_stride": stride, **more}), 64, 64).num_macs == macs


def test_paddings_and_dilation_cost_nothing_and_change_no_names() -> None:
    for family in FAMILIES:
        plain = build(resolve(family, 3, SMALL.get(family, PIDNET)), seed=1).state_dict()
        for settings in ({"padding": "reflect"}, {"padding": "replicate"}, {"convolution": "dilated"}):
            other = build(resolve(family, 3, SMALL.get(family, PIDNET) | settings), seed=1).state_dict()
            assert list(plain) == list(other) and all(torch.equal(plain[name], other[name]) for name in plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_published_network_has_none_of_it_in_its_digest(family: str) -> None:
    architecture = resolve(family, 5)
    new = {"convolution": "standard", "padding": "zeros"}
    if family.startswith("unet"):
        new |= {"stem_stride": 1, "down": "pool"}
    if family == "cnn_i2i_bisenet":
        new |= {"stem_stride": 2, "context_stride": 2, "spatial_stride": 2}
    assert not new.keys() & architecture.settings.keys()
    assert resolve(family, 5, new) == architecture and new.items() <= all_settings(architecture).items()
    for name, value in {"convolution": "separable", "padding": "reflect"}.items():
        other = resolve(family, 5, {name: value})
        assert other.settings == architecture.settings | {name: value} and other.digest != architecture.digest
        assert structure(other) != structure(architecture)


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
@pytest.mark.parametrize(("kernel", "dilation", "stride"), [(3, 1, 1), (5, 1, 2), (3, 2, 1), (5, 2, 2)])
def test_a_border_is_what_its_name_says(mode: str, kernel: int, dilation: int, stride: int) -> None:
    layer = conv(2, 3, kernel, stride, padding=mode, dilation=dilation)  # type: ignore[arg-type]
    for size in ((9, 11), (8, 12)):
        x, border = torch.randn(1, 2, *size), dilation * (kernel // 2)
        expected = F.conv2d(F.pad(x, (border,) * 4, mode=mode), layer.weight, None, stride, 0, dilation)
        assert torch.equal(layer(x), expected) and expected.shape[-2:] == tuple(-(-n // stride) for n in size)
    small = torch.randn(1, 2, 1, 4)
    border = dilation * (kernel // 2)
    around = "constant" if mode == "reflect" else mode
    assert torch.allclose(
        layer(small), F.conv2d(F.pad(small, (border,) * 4, mode=around), layer.weight, None, stride, 0, dilation)
    )


def test_a_separable_convolution_begins_with_the_variance_of_what_it_is_given() -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(SeparableConv(64, 64, 3, 1, bias=False, padding="replicate"))
    for mode in ("fan_out", "fan_in"):
        kaiming_init(layer, mode)
        x = torch.randn(4, 64, 32, 32)
        inside = layer[0].depthwise(x)  # type: ignore[union-attr,operator]
        assert 0.8 < float(inside.std()) < 1.25 and 1.1 < float(layer(x).std()) < 1.8, mode
