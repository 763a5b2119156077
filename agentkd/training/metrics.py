"""Mean intersection over union, Eq. 3 of the paper, from one confusion matrix over the whole dataset."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassConfusionMatrix

from agentkd.training.batches import Batch


@dataclass(frozen=True)
class Scores:
    """Result of an evaluation.

    Args:
        miou: mean IoU in [0, 1] over the classes present in ground truth or prediction.
        class_iou: IoU per class; ``None`` for a class that is in neither.
        one_class_miou: the best mIoU that predicting one class everywhere would give on the same pixels.
    """

    miou: float
    class_iou: tuple[float | None, ...]
    one_class_miou: float


class SegmentationMetrics:
    """Accumulates a confusion matrix and scores it at the end."""

    def __init__(self, num_classes: int, ignore_index: int, device: torch.device | str = "cpu") -> None:
        self.confusion = MulticlassConfusionMatrix(num_classes, ignore_index=ignore_index, validate_args=False).to(device)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Adds predictions ``logits [N,K,h,w]`` (resized to the labels bilinearly) for ``labels [N,H,W]``."""
        if logits.shape[-2:] != labels.shape[-2:]:
            logits = F.interpolate(logits.float(), size=labels.shape[-2:], mode="bilinear", align_corners=False)
        self.confusion.update(logits.argmax(dim=1), labels)

    def scores(self) -> Scores:
        """The scores of everything added so far."""
        return score(self.confusion.compute())


def score(confusion: Tensor) -> Scores:
    """Scores of a confusion matrix [K,K] (rows: ground truth, columns: prediction).

    Example:
        >>> score(torch.tensor([[3, 1], [0, 4]])).miou
        0.775
    """
    matrix = confusion.to(torch.float64)
    hits, truth, predicted = matrix.diagonal(), matrix.sum(dim=1), matrix.sum(dim=0)
    union = truth + predicted - hits
    iou = [None if math.isnan(value) else value for value in (hits / union).tolist()]  # of a class in neither 0 / 0
    present = [value for value in iou if value is not None]
    pixels, classes = float(truth.sum()), int((truth > 0).sum())
    one_class = float(truth.max()) / pixels / classes if classes else 0.0
    return Scores(miou=sum(present) / len(present) if present else 0.0, class_iou=tuple(iou), one_class_miou=one_class)


@torch.no_grad()
def evaluate(
    network: torch.nn.Module, batches: Iterable[Batch], num_classes: int, ignore_index: int, device: torch.device
) -> Scores:
    """Scores of a network on whole images; leaves the network in the mode it was in."""
    was_training = network.training
    network.eval()
    metrics = SegmentationMetrics(num_classes, ignore_index, device)
    try:
        for batch in batches:
            metrics.update(network(batch.images.to(device))["logits"], batch.labels.to(device))
    finally:
        network.train(was_training)
    return metrics.scores()
