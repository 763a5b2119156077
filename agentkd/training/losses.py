"""Training losses by name. A loss maps (network, outputs, batch) to named terms whose sum is minimized.

All are means over valid pixels, computed in float32, zero (not NaN) where no pixel is valid. Weights of classes are those of a
weighted mean, the weighted sum over the sum of the weights, in every cross-entropy with labels; pixels of a class that weighs 0
are as if they were not labelled there. Dice, which is a mean over classes as it is, boundaries, painted pictures and the
discriminator take none.

Where ``mines_all`` is set every cross-entropy is over hard pixels alone: as published for PIDNet (0.9, one pixel in 48) and
CNN-I2I BiSeNet (0.7, one in 16, which has it so by itself); the others have BiSeNet's.

Where repeatable algorithms are demanded, as on CUDA, no loss asks the device for a number, which it would have to be waited for:
what counts is not picked out, the rest is zero. Sums are then in another order, so elsewhere what counts is picked, as ever.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from agentkd import repeatable
from agentkd.training.batches import Batch

Outputs = dict[str, Tensor]
Terms = dict[str, Tensor]
TrainingLoss = Callable[[nn.Module, Outputs, Batch, "LossSettings"], Terms]

BOUNDARY_CONFIDENCE = 0.8
BOUNDARY_WIDTH = 2
Weights = tuple[float, ...]


@dataclass(frozen=True)
class LossSettings:
    """What every loss needs to know about the labels, and about the pixels that it looks at.

    Args:
        class_weights: what a pixel of each class counts; empty if all count the same.
        mines_all: whether every cross-entropy is over hard pixels alone, not only those that a family's loss has so.
    """

    num_classes: int
    ignore_index: int
    class_weights: Weights = ()
    mines_all: bool = False


@dataclass(frozen=True)
class Mining:
    """Which pixels are hard: those whose true class has a probability below ``threshold``, at least one in ``one_in``."""

    threshold: float
    one_in: int


# Of the published code of PIDNet (131,072 pixels of six crops of 1024x1024) and of BiSeNet.
PIDNET_MINING, BISENET_MINING = Mining(0.9, 48), Mining(0.7, 16)


def cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int, class_weights: Weights = ()) -> Tensor:
    """Mean cross-entropy over valid pixels; ``logits [N,K,h,w]`` are resized to ``labels [N,H,W]``."""
    per_pixel, valid = pixel_cross_entropy(logits, labels, ignore_index)
    if class_weights:
        return _weighted_mean(per_pixel, pixel_weights(labels, valid, class_weights))
    return per_pixel.sum() / valid.sum().clamp(min=1)


def pixel_weights(labels: Tensor, valid: Tensor, class_weights: Weights) -> Tensor:
    """What each pixel counts, of the shape of ``labels``; ignored ones nothing."""
    weights = _constants(labels.device, class_weights)
    return weights[labels.where(valid, torch.zeros_like(labels))] * valid


@lru_cache(maxsize=16)
def _constants(device: torch.device, values: Weights) -> Tensor:
    """Copied to the device once: it is waited for."""
    return torch.tensor(values, device=device)


def _weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """Zero where nothing counts."""
    total = weights.sum()
    return (losses * weights).sum() / total.where(total > 0, torch.ones_like(total))


def any_cross_entropy(logits: Tensor, labels: Tensor, settings: LossSettings, mining: Mining = BISENET_MINING) -> Tensor:
    """The cross-entropy of a head that is over all pixels by itself, or over hard ones if all are to be."""
    if settings.mines_all:
        return mined_cross_entropy(logits, labels, settings, mining)
    return cross_entropy(logits, labels, settings.ignore_index, settings.class_weights)


def mined_cross_entropy(logits: Tensor, labels: Tensor, settings: LossSettings, mining: Mining) -> Tensor:
    """The cross-entropy of a head over the hard pixels, by whatever measure of hardness a family has."""
    return ohem_cross_entropy(
        logits,
        labels,
        settings.ignore_index,
        threshold=mining.threshold,
        min_kept=labels.numel() // mining.one_in,
        class_weights=settings.class_weights,
    )


def pixel_cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each pixel [N,H,W] (zero where ignored) and the mask of valid pixels."""
    logits = upsample(logits.float(), labels)
    valid = labels != ignore_index
    return -repeatable.picked(logits.log_softmax(dim=1), labels, valid), valid


def ohem_cross_entropy(
    logits: Tensor, labels: Tensor, ignore_index: int, *, threshold: float, min_kept: int, class_weights: Weights = ()
) -> Tensor:
    """Cross-entropy over the hard pixels only (online hard example mining, Shrivastava et al. 2016).

    Kept are pixels whose true class has a probability below ``threshold``, or the ``min_kept`` hardest if these are more.
    No valid pixel gives zero; ties are kept together. How hard a pixel is does not depend on the weight of its class.
    """
    per_pixel, valid = pixel_cross_entropy(logits, labels, ignore_index)
    weights = pixel_weights(labels, valid, class_weights) if class_weights else None
    counted = valid if weights is None else weights > 0
    if repeatable.is_demanded():
        return _ohem_unpicked(per_pixel, counted, weights, threshold=threshold, min_kept=min_kept)
    losses = per_pixel[counted]
    if losses.numel() == 0:
        return losses.sum()
    kept = min(max(min_kept, 1), losses.numel())
    hardest = losses.topk(kept).values[-1]
    bound = torch.minimum(hardest, -torch.log(torch.tensor(threshold, device=losses.device)))
    is_hard = losses >= bound
    return losses[is_hard].mean() if weights is None else _weighted_mean(losses[is_hard], weights[counted][is_hard])


def _ohem_unpicked(per_pixel: Tensor, counted: Tensor, weights: Tensor | None, *, threshold: float, min_kept: int) -> Tensor:
    """The same, of all pixels: how many are counted is known to the device alone."""
    flat, is_counted = per_pixel.flatten(), counted.flatten()
    most = min(max(min_kept, 1), flat.numel())
    hardest = flat.detach().masked_fill(~is_counted, -torch.inf).topk(most).values
    kept = is_counted.sum().clamp(1, most)
    bound = torch.minimum(hardest.gather(0, kept[None] - 1)[0], -torch.log(hardest.new_full((), threshold)))
    is_hard = is_counted & ~(flat < bound)  # all of them if there is a NaN
    counts = is_hard.to(flat.dtype) if weights is None else weights.flatten() * is_hard
    return _weighted_mean(flat.where(is_hard, torch.zeros_like(flat)), counts)


def soft_dice(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """One minus the mean soft Dice coefficient over the classes present in the labels (Milletari et al. 2016)."""
    logits = upsample(logits.float(), labels)
    valid = labels != ignore_index
    truth = F.one_hot(labels.where(valid, torch.zeros_like(labels)), logits.shape[1]).permute(0, 3, 1, 2) * valid[:, None]
    probabilities = logits.softmax(dim=1) * valid[:, None]
    overlap = (probabilities * truth).sum(dim=(0, 2, 3))
    size = (probabilities + truth).sum(dim=(0, 2, 3))
    present = truth.sum(dim=(0, 2, 3)) > 0
    dice = (2 * overlap + 1) / (size + 1)
    if repeatable.is_demanded():
        return (1 - dice).where(present, torch.zeros_like(dice)).sum() / present.sum().clamp(min=1)
    return (1 - dice)[present].mean() if present.any() else logits.sum() * 0


def label_edges(labels: Tensor, width: int = BOUNDARY_WIDTH) -> Tensor:
    """Float mask [N,1,H,W] of pixels within ``width`` of another label."""
    x = labels[:, None].float()
    kernel = 2 * width + 1
    highest = F.max_pool2d(x, kernel, stride=1, padding=width)
    lowest = -F.max_pool2d(-x, kernel, stride=1, padding=width)
    return (highest != lowest).float()


def balanced_boundary(boundary: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of the boundary map [N,1,h,w], each of edge and non-edge weighted by the other's share."""
    truth = label_edges(labels)
    share = truth.mean()
    weight = torch.where(truth > 0.5, 1 - share, share)
    return F.binary_cross_entropy_with_logits(upsample(boundary.float(), labels), truth, weight=weight)


def upsample(x: Tensor, labels: Tensor) -> Tensor:
    """``x [N,C,h,w]`` at the labels' size, bilinearly, ``align_corners=False``."""
    if x.shape[-2:] == labels.shape[-2:]:
        return x
    return repeatable.bilinear(x, labels.shape[-2:])


def plain_loss(network: nn.Module, outputs: Outputs, batch: Batch, settings: LossSettings) -> Terms:
    """Cross-entropy of the main output."""
    return {"cross_entropy": any_cross_entropy(outputs["logits"], batch.labels, settings)}


def dice_loss(network: nn.Module, outputs: Outputs, batch: Batch, settings: LossSettings) -> Terms:
    """Cross-entropy plus soft Dice; with deep supervision the mean over the heads."""
    heads = outputs.get("deep_logits", outputs["logits"][None])
    ignore = settings.ignore_index
    return {
        "cross_entropy": torch.stack([any_cross_entropy(head, batch.labels, settings) for head in heads]).mean(),
        "dice": torch.stack([soft_dice(head, batch.labels, ignore) for head in heads]).mean(),
    }


def pidnet_loss(network: nn.Module, outputs: Outputs, batch: Batch, settings: LossSettings) -> Terms:
    """PIDNet's four terms (Xu et al. 2023, Eq. 4): P head, main with OHEM, boundary, main on confident boundaries with OHEM.

    The least number of hard pixels is published as 131,072 of the six crops of 1024x1024 that a device has, one in 48, and scaled
    to the pixels of this batch. Weights of classes are in all three cross-entropies, as in the published code.
    """
    labels, ignore, mining = batch.labels, settings.ignore_index, PIDNET_MINING
    confident = torch.sigmoid(upsample(outputs["boundary"].float(), labels))[:, 0] > BOUNDARY_CONFIDENCE
    on_boundary = labels.where(confident, torch.full_like(labels, ignore))
    return {
        "p_head": 0.4 * any_cross_entropy(outputs["p_logits"], labels, settings, mining),
        "main": mined_cross_entropy(outputs["logits"], labels, settings, mining),
        "boundary": 20 * balanced_boundary(outputs["boundary"], labels),
        "main_on_boundary": mined_cross_entropy(outputs["logits"], on_boundary, settings, mining),
    }


def bisenet_loss(network: nn.Module, outputs: Outputs, batch: Batch, settings: LossSettings) -> Terms:
    """0.7 (main + two auxiliary) + 0.3 (GAN + segmentation tap), and the discriminator's own term.

    The four segmentations have OHEM, with a sixteenth of the pixels at least, against the labels at the heads' own stride.
    The generator's term sees the discriminator's parameters as constants and the discriminator's term sees the picture
    as a constant, so one backward pass gives both their gradients. Without a discriminator (a setting of the search) the
    picture is compared with the painted labels directly (L1).
    """
    size = outputs["logits"].shape[-2:]
    small = F.interpolate(batch.labels[:, None].float(), size=size, mode="nearest")[:, 0].long()

    def ohem(name: str) -> Tensor:
        return mined_cross_entropy(outputs[name], small, settings, BISENET_MINING)

    terms = {
        "main": 0.7 * ohem("logits"),
        "aux16": 0.7 * ohem("aux16_logits"),
        "aux8": 0.7 * ohem("aux8_logits"),
        "i2i": 0.3 * ohem("i2i_logits"),
    }
    painted, truth = outputs["picture"].float(), paint_labels(small, settings)
    discriminator = getattr(network, "discriminator", None)
    if discriminator is None:
        return terms | {"picture": 0.3 * F.l1_loss(painted, truth)}
    image = repeatable.bilinear(batch.images.float(), size)
    constants = {name: p.detach() for name, p in discriminator.named_parameters()}
    fooled = functional_call(discriminator, constants, (image, painted))
    on_truth, on_painted = discriminator(image, truth), discriminator(image, painted.detach())
    return terms | {
        "gan": 0.3 * F.binary_cross_entropy_with_logits(fooled, torch.ones_like(fooled)),
        "discriminator": 0.5
        * (
            F.binary_cross_entropy_with_logits(on_truth, torch.ones_like(on_truth))
            + F.binary_cross_entropy_with_logits(on_painted, torch.zeros_like(on_painted))
        ),
    }


def paint_labels(labels: Tensor, settings: LossSettings) -> Tensor:
    """Labels [N,h,w] as distinct RGB colors in [-1, 1], [N,3,h,w]; ignored pixels are mid-gray.

    Colors are the corners of the cube of base 3, spread so that neighboring class numbers are far apart.
    """
    steps = torch.arange(settings.num_classes, device=labels.device)
    levels = max(2, math.ceil(settings.num_classes ** (1 / 3)))
    digits = torch.stack([steps % levels, (steps // levels) % levels, (steps // levels**2) % levels], dim=1)
    palette = digits.float() / (levels - 1) * 2 - 1
    valid = labels != settings.ignore_index
    colors = palette[labels.where(valid, torch.zeros_like(labels))] * valid[..., None]
    return colors.permute(0, 3, 1, 2)


LOSSES: dict[str, TrainingLoss] = {
    "cross_entropy": plain_loss,
    "pidnet": pidnet_loss,
    "bisenet": bisenet_loss,
    "dice": dice_loss,
}
