"""Operations that PyTorch has no repeatable form of on CUDA: an error that says what to write instead, or a note if they may be.

Where repeatable algorithms are demanded (``agentkd.repeatable.prepare``) such an operation raises. Only a user's own network or
objective can have one: tests look at all others.
"""

import re
import warnings
from types import TracebackType
from typing import Any, TextIO

import torch

from agentkd.errors import NotRepeatableError

SAYS = re.compile(r"(\w+) does not have a deterministic implementation")
ANOTHER = "another operation"
# By how the names of operations begin, as errors say them; the first that fits.
INSTEAD = (
    (r"upsample_(bi)?linear|upsample_trilinear|_?upsample_bicubic", "agentkd.repeatable.bilinear(x, size), or mode='nearest'"),
    (r"adaptive_avg_pool", "agentkd.repeatable.mean_pooled(x, size), or x.mean(dim=(2, 3)) for a size of 1"),
    (r"adaptive_max_pool|fractional_max_pool", "max_pool2d with a kernel and a stride, or x.amax(dim=(2, 3)) for a size of 1"),
    (r"avg_pool3d|max_pool3d", "pooling along two sides, and then along the third"),
    (r"max_unpool", "nearest up-sampling, or a transposed convolution"),
    (r"reflection_pad", "agentkd.repeatable.reflected(x, border), or padding with zeros"),
    (r"replication_pad", "padding with zeros"),
    (r"nll_loss", "-agentkd.repeatable.picked(log_p, classes, counted), of log_softmax"),
    (r"grid_sampler", "agentkd.repeatable.bilinear where the grid is regular"),
    (r"_?embedding_bag", "an embedding, and then a sum or mean"),
    (r"cumsum", "a product with a triangular matrix of ones"),
    (r"histc|_?bincount", "torch.bincount without weights, or one_hot and a sum"),
    (r"median|nanmedian|kthvalue", "torch.sort and the middle, or median() without indices"),
    (r"put", "index_put_, or scatter_ with indices of which no two are equal"),
    (r"scatter_reduce", "scatter_add or index_add"),
)


def operation_in(error: BaseException | None) -> str:
    """The operation that an error, or what it came of, says to have no repeatable form; empty if it is about something else."""
    while error is not None:
        if isinstance(error, RuntimeError) and (found := SAYS.search(str(error))):
            return found[1]
        error = error.__cause__
    return ""


def instead_of(operation: str) -> str:
    """What can be written in its place."""
    return next((advice for begins, advice in INSTEAD if re.match(begins, operation)), ANOTHER)


class Repeatably:
    """While this is entered an operation without a repeatable form is an error that says what to do; or, if allowed, it is noted.

    It makes a difference only where repeatable algorithms are demanded. For one thread.

    Attributes:
        noted: the operations that were used, by PyTorch's names.
    """

    def __init__(self, *, is_allowed: bool = False) -> None:
        self._is_allowed, self.noted = is_allowed, set[str]()
        self._kept = warnings.catch_warnings()
        self._is_lifted = False

    def __enter__(self) -> "Repeatably":
        is_demanded = torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
        if self._is_allowed and is_demanded:
            self._is_lifted = True
            torch.use_deterministic_algorithms(True, warn_only=True)
            self._kept.__enter__()
            self._show = warnings.showwarning
            warnings.filterwarnings("always", message=f".*{SAYS.pattern}")
            warnings.showwarning = self._note
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._is_lifted:
            self._kept.__exit__(kind, error, trace)
            torch.use_deterministic_algorithms(True)
            self._is_lifted = False
        if operation := operation_in(error):
            raise NotRepeatableError(operation, instead_of(operation)) from error

    @property
    def told(self) -> dict[str, str]:
        """For the environment of a record: which operations were used; nothing if none was."""
        return {"unrepeatable": ", ".join(sorted(self.noted))} if self.noted else {}

    def _note(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> Any:
        if found := SAYS.search(str(message)):
            self.noted.add(found[1])
        else:
            self._show(message, category, filename, lineno, file, line)
