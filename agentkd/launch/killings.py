"""Whether the system has killed a process of late because memory was short. It says how many it killed, and not which."""

import contextlib
import signal
from pathlib import Path

COUNTED_IN = (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat"))
COUNT = "oom_kill"
KILLED = frozenset({-signal.SIGKILL, 128 + signal.SIGKILL})


class Killings:
    """The system's count of processes that it killed for their memory.

    Args:
        files: of which the first that is there tells it: of this control group, or of the machine.
    """

    def __init__(self, files: tuple[Path, ...] = COUNTED_IN) -> None:
        self._files = files
        self._known = self._count()

    def explain(self, exit_code: int | None) -> bool:
        """Whether a process of this machine that ended so may be one that was killed since this was asked last."""
        if exit_code not in KILLED:
            return False
        before, self._known = self._known, self._count()
        return self._known > before

    def _count(self) -> int:
        for file in self._files:
            with contextlib.suppress(OSError, ValueError):
                told = (line.split() for line in file.read_text(encoding="ascii").splitlines())
                return sum(int(words[1]) for words in told if words[:1] == [COUNT])
        return 0
