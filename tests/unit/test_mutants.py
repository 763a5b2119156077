"""The tool that changes the code to see whether a test notices: its changes, its sample, and what it has been told."""

import ast
from pathlib import Path

import pytest
from mutating import MODULE, Book, codes, import_path, modules, mutants_of, sample

ROOT = Path(__file__).parents[2]
SOURCES = modules(ROOT)
BOOK = Book.read(ROOT / "tests" / "mutants.toml")
SOURCE = '''"""Docstring 1."""
LIMIT = 3
WAIT_S = 5.0
MAX_FILES, MAX_LINES = 64, 63
MAX_BYTES = 64

class A:
    poll_s: float = 1.0
    waited_s: float = 0.0

    def f(self, x: int | None = 2, *, silence_s: float = 3.0) -> bool:
        """Docstring 2."""
        if x is None or x < 1:
            raise ValueError(f"{x - 1} is not {1}")
        log.info("told %d", 5)
        self.x = max(x, -1)
        return not [y for y in self.z if y]
'''


def test_every_kind_of_change_is_found_where_it_should_be_and_nowhere_else() -> None:
    found = {(m.function, m.before, m.after) for m in mutants_of("m.py", SOURCE)}
    head = "def f(self, x: int | None = 2, *, silence_s: float = 3.0) -> bool:"
    test, raised = "if x is None or x < 1:", 'raise ValueError(f"{x - 1} is not {1}")'
    assert found == {
        (MODULE, "LIMIT = 3", "LIMIT = 4"),
        (MODULE, "MAX_FILES, MAX_LINES = 64, 63", "MAX_FILES, MAX_LINES = 65, 63"),
        (MODULE, "MAX_FILES, MAX_LINES = 64, 63", "MAX_FILES, MAX_LINES = 64, 64"),
        (MODULE, "waited_s: float = 0.0", "waited_s: float = 1.0"),
        ("A.f", head, head.replace("2", "3")),
        ("A.f", test, "if (x is None and x < 1):"),
        ("A.f", test, "if (x is not None) or x < 1:"),
        ("A.f", test, "if x is None or (x <= 1):"),
        ("A.f", test, "if x is None or x < 2:"),
        ("A.f", raised, "pass"),
        ("A.f", "self.x = max(x, -1)", "pass"),
        ("A.f", "self.x = max(x, -1)", "self.x = min(x, -1)"),
        ("A.f", "self.x = max(x, -1)", "self.x = max(x, 1)"),
        ("A.f", "self.x = max(x, -1)", "self.x = max(x, -2)"),
        ("A.f", "return not [y for y in self.z if y]", "return [y for y in self.z if y]"),
        ("A.f", "return not [y for y in self.z if y]", "return not [y for y in self.z if True]"),
    }


@pytest.mark.parametrize("module", SOURCES)
def test_every_change_is_one_that_python_can_read_and_that_changes_something(module: str) -> None:
    source = SOURCES[module]
    before = ast.dump(ast.parse(source))
    for mutant in mutants_of(module, source)[::20]:
        assert ast.dump(ast.parse(mutant.apply(source))) != before, mutant


def test_offsets_are_right_after_letters_of_several_octets() -> None:
    source = 'A = "äöü"; B = 1\n'
    assert [m.apply(source) for m in mutants_of("m.py", source)] == ['A = "äöü"; B = 2\n']


def test_any_first_part_of_the_sample_is_of_every_package_and_it_depends_on_the_seed_alone() -> None:
    every = [m for module, source in SOURCES.items() for m in mutants_of(module, source)]
    drawn = sample(every, seed=1)
    assert drawn == sample(every, seed=1) != sample(every, seed=2) and sorted(map(str, drawn)) == sorted(map(str, every))
    assert {m.package for m in drawn[: len(drawn) // 4]} == {m.package for m in every}


@pytest.mark.parametrize("named", BOOK.named, ids=[named["name"] for named in BOOK.named])
def test_every_change_with_a_name_is_still_to_be_made_in_one_place(named: dict[str, str]) -> None:
    package = named.get("package")
    sources = modules(ROOT, (package,)) if package else SOURCES
    mutant = BOOK.locate(named, sources)
    ast.parse(mutant.apply(sources[mutant.module]))
    assert named["old"] != named["new"]


def test_every_excuse_is_for_a_change_that_there_is_and_has_a_reason() -> None:
    every = {(m.function, m.before, m.after) for module, source in SOURCES.items() for m in mutants_of(module, source)}
    for told in BOOK.survivors:
        assert (told["function"], told["before"], told["after"]) in every, told
        assert len(told["reason"]) > 20
    names = [Path(module).name for module in SOURCES]
    for name, reason in BOOK.edges.items():
        assert names.count(name) == 1 and len(reason) > 20, name


PROPERTY = """
class A:
    @property
    def f(self):
        return 1

    @f.setter
    def f(self, value=2):
        self.g = lambda: 3
"""


def test_a_functions_code_is_found_by_its_name_and_where_it_begins() -> None:
    before = codes(PROPERTY, "m.py", "A.f")
    body = codes(PROPERTY.replace("lambda: 3", "lambda: 4"), "m.py", "A.f")
    default = codes(PROPERTY.replace("value=2", "value=3"), "m.py", "A.f")
    assert sorted(before) == sorted(body) == [3, 7]
    assert [line for line in before if before[line] != body[line]] == [7], "what is inside a function is a part of it"
    assert before == default, "a default is no part of it"
    assert codes(PROPERTY, "m.py", "f") == {}


def test_a_copy_imports_itself_and_what_is_installed_in_the_tree_it_is_a_copy_of() -> None:
    root, copy, installed = Path("/tree"), Path("/tmp/copy"), "/tree/.venv/lib/python3.11/site-packages"
    found = import_path(root, copy, ["", "/tree/tests", "/usr/lib/python3.11", installed, "/tree"])
    assert found == ["/tmp/copy", "/tmp/copy/tests", "/usr/lib/python3.11", installed]
