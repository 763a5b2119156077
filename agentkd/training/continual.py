"""Learning something new without forgetting: how much each weight matters for what is known, and a pull back to where it was.

Source: Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017; online: Schwarz et al.,
"Progress & Compress", ICML 2018.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agentkd import repeatable, seeding
from agentkd.training.checkpoint import State


def importance(network: nn.Module, images: Iterable[Tensor], *, seed: int) -> State:
    """The diagonal of the Fisher information of a network's parameters, divided by its mean, so that it has no unit.

    Labels are drawn, from ``seed``, from the network's own predictions, so none are needed. What takes no gradient, such as a
    head that is not in use, does not matter.

    Args:
        network: in evaluation mode.
        images: [1,3,H,W] each.
        seed: root of what is drawn.
    """
    every = dict(network.named_parameters())
    parameters = {name: value for name, value in every.items() if value.requires_grad}
    device = next(iter(every.values())).device
    total = {name: torch.zeros_like(value) for name, value in every.items()}
    random = torch.Generator().manual_seed(seeding.derive("importance", seed))
    for image in images:
        logits = network(image.to(device))["logits"].float()
        flat = logits.movedim(1, -1).reshape(-1, logits.shape[1])
        drawn = torch.multinomial(flat.softmax(dim=1).cpu(), 1, generator=random).flatten().to(device)
        gradients = torch.autograd.grad(_cross_entropy(flat, drawn), list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                total[name] += gradient**2
    mean = sum(float(value.sum()) for value in total.values()) / sum(value.numel() for value in total.values())
    return {name: (value / max(mean, 1e-30)).cpu() for name, value in total.items()}


def _cross_entropy(flat: Tensor, drawn: Tensor) -> Tensor:
    """Mean over pixels, of logits [P,K] and the class [P] of each."""
    return -repeatable.picked(flat.log_softmax(dim=1), drawn, torch.ones_like(drawn, dtype=torch.bool)).mean()


def accumulate(before: Mapping[str, Tensor], new: Mapping[str, Tensor], decay: float) -> State:
    """Online importance: F <- decay F + F_new."""
    return {name: decay * before[name] + value if name in before else value for name, value in new.items()}


def divergence(target: Tensor, logits: Tensor) -> Tensor:
    """Mean over pixels of KL(target || logits), in nats, at the network's own stride: zero where both say the same.

    Shapes: both [N,K,h,w].
    """
    ours, theirs = logits.float().log_softmax(dim=1), target.float().log_softmax(dim=1)
    return F.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=1).mean()


def elastic_penalty(
    network: nn.Module, anchors: Mapping[str, Tensor], weights: Mapping[str, Tensor], strength: float
) -> Callable[[], Tensor]:
    """Strength / 2 times the mean over parameters of F (theta - anchor)^2, at the moment at which it is called."""
    parameters = [(name, value) for name, value in network.named_parameters() if name in weights]
    count = sum(value.numel() for _, value in parameters)
    kept = {name: (anchors[name].to(value.device), weights[name].to(value.device)) for name, value in parameters}

    def penalty() -> Tensor:
        terms = [(kept[name][1] * (value - kept[name][0]) ** 2).sum() for name, value in parameters]
        return 0.5 * strength * torch.stack(terms).sum() / count

    return penalty
