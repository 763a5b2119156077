"""How strange a network finds each pixel, by one of several scores: high where it is not at home. Names are in ``SCORES``.

All but one look at the logits alone. What a score is in data that the network knows says how to read it: see ``energy.usual``.

Sources:
    ``energy``: Liu, Wang, Owens, Li, "Energy-based Out-of-distribution Detection", NeurIPS 2020.
    ``max_softmax``: Hendrycks, Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural
    Networks", ICLR 2017.
    ``entropy``: Chan, Rottmann, Gottschalk, "Entropy Maximization and Meta Classification for Out-of-Distribution Detection in
    Semantic Segmentation", ICCV 2021.
    ``mahalanobis``: Lee, Lee, Lee, Shin, "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial
    Attacks", NeurIPS 2018.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from agentkd.errors import ContractError
from agentkd.knowledge.energy import energy
from agentkd.knowledge.payloads import dense

RIDGE = 1e-6
"""Of the mean variance, added to each, so that features that never vary or go together have an inverse covariance too."""


def max_softmax(logits: Tensor) -> Tensor:
    """Minus the largest probability: [N,h,w] in [-1, 0] from logits [N,K,h,w]."""
    return -logits.float().softmax(dim=1).amax(dim=1)


def entropy(logits: Tensor) -> Tensor:
    """Of the probabilities, in nats: [N,h,w] in [0, ln K] from logits [N,K,h,w]."""
    logarithms = logits.float().log_softmax(dim=1)
    return -(logarithms.exp() * logarithms).sum(dim=1)


@dataclass(frozen=True)
class Mahalanobis:
    """Distance to the nearest class, whose features are taken to be normally distributed, all with one covariance.

    Args:
        whitening: [C,C], by which features are multiplied so that they vary alike in all directions.
        means: [K',C], of the classes that were met, multiplied likewise.
    """

    whitening: Tensor
    means: Tensor

    @classmethod
    def fit(cls, features: Tensor, classes: Tensor) -> Self:
        """From features [P,C] of pixels and the class [P] of each.

        Raises:
            ContractError: there are none, or not a class for each.
        """
        if features.dim() != 2 or not len(features) or classes.shape != features.shape[:1]:
            raise ContractError("features", "[P,C] and a class for each", (tuple(features.shape), tuple(classes.shape)))
        known, numbers = classes.unique(return_inverse=True)  # type: ignore[no-untyped-call]
        exact = features.double()
        sums = torch.zeros(len(known), exact.shape[1], dtype=torch.float64, device=exact.device).index_add_(0, numbers, exact)
        means = sums / numbers.bincount(minlength=len(known))[:, None]
        apart = exact - means[numbers]
        covariance = apart.T @ apart / len(apart)
        ridge = RIDGE * float(covariance.diagonal().mean()) or 1.0
        inverse = torch.linalg.inv(covariance + ridge * torch.eye(len(covariance), dtype=torch.float64, device=exact.device))
        whitening = torch.linalg.cholesky((inverse + inverse.T) / 2)
        return cls(whitening, means @ whitening)

    def __call__(self, features: Tensor) -> Tensor:
        """The squared distance: [N,h,w] from features [N,C,h,w] or [N,C]."""
        maps = dense(features)
        flat = maps.double().movedim(1, -1)
        whitened = (flat @ self.whitening.to(flat.device)).flatten(0, -2)
        distances = torch.cdist(whitened, self.means.to(flat.device), compute_mode="donot_use_mm_for_euclid_dist")
        return distances.square().amin(dim=1).reshape(flat.shape[:-1]).float()


SCORES: dict[str, Callable[[Tensor], Tensor]] = {"energy": energy, "max_softmax": max_softmax, "entropy": entropy}
"""Those of logits, by name."""
