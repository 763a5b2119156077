"""The teacher's half of every objective: outputs reduced to what travels. It needs no labels, so images are enough.

Outputs are a network's, with the features of a tap under ``tap.NAME``.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from agentkd import repeatable
from agentkd.objectives import Payload
from agentkd.training.taps import TAP


def reduce(payload: Payload, outputs: Mapping[str, Tensor]) -> Tensor:
    """The payload in float32.

    Shapes: see ``Payload``. A network for classification, with logits [N,K], is one with h = w = 1.
    """
    return reduction(payload, outputs[TAP + payload.tap if payload.tap else "logits"].detach().float())


def reduction(payload: Payload, output: Tensor) -> Tensor:
    """The same of one output, in its own precision."""
    return _REDUCTIONS[payload.form](output, payload)


def dense(x: Tensor) -> Tensor:
    """[N,C,h,w] from that or from [N,C]."""
    return x[:, :, None, None] if x.dim() == 2 else x


def attention(features: Tensor) -> Tensor:
    """Mean over channels of the squared features: [N,h,w]."""
    return dense(features).pow(2).mean(dim=1)


def similarity(features: Tensor, height: int, width: int) -> Tensor:
    """Cosines between all pairs of positions [N,height,width,height*width] of features pooled (mean) to that grid."""
    pooled = repeatable.mean_pooled(dense(features), (height, width)).flatten(2)
    unit = F.normalize(pooled, dim=1)
    return torch.einsum("ncp,ncq->npq", unit, unit).reshape(len(unit), height, width, height * width)


def _similarity(features: Tensor, payload: Payload) -> Tensor:
    height, width = (min(payload.size, extent) for extent in dense(features).shape[-2:])
    return similarity(features, height, width)


_REDUCTIONS: dict[str, Callable[[Tensor, Payload], Tensor]] = {
    "logits": lambda logits, payload: dense(logits),
    "features": lambda features, payload: dense(features),
    "attention": lambda features, payload: attention(features),
    "similarity": _similarity,
}
