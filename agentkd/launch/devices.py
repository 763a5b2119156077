"""Device slots: which devices there are and how many agents learn on each at a time."""

import os
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass, replace

from agentkd.errors import ConfigError

QUERY_TIMEOUT_S = 20.0
ITEM = re.compile(r"(?P<kind>cpu|cuda)(?::(?P<number>[0-9]{1,9}))?")
MAX_SLOTS = 1024


@dataclass(frozen=True)
class Slot:
    """Room for one learning agent: a torch device name and the threads it may use."""

    device: str
    threads: int


def parse_devices(text: str, *, cores: int | None = None, cuda_count: int | None = None) -> tuple[Slot, ...]:
    """The slots that a ``--devices`` text asks for.

    ``auto`` takes every CUDA device or, without one, a CPU slot a core; ``cpu:N`` is N slots; ``cuda:N`` is device N.
    CPU slots have one thread each: more agents with fewer threads are faster than the reverse. CUDA devices share the cores
    evenly. A device that is named several times has so many slots, which share its cores; one slot alone has half of them.

    Raises:
        ConfigError: not a device list, or a device that is not there.

    Example:
        >>> parse_devices("cpu:2,cuda:0", cores=4, cuda_count=1)
        (Slot(device='cpu', threads=1), Slot(device='cpu', threads=1), Slot(device='cuda:0', threads=2))
    """
    if not isinstance(text, str):
        raise ConfigError(f"devices {text!r}: expected text, such as auto, cpu:2 or cuda:0,cuda:1")
    cores = cores or count_cores()
    found = count_cuda_devices() if cuda_count is None else cuda_count
    if text == "auto":
        text = ",".join(f"cuda:{index}" for index in range(found)) if found else f"cpu:{cores}"
    slots: list[Slot] = []
    for item in text.split(","):
        matched = ITEM.fullmatch(item.strip())
        if not matched:
            raise ConfigError(f"devices {text!r}: {item!r} is not a device; expected auto, cpu:2 or cuda:0,cuda:1")
        number = int(matched["number"]) if matched["number"] else None
        if matched["kind"] == "cpu":
            if number == 0:
                raise ConfigError(f"devices {text!r}: cpu:0 is no slot at all; cpu:1 is one")
            if (number or 1) > MAX_SLOTS:
                raise ConfigError(
                    f"devices {text!r}: {number:,} agents are more than the {MAX_SLOTS:,} that one machine may have"
                )
            slots += [Slot("cpu", threads=1)] * (number or 1)
        elif (number or 0) >= found:
            there = f"there are {found} (cuda:0 to cuda:{found - 1})" if found else "there is no CUDA device on this machine"
            raise ConfigError(f"devices {text!r}: {item.strip()} is not there; {there}")
        else:
            slots.append(Slot(f"cuda:{number or 0}", threads=1))
    together = Counter(slot.device for slot in slots)
    return tuple(
        replace(slot, threads=max(1, cores // found // max(2, together[slot.device]))) if slot.device != "cpu" else slot
        for slot in slots
    )


def share_devices(agents: int, gpus_per_agent: float, threads: int, *, cuda_count: int | None = None) -> tuple[Slot, ...]:
    """Slots on this machine for so many agents, evenly on its CUDA devices if each is to have some of one, else on the CPU.

    Raises:
        ConfigError: they do not fit, or one is to have several devices.

    Example:
        >>> share_devices(3, 0.5, 1, cuda_count=2)[-1]
        Slot(device='cuda:0', threads=1)
    """
    if not gpus_per_agent:
        return (Slot("cpu", threads),) * agents
    found = count_cuda_devices() if cuda_count is None else cuda_count
    if gpus_per_agent > 1:
        raise ConfigError(f"launch.gpus_per_agent: an agent works on one device, not on {gpus_per_agent:g}")
    room = found * int(1 / gpus_per_agent + 1e-9)
    if agents > room:
        raise ConfigError(
            f"launch.agents: {agents} with {gpus_per_agent:g} GPUs each do not fit on {found} CUDA devices; {room} do"
        )
    return tuple(Slot(f"cuda:{number % found}", threads) for number in range(agents))


def count_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count_cuda_devices() -> int:
    """CUDA devices, asked of the driver's own tool so that torch need not be imported; 0 if it is not there."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([item for item in visible.split(",") if item.strip() and item.strip() != "-1"])
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    try:
        listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=QUERY_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if listed.returncode == 0 else 0


def cuda_memory_bytes(index: int) -> int | None:
    """What a CUDA device has in all, asked likewise; none if that is not known."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [item.strip() for item in visible.split(",") if item.strip()]
    tool = shutil.which("nvidia-smi")
    if tool is None or (names and index >= len(names)):
        return None
    command = [tool, f"--id={names[index] if names else index}", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=QUERY_TIMEOUT_S, check=False)
        return int(told.stdout) * 2**20 if told.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return None
