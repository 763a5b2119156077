"""Which names in a module stand for something, each in its own function: a variable says nothing of one that is called alike."""

import ast
from collections.abc import Callable, Iterator
from typing import TypeGuard

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class Scopes:
    """The names of a module that are made of some that it begins with, such as ``__file__``.

    Args:
        tree: the module.
        sources: names that every module has.
        is_source: whether an expression is such a beginning too.
    """

    def __init__(self, tree: ast.Module, sources: tuple[str, ...], is_source: Callable[[ast.AST], bool]) -> None:
        self._tree, self._sources, self._is_source = tree, sources, is_source
        self._scope_of: dict[ast.AST, ast.AST] = {}
        self._outer: dict[ast.AST, ast.AST | None] = {tree: None}
        self._bound: dict[ast.AST, set[str]] = {tree: set()}
        self._given: list[tuple[ast.AST, str, ast.expr]] = []
        self._place(tree, tree)
        self._found = self._spread()

    def mentions(self, node: ast.AST) -> bool:
        """Whether an expression has such a name in it."""
        return self._holds(node, self._found)

    def texts(self, node: ast.expr) -> list[str] | None:
        """The literal texts that an expression may be: one, or those that its name goes through; ``None`` if that is not told."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return [node.value]
        if isinstance(node, ast.Name):
            scope = self._home(node.id, self._scope_of[node])
            values = [value for where, name, value in self._given if (where, name) == (scope, node.id)]
            found = [part for value in values for part in (value.elts if isinstance(value, ast.Tuple | ast.List) else [value])]
            texts = [part.value for part in found if isinstance(part, ast.Constant) and isinstance(part.value, str)]
            return texts if texts and len(texts) == len(found) and not self._is_parameter(scope, node.id) else None
        return None

    def _place(self, node: ast.AST, scope: ast.AST) -> None:
        """Notes in which function each node stands, and what it binds there."""
        self._scope_of[node] = scope
        inner = scope
        if isinstance(node, (*FUNCTIONS, ast.ClassDef, *COMPREHENSIONS)):
            inner = node
            self._outer[node] = scope
            self._bound[node] = set()
        if isinstance(node, FUNCTIONS):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
            self._bound[node] |= {one.arg for one in given if one is not None}
        self._bound[scope] |= set(_named(node))
        if isinstance(node, ast.Return) and node.value is not None and isinstance(scope, FUNCTIONS[:2]):
            self._given.append((self._outer[scope] or self._tree, scope.name, node.value))
        for targets, value in _bindings(node):
            for name in self._attributes(targets):
                self._given += [(of_class, name, value) for of_class in self._class_of(scope) if value is not None]
            home = self._named_outside(scope, targets) if isinstance(node, ast.NamedExpr) else scope
            for name in _names(targets):
                self._bound[home].add(name)
                if value is not None:
                    self._given.append((home, name, value))
        for child in ast.iter_child_nodes(node):
            self._place(child, inner)

    def _class_of(self, scope: ast.AST | None) -> Iterator[ast.AST]:
        """The class in whose method this is, if it is in one."""
        while scope is not None and not isinstance(scope, ast.ClassDef):
            scope = self._outer[scope]
        yield from [scope] if scope is not None else []

    @staticmethod
    def _attributes(targets: list[ast.expr]) -> Iterator[str]:
        for target in targets:
            yield from (part.attr for part in ast.walk(target) if _is_of_itself(part))

    def _named_outside(self, scope: ast.AST, targets: list[ast.expr]) -> ast.AST:
        """Where ``:=`` binds: not in a comprehension, but around it."""
        while isinstance(scope, COMPREHENSIONS):
            scope = self._outer[scope] or self._tree
        return scope

    def _home(self, name: str, scope: ast.AST | None) -> ast.AST:
        """The function in which a name is bound that is used in another or there; the module if in none."""
        is_first = True
        while scope is not None:
            is_seen = is_first or not isinstance(scope, ast.ClassDef)
            if is_seen and name in self._bound[scope] and not self._is_global(name, scope):
                return scope
            is_first, scope = False, self._outer[scope]
        return self._tree

    def _is_global(self, name: str, scope: ast.AST) -> bool:
        body = getattr(scope, "body", [])
        kinds = (ast.Global, ast.Nonlocal)
        return isinstance(body, list) and any(isinstance(one, kinds) and name in one.names for one in body)

    def _is_parameter(self, scope: ast.AST, name: str) -> bool:
        if not isinstance(scope, FUNCTIONS):
            return False
        return any(name == one.arg for one in (*scope.args.posonlyargs, *scope.args.args, *scope.args.kwonlyargs))

    def _spread(self) -> set[tuple[ast.AST, str]]:
        found: set[tuple[ast.AST, str]] = {(self._tree, name) for name in self._sources}
        before = 0
        while len(found) > before:
            before = len(found)
            for scope, name, value in self._given:
                if self._holds(value, found):
                    found.add((scope if isinstance(scope, ast.ClassDef) else self._home(name, scope), name))
        return found

    def _holds(self, node: ast.AST, found: set[tuple[ast.AST, str]]) -> bool:
        for part in ast.walk(node):
            if isinstance(part, ast.Name) and (self._home(part.id, self._scope_of[part]), part.id) in found:
                return True
            if isinstance(part, ast.Attribute | ast.Name) and self._is_source(part):
                return True
            if _is_of_itself(part) and any((one, part.attr) in found for one in self._class_of(self._scope_of[part])):
                return True
        return False


def _bindings(node: ast.AST) -> Iterator[tuple[list[ast.expr], ast.expr | None]]:
    """What a statement binds to what: targets, and the value, of which a target of a loop is a part."""
    match node:
        case ast.Assign():
            yield node.targets, node.value
        case ast.AnnAssign() | ast.NamedExpr() | ast.AugAssign():
            yield [node.target], node.value
        case ast.For() | ast.AsyncFor() | ast.comprehension():
            yield [node.target], node.iter
        case ast.withitem(optional_vars=ast.expr()):
            assert node.optional_vars is not None
            yield [node.optional_vars], node.context_expr


def _named(node: ast.AST) -> Iterator[str]:
    """What a statement binds without giving it a value that is looked at here."""
    match node:
        case ast.Import() | ast.ImportFrom():
            yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield node.name
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            yield name


def _is_of_itself(node: ast.AST) -> TypeGuard[ast.Attribute]:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def _names(targets: list[ast.expr]) -> Iterator[str]:
    for target in targets:
        yield from (part.id for part in ast.walk(target) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store))
