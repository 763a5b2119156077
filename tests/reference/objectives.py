"""Every distillation objective as its paper states it, in float64, from the definitions in agentkd's documents alone.

A teacher's payload here is what the network gave, before any reduction: its logits, or the features of a tap. What is lost on
the way (float16, int8) is lost in ``sent``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from reference.losses import enlarged, near_another_label, size_of
from torch import Tensor
from torch.nn import functional as F

Plain = Mapping[str, Any]
TILE = 8


@dataclass(frozen=True)
class Teacher:
    """What one teacher made of a batch, and how it is told apart from the others."""

    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)
    share: float = 1.0
    class_shares: tuple[float, ...] = ()
    energies: tuple[float, float] | None = None


@dataclass(frozen=True)
class Student:
    """What the student made of it; ``projected`` by number of the teacher and the student's tap."""

    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)
    projected: Mapping[tuple[int, str], Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Truth:
    """Labels [N,H,W], which of their pixels count, how far the training is, and who teaches which image, if that is decided."""

    labels: Tensor
    counts: Tensor
    progress: float = 0.0
    teacher_of: tuple[int, ...] = ()


def sent(x: Tensor, codec: str, *, is_logits: bool) -> Tensor:
    """What arrives of a payload: rounded to 16 bits, or to 255 steps of the largest of each image and channel."""
    if codec == "float16":
        return x.half().double()
    if codec == "int8" and x.dim() == 4:
        x = x.double()
        x = x - x.mean(dim=1, keepdim=True) if is_logits else x
        step = x.abs().amax(dim=(2, 3), keepdim=True) / 127
        return torch.round(x / step) * step
    assert codec in ("float32", "int8")
    return x.double() if codec == "float32" else x.half().double()


def at_size(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels or masks at another size: the pixel at the top left of each cell."""
    rows = (torch.arange(size[0]) * x.shape[1]) // size[0]
    columns = (torch.arange(size[1]) * x.shape[2]) // size[1]
    return x[:, rows][:, :, columns]


def probabilities(teachers: Sequence[Teacher], size: tuple[int, int], tau: float, truth: Truth) -> Tensor:
    """The teachers' mean by shares, or at each pixel what the one says who is to teach it."""
    each = torch.stack([torch.softmax(enlarged(t.logits, size) / tau, dim=1) for t in teachers])
    if len(teachers) == 1:
        return each[0]
    if truth.teacher_of:
        return torch.stack([each[who, image] for image, who in enumerate(truth.teacher_of)])
    if teachers[0].class_shares:
        knows = [
            sum(torch.softmax(enlarged(t.logits, size), dim=1)[:, k] * share for k, share in enumerate(t.class_shares))
            for t in teachers
        ]
        return chosen(each, torch.stack(knows).argmax(dim=0))
    if teachers[0].energies:
        strange = []
        for t in teachers:
            assert t.energies
            median, high = t.energies
            strange.append((-torch.logsumexp(enlarged(t.logits, size), dim=1) - median) / (high - median))
        best = torch.zeros(each.shape[1], *size, dtype=torch.long)
        for top in range(0, size[0], TILE):
            for left in range(0, size[1], TILE):
                tile = (slice(None), slice(top, top + TILE), slice(left, left + TILE))
                best[tile] = torch.stack([s[tile].mean(dim=(1, 2)) for s in strange]).argmin(dim=0)[:, None, None]
        return chosen(each, best)
    whole = sum(t.share for t in teachers)
    return sum(p * t.share / whole for p, t in zip(each, teachers, strict=True))


def chosen(each: Tensor, who: Tensor) -> Tensor:
    return sum(p * (who == index)[:, None] for index, p in enumerate(each))


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) over the second dimension."""
    return (p * (torch.log(p) - torch.log(q))).sum(dim=1)


def mean_where(values: Tensor, mask: Tensor) -> Tensor:
    return values[mask].mean() if bool(mask.any()) else 0.0 * values.sum()


def soft_targets(o: Plain, student: Student, teachers: Sequence[Teacher], truth: Truth) -> Tensor:
    tau = o["temperature"]
    size = size_of(truth.labels) if o["resolution"] == "full" else size_of(student.logits)
    own = student.logits.double()
    if o["standardize"]:
        own = standardized(own)
        teachers = [Teacher(standardized(t.logits.double()), share=t.share) for t in teachers]
    p = probabilities(teachers, size, tau, truth)
    each = divergence(p, torch.softmax(enlarged(own, size) / tau, dim=1))
    labels, counts = at_size(truth.labels, size), at_size(truth.counts, size)
    if o["gate"] == "correct":
        each = each * (p.argmax(dim=1) == labels)
    if o["gate"] == "confidence":
        each = each * (p.amax(dim=1) >= o["gate_at"])
    if o["gate"] == "cutoff":
        each = each * (1.0 if truth.progress < o["gate_at"] else 0.0)
    if o["gate"] == "linear":
        each = each * (1 - truth.progress)
    return mean_where(each, counts) * (tau * tau if o["scale_by_temperature_squared"] else 1.0)


def standardized(logits: Tensor) -> Tensor:
    return (logits - logits.mean(dim=1, keepdim=True)) / logits.std(dim=1, keepdim=True, correction=0)


def boundary(o: Plain, student: Student, teachers: Sequence[Teacher], truth: Truth) -> Tensor:
    tau, size = o["temperature"], size_of(truth.labels)
    p = probabilities(teachers, size, tau, truth)
    each = divergence(p, torch.softmax(enlarged(student.logits, size) / tau, dim=1))
    return mean_where(each, near_another_label(truth.labels, o["width"]) & truth.counts) * tau * tau


def dkd(o: Plain, student: Student, teachers: Sequence[Teacher], truth: Truth) -> Tensor:
    """Over the pixels that count: KL of (target, all others), and KL of the others among themselves."""
    tau, size = o["temperature"], size_of(truth.labels)
    p = probabilities(teachers, size, tau, truth).permute(0, 2, 3, 1)[truth.counts]
    q = torch.softmax(enlarged(student.logits, size) / tau, dim=1).permute(0, 2, 3, 1)[truth.counts]
    is_target = torch.zeros_like(p, dtype=torch.bool)
    is_target[torch.arange(len(p)), truth.labels[truth.counts]] = True
    (target_p, rest_p), (target_q, rest_q) = ((x[is_target][:, None], x[~is_target].reshape(len(x), -1)) for x in (p, q))
    against = divergence(torch.cat([target_p, 1 - target_p], dim=1), torch.cat([target_q, 1 - target_q], dim=1))
    among = divergence(rest_p / rest_p.sum(dim=1, keepdim=True), rest_q / rest_q.sum(dim=1, keepdim=True))
    return (o["target"] * against + o["rest"] * among).mean() * tau * tau


def dist(o: Plain, student: Student, teachers: Sequence[Teacher], truth: Truth) -> Tensor:
    tau, size = o["temperature"], size_of(truth.labels)
    p = probabilities(teachers, size, tau, truth).permute(0, 2, 3, 1)[truth.counts]
    q = torch.softmax(enlarged(student.logits, size) / tau, dim=1).permute(0, 2, 3, 1)[truth.counts]
    over_classes = 1 - pearson(p, q).mean()
    over_pixels = 1 - pearson(p.T, q.T).mean()
    return o["beta"] * over_classes + o["gamma"] * over_pixels


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Of each row."""
    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    return (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1))


def channel(o: Plain, student: Student, teachers: Sequence[Teacher], truth: Truth) -> Tensor:
    """tau^2 / C times the sum over channels of the KL between softmaxes over an image's places, mean over images."""
    tau = o["temperature"]

    def one(own: Tensor, their: Tensor) -> Tensor:
        counts, images = at_size(truth.counts, size_of(their)), []
        own = enlarged(own, size_of(their))
        for image in range(len(their)):
            p = torch.softmax(their[image].double()[:, counts[image]] / tau, dim=1)
            q = torch.softmax(own[image][:, counts[image]] / tau, dim=1)
            images.append(divergence(p, q).sum() / len(p))
        return torch.stack(images).mean() * tau * tau

    if not o["taps"]:
        return by_shares([one(student.logits, t.logits) for t in teachers], teachers)
    return tapped(o, student, teachers, one, projected=True)


def tapped(o: Plain, student: Student, teachers: Sequence[Teacher], one: Any, *, projected: bool) -> Tensor:
    """The sum over the taps of each teacher, and the mean over teachers by their shares."""
    each = []
    for index, teacher in enumerate(teachers):
        own = {tap: student.projected[index, tap] if projected else student.features[tap] for tap in o["taps"]}
        each.append(sum(one(own[tap], teacher.features[its]) for tap, its in o["taps"].items()))
    return by_shares(each, teachers)


def by_shares(each: Sequence[Tensor], teachers: Sequence[Teacher]) -> Tensor:
    return sum(value * t.share for value, t in zip(each, teachers, strict=True)) / sum(t.share for t in teachers)


def features(o: Plain, student: Student, teachers: Sequence[Teacher], truth: Truth) -> Tensor:
    def one(own: Tensor, their: Tensor) -> Tensor:
        counts = at_size(truth.counts, size_of(their))
        a, b = (x.permute(0, 2, 3, 1)[counts] for x in (enlarged(own, size_of(their)), their.double()))
        if o["standardize"]:
            a, b = ((x - x.mean(dim=0)) / torch.sqrt(x.var(dim=0, correction=0) + 1e-8) for x in (a, b))
        return ((a - b) ** 2).mean()

    return tapped(o, student, teachers, one, projected=True)


def attention(o: Plain, student: Student, teachers: Sequence[Teacher], truth: Truth) -> Tensor:
    """The map is the mean over channels of the squares; it travels, so what a codec loses is lost from the map."""

    def one(own: Tensor, their: Tensor) -> Tensor:
        counts = at_size(truth.counts, size_of(their))
        mine = enlarged((own.double() ** 2).mean(dim=1, keepdim=True), size_of(their))[:, 0]
        images = [
            ((a[c] / a[c].norm() - b[c] / b[c].norm()) ** 2).sum() for a, b, c in zip(mine, their.double(), counts, strict=True)
        ]
        return torch.stack(images).mean()

    return tapped(o, student, teachers, one, projected=False)


def cosines(x: Tensor) -> Tensor:
    """Between all places of an image: [N,P,P]."""
    flat = x.double().flatten(2)
    flat = flat / flat.norm(dim=1, keepdim=True)
    return flat.transpose(1, 2) @ flat


def pairwise(o: Plain, student: Student, teachers: Sequence[Teacher], truth: Truth) -> Tensor:
    """``their`` are the cosines [N,P,P] of the teacher's features pooled to the grid."""

    def one(own: Tensor, their: tuple[Tensor, tuple[int, int]]) -> Tensor:
        similarity, grid = their
        counts = at_size(truth.counts, grid).flatten(1)
        mine = cosines(F.adaptive_avg_pool2d(own.double(), grid))
        return mean_where((mine - similarity.double()) ** 2, counts[:, :, None] & counts[:, None, :])

    return tapped(o, student, teachers, one, projected=False)


def ifvd(o: Plain, student: Student, teachers: Sequence[Teacher], truth: Truth) -> Tensor:
    def one(own: Tensor, their: Tensor) -> Tensor:
        size = size_of(their)
        labels, counts = at_size(truth.labels, size), at_size(truth.counts, size)
        mine, its = (to_prototype(x.permute(0, 2, 3, 1)[counts], labels[counts]) for x in (enlarged(own, size), their.double()))
        return ((mine - its) ** 2).mean()

    return tapped(o, student, teachers, one, projected=False)


def to_prototype(x: Tensor, labels: Tensor) -> Tensor:
    """The cosine of each row to the mean of the rows with its label."""
    found = torch.zeros(len(x), dtype=torch.float64)
    for k in labels.unique().tolist():
        mine = labels == k
        middle = x[mine].mean(dim=0)
        found = found.masked_scatter(mine, (x[mine] @ middle) / (x[mine].norm(dim=1) * middle.norm()))
    return found


OBJECTIVES = {
    "soft_targets": soft_targets,
    "boundary": boundary,
    "dkd": dkd,
    "dist": dist,
    "channel": channel,
    "features": features,
    "attention": attention,
    "pairwise": pairwise,
    "ifvd": ifvd,
}


def reduced(kind: str, x: Tensor, size: int) -> Tensor:
    """What of a teacher's features an objective is sent."""
    if kind == "attention":
        return (x.double() ** 2).mean(dim=1)
    if kind == "pairwise":
        return cosines(F.adaptive_avg_pool2d(x.double(), grid_of(x, size)))
    return x


def grid_of(x: Tensor, size: int) -> tuple[int, int]:
    return min(size, x.shape[-2]), min(size, x.shape[-1])
