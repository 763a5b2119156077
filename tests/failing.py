"""Files that fail: the page by which the library ``failing.c``, preloaded into processes, is told which call is to fail, and how.

The calls of all processes that have the same page are counted together. Only files below one folder fail.
"""

import ctypes
import errno
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

TESTS = Path(__file__).parent
SOURCE = TESTS / "failing.c"
VARIABLE = "AGENTKD_FAILING"


class Kind(IntEnum):
    """What is called; ``UNLINK`` counts removed folders too, ``WRITE`` files that are cut."""

    OPEN = 0
    WRITE = 1
    FSYNC = 2
    RENAME = 3
    UNLINK = 4
    MKDIR = 5


@dataclass(frozen=True)
class Fault:
    """Which calls fail.

    Args:
        kinds: of these kinds, which are counted together.
        number: errno.
        nth: from 1; 0 for none.
        lasts: all after it as well.
    """

    kinds: tuple[Kind, ...]
    number: int
    nth: int
    lasts: bool = False

    def __str__(self) -> str:
        named = (
            "/".join(kind.name.lower() for kind in self.kinds) if len(self.kinds) < len(Kind) else "call that changes anything"
        )
        return f"{errno.errorcode[self.number]} at {named} {self.nth}{' and all after it' if self.lasts else ''}"


class _Fields(ctypes.Structure):
    _fields_ = (
        ("is_armed", ctypes.c_int),
        ("kinds", ctypes.c_int),
        ("number", ctypes.c_int),
        ("lasts", ctypes.c_int),
        ("nth", ctypes.c_int),
        ("num_calls", ctypes.c_int),
        ("num_failed", ctypes.c_int),
        ("counts", ctypes.c_int * len(Kind)),
        ("num_new", ctypes.c_int),
        ("root", ctypes.c_char * 512),
        ("first", ctypes.c_char * 512),
    )


class Page:
    """The page, as it is in every process into which the library was preloaded with ``environment``."""

    def __init__(self, place: Path) -> None:
        with place.open("r+b") as file:
            self._fields = _Fields.from_buffer(mmap.mmap(file.fileno(), ctypes.sizeof(_Fields)))

    def arm(self, root: Path, fault: Fault) -> None:
        """From now on calls on what lies below a folder are counted, and fail."""
        self.disarm()
        fields = self._fields
        fields.root, fields.first = os.fsencode(root.resolve()), b""
        fields.kinds = sum(1 << kind for kind in fault.kinds)
        fields.number, fields.nth, fields.lasts = fault.number, fault.nth, fault.lasts
        fields.num_calls = fields.num_failed = 0
        fields.counts, fields.num_new = type(fields.counts)(), 0
        fields.is_armed = 1

    def disarm(self) -> None:
        """Nothing fails any more; the counts stay."""
        self._fields.is_armed = 0

    @property
    def counts(self) -> dict[Kind, int]:
        """How many calls of each kind there were."""
        return {kind: self._fields.counts[kind] for kind in Kind}

    @property
    def num_new(self) -> int:
        """How many files were opened that had not been there: of opens, those alone fail where the disk is full."""
        return int(self._fields.num_new)

    @property
    def num_calls(self) -> int:
        """How many calls there were of the kinds that were to fail."""
        return int(self._fields.num_calls)

    @property
    def num_failed(self) -> int:
        """How many have failed."""
        return int(self._fields.num_failed)

    @property
    def first(self) -> str:
        """What failed first."""
        kind, _, path = os.fsdecode(self._fields.first).partition(" ")
        return f"{Kind(int(kind)).name.lower()} of {path.removeprefix(os.fsdecode(self._fields.root) + '/')}" if kind else ""


def begin_again() -> int:
    """This program, with its arguments, once more in a process into which the library is preloaded; its exit status."""
    with tempfile.TemporaryDirectory(prefix="agentkd-failing-") as folder:
        found = environment(Path(folder))
        if found is None:
            print("skipped: there is no compiler of C (cc) here")
            return 0
        paths = {"PYTHONPATH": os.pathsep.join((str(TESTS), str(TESTS.parent))), "OMP_NUM_THREADS": "1"}
        return subprocess.run([sys.executable, *sys.argv], env=os.environ | paths | found, check=False).returncode


def environment(folder: Path) -> dict[str, str] | None:
    """What a process needs in its environment so that files can fail in it, made in a folder; ``None`` without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    library, place = folder / "failing.so", folder / "failing.page"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
    place.write_bytes(bytes(ctypes.sizeof(_Fields)))
    return {"LD_PRELOAD": str(library), VARIABLE: str(place)}
