"""The families' training losses as their papers state them, in float64, one image or pixel list at a time.

Nothing here calls agentkd: it is what agentkd's losses are compared with.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Outputs = Mapping[str, Tensor]
Terms = dict[str, Tensor]


def enlarged(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, corners not aligned."""
    return F.interpolate(x.double(), size=size, mode="bilinear", align_corners=False)


def size_of(labels: Tensor) -> tuple[int, int]:
    return labels.shape[-2], labels.shape[-1]


def valid_losses(logits: Tensor, labels: Tensor, ignore: int) -> Tensor:
    """Minus the logarithm of the true class's probability, of every pixel that counts, as one list."""
    pixels = enlarged(logits, size_of(labels)).permute(0, 2, 3, 1).reshape(-1, logits.shape[1])
    truth = labels.reshape(-1)
    pixels, truth = pixels[truth != ignore], truth[truth != ignore]
    return -torch.log(pixels.softmax(dim=1)[torch.arange(len(truth)), truth])


def mean_or_zero(values: Tensor, like: Tensor) -> Tensor:
    return values.mean() if values.numel() else 0.0 * like.double().sum()


def cross_entropy(logits: Tensor, labels: Tensor, ignore: int) -> Tensor:
    return mean_or_zero(valid_losses(logits, labels, ignore), logits)


def hard_examples(logits: Tensor, labels: Tensor, ignore: int, threshold: float, at_least: int) -> Tensor:
    """OHEM: the mean over pixels whose true class has at most ``threshold``, or the ``at_least`` hardest if these are more."""
    losses = valid_losses(logits, labels, ignore)
    if not losses.numel():
        return mean_or_zero(losses, logits)
    hard = losses[torch.exp(-losses) <= threshold]
    hardest = losses.sort(descending=True).values[: max(1, at_least)]
    return (hard if len(hard) > len(hardest) else hardest).mean()


def dice(logits: Tensor, labels: Tensor, ignore: int) -> Tensor:
    """One minus the mean over the classes that occur of (2 overlap + 1) / (sizes + 1)."""
    pixels = enlarged(logits, size_of(labels)).permute(0, 2, 3, 1).reshape(-1, logits.shape[1])
    truth = labels.reshape(-1)
    pixels, truth = pixels[truth != ignore].softmax(dim=1), truth[truth != ignore]
    scores = []
    for k in truth.unique().tolist():
        mine = (truth == k).double()
        scores.append((2 * (pixels[:, k] * mine).sum() + 1) / (pixels[:, k].sum() + mine.sum() + 1))
    return 1 - torch.stack(scores).mean() if scores else 0.0 * logits.double().sum()


def near_another_label(labels: Tensor, width: int) -> Tensor:
    """Which pixels have another label at most ``width`` pixels away, diagonals included; nothing lies beyond the border."""
    height, across = size_of(labels)
    found = torch.zeros(labels.shape, dtype=torch.bool)
    for down in range(-width, width + 1):
        for right in range(-width, width + 1):
            here = (slice(max(0, -down), min(height, height - down)), slice(max(0, -right), min(across, across - right)))
            there = (slice(max(0, down), min(height, height + down)), slice(max(0, right), min(across, across + right)))
            found[:, here[0], here[1]] |= labels[:, here[0], here[1]] != labels[:, there[0], there[1]]
    return found


def plain(network: nn.Module, outputs: Outputs, images: Tensor, labels: Tensor, ignore: int, classes: int) -> Terms:
    return {"cross_entropy": cross_entropy(outputs["logits"], labels, ignore)}


def cross_entropy_and_dice(
    network: nn.Module, outputs: Outputs, images: Tensor, labels: Tensor, ignore: int, classes: int
) -> Terms:
    """With deep supervision the mean over the heads of each."""
    heads = list(outputs["deep_logits"]) if "deep_logits" in outputs else [outputs["logits"]]
    return {
        "cross_entropy": sum(cross_entropy(head, labels, ignore) for head in heads) / len(heads),
        "dice": sum(dice(head, labels, ignore) for head in heads) / len(heads),
    }


def pidnet(network: nn.Module, outputs: Outputs, images: Tensor, labels: Tensor, ignore: int, classes: int) -> Terms:
    """Xu et al. 2023: 0.4 CE of the P head, OHEM of the main head, 20 times the balanced boundary, OHEM where a boundary is sure.

    131,072 pixels of six crops of 1024x1024 are kept at least; edges are two pixels wide on either side.
    """
    at_least = int(labels.numel() * 131_072 / (6 * 1024 * 1024))
    boundary = enlarged(outputs["boundary"], size_of(labels))[:, 0]
    edges = near_another_label(labels, 2).double()
    of_edges = edges.mean()
    likely = torch.sigmoid(boundary)
    per_pixel = -(1 - of_edges) * edges * torch.log(likely) - of_edges * (1 - edges) * torch.log(1 - likely)
    sure = likely.detach() > 0.8
    return {
        "p_head": 0.4 * cross_entropy(outputs["p_logits"], labels, ignore),
        "main": hard_examples(outputs["logits"], labels, ignore, 0.9, at_least),
        "boundary": 20 * per_pixel.mean(),
        "main_on_boundary": hard_examples(
            outputs["logits"], torch.where(sure, labels, torch.tensor(ignore)), ignore, 0.9, at_least
        ),
    }


def bisenet(network: nn.Module, outputs: Outputs, images: Tensor, labels: Tensor, ignore: int, classes: int) -> Terms:
    """0.7 (main + two auxiliary) + 0.3 (GAN + segmentation tap), and what the discriminator itself learns from.

    OHEM at 0.7 and a sixteenth of the pixels, all at the heads' size. The painted map is compared with the labels at its size, as
    colors; without a discriminator by their absolute difference.
    """
    size = size_of(outputs["logits"])
    rows = (torch.arange(size[0]) * labels.shape[1]) // size[0]
    columns = (torch.arange(size[1]) * labels.shape[2]) // size[1]
    small = labels[:, rows][:, :, columns]

    def ohem(name: str) -> Tensor:
        return hard_examples(outputs[name], small, ignore, 0.7, small.numel() // 16)

    terms = {
        "main": 0.7 * ohem("logits"),
        "aux16": 0.7 * ohem("aux16_logits"),
        "aux8": 0.7 * ohem("aux8_logits"),
        "i2i": 0.3 * ohem("i2i_logits"),
    }
    painted, truth = outputs["picture"], colors(small, classes, ignore)
    discriminator = getattr(network, "discriminator", None)
    if discriminator is None:
        return terms | {"picture": 0.3 * (painted.double() - truth).abs().mean()}
    scene = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
    for parameter in discriminator.parameters():
        parameter.requires_grad_(False)
    fooled = discriminator(scene, painted)
    for parameter in discriminator.parameters():
        parameter.requires_grad_(True)
    real, fake = discriminator(scene, truth.float()), discriminator(scene, painted.detach())
    return terms | {
        "gan": -0.3 * F.logsigmoid(fooled.double()).mean(),
        "discriminator": -0.5 * (F.logsigmoid(real.double()).mean() + F.logsigmoid(-fake.double()).mean()),
    }


def colors(labels: Tensor, classes: int, ignore: int) -> Tensor:
    """The class's number, written with three digits in the smallest base that does, from -1 to 1; gray (0) where ignored."""
    base = next(b for b in range(2, 100) if b**3 >= classes)
    made = torch.zeros(len(labels), 3, *size_of(labels), dtype=torch.float64)
    for k in range(classes):
        for channel, digit in enumerate((k % base, k // base % base, k // base**2 % base)):
            made[:, channel][labels == k] = 2 * digit / (base - 1) - 1
    assert math.isfinite(float(made.sum())) and ignore >= classes
    return made


LOSSES = {"cross_entropy": plain, "dice": cross_entropy_and_dice, "pidnet": pidnet, "bisenet": bisenet}
