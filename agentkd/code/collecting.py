"""Own code found by name: the file of a module, and those of all modules that it imports and that are a user's own.

Own is a ``.py`` file that is neither of the standard library, nor installed, nor agentkd's. An editable installation is own: its
files lie in somebody's tree. Nothing is imported here and nothing of it runs: files are read and parsed. Followed are import
statements wherever they stand, also within functions and under ``if TYPE_CHECKING``, and ``import_module`` and ``__import__``
with a literal name. An import whose name is only known when it runs is not followed; ``loading`` refuses it.
"""

import ast
import difflib
import functools
import itertools
import sys
import sysconfig
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from importlib import machinery
from pathlib import Path

from pydantic import ValidationError

from agentkd.code.listing import refuse_listing
from agentkd.code.source import INIT, MAX_BYTES, MAX_FILES, STANDARD, SourceCode, split_name, why
from agentkd.errors import ConfigError, check_descriptors

INSTALLED = {"site-packages", "dist-packages"}
LIBRARIES = {
    place
    for kind in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")
    for path in [Path(sysconfig.get_path(kind))]
    for place in (path, path.resolve())
}
LOADERS = (
    (machinery.ExtensionFileLoader, machinery.EXTENSION_SUFFIXES),
    (machinery.SourceFileLoader, machinery.SOURCE_SUFFIXES),
    (machinery.SourcelessFileLoader, machinery.BYTECODE_SUFFIXES),
)
FROM_NO_FOLDER = (machinery.BuiltinImporter, machinery.FrozenImporter)
FIRST_OF_ALL = {name for name in STANDARD if any(finder.find_spec(name) for finder in FROM_NO_FOLDER)}
"""Modules of the standard library that Python has before it looks into any folder, so that nothing hides them."""
ITS_FINDERS = (machinery.BuiltinImporter, machinery.FrozenImporter, machinery.PathFinder)
STAR = "*"
IMPORTERS = ("import_module", "__import__", "find_spec", "find_loader", "get_loader")
"""Functions that import, or look for, the module that they are given by name."""


def collect(name: str, search: Sequence[str] | None = None, *, others: Sequence[str] = ()) -> SourceCode:
    """The code behind ``package.module:attribute``: the module's file and all own files that it imports, directly or not.

    Args:
        name: the attribute in it is not looked for: who loads the code does.
        search: the folders to look in, in their order. Not given: those of ``sys.path``, then the current one, then what editable
            installations added.
        others: more such names, whose code is to be in the same.

    Raises:
        ConfigError: there is no such module, it or one that it imports is not own or cannot be read, or the code is too large.
    """
    places = _Places(search)
    collected = _Collected()
    waiting = []
    for one in (name, *others):
        module, _ = split_name(one)
        _refuse_what_is_not_own(one, module, places)
        waiting.append((module, ""))
    while waiting:
        target, where = waiting.pop()
        waiting += collected.follow(target, where, places)
    return collected.code()


def is_own(module: str, file: str | None) -> bool:
    """Whether a module, by its dotted name and the file it is from, is a user's own: the one rule for all of agentkd."""
    top = module.partition(".")[0]
    return bool(file) and str(file).endswith(".py") and top != "agentkd" and top not in STANDARD and not is_installed(str(file))


@functools.lru_cache(maxsize=10_000)
def is_installed(file: str) -> bool:
    """Whether a file is of the standard library or of an installed package, of this or any other environment."""
    path = Path(file).absolute()
    return _lies_installed(path) or _lies_installed(path.resolve())


def _lies_installed(path: Path) -> bool:
    if INSTALLED & set(path.parts) or any(map(path.is_relative_to, LIBRARIES)):
        return True
    for parent in path.parents:
        folder, below = (*path.relative_to(parent).parts, "")[:2]
        of_environment = folder in ("bin", "Scripts") or (folder in ("lib", "lib64") and below.startswith("python"))
        if of_environment and (parent / "pyvenv.cfg").is_file():
            return True
    return False


class _Kind(Enum):
    OWN = auto()
    FOLDER = auto()  # of a package without __init__.py
    COMPILED = auto()  # and not installed
    INSTALLED = auto()
    STANDARD = auto()
    SHADOW = auto()  # a user's, called like one of the standard library, which it hides from whoever imports that


@dataclass(frozen=True)
class _Found:
    """A module that there is.

    Args:
        locations: where its submodules would be; none if it is no package.
    """

    kind: _Kind
    file: str = ""
    locations: tuple[str, ...] = ()


class _Places:
    """Where modules are looked for. What is on disk is looked at anew by each of these, and no parent is imported."""

    def __init__(self, search: Sequence[str] | None) -> None:
        self.folders = (*sys.path, *_here()) if search is None else tuple(search)
        self._others = [x for x in sys.meta_path if x not in ITS_FINDERS] if search is None else []
        self._finders: dict[str, machinery.FileFinder] = {}
        self._found: dict[str, _Found | None] = {}

    def find(self, module: str) -> _Found | None:
        """The module of that name. Below one that is not own everything is as that one."""
        if module not in self._found:
            self._found[module] = self._look(module)
        return self._found[module]

    def is_users(self, module: str) -> bool:
        """Whether there is a module of that name which is neither installed nor Python's."""
        found = self.find(module)
        return found is not None and found.kind not in (_Kind.INSTALLED, _Kind.STANDARD)

    def _look(self, module: str) -> _Found | None:
        parent, _, name = module.rpartition(".")
        if parent:
            above = self.find(parent)
            if above is None or above.kind in (_Kind.INSTALLED, _Kind.STANDARD):
                return above
            return _judge(module, self._spec(name, above.locations))
        if name in STANDARD:
            spec = None if name in FIRST_OF_ALL else self._spec(name, self.folders)
            shadow = spec is not None and spec.origin and spec.loader is not None and not is_installed(spec.origin)
            return _Found(_Kind.SHADOW, str(spec.origin)) if spec is not None and shadow else _Found(_Kind.STANDARD)
        if name == "agentkd":
            return _Found(_Kind.INSTALLED)
        return _judge(module, self._spec(name, self.folders) or self._hooked(name))

    def _spec(self, name: str, folders: Sequence[str]) -> machinery.ModuleSpec | None:
        """As Python would find it, by finders of our own: Python's would ask for the parent in ``sys.modules``, and remember."""
        portions: list[str] = []
        for folder in folders:
            if folder not in self._finders:
                self._finders[folder] = machinery.FileFinder(folder, *LOADERS)
            spec = self._finders[folder].find_spec(name)
            if spec is not None and spec.loader is not None:
                return spec
            portions += (spec and spec.submodule_search_locations) or []
        if not portions:
            return None
        found = machinery.ModuleSpec(name, None, is_package=True)
        found.submodule_search_locations = portions
        return found

    def _hooked(self, name: str) -> machinery.ModuleSpec | None:
        """From what others put on ``sys.meta_path``: so some build tools make an installation editable."""
        specs = (finder.find_spec(name, None) for finder in self._others if hasattr(finder, "find_spec"))
        return next((spec for spec in specs if spec is not None), None)


def _here() -> list[str]:
    """The current folder, unless it is gone."""
    try:
        return [str(Path.cwd())]
    except OSError:
        return []


def _judge(module: str, spec: machinery.ModuleSpec | None) -> _Found | None:
    if spec is None:
        return None
    locations = tuple(spec.submodule_search_locations or ())
    if spec.loader is None or not spec.origin:
        return _Found(_Kind.FOLDER, "", locations) if locations else None
    if is_own(module, spec.origin):
        return _Found(_Kind.OWN, spec.origin, locations)
    return _Found(_Kind.INSTALLED if is_installed(spec.origin) else _Kind.COMPILED, spec.origin, locations)


def _refuse_what_is_not_own(name: str, module: str, places: _Places) -> None:
    if module.partition(".")[0] == "__main__":
        file, attribute = "my_nets", name.partition(":")[2]
        raise ConfigError(
            f"{name}: what a script or a notebook cell defines cannot be run elsewhere; "
            f"write it into a file beside, such as {file}.py, and name it {file}:{attribute}"
        )
    found = places.find(module)
    advice = "name your own code: a file of yours that imports it"
    if found is None:
        near = difflib.get_close_matches(module, dict.fromkeys(_names_near(module, places)), n=3)
        hint = f" (there is {', '.join(near)})" if near else ""
        raise ConfigError(f"{name}: no module {module!r}{hint}; is it on PYTHONPATH?")
    match found.kind:
        case _Kind.STANDARD | _Kind.SHADOW:
            raise ConfigError(f"{name}: {module} is of the standard library; {advice}. If it is a file of yours, rename it")
        case _Kind.INSTALLED:
            raise ConfigError(f"{name}: {module} is installed ({found.file or 'agentkd itself'}); {advice}")
        case _Kind.FOLDER:
            raise ConfigError(f"{name}: {module} is a folder without __init__.py, which defines nothing; name a module in it")
        case _Kind.COMPILED:
            raise ConfigError(f"{name}: {_compiled(module, found)}")


def _compiled(module: str, found: _Found) -> str:
    return (
        f"{module} is compiled ({found.file}), and only source can be kept with results; "
        f"install it as a package (not as an editable one) and name a file of yours that imports it"
    )


def _names_near(module: str, places: _Places) -> Iterator[str]:
    """Names of own modules where this one should be."""
    parent = module.rpartition(".")[0]
    above = places.find(parent) if parent else None
    folders = above.locations if above else places.folders
    for folder in folders:
        path = Path(folder)
        if path.is_dir() and not is_installed(str(path / "x.py")):
            names = [entry.stem for entry in path.iterdir() if entry.suffix == ".py" or entry.is_dir()]
            yield from (f"{parent}.{name}" if above else name for name in sorted(names) if name.isidentifier() and name != INIT)


class _Collected:
    """The files so far."""

    def __init__(self) -> None:
        self._files: dict[str, str] = {}
        self._exported: dict[str, list[str]] = {}
        self._not_own: dict[str, str] = {}
        self._size_bytes = 0

    def follow(self, target: str, where: str, places: _Places) -> Iterator[tuple[str, str]]:
        """Takes up a module with its parents; gives what these import, and where they do (file and line).

        The target need not be a module; ``pkg.*`` are all that the package says it has.
        """
        if target.partition(".")[0] == "__main__":
            raise ConfigError(f"{where} imports __main__, another module in each process; move what it needs into a file")
        for module in itertools.accumulate(target.split("."), "{}.{}".format):
            parent = module.rpartition(".")[0]
            if module.endswith(STAR):
                yield from ((f"{parent}.{name}", where) for name in self._exported.get(parent, []))
                return
            found = places.find(module)
            if found is None or found.kind in (_Kind.INSTALLED, _Kind.STANDARD):
                if found is not None and parent:
                    self._not_own.setdefault(module.partition(".")[0], f"{where} imports {module} ({found.file})")
                return
            if found.kind is _Kind.SHADOW:
                raise ConfigError(
                    f"{where} imports {module}, and {found.file} is called like a module of the standard library: your script "
                    f"finds yours, and others find Python's; rename your file, or the folder that it is in"
                )
            if found.kind is _Kind.COMPILED:
                raise ConfigError(f"{where} imports {module}: {_compiled(module, found)}")
            path = module.replace(".", "/") + (f"/{INIT}.py" if found.locations else ".py")
            if found.kind is _Kind.OWN and path not in self._files:
                yield from self._take(module, path, found, places)

    def _take(self, module: str, path: str, found: _Found, places: _Places) -> Iterator[tuple[str, str]]:
        text = self._files[path] = _read(found.file)
        self._size_bytes += len(text.encode(errors="replace"))
        if len(self._files) > MAX_FILES or self._size_bytes > MAX_BYTES:
            raise self._too_large()
        tree = _parse(text, found.file)
        refuse_listing(tree, found.file, places.is_users)
        self._exported[module] = list(_exported(tree))
        for target, line in _imports(tree, module, is_package=bool(found.locations)):
            yield target, f"{found.file}, line {line},"

    def code(self) -> SourceCode:
        """What was collected."""
        for top in {path.removesuffix(".py").partition("/")[0] for path in self._files} & set(self._not_own):
            raise ConfigError(f"{self._not_own[top]}, and {top} is partly yours; give your part a name of its own")
        try:
            return SourceCode(files=self._files)
        except ValidationError as error:
            raise ConfigError(f"your code cannot be kept: {why(error)}") from None

    def _too_large(self) -> ConfigError:
        largest = sorted(self._files, key=lambda path: len(self._files[path]), reverse=True)[:3]
        shown = ", ".join(f"{path} ({len(self._files[path]):,} characters)" for path in largest)
        return ConfigError(
            f"your code is too large to be kept with results: more than {MAX_FILES} files or {MAX_BYTES:,} bytes are imported; "
            f"largest: {shown}. Install what seldom changes as a package, and read data from files"
        )


def _read(file: str) -> str:
    try:
        size_bytes = Path(file).stat().st_size
        if size_bytes > MAX_BYTES:
            raise ConfigError(f"{file} has {size_bytes:,} bytes, too many to be kept with results (at most {MAX_BYTES:,})")
        with tokenize.open(file) as opened:
            return opened.read()
    except (SyntaxError, UnicodeError, LookupError) as error:
        raise ConfigError(f"{file} cannot be read as text: {error}; save it as UTF-8") from None
    except OSError as error:
        check_descriptors(file, error)
        raise ConfigError(f"{file} cannot be read: {error}") from None


def _parse(text: str, file: str) -> ast.Module:
    try:
        tree = ast.parse(text, file)
        compile(tree, file, "exec", dont_inherit=True)
    except SyntaxError as error:
        raise ConfigError(f"{file}, line {error.lineno}: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"{file} cannot be compiled: {error}") from None
    return tree


def _imports(tree: ast.Module, module: str, is_package: bool) -> Iterator[tuple[str, int]]:
    """Dotted names that a module imports, and the lines; of ``from a import b`` both ``a`` and ``a.b``, as b may be a module."""
    package = module if is_package else module.rpartition(".")[0]
    froms = [alias for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names]
    renamed = {alias.asname: alias.name for alias in froms if alias.asname}
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from ((alias.name, node.lineno) for alias in node.names)
            case ast.ImportFrom():
                base = _absolute(node.module or "", node.level, package)
                yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names if base)
            case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called)) if renamed.get(called, called) in IMPORTERS:
                is_statement = renamed.get(called, called) == "__import__"
                name, parts = _literal(node, package, takes_package=not is_statement), _from_list(node) if is_statement else []
                yield from ((one, node.lineno) for one in [name, *(f"{name}.{part}" for part in parts)] if name)


def _absolute(name: str, level: int, package: str) -> str:
    """The name without leading dots; empty if they lead beyond the top, which fails when it runs."""
    parts = package.split(".") if package else []
    if level > len(parts):
        return ""
    return ".".join([*parts[: len(parts) - level + 1], *filter(None, [name])]) if level else name


def _literal(call: ast.Call, package: str, *, takes_package: bool) -> str:
    """The module that a call imports; empty if only running it tells."""
    names = ("name", "package") if takes_package else ("name",)
    given = dict(zip(names, call.args, strict=False)) | {str(item.arg): item.value for item in call.keywords}
    match given.get("name"), given.get("package"):
        case ast.Constant(value=str(name)), None if not name.startswith("."):
            anchor = ""
        case ast.Constant(value=str(name)), ast.Constant(value=str(anchor)):
            pass
        case ast.Constant(value=str(name)), ast.Name(id="__package__" | "__name__"):
            anchor = package  # the name of what is no package leads nowhere when it runs
        case _:
            return ""
    plain = name.lstrip(".")
    return _absolute(plain, len(name) - len(plain), anchor)


def _from_list(call: ast.Call) -> list[str]:
    """The literal names that ``__import__`` takes from a package, which imports those that are modules."""
    given = [*call.args[3:4], *(item.value for item in call.keywords if item.arg == "fromlist")]
    listed = [part for one in given if isinstance(one, ast.Tuple | ast.List) for part in one.elts]
    return [part.value for part in listed if isinstance(part, ast.Constant) and isinstance(part.value, str)]


def _exported(tree: ast.Module) -> Iterator[str]:
    """The literal names of ``__all__``, which ``from package import *`` imports where they are modules."""
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Name(id="__all__")]) | ast.AugAssign(target=ast.Name(id="__all__")):
                said: ast.AST = node.value
            case ast.AnnAssign(target=ast.Name(id="__all__")):
                said = node
            case ast.Call(func=ast.Attribute(value=ast.Name(id="__all__"))):
                said = node
            case _:
                continue
        yield from (part.value for part in ast.walk(said) if isinstance(part, ast.Constant) and isinstance(part.value, str))
