"""Own code run from what is kept: a register of the code that may run in this process, and its modules, made from it in memory.

The modules of one code stand in ``sys.modules`` below a package that is named after its digest, so that several versions of a
module can live side by side. Their ``import`` statements (and ``importlib.import_module``) find the modules of the same code, and
else what everybody finds; a module of the user's own that is not part of the code is refused, as a result would depend on it
unnoticed. There are no files beside a module, so that it can read none. Any thread may call what is here; loading waits while
another thread loads.
"""

import builtins
import importlib
import importlib.abc
import linecache
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.machinery import ModuleSpec
from types import CodeType, FrameType, ModuleType
from typing import Any, NoReturn

from agentkd.code import barring
from agentkd.code.barring import CODE
from agentkd.code.collecting import is_own
from agentkd.code.running import EndedBySignal, said
from agentkd.code.source import SourceCode, split_name
from agentkd.errors import ConfigError
from agentkd.names import Digest

PREFIX = "agentkd_code_"
LOOKING = ("importlib._bootstrap", "importlib.util", "pkgutil", "_frozen_importlib")
"""Modules of Python that look for others."""


def provide(code: SourceCode) -> Digest:
    """Lets a code run in this process. To do so again changes nothing.

    Returns:
        The code's digest, by which to load from it.

    Raises:
        ConfigError: other code has a digest that begins alike.
    """
    provided = _Provided(code)
    barring.watch()
    with _REGISTERING:
        if _PROVIDED.setdefault(provided.root, provided).digest != provided.digest:
            raise ConfigError(
                f"code {provided.digest} begins like {_PROVIDED[provided.root].digest}: only one can run in a process"
            )
        if _FINDER not in sys.meta_path:
            sys.meta_path.insert(0, _FINDER)
        if _Folder not in sys.path_hooks:
            sys.path_hooks.insert(0, _Folder)
    return provided.digest


def is_provided(digest: Digest) -> bool:
    """Whether code of this digest may run in this process."""
    provided = _PROVIDED.get(_root(digest))
    return provided is not None and provided.digest == digest


def provided(code: Digest) -> SourceCode:
    """The code of that digest, as it was provided.

    Raises:
        ConfigError: it was not.
    """
    if not is_provided(code):
        raise ConfigError(f"code {code[:12]} was not provided to this process; hand it over first")
    return _PROVIDED[_root(code)].code


def load(name: str, code: Digest) -> Any:
    """What ``package.module:attribute`` names in a code. Its module runs if it has not yet, and always from the code.

    Raises:
        ConfigError: no code is named, or it was not provided, it has no such module or the module no such attribute; the module
            failed, or imported own modules that are not part of the code; those that ran first for this call are then forgotten.
    """
    module, attribute = split_name(name)
    if not code:
        raise ConfigError(
            f"{name} is named without its source: the record is of an older version of agentkd, which kept none, so nobody knows "
            f"what would run; run the script or the experiment again in another folder, to have it recorded with its source"
        )
    if not is_provided(code):
        raise ConfigError(f"{name}: code {code[:12]} was not provided to this process; hand it over first")
    provided = _PROVIDED[_root(code)]
    if module not in provided.paths:
        near = get_close_matches(module, provided.paths, n=3) or sorted(provided.paths)[:3]
        raise ConfigError(f"{name}: code {code[:12]} has no module {module}; it has {', '.join(near)}")
    with _LOADING, provided.forgets_what_fails(), barring.running(), _watching() as watch:
        try:
            found = getattr(importlib.import_module(f"{provided.root}.{module}"), attribute, _MISSING)
        except (ConfigError, KeyboardInterrupt, EndedBySignal):
            raise
        except BaseException as error:  # whatever own code does when it runs
            raise ConfigError(f"{name}: {provided.place_of(error)}{said(error)}") from error
        watch.refuse_undeclared(name)
    if found is _MISSING:
        near = get_close_matches(attribute, vars(sys.modules[f"{provided.root}.{module}"]), n=3)
        hint = f"; it has {', '.join(near)}" if near else ""
        raise ConfigError(f"{name}: module {module} of code {code[:12]} has no {attribute!r}{hint}")
    return found


def place_of(module: str, code: Digest) -> str:
    """What stands for the file name of a module in tracebacks; empty if the code is not provided or has none such."""
    provided = _PROVIDED.get(_root(code))
    return provided.place(module) if provided is not None and module in provided.paths else ""


class _Provided:
    """A code that may run, and what its modules share: the root of their names, and their ``__builtins__``.

    Args:
        paths: of each module by its dotted name, as it goes by within the code.
        folders: packages without ``__init__.py``.
    """

    def __init__(self, code: SourceCode) -> None:
        self.code, self.digest = SourceCode(files=dict(code.files)), code.digest
        self.root = _root(self.digest)
        self.paths = code.modules
        self.folders = {"/".join(path.split("/")[:depth]) for path in code.files for depth in range(1, path.count("/") + 1)}
        self.folders = {folder.replace("/", ".") for folder in self.folders} - set(self.paths)
        self._tops = {path.removesuffix(".py").partition("/")[0] for path in code.files}
        self._importlib = _stand_in(importlib, import_module=self._import_module)
        self.builtins = vars(builtins) | {"__import__": self._import}

    def text(self, module: str) -> str:
        """The source of a module."""
        return self.code.files[self.paths[module]]

    def place(self, module: str) -> str:
        """What stands for a file name in tracebacks."""
        return f"{CODE}{self.digest[:12]}>/{self.paths[module]}"

    def place_of(self, error: BaseException) -> str:
        """Where in this code an error came from: file and line."""
        if isinstance(error, SyntaxError) and (error.filename or "").startswith(CODE):
            return f"{error.filename}, line {error.lineno}: "
        places = {self.place(module) for module in self.paths}
        lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in places]
        return f"{lines[-1].filename}, line {lines[-1].lineno}: " if lines else ""

    @contextmanager
    def forgets_what_fails(self) -> Iterator[None]:
        """If the block fails, no module of this code stays that ran first within it: some may hold others that are half made."""
        before = set(sys.modules)
        try:
            yield
        except BaseException:
            _forget(name for name in set(sys.modules) - before if name.startswith(self.root + "."))
            raise

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """What an ``import`` statement in this code calls; as ``builtins.__import__``."""
        own = name.partition(".")[0] in self._tops
        if level == 0 and not own:
            module = builtins.__import__(name, globals, locals, fromlist or (), 0)
            _refuse_own([name, *(f"{name}.{part}" for part in fromlist or ())], str((globals or {}).get("__name__", "")))
            return self._importlib if module is importlib else module
        if level:
            self._check_level(str((globals or {}).get("__package__", "")), level)
        try:
            if level or fromlist:
                return builtins.__import__(name if level else f"{self.root}.{name}", globals, locals, fromlist or (), level)
            importlib.import_module(f"{self.root}.{name}")
        except ModuleNotFoundError as error:
            raise self._not_found(error) from None
        return sys.modules[f"{self.root}.{name.partition('.')[0]}"]

    def _check_level(self, package: str, level: int) -> None:
        """In this code the root is no package: what is relative to it leads beyond the top."""
        depth = package.count(".")
        if package.partition(".")[0] == self.root and level > depth:
            beyond = "attempted relative import beyond top-level package"
            raise ImportError(beyond if depth else "attempted relative import with no known parent package")

    def _import_module(self, name: str, package: str | None = None) -> ModuleType:
        """What ``importlib.import_module`` is to this code."""
        if name.startswith(".") and package and package.partition(".")[0] != self.root:
            package = f"{self.root}.{package}" if package.partition(".")[0] in self._tops else package
        try:
            if name.partition(".")[0] in self._tops:
                return importlib.import_module(f"{self.root}.{name}")
            module = importlib.import_module(name, package)
        except ModuleNotFoundError as error:
            raise self._not_found(error) from None
        _refuse_own([module.__name__], f"code {self.digest[:12]}")
        return module

    def _not_found(self, error: ModuleNotFoundError) -> ModuleNotFoundError:
        """The error with the module's name as this code knows it."""
        if not (error.name or "").startswith(self.root + "."):
            return error
        name = str(error.name).removeprefix(self.root + ".")
        return ModuleNotFoundError(f"No module named {name!r} in code {self.digest[:12]}", name=name)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds modules of provided code by their names in ``sys.modules``; notes what else is looked for in a load."""

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The module's specification; none if it is no module of provided code."""
        if not fullname.startswith(PREFIX):
            if root := _asked_by_code(sys._getframe(1), fullname):
                return self.find_spec(f"{root}.{fullname}")
            if watch := getattr(_WATCHES, "current", None):
                watch.looked_for.append(fullname)
            return None
        root, _, module = fullname.partition(".")
        provided = _PROVIDED.get(root)
        if provided is None:
            return None
        loader = _Loader(provided, module) if module in provided.paths else None
        if loader is None and module and module not in provided.folders:
            return None
        spec = ModuleSpec(fullname, loader, origin=provided.place(module) if loader else None)
        if loader is None or loader.is_package(fullname):
            spec.submodule_search_locations = [f"{CODE}{provided.digest[:12]}>/{module.replace('.', '/')}"]
        return spec


def _asked_by_code(frame: FrameType | None, module: str) -> str:
    """The root of the code that asks ``importlib.util.find_spec`` (or ``pkgutil``, which does) for a module of its own."""
    asking = []
    while frame is not None and frame.f_globals.get("__name__") in LOOKING:
        asking.append(frame.f_globals["__name__"])
        frame = frame.f_back
    root = str(frame.f_globals.get("__name__", "")).partition(".")[0] if frame is not None else ""
    provided = _PROVIDED.get(root)
    is_own = provided is not None and (module in provided.paths or module in provided.folders)
    return root if is_own and "importlib.util" in asking else ""


class _Folder:
    """What a package of own code has for a folder: nothing is found in it, and it cannot be listed.

    Raises:
        ImportError: the path is none of own code.
    """

    def __init__(self, path: str) -> None:
        if not path.startswith(CODE):
            raise ImportError
        self._path = path

    def find_spec(self, fullname: str, target: ModuleType | None = None) -> ModuleSpec | None:
        """None: what is part of the code is found by its name."""
        return None

    def iter_modules(self, prefix: str = "") -> Iterable[tuple[str, bool]]:
        """What ``pkgutil`` asks."""
        raise ConfigError(f"{self._path} has no folder whose modules could be listed; import each of them by a statement")


class _Loader(importlib.abc.ExecutionLoader):
    """Makes one module from its text."""

    def __init__(self, provided: _Provided, module: str) -> None:
        self._provided, self._module = provided, module

    def is_package(self, fullname: str) -> bool:
        return self._provided.paths[self._module].endswith("/__init__.py")

    def get_filename(self, fullname: str) -> str:
        return self._provided.place(self._module)

    def get_source(self, fullname: str) -> str:
        return self._provided.text(self._module)

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_source(fullname), self.get_filename(fullname))

    def get_data(self, path: str) -> bytes:
        """What ``pkgutil.get_data`` asks."""
        raise barring.no_files(f"{path} is asked for")

    def get_resource_reader(self, fullname: str) -> NoReturn:
        """What ``importlib.resources`` asks."""
        raise barring.no_files(f"a file of {self._provided.place(self._module)} is asked for")

    def exec_module(self, module: ModuleType) -> None:
        """Runs it. ``inspect`` wants a ``__file__`` to show the source of a class; there is no such file."""
        module.__file__ = self.get_filename(module.__name__)
        vars(module)["__builtins__"] = self._provided.builtins
        linecache.lazycache(module.__file__, vars(module))  # for those who do not have the module, such as warnings
        super().exec_module(module)


class _Watch:
    """What a thread looks for while it loads own code, and what was refused it then."""

    def __init__(self) -> None:
        self.looked_for: list[str] = []
        self.refused: list[str] = []

    def refuse_undeclared(self, name: str) -> None:
        """Refuses own modules that were imported without being part of the code; whatever has noted it went on regardless."""
        undeclared = [x for x in dict.fromkeys([*self.refused, *self.looked_for]) if _is_own_module(x)]
        if undeclared:
            raise barring.undeclared(f"{name} or a module that it imports", ", ".join(undeclared))


_REGISTERING = threading.Lock()
_LOADING = threading.RLock()
_PROVIDED: dict[str, _Provided] = {}
_FINDER = _Finder()
_WATCHES = threading.local()
_MISSING = object()


def _root(digest: Digest) -> str:
    return PREFIX + digest[:16]


@contextmanager
def _watching() -> Iterator[_Watch]:
    outer = getattr(_WATCHES, "current", None)
    _WATCHES.current = watch = _Watch()
    try:
        yield watch
    finally:
        _WATCHES.current = outer
        _forget(name for name in watch.looked_for if _is_own_module(name))


def _refuse_own(names: Iterable[str], importer: str) -> None:
    """Raises ``ConfigError`` if one of these is a module of the user's own: it came from a file, not from the code."""
    undeclared = [name for name in names if _is_own_module(name)]
    if undeclared:
        if watch := getattr(_WATCHES, "current", None):
            watch.refused += undeclared
        raise barring.undeclared(importer.partition(".")[2] if importer.startswith(PREFIX) else importer, ", ".join(undeclared))


def _is_own_module(name: str) -> bool:
    module = None if name.startswith(PREFIX) else sys.modules.get(name)
    return module is not None and is_own(name, getattr(module, "__file__", None))


def _forget(names: Iterable[str]) -> None:
    """Takes modules out of ``sys.modules`` and off their packages, so that they run anew when they are next imported."""
    for name in list(names):
        module = sys.modules.pop(name, None)
        parent, _, child = name.rpartition(".")
        if module is not None and parent in sys.modules and vars(sys.modules[parent]).get(child) is module:
            delattr(sys.modules[parent], child)


def _stand_in(module: ModuleType, **other: Any) -> ModuleType:
    """A module that is like another in all but some attributes."""
    made = ModuleType(module.__name__, module.__doc__)
    vars(made).update(other, __getattr__=lambda name: getattr(module, name))
    return made
