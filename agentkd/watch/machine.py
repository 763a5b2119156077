"""What agents take of this machine, as the system says it: memory and cores of each process, share and memory of each GPU.

Agents are not asked, so a run pays nothing for it. Of agents on other hosts nothing is known.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agentkd.names import AgentName
from agentkd.watch.scene import Usage

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")
ANSWER_S = 10.0
MIB = 2**20
GPUS = "index,uuid,name,utilization.gpu,memory.used,memory.total"
OF_PROCESSES = "pid,used_memory"


@dataclass(frozen=True)
class GpuLoad:
    """A GPU now: its number and name, the share of the time in which it computed, and bytes of its memory."""

    index: int
    name: str
    share: float | None
    used_bytes: int
    total_bytes: int


class Machine:
    """Looks at processes of this host. One thread calls its methods."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._before: dict[int, tuple[float, float]] = {}
        self._tool = shutil.which("nvidia-smi")

    def usage(self, processes: Mapping[AgentName, int], gpu_bytes: Mapping[int, int]) -> dict[AgentName, Usage]:
        """What these processes take; those that are not there are left out. Cores are known from the second look on.

        Args:
            processes: of each agent, the number of its process on this host.
            gpu_bytes: what each process has of a GPU's memory, where that is known.
        """
        found: dict[AgentName, Usage] = {}
        now, seen = time.monotonic(), dict[int, tuple[float, float]]()
        for agent, pid in processes.items():
            try:
                pages = int((self._proc / str(pid) / "statm").read_text().split()[1])
                told = (self._proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
                cpu_s = (int(told[11]) + int(told[12])) / TICKS
            except (OSError, ValueError, IndexError):
                continue
            at, before = self._before.get(pid, (now, cpu_s))
            seen[pid] = now, cpu_s
            cores = round(max(0.0, cpu_s - before) / (now - at), 2) if now > at else None
            found[agent] = Usage(pages * PAGE_BYTES, cores, gpu_bytes.get(pid))
        self._before = seen
        return found

    def gpus(self) -> tuple[dict[str, GpuLoad], dict[int, int]]:
        """The GPUs by their UUID, and what each process has of their memory, in bytes. Takes a moment; nothing without GPUs."""
        if not self._tool:
            return {}, {}
        return (
            read_gpus(self._ask("--query-gpu=" + GPUS)),
            read_processes(self._ask("--query-compute-apps=" + OF_PROCESSES)),
        )

    def _ask(self, query: str) -> str:
        assert self._tool
        command = [self._tool, query, "--format=csv,noheader,nounits"]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, check=False).stdout
        except (OSError, subprocess.SubprocessError):
            return ""


def read_gpus(said: str) -> dict[str, GpuLoad]:
    """What ``nvidia-smi`` says of GPUs. What it does not know (``[N/A]``) is not known.

    Example:
        >>> read_gpus("0, GPU-1a, NVIDIA H200, 37, 2048, 143771")["GPU-1a"].share
        0.37
    """
    found = {}
    for cells in _rows(said, 6):
        try:
            used, total = int(float(cells[4]) * MIB), int(float(cells[5]) * MIB)
            share = float(cells[3]) / 100 if cells[3].replace(".", "", 1).isdigit() else None
            found[cells[1]] = GpuLoad(int(cells[0]), cells[2], share, used, total)
        except ValueError:
            continue
    return found


def read_processes(said: str) -> dict[int, int]:
    """What ``nvidia-smi`` says of processes: bytes of GPU memory by process, of all GPUs together."""
    found: dict[int, int] = {}
    for pid, used in _rows(said, 2):
        if pid.isdigit() and used.isdigit():
            found[int(pid)] = found.get(int(pid), 0) + int(used) * MIB
    return found


def _rows(said: str, num_cells: int) -> Iterable[list[str]]:
    rows = ([cell.strip() for cell in line.split(",")] for line in said.splitlines())
    return (row for row in rows if len(row) == num_cells)
