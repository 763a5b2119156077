"""What may not run beside own code: a user's own modules that are not part of it, by whatever way they are reached.

An import statement of own code is judged in ``loading``. Here is judged what Python itself is about to execute, so that it does
not matter who asks for it: ``pkgutil.resolve_name``, ``builtins.__import__``, a pickle, a loader made from a path, ``runpy``, a
reload, a changed ``sys.path``. Installed packages may execute what they have generated. It holds for a thread while it is
``running`` own code, and for all of a process, from the first code on that is provided to it, where ``close`` was called.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from agentkd.code.collecting import is_installed
from agentkd.errors import ConfigError

ADVICE = "import it by an import statement or a literal name, and have the code collected again"
CODE = "<code "
"""How what stands for the file name of own code begins."""
OPENS = ("open", "os.listdir", "os.scandir")
JUDGED = ("exec", "import", "compile", *OPENS)
PACKAGE = Path(__file__).parents[1]
IMPORTERS = ("<frozen importlib", "<frozen runpy", "<frozen zipimport")


class _State(threading.local):
    """Of each thread: what it was refused, for each own code that it is running."""

    def __init__(self) -> None:
        self.refused: list[list[ConfigError]] = []


_STATE = _State()
_LOCK = threading.Lock()
_PROCESS = {"watched": False, "closed": False}


def watch() -> None:
    """From now on it is judged in this process what is executed. To be called where own code may run; again changes nothing."""
    with _LOCK:
        if not _PROCESS["watched"]:
            _PROCESS["watched"] = True
            sys.addaudithook(_judge)


def close() -> None:
    """This process works for others: once own code is provided to it, it executes no other own module, in no thread."""
    _PROCESS["closed"] = True


@contextmanager
def running() -> Iterator[None]:
    """This thread executes no other own module in here. What was refused and went on regardless is refused at the end.

    Raises:
        ConfigError: it was so.
    """
    refused: list[ConfigError] = []
    _STATE.refused.append(refused)
    try:
        yield
    finally:
        _STATE.refused.pop()
    if refused:
        raise refused[0]


def undeclared(importer: str, names: str) -> ConfigError:
    """The refusal of own modules that are not part of the code."""
    return ConfigError(f"{importer} imports {names}, which is yours but not part of the code that runs; {ADVICE}")


def no_files(what: str) -> ConfigError:
    """The refusal to read what would lie beside own code, noted for those who pass over it."""
    error = ConfigError(f"{what}, and beside own code there are no files where it runs; give their folder as a setting")
    for refused in _STATE.refused:
        refused.append(error)
    return error


def _judge(event: str, arguments: tuple[Any, ...]) -> None:
    """The audit hook. It cannot be taken away again, by nobody."""
    if event not in JUDGED or not (_PROCESS["closed"] or _STATE.refused):
        return
    caller = sys._getframe(1)
    name = ""
    if event in OPENS:
        file = str(arguments[0])
        if CODE in file:
            raise no_files(f"{file} is opened")
        if event != "open" or not _takes_code(caller):
            return
    elif event in ("exec", "compile"):
        file, place = str(arguments[0].co_filename if event == "exec" else arguments[1]), caller.f_code.co_filename
        is_by_code = place.startswith(CODE) and Path(file).is_file()
        if file.startswith("<") or not (is_by_code or (event == "exec" and _is_importer(place))):
            return
        name = _name_of(caller) if place.startswith(IMPORTERS[0]) else ""
    else:
        name, file = str(arguments[0]), str(arguments[1] or "")
        if not file or not any(folder and Path(file).is_relative_to(folder) for folder in sys.path):
            return
    if not is_installed(file) and not Path(file).is_relative_to(PACKAGE):
        raise _refused(caller, name or file, file)


def _takes_code(reading: FrameType) -> bool:
    """Whether a loader reads a file for ``get_code`` alone; of what it runs itself it is judged when it does."""
    called, frame = set(), reading
    while frame.f_code.co_filename.startswith(IMPORTERS) and frame.f_back is not None:
        called.add(frame.f_code.co_name)
        frame = frame.f_back
    return "get_code" in called and "exec_module" not in called


def _is_importer(place: str) -> bool:
    return place.startswith(IMPORTERS) or Path(place).name in ("runpy.py", "zipimport.py")


def _name_of(importing: FrameType) -> str:
    """The module that the import system executes."""
    given: tuple[Any, ...] = importing.f_locals.get("args") or ()
    return str(given[1].get("__name__", "")) if len(given) > 1 and isinstance(given[1], dict) else ""


def _refused(frame: FrameType | None, name: str, file: str) -> ConfigError:
    while frame is not None and not frame.f_code.co_filename.startswith(CODE):
        frame = frame.f_back
    where = f"{frame.f_code.co_filename}, line {frame.f_lineno}," if frame else "what runs here"
    error = undeclared(where, name)
    if name != file:
        error = ConfigError(f"{error} (it is {file})")
    for refused in _STATE.refused:
        refused.append(error)
    return error
