"""Looking without learning: what a network knows about data, and what it makes of views inside."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from agentkd import repeatable
from agentkd.agents.feeding import evaluation_images, open_source, view_images
from agentkd.architecture import Architecture, Normalization
from agentkd.datasets.samples import split_indices
from agentkd.datasets.views import whole_view
from agentkd.knowledge.energy import energy, known_fraction, usual
from agentkd.knowledge.payloads import dense
from agentkd.knowledge.scores import SCORES, Mahalanobis
from agentkd.task import Assess, Competence, DataSource, FeatureMaps
from agentkd.task.inputs import ENERGY
from agentkd.training.metrics import SegmentationMetrics, image_classes
from agentkd.training.taps import TAP, tapped

NUM_BINS = 15
MAX_FITTED, MAX_PIXELS_FITTED = 256, 256


@torch.no_grad()
def assess(network: torch.nn.Module, task: Assess, device: torch.device, *, classes: tuple[str, ...] = ()) -> Competence:
    """What a network in evaluation mode knows about a split (the one named ``validation`` in ``task.data``).

    If it tells other ``classes`` apart than the data, or in another order, the labels say nothing about it and do not count.
    """
    dataset, num_classes = open_source(task.data), task.architecture.num_classes
    labels_count = classes in ((), dataset.classes)
    metrics, calibration = SegmentationMetrics(num_classes, dataset.ignore_index, device), _Calibration(dataset.ignore_index)
    predicted, strange, num_labelled = torch.zeros(num_classes, dtype=torch.float64), [], 0
    judged = _judge(network, task, device)
    indices = split_indices(dataset, task.data.validation)
    for index in indices:
        view = whole_view(dataset, index, task.architecture.normalization)
        labels = torch.from_numpy(view.label)[None].long()
        labels = labels if labels_count else torch.full_like(labels, dataset.ignore_index)
        outputs = judged.look(torch.from_numpy(view.image)[None])
        logits = dense(outputs["logits"]).float()
        strange.append(judged.score(outputs).flatten().cpu())
        full = repeatable.bilinear(logits, labels.shape[-2:])
        predicted += torch.bincount(full.argmax(dim=1).flatten().cpu(), minlength=num_classes)
        metrics.update(logits, labels.to(device))
        calibration.update(full.cpu(), labels)
        num_labelled += int((labels != dataset.ignore_index).sum())
    scores = metrics.scores() if num_labelled else None
    usual_scores = usual(torch.cat(judged.at_home(task.home))) if task.home else None
    return Competence(
        weights=task.initial_weights,
        dataset=dataset.digest,
        split=task.data.validation,
        num_images=len(indices),
        known_fraction=known_fraction(torch.cat(strange), usual_scores[1]) if usual_scores else None,
        energies=usual_scores if task.score == ENERGY else None,
        score=task.score,
        accuracy=scores.accuracy if scores else None,
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


@dataclass(frozen=True)
class _Judged:
    """A network, and the score by which it is told what is strange to it."""

    network: torch.nn.Module
    normalization: Normalization
    device: torch.device
    tap: str
    of: Callable[[Tensor], Tensor]

    def look(self, images: Tensor) -> dict[str, Tensor]:
        """What it makes of images [N,3,H,W], the features of the tap too."""
        return tapped(self.network, images.to(self.device), (self.tap,) if self.tap else ())

    def score(self, outputs: dict[str, Tensor]) -> Tensor:
        """How strange each pixel is: [N,h,w]."""
        return self.of(self.features(outputs))

    def features(self, outputs: dict[str, Tensor]) -> Tensor:
        """What is looked at: [N,C,h,w]."""
        return dense(outputs[TAP + self.tap if self.tap else "logits"])

    def at_home(self, home: DataSource) -> list[Tensor]:
        """The scores of all pixels of the validation split of what was learned."""
        return [self.score(self.look(images)).flatten().cpu() for images in evaluation_images(home, self.normalization)]


def _judge(network: torch.nn.Module, task: Assess, device: torch.device) -> _Judged:
    """The network with the score that the task asks for; without a home there is nothing to fit one to, and energy stands in."""
    made = partial(_Judged, network, task.architecture.normalization, device)
    if task.score != "mahalanobis":
        return made("", SCORES[task.score])
    bare = made(task.tap, energy)
    return made(task.tap, _fit(bare, task.home)) if task.home else bare


def _fit(bare: _Judged, home: DataSource) -> Mahalanobis:
    """From the training split of what was learned: pixels of up to ``MAX_FITTED`` images, by their labels.

    Where nothing is labelled the network's own predictions stand in for labels.
    """
    dataset = open_source(home)
    indices = split_indices(dataset, home.train)
    spread = [indices[at * len(indices) // MAX_FITTED] for at in range(MAX_FITTED)] if len(indices) > MAX_FITTED else indices
    rows, classes, predictions = [], [], []
    for index in spread:
        view = whole_view(dataset, index, bare.normalization)
        outputs = bare.look(torch.from_numpy(view.image)[None])
        maps, labels = bare.features(outputs), torch.from_numpy(view.label)[None].long()
        size = tuple(maps.shape[-2:])
        said = repeatable.bilinear(dense(outputs["logits"]).float(), size).argmax(dim=1)
        if size == (1, 1):
            labels = image_classes(labels, max(len(dataset.classes), 1), dataset.ignore_index)[:, None, None]
        labels = F.interpolate(labels[:, None].float(), size=size, mode="nearest").long()[:, 0]
        chosen = torch.linspace(0, labels.numel() - 1, min(labels.numel(), MAX_PIXELS_FITTED)).long()
        rows.append(maps.flatten(2)[0].T.cpu()[chosen])
        classes.append(labels.flatten()[chosen])
        predictions.append(said.flatten().cpu()[chosen])
    features, labelled = torch.cat(rows), torch.cat(classes)
    is_labelled = labelled != dataset.ignore_index
    if not is_labelled.any():
        return Mahalanobis.fit(features, torch.cat(predictions))
    return Mahalanobis.fit(features[is_labelled], labelled[is_labelled])


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
