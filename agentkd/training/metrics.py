"""Mean intersection over union, Eq. 3 of the paper, from one confusion matrix over the whole dataset."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from agentkd import repeatable
from agentkd.recipe import Precision
from agentkd.task.judging import Judged
from agentkd.training.ahead import carried
from agentkd.training.batches import Batch
from agentkd.training.forms import in_precision


@dataclass(frozen=True)
class Scores(Judged):
    """Result of an evaluation.

    Args:
        miou: mean IoU in [0, 1] over the classes present in ground truth or prediction.
        class_iou: IoU per class; ``None`` for a class that is in neither.
        one_class_miou: the best mIoU that predicting one class everywhere would give on the same pixels.
        accuracy: share of the images whose class is right, if the network gives one answer for each; ``None`` if it does not, or
            none is labelled.
    """

    miou: float
    class_iou: tuple[float | None, ...]
    one_class_miou: float
    accuracy: float | None = None

    @property
    def judged_by(self) -> float:
        """What is compared: a classifier's accuracy, else mIoU."""
        return self.measure.must_be_of(self)


class SegmentationMetrics:
    """Accumulates a confusion matrix and scores it at the end."""

    def __init__(self, num_classes: int, ignore_index: int, device: torch.device | str = "cpu") -> None:
        self._num_right, self._num_classified, self._is_dense = 0, 0, False
        self._ignore_index, self._num_classes = ignore_index, num_classes
        self.confusion = MulticlassConfusionMatrix(num_classes, ignore_index=ignore_index, validate_args=False).to(device)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Adds predictions ``logits [N,K,h,w]`` (resized to the labels bilinearly) for ``labels [N,H,W]``."""
        is_of_whole_images = tuple(logits.shape[-2:]) == (1, 1) != tuple(labels.shape[-2:])
        self._is_dense |= not is_of_whole_images
        if is_of_whole_images:
            truth = image_classes(labels, self._num_classes, self._ignore_index)
            is_known = truth != self._ignore_index
            self._num_right += int((logits[..., 0, 0].argmax(dim=1) == truth)[is_known].sum())
            self._num_classified += int(is_known.sum())
        if logits.shape[-2:] != labels.shape[-2:]:
            logits = repeatable.bilinear(logits.float(), labels.shape[-2:])
        with repeatable.counting_alone():
            self.confusion.update(logits.argmax(dim=1), labels)

    def scores(self) -> Scores:
        """The scores of everything added so far."""
        is_classifier = self._num_classified and not self._is_dense
        return replace(
            score(self.confusion.compute()), accuracy=self._num_right / self._num_classified if is_classifier else None
        )


def image_classes(labels: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """The class of each image: that of most of its labelled pixels, the first of equals; the ignored label if it has none.

    Shapes: labels [N,H,W]; the result [N].
    """
    counts = torch.stack([torch.bincount(one[one != ignore_index].flatten(), minlength=num_classes) for one in labels])
    return counts.argmax(dim=1).where(counts.sum(dim=1) > 0, torch.full_like(counts[:, 0], ignore_index))


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
    network: torch.nn.Module,
    batches: Iterable[Batch],
    num_classes: int,
    ignore_index: int,
    device: torch.device,
    precision: Precision = "float32",
) -> Scores:
    """Scores of a network on whole images; leaves the network in the mode it was in."""
    was_training = network.training
    network.eval()
    metrics = SegmentationMetrics(num_classes, ignore_index, device)
    try:
        for batch in batches:
            there = carried(batch, device)
            with in_precision(device, precision):
                logits = network(there.images)["logits"]
            metrics.update(logits, there.labels)
    finally:
        network.train(was_training)
    return metrics.scores()
