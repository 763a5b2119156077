"""What own code must not ask for, as it would be answered otherwise where it runs: there are no files beside it.

Said when it is collected, by file and line, and not found out from a result: a package that imports whatever lies in its folder
would silently have no plug-ins, and one that looks whether a file lies there would silently take its other way. Only what is
written plainly is seen here; ``loading`` and ``barring`` refuse the rest when it runs, as far as Python tells of it.
"""

import ast
from collections.abc import Callable, Iterator

from agentkd.code.scopes import Scopes
from agentkd.errors import ConfigError

LISTS_MODULES = {"pkgutil.iter_modules", "pkgutil.walk_packages"}
LISTS_FILES = {"glob.glob", "glob.iglob", "os.listdir", "os.scandir", "os.walk", "os.fwalk"}
LISTS_ITS_FILES = {"glob", "rglob", "iterdir", "walk"}
"""Methods of a path."""
READS_FILES = {
    *("open", "io.open", "codecs.open", "os.open", "os.stat", "os.lstat", "os.access", "json.load", "numpy.load", "torch.load"),
    *(f"os.path.{name}" for name in ("exists", "lexists", "isfile", "isdir", "islink", "getmtime", "getsize", "getctime")),
}
READS_ITS_FILES = {"exists", "is_file", "is_dir", "is_symlink", "open", "read_text", "read_bytes", "stat", "lstat"}
"""Methods of a path."""
TAKES_NAMES = {"pkgutil.resolve_name", "runpy.run_module", "pydoc.locate"}
LOOKS_FOR_MODULES = {"importlib.util.find_spec", "importlib.find_loader", "pkgutil.find_loader", "pkgutil.get_loader"}
FINDERS = ("PathFinder.find_spec", "PathFinder.find_module", "machinery.FileFinder", "imp.find_module")
READS_RESOURCES = ("importlib.resources.", "importlib_resources.", "pkgutil.get_data")
BESIDE = ("__file__", "__path__", "__spec__")
OF_THE_PATH = "sys.path"


def refuse_listing(tree: ast.Module, file: str, is_own: Callable[[str], bool]) -> None:
    """Refuses a module that asks what lies beside it, or reaches an own module by a name that only a library reads.

    Args:
        tree: the module.
        file: for the error.
        is_own: whether a dotted name is a module of the user's own.

    Raises:
        ConfigError: it does.
    """
    known = dict(_imported(tree))
    scopes = Scopes(tree, BESIDE, lambda node: _dotted(node, known) == OF_THE_PATH)
    for node in _what_runs(tree):
        if isinstance(node, ast.Call):
            said = _refusal(node, known, scopes, is_own)
            if said:
                raise ConfigError(f"{file}, line {node.lineno}, {said}")


def _refusal(call: ast.Call, known: dict[str, str], scopes: Scopes, is_own: Callable[[str], bool]) -> str:
    """What a call asks for that it may not; empty if it may."""
    called, asked = _dotted(call.func, known), _first(call)
    text = asked.value if isinstance(asked, ast.Constant) and isinstance(asked.value, str) else None
    if called in LISTS_MODULES and not _is_of_others(call, known, is_own):
        return (
            f"lists modules by {called}, and where your code runs there is no folder to list: import each of them "
            f"by a statement, such as from . import a, b"
        )
    if _asks(call, called, LISTS_FILES, LISTS_ITS_FILES, scopes):
        return (
            "lists the files beside it, and where your code runs there are none: import modules by statements, "
            "and give the folder of other files as a setting"
        )
    if _asks(call, called, READS_FILES, READS_ITS_FILES, scopes):
        return "looks at a file beside it, and where your code runs there is none: give the file's full path as a setting"
    if called in TAKES_NAMES and text is not None and is_own(text.partition(":")[0].partition(".")[0]):
        return f"reaches {text} by {called}, which finds none of your modules: import it by a statement"
    if called in LOOKS_FOR_MODULES and (said := _why_not_looked_for(call, asked, scopes, is_own)):
        return f"looks for {said} by {called}, which is answered otherwise where your code runs: import it in a try statement"
    if called.endswith(FINDERS) and not (text is not None and not is_own(text)):
        return f"looks for modules by {called}, which finds none of yours where your code runs: import them by statements"
    if called.startswith(READS_RESOURCES) and not _is_of_an_other(asked, known, is_own):
        return f"reads a file of a package by {called}, and where your code runs there is none: give the file's path as a setting"
    return ""


def _asks(call: ast.Call, called: str, functions: set[str], methods: set[str], scopes: Scopes) -> bool:
    """Whether a call asks a function about a place beside the module, or a path there about itself."""
    if called in functions:
        return any(scopes.mentions(given) for given in (*call.args, *(item.value for item in call.keywords)))
    return isinstance(call.func, ast.Attribute) and call.func.attr in methods and scopes.mentions(call.func.value)


def _why_not_looked_for(call: ast.Call, asked: ast.expr | None, scopes: Scopes, is_own: Callable[[str], bool]) -> str:
    """What is looked for, if it is not there where the code runs, or only running it tells what it is."""
    names = scopes.texts(asked) if asked is not None else None
    if names is None:
        return "a module whose name only running it tells"
    return next((name for name in names if not name.startswith(".") and "." in name and is_own(name.partition(".")[0])), "")


def _first(call: ast.Call) -> ast.expr | None:
    return next(iter([*call.args, *(item.value for item in call.keywords if item.arg in ("name", "package", "fullname"))]), None)


def _what_runs(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those below ``if __name__ == "__main__"``, which no module of a code ever is."""
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.If(test=ast.Compare(left=ast.Name(id="__name__"), comparators=[ast.Constant(value="__main__")])):
                continue
        yield child
        yield from _what_runs(child)


def _imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Names that imports bind, and what of."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (
                (alias.asname or alias.name.partition(".")[0], alias.name if alias.asname else alias.name.partition(".")[0])
                for alias in node.names
            )
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from ((alias.asname or alias.name, f"{base}.{alias.name}") for alias in node.names)


def _dotted(node: ast.AST, known: dict[str, str]) -> str:
    """What an expression names, as far as it is written out; of anything else its last attribute."""
    if isinstance(node, ast.Name):
        return known.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, known)}.{node.attr}"
    return ""


def _is_of_others(call: ast.Call, known: dict[str, str], is_own: Callable[[str], bool]) -> bool:
    """Whether what is listed is the ``__path__`` of a module that is imported and not own."""
    given = [*call.args[:1], *(item.value for item in call.keywords if item.arg == "path")]
    match given:
        case [ast.Attribute(value=package, attr="__path__")]:
            return _is_imported_of_others(package, known, is_own)
    return False


def _is_imported_of_others(package: ast.expr, known: dict[str, str], is_own: Callable[[str], bool]) -> bool:
    name, root = _dotted(package, known), package
    while isinstance(root, ast.Attribute):
        root = root.value
    return isinstance(root, ast.Name) and root.id in known and not name.startswith(".") and not is_own(name)


def _is_of_an_other(asked: ast.expr | None, known: dict[str, str], is_own: Callable[[str], bool]) -> bool:
    """Whether a package is named, or given, that is imported or installed and not own."""
    if isinstance(asked, ast.Constant) and isinstance(asked.value, str):
        return not is_own(asked.value)
    return asked is not None and _is_imported_of_others(asked, known, is_own)
