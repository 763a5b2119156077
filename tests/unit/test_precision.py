"""Training in bfloat16: what is computed in it, and that every family can be trained and taught so."""

import pytest
import torch

from agentkd.knowledge import objectives
from agentkd.knowledge.objectives import Moment
from agentkd.networks import families
from agentkd.networks.build import build
from agentkd.objectives import SoftTargets
from agentkd.training.batches import Batch
from agentkd.training.losses import LOSSES, LossSettings, Terms

CLASSES, IGNORE = 11, 255
FAMILIES = {
    "pidnet_s": {"planes": 16},
    "pidnet_m": {"planes": 16},
    "pidnet_l": {"planes": 16},
    "unet": {"base": 8},
    "unetpp": {"base": 8, "depth": 2, "deep_supervision": True},
    "cnn_i2i_bisenet": {"width": 0.5},
}


def step(family: str, *, is_half: bool) -> tuple[Terms, torch.nn.Module]:
    """The terms of a lesson's first step, and the network with their gradients."""
    torch.manual_seed(0)
    images, labels = torch.randn(2, 3, 72, 96), torch.randint(0, CLASSES, (2, 9, 12))
    labels[:, 0] = IGNORE
    batch = Batch(images, labels.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2))
    network = build(families.resolve(family, CLASSES, FAMILIES[family]), seed=1).train()
    told = {"logits": 3 * torch.randn(2, CLASSES, 9, 12)}
    moment = Moment(batch.labels, IGNORE)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_half):
        outputs = network(batch.images)
        terms = LOSSES[families.loss_name(family)](network, outputs, batch, LossSettings(CLASSES, IGNORE))
        terms |= {"soft targets": objectives.loss(SoftTargets(temperature=2), outputs, [told], moment)}
        assert outputs["logits"].dtype == (torch.bfloat16 if is_half else torch.float32)
        loss = torch.stack(list(terms.values())).sum()
    loss.backward()
    return {name: term.detach() for name, term in terms.items()}, network


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lesson_in_bfloat16_has_the_losses_of_one_in_float32_and_a_finite_gradient_everywhere(family: str) -> None:
    terms, network = step(family, is_half=True)
    assert {term.dtype for term in terms.values()} == {torch.float32}
    for name, term in step(family, is_half=False)[0].items():
        assert torch.allclose(terms[name], term, rtol=0.05, atol=0.02), f"{name}: {terms[name]}, in float32 {term}"
    for name, parameter in network.named_parameters():
        assert parameter.dtype == torch.float32 and parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
