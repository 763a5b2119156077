"""The student's half of every objective. All are computed in float32 (float64 in tests), mean over valid pixels, zero if none is.

A user's own objective is anything with a ``StudentHalf.loss``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from agentkd import repeatable
from agentkd.code.loading import load
from agentkd.errors import ConfigError
from agentkd.knowledge import payloads
from agentkd.knowledge.payloads import dense
from agentkd.objectives import (
    LOGITS,
    Attention,
    Boundary,
    ChannelWise,
    Dist,
    Dkd,
    Features,
    Ifvd,
    Objective,
    Own,
    Pairwise,
    SoftTargets,
    payload_of,
)
from agentkd.training.ahead import carry
from agentkd.training.losses import label_edges
from agentkd.training.taps import PROJECTED, TAP

EPSILON = 1e-8
TILE = 8
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Moment:
    """What a loss may know besides the outputs of both.

    Args:
        labels: [N,H,W], or [N] for classification.
        progress: share of the training that is done, in [0, 1).
        shares: weight of each teacher; any positive numbers.
        class_shares: for each teacher how well it knows each class, in [0, 1]: at each pixel the one teaches that knows best
            what it sees there. Empty if that is not decided so.
        energies: for each teacher the median and 95th percentile of its energy on data that it knows: in each tile the one
            teaches that is most at home there. Empty if that is not decided so.
        teacher_of: for each image [N] the number of the one who teaches it; ``None`` if that is not decided so.
    """

    labels: Tensor
    ignore_index: int
    progress: float = 0.0
    shares: tuple[float, ...] = ()
    class_shares: tuple[tuple[float, ...], ...] = ()
    energies: tuple[tuple[float, float], ...] = ()
    teacher_of: Tensor | None = None

    @property
    def maps(self) -> Tensor:
        """The labels as maps [N,H,W]."""
        return self.labels if self.labels.dim() == 3 else self.labels[:, None, None]

    def valid(self, size: Sequence[int]) -> Tensor:
        """Which pixels count, at another size: bool [N,h,w]."""
        return self.labels_at(size) != self.ignore_index

    def labels_at(self, size: Sequence[int]) -> Tensor:
        """The labels at another size (nearest)."""
        maps = self.maps
        if tuple(maps.shape[-2:]) == tuple(size):
            return maps
        return F.interpolate(maps[:, None].float(), size=tuple(size))[:, 0].long()


class StudentHalf(Protocol):
    """What a user's own objective must be.

    It is made anew in each step and called once for each teacher, outside autocast, on the student's device. Everything that it
    sees is float32 (float64 in a test), whatever the precision of the training and the codec that a payload came by.

    Shapes: N images, K classes, C channels; the student's h and w are its own, and need not be the teacher's.
    """

    def loss(self, student: Tensors, teacher: Tensors, moment: Moment) -> Tensor:
        """A scalar with a gradient to the student. It is weighted and added to the other terms of the loss.

        Args:
            student: raw ``logits`` [N,K,h,w] at the network's own stride ([N,K,1,1] of whole images) and, for each of
                ``student_taps``, ``tap.NAME``, the output of that module: [N,C,h,w] or whatever it is.
            teacher: the payloads of one teacher by name: raw ``logits`` [N,K,h,w] with classes in the student's order;
                ``features.TAP`` [N,C,h,w]; ``attention.TAP`` [N,h,w]; ``similarity.TAP.SIZE`` [N,h,w,h*w]. No gradient goes
                there, and they are lent: what is kept beyond the call must be copied.
            moment: ``labels`` int64 [N,H,W] at the size of the images, ``ignore_index``, ``valid(size)`` and ``labels_at(size)``
                at another size, and ``progress`` in [0, 1).
        """
        ...


def loss(objective: Objective, student: Tensors, teachers: Sequence[Tensors], moment: Moment) -> Tensor:
    """An objective's value as a scalar, without its weight.

    Of several teachers the *probabilities* are averaged where the objective is about logits (averaging logits would let the
    loudest win), else the losses. Features of the i-th teacher are compared with ``projected.I.TAP`` where one is trained.
    """
    with torch.autocast(student["logits"].device.type, enabled=False):
        if isinstance(objective, Own):
            own, ours = load_own(objective), _as_seen(student)
            return _mean([_own_loss(objective, own, ours, _as_seen(teacher), moment) for teacher in teachers], moment)
        half = HALVES[type(objective)]
        taps = getattr(objective, "taps", {})
        if not taps:
            return half(objective, dense(student["logits"]), [dense(teacher[LOGITS.name]) for teacher in teachers], moment)
        each = [
            torch.stack(
                [
                    half(objective, _features(student, index, own), [teacher[payload_of(objective, its).name]], moment)
                    for own, its in taps.items()
                ]
            ).sum()
            for index, teacher in enumerate(teachers)
        ]
        return _mean(each, moment)


def _as_seen(outputs: Tensors) -> Tensors:
    """Outputs or payloads as an own objective sees them: wide, logits as maps."""
    wide = {name: _wide(value) if value.is_floating_point() else value for name, value in outputs.items()}
    return {name: dense(value) if name == LOGITS.name else value for name, value in wide.items()}


def _own_loss(objective: Own, own: StudentHalf, student: Tensors, teacher: Tensors, moment: Moment) -> Tensor:
    """What a user's own objective says of one teacher; it must be a loss, and must leave what it is lent as it is.

    Raises:
        ConfigError: it is none, cannot teach anybody anything, or changed what others are to see.
    """
    lent = {f"student[{name!r}]": tensor for name, tensor in student.items()}
    lent |= {f"teacher[{name!r}]": tensor for name, tensor in teacher.items()} | {"moment.labels": moment.labels}
    is_first = moment.progress == 0  # what it does at all, it does then; later a look at each tensor must be enough
    before = {name: (tensor._version, _imprint(tensor, whole=is_first)) for name, tensor in lent.items()}
    value: object = own.loss(dict(student), dict(teacher), moment)
    after = {name: (tensor._version, _imprint(tensor, whole=is_first)) for name, tensor in lent.items()}
    changed = [name for name in lent if before[name][0] != after[name][0] or not torch.equal(before[name][1], after[name][1])]
    if changed:
        raise ConfigError(f"objective {objective.path} changed {', '.join(changed)} in place; compute with a clone() of it")
    if not (isinstance(value, Tensor) and value.dim() == 0 and value.is_floating_point()):
        found = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ConfigError(f"objective {objective.path} returned {found}; expected a floating-point tensor without dimensions")
    learns = any(tensor.requires_grad for tensor in student.values())
    if learns and not value.requires_grad and value:  # nothing at all may be said, as by one that begins later
        raise ConfigError(
            f"objective {objective.path} returned {float(value):g} without a gradient, so it would teach nothing: has it "
            f"called detach, item, argmax or numpy on what the student made?"
        )
    return value


def _imprint(tensor: Tensor, *, whole: bool) -> Tensor:
    """What shows that a tensor was changed, also through ``data``, which no version counts: its bits, or their sum alone."""
    real = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
    size_bytes = real.element_size() * real.numel()
    by_eights = real.is_contiguous() and not size_bytes % 8  # ten times as fast
    bits = real.flatten().view(torch.int64) if by_eights else real.view(BITS[real.element_size()])
    return bits.clone() if whole else bits.sum(dtype=torch.int64)


def load_own(objective: Own) -> StudentHalf:
    """A user's objective, from the code that it names.

    Raises:
        ConfigError: it is not there, cannot be made with its settings, or is none.
    """
    found = load(objective.path, objective.code)
    try:
        made: StudentHalf = found(**objective.settings)
    except TypeError as error:
        raise ConfigError(f"objective {objective.path}: {error}") from error
    if not callable(getattr(made, "loss", None)):
        raise ConfigError(f"objective {objective.path} has no method loss(student, teacher, moment)")
    return made


# Of logits.


def soft_targets(objective: SoftTargets, student: Tensor, teachers: Sequence[Tensor], moment: Moment) -> Tensor:
    """Eq. 1's second term."""
    size = moment.maps.shape[-2:] if objective.resolution == "full" else student.shape[-2:]
    if objective.standardize:
        student, teachers = _standardized(student), [_standardized(teacher) for teacher in teachers]
    divergence, log_teacher = _divergence(student, teachers, size, objective.temperature, moment)
    weights = _gate(objective, log_teacher, moment.labels_at(size), moment)
    valid = moment.valid(size)
    mean = (divergence * valid if weights is None else divergence * valid * weights).sum() / valid.sum().clamp(min=1)
    return mean * objective.temperature**2 if objective.scale_by_temperature_squared else mean


def boundary(objective: Boundary, student: Tensor, teachers: Sequence[Tensor], moment: Moment) -> Tensor:
    """Soft targets near edges of the labels."""
    maps = moment.maps
    divergence, _ = _divergence(student, teachers, maps.shape[-2:], objective.temperature, moment)
    counted = (label_edges(maps, objective.width)[:, 0] > 0) & moment.valid(maps.shape[-2:])
    return _masked_mean(divergence, counted) * objective.temperature**2


def dkd(objective: Dkd, student: Tensor, teachers: Sequence[Tensor], moment: Moment) -> Tensor:
    """Target against rest, and among the rest."""
    maps, tau = moment.maps, objective.temperature
    size = maps.shape[-2:]
    log_s = F.log_softmax(resize(student, size) / tau, dim=1)
    log_t = _mean_log_probabilities(teachers, size, tau, moment)
    valid = moment.valid(size)
    target = F.one_hot(maps.where(valid, torch.zeros_like(maps)), student.shape[1]).movedim(-1, 1).bool()

    def split(log_p: Tensor) -> tuple[Tensor, Tensor]:
        log_target = log_p.masked_fill(~target, -torch.inf).logsumexp(dim=1, keepdim=True)
        log_rest = log_p.masked_fill(target, -torch.inf).logsumexp(dim=1, keepdim=True)
        return torch.cat([log_target, log_rest], dim=1), (log_p - log_rest).masked_fill(target, 0.0)

    (two_s, rest_s), (two_t, rest_t) = split(log_s), split(log_t)
    against = (two_t.exp() * (two_t - two_s)).sum(dim=1)
    among = (rest_t.exp() * (rest_t - rest_s)).sum(dim=1)
    return _masked_mean(objective.target * against + objective.rest * among, valid) * tau**2


def dist(objective: Dist, student: Tensor, teachers: Sequence[Tensor], moment: Moment) -> Tensor:
    """One minus correlation, over classes and over pixels."""
    size = moment.maps.shape[-2:]
    valid = moment.valid(size)
    p_s = F.softmax(resize(student, size) / objective.temperature, dim=1).movedim(1, -1)[valid]
    p_t = _mean_log_probabilities(teachers, size, objective.temperature, moment).exp().movedim(1, -1)[valid]
    if not len(p_s):
        return student.sum() * 0
    over_classes = 1 - _correlation(p_s, p_t, dim=1).mean()
    over_pixels = 1 - _correlation(p_s, p_t, dim=0).mean()
    return objective.beta * over_classes + objective.gamma * over_pixels


def channel(objective: ChannelWise, student: Tensor, teachers: Sequence[Tensor], moment: Moment) -> Tensor:
    """KL between spatial softmaxes, of logits or features."""
    size, tau = teachers[0].shape[-2:], objective.temperature
    hidden = ~moment.valid(size)[:, None].flatten(2)
    each = []
    for teacher in teachers:
        logs = [
            F.log_softmax((resize(x, size).flatten(2) / tau).masked_fill(hidden, -torch.inf), dim=2).masked_fill(hidden, 0.0)
            for x in (student, teacher)
        ]
        log_s, log_t = (torch.nan_to_num(log) for log in logs)  # an image without a valid pixel
        divergence = (log_t.exp() * (log_t - log_s)).masked_fill(hidden, 0.0).sum(dim=2)
        each.append(divergence.mean() * tau**2)
    return _mean(each, moment)


# Of features. Each gets the features of one tap of the student, and the payload of one teacher.


def features(objective: Features, student: Tensor, teachers: Sequence[Tensor], moment: Moment) -> Tensor:
    """Mean squared error."""
    teacher = dense(_wide(teachers[0]))
    valid = moment.valid(teacher.shape[-2:])
    ours, theirs = (x.movedim(1, -1)[valid] for x in (resize(student, teacher.shape[-2:]), teacher))
    if not len(ours):
        return student.sum() * 0
    if objective.standardize:
        ours, theirs = ((x - x.mean(dim=0)) / (x.var(dim=0, unbiased=False) + EPSILON).sqrt() for x in (ours, theirs))
    return (ours - theirs).pow(2).mean()


def attention(objective: Attention, student: Tensor, teachers: Sequence[Tensor], moment: Moment) -> Tensor:
    """Squared distance of attention maps of length one."""
    theirs = _wide(teachers[0])
    valid = moment.valid(theirs.shape[-2:])
    ours = resize(payloads.attention(_wide(student))[:, None], theirs.shape[-2:])[:, 0]
    ours, theirs = (F.normalize((x * valid).flatten(1), dim=1) for x in (ours, theirs))
    return (ours - theirs).pow(2).sum(dim=1).mean()


def pairwise(objective: Pairwise, student: Tensor, teachers: Sequence[Tensor], moment: Moment) -> Tensor:
    """Squared difference of similarities."""
    theirs = _wide(teachers[0])
    height, width = theirs.shape[1:3]
    ours = payloads.similarity(_wide(student), height, width)
    valid = moment.valid((height, width)).flatten(1)
    counted = valid[:, :, None] & valid[:, None, :]
    return _masked_mean((ours - theirs).flatten(1, 2).pow(2), counted)


def ifvd(objective: Ifvd, student: Tensor, teachers: Sequence[Tensor], moment: Moment) -> Tensor:
    """Squared difference of cosines to the class's mean feature."""
    theirs = dense(_wide(teachers[0]))
    size = theirs.shape[-2:]
    labels, valid = moment.labels_at(size), moment.valid(size)
    ours = _class_cosines(resize(student, size), labels, valid)
    return _masked_mean((ours - _class_cosines(theirs, labels, valid)).pow(2), valid)


HALVES: dict[type, Callable[..., Tensor]] = {
    SoftTargets: soft_targets,
    Boundary: boundary,
    Dkd: dkd,
    Dist: dist,
    ChannelWise: channel,
    Features: features,
    Attention: attention,
    Pairwise: pairwise,
    Ifvd: ifvd,
}


# Parts.


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, ``align_corners=False``, in float32 or wider."""
    x = _wide(dense(x))
    return x if tuple(x.shape[-2:]) == tuple(size) else repeatable.bilinear(x, size)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _features(student: Tensors, teacher: int, tap: str) -> Tensor:
    return student.get(f"{PROJECTED}{teacher}.{tap}", student[TAP + tap])


def _mean(each: list[Tensor], moment: Moment) -> Tensor:
    """The mean over teachers, by their shares."""
    if len(each) == 1:
        return each[0]
    losses = torch.stack(each)
    shares = _shares(losses, moment)
    return (losses * shares).sum() / shares.sum()


def _shares(each: Tensor, moment: Moment) -> Tensor:
    """Of the teachers of whom ``each`` [teachers,...] is; equal ones if the moment has none."""
    return _there(moment.shares, each) if moment.shares else each.new_ones(len(each))


def _there(values: Sequence[float] | Sequence[Sequence[float]], beside: Tensor) -> Tensor:
    return carry(torch.tensor(values, dtype=beside.dtype), beside.device)


def _mean_log_probabilities(teachers: Sequence[Tensor], size: Sequence[int], tau: float, moment: Moment) -> Tensor:
    """Logarithm of the mean, by shares, of the teachers' probabilities [N,K,h,w], or of those of who knows best."""
    if len(teachers) == 1:
        return F.log_softmax(resize(teachers[0], size) / tau, dim=1)
    logits = torch.stack([resize(teacher, size) for teacher in teachers])
    each = F.log_softmax(logits / tau, dim=2)
    if moment.class_shares or moment.energies or moment.teacher_of is not None:
        return each.take_along_dim(best_teacher(logits, moment)[None, :, None], dim=0)[0]
    shares = _shares(each, moment)
    return torch.logsumexp(each + (shares / shares.sum()).log().reshape(-1, 1, 1, 1, 1), dim=0)


def best_teacher(logits: Tensor, moment: Moment) -> Tensor:
    """Which teacher knows best, at each pixel [N,H,W], of all their logits [teachers,N,K,H,W].

    By images, if that is given. By classes: the largest expected share of the class that it sees. By energies: the lowest energy
    in a tile, from the median (0) to the 95th percentile (1) of what it meets in data that it knows.
    """
    if moment.teacher_of is not None:
        return moment.teacher_of[:, None, None].expand(-1, *logits.shape[3:])
    if moment.class_shares:
        shares = _there(moment.class_shares, logits)
        return torch.einsum("tnkhw,tk->tnhw", logits.softmax(dim=2), shares).argmax(dim=0)
    median, high = _there(moment.energies, logits).T[:, :, None, None, None]
    strange = (-logits.logsumexp(dim=2) - median) / (high - median).clamp(min=EPSILON)
    tiles = F.avg_pool2d(strange, TILE, ceil_mode=True)
    return F.interpolate(tiles, scale_factor=TILE).argmin(dim=0)[:, : logits.shape[3], : logits.shape[4]]


def _divergence(
    student: Tensor, teachers: Sequence[Tensor], size: Sequence[int], tau: float, moment: Moment
) -> tuple[Tensor, Tensor]:
    """KL of each pixel [N,h,w], and the teachers' log-probabilities."""
    log_s = F.log_softmax(resize(student, size) / tau, dim=1)
    log_t = _mean_log_probabilities(teachers, size, tau, moment)
    return (log_t.exp() * (log_t - log_s)).sum(dim=1), log_t


def _gate(objective: SoftTargets, log_teacher: Tensor, labels: Tensor, moment: Moment) -> Tensor | None:
    """Weight of each pixel [N,h,w]; ``None`` if all count fully."""
    match objective.gate:
        case "correct":
            return (log_teacher.argmax(dim=1) == labels).to(log_teacher.dtype)
        case "confidence":
            return (log_teacher.amax(dim=1).exp() >= objective.gate_at).to(log_teacher.dtype)
        case "cutoff":
            return log_teacher.new_full((), float(moment.progress < objective.gate_at))
        case "linear":
            return log_teacher.new_full((), 1 - moment.progress)
        case _:
            return None


def _standardized(logits: Tensor) -> Tensor:
    wide = _wide(logits)
    return (wide - wide.mean(dim=1, keepdim=True)) / (wide.std(dim=1, keepdim=True, unbiased=False) + EPSILON)


def _masked_mean(values: Tensor, counted: Tensor) -> Tensor:
    return (values * counted).sum() / counted.sum().clamp(min=1)


def _correlation(a: Tensor, b: Tensor, dim: int) -> Tensor:
    a, b = (x - x.mean(dim=dim, keepdim=True) for x in (a, b))
    return F.cosine_similarity(a, b, dim=dim)


def _class_cosines(x: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """Cosine of each position [N,h,w] to the mean over the batch of its class's features, which has their sum's direction."""
    member = F.one_hot(labels.where(valid, torch.zeros_like(labels))).to(x.dtype) * valid[..., None]
    sums = torch.einsum("nchw,nhwk->kc", x, member)
    return F.cosine_similarity(x, torch.einsum("kc,nhwk->nchw", sums, member), dim=1)
