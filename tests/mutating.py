"""Small changes of source text that a test should notice: which there are, and how they read. Pure; nothing is run here.

A change is found by the function that it is in and the text before and after, never by a line number, so what is written about
one in ``mutants.toml`` stays true while other lines come and go.
"""

import ast
import random
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

PACKAGES = ("training", "knowledge", "pipeline", "search", "agents", "coordinator", "artifacts", "task")
MODULE = "<module>"

COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
}
GENEROUS = 64
NAMED = {"min": "max", "max": "min", "any": "all", "all": "any"}
DROPPED_METHODS = {"eval", "detach", "exp", "log", "sqrt", "abs"}
# Keywords that say what would be so without them, change nothing but time and memory, or matter once the process ends or where
# there is a GPU or another locale.
UNSEEN_KEYWORDS = {"align_corners", "deepcopy", "daemon", "device", "encoding"}
SAYS_THE_DEFAULT = {("mode", "nearest")}
UNTOUCHED_CALLS = {"log", "warnings", "cast", "Field", "TypeVar"}  # what is said to a person, and types


@dataclass(frozen=True)
class Mutant:
    """One change of one file: the text between two offsets becomes another.

    Args:
        module: path below the root, such as ``agentkd/search/study.py``.
        function: qualified name of the outermost function that it is in, or ``<module>``.
        before: the line or lines as they are, without indentation, ``after`` as they would be.
    """

    module: str
    function: str
    before: str
    after: str
    start: int
    end: int
    text: str

    @property
    def package(self) -> str:
        return self.module.split("/")[1]

    def __str__(self) -> str:
        return f"{self.module} {self.function}\n    - {self.before}\n    + {self.after}"

    def apply(self, source: str) -> str:
        return source[: self.start] + self.text + source[self.end :]


def mutants_of(module: str, source: str) -> list[Mutant]:
    """Every change of a file that the operators know, in the order of the text."""
    return list(_Finder(module, source).found())


def import_path(root: Path, copy: Path, places: Sequence[str]) -> list[str]:
    """Where a copy of the tree imports from: itself instead of the tree, and what is installed, which may lie below the tree."""
    ours = {"", str(root), str(root / "tests")}
    return [str(copy), str(copy / "tests"), *(place for place in places if place not in ours)]


def modules(root: Path, packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Path below the root to source, of every module of those packages that exist."""
    paths = [path for package in packages for path in sorted((root / "agentkd" / package).rglob("*.py"))]
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in paths}


@dataclass(frozen=True)
class Book:
    """``mutants.toml``: changes with a name, survivors with a reason, and modules that unit tests do not run at all."""

    named: Sequence[dict[str, str]]
    survivors: Sequence[dict[str, str]]
    edges: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> "Book":
        told: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return cls(told.get("named", []), told.get("survivor", []), told.get("edges", {}))

    def reason(self, mutant: Mutant) -> str:
        """Why a change may survive; empty if nothing is said about it."""
        key = (mutant.function, mutant.before, mutant.after)
        return next((s["reason"] for s in self.survivors if (s["function"], s["before"], s["after"]) == key), "")

    def locate(self, named: dict[str, str], sources: dict[str, str]) -> Mutant:
        """A named change in the one function of that name that has its text, wherever that function is now.

        Raises:
            ValueError: it is nowhere, or in several places.
        """
        found = []
        for module, source in sources.items():
            for name, start, end in functions(source):
                if name == named["function"] and source[start:end].count(named["old"]) == 1:
                    at = source.index(named["old"], start)
                    found.append((module, at))
        if len(found) != 1:
            raise ValueError(f"{named['name']!r}: {named['old']!r} stands {len(found)} times in a function {named['function']}")
        (module, at), end = found[0], found[0][1] + len(named["old"])
        return _with_lines(module, named["function"], sources[module], at, end, named["new"])


def functions(source: str) -> Iterator[tuple[str, int, int]]:
    """Qualified name, start and end of each function that is not inside another one."""
    offsets = _line_offsets(source)

    def inside(node: ast.AST, prefix: str) -> Iterator[tuple[str, int, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{prefix}{child.name}", *_span(child, source, offsets)
            elif isinstance(child, ast.ClassDef):
                yield from inside(child, f"{prefix}{child.name}.")

    yield from inside(ast.parse(source), "")


def codes(source: str, path: str, function: str) -> dict[int, CodeType]:
    """The code of each function of a qualified name, by the line that it begins in (a property has up to three)."""

    def inside(code: CodeType) -> Iterator[CodeType]:
        yield code
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                yield from inside(constant)

    module = compile(source, path, "exec", dont_inherit=True)
    return {code.co_firstlineno: code for code in inside(module) if code.co_qualname == function}


def sample(mutants: Sequence[Mutant], seed: int) -> list[Mutant]:
    """All of them in an order drawn by lot in which the packages take turns, so that any first part is a fair sample of each."""
    drawn = random.Random(seed)
    decks: dict[str, list[Mutant]] = {}
    for mutant in mutants:
        decks.setdefault(mutant.package, []).append(mutant)
    for deck in decks.values():
        drawn.shuffle(deck)
    largest = max((len(deck) for deck in decks.values()), default=1)
    placed = [(index * largest / len(deck), name, m) for name, deck in decks.items() for index, m in enumerate(deck)]
    return [mutant for _, _, mutant in sorted(placed, key=lambda one: one[:2])]


class _Finder:
    def __init__(self, module: str, source: str) -> None:
        self.module, self.source = module, source
        self.offsets = _line_offsets(source)

    def found(self) -> Iterator[Mutant]:
        yield from self._in(ast.parse(self.source), "", in_function=False)

    def _in(self, node: ast.AST, name: str, *, in_function: bool) -> Iterator[Mutant]:
        is_alias = not in_function and isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr)  # of types
        for changed, text in () if is_alias else self._changes(node):
            start, end = _span(changed, self.source, self.offsets)
            yield _with_lines(self.module, name if in_function else MODULE, self.source, start, end, text)
        for child in self._children(node):
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            opens = (is_function or isinstance(child, ast.ClassDef)) and not in_function
            inner = f"{name}.{child.name}".lstrip(".") if opens else name  # type: ignore[attr-defined]
            yield from self._in(child, inner, in_function=in_function or is_function)

    def _children(self, node: ast.AST) -> Iterator[ast.AST]:
        """What is looked into: no annotations, no decorators, nothing that is said when something fails, no types' own lines."""
        if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr | ast.ImportFrom | ast.Import):
            return
        if isinstance(node, ast.Call) and _root(node.func) in UNTOUCHED_CALLS:
            return
        if isinstance(node, ast.keyword) and node.arg in UNSEEN_KEYWORDS:
            return
        if isinstance(node, ast.FunctionDef):
            yield from (default for name, default in _defaults(node.args) if not _is_patience(name, default))
            yield from node.body
            return
        if isinstance(node, ast.AnnAssign):
            yield from [node.value] if node.value and not _is_patience(_root(node.target), node.value) else []
            return
        if isinstance(node, ast.Assign) and (_is_patience(_root(node.targets[0]), node.value) or _is_generous(node)):
            return
        if isinstance(node, ast.ClassDef):
            yield from node.body
            return
        if isinstance(node, ast.Slice) and isinstance(node.lower, ast.UnaryOp):
            return  # the last two of four dimensions are the same, counted from either end
        yield from ast.iter_child_nodes(node)

    def _changes(self, node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
        """The node that is replaced, and what by."""
        if isinstance(node, ast.Compare):
            for index, op in enumerate(node.ops):
                if type(op) in COMPARED:
                    ops = [*node.ops[:index], COMPARED[type(op)](), *node.ops[index + 1 :]]
                    yield node, _text(ast.Compare(node.left, ops, node.comparators))
        elif isinstance(node, ast.BinOp) and type(node.op) in COMPUTED:
            yield node, _text(ast.BinOp(node.left, COMPUTED[type(node.op)](), node.right))
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr | ast.BitAnd):
            yield node, _text(node.left)
        elif isinstance(node, ast.BoolOp):
            other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield node, _text(ast.BoolOp(other, node.values))
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub | ast.Invert):
            yield node, _text(node.operand)
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            yield node, str(not node.value)
        elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            yield node, repr(node.value + 1 if isinstance(node.value, int) or not node.value else node.value * 2)
        elif isinstance(node, ast.If | ast.While | ast.IfExp) and isinstance(node.test, ast.Name | ast.Attribute | ast.Call):
            yield node.test, _text(ast.UnaryOp(ast.Not(), node.test))
        elif isinstance(node, ast.comprehension) and node.ifs:
            yield from ((test, "True") for test in node.ifs)
        elif isinstance(node, ast.Call):
            yield from self._changed_call(node)
        elif isinstance(node, ast.AugAssign | ast.Delete | ast.Raise) or _is_left_out(node):
            yield node, "pass"
        elif isinstance(node, ast.Continue | ast.Break):
            yield node, "break" if isinstance(node, ast.Continue) else "continue"

    def _changed_call(self, node: ast.Call) -> Iterator[tuple[ast.AST, str]]:
        if isinstance(node.func, ast.Name) and node.func.id in NAMED:
            yield node.func, NAMED[node.func.id]
        if isinstance(node.func, ast.Attribute) and node.func.attr in DROPPED_METHODS and not node.args:
            yield node, _text(node.func.value)
        if _root(node.func) not in UNTOUCHED_CALLS and not isinstance(node.func, ast.Name):
            for index, keyword in enumerate(node.keywords):
                says = (keyword.arg, getattr(keyword.value, "value", None))
                if keyword.arg and keyword.arg not in UNSEEN_KEYWORDS and says not in SAYS_THE_DEFAULT:
                    rest = [*node.keywords[:index], *node.keywords[index + 1 :]]
                    yield node, ast.unparse(ast.Call(node.func, node.args, rest))


def _defaults(arguments: ast.arguments) -> Iterator[tuple[str, ast.expr]]:
    """Names of the parameters that have a default, and what it is."""
    names = [one.arg for one in (*arguments.posonlyargs, *arguments.args)]
    yield from zip(names[len(names) - len(arguments.defaults) :], arguments.defaults, strict=True)
    named = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    yield from ((one.arg, default) for one, default in named if default is not None)


def _is_patience(name: str, value: ast.expr) -> bool:
    """How long is waited, which may as well be twice as long; no count of seconds that begins at zero."""
    return name.endswith(("_s", "_S")) and isinstance(value, ast.Constant) and bool(value.value)


def _is_generous(node: ast.Assign) -> bool:
    """A limit so large that one more is as good."""
    value = node.value
    return _root(node.targets[0]).startswith("MAX_") and isinstance(value, ast.Constant) and value.value >= GENEROUS


def _is_left_out(node: ast.AST) -> bool:
    """Statements that are left out: calls for what they do, and assignments to what outlives the function."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return _root(node.value.func) not in UNTOUCHED_CALLS
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute | ast.Subscript)


def _root(node: ast.AST) -> str:
    """The first name of ``a.b.c``."""
    while isinstance(node, ast.Attribute | ast.Call):
        node = node.value if isinstance(node, ast.Attribute) else node.func
    return node.id if isinstance(node, ast.Name) else ""


def _text(node: ast.expr) -> str:
    """In parentheses where it could mean something else beside its neighbours."""
    text = ast.unparse(node)
    return (
        text
        if isinstance(node, ast.Name | ast.Attribute | ast.Call | ast.Constant | ast.Subscript | ast.ListComp | ast.Dict)
        else f"({text})"
    )


def _line_offsets(source: str) -> list[int]:
    offsets = [0]
    for line in source.splitlines(keepends=True):
        offsets.append(offsets[-1] + len(line))
    return offsets


def _span(node: ast.AST, source: str, offsets: list[int]) -> tuple[int, int]:
    """Offsets in characters; the tree counts UTF-8 octets within a line."""

    def at(line: int, octets: int) -> int:
        start = offsets[line - 1]
        text = source[start : offsets[line]]
        return start + (octets if text.isascii() else len(text.encode()[:octets].decode()))

    n: Any = node
    return at(n.lineno, n.col_offset), at(n.end_lineno, n.end_col_offset)


def _with_lines(module: str, function: str, source: str, start: int, end: int, text: str) -> Mutant:
    """With the lines that it touches, their white space made one."""
    first, last = source.rfind("\n", 0, start) + 1, source.find("\n", end)
    before = source[first : last if last >= 0 else len(source)]
    after = source[first:start] + text + source[end : last if last >= 0 else len(source)]
    return Mutant(module, function, " ".join(before.split()), " ".join(after.split()), start, end, text)
