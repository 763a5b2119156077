"""The log of an agent on this machine kept short, whatever writes to it: own code, a library, a process that either starts."""

import contextlib
import os

MAX_LOG_BYTES = 8 * 2**20
KEPT_BYTES = 2**20


def trim(log: str) -> bool:
    """Whether a log was over its limit: then only its end is left, below a line that says so.

    Whoever writes to it must append, and goes on writing at its end. What is written in the same moment may be lost.
    """
    with contextlib.suppress(OSError):
        if os.lstat(log).st_size <= MAX_LOG_BYTES:
            return False
        file = os.open(log, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            size = os.fstat(file).st_size
            end = os.pread(file, KEPT_BYTES, size - KEPT_BYTES)
            said = f"[agentkd: {size - len(end):,} bytes were left out here; a log has at most {MAX_LOG_BYTES:,}]\n"
            os.ftruncate(file, 0)
            os.write(file, said.encode() + end)
            return True
        finally:
            os.close(file)
    return False
