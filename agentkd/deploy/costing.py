"""What a network costs to run: parameters, multiply-accumulates, memory, and time in the forms in which it can be run."""

import statistics
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from agentkd.architecture import Architecture
from agentkd.deploy import evidence
from agentkd.deploy.agreement import Reference, Tolerance
from agentkd.deploy.inference import Inference
from agentkd.networks.build import build, count_architecture
from agentkd.networks.cost import measure_cost
from agentkd.networks.segmenter import Segmenter

WARM_UP = 3
FORMS = ("eager", "folded", "onnx float32", "onnx int8")
RAPL = Path("/sys/class/powercap")
ANYTHING = Tolerance(0.0, 1.0)


@dataclass(frozen=True)
class Latency:
    """Milliseconds for one image, after warming up.

    Args:
        median_ms: half of the runs took less.
        p90_ms: nine of ten took less.
        runs: that were timed.
        joules: energy of one image by the processor's own counter, if the machine says it to this user.
    """

    median_ms: float
    p90_ms: float
    runs: int
    joules: float | None = None


@dataclass(frozen=True)
class Costs:
    """What one image costs.

    Args:
        total: parameters that train; ``network`` without discriminator; ``deploy`` what inference needs.
        num_macs: of inference, at the size that was asked for.
        uncounted_operations: for which there is no formula.
        activation_bytes: the most that is alive at once in float32, without weights and the image.
        weight_bytes: of what inference needs, in float32.
        latency: by form; without the forms that need what is not installed.
        threads: that were used.
    """

    height: int
    width: int
    total: int
    network: int
    deploy: int
    num_macs: int
    uncounted_operations: tuple[str, ...]
    activation_bytes: int
    weight_bytes: int
    threads: int
    latency: dict[str, Latency] = field(default_factory=dict)

    def as_data(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def costs(segmenter: Segmenter, height: int, width: int, *, runs: int = 20, threads: int = 0) -> Costs:
    """Counts and measures a network on this machine's processor.

    Args:
        segmenter: the network.
        height: of the image, in pixels.
        width: see there.
        runs: timed of each form.
        threads: for an operation; 0 leaves them as they are.
    """
    architecture = segmenter.architecture
    counts, counted = count_architecture(architecture), measure_cost(architecture, *_taken(segmenter, height, width))
    with _threads(threads) as used:
        latency = {name: _timed(run, runs) for name, run in _forms(segmenter, height, width, used)}
    return Costs(
        height=height,
        width=width,
        total=counts.total,
        network=counts.network,
        deploy=counts.deploy,
        num_macs=counted.num_macs,
        uncounted_operations=counted.uncounted_operations,
        activation_bytes=activation_bytes(architecture, *_taken(segmenter, height, width)),
        weight_bytes=4 * counts.deploy,
        threads=used,
        latency=latency,
    )


def _taken(segmenter: Segmenter, height: int, width: int) -> tuple[int, int]:
    """The size to which an image is filled up before the network sees it."""
    filled = segmenter._filled_up(torch.empty(1, segmenter.architecture.num_channels, height, width, device="meta"))
    return int(filled.shape[-2]), int(filled.shape[-1])


def activation_bytes(architecture: Architecture, height: int, width: int) -> int:
    """The most bytes of intermediate results that are alive at once in one forward pass; nothing is computed for it."""
    with torch.device("meta"):
        network, image = build(architecture).eval(), torch.empty(1, architecture.num_channels, height, width)
    counting = _Alive()
    with torch.no_grad(), counting:
        network(image)
    return counting.most


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the memory of tensors while they live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {one.untyped_storage()._cdata for one in tree_leaves((args, kwargs or {})) if isinstance(one, Tensor)}
        made = func(*args, **(kwargs or {}))
        for one in tree_leaves(made):
            if isinstance(one, Tensor) and one.untyped_storage()._cdata not in given | self._known:
                self._add(one)
        return made

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        name, size = storage._cdata, storage.nbytes()
        self._known.add(name)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._remove, name, size)

    def _remove(self, name: int, size: int) -> None:
        self._known.discard(name)
        self.now -= size


def _forms(segmenter: Segmenter, height: int, width: int, threads: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each form with what runs it once. All see the same image, and return probabilities at its full size."""
    architecture = segmenter.architecture
    pixels = np.random.default_rng(0).random((1, architecture.num_channels, height, width), dtype=np.float32)
    images = torch.from_numpy(pixels)

    def runs(module: nn.Module) -> Callable[[], object]:
        def run() -> object:
            with torch.no_grad():
                return module(images)

        return run

    yield "eager", runs(segmenter)
    inference = Inference(segmenter)
    if height % inference.multiple == width % inference.multiple == 0 and min(height, width) >= 32:
        yield "folded", runs(inference)
    if not has_onnx():
        return
    from agentkd.deploy.onnx_files import Session, as_onnx
    from agentkd.deploy.quantizing import in_int8

    model = as_onnx(inference)
    plain = Session(model.SerializeToString(), threads)
    yield "onnx float32", lambda: plain(pixels)
    scenes = evidence.generated(architecture, "ranges alone matter")
    made = in_int8(model, scenes.calibration[:2], Reference(segmenter, scenes), ANYTHING)
    small = Session(made.model.SerializeToString(), threads)
    yield "onnx int8", lambda: small(pixels)


def has_onnx() -> bool:
    """Whether what writes and runs ONNX is installed."""
    from importlib.util import find_spec

    return all(find_spec(package) is not None for package in ("onnx", "onnxscript", "onnxruntime"))


def _timed(run: Callable[[], object], runs: int) -> Latency:
    for _ in range(WARM_UP):
        run()
    times = []
    before = _energy_joules()
    for _ in range(runs):
        started = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - started))
    after = _energy_joules()
    joules = (after - before) / runs if before is not None and after is not None and after >= before else None
    p90 = statistics.quantiles(times, n=10)[8] if len(times) > 1 else times[0]
    return Latency(statistics.median(times), p90, runs, joules)


def _energy_joules() -> float | None:
    """What the processors have used since the counter began, if it can be read; it counts everything that runs on them."""
    try:
        packages = sorted(RAPL.glob("intel-rapl:[0-9]"))
        return sum(int((place / "energy_uj").read_text()) for place in packages) / 1e6 if packages else None
    except (OSError, ValueError):
        return None


@contextmanager
def _threads(threads: int) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
