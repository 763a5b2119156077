"""Device slots: which devices there are and how many agents learn on each at a time."""

import os
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass, replace

from agentkd.errors import ConfigError

QUERY_TIMEOUT_S = 20.0
ITEM = re.compile(r"(?P<kind>cpu|cuda)(?::(?P<number>[0-9]{1,9}))?(?:x(?P<times>[0-9]{1,9}))?")
MAX_SLOTS = 1024
FORM = "auto, cpu:2, cuda:0,cuda:1, or cuda:0x2 for two agents on one GPU"


@dataclass(frozen=True)
class Slot:
    """Room for one learning agent: a torch device name and the threads it may use."""

    device: str
    threads: int


def parse_devices(text: str, *, cores: int | None = None, cuda_count: int | None = None) -> tuple[Slot, ...]:
    """The slots that a ``--devices`` text asks for.

    ``auto`` takes every CUDA device or, without one, a CPU slot a core; ``cpu:N`` is N slots; ``cuda:N`` is device N, and
    ``cuda:Nx2`` is room for two agents there, as is naming it twice. CPU slots have one thread each: more agents with fewer
    threads are faster than the reverse. CUDA devices share the cores evenly, and the slots of a device its cores; one slot alone
    has half of them.

    Raises:
        ConfigError: not a device list, or a device that is not there.

    Example:
        >>> parse_devices("cpu:2,cuda:0", cores=4, cuda_count=1)
        (Slot(device='cpu', threads=1), Slot(device='cpu', threads=1), Slot(device='cuda:0', threads=2))
        >>> parse_devices("cuda:0x2", cores=4, cuda_count=1)
        (Slot(device='cuda:0', threads=2), Slot(device='cuda:0', threads=2))
    """
    if not isinstance(text, str):
        raise ConfigError(f"devices {text!r}: expected text, such as {FORM}")
    cores = cores or count_cores()
    found = count_cuda_devices() if cuda_count is None else cuda_count
    if text == "auto":
        text = ",".join(f"cuda:{index}" for index in range(found)) if found else f"cpu:{cores}"
    slots: list[Slot] = []
    for item in map(str.strip, text.split(",")):
        try:
            slots += _slots(item, found, room=MAX_SLOTS - len(slots))
        except ConfigError as error:
            raise ConfigError(f"devices {text!r}: {error}") from None
    together = Counter(slot.device for slot in slots)
    return tuple(
        replace(slot, threads=max(1, cores // found // max(2, together[slot.device]))) if slot.device != "cpu" else slot
        for slot in slots
    )


def _slots(item: str, found: int, *, room: int) -> list[Slot]:
    """Those of one item of a list, of one thread each.

    Raises:
        ConfigError: it is none, or there are more of them than there is room.
    """
    matched = ITEM.fullmatch(item)
    if not matched:
        hint = "auto takes each device once; name them: cuda:0x2,cuda:1x2" if item.startswith("auto") else f"expected {FORM}"
        raise ConfigError(f"{item!r} is not a device; {hint}")
    number = int(matched["number"]) if matched["number"] else None
    times = int(matched["times"]) if matched["times"] else 1
    if matched["kind"] == "cpu":
        if matched["times"]:
            raise ConfigError(f"{item}: the number after cpu says how many agents; cpu:{(number or 1) * times} has as many")
        count, device = 1 if number is None else number, "cpu"
        if not count:
            raise ConfigError("cpu:0 is no slot at all; cpu:1 is one")
    else:
        if matched["times"] and number is None:
            raise ConfigError(f"{item}: {times} agents on which one? cuda:0x{times} has them on the first")
        if not times:
            raise ConfigError(f"{item} is no slot at all; leave it out, or write cuda:{number}")
        if (number or 0) >= found:
            there = f"there are {found} (cuda:0 to cuda:{found - 1})" if found else "there is no CUDA device on this machine"
            raise ConfigError(f"{item} is not there; {there}")
        count, device = times, f"cuda:{number or 0}"
    if count > room:
        more = f"{MAX_SLOTS - room:,} and {count:,}" if room < MAX_SLOTS else f"{count:,}"
        raise ConfigError(f"{more} agents are more than the {MAX_SLOTS:,} that one machine may have")
    return [Slot(device, threads=1)] * count


def share_devices(agents: int, gpus_per_agent: float, threads: int, *, cuda_count: int | None = None) -> tuple[Slot, ...]:
    """Slots on this machine for so many agents, evenly on its CUDA devices if each is to have some of one, else on the CPU.

    Raises:
        ConfigError: they do not fit, or one is to have several devices.

    Example:
        >>> share_devices(3, 0.5, 1, cuda_count=2)[-1]
        Slot(device='cuda:0', threads=1)
    """
    if agents > MAX_SLOTS:
        raise ConfigError(f"launch.agents: {agents:,} agents are more than the {MAX_SLOTS:,} that one machine may have")
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
