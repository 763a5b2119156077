"""Which processes can share memory or a folder: names for this host and for a place on it, the same for all who can."""

import hashlib
import os
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=64)
def host_name(folder: Path | None = None) -> str:
    """16 hexadecimal digits: boot, process-id namespace and user; with a folder, also which folder it is."""
    parts = [_read("/proc/sys/kernel/random/boot_id"), _namespace(), str(os.getuid())]
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        found = folder.stat()
        parts += [str(found.st_dev), str(found.st_ino)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return f"{os.uname().nodename}-{os.getpid()}"  # nothing proves a common host: share with nobody


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return str(os.getpid())
