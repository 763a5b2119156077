"""A training step on a GPU asks it for no number, which it would have to be waited for; seen on a CPU, by its operators.

Copies to a device, which are none here, are looked at where there is one, in ``tests/process/test_gpu.py``.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from every_objective import ALL
from operators import demanded
from small_trainings import CLASSES, IGNORE, SMALL, batch_of
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from agentkd.knowledge import objectives, payloads
from agentkd.knowledge.objectives import Moment
from agentkd.networks import families
from agentkd.networks.build import build
from agentkd.objectives import payloads as payloads_of
from agentkd.recipe import Recipe
from agentkd.training.losses import LOSSES, LossSettings, ohem_cross_entropy, soft_dice
from agentkd.training.optimization import build_optimizers
from agentkd.training.taps import TAP

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal"}
WEIGHTS = (1.0, 2.0, 1.0, 0.0, 1.0)
PICKING = {"dist", "features"}  # that are of the pixels that count, and ask how many they are


class Asked(TorchDispatchMode):
    """Notes what asks a device for a number, or for how many there are."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        places = args[1] if name.startswith("index") and len(args) > 1 else ()
        picks = any(isinstance(one, Tensor) and one.dtype == torch.bool for one in places) if isinstance(places, list) else False
        if name in WAITING or picks:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    """As on CUDA, where ``one_hot`` does not look at its labels."""

    def one_hot(labels: Tensor, count: int | None = None) -> Tensor:
        return torch.ops.aten.one_hot(labels) if count is None else (labels[..., None] == torch.arange(count)).long()

    monkeypatch.setattr(F, "one_hot", one_hot)
    with demanded(), Asked() as record:
        yield record


def test_what_asks_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(4)
    for what in (
        lambda: float(x[0]),
        lambda: x[x > 0],
        lambda: bool((x > 0).any()),
        lambda: x.nonzero(),
        lambda: x.mean().item(),
    ):
        with asked(monkeypatch) as record:
            what()
        assert record.seen
    with asked(monkeypatch) as record:
        assert x[torch.tensor([0, 1])].shape == (2,) and x.where(x > 0, 0).shape == (4,)
    assert not record.seen


@pytest.mark.parametrize("loss", ["family", "cross_entropy", "ohem"])
@pytest.mark.parametrize("family", SMALL)
def test_a_step_of_a_family_asks_for_nothing(family: str, loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = build(families.resolve(family, CLASSES, SMALL[family]), seed=1).train()
    recipe = Recipe(epochs=1, batch_size=2, optimizer="adamw" if loss == "ohem" else "sgd")
    optimizers = build_optimizers(network.parameter_groups(), recipe)
    chosen = LOSSES["cross_entropy" if loss == "cross_entropy" else families.loss_name(family)]
    labels = LossSettings(CLASSES, IGNORE, WEIGHTS if loss != "cross_entropy" else (), mines_all=loss == "ohem")
    batch = batch_of(0)
    with asked(monkeypatch) as record:
        terms = chosen(network, network(batch.images), batch, labels)
        torch.stack([term.float() for term in terms.values()]).sum().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer in optimizers.values():
            optimizer.step()
    assert not record.seen


@pytest.mark.parametrize("name", ALL)
def test_an_objective_of_logits_asks_for_nothing_but_those_that_pick(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = ALL[name]
    student = {
        "logits": torch.randn(2, CLASSES, 9, 13, requires_grad=True),
        TAP + "s": torch.randn(2, 8, 9, 13, requires_grad=True),
    }
    outputs = {"logits": torch.randn(2, CLASSES, 10, 12), TAP + "t": torch.randn(2, 8, 10, 12)}
    teacher = {one.name: payloads.reduce(one, outputs) for one in payloads_of(objective)}
    with asked(monkeypatch) as record:
        objectives.loss(objective, student, [teacher], Moment(batch_of(0).labels, IGNORE)).backward()
    assert bool(record.seen) == (objective.kind in PICKING | {"ifvd", "own"}), record.seen


@pytest.mark.parametrize("weights", [(), WEIGHTS])
@pytest.mark.parametrize("threshold", [0.9, 0.01])
@pytest.mark.parametrize("min_kept", [0, 3, 40, 10**6])
def test_hard_pixels_are_the_same_whether_they_are_picked_or_not(weights: Any, threshold: float, min_kept: int) -> None:
    labels = batch_of(1, size=(9, 11)).labels
    found = []
    for is_demanded in (False, True):
        logits = torch.randn(2, CLASSES, 9, 11, generator=torch.Generator().manual_seed(3), requires_grad=True)
        told = {"threshold": threshold, "min_kept": min_kept, "class_weights": weights}
        if is_demanded:
            with demanded():
                loss = ohem_cross_entropy(logits, labels, IGNORE, **told)
        else:
            loss = ohem_cross_entropy(logits, labels, IGNORE, **told)
        loss.backward()
        found.append((loss, logits.grad))
    assert found[0][0] > 0
    torch.testing.assert_close(found[1], found[0])


def test_where_no_pixel_counts_the_loss_is_zero_and_so_is_its_gradient() -> None:
    logits = torch.randn(1, CLASSES, 4, 4, requires_grad=True)
    with demanded():
        for labels, weights in ((torch.full((1, 4, 4), IGNORE), ()), (torch.full((1, 4, 4), 3), WEIGHTS)):
            loss = ohem_cross_entropy(logits, labels, IGNORE, threshold=0.7, min_kept=2, class_weights=weights)
            dice = soft_dice(logits, torch.full((1, 4, 4), IGNORE), IGNORE)
            (gradient,) = torch.autograd.grad(loss + dice, logits)
            assert float(loss.detach()) == float(dice.detach()) == 0.0 and not gradient.any()


def test_logits_that_are_not_finite_make_a_loss_that_is_not() -> None:
    logits = torch.randn(1, CLASSES, 4, 4)
    logits[0, 0, 1, 1] = math.nan
    labels = torch.zeros(1, 4, 4).long()
    with demanded():
        assert math.isnan(float(ohem_cross_entropy(logits, labels, IGNORE, threshold=0.7, min_kept=2)))
        assert math.isnan(float(soft_dice(logits, labels, IGNORE)))
