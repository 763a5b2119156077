"""A process that ends with the one that started it, however that ends."""

import ctypes
import os
import signal
import sys

from agentkd.errors import LaunchError

PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int) -> None:
    """Asks Linux to kill this process when the one that started it ends; elsewhere it must look at ``os.getppid`` itself."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        sys.exit(LaunchError.exit_code)
