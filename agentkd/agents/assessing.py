"""Looking without learning: what a network knows about data, and what it makes of views inside."""

import torch
from torch import Tensor
from torch.nn import functional as F

from agentkd.agents.feeding import evaluation_images, open_source, view_images
from agentkd.architecture import Architecture
from agentkd.datasets.samples import split_indices
from agentkd.datasets.views import whole_view
from agentkd.knowledge.energy import energy, known_fraction, usual
from agentkd.knowledge.payloads import dense
from agentkd.task import Assess, Competence, DataSource, FeatureMaps
from agentkd.training.metrics import SegmentationMetrics
from agentkd.training.taps import TAP, tapped

NUM_BINS = 15


@torch.no_grad()
def assess(network: torch.nn.Module, task: Assess, device: torch.device, *, classes: tuple[str, ...] = ()) -> Competence:
    """What a network in evaluation mode knows about a split (the one named ``validation`` in ``task.data``).

    If it tells other ``classes`` apart than the data, or in another order, the labels say nothing about it and do not count.
    """
    dataset, num_classes = open_source(task.data), task.architecture.num_classes
    labels_count = classes in ((), dataset.classes)
    metrics, calibration = SegmentationMetrics(num_classes, dataset.ignore_index, device), _Calibration(dataset.ignore_index)
    predicted, energies, num_labelled = torch.zeros(num_classes, dtype=torch.float64), [], 0
    indices = split_indices(dataset, task.data.validation)
    for index in indices:
        view = whole_view(dataset, index, task.architecture.normalization)
        labels = torch.from_numpy(view.label)[None].long()
        labels = labels if labels_count else torch.full_like(labels, dataset.ignore_index)
        logits = dense(network(torch.from_numpy(view.image)[None].to(device))["logits"]).float()
        energies.append(energy(logits).flatten().cpu())
        full = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
        predicted += torch.bincount(full.argmax(dim=1).flatten().cpu(), minlength=num_classes)
        metrics.update(full, labels.to(device))
        calibration.update(full.cpu(), labels)
        num_labelled += int((labels != dataset.ignore_index).sum())
    scores = metrics.scores() if num_labelled else None
    usual_energies = known_energies(network, task.home, task.architecture, device) if task.home else None
    return Competence(
        weights=task.initial_weights,
        dataset=dataset.digest,
        split=task.data.validation,
        num_images=len(indices),
        known_fraction=known_fraction(torch.cat(energies), usual_energies[1]) if usual_energies else None,
        energies=usual_energies,
        miou=scores.miou if scores else None,
        class_iou=scores.class_iou if scores else (),
        calibration_error=calibration.error() if num_labelled else None,
        predicted=tuple((predicted / predicted.sum()).tolist()),
    )


@torch.no_grad()
def feature_maps(network: torch.nn.Module, task: FeatureMaps, device: torch.device) -> dict[str, Tensor]:
    """``logits`` and the features of each tap for the views of a task, float32, in the views' order."""
    normalization = task.architecture.normalization
    images = view_images(open_source(task.data), task.views, task.view_settings, normalization).to(device)
    outputs = tapped(network, images, task.taps)
    named = {"logits": dense(outputs["logits"])} | {tap: outputs[TAP + tap] for tap in task.taps}
    return {name: value.float().cpu().contiguous() for name, value in named.items()}


@torch.no_grad()
def known_energies(
    network: torch.nn.Module, home: DataSource, architecture: Architecture, device: torch.device
) -> tuple[float, float]:
    """Median and 95th percentile of a pixel's energy, from the validation split of what the network learned.

    Under the second one a pixel counts as known.
    """
    whole = evaluation_images(home, architecture.normalization)
    own = [energy(dense(network(images.to(device))["logits"])).flatten().cpu() for images in whole]
    return usual(torch.cat(own))


class _Calibration:
    """Expected calibration error: confidence against accuracy, in bins of equal width."""

    def __init__(self, ignore_index: int) -> None:
        self._ignore_index = ignore_index
        self._counts, self._confidence, self._correct = (torch.zeros(NUM_BINS, dtype=torch.float64) for _ in range(3))

    def update(self, logits: Tensor, labels: Tensor) -> None:
        confidence, predicted = logits.softmax(dim=1).max(dim=1)
        valid = labels != self._ignore_index
        confidence, correct = confidence[valid].double(), (predicted == labels)[valid].double()
        bins = (confidence * NUM_BINS).long().clamp(max=NUM_BINS - 1)
        self._counts += torch.bincount(bins, minlength=NUM_BINS)
        self._confidence += torch.bincount(bins, confidence, minlength=NUM_BINS)
        self._correct += torch.bincount(bins, correct, minlength=NUM_BINS)

    def error(self) -> float:
        return float((self._confidence - self._correct).abs().sum() / self._counts.sum())
