"""How much memory a task took at most: on a CUDA device what was allocated there, else what this process held in memory."""

import contextlib
import resource
from pathlib import Path

import torch

PEAK, RESET = "VmHWM:", "5"  # see proc(5)


def reset_peak(device: torch.device) -> None:
    """Begins to measure anew. Where the system does not let it, the peak is that of the process since it began."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text(RESET)


def peak_bytes(device: torch.device) -> int:
    """The most since ``reset_peak``."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(PEAK):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
