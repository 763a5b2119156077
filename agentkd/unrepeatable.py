"""Operations that PyTorch has no repeatable form of on CUDA: an error that says what to write instead, or a note if they may be.

Where repeatable algorithms are demanded (``agentkd.repeatable.prepare``) such an operation raises. Only a user's own network or
objective can have one: tests look at all others.
"""

import re
import warnings
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, SupportsIndex, overload

import torch

from agentkd import repeatable
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

    So is code of a user's own that lifts the demand for repeatable algorithms or changes other settings that bits depend on. It
    begins with those that ``repeatable.prepare`` has left, and ends with those that it began with. Nothing is an error or noted
    where repeatable algorithms are not demanded. For one thread.

    Attributes:
        noted: the operations that were used, by PyTorch's names, and the settings that were changed.
    """

    def __init__(self, *, is_allowed: bool = False) -> None:
        self._is_allowed, self.noted = is_allowed, set[str]()
        self._kept = warnings.catch_warnings()
        self._is_demanded = self._is_lifted = self._is_stopped = False

    def __enter__(self) -> "Repeatably":
        repeatable.renew()
        self._begun, self._is_demanded = repeatable.settings(), repeatable.is_strict()
        self._is_lifted = self._is_allowed and self._is_demanded
        if self._is_lifted:
            torch.use_deterministic_algorithms(True, warn_only=True)
            self._before = repeatable.keep()  # a teacher in the same thread begins with it
            self._kept.__enter__()
            warnings.filters = _Filters(warnings.filters, self.noted.add)
        self._held = repeatable.settings()
        if self._is_demanded:
            self._watched = repeatable.watch(self._lifts)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._is_demanded:
            repeatable.watch(self._watched)
            now = repeatable.settings()
            self.noted.update(name for name, value in self._held.items() if now[name] != value)
        if self._is_lifted:
            if not isinstance(warnings.filters, _Filters):
                self.noted.add("warnings.filters")
            self._kept.__exit__(kind, error, trace)
            repeatable.keep_to(self._before)
        repeatable.set_again(self._begun, even_if_it_stands=self._is_stopped)  # stopped half-way, see torch's own
        if operation := operation_in(error):
            raise NotRepeatableError(operation, instead_of(operation)) from error
        is_through = error is None or (self._is_stopped and not isinstance(error, NotRepeatableError))
        if self.noted and is_through and not self._is_allowed:
            raise _changed(", ".join(sorted(self.noted))) from error

    @property
    def told(self) -> dict[str, str]:
        """For the environment of a record: which operations were used; nothing if none was."""
        return {"unrepeatable": ", ".join(sorted(self.noted))} if self.noted else {}

    def _lifts(self, what: str) -> None:
        self.noted.add(what)
        if not self._is_allowed:
            self._is_stopped = True
            raise _changed(what)


def _changed(setting: str) -> NotRepeatableError:
    return NotRepeatableError(
        setting, "nothing there, for every task begins with what is repeatable", problem="is own code's change"
    )


class _Matched:
    """In a filter of warnings: notes which operation a warning is about, if it is about one."""

    def __init__(self, note: Callable[[str], object]) -> None:
        self._note = note

    def match(self, text: str) -> bool:
        found = SAYS.search(text)
        if found:
            self._note(found[1])
        return found is not None


class _Filters(list[Any]):
    """Filters of warnings, before whose first stands one that notes: it stays the first whatever is put in, copied or cleared."""

    def __init__(self, filters: Iterable[Any], note: Callable[[str], object]) -> None:
        self._note, self._first = note, ("ignore", _Matched(note), Warning, None, 0)
        super().__init__([self._first, *(one for one in filters if not isinstance(one[1], _Matched))])

    def insert(self, index: SupportsIndex, item: Any) -> None:
        super().insert(max(1, index.__index__()), item)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> "_Filters": ...
    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        found = super().__getitem__(index)
        return _Filters(found, self._note) if isinstance(index, slice) else found

    def __setitem__(self, index: Any, given: Any) -> None:
        super().__setitem__(index, given)
        super().__setitem__(slice(None), _Filters(self, self._note))

    def __delitem__(self, index: SupportsIndex | slice) -> None:
        super().__delitem__(index)
        super().__setitem__(slice(None), _Filters(self, self._note))

    def clear(self) -> None:
        del self[:]

    def pop(self, index: SupportsIndex = -1) -> Any:
        found = self[index]
        del self[index]
        return found
