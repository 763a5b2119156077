"""Objectives as users bring them: some that keep to the contract, and some that break it in one place."""

from collections.abc import Mapping

import torch
from torch import Tensor

from agentkd.knowledge.objectives import Moment, resize

Tensors = Mapping[str, Tensor]


class Absolute:
    """Absolute difference of the logits, mean over valid pixels."""

    def loss(self, student: Tensors, teacher: Tensors, moment: Moment) -> Tensor:
        size = teacher["logits"].shape[-2:]
        return self.mean(self.difference(resize(student["logits"], size), resize(teacher["logits"], size)), moment.valid(size))

    def difference(self, ours: Tensor, theirs: Tensor) -> Tensor:
        return (ours - theirs).abs().mean(dim=1)

    def mean(self, each: Tensor, valid: Tensor) -> Tensor:
        return (each * valid).sum() / valid.sum().clamp(min=1)


class Power(Absolute):
    def __init__(self, power: float) -> None:
        self.power = power

    def difference(self, ours: Tensor, theirs: Tensor) -> Tensor:
        return (ours - theirs).abs().pow(self.power).mean(dim=1)


class FeatureDistance:
    def __init__(self, power: float) -> None:
        self.power = power

    def loss(self, student: Tensors, teacher: Tensors, moment: Moment) -> Tensor:
        theirs = resize(teacher["features.t"], teacher["features.t"].shape[-2:])
        valid = moment.valid(theirs.shape[-2:])
        each = (resize(student["tap.s"], theirs.shape[-2:]) - theirs).abs().pow(self.power).mean(dim=1)
        return (each * valid).sum() / valid.sum().clamp(min=1)


class CrossEntropy(Absolute):
    """Least, but not zero, where both say the same."""

    def difference(self, ours: Tensor, theirs: Tensor) -> Tensor:
        return -(theirs.softmax(dim=1) * ours.log_softmax(dim=1)).sum(dim=1)


class NotOne:
    """Nothing that a student can learn by."""


class Unreduced(Absolute):
    def mean(self, each: Tensor, valid: Tensor) -> Tensor:
        return each * valid


class Detached(Absolute):
    def difference(self, ours: Tensor, theirs: Tensor) -> Tensor:
        return super().difference(ours.detach(), theirs)


class Constant(Absolute):
    def difference(self, ours: Tensor, theirs: Tensor) -> Tensor:
        return super().difference(ours.detach(), theirs) + 0 * ours.sum(dim=1)


class Infinite(Absolute):
    def difference(self, ours: Tensor, theirs: Tensor) -> Tensor:
        return super().difference(ours, theirs) / 0


class WrongGradient(Absolute):
    """Half of what it is made of has no gradient."""

    def difference(self, ours: Tensor, theirs: Tensor) -> Tensor:
        return (ours - theirs).abs()[:, 0] + (ours.detach() - theirs).abs()[:, 1]


class Remembering(Absolute):
    def loss(self, student: Tensors, teacher: Tensors, moment: Moment) -> Tensor:
        calls.append(1)
        return super().loss(student, teacher, moment) * (1 + 1e-3 * len(calls))


class Meddling(Absolute):
    def difference(self, ours: Tensor, theirs: Tensor) -> Tensor:
        found = super().difference(ours, theirs.clone())
        theirs.zero_()
        return found


class Shifted(Absolute):
    def difference(self, ours: Tensor, theirs: Tensor) -> Tensor:
        return super().difference(ours, theirs) + 0.5


class Repelled(Absolute):
    def difference(self, ours: Tensor, theirs: Tensor) -> Tensor:
        return -super().difference(ours, theirs)


class AllCount(Absolute):
    def mean(self, each: Tensor, valid: Tensor) -> Tensor:
        return each.mean() * valid.any()


class MeanOfNothing(Absolute):
    def mean(self, each: Tensor, valid: Tensor) -> Tensor:
        return each[valid].mean()


class Summed(Absolute):
    def mean(self, each: Tensor, valid: Tensor) -> Tensor:
        return (each * valid).sum()


class OneSize(Absolute):
    def loss(self, student: Tensors, teacher: Tensors, moment: Moment) -> Tensor:
        valid = moment.valid(teacher["logits"].shape[-2:])
        return self.mean(self.difference(student["logits"].double(), teacher["logits"].double()), valid)


class Half(Absolute):
    def difference(self, ours: Tensor, theirs: Tensor) -> Tensor:
        return (ours - theirs).pow(8).mean(dim=1) if ours.dtype == torch.float32 else (ours - theirs).pow(2).mean(dim=1)


calls: list[int] = []
