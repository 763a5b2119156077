"""A loss that is read steps later is the same, of the same step; here on a CPU, as it is on a GPU."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_trainings import CLASSES, IGNORE, Drawn
from tiny_tasks import CPU, Stop, make_task, stop_at
from torch import Tensor, nn

from agentkd.agents.work import Surroundings, execute
from agentkd.artifacts.store import Store
from agentkd.errors import NonFiniteLossError
from agentkd.networks.blocks import SegmentationNetwork
from agentkd.recipe import Recipe
from agentkd.training import reading
from agentkd.training.batches import Batch
from agentkd.training.loop import Hooks, Plan, Untaught, train
from agentkd.training.losses import LossSettings, Outputs, Terms
from agentkd.training.reading import Readings

LAGS = [0, 1, 2, 7]


@pytest.fixture(params=LAGS)
def lag(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(reading, "READ_LATER", {"cpu": request.param})
    return int(request.param)


@pytest.fixture(scope="module")
def waited_for(tmp_path_factory: pytest.TempPathFactory) -> Any:
    told: list[tuple[int, int, float]] = []
    hooks = Hooks(on_step=lambda *one: told.append(one))
    return execute(make_task(), Surroundings(Store(tmp_path_factory.mktemp("waited for")), CPU, hooks=hooks)), told


def test_what_is_recorded_and_told_is_the_same(lag: int, tmp_path: Path, waited_for: Any) -> None:
    told: list[tuple[int, int, float]] = []
    epochs: list[int] = []
    hooks = Hooks(on_step=lambda *one: told.append(one), on_epoch=lambda epoch: epochs.append(len(told)))
    made = execute(make_task(), Surroundings(Store(tmp_path), CPU, hooks=hooks))
    expected, all_told = waited_for
    assert told == all_told
    assert epochs == [4, 8, 12], "all of an epoch's steps are told before its end"
    assert (made.weights, made.trace) == (expected.weights, expected.trace)
    assert [epoch.loss for epoch in made.history] == [epoch.loss for epoch in expected.history]


@pytest.mark.parametrize("step", [2, 6])
def test_a_checkpoint_lacks_no_loss(lag: int, step: int, tmp_path: Path, waited_for: Any) -> None:
    at = {"checkpoint": tmp_path / "checkpoint.safetensors", "checkpoint_every_s": 0.0}
    with pytest.raises(Stop):
        execute(make_task(), Surroundings(Store(tmp_path), CPU, hooks=stop_at(step), **at))
    resumed = execute(make_task(), Surroundings(Store(tmp_path), CPU, **at))
    assert (resumed.weights, resumed.trace) == (waited_for[0].weights, waited_for[0].trace)


class Spoiled(SegmentationNetwork):
    """What it makes of the ``wrong``-th batch is not finite."""

    def __init__(self, wrong: int) -> None:
        super().__init__()
        self.layer, self.wrong, self.seen = nn.Conv2d(3, CLASSES, 1), wrong, 0

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        self.seen += 1
        return {"logits": self.layer(images) * (math.inf if self.seen == self.wrong + 1 else 1.0), "sizes": torch.ones(1).long()}


def summed(network: nn.Module, outputs: Outputs, batch: Batch, settings: LossSettings) -> Terms:
    return {"mean": outputs["logits"].abs().mean(), "one": torch.ones(())}


def spoiled_loss(wrong: int) -> Callable[..., Terms]:
    """Its term ``mean`` of the ``wrong``-th batch is NaN, and the network is sound."""
    seen: list[int] = []

    def loss(network: nn.Module, outputs: Outputs, batch: Batch, settings: LossSettings) -> Terms:
        seen.append(0)
        terms = summed(network, outputs, batch, settings)
        return terms | {"mean": terms["mean"] * math.nan} if len(seen) == wrong + 1 else terms

    return loss


def learn(network: nn.Module, loss: Any = summed, hooks: Hooks | None = None) -> None:
    plan = Plan(Recipe(epochs=1, batch_size=2), loss, LossSettings(CLASSES, IGNORE), seed=1)
    train(network, Drawn(steps_per_epoch=9, size=(8, 8)), plan, device=CPU, hooks=hooks)


@pytest.mark.parametrize("step", [0, 1, 4, 8])
@pytest.mark.parametrize("whose", ["the network's", "the loss's"])
def test_a_loss_that_is_not_finite_is_told_of_its_own_step_with_its_own_terms(lag: int, step: int, whose: str) -> None:
    told: list[int] = []
    with pytest.raises(NonFiniteLossError) as caught:
        learn(
            Spoiled(step if whose == "the network's" else 99),
            summed if whose == "the network's" else spoiled_loss(step),
            Hooks(on_step=lambda now, *rest: told.append(now)),
        )
    assert caught.value.step == step
    assert not math.isfinite(caught.value.terms["mean"]) and caught.value.terms["one"] == 1.0
    assert ("the network's outputs are" in str(caught.value)) == (whose == "the loss's")
    assert told == list(range(1, len(told) + 1)) and len(told) <= step


def test_what_goes_wrong_after_a_loss_that_is_not_finite_is_told_as_that(lag: int) -> None:
    seen: list[int] = []

    def strict(network: nn.Module, outputs: Outputs, batch: Batch, settings: LossSettings) -> Terms:
        seen.append(0)
        if len(seen) == 5:
            raise ValueError("no such thing")
        return summed(network, outputs, batch, settings)

    with pytest.raises(NonFiniteLossError) as caught:
        learn(Spoiled(3), strict)
    assert caught.value.step == 3
    seen.clear()
    with pytest.raises(ValueError, match="no such thing"):
        learn(Spoiled(99), strict)


def test_where_others_hear_a_student_nothing_is_read_later(lag: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Heard(Untaught):
        is_heard = True

        def hear(self, step: int, outputs: Outputs) -> tuple[dict[str, Tensor], ...]:
            spoken.append(step)
            return ()

    spoken: list[int] = []
    plan = Plan(Recipe(epochs=1, batch_size=2), summed, LossSettings(CLASSES, IGNORE), seed=1, teaching=Heard())
    with pytest.raises(NonFiniteLossError):
        train(Spoiled(4), Drawn(steps_per_epoch=9, size=(8, 8)), plan, device=CPU)
    assert spoken == [0, 1, 2, 3, 4], "as ever, and not a step more"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_anything_that_is_not_finite_is_found_and_nothing_else(bad: float, dtype: torch.dtype) -> None:
    most = torch.finfo(dtype).max
    sound = [
        torch.ones(3, 4, dtype=dtype),
        None,
        torch.full((9,), most, dtype=dtype),
        torch.arange(3),
        torch.ones(0, dtype=dtype),
    ]
    assert reading.is_finite(sound), "though a sum overflows"
    for at in (0, 5, 11):
        spoiled = torch.ones(12, dtype=dtype)
        spoiled[at] = bad
        assert not reading.is_finite([*sound, spoiled])
        largest = reading._largest([torch.ones(3), spoiled, torch.ones(2).long(), torch.ones(0)])
        assert not math.isfinite(float(largest))
    assert not reading.is_finite([torch.tensor([math.inf, -math.inf], dtype=dtype)])


def test_on_a_cpu_a_loss_is_read_at_once_and_on_cuda_not() -> None:
    assert Readings(CPU, at_once=False).lag == 0
    assert Readings(torch.device("cuda:0"), at_once=False).lag > 0
    assert Readings(torch.device("cuda:0"), at_once=True).lag == 0
