"""What a student is handed in GPU memory: copied beside the network's work, which it does not hold up, and read there."""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from agentkd.knowledge.tensors import Tensors


class Landing:
    """Copies and reads pieces on a device. On CUDA it has a stream of its own, and waits for that alone. For one thread."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def copy(self, array: Any) -> Tensor:
        """The octets [size] of an array on the device, as memory of this process; complete when it returns."""
        with self._beside():
            own = torch.as_tensor(array, device=self._device).clone()
        self._wait()
        return own

    def read(self, unpack: Callable[[], Tensors]) -> Tensors:
        """What is unpacked, complete, and kept from being used again while the network computes with it."""
        with self._beside():
            found = unpack()
        self._wait()
        if self._stream is not None:
            for tensor in found.values():
                tensor.record_stream(torch.cuda.current_stream(self._device))
        return found

    def to_bytes(self, own: Tensor) -> bytes:
        """The octets on the host."""
        with self._beside():
            return own.cpu().numpy().tobytes()

    def _beside(self) -> contextlib.AbstractContextManager[Any]:
        return torch.cuda.stream(self._stream) if self._stream is not None else contextlib.nullcontext()

    def _wait(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()
