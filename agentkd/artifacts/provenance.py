"""Where results come from: code, packages, hardware and settings of the process that coordinates, looked at once a sitting.

Nothing here decides what is computed; it is what somebody needs to have the same again, or to see why it is not the same.
"""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from agentkd import __version__

GIT_TIMEOUT_S = 10.0
MAX_DIFF_CHARACTERS = 256 * 1024
SETTINGS = (
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
    "MKL_NUM_THREADS",
    "MKL_CBWR",
    "OPENBLAS_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "CUBLAS_WORKSPACE_CONFIG",
    "ONEDNN_MAX_CPU_ISA",
    "ATEN_CPU_CAPABILITY",
)


def provenance() -> dict[str, Any]:
    """Plain data. No host or user name is in it; a difference from the last commit is, up to 256 KiB."""
    return {
        "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": [_as_text(part) for part in (Path(sys.argv[0]).name, *sys.argv[1:])],
        "agentkd": __version__,
        "code": _checkout(Path(__file__).parent),
        "project": _checkout(Path.cwd()),
        "packages": {d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions() if d.metadata["Name"]},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "memory_bytes": _memory_bytes(),
        "devices": _devices(),
        "settings": {name: _as_text(os.environ[name]) for name in SETTINGS if name in os.environ},
    }


def _as_text(given: str) -> str:
    """What was typed, of which some need not be text (a name in another encoding): that as escapes."""
    return given.encode(errors="backslashreplace").decode()


def _checkout(folder: Path) -> dict[str, Any]:
    """Commit and uncommitted difference of the git checkout that a folder lies in; empty if it lies in none."""
    commit = _say(["git", "-C", str(folder), "rev-parse", "HEAD"]).strip()
    if not commit:
        return {}
    diff = _say(["git", "-C", str(folder), "diff", "HEAD", "--no-ext-diff"])
    new = _say(["git", "-C", str(folder), "ls-files", "--others", "--exclude-standard"]).splitlines()
    return {
        "commit": commit,
        "is_dirty": bool(diff or new),
        "diff": diff[:MAX_DIFF_CHARACTERS],
        "is_diff_cut": len(diff) > MAX_DIFF_CHARACTERS,
        "new_files": sorted(new)[:1000],
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")), "")


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0


def _devices() -> list[str]:
    """GPUs with their drivers, one line each."""
    if not shutil.which("nvidia-smi"):
        return []
    return _say(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]).splitlines()


def _say(command: list[str]) -> str:
    """What a program prints; empty if it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=False, errors="replace")
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
