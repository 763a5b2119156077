"""Losses on their way from the device: read steps later, so that a GPU's queue never runs empty while a number is waited for.

What is recorded, and of which step it is said that it is not finite, is the same as if each were waited for.
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from agentkd.errors import NonFiniteLossError
from agentkd.training.losses import Outputs, Terms

READ_LATER = {"cuda": 2}
"""Steps that may be under way on a kind of device before the loss of the first of them is waited for."""


@dataclass(frozen=True)
class _Noted:
    """A step that is computed, or will be. ``largest`` is NaN or infinite if one of the outputs is."""

    step: int
    terms: Terms
    loss: Tensor
    largest: Tensor
    is_there: torch.cuda.Event | None


class Readings:
    """The losses of steps, in their order.

    Args:
        device: where they are computed.
        at_once: whether each must be known before the next step, since others hear of it.
    """

    def __init__(self, device: torch.device, *, at_once: bool) -> None:
        self.lag = 0 if at_once else READ_LATER.get(device.type, 0)
        self._noted: deque[_Noted] = deque()
        self._known: list[float] = []

    def note(self, step: int, loss: Tensor, terms: Terms, outputs: Outputs) -> None:
        """Has a loss read, at once in the first step and where nothing is read later.

        Raises:
            NonFiniteLossError: it was read and is not finite.
        """
        if not self.lag or step == 0:
            value = float(loss.detach())
            if not math.isfinite(value):
                raise not_finite(step, terms, has_finite_outputs=is_finite(outputs.values()))
            self._known.append(value)
            return
        read, is_there = loss.detach(), None
        if read.is_cuda:
            read = torch.empty((), dtype=read.dtype, pin_memory=True).copy_(read, non_blocking=True)
            is_there = torch.cuda.current_stream(loss.device).record_event()
        largest = _largest(outputs.values())
        self._noted.append(_Noted(step, {name: term.detach() for name, term in terms.items()}, read, largest, is_there))

    def due(self) -> list[float]:
        """What is known and was not told yet. Waits for all but so many steps as may be under way.

        Raises:
            NonFiniteLossError: one is not finite.
        """
        return self._read(self.lag)

    def settled(self) -> list[float]:
        """The same of all. Waits for the device.

        Raises:
            NonFiniteLossError: one is not finite.
        """
        return self._read(0)

    def __enter__(self) -> None:
        """What goes wrong in here may come of a loss that is not finite, and was not read yet."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, Exception) and not isinstance(error, NonFiniteLossError):
            self._read(0)

    def _read(self, under_way: int) -> list[float]:
        while len(self._noted) > under_way:
            noted = self._noted.popleft()
            if noted.is_there is not None:
                noted.is_there.synchronize()
            value = float(noted.loss)
            if not math.isfinite(value):
                raise not_finite(noted.step, noted.terms, has_finite_outputs=math.isfinite(float(noted.largest)))
            self._known.append(value)
        known, self._known = self._known, []
        return known


def not_finite(step: int, terms: Terms, *, has_finite_outputs: bool, culprits: tuple[str, ...] = ()) -> NonFiniteLossError:
    """The error of a step whose loss, or gradient, is not finite."""
    values = {name: float(term.detach()) for name, term in terms.items()}
    return NonFiniteLossError(step, values, has_finite_outputs=has_finite_outputs, culprits=culprits)


def is_finite(tensors: Iterable[Tensor | None]) -> bool:
    """Whether all that is in tensors is finite. Waits for the device.

    A sum that is finite has finite parts, and takes a tenth of the time; one that is not may have become too large.
    """
    found = (tensor for tensor in tensors if tensor is not None)
    return all(bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all()) for tensor in found)


def _largest(tensors: Iterable[Tensor]) -> Tensor:
    """The largest absolute value, which is NaN or infinite if any value is."""
    floating = [tensor.detach() for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    return get_total_norm(floating, norm_type=math.inf)
