"""Does a device wait for its images? Trainings whose views are made ahead, against one batch that is repeated, in one run.

    python benchmarks/loading.py                 # on a GPU if there is one: PIDNet-S at 512x512, a minute
    python benchmarks/loading.py --device cpu    # small, with one thread that makes views: needs a core to spare

Rows: a bare loop (network, loss, fused SGD, nothing else) over one batch that lies on the device; the library's loop over one
batch that does not; over views made in the loop, as before; and over views made ahead. Each alternates with the others, and
the second half of a run counts, when what was made beforehand is used up. On a GPU all is set as an agent has it
(``agentkd.repeatable``). "busy" is what nvidia-smi says of the same seconds.

Needs torch, NumPy and Pillow, and nothing else that agentkd needs: where pydantic is missing (a machine without a network)
something that checks nothing takes its place, and the loop is put together here of the library's parts, which it says.
"""

import argparse
import importlib.util
import inspect
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
if importlib.util.find_spec("agentkd") is None:  # a checkout that is not installed
    sys.path.append(str(ROOT))
IS_WHOLE = all(importlib.util.find_spec(name) for name in ("pydantic", "torchmetrics", "safetensors", "yaml"))


def take_the_place_of_pydantic() -> None:
    """Data that are what they are given, or their defaults. Settings of networks and views need no more."""

    class Anything:
        def __init__(self, *told: object, **named: object) -> None: ...
        def __class_getitem__(cls, item: object) -> type:
            return cls

    class Default:
        def __init__(self, default: Any = ..., *, default_factory: Callable[[], Any] | None = None, **told: object) -> None:
            self.make = default_factory or (lambda: default)

    class Data:
        def __init__(self, **given: Any) -> None:
            for kind in type(self).__mro__:
                for name in inspect.get_annotations(kind):
                    value = getattr(type(self), name, ...)
                    self.__dict__[name] = given.get(name, value.make() if isinstance(value, Default) else value)

    def missing(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        is_decorator = name.endswith(("_validator", "_serializer"))
        return (lambda *told, **named: lambda function: function) if is_decorator else Anything

    place = types.ModuleType("pydantic")
    place.BaseModel, place.Field, place.PrivateAttr = Data, Default, Default  # type: ignore[attr-defined]
    place.__getattr__ = missing  # type: ignore[method-assign]
    sys.modules["pydantic"] = place


if not importlib.util.find_spec("pydantic"):
    take_the_place_of_pydantic()

from agentkd import repeatable  # noqa: E402
from agentkd.architecture import IMAGENET  # noqa: E402
from agentkd.datasets.samples import Sample  # noqa: E402
from agentkd.datasets.views import make_view  # noqa: E402
from agentkd.networks.pidnet import PIDNet  # noqa: E402
from agentkd.networks.settings import PIDNetSettings  # noqa: E402
from agentkd.recipe import ViewSettings  # noqa: E402
from agentkd.training.ahead import Supply, carried, usual_loaders  # noqa: E402
from agentkd.training.batches import Batch  # noqa: E402
from agentkd.training.losses import LossSettings, pidnet_loss  # noqa: E402
from agentkd.training.reading import Readings  # noqa: E402

CLASSES, IGNORE, IMAGES = 5, 255, 24
RATE, MOMENTUM = 0.01, 0.9


class Pictures:
    """Noise in memory, decoded: what reading images costs depends on the files, and most are read once."""

    name, classes, digest, ignore_index = "noise", tuple("abcde"), "0" * 64, IGNORE

    def __init__(self, side: int) -> None:
        random = np.random.default_rng(1)
        self._images = random.integers(0, 256, (IMAGES, side, side, 3), dtype=np.uint8)
        self._labels = random.integers(0, CLASSES, (IMAGES, side, side), dtype=np.uint8)

    def sample(self, index: int) -> Sample:
        return Sample(self._images[index], self._labels[index], str(index))


@dataclass(frozen=True)
class Views:
    """Batches of views, as ``agentkd.agents.feeding`` makes them."""

    pictures: Pictures
    side: int
    batch: int
    steps_per_epoch: int

    def training_batch(self, step: int) -> Batch:
        settings = ViewSettings(crop_height=self.side, crop_width=self.side)
        keys = [((step * self.batch + at) % IMAGES, step) for at in range(self.batch)]
        views = [make_view(self.pictures, index, seed, settings, IMAGENET) for index, seed in keys]
        labels = np.stack([view.label for view in views]).astype(np.int64)
        return Batch(torch.from_numpy(np.stack([view.image for view in views])), torch.from_numpy(labels))

    def validation_batches(self) -> Iterator[Batch]:
        yield Batch(torch.zeros(1, 3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.long))


@dataclass(frozen=True)
class Repeated(Views):
    """One of them again and again."""

    made: Batch = field(kw_only=True)

    def training_batch(self, step: int) -> Batch:
        return self.made


class Busy:
    """The share of the time in which something ran on the GPU, as the driver's own tool says ten times a second."""

    def __init__(self, device: torch.device) -> None:
        self._seen: list[tuple[float, int]] = []
        tool = shutil.which("nvidia-smi") if device.type == "cuda" else None
        command = [
            str(tool),
            f"--id={device.index or 0}",
            "--query-gpu=utilization.gpu",
            "--format=csv,noheader,nounits",
            "-lms",
            "100",
        ]
        self._tool = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) if tool else None
        if self._tool is not None:
            threading.Thread(target=self._watch, args=(self._tool.stdout,), daemon=True).start()

    def _watch(self, told: Any) -> None:
        for line in told:
            if line.strip().isdecimal():
                self._seen.append((time.perf_counter(), int(line)))

    def between(self, began: float, ended: float) -> str:
        seen = [share for at, share in self._seen if began + 0.15 <= at <= ended]
        return f"{statistics.mean(seen):3.0f} %" if seen else "    -"

    def close(self) -> None:
        if self._tool is not None:
            self._tool.terminate()
            self._tool.communicate()


@dataclass
class Case:
    """A network, a size of batch and a precision on a device."""

    device: torch.device
    side: int
    batch: int
    precision: str

    def network(self) -> nn.Module:
        torch.manual_seed(1)
        return PIDNet(CLASSES, PIDNetSettings()).to(self.device).train()

    def loss(self, network: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16"):
            outputs = network(batch.images)
            terms = pidnet_loss(network, outputs, batch, LossSettings(CLASSES, IGNORE))
            return torch.stack([term.float() for term in terms.values()]).sum(), terms, outputs

    def bare(self, feed: Views, steps: int, loaders: int) -> list[float]:
        """When each step had been told to the device; at the half and the end it is waited for."""
        network, batch = self.network(), carried(feed.training_batch(0), self.device)
        optimizer = torch.optim.SGD(network.parameters(), lr=RATE, momentum=MOMENTUM, fused=True)
        ended = []
        for step in range(steps):
            loss, _, _ = self.loss(network, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if self.device.type == "cuda" and step in (steps // 2 - 1, steps - 1):
                torch.cuda.synchronize(self.device)
            ended.append(time.perf_counter())
        return ended

    def by_parts(self, feed: Views, steps: int, loaders: int) -> list[float]:
        """The library's loop, put together of its parts."""
        network = self.network()
        optimizer = torch.optim.SGD(network.parameters(), lr=RATE, momentum=MOMENTUM, fused=True)
        readings, supply, ended = (
            Readings(self.device, at_once=False),
            Supply(feed, range(steps), self.device, loaders=loaders),
            [],
        )
        try:
            for step in range(steps):
                torch.manual_seed(step)
                batch = supply.take()
                loss, terms, outputs = self.loss(network, batch)
                readings.note(step, loss, terms, outputs)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                ended += [time.perf_counter()] * len(readings.due() if step + 1 < steps else readings.settled())
        finally:
            supply.close()
        return ended

    def by_library(self, feed: Views, steps: int, loaders: int) -> list[float]:
        """The library's loop."""
        from agentkd.networks.build import build
        from agentkd.networks.families import resolve
        from agentkd.recipe import Recipe
        from agentkd.training.loop import Hooks, Plan, train

        recipe = Recipe.model_validate(
            {"epochs": 1, "batch_size": self.batch, "learning_rate": RATE, "momentum": MOMENTUM, "precision": self.precision}
        )
        plan, ended = Plan(recipe, pidnet_loss, LossSettings(CLASSES, IGNORE), seed=1), []
        hooks = Hooks(on_step=lambda *told: ended.append(time.perf_counter()))
        train(build(resolve("pidnet_s", CLASSES, {}), seed=1), feed, plan, device=self.device, loaders=loaders, hooks=hooks)
        return ended


def measure(case: Case, told: argparse.Namespace, busy: Busy) -> None:
    """Prints the rows of a case."""
    pictures = Pictures(case.side * 5 // 4)
    views = partial(Views, pictures, case.side, case.batch)
    began = time.perf_counter()
    batch = views(1).training_batch(0)
    view_s = (time.perf_counter() - began) / case.batch
    repeated = partial(Repeated, pictures, case.side, case.batch, made=batch)
    library = case.by_library if IS_WHOLE else case.by_parts
    modes: dict[str, tuple[Callable[[Any, int, int], list[float]], Any, int]] = {
        "bare loop, one batch": (case.bare, repeated, 0),
        "library, one batch": (library, repeated, 0),
        "views made in the loop": (library, views, 0),
        f"views made ahead ({told.loaders})": (library, views, told.loaders),
    }
    case.bare(repeated(4), 4, 0)  # what is loaded and chosen once
    ended = case.bare(repeated(8), 8, 0)
    step_s = (ended[-1] - ended[3]) / 4
    rates: dict[str, list[float]] = {name: [] for name in modes}
    shares: dict[str, list[str]] = {name: [] for name in modes}
    for _ in range(told.rounds):
        for name, (loop, feed, loaders) in modes.items():
            each_s = step_s + (view_s * case.batch if feed is views and not loaders else 0)
            steps = max(6, min(1000, round(told.seconds / each_s))) // 2 * 2
            ended = loop(feed(steps), steps, loaders)
            half = ended[steps // 2 - 1]
            rates[name].append(steps / 2 / (ended[-1] - half))
            shares[name].append(busy.between(half, ended[-1]))
    first = statistics.median(rates["bare loop, one batch"])
    print(
        f"\nPIDNet-S {case.side}x{case.side}, batch {case.batch}, {case.precision}; a view takes {view_s * 1e3:.1f} ms of a core"
    )
    for name, found in rates.items():
        rate = statistics.median(found)
        spread = " ".join(f"{one:.2f}" for one in found)
        print(
            f"  {name:28} {rate:8.2f} steps/s  {rate * case.batch:8.1f} images/s  {rate / first:5.3f} of bare"
            f"  busy {shares[name][-1]}  ({spread})",
            flush=True,
        )


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    options.add_argument("--size", type=int, help="512 on a GPU, 64 on a CPU")
    options.add_argument("--batches", type=int, nargs="+", help="4 16 on a GPU, 4 on a CPU")
    options.add_argument("--precisions", nargs="+", choices=["float32", "bfloat16"], help="both on a GPU, float32 on a CPU")
    options.add_argument("--loaders", type=int, help="as an agent with half of the cores has on a GPU; 1 on a CPU")
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--seconds", type=float, default=1.6, help="of a run, of which there are four a round and case")
    told = options.parse_args()
    device, began = torch.device(told.device), time.perf_counter()
    is_gpu = device.type == "cuda"
    if not is_gpu:
        torch.set_num_threads(1)
    repeatable.prepare(device)
    cores = len(os.sched_getaffinity(0))
    told.loaders = told.loaders or usual_loaders(device, max(1, cores // 2)) or 1
    name = torch.cuda.get_device_name(device) if is_gpu else "CPU"
    whose = "the library's own" if IS_WHOLE else "put together of the library's parts: not all that it needs is here"
    print(f"{name}, {cores} cores, torch {torch.__version__}; the loop is {whose}")
    busy = Busy(device)
    try:
        for precision in told.precisions or (["float32", "bfloat16"] if is_gpu else ["float32"]):
            for batch in told.batches or ([4, 16] if is_gpu else [4]):
                measure(Case(device, told.size or (512 if is_gpu else 64), batch, precision), told, busy)
    finally:
        busy.close()
    print(f"\n{time.perf_counter() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
