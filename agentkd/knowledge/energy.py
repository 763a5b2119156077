"""Does a network know an image? The energy score of its logits, compared with what it met in its own validation data.

Source: Liu, Wang, Owens, Li, "Energy-based Out-of-distribution Detection", NeurIPS 2020.
"""

import torch
from torch import Tensor

KNOWN_QUANTILE = 0.95
MAX_SCORES = 1_000_000


def energy(logits: Tensor) -> Tensor:
    """E = -logsumexp(z) for each pixel; low where the network is at home.

    Shapes: logits [N,K,h,w] or [N,K]; the result has no class axis.
    """
    return -torch.logsumexp(logits.float(), dim=1)


def usual(energies: Tensor) -> tuple[float, float]:
    """Median and 95th percentile of the energies met in validation."""
    flat = energies.flatten()
    step = max(1, flat.numel() // MAX_SCORES)
    middle, high = torch.quantile(flat[::step], torch.tensor([0.5, KNOWN_QUANTILE], dtype=flat.dtype)).tolist()
    return middle, high


def known_fraction(energies: Tensor, threshold: float) -> float:
    """Share of pixels that are known."""
    return float((energies <= threshold).double().mean())
