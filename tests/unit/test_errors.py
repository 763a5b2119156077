"""The error tree is as drawn, and every leaf has a code and an exit status."""

import re

from agentkd import errors


def subclasses(kind: type) -> list[type]:
    return [kind, *(inner for child in kind.__subclasses__() for inner in subclasses(child))]


def test_the_tree_is_as_drawn() -> None:
    drawn: dict[str, str] = {}
    path: list[str] = []
    for line in errors.__doc__.splitlines():
        found = re.fullmatch(r"    ((?:[|` ]  ?)*)(?:[|`]- )?(\w+Error)", line)
        if found:
            depth = (len(line) - len(line.lstrip(" |`-")) - 4) // 3
            path[depth:] = [found[2]]
            drawn[found[2]] = path[depth - 1] if depth else "Exception"
    real = {kind.__name__: kind.__mro__[1].__name__ for kind in subclasses(errors.AgentKDError)}
    assert drawn == real


def test_every_family_of_errors_has_its_own_exit_code() -> None:
    families = [kind for kind in errors.AgentKDError.__subclasses__() if kind.__module__ == "agentkd.errors"]
    assert len({kind.exit_code for kind in families}) == len(families)


def test_a_config_error_lists_all_problems() -> None:
    error = errors.ConfigError([errors.Problem("a.b", "is wrong"), errors.Problem("c", "too")], source="x.yaml")
    assert str(error) == "x.yaml: 2 problems\n  - a.b: is wrong\n  - c: too"
