"""How the published families begin, what decays, and which pixels count: by hand, for small cases."""

from pathlib import Path

import pytest
import torch
from reference.scenarios import BISENET, RECIPE, SCENES
from reference.tasks import run, source
from torch import Tensor, nn

from agentkd.artifacts.store import Store
from agentkd.knowledge import tensors
from agentkd.networks.build import build
from agentkd.networks.families import resolve
from agentkd.recipe import Recipe
from agentkd.task import Train
from agentkd.training.batches import Batch
from agentkd.training.losses import LossSettings, bisenet_loss, pidnet_loss
from agentkd.training.optimization import build_optimizers

IGNORE = 255
NORMS = (nn.BatchNorm2d, nn.GroupNorm)


def begins_as_an_adversarial_network(state: dict[str, Tensor]) -> None:
    """By the tensors of the I2I branch and the discriminator: their dimensions and names say what they are."""
    mine = {name: value.double() for name, value in state.items() if name.startswith(("i2i.", "discriminator."))}
    weights = torch.cat([v.flatten() for v in mine.values() if v.dim() == 4])
    scales = torch.cat([v for n, v in mine.items() if v.dim() == 1 and n.endswith("weight")])
    shifts = torch.cat([v for n, v in mine.items() if n.endswith("bias")])
    assert float(weights.std()) == pytest.approx(0.02, rel=0.02) and abs(float(weights.mean())) < 3e-4
    assert float(scales.std()) == pytest.approx(0.02, rel=0.2) and float(scales.mean()) == pytest.approx(1, abs=0.01)
    assert float(shifts.abs().max()) < 1e-4
    for name, value in mine.items():
        assert value.dim() != 4 or float(value.std()) == pytest.approx(0.02, rel=0.15 if value.numel() > 200 else 0.5), name


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_i2i_branch_and_the_discriminator_begin_small(norm: str) -> None:
    network = build(resolve("cnn_i2i_bisenet", 5, {"norm": norm}), seed=3)
    begins_as_an_adversarial_network(dict(network.state_dict()))
    others = [m for n, m in network.named_modules() if isinstance(m, NORMS) and not n.startswith(("i2i", "discriminator"))]
    assert others and all(torch.all(m.weight == 1) and torch.all(m.bias == 0) for m in others)
    assert float(network.get_submodule("head.0.0").weight.detach().std()) > 0.025


def test_so_they_do_in_a_training(tmp_path: Path) -> None:
    """One that hardly moves them: after its steps they are still what they began as."""
    store = Store(tmp_path)
    family, settings = BISENET
    task = Train(
        architecture=resolve(family, 5, dict(settings) | {"i2i_width": 32, "discriminator_width": 16}),
        data=source(SCENES),
        recipe=Recipe.model_validate({**RECIPE, "epochs": 1, "learning_rate": 1e-9}),
        seed=3,
        view_seed=4,
    )
    begins_as_an_adversarial_network(tensors.decode(store.get(run(task, store).weights)))


@pytest.mark.parametrize("discriminator", [True, False])
@pytest.mark.parametrize("settings", [{}, {"norm": "group", "skips": 1}], ids=["published", "another"])
def test_only_convolution_weights_of_bisenet_decay(settings: dict, discriminator: bool) -> None:
    network = build(resolve("cnn_i2i_bisenet", 5, {"width": 0.5, "discriminator": discriminator, **settings}), seed=1)
    groups = network.parameter_groups()
    listed = [id(p) for group in groups for p in group.parameters]
    assert sorted(listed) == sorted(map(id, network.parameters()))
    names = {id(p): name for name, p in network.named_parameters()}
    for group in groups:
        for parameter in group.parameters:
            is_adversary = names[id(parameter)].startswith("discriminator.")
            assert (group.optimizer == "discriminator") == is_adversary
            assert is_adversary or group.decays == (parameter.dim() == 4), names[id(parameter)]
            top = names[id(parameter)].partition(".")[0]
            assert is_adversary or group.rate == {"context": 1.0, "i2i": 0.01}.get(top, 10.0)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_what_does_not_decay_stays_where_nothing_pulls(optimizer: str) -> None:
    network = build(resolve("cnn_i2i_bisenet", 5, {"width": 0.5, "i2i_width": 8}), seed=1)
    before = {name: value.clone() for name, value in network.named_parameters()}
    recipe = Recipe(optimizer=optimizer, learning_rate=0.1, weight_decay=0.5)
    made = build_optimizers(network.parameter_groups(), recipe)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for one in made.values():
        one.step()
    moved = {name for name, value in network.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {n for n, value in before.items() if value.dim() == 4 and not n.startswith("discriminator.")}


def test_pidnet_and_unet_decay_whole_as_published() -> None:
    for family in ("pidnet_s", "unet"):
        assert [group.decays for group in build(resolve(family, 2), seed=1).parameter_groups()] == [True]


def sure_of_zero(margins: Tensor) -> Tensor:
    """Logits of two classes whose first is ahead by the margins [N,h,w]; its cross-entropy is log(1 + exp(-margin))."""
    return torch.stack([margins, torch.zeros_like(margins)], dim=1)


def test_pidnet_keeps_131072_pixels_of_six_crops_of_1024() -> None:
    """One in 48: of pixels that are all sure the hardest count, a third of which is harder than the rest; others are easier."""
    size = 48
    labels = torch.zeros(6, size, size, dtype=torch.long)
    kept = 131_072 * labels.numel() // (6 * 1024 * 1024)
    assert kept == 288
    margins = torch.full((labels.numel(),), 6.0)
    margins[:kept] = 4.0
    margins[: kept // 3] = 3.0
    margins = margins[torch.randperm(labels.numel(), generator=torch.Generator().manual_seed(1))].reshape(labels.shape)
    main = sure_of_zero(margins)
    outputs = {"logits": main, "p_logits": main, "boundary": torch.full((6, 1, size, size), 9.0)}
    terms = pidnet_loss(nn.Identity(), outputs, Batch(torch.zeros(6, 3, size, size), labels), LossSettings(2, IGNORE))
    third, rest = torch.log1p(torch.exp(-torch.tensor([3.0, 4.0]))).tolist()
    hardest = (third + 2 * rest) / 3
    assert float(terms["main"]) == pytest.approx(hardest, rel=1e-5)
    assert float(terms["main_on_boundary"]) == pytest.approx(hardest, rel=1e-5)


def bisenet_terms(labels: Tensor, **heads: Tensor) -> dict[str, float]:
    network = build(resolve("cnn_i2i_bisenet", 2, {**BISENET[1], "discriminator": False}), seed=1)
    shape = next(iter(heads.values())).shape
    nothing = dict.fromkeys(("logits", "aux16_logits", "aux8_logits", "i2i_logits"), torch.zeros(shape))
    outputs = {**nothing, **heads, "picture": torch.zeros(shape[0], 3, *shape[-2:])}
    terms = bisenet_loss(network, outputs, Batch(torch.zeros(shape[0], 3, *labels.shape[-2:]), labels), LossSettings(2, IGNORE))
    return {name: float(term) for name, term in terms.items()}


@pytest.mark.parametrize(("head", "weight"), [("logits", 0.7), ("aux16_logits", 0.7), ("aux8_logits", 0.7), ("i2i_logits", 0.3)])
def test_bisenets_heads_learn_from_the_labels_at_their_own_stride(head: str, weight: float) -> None:
    """Four by eight pixels of logits, of which a sixteenth (two) must count: the two of 32 that are less sure than the others."""
    margins = torch.full((1, 4, 8), 5.0)
    margins[0, 1, 2] = margins[0, 3, 7] = 2.0
    labels = torch.ones(1, 32, 64, dtype=torch.long)
    labels[:, ::8, ::8] = 0  # what is between is not looked at
    term = {"logits": "main", "aux16_logits": "aux16", "aux8_logits": "aux8", "i2i_logits": "i2i"}[head]
    found = bisenet_terms(labels, **{head: sure_of_zero(margins)})[term]
    assert found == pytest.approx(weight * float(torch.log1p(torch.exp(torch.tensor(-2.0)))), rel=1e-5)


def test_bisenets_hard_pixels_are_those_below_seven_tenths() -> None:
    """Three of 32 have a probability of 0.6, 0.65 and 0.69, more than the two that must be kept; 0.71 is not hard."""
    chances = torch.full((1, 4, 8), 0.99)
    chances[0, 0, :4] = torch.tensor([0.6, 0.65, 0.69, 0.71])
    labels = torch.zeros(1, 32, 64, dtype=torch.long)
    found = bisenet_terms(labels, logits=sure_of_zero(torch.logit(chances)))["main"]
    assert found == pytest.approx(0.7 * float(-torch.log(torch.tensor([0.6, 0.65, 0.69])).mean()), rel=1e-5)
