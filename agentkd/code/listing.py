"""What own code must not ask for, as it would be answered otherwise where it runs: there are no files beside it.

Said when it is collected, by file and line, and not found out from a result: a package that imports whatever lies in its folder
would silently have no plug-ins. Only what is written plainly is seen here; ``loading`` refuses the rest when it runs.
"""

import ast
from collections.abc import Callable, Iterator

from agentkd.errors import ConfigError

LISTS_MODULES = {"pkgutil.iter_modules", "pkgutil.walk_packages"}
LISTS_FILES = {"glob", "rglob", "iglob", "iterdir", "listdir", "scandir", "walk", "fwalk"}
TAKES_NAMES = {"pkgutil.resolve_name", "runpy.run_module"}
BESIDE = {"__file__", "__path__", "__spec__"}


def refuse_listing(tree: ast.Module, file: str, is_own: Callable[[str], bool]) -> None:
    """Refuses a module that lists what lies beside it, or reaches an own module by a name that only a library reads.

    Args:
        tree: the module.
        file: for the error.
        is_own: whether a dotted name is a module of the user's own.

    Raises:
        ConfigError: it does.
    """
    known = dict(_imported(tree))
    beside = _beside(tree)
    for node in _what_runs(tree):
        if not isinstance(node, ast.Call):
            continue
        called = _dotted(node.func, known)
        where = f"{file}, line {node.lineno},"
        if called in LISTS_MODULES and not _is_of_others(node, known, is_own):
            raise ConfigError(
                f"{where} lists modules by {called}, and where your code runs there is no folder to list: import each of them "
                f"by a statement, such as from . import a, b"
            )
        if called.rpartition(".")[2] in LISTS_FILES and _mentions(node, beside):
            raise ConfigError(
                f"{where} lists the files beside it, and where your code runs there are none: import modules by statements, "
                f"and give the folder of other files as a setting"
            )
        match node.args:
            case [ast.Constant(value=str(name)), *_] if called in TAKES_NAMES and is_own(name.partition(":")[0]):
                raise ConfigError(
                    f"{where} reaches {name} by {called}, which finds none of your modules: import it by a statement"
                )


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
            name = _dotted(package, known)
            root = package
            while isinstance(root, ast.Attribute):
                root = root.value
            return isinstance(root, ast.Name) and root.id in known and not name.startswith(".") and not is_own(name)
    return False


def _beside(tree: ast.Module) -> set[str]:
    """Names that stand for the place of the module's file, or for something made of it."""
    found = set(BESIDE)
    assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) and node.value]
    before = 0
    while len(found) > before:
        before = len(found)
        for node in assigned:
            if node.value is not None and _mentions(node.value, found):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return found


def _mentions(node: ast.AST, names: set[str]) -> bool:
    return any(isinstance(part, ast.Name) and part.id in names for part in ast.walk(node))
