"""The device that an agent computes on: that it is there, and its memory as others may use it."""

import torch

from agentkd.errors import LaunchError
from agentkd.exchange.cuda import Gpu, find_gpu


def find_device(name: str) -> torch.device:
    """A device by its name.

    Raises:
        LaunchError: it is not there.
    """
    device = torch.device(name)
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise LaunchError(f"device {name} is not there: {torch.cuda.device_count()} CUDA devices found")
    return device


def shared_memory_of(device: torch.device) -> Gpu | None:
    """Its memory, as processes beside this one may map it; ``None`` of a CPU, and where the driver does not let them."""
    if device.type != "cuda":
        return None
    return find_gpu(device.index if device.index is not None else torch.cuda.current_device())
