"""Soft targets, Eq. 1 of the paper, in two halves: ``teach`` in the teacher's process, ``loss`` in the student's.

What travels are the teacher's raw logits at its native stride; temperature, up-sampling and the divergence are the
student's side, so one payload serves students with different temperatures.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

CODECS = {"float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class SoftTargets:
    """KL(softmax(z_T / tau) || softmax(z_S / tau)), mean over valid pixels.

    Args:
        temperature: tau.
        scale_by_temperature_squared: multiply by tau^2.
        resolution: compare at the labels' ``full`` resolution or at the student's ``native`` stride.
        codec: how the logits travel.

    Source: Vlachos et al., Eq. 1; Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015.
    """

    temperature: float = 2.0
    scale_by_temperature_squared: bool = True
    resolution: str = "full"
    codec: str = "float16"

    def teach(self, logits: Tensor) -> Tensor:
        """The payload: logits ``[N,K,h,w]`` in the codec's number type, clamped to its range."""
        dtype = CODECS[self.codec]
        limit = torch.finfo(dtype).max
        return logits.detach().float().clamp(-limit, limit).to(dtype)

    def loss(self, student_logits: Tensor, payloads: Sequence[Tensor], labels: Tensor, ignore_index: int) -> Tensor:
        """The divergence as a scalar.

        Several teachers' *probabilities* are averaged; averaging logits would let the loudest teacher win.

        Shapes: student_logits [N,K,h,w]; each payload [N,K,h',w']; labels [N,H,W].
        """
        valid = labels != ignore_index
        size = labels.shape[-2:]
        if self.resolution == "native":
            size = student_logits.shape[-2:]
            valid = F.interpolate(valid[:, None].float(), size=size, mode="nearest")[:, 0] > 0.5
        student = F.log_softmax(_resize(student_logits, size) / self.temperature, dim=1)
        if len(payloads) == 1:
            log_teacher = F.log_softmax(_resize(payloads[0], size) / self.temperature, dim=1)
        else:
            each = torch.stack([F.log_softmax(_resize(payload, size) / self.temperature, dim=1) for payload in payloads])
            log_teacher = torch.logsumexp(each, dim=0) - torch.log(torch.tensor(float(len(payloads))))
        per_pixel = (log_teacher.exp() * (log_teacher - student)).sum(dim=1)
        mean = (per_pixel * valid).sum() / valid.sum().clamp(min=1)
        return mean * self.temperature**2 if self.scale_by_temperature_squared else mean


def _resize(logits: Tensor, size: torch.Size) -> Tensor:
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if logits.shape[-2:] == size:
        return logits
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
