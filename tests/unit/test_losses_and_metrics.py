"""Losses and mIoU against hand-computed values, invariances, and the traps known from public code."""

import math

import pytest
import torch
from torch.nn import functional as F

from agentkd.knowledge.soft_targets import SoftTargets
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
from agentkd.training.metrics import SegmentationMetrics

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
    colors = paint_labels(torch.arange(5)[None, None], LossSettings(5))[0, :, 0].T
    assert len({tuple(c.tolist()) for c in colors}) == 5
    assert colors.min() >= -1 and colors.max() <= 1


def test_pidnets_loss_is_finite_when_no_boundary_is_confident() -> None:
    outputs = {"logits": torch.randn(2, 3, 8, 8), "p_logits": torch.randn(2, 3, 8, 8), "boundary": torch.full((2, 1, 8, 8), -9.0)}
    batch = Batch(torch.zeros(2, 3, 64, 64), torch.randint(0, 3, (2, 64, 64)))
    terms = pidnet_loss(torch.nn.Identity(), outputs, batch, LossSettings(3))
    assert float(terms["main_on_boundary"]) == 0
    assert all(torch.isfinite(term) for term in terms.values())


def test_the_gan_terms_reach_only_their_own_side() -> None:
    network = build(resolve("cnn_i2i_bisenet", 3, {"width": 0.5, "i2i_width": 16, "context_planes": 32}), seed=1).train()
    batch = Batch(torch.randn(2, 3, 64, 64), torch.randint(0, 3, (2, 64, 64)))
    terms = bisenet_loss(network, network(batch.images), batch, LossSettings(3))
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


class TestSoftTargets:
    labels = torch.zeros(2, 4, 4, dtype=torch.long)

    def test_gradcheck(self) -> None:
        teacher = torch.randn(2, 3, 2, 2, dtype=torch.float64)
        student = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
        objective = SoftTargets(temperature=2)
        assert torch.autograd.gradcheck(lambda s: objective.loss(s, (teacher,), self.labels, IGNORE), student)

    def test_a_hand_computed_value(self) -> None:
        teacher = torch.tensor([math.log(3.0), 0.0]).reshape(1, 2, 1, 1)
        student = torch.zeros(1, 2, 1, 1)
        expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
        loss = SoftTargets(temperature=1).loss(student, (teacher,), torch.zeros(1, 1, 1, dtype=torch.long), IGNORE)
        assert math.isclose(float(loss), expected, rel_tol=1e-6)

    def test_equality_gives_zero(self) -> None:
        logits = torch.randn(2, 3, 4, 4)
        assert abs(float(SoftTargets().loss(logits, (logits,), self.labels, IGNORE))) < 1e-6

    def test_tau_squared_is_a_setting(self) -> None:
        student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
        plain = SoftTargets(4, scale_by_temperature_squared=False).loss(student, (teacher,), self.labels, IGNORE)
        scaled = SoftTargets(4, scale_by_temperature_squared=True).loss(student, (teacher,), self.labels, IGNORE)
        assert torch.allclose(scaled, 16 * plain)

    def test_duplicated_and_tiled_images_change_nothing(self) -> None:
        student, teacher = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 3, 4, 4, dtype=torch.float64)
        objective = SoftTargets(3)
        one = objective.loss(student, (teacher,), self.labels, IGNORE)
        for repeat in ((2, 1, 1, 1), (1, 1, 2, 2)):
            labels = self.labels.repeat(repeat[0], repeat[2], repeat[3])
            assert torch.allclose(one, objective.loss(student.repeat(repeat), (teacher.repeat(repeat),), labels, IGNORE))

    def test_ignored_pixels_do_not_count(self) -> None:
        student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
        labels = self.labels.clone()
        labels[:, :, 2:] = IGNORE
        whole = SoftTargets().loss(student, (teacher,), labels, IGNORE)
        part = SoftTargets().loss(student[..., :2], (teacher[..., :2],), self.labels[..., :2], IGNORE)
        assert torch.allclose(whole, part)

    def test_several_teachers_average_probabilities_not_logits(self) -> None:
        loud, soft = torch.tensor([9.0, 0.0]).reshape(1, 2, 1, 1), torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1)
        mean = (loud.softmax(1) + soft.softmax(1)) / 2
        labels = torch.zeros(1, 1, 1, dtype=torch.long)
        at_mean = SoftTargets(1).loss(mean.log(), (loud, soft), labels, IGNORE)
        assert abs(float(at_mean)) < 1e-6

    def test_half_precision_stays_finite_for_extreme_logits(self) -> None:
        teacher = SoftTargets().teach(torch.tensor([1e6, -1e6]).reshape(1, 2, 1, 1))
        student = torch.tensor([-5e4, 5e4]).reshape(1, 2, 1, 1).half()
        assert torch.isfinite(SoftTargets().loss(student, (teacher,), torch.zeros(1, 1, 1, dtype=torch.long), IGNORE))

    @pytest.mark.parametrize("resolution", ["full", "native"])
    def test_teach_then_loss_is_the_one_process_formula_bit_for_bit(self, resolution) -> None:
        objective = SoftTargets(2, resolution=resolution, codec="float32")
        student, teacher = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 4, 4)
        labels = torch.randint(0, 3, (2, 16, 16))
        size = (16, 16) if resolution == "full" else (8, 8)
        s, t = (
            F.interpolate(x, size=size, mode="bilinear", align_corners=False) if x.shape[-1] != size[0] else x
            for x in (student, teacher)
        )
        ls, lt = F.log_softmax(s / 2, dim=1), F.log_softmax(t / 2, dim=1)
        ones = torch.ones(2, *size)
        direct = ((lt.exp() * (lt - ls)).sum(dim=1) * ones).sum() / ones.sum() * 4
        assert torch.equal(objective.loss(student, (objective.teach(teacher),), labels, IGNORE), direct)
