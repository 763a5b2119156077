"""Memory: how much a task took at most, how much is free, and what is given back when a task is over.

On a CUDA device that is what is allocated there, else what processes hold in memory.
"""

import contextlib
import gc
import resource
from pathlib import Path

import torch

PEAK, RESET = "VmHWM:", "5"  # see proc(5)
AVAILABLE, SWAP = "MemAvailable", "SwapFree"
MEMORY_FILE, CONTROL_GROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
REUSABLE = "inactive_file"  # of what a control group uses, the system takes this back when it is needed


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


def free_bytes(device: torch.device) -> int | None:
    """What this process may still take, as the driver or the system says; none if neither does.

    What torch holds and does not use counts as free.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    told = _read_numbers(MEMORY_FILE, ":", unit=1024)
    if AVAILABLE not in told:
        return None
    free = told[AVAILABLE] + told.get(SWAP, 0)
    with contextlib.suppress(OSError, ValueError):  # a number, or "max"
        limit, used = (int((CONTROL_GROUP / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current"))
        free = min(free, limit - used + _read_numbers(CONTROL_GROUP / "memory.stat", " ").get(REUSABLE, 0))
    return max(0, free)


def give_back(device: torch.device) -> None:
    """Lets others on the device have what torch keeps for a next task, which may be done elsewhere."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def _read_numbers(file: Path, separator: str, *, unit: int = 1) -> dict[str, int]:
    """Lines of a name and a number."""
    found = {}
    with contextlib.suppress(OSError):
        for line in file.read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(separator)
            with contextlib.suppress(ValueError, IndexError):
                found[name] = int(value.split()[0]) * unit
    return found
