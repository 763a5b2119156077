"""The same bits on every run: what is set where a GPU computes, and operations that PyTorch has no repeatable gradient for there.

Owned here: the settings of CUDA, cuBLAS and cuDNN that a training's bits depend on, what of them stands in a record, and four
operations: bilinear resizing, pooling to a size, reflection at a border and picking a class's log-probability. On a CPU all are
PyTorch's own, to the bit. Where repeatable algorithms are demanded (``torch.use_deterministic_algorithms``, which ``prepare``
does on CUDA) their gradients are computed without atomic additions, whose order is another on every run.

Not here: which operations are meant, which tests say (``tests/nondeterministic.toml``).
"""

import importlib.metadata
import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

WORKSPACE = ":4096:8"  # of the two that cuBLAS documents as repeatable the one with room for every stream
DEMAND = "torch.use_deterministic_algorithms"
TF32 = ("torch.backends.cudnn.allow_tf32", "torch.backends.cuda.matmul.allow_tf32")
CONTRADICTS = "set in two ways"
DRIVER = Path("/proc/driver/nvidia/version")

Size = tuple[int, int]
Operation = Callable[[Tensor, Size], Tensor]


def prepare(device: torch.device) -> None:
    """Sets what makes a device compute the same bits on every run. To be called before anything is computed on it.

    On a CPU nothing is set. On CUDA operations that have no repeatable form raise ``RuntimeError``; ``float32`` means that, and
    no TF32; cuDNN chooses its algorithms by rule and not by a race.
    """
    if device.type == "cuda":
        _prepare_cuda()
    keep()


def _prepare_cuda() -> None:
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = WORKSPACE
    torch.use_deterministic_algorithms(True)
    # Nothing is read before it is written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False


def settings() -> dict[str, Any]:
    """What this process has set of what bits depend on, by the names that a user's code sets it by."""
    return {name: setting.value for name, setting in SETTINGS.items()}


def set_again(wanted: Mapping[str, Any], *, even_if_it_stands: bool = False) -> None:
    """Sets all of ``wanted`` if any of it is not so."""
    if even_if_it_stands or any(SETTINGS[name].value != value for name, value in wanted.items()):
        for name, value in wanted.items():
            SETTINGS[name].set(value)


def keep() -> dict[str, Any]:
    """What is set now is what every task begins with, whatever own code sets. Returns what that was, for ``keep_to``."""
    before = dict(_kept)
    keep_to(settings())
    return before


def keep_to(wanted: Mapping[str, Any]) -> None:
    """Every task is to begin with these settings; with those that it finds, if there are none."""
    _kept.clear()
    _kept.update(wanted)


def renew() -> None:
    """Sets what every task begins with."""
    set_again(_kept)


@dataclass(frozen=True)
class _Setting:
    get: Callable[[], Any]
    set: Callable[[Any], object]

    @property
    def is_there(self) -> bool:
        """Whether this version of torch has it."""
        try:
            self.get()
        except AttributeError:
            return False
        except RuntimeError:
            return True
        return True

    @property
    def value(self) -> Any:
        try:
            return self.get()
        except RuntimeError:  # torch refuses to say what was set in two ways that contradict each other
            return CONTRADICTS


def _attribute(place: Any, name: str) -> _Setting:
    return _Setting(partial(getattr, place, name), partial(setattr, place, name))


def _set_variable(value: str) -> None:
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = value


def _demand_as(mode: int) -> None:
    torch.use_deterministic_algorithms(mode > 0, warn_only=mode == 1)


def watch(seen: Callable[[str], object] | None) -> Callable[[str], object] | None:
    """From now on whoever lifts the demand for repeatable algorithms, if only for a moment, is told of in words; or nobody is.

    Returns who was told before.
    """
    global _seen
    before, _seen = _seen, seen
    torch._C._set_deterministic_algorithms = _set_mode if seen is None else _tell_and_set_mode
    return before


def _tell_and_set_mode(mode: bool, *, warn_only: bool = False) -> None:
    if _seen is not None and (not mode or warn_only):
        _seen(f"{DEMAND}({mode}{', warn_only=True' if mode else ''})")
    _set_mode(mode, warn_only=warn_only)


_set_mode = torch._C._set_deterministic_algorithms
_seen: Callable[[str], object] | None = None
_kept: dict[str, Any] = {}
_PLACES = (
    ("torch.utils.deterministic", torch.utils.deterministic, ("fill_uninitialized_memory",)),
    ("torch.backends", torch.backends, ("fp32_precision",)),
    ("torch.backends.cudnn", torch.backends.cudnn, ("enabled", "deterministic", "benchmark")),
    ("torch.backends.cudnn.conv", getattr(torch.backends.cudnn, "conv", None), ("fp32_precision",)),
    ("torch.backends.cudnn.rnn", getattr(torch.backends.cudnn, "rnn", None), ("fp32_precision",)),
    ("torch.backends.cudnn", torch.backends.cudnn, ("allow_tf32",)),
    ("torch.backends.cuda.matmul", torch.backends.cuda.matmul, ("fp32_precision", "allow_tf32")),
    (
        "torch.backends.cuda.matmul",
        torch.backends.cuda.matmul,
        ("allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction"),
    ),
)
SETTINGS: dict[str, _Setting] = {
    DEMAND: _Setting(torch.get_deterministic_debug_mode, _demand_as),
    "CUBLAS_WORKSPACE_CONFIG": _Setting(partial(os.environ.get, "CUBLAS_WORKSPACE_CONFIG", ""), _set_variable),
    **{
        f"{path}.{name}": _attribute(place, name)
        for path, place, names in _PLACES
        for name in names
        if place is not None and _attribute(place, name).is_there
    },
}


def surroundings(device: torch.device) -> dict[str, str]:
    """What of a device's software and settings decides bits, for a record; nothing of a CPU."""
    if device.type != "cuda":
        return {}
    return {
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
        "driver": driver_version(DRIVER.read_text(encoding="utf-8") if DRIVER.is_file() else ""),
        "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG", ""),
        "deterministic": str(is_strict() and torch.backends.cudnn.deterministic),
        "cudnn_benchmark": str(torch.backends.cudnn.benchmark),
        "tf32": str(any(SETTINGS[name].value is not False for name in TF32)),
    }


def compiler(device: torch.device) -> dict[str, str]:
    """What compiles networks for a device (``torch.compile``) and so decides bits, for the record of one that was."""
    try:
        found = importlib.metadata.version("triton") if device.type == "cuda" else _cpp_compiler()
    except (importlib.metadata.PackageNotFoundError, OSError, subprocess.SubprocessError):
        found = "unknown"
    return {"compiler": found}


def _cpp_compiler() -> str:
    command = [os.environ.get("CXX", "g++"), "-dumpfullversion", "-dumpversion"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    return f"{Path(command[0]).name} {told.stdout.strip()}"


def driver_version(told: str) -> str:
    """The driver's version of what it tells of itself (``/proc/driver/nvidia/version``); ``unknown`` if it is not there."""
    found = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", told)
    return found[1] if found else "unknown"


class counting_alone:
    """While this is entered only whole numbers are counted, whose sum is the same in any order.

    ``torchmetrics`` counts with a table of all pixels and cells where repeatable algorithms are demanded, gigabytes of a
    single image; the ``torch.bincount`` without weights that it has otherwise is repeatable.
    """

    def __enter__(self) -> None:
        self._mode, self._watched = torch.get_deterministic_debug_mode(), watch(None)
        torch.use_deterministic_algorithms(False)

    def __exit__(self, *_: object) -> None:
        _demand_as(self._mode)
        watch(self._watched)


def is_strict() -> bool:
    """Whether what has no repeatable form is an error, see ``agentkd.unrepeatable``."""
    return torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()


def is_demanded() -> bool:
    """Whether gradients must be repeatable. What is exported has none."""
    return torch.are_deterministic_algorithms_enabled() and not torch.compiler.is_exporting()


def bilinear(x: Tensor, size: Sequence[int]) -> Tensor:
    """``x [N,C,h,w]`` at ``size``, ``align_corners=False``."""
    if not is_demanded():
        return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
    return _along_sides(x, _bilinear, size)


def mean_pooled(x: Tensor, size: Sequence[int]) -> Tensor:
    """``x [N,C,h,w]`` pooled (mean) to ``size``, as ``adaptive_avg_pool2d`` does."""
    height, width = size
    return _along_sides(x, _mean_pooled, size) if is_demanded() else F.adaptive_avg_pool2d(x, (height, width))


def reflected(x: Tensor, border: int) -> Tensor:
    """``x [N,C,H,W]`` with its reflection around it; both sides must be larger than the ``border``."""
    if is_demanded():
        made: Tensor = _Reflected.apply(x, border)  # type: ignore[no-untyped-call]
        return made
    return F.pad(x, (border, border, border, border), mode="reflect")


def picked(log_p: Tensor, classes: Tensor, counted: Tensor) -> Tensor:
    """The log-probability of each pixel's class, 0 where none is counted.

    Shapes: ``log_p [N,K,...]``, ``classes`` and ``counted`` [N,...]; so is the result.

    Raises:
        RuntimeError: a class that is counted is not in 0..K-1 (on a CPU).
    """
    made: Tensor = _Picked.apply(log_p, classes, counted)  # type: ignore[no-untyped-call]
    return made


def _bilinear(x: Tensor, size: Size) -> Tensor:
    # Not F.interpolate, which would go a way of many indexed sums on CUDA, forward too.
    made: Tensor = torch.ops.aten.upsample_bilinear2d.vec(x, size, False, None)
    return made


def _mean_pooled(x: Tensor, size: Size) -> Tensor:
    return F.adaptive_avg_pool2d(x, size)


def _along_sides(x: Tensor, operation: Operation, size: Sequence[int]) -> Tensor:
    height, width = size
    made: Tensor = _AlongSides.apply(x, operation, (height, width))  # type: ignore[no-untyped-call]
    return made


class _AlongSides(torch.autograd.Function):
    """A linear operation along height and along width, apart. Its gradient is two products with small matrices.

    What the operation makes of a map of unit vectors is its matrix, so that nothing is said twice.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, operation: Operation, size: Size) -> Tensor:
        ctx.operation, ctx.dtype, ctx.size = operation, x.dtype, tuple(x.shape[-2:])
        return operation(x, size)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (height, width), (to_height, to_width) = ctx.size, gradient.shape[-2:]
        wide = gradient if gradient.dtype == torch.float64 else gradient.float()

        def matrix(side: int, to: int) -> Tensor:
            unit = torch.eye(side, dtype=wide.dtype, device=wide.device)[None, None]
            made: Tensor = ctx.operation(unit, (to, side))
            return made[0, 0]

        back = matrix(height, to_height).T @ (wide @ matrix(width, to_width))
        return back.to(ctx.dtype), None, None


class _Reflected(torch.autograd.Function):
    """Reflection at the border. Its gradient folds the border back, a side at a time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, border: int) -> Tensor:
        ctx.border = border
        return F.pad(x, (border, border, border, border), mode="reflect")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        border = ctx.border
        for dim in (-2, -1):
            side = gradient.shape[dim] - 2 * border
            inner = gradient.narrow(dim, border, side).clone()
            inner.narrow(dim, 1, border).add_(gradient.narrow(dim, 0, border).flip(dim))
            inner.narrow(dim, side - 1 - border, border).add_(gradient.narrow(dim, border + side, border).flip(dim))
            gradient = inner
        return gradient, None


class _Picked(torch.autograd.Function):
    """Picking by class. Its gradient is written everywhere once, and nothing is added up."""

    @staticmethod
    def forward(ctx: Any, log_p: Tensor, classes: Tensor, counted: Tensor) -> Tensor:
        ctx.save_for_backward(classes, counted)
        ctx.num_classes = log_p.shape[1]
        place = classes.where(counted, 0)
        return log_p.gather(1, place[:, None])[:, 0].where(counted, 0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        classes, counted = ctx.saved_tensors
        every = torch.arange(ctx.num_classes, device=classes.device).reshape(1, -1, *[1] * (classes.dim() - 1))
        is_it = (classes[:, None] == every) & counted[:, None]
        return gradient[:, None].where(is_it, 0), None, None
