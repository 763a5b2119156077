"""Each family's published network against an independent reference (``tests/reference``), heads included, in both modes."""

import json
from pathlib import Path

import pytest
import torch
from reference import bisenet, pidnet, published, unets
from torch import Tensor, nn

from agentkd.networks.blocks import SegmentationNetwork
from agentkd.networks.build import build
from agentkd.networks.checkpoints import read_checkpoint
from agentkd.networks.families import FAMILIES, resolve
from agentkd.networks.weights import import_weights

GOLDEN = Path(__file__).parents[1] / "golden" / "networks"
CLASSES = 5
MODES = pytest.mark.parametrize("is_training", [False, True], ids=["evaluation", "training"])
# Whole cells, and sizes whose halves are odd at one stride or another.
SIZES = pytest.mark.parametrize("size", [(64, 96), (75, 101)], ids=["64x96", "75x101"])
NAMES = {
    "pidnet_s": {"logits", "p_logits", "boundary"},
    "pidnet_m": {"logits", "p_logits", "boundary"},
    "pidnet_l": {"logits", "p_logits", "boundary"},
    "cnn_i2i_bisenet": {"logits", "aux16_logits", "aux8_logits", "i2i_logits", "picture"},
    "unet": {"logits"},
    "unetpp": {"logits"},
    "unetpp with deep supervision": {"logits", "deep_logits"},
}


def drawn_network(family: str) -> SegmentationNetwork:
    """In float64, with scales, shifts and kept statistics that are not those of a new network."""
    name, _, with_heads = family.partition(" with ")
    settings = {"base": 8} if name == "unetpp" else {}  # its nodes are many
    network = build(resolve(name, CLASSES, settings | ({"deep_supervision": True} if with_heads else {})), seed=5).double()
    random = torch.Generator().manual_seed(6)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.3, 0.3),
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 1.5),
            ):
                assert tensor is not None
                tensor.data.uniform_(low, high, generator=random)
    return network


def expected(family: str, network: SegmentationNetwork, images: Tensor, *, is_training: bool) -> dict[str, Tensor]:
    state = {name: value.clone() for name, value in network.state_dict().items()}
    if family in pidnet.SIZES:
        return pidnet.forward(state, images, pidnet.SIZES[family], is_training=is_training)
    if family == "cnn_i2i_bisenet":
        return bisenet.forward(state, images, is_training=is_training)
    if family == "unet":
        return unets.unet(state, images, 4, is_training=is_training)
    columns = (1, 2, 3, 4) if "deep" in family else (4,)
    return unets.unetpp(state, images, 4, is_training=is_training, columns=columns)


def error(found: Tensor, right: Tensor) -> float:
    """The largest difference, as a part of the largest value."""
    assert found.shape == right.shape
    return float((found - right).abs().max() / right.abs().max())


@SIZES
@MODES
@pytest.mark.parametrize("family", NAMES)
def test_every_head_says_what_the_published_network_says(family: str, is_training: bool, size: tuple[int, int]) -> None:
    network = drawn_network(family).train(is_training)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    with torch.no_grad():
        right = expected(family, network, images, is_training=is_training)
        assert is_training or set(network(images)) == {"logits"}
        network.training = True  # the heads; normalization stays in its mode
        found = network(images)
    assert set(found) == NAMES[family]
    assert {name: error(found[name], right[name]) < 1e-9 for name in found} == dict.fromkeys(found, True)


def test_every_family_has_a_reference() -> None:
    assert {name.partition(" with ")[0] for name in NAMES} == set(FAMILIES)


@MODES
def test_the_discriminator_says_what_the_published_one_says(is_training: bool) -> None:
    network = drawn_network("cnn_i2i_bisenet").train(is_training)
    random = torch.Generator().manual_seed(8)
    image, picture = (torch.randn(2, 3, 40, 48, generator=random, dtype=torch.float64) for _ in range(2))
    with torch.no_grad():
        right = bisenet.judged(dict(network.state_dict()), image, picture, is_training=is_training)
        assert network.discriminator is not None
        found = network.get_submodule("discriminator")(image, picture)
    assert error(found, right) < 1e-9


@MODES
@pytest.mark.parametrize("family", pidnet.SIZES)
def test_pidnet_with_imported_weights_says_what_the_published_code_said(family: str, is_training: bool, tmp_path: Path) -> None:
    told = json.loads((GOLDEN / "pidnet.json").read_text(encoding="utf-8"))
    assert "github.com/XuJiacong/PIDNet" in told["origin"]
    network = build(resolve(family, CLASSES), seed=1).double().train(is_training)
    theirs = published.filled(network.state_dict())
    torch.save({"state_dict": {f"model.{name}": value for name, value in theirs.items()}}, tmp_path / "published.pt")
    report = import_weights(network, read_checkpoint(tmp_path / "published.pt"))
    assert set(report.loaded) == set(theirs)
    network.training = True
    with torch.no_grad():
        outputs = network(published.images())
    for name, right in told["networks"][family]["training" if is_training else "evaluation"].items():
        found = published.sampled(outputs[name])
        assert found.pop("shape") == right.pop("shape")
        assert found == {what: pytest.approx(value, rel=1e-8, abs=1e-9) for what, value in right.items()}, name
