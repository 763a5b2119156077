"""How an exported network is held against the one it was made of: pixel by pixel, on images."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from agentkd.datasets.samples import Floats, Pixels
from agentkd.deploy.evidence import Evidence
from agentkd.errors import ContractError
from agentkd.networks.segmenter import Segmenter
from agentkd.training.metrics import SegmentationMetrics

Runs = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Tolerance:
    """How much an export may differ.

    Args:
        agreement: the least share of pixels that must get the same class.
        miou_loss: the most that mIoU may fall, in [0, 1], where there are labels; then ``agreement`` does not count if
            ``is_by_labels``.
        is_by_labels: what counts is mIoU, wherever it is known.
    """

    agreement: float
    miou_loss: float
    is_by_labels: bool = False


# Of rounding alone nothing changes but ties; fewer bits are judged by what they are for.
TOLERANCES = {
    "float32": Tolerance(0.9999, 0.0005),
    "float16": Tolerance(0.995, 0.005, is_by_labels=True),
    "int8": Tolerance(0.98, 0.01, is_by_labels=True),
}


@dataclass(frozen=True)
class Agreement:
    """What came of a comparison.

    Args:
        num_images: that were compared.
        largest_difference: of any probability.
        agreement: share of pixels of the same class.
        miou: of the exported network, ``None`` without labels; ``miou_before`` of the network itself.
    """

    num_images: int
    largest_difference: float
    agreement: float
    miou_before: float | None = None
    miou: float | None = None
    source: str = field(default="", compare=False)

    def problem(self, tolerance: Tolerance) -> str:
        """Why it differs too much; empty if it does not."""
        lost = None if self.miou is None or self.miou_before is None else self.miou_before - self.miou
        if lost is not None and lost > tolerance.miou_loss:
            return f"mIoU falls by {100 * lost:.2f} points; {100 * tolerance.miou_loss:.2f} are allowed"
        if (lost is None or not tolerance.is_by_labels) and self.agreement < tolerance.agreement:
            least = f"at least {100 * tolerance.agreement:.2f} % should"
            return f"{100 * self.agreement:.3f} % of the pixels get the same class; {least}"
        return ""

    def as_data(self) -> dict[str, Any]:
        """As plain data, for the file's metadata."""
        rounded = {
            name: None if value is None else round(value, 6)
            for name, value in (("miou_before", self.miou_before), ("miou", self.miou))
        }
        return {
            "images": self.num_images,
            "largest_difference": float(f"{self.largest_difference:.3g}"),
            "agreement": round(self.agreement, 6),
            **rounded,
            "on": self.source,
        }


class Reference:
    """What a network says of images, kept so that several exports are held against it.

    Args:
        segmenter: the network.
        evidence: the images.
    """

    def __init__(self, segmenter: Segmenter, evidence: Evidence) -> None:
        self._evidence, self._num_classes = evidence, segmenter.architecture.num_classes
        device = segmenter.mean.device
        with torch.no_grad():
            self._told = [segmenter(torch.from_numpy(as_floats(image)).to(device)).cpu().numpy() for image in evidence.images]
        self._miou = self._scored(self._told)

    def compare(self, runs: Runs, *, first: int | None = None) -> Agreement:
        """Holds an exported network against it.

        Args:
            runs: the exported network.
            first: how many of the images are looked at; all if it is not given. With fewer mIoU is not measured.

        Raises:
            ContractError: it gives something else than probabilities of the same shape.
        """
        images, largest, same, pixels = self._evidence.images[:first], 0.0, 0, 0
        made = []
        for image, told in zip(images, self._told, strict=False):
            found = runs(as_floats(image))
            if found.shape != told.shape or not np.isfinite(found).all():
                raise ContractError("probabilities", told.shape, found.shape, hint="or some are no numbers (NaN)")
            largest = max(largest, float(np.abs(found - told).max()))
            same += int((found.argmax(axis=1) == told.argmax(axis=1)).sum())
            pixels += told[:, 0].size
            made.append(found)
        all_of_it = Agreement(len(images), largest, same / max(pixels, 1), source=self._evidence.source)
        if first is not None or self._miou is None:
            return all_of_it
        return replace(all_of_it, miou_before=self._miou, miou=self._scored(made))

    def _scored(self, told: list[Floats]) -> float | None:
        if not self._evidence.labels:
            return None
        metrics = SegmentationMetrics(self._num_classes, self._evidence.ignore_index)
        for found, label in zip(told, self._evidence.labels, strict=True):
            metrics.update(torch.from_numpy(found), torch.from_numpy(label.astype(np.int64))[None])
        return metrics.scores().miou


def as_floats(image: Pixels) -> Floats:
    """An image ``[H,W,C]`` uint8 as a batch of one, in [0, 1]."""
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None], dtype=np.float32) / np.float32(255)
