"""The families' losses, term by term, against the independent reference, on outputs that are sure of themselves in places."""

import pytest
import torch
from reference import losses as reference
from reference.scenarios import BISENET
from torch import Tensor, nn

from agentkd.networks.build import build
from agentkd.networks.families import resolve
from agentkd.training.batches import Batch
from agentkd.training.losses import (
    LOSSES,
    LossSettings,
    balanced_boundary,
    label_edges,
    ohem_cross_entropy,
    paint_labels,
    soft_dice,
)

IGNORE, CLASSES = 255, 5


def drawn(seed: int, *shape: int, scale: float = 6.0) -> Tensor:
    """From undecided to sure: the scale rises over the columns."""
    noise = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return noise * torch.linspace(0.1, scale, shape[-1])


def labels(seed: int, size: int = 32, height: int = 32) -> Tensor:
    """Blocks of four by four pixels, a few of them ignored."""
    random = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, CLASSES, (2, height // 4, size // 4), generator=random)
    blocks[torch.rand(blocks.shape, generator=random) < 0.15] = IGNORE
    return blocks.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)


def compare(name: str, network: nn.Module, outputs: dict[str, Tensor], batch: Batch) -> None:
    found = LOSSES[name](network, outputs, batch, LossSettings(CLASSES, IGNORE))
    expected = reference.LOSSES[name](network, outputs, batch.images, batch.labels, IGNORE, CLASSES)
    assert {term: float(value.detach()) for term, value in found.items()} == pytest.approx(
        {term: float(value.detach()) for term, value in expected.items()}, rel=1e-5, abs=5e-6
    )


@pytest.mark.parametrize("seed", range(3))
def test_pidnet_term_by_term(seed: int) -> None:
    outputs = {
        "logits": drawn(seed, 2, CLASSES, 4, 4),
        "p_logits": drawn(seed + 10, 2, CLASSES, 4, 4),
        "boundary": drawn(seed + 20, 2, 1, 4, 4),
    }
    compare("pidnet", nn.Identity(), outputs, Batch(torch.zeros(2, 3, 32, 32), labels(seed)))


@pytest.mark.parametrize("discriminator", [True, False])
@pytest.mark.parametrize("seed", range(2))
def test_bisenet_term_by_term(seed: int, discriminator: bool) -> None:
    network = build(resolve("cnn_i2i_bisenet", CLASSES, {**BISENET[1], "discriminator": discriminator}), seed=seed).train()
    heads = {
        name: drawn(seed + n, 2, CLASSES, 4, 4) for n, name in enumerate(("logits", "aux16_logits", "aux8_logits", "i2i_logits"))
    }
    outputs = heads | {"picture": torch.tanh(drawn(seed + 9, 2, 3, 4, 4))}
    compare("bisenet", network, outputs, Batch(drawn(seed + 5, 2, 3, 32, 32), labels(seed)))


@pytest.mark.parametrize("heads", [1, 3])
def test_cross_entropy_and_dice_term_by_term(heads: int) -> None:
    each = torch.stack([drawn(seed, 2, CLASSES, 16, 16) for seed in range(heads)])
    outputs = {"logits": each.mean(dim=0)} | ({"deep_logits": each} if heads > 1 else {})
    batch = Batch(torch.zeros(2, 3, 32, 32), labels(1))
    compare("dice", nn.Identity(), outputs, batch)
    compare("cross_entropy", nn.Identity(), outputs, batch)


@pytest.mark.parametrize("threshold", [0.3, 0.7, 0.9])
@pytest.mark.parametrize("at_least", [0, 1, 40, 1000, 10_000])
def test_hard_examples_are_those_of_the_definition(threshold: float, at_least: int) -> None:
    logits, truth = drawn(3, 2, CLASSES, 32, 32, scale=12.0), labels(3)
    found = ohem_cross_entropy(logits, truth, IGNORE, threshold=threshold, min_kept=at_least)
    expected = reference.hard_examples(logits, truth, IGNORE, threshold, min(at_least, int((truth != IGNORE).sum())))
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_edges_are_where_another_label_is_near(width: int) -> None:
    for truth in (labels(4), labels(5, size=24, height=16)):
        assert torch.equal(label_edges(truth, width)[:, 0] > 0, reference.near_another_label(truth, width))


def test_the_boundary_is_weighed_by_the_share_of_the_other_kind() -> None:
    truth = torch.zeros(1, 1, 8, dtype=torch.long)
    truth[..., 6:] = 1  # edges at 4, 5, 6, 7: half; then with one fewer
    even = balanced_boundary(torch.zeros(1, 1, 1, 8), truth)
    assert float(even) == pytest.approx(0.5 * float(torch.log(torch.tensor(2.0))))
    truth = torch.zeros(1, 1, 16, dtype=torch.long)
    truth[..., 14:] = 1
    sure = torch.full((1, 1, 1, 16), -3.0)
    missed, right = torch.log1p(torch.exp(torch.tensor(3.0))), torch.log1p(torch.exp(torch.tensor(-3.0)))
    assert float(balanced_boundary(sure, truth)) == pytest.approx(float((4 * 0.75 * missed + 12 * 0.25 * right) / 16), rel=1e-5)


def test_dice_is_of_the_classes_that_are_there() -> None:
    truth = torch.zeros(1, 2, 2, dtype=torch.long)
    logits = torch.zeros(1, 3, 2, 2)
    assert float(soft_dice(logits, truth, IGNORE)) == pytest.approx(1 - (2 * 4 / 3 + 1) / (4 / 3 + 4 + 1), rel=1e-6)
    some = drawn(1, 1, 3, 2, 2).requires_grad_()
    nothing = soft_dice(some, torch.full_like(truth, IGNORE), IGNORE)
    nothing.backward()
    assert float(nothing.detach()) == 0 and some.grad is not None and not some.grad.any()


@pytest.mark.parametrize("classes", [2, 5, 8, 9, 30])
def test_colors_of_painted_labels_are_those_of_the_definition(classes: int) -> None:
    truth = torch.arange(classes + 1)[None, None].clamp(max=classes)
    truth[truth == classes] = IGNORE
    found = paint_labels(truth, LossSettings(classes, IGNORE))
    assert torch.allclose(found.double(), reference.colors(truth, classes, IGNORE), atol=1e-6)


@pytest.mark.parametrize("wrong", [0, 1])
@pytest.mark.parametrize("name", ["pidnet", "bisenet"])
def test_of_a_network_that_is_nearly_right_the_hardest_share_of_the_pixels_counts(name: str, wrong: int) -> None:
    """Sure of class 1 everywhere, with differences in how sure; so many columns of pixels are of another class."""
    truth = torch.ones(2, 64, 64, dtype=torch.long)
    truth[:, :, :wrong] = 3
    sure = drawn(2, 2, CLASSES, 8, 8, scale=0.5)
    sure[:, 1] += 5.5
    heads = dict.fromkeys(("logits", "p_logits", "aux16_logits", "aux8_logits", "i2i_logits"), sure)
    network = build(resolve("cnn_i2i_bisenet", CLASSES, {**BISENET[1], "discriminator": False}), seed=1)
    outputs = heads | {"boundary": drawn(4, 2, 1, 8, 8), "picture": torch.tanh(drawn(9, 2, 3, 8, 8))}
    compare(name, network, outputs, Batch(torch.zeros(2, 3, 64, 64), truth))
