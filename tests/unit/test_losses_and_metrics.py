"""Losses and mIoU against hand-computed values, invariances, and the traps known from public code."""

import math

import torch
from torch.nn import functional as F

from agentkd.networks.build import build
from agentkd.networks.families import resolve
from agentkd.training.batches import Batch
from agentkd.training.losses import (
    LossSettings,
    bisenet_loss,
    cross_entropy,
    label_edges,
    ohem_cross_entropy,
    paint_labels,
    pidnet_loss,
    soft_dice,
)
from agentkd.training.metrics import SegmentationMetrics, score

IGNORE = 255


def test_ohem_with_every_pixel_ignored_is_zero_and_differentiable() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = ohem_cross_entropy(logits, torch.full((1, 4, 4), IGNORE), IGNORE, threshold=0.9, min_kept=4)
    loss.backward()
    assert float(loss.detach()) == 0 and torch.equal(logits.grad, torch.zeros_like(logits))


def test_ohem_with_ties_is_finite() -> None:
    logits = torch.zeros(1, 3, 4, 4, requires_grad=True)
    loss = ohem_cross_entropy(logits, torch.zeros(1, 4, 4, dtype=torch.long), IGNORE, threshold=0.1, min_kept=4)
    assert math.isclose(float(loss.detach()), math.log(3), rel_tol=1e-6)


def test_ohem_keeps_the_hard_pixels_alone() -> None:
    logits = torch.tensor([[[[9.0, 0.0]], [[0.0, 0.0]]]])
    labels = torch.zeros(1, 1, 2, dtype=torch.long)
    assert math.isclose(float(ohem_cross_entropy(logits, labels, IGNORE, threshold=0.9, min_kept=1)), math.log(2), rel_tol=1e-6)


def test_cross_entropy_masks_ignored_pixels() -> None:
    logits, labels = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    masked = labels.clone()
    masked[:, 2:] = IGNORE
    assert torch.allclose(cross_entropy(logits, masked, IGNORE), F.cross_entropy(logits[:, :, :2], labels[:, :2]))


def test_dice_of_a_perfect_prediction_is_nearly_zero() -> None:
    labels = torch.randint(0, 3, (2, 8, 8))
    logits = F.one_hot(labels, 3).permute(0, 3, 1, 2).float() * 50
    assert float(soft_dice(logits, labels, IGNORE)) < 1e-3


def test_edges_are_where_labels_change() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    assert float(label_edges(labels).sum()) == 0
    labels[:, :, 4:] = 1
    assert label_edges(labels)[0, 0, 0].tolist() == [0, 0, 1, 1, 1, 1, 0, 0]


def test_painted_labels_are_distinct_colors_in_range() -> None:
    colors = paint_labels(torch.arange(5)[None, None], LossSettings(5, IGNORE))[0, :, 0].T
    assert len({tuple(c.tolist()) for c in colors}) == 5
    assert colors.min() >= -1 and colors.max() <= 1


def test_pidnets_loss_is_finite_when_no_boundary_is_confident() -> None:
    outputs = {"logits": torch.randn(2, 3, 8, 8), "p_logits": torch.randn(2, 3, 8, 8), "boundary": torch.full((2, 1, 8, 8), -9.0)}
    batch = Batch(torch.zeros(2, 3, 64, 64), torch.randint(0, 3, (2, 64, 64)))
    terms = pidnet_loss(torch.nn.Identity(), outputs, batch, LossSettings(3, IGNORE))
    assert float(terms["main_on_boundary"]) == 0
    assert all(torch.isfinite(term) for term in terms.values())


def test_the_gan_terms_reach_only_their_own_side() -> None:
    network = build(resolve("cnn_i2i_bisenet", 3, {"width": 0.5, "i2i_width": 16, "context_planes": 32}), seed=1).train()
    batch = Batch(torch.randn(2, 3, 64, 64), torch.randint(0, 3, (2, 64, 64)))
    terms = bisenet_loss(network, network(batch.images), batch, LossSettings(3, IGNORE))
    terms["gan"].backward(retain_graph=True)
    assert all(p.grad is None for p in network.discriminator.parameters())
    network.zero_grad(set_to_none=True)
    terms["discriminator"].backward()
    reached = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None}
    assert reached == {"discriminator"}


def test_miou_equals_brute_force_and_ignores_what_it_should() -> None:
    torch.manual_seed(0)
    labels, predicted = torch.randint(0, 4, (3, 16, 16)), torch.randint(0, 4, (3, 16, 16))
    labels[0, :4] = IGNORE
    metrics = SegmentationMetrics(6, IGNORE)
    for index in range(3):
        metrics.update(F.one_hot(predicted[index : index + 1], 6).permute(0, 3, 1, 2).float(), labels[index : index + 1])
    scores = metrics.scores()
    valid = labels != IGNORE
    expected = []
    for k in range(4):
        truth, found = (labels == k) & valid, (predicted == k) & valid
        expected.append(float((truth & found).sum()) / float((truth | found).sum()))
    assert math.isclose(scores.miou, sum(expected) / 4, rel_tol=1e-12)
    assert scores.class_iou[4:] == (None, None)


def test_miou_is_of_the_dataset_so_duplicated_images_change_nothing() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8))
    once, twice = SegmentationMetrics(3, IGNORE), SegmentationMetrics(3, IGNORE)
    once.update(logits, labels)
    twice.update(torch.cat([logits, logits]), torch.cat([labels, labels]))
    assert once.scores() == twice.scores()


def test_the_one_class_predictor_is_scored_as_if_it_had_predicted() -> None:
    labels = torch.tensor([[[0, 0, 0, 1]]])
    metrics = SegmentationMetrics(2, IGNORE)
    metrics.update(F.one_hot(torch.zeros_like(labels), 2).permute(0, 3, 1, 2).float(), labels)
    assert metrics.scores().one_class_miou == metrics.scores().miou == 0.375


def test_without_a_labelled_pixel_every_score_is_zero() -> None:
    scores = score(torch.zeros(3, 3))
    assert (scores.miou, scores.one_class_miou, scores.class_iou) == (0.0, 0.0, (None, None, None))
