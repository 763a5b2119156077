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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

WORKSPACE = ":4096:8"  # of the two that cuBLAS documents as repeatable the one with room for every stream
DRIVER = Path("/proc/driver/nvidia/version")

Size = tuple[int, int]
Operation = Callable[[Tensor, Size], Tensor]


def prepare(device: torch.device) -> None:
    """Sets what makes a device compute the same bits on every run. To be called before anything is computed on it.

    On a CPU nothing is set. On CUDA operations that have no repeatable form raise ``RuntimeError``; ``float32`` means that, and
    no TF32; cuDNN chooses its algorithms by rule and not by a race.
    """
    if device.type != "cuda":
        return
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


def surroundings(device: torch.device) -> dict[str, str]:
    """What of a device's software and settings decides bits, for a record; nothing of a CPU."""
    if device.type != "cuda":
        return {}
    return {
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
        "driver": driver_version(DRIVER.read_text(encoding="utf-8") if DRIVER.is_file() else ""),
        "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG", ""),
        "deterministic": str(_is_strict() and torch.backends.cudnn.deterministic),
        "cudnn_benchmark": str(torch.backends.cudnn.benchmark),
        "tf32": str(torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32),
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
        self._was_on = torch.are_deterministic_algorithms_enabled()
        self._warned = torch.is_deterministic_algorithms_warn_only_enabled()
        torch.use_deterministic_algorithms(False)

    def __exit__(self, *_: object) -> None:
        torch.use_deterministic_algorithms(self._was_on, warn_only=self._warned)


def _is_strict() -> bool:
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
