"""How fast this machine trains the networks of a plan: a few steps of each family's own, timed. Nothing of it is kept."""

import contextlib
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from agentkd.agents.work import Surroundings, execute
from agentkd.artifacts.own_code import keep_code
from agentkd.artifacts.store import Store
from agentkd.launch.devices import Slot
from agentkd.names import NO_DIGEST
from agentkd.task import Train
from agentkd.training.loop import Hooks

MAX_STEPS = 6
MAX_S = 20.0
"""Of the steps of a family, if they are slow: two at least."""


@dataclass(frozen=True)
class Timed:
    """How long an epoch takes: so many steps, and its share of a validation."""

    family: str
    step_s: float
    steps_per_epoch: int
    validation_s: float
    validate_every: int

    @property
    def epoch_s(self) -> float:
        """Seconds."""
        return self.steps_per_epoch * self.step_s + self.validation_s / self.validate_every


class _Enough(Exception):
    """Enough steps were timed."""


def time_baselines(tasks: Iterable[Train], slot: Slot) -> list[Timed]:
    """Times some steps and one validation of each training, one after the other, in this process.

    Raises:
        AgentKDError: as the training itself would.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(slot.threads)
    try:
        with tempfile.TemporaryDirectory(prefix="agentkd-timing-") as place:
            return [_time(task, Store(Path(place)), torch.device(slot.device)) for task in tasks]
    finally:
        torch.set_num_threads(threads)


def _time(task: Train, store: Store, device: torch.device) -> Timed:
    keep_code(task, store)
    ends: list[float] = []
    counts: list[int] = []

    def on_step(step: int, steps: int, loss: float) -> None:
        ends.append(time.monotonic())
        counts[:] = [steps]
        if len(ends) >= MAX_STEPS or (len(ends) >= 2 and ends[-1] - ends[0] > MAX_S):
            raise _Enough

    once = task.recipe.replace(epochs=1, validate_every=1)
    one = task.replace(recipe=once, pretrained=NO_DIGEST, measures_latency=False)
    began = time.monotonic()
    with contextlib.suppress(_Enough):
        execute(one, Surroundings(store, device, hooks=Hooks(on_step=on_step)))
    step_s = (ends[-1] - ends[0]) / (len(ends) - 1) if len(ends) > 1 else ends[0] - began  # the first one warms up
    whole = execute(one.replace(recipe=once.replace(steps_per_epoch=1)), Surroundings(store, device))
    validation_s = max(0.0, whole.seconds - step_s)
    return Timed(task.architecture.family, step_s, counts[0], validation_s, task.recipe.validate_every)
