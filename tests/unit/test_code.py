"""A user's own code: what is collected of it, what of an artifact is refused, and how several versions of it run side by side."""

import importlib
import inspect
import json
import linecache
import os
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentkd import canonical
from agentkd.code import loading
from agentkd.code.collecting import collect, is_own
from agentkd.code.loading import is_provided, load, provide
from agentkd.code.source import MAX_BYTES, MAX_FILES, SourceCode, split_name
from agentkd.errors import ArtifactError, ConfigError
from agentkd.names import Digest

Tree = dict[str, str]


@pytest.fixture(autouse=True)
def what_ran_is_forgotten() -> Iterator[None]:
    """No test sees modules or code of another, and what other files have provided stays theirs."""
    before, others = set(sys.modules), dict(loading._PROVIDED)
    loading._PROVIDED.clear()
    yield
    assert getattr(loading._WATCHES, "current", None) is None
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file is None or name.startswith(loading.PREFIX) or is_own(name, file):
            del sys.modules[name]
    loading._PROVIDED.clear()
    loading._PROVIDED.update(others)


def write(folder: Path, tree: Tree) -> str:
    for path, text in tree.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode())
    return str(folder)


def collected(folder: Path, tree: Tree, name: str = "my_nets:Net") -> SourceCode:
    return collect(name, [write(folder, tree)])


def run(files: Tree, name: str = "my_nets:value") -> Any:
    """What the name is in this code; called, if it is a function."""
    found = load(name, provide(SourceCode(files=files)))
    return found() if inspect.isfunction(found) else found


# Code as data.


def test_code_is_its_artifacts_bytes_and_goes_by_their_digest() -> None:
    code = SourceCode(files={"pkg/__init__.py": "", "my_nets.py": "x = 'ä'\n"})
    assert SourceCode.decode(code.encode()) == code
    assert code.digest == canonical.digest_bytes(code.encode())
    assert code.encode() == (
        '{"files":{"my_nets.py":"x = \'ä\'\\n","pkg/__init__.py":""},"format":"agentkd-code","version":1}'.encode()
    )
    assert code.modules == {"my_nets": "my_nets.py", "pkg": "pkg/__init__.py"}


def test_the_order_of_the_files_and_their_line_ends_are_no_part_of_the_digest() -> None:
    one = SourceCode(files={"a.py": "x = 1\ny = '''\n'''\n", "b.py": ""})
    other = SourceCode(files={"b.py": "", "a.py": "x = 1\r\ny = '''\r'''\r\n"})
    assert one.digest == other.digest and one == other


BAD_PATHS = [
    "/my_nets.py",
    "../my_nets.py",
    "pkg/../my_nets.py",
    "pkg//x.py",
    "./x.py",
    "pkg\\x.py",
    "C:/x.py",
    "my_nets",
    "my_nets.txt",
    "my_nets.py\n",
    ".py",
    "my nets.py",
    "my-nets.py",
    "1.py",
    "x.y.py",
    "a/" * 126 + "bb.py",
    "ﬁle.py",
    "subprocess.py",
    "os/path.py",
    "builtins.py",
    "agentkd.py",
    "agentkd/x.py",
    "__main__.py",
    "__init__.py",
]


@pytest.mark.parametrize("path", BAD_PATHS)
def test_a_path_that_is_no_modules_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match=r"no path of a module|not yours"):
        SourceCode(files={path: ""})
    with pytest.raises(ArtifactError, match=r"no path of a module|not yours"):
        SourceCode.decode(artifact({path: ""}))


@pytest.mark.parametrize("path", ["a/" * 125 + "bb.py", "pkg/subprocess.py", "pkg/agentkd.py", "größe.py", "agentkd2.py"])
def test_a_path_that_only_looks_unusual_is_not(path: str) -> None:
    assert SourceCode.decode(artifact({path: ""})).files == {path: ""}


@pytest.mark.parametrize(
    "paths",
    [
        ("my_nets.py", "My_nets.py"),
        ("pkg/x.py", "Pkg/y.py"),
        ("pkg/x.py", "PKG.py"),
        ("a/b/x.py", "a/B/y.py"),
        ("pkg.py", "pkg/__init__.py"),
        ("pkg.py", "pkg/x.py"),
    ],
)
def test_two_files_of_which_one_could_be_taken_for_the_other_are_refused(paths: tuple[str, str]) -> None:
    for order in (paths, paths[::-1]):
        with pytest.raises(ValidationError, match=r"differ only in case|a module and a package"):
            SourceCode(files=dict.fromkeys(order, ""))


def artifact(files: Any, **other: Any) -> bytes:
    return canonical.encode({"format": "agentkd-code", "version": 1, "files": files} | other)


GOOD = artifact({"a.py": "x"})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x = 1",
        b"null",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"files":' * 50_000,
        b"\xff\xfe",
        GOOD + b"\n",
        GOOD.replace(b":1}", b": 1}"),
        GOOD.replace(b":1}", b":1.0}"),
        GOOD.replace(b":1}", b":true}"),
        GOOD.replace(b":1}", b":" + b"9" * 5000 + b"}"),
        GOOD.replace(b":1}", b":NaN}"),
        GOOD.replace(b'"x"', b'"\\u0078"'),
        GOOD.replace(b'"x"', b'"\\ud800"'),
        GOOD.replace(b'"x"', b'"x\\r\\n"'),
        GOOD.replace(b'"x"', b'"x","a.py":"x"'),
        GOOD.decode().encode("utf-16"),
        artifact({}),
        artifact([]),
        artifact({"a.py": 1}),
        artifact({"a.py": None}),
        artifact({"a.py": ["x"]}),
        artifact({"a.py": "x"}, format="agentkd-weights"),
        artifact({"a.py": "x"}, format=["agentkd-code"]),
        artifact({"a.py": "x"}, more=1),
        artifact({f"m{i}.py": "" for i in range(MAX_FILES + 1)}),
        artifact({f"m{i}.py": 0 for i in range(200_000)}),
        artifact({"a.py": "x" * MAX_BYTES}),
    ],
    ids=lambda data: repr(data[:60]),
)
def test_what_is_not_exactly_an_artifact_of_code_is_refused(data: bytes) -> None:
    with pytest.raises(ArtifactError, match="should be code") as error:
        SourceCode.decode(data)
    assert len(str(error.value)) < 600


def test_an_artifact_of_another_version_is_refused_as_such() -> None:
    with pytest.raises(ArtifactError, match="is of version 2; this agentkd reads version 1"):
        SourceCode.decode(GOOD.replace(b":1}", b":2}"))


@given(st.binary(max_size=300) | st.builds(artifact, st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=3)))
def test_any_bytes_are_code_that_has_these_bytes_or_are_refused(data: bytes) -> None:
    try:
        code = SourceCode.decode(data)
    except ArtifactError:
        return
    assert code.encode() == data


def test_the_limits_are_reached_but_not_passed() -> None:
    empty = len(artifact({"a.py": ""}))
    assert len(SourceCode(files={"a.py": "x" * (MAX_BYTES - empty)}).encode()) == MAX_BYTES
    with pytest.raises(ValidationError, match=f"{MAX_BYTES + 1:,} bytes"):
        SourceCode(files={"a.py": "x" * (MAX_BYTES - empty + 1)})
    assert len(SourceCode(files={f"m{i}.py": "" for i in range(MAX_FILES)}).files) == MAX_FILES
    with pytest.raises(ValidationError, match=f"{MAX_FILES + 1} files"):
        SourceCode(files={f"m{i}.py": "" for i in range(MAX_FILES + 1)})


@pytest.mark.parametrize(
    "name", ["", "my_nets", "my_nets:", ":Net", "my nets:Net", "my_nets:Net.x", "a/b:Net", "..a:Net", "a:b:c", "a:__import__"]
)
def test_what_is_no_name_of_own_code_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"expected package.module:attribute"):
        split_name(name)


# Collecting.


def test_every_way_to_import_is_followed(tmp_path: Path) -> None:
    tree = {
        "my_nets.py": """
import os, torch, plain, pkg.dotted as renamed
from pkg import submodule, attribute
from helpers import f
from starred import *
import namespace.inner
try:
    import tried
except ImportError:
    import instead
if os.name == "nt":
    import conditional
def late():
    import lazy
    async def later():
        from pkg.deep.er import x
import importlib
one = importlib.import_module("by_module")
two = __import__("by_dunder")
three = importlib.import_module(name=".relative", package="pkg")
four = importlib.import_module("never_" + "this")
if four is None:
    from .unrelated import nothing
class Net: ...
""",
        "plain.py": "",
        "helpers.py": "from pkg.inner import x\nf = 1",
        "tried.py": "",
        "instead.py": "",
        "conditional.py": "",
        "lazy.py": "",
        "by_module.py": "",
        "by_dunder.py": "",
        "never_this.py": "",
        "unrelated.py": "",
        "unused.py": "",
        "namespace/inner.py": "",
        "namespace/unused.py": "",
        "pkg/__init__.py": "from . import from_init\nfrom importlib import import_module as i, import_module\n"
        "attribute = 1\nimport_module('.by_name', __name__)",
        "pkg/by_name.py": "",
        "pkg/from_init.py": "from importlib import import_module\nimport_module('.by_package', __package__)",
        "pkg/by_package.py": "",
        "pkg/dotted.py": "from .sibling import x",
        "pkg/sibling.py": "from .. import beyond",
        "pkg/submodule.py": "",
        "pkg/attribute.py": "",
        "pkg/inner.py": "from pkg import dotted",
        "pkg/relative.py": "",
        "pkg/unused.py": "",
        "pkg/deep/__init__.py": "from ..upwards import x\nfrom . import level",
        "pkg/deep/er.py": "import my_nets",
        "pkg/deep/level.py": "",
        "pkg/upwards.py": "",
        "beyond.py": "",
        "starred/__init__.py": "__all__ = ['a']\n__all__ += ['b']\n__all__.extend(['c'])",
        "starred/a.py": "",
        "starred/b.py": "",
        "starred/c.py": "",
        "starred/d.py": "",
    }
    left = {"never_this.py", "unrelated.py", "unused.py", "namespace/unused.py", "pkg/unused.py", "beyond.py", "starred/d.py"}
    code = collected(tmp_path, tree)
    assert code.files == {path: text for path, text in tree.items() if path not in left}


def test_a_module_in_a_package_brings_the_packages_above_it(tmp_path: Path) -> None:
    tree = {"pkg/__init__.py": "import side", "pkg/sub/__init__.py": "", "pkg/sub/x.py": "", "side.py": "", "pkg/y.py": ""}
    code = collected(tmp_path, tree, "pkg.sub.x:Net")
    assert set(code.files) == {"pkg/__init__.py", "pkg/sub/__init__.py", "pkg/sub/x.py", "side.py"}


def test_a_tree_in_another_place_with_other_line_ends_and_encoding_has_the_same_digest(tmp_path: Path) -> None:
    tree = {"my_nets.py": "# coding: latin-1\nimport helpers\nx = 'ä'\n", "helpers.py": "y = 2\n"}
    one = collected(tmp_path / "one", tree)
    two = write(tmp_path / "two", {path: text.replace("\n", "\r\n") for path, text in tree.items()})
    (tmp_path / "one" / "my_nets.py").write_bytes(tree["my_nets.py"].encode("latin-1"))
    (tmp_path / "two" / "my_nets.py").write_bytes(tree["my_nets.py"].replace("\n", "\r\n").encode("latin-1"))
    (tmp_path / "two" / "helpers.py").write_bytes(b"\xef\xbb\xbfy = 2\r\n")
    assert collect("my_nets:Net", [str(tmp_path / "one")]).digest == collect("my_nets:Net", [two]).digest != one.digest
    assert collect("my_nets:Net", [two]).files == tree


def test_an_edit_gives_another_digest_and_one_of_a_file_that_is_not_imported_does_not(tmp_path: Path) -> None:
    tree = {"my_nets.py": "import helpers", "helpers.py": "x = 1", "other.py": "x = 1"}
    before = collected(tmp_path, tree)
    assert collected(tmp_path, {"other.py": "x = 2", "new.py": ""}).digest == before.digest
    assert collected(tmp_path, {"helpers.py": "x = 2"}).digest != before.digest


def test_nothing_runs_while_code_is_collected(tmp_path: Path) -> None:
    writes = f"open({str(tmp_path / 'ran')!r}, 'w').close()\nimport pkg.sub"
    before = set(sys.modules)
    code = collected(tmp_path, {"my_nets.py": writes, "pkg/__init__.py": writes, "pkg/sub.py": writes})
    assert len(code.files) == 3 and not (tmp_path / "ran").exists()
    assert set(sys.modules) == before and not list(tmp_path.rglob("__pycache__"))


def test_code_is_found_on_the_path_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"my_nets.py": "import helpers", "helpers.py": ""})
    monkeypatch.setattr(sys, "path", [*sys.path, ""])
    monkeypatch.chdir(tmp_path)
    assert set(collect("my_nets:Net").files) == {"my_nets.py", "helpers.py"}


def test_code_in_the_current_folder_is_found_after_all_that_is_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one])
    here = write(tmp_path / "here", {"my_nets.py": "Net = 1", "random.py": "1 / 0", "numpy.py": "1 / 0"})
    monkeypatch.chdir(here)
    assert collect("my_nets:Net").files == {"my_nets.py": "Net = 1"}
    assert here not in sys.path, "nothing else of it is on the path"
    monkeypatch.syspath_prepend(write(tmp_path / "there", {"my_nets.py": "Net = 2"}))
    assert collect("my_nets:Net").files == {"my_nets.py": "Net = 2"}
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert collect("my_nets:Net").files == {"my_nets.py": "Net = 2"}


def test_the_first_folder_of_the_path_wins_and_a_package_without_init_may_be_in_several(tmp_path: Path) -> None:
    one = write(tmp_path / "one", {"my_nets.py": "import space.a, space.b", "space/a.py": "1", "helpers/data.txt": ""})
    two = write(tmp_path / "two", {"my_nets.py": "", "space/b.py": "import helpers", "space/a.py": "2", "helpers.py": ""})
    code = collect("my_nets:Net", [one, two])
    assert code.files["space/a.py"] == "1" and set(code.files) == {"my_nets.py", "space/a.py", "space/b.py", "helpers.py"}


def test_an_editable_installation_is_own_by_its_finder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"src/my_editable/__init__.py": "from . import sub", "src/my_editable/sub.py": ""})

    class Editable:
        @classmethod
        def find_spec(cls, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
            if name != "my_editable":
                return None
            file = str(tmp_path / "src" / "my_editable" / "__init__.py")
            return importlib.util.spec_from_file_location(name, file, submodule_search_locations=[str(Path(file).parent)])

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Editable])
    assert set(collect("my_editable.sub:Net").files) == {"my_editable/__init__.py", "my_editable/sub.py"}
    with pytest.raises(ConfigError, match="no module 'my_editable'"):
        collect("my_editable:Net", [str(tmp_path)])


@pytest.mark.parametrize(
    "place", ["lib/python3.11/site-packages", "lib/python3/dist-packages", "lib64/python3.9", "bin", "Scripts"]
)
def test_an_environment_within_the_users_tree_is_not_own(place: str, tmp_path: Path) -> None:
    write(tmp_path, {".venv/pyvenv.cfg": "", f".venv/{place}/installed.py": "import helpers", "my_nets.py": "import installed"})
    search = [str(tmp_path), str(tmp_path / ".venv" / place)]
    assert set(collect("my_nets:Net", search).files) == {"my_nets.py"}
    with pytest.raises(ConfigError, match=r"installed\.py\).*name your own code"):
        collect("installed:Net", search)


def test_a_tree_that_is_itself_an_environment_is_own_outside_of_the_environments_folders(tmp_path: Path) -> None:
    write(tmp_path, {"pyvenv.cfg": "", "my_nets.py": "import helpers", "lib/helpers.py": ""})
    assert set(collect("my_nets:Net", [str(tmp_path), str(tmp_path / "lib")]).files) == {"my_nets.py", "helpers.py"}


def test_a_link_to_an_installed_file_is_installed(tmp_path: Path) -> None:
    write(tmp_path, {"lib/site-packages/linked.py": "", "src/my_nets.py": "import linked"})
    (tmp_path / "src" / "linked.py").symlink_to(tmp_path / "lib" / "site-packages" / "linked.py")
    assert set(collect("my_nets:Net", [str(tmp_path / "src")]).files) == {"my_nets.py"}


@pytest.mark.parametrize("module", [os, json, numpy, pytest, canonical, sys])
def test_what_is_pythons_installed_or_agentkds_is_not_own(module: ModuleType) -> None:
    assert not is_own(module.__name__, getattr(module, "__file__", None))


def test_what_is_named_like_a_module_of_python_or_agentkd_is_not_own(tmp_path: Path) -> None:
    file = str(tmp_path / "x.py")
    assert is_own("x", file) and is_own("x.json", file)
    assert not is_own("json", file) and not is_own("json.x", file) and not is_own("agentkd.x", file) and not is_own("x", None)
    assert not is_own("x", str(tmp_path / "x.so")) and not is_own("x", str(Path(os.__file__).parent / "x.py"))
    assert is_own("x", str(tmp_path / "bin" / "x.py")) and is_own("x", str(tmp_path / "lib" / "python3.11" / "x.py"))


REFUSED = {
    "__main__:Net": "notebook cell .* write it into a file beside, such as my_nets.py, and name it my_nets:Net",
    "subprocess:check_output": "subprocess is of the standard library; name your own code: a file of yours that imports it",
    "os.path:join": "standard library",
    "sys:exit": "standard library",
    "numpy:zeros": "numpy is installed .*; name your own code",
    "numpy.linalg:norm": "is installed",
    "agentkd.networks.unet:UNet": "is installed",
    "my_nest:Net": r"no module 'my_nest' \(there is my_nets\); is it on PYTHONPATH",
    "pkg.hlpers:Net": r"no module 'pkg.hlpers' \(there is pkg.helpers\)",
    "my_nets.sub:Net": "no module 'my_nets.sub'",
    "zzzz:Net": "no module 'zzzz'; is it on",
    "folder:Net": r"folder is a folder without __init__.py",
    "fast:Net": "fast is compiled .* only source can be kept",
    "frozen:Net": "frozen is compiled",
    "uses_fast:Net": r"uses_fast.py, line 2, imports fast: fast is compiled",
    "uses_main:Net": r"uses_main.py, line 1, imports __main__",
    "wrong:Net": r"wrong.py, line 3: ",
    "uses_wrong:Net": r"wrong.py, line 3: ",
    "returns:Net": r"returns.py, line 1: 'return' outside function",
    "nul:Net": r"nul.py.*null bytes",
    "deep:Net": r"deep.py(, line 1| cannot be compiled)",
    "deeper:Net": r"deeper.py cannot be compiled",
    "latin:Net": r"latin.py cannot be read as text: .*save it as UTF-8",
    "cookie:Net": r"cookie.py cannot be read as text: unknown encoding.*save it as UTF-8",
    "binary:Net": r"binary.py cannot be read as text",
    "later_latin:Net": r"later_latin.py cannot be read as text",
    "huge:Net": r"huge.py has 4,194,305 bytes, too many",
    "many:Net": r"too large .* more than 500 files .* largest: many.py \(",
    "bulky:Net": r"too large .* largest: bulk1.py \(3,000,000 characters\), bulk2.py \(2,000,000",
    "Cases:Net": r"cannot be kept: 'cases' and 'Cases' differ only in case",
    "dashes:Net": r"cannot be kept: 'my-mod.py' is no path of a module",
}


@pytest.fixture(scope="session")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Where the modules of ``REFUSED`` are."""
    folder = tmp_path_factory.mktemp("refusals")
    many = {f"many{i}.py": "" for i in range(MAX_FILES)}
    write(
        folder,
        {
            "my_nets.py": "",
            "pkg/__init__.py": "",
            "pkg/helpers.py": "",
            "folder/data.txt": "",
            f"fast{EXTENSION_SUFFIXES[0]}": "",
            "frozen.pyc": "",
            "uses_fast.py": "\nfrom fast import f",
            "uses_main.py": "import __main__",
            "wrong.py": "\n\nx = (",
            "uses_wrong.py": "import wrong",
            "returns.py": "return 1",
            "nul.py": "x = '\0'",
            "deep.py": "(" * 5000 + ")" * 5000,
            "deeper.py": "x = 1" + "+ 1" * 20_000,
            "cookie.py": "# coding: klingon",
            "binary.py": "# coding: base64",
            "huge.py": "#" * (MAX_BYTES + 1),
            "bulky.py": "import bulk1, bulk2",
            "bulk1.py": "#" * 3_000_000,
            "bulk2.py": "#" * 2_000_000,
            "Cases.py": "import cases",
            "cases.py": "",
            "dashes.py": "from importlib import import_module\nimport_module('my-mod')",
            "my-mod.py": "",
            "many.py": "\n".join(f"import many{i}" for i in range(MAX_FILES)),
        }
        | many,
    )
    (folder / "latin.py").write_bytes("# ä".encode("latin-1"))
    (folder / "later_latin.py").write_bytes(b"#\n" * 5000 + "# ä".encode("latin-1"))
    return [str(folder), *sys.path]


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_collected_is_refused_with_what_to_do(name: str, refusals: list[str]) -> None:
    with pytest.raises(ConfigError, match=f"(?s){REFUSED[name]}"):
        collect(name, refusals)


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"my_nets.py": "import dangling"})
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").symlink_to(tmp_path / "nowhere.py")
    assert set(collect("my_nets:Net", [str(tmp_path)]).files) == {"my_nets.py"}
    with pytest.raises(ConfigError, match=r"folder without __init__|cannot be read"):
        collect("pkg:Net", [str(tmp_path)])


def test_a_package_that_is_partly_own_and_partly_installed_is_refused(tmp_path: Path) -> None:
    own = write(tmp_path / "own", {"my_nets.py": "import space.mine\nimport space.theirs", "space/mine.py": ""})
    theirs = write(tmp_path / "site-packages", {"space/theirs.py": "", "whole/__init__.py": "", "whole/x.py": ""})
    with pytest.raises(ConfigError, match=r"my_nets.py, line 2, imports space.theirs .*space is partly yours"):
        collect("my_nets:Net", [own, theirs])
    write(tmp_path / "own", {"my_nets.py": "import space.theirs, whole.x", "whole/data.txt": ""})
    assert set(collect("my_nets:Net", [own, theirs]).files) == {"my_nets.py"}


# Loading.


def test_an_edited_file_runs_beside_the_old_one(tmp_path: Path) -> None:
    old = provide(collected(tmp_path, {"my_nets.py": "import helpers\ndef f(): return helpers.x", "helpers.py": "x = 1"}))
    before = load("my_nets:f", old)
    new = provide(collected(tmp_path, {"helpers.py": "x = 2"}))
    assert old != new
    assert (before(), load("my_nets:f", new)(), load("my_nets:f", old)(), before()) == (1, 2, 1, 1)
    assert load("my_nets:f", old) is before
    assert "my_nets" not in sys.modules and "helpers" not in sys.modules


def test_imports_in_functions_find_the_version_of_their_own_code_whenever_they_run(tmp_path: Path) -> None:
    digests = []
    for x in (1, 2):
        tree = {"my_nets.py": "def f():\n    import helpers\n    from pkg import sub\n    return helpers.x, sub.x"}
        tree |= {"helpers.py": f"x = {x}", "pkg/sub.py": f"x = {x * 10}"}
        digests.append(provide(collected(tmp_path, tree)))
    one, two = (load("my_nets:f", digest) for digest in digests)
    for file in tmp_path.rglob("*.py"):
        file.unlink()
    assert [one(), two(), one(), two()] == [(1, 10), (2, 20), (1, 10), (2, 20)]


WAYS = {
    "import helpers\nvalue = helpers.x": 1,
    "import helpers as h\nvalue = h.x": 1,
    "import pkg\nvalue = pkg.x, hasattr(pkg, 'sub')": (2, False),
    "import pkg.sub\nvalue = pkg.x, pkg.sub.x": (2, 3),
    "import pkg.sub as s\nvalue = s.x": 3,
    "import pkg.sub, pkg.deep.er\nvalue = pkg.sub.x, pkg.deep.er.x": (3, 4),
    "import pkg.deep.er as e\nvalue = e.x": 4,
    "from pkg import sub, x\nvalue = sub.x, x": (3, 2),
    "from pkg.deep import er\nvalue = er.x": 4,
    "from pkg.deep.er import x as y\nvalue = y": 4,
    "from starred import *\nvalue = a.x, b, hidden if 'hidden' in globals() else None": (5, 6, None),
    "import space.inner\nvalue = space.inner.x": 7,
    "from space import inner\nvalue = inner.x": 7,
    "value = __import__('pkg.sub').sub.x": 3,
    "value = __import__('pkg.sub', fromlist=['x']).x": 3,
    "value = __import__('pkg.sub', None, None, None, 0).x": 2,
    "import importlib\nvalue = importlib.import_module('pkg.sub').x": 3,
    "import importlib.util\nvalue = importlib.import_module('helpers').x, importlib.util.__name__": (1, "importlib.util"),
    "from importlib import import_module as im\nvalue = im('.sub', 'pkg').x": 3,
    "import importlib as i, json\nvalue = i.import_module('json') is json and i.import_module('.path', 'os')": os.path,
    "import importlib.machinery as m\nvalue = m.__name__": "importlib.machinery",
    "import os.path\nvalue = os": os,
    "import os.path as p\nvalue = p": os.path,
    "from os import path\nvalue = path": os.path,
    "exec('import helpers')\nvalue = helpers.x": 1,
    "value = eval('__import__(\"helpers\")', {}).x": 1,
    "import pkg.relative\nvalue = pkg.relative.value": (3, 3, 4, 2, 1),
    "from pkg.deep import up\nvalue = up.value": (3, 2, 4),
    "import first\nvalue = first.second.first is first, first.f()": (True, "second"),
    "import pkg.cycle_a\nvalue = pkg.cycle_a.cycle_b.again is pkg.cycle_a": True,
    "try:\n    import nowhere\nexcept ModuleNotFoundError as error:\n    value = str(error)": "No module named 'nowhere'",
    "try:\n    import pkg.nowhere\nexcept ModuleNotFoundError as error:\n    value = error.name": "pkg.nowhere",
    "try:\n    from pkg.nowhere import x\nexcept ImportError as error:\n    value = error.name": "pkg.nowhere",
    "try:\n    from pkg import nowhere\nexcept ImportError:\n    value = 'none'": "none",
    "try:\n    from . import helpers\nexcept ImportError as error:\n    value = str(error)": (
        "attempted relative import with no known parent package"
    ),
    "import pkg.beyond\nvalue = pkg.beyond.value": "attempted relative import beyond top-level package",
    "from dynamic import anything\nvalue = anything": "made anything",
    "import helpers, importlib, sys\nvalue = importlib.reload(helpers).x, sys.modules[__name__].helpers is helpers": (1, True),
}
LIBRARY = {
    "helpers.py": "x = 1",
    "pkg/__init__.py": "x = 2",
    "pkg/sub.py": "x = 3",
    "pkg/deep/__init__.py": "",
    "pkg/deep/er.py": "x = 4",
    "pkg/deep/up.py": "from ..sub import x as a\nfrom .. import x as b\nfrom . import er\nvalue = a, b, er.x",
    "pkg/relative.py": """
from . import sub
from .sub import x
from .deep.er import x as y
from pkg import x as z
import helpers
value = sub.x, x, y, z, helpers.x""",
    "pkg/beyond.py": "try:\n    from .. import helpers\nexcept ImportError as error:\n    value = str(error)",
    "pkg/cycle_a.py": "import pkg.cycle_b as cycle_b",
    "pkg/cycle_b.py": "import pkg.cycle_a as again\nfrom . import cycle_a",
    "starred/__init__.py": "__all__ = ['a', 'b']\nb = 6\nhidden = 0",
    "starred/a.py": "x = 5",
    "space/inner.py": "x = 7",
    "first.py": "import second\ndef f(): return second.name",
    "second.py": "import first\nname = 'second'",
    "dynamic.py": "def __getattr__(name):\n    if name.startswith('_'): raise AttributeError(name)\n    return f'made {name}'",
}


AS_ANYWHERE = """
import importlib, json, pathlib, sys
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
before, values = set(sys.modules), []
for statement in json.load(sys.stdin):
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or sys.argv[1]).startswith(sys.argv[1]):
            del sys.modules[name]
    pathlib.Path(sys.argv[1], "my_nets.py").write_text(statement)
    importlib.invalidate_caches()
    values.append(repr(importlib.import_module("my_nets").value))
print(json.dumps(values))
"""


@pytest.mark.parametrize("statement", WAYS)
def test_an_import_finds_the_modules_of_the_same_code(statement: str) -> None:
    assert run(LIBRARY | {"my_nets.py": statement}) == WAYS[statement]


def test_imports_mean_in_own_code_what_they_mean_anywhere(tmp_path: Path) -> None:
    command = [sys.executable, "-c", AS_ANYWHERE, write(tmp_path, LIBRARY)]
    said = subprocess.run(command, input=json.dumps(list(WAYS)), capture_output=True, text=True, timeout=60, check=True).stdout
    assert dict(zip(WAYS, json.loads(said), strict=True)) == {statement: repr(value) for statement, value in WAYS.items()}


def test_what_own_code_is_made_of_works_in_it() -> None:
    text = """
from __future__ import annotations
import abc, dataclasses, enum, typing
from typing import ClassVar, NamedTuple, TYPE_CHECKING
from pydantic import BaseModel
import helpers
if TYPE_CHECKING:
    import only_for_checkers

@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    x: int
    shared: ClassVar[int] = 3
    y: helpers.Color = dataclasses.field(default_factory=lambda: helpers.Color.RED)

class Pair(NamedTuple):
    a: int
    b: Point | None = None

class Base(abc.ABC):
    def __init__(self): self.made = [type(self).__name__]
    @abc.abstractmethod
    def f(self) -> int: ...

class Derived(Base):
    def __init__(self):
        super().__init__()
        self.made.append(__class__.__name__)
    def f(self) -> int: return 1

class Model(BaseModel):
    color: helpers.Color
    others: list[Model] = []
    point: Point | None = None

def value():
    assert [f.name for f in dataclasses.fields(Point)] == ["x", "y"]
    assert typing.get_type_hints(Pair)["b"] == Point | None
    try:
        Base()
        raise RuntimeError("an abstract class was made")
    except TypeError:
        pass
    model = Model(color="red", others=[{"color": "red"}])
    return Point(1), Pair(1), Derived().made, model.others[0].color.name, model.model_dump(mode="json"), __name__
"""
    files = {"my_nets.py": text, "helpers.py": "import enum\nclass Color(enum.Enum):\n    RED = 'red'"}
    point, pair, made, color, dumped, name = run(files)
    assert (point.x, pair.a, made, color) == (1, 1, ["Derived", "Derived"], "RED")
    assert dumped["others"][0]["color"] == "red"
    assert type(point).__module__ == name == f"agentkd_code_{SourceCode(files=files).digest[:16]}.my_nets"
    assert sys.modules[name].__package__ == name.rpartition(".")[0]


def test_tracebacks_and_inspect_show_the_source_that_runs(tmp_path: Path) -> None:
    text = "class Net:\n    def f(self):\n        raise KeyError('the line')  # said here\n\n\ndef make():\n    return Net()\n"
    code = collected(tmp_path, {"pkg/__init__.py": "", "pkg/my_nets.py": text}, "pkg.my_nets:make")
    make = load("pkg.my_nets:make", provide(code))
    write(tmp_path, {"pkg/my_nets.py": "something else\n" * 9})
    file = f"<code {code.digest[:12]}>/pkg/my_nets.py"
    for _ in range(2):
        with pytest.raises(KeyError) as error:
            make().f()
        shown = "".join(traceback.format_exception(error.value))
        assert f'File "{file}", line 3, in f' in shown and "# said here" in shown
        assert inspect.getsource(make) == "def make():\n    return Net()\n"
        assert inspect.getsource(type(make())) == text[: text.index("\n\n\ndef")] + "\n"
        assert inspect.getsourcefile(make) == file
        linecache.checkcache()
    assert inspect.getsource(inspect.getmodule(make) or os) == text
    linecache.clearcache()
    assert inspect.getsource(make) == "def make():\n    return Net()\n"


def test_a_warning_shows_the_source_that_warns() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run({"my_nets.py": "import warnings\ndef value():\n    warnings.warn('too small')  # here"})
    [warning] = caught
    assert "# here" in warnings.formatwarning(warning.message, warning.category, warning.filename, warning.lineno)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("my_nets:Net", r"code [0-9a-f]{12} was not provided"),
        ("my_nets:Ner", r"no 'Ner'; it has Net"),
        ("my_nets:zzzz", r"module my_nets of code [0-9a-f]{12} has no 'zzzz'$"),
        ("my_net:Net", r"has no module my_net; it has my_nets"),
        ("space:x", r"has no module space; it has space.x"),
        ("subprocess:check_output", r"has no module subprocess; it has "),
        ("agentkd.code.loading:load", r"has no module agentkd.code.loading"),
        ("my_nets:__builtins__", r"expected package.module:attribute"),
        ("my_nets:Net.f", r"expected package.module:attribute"),
    ],
)
def test_a_name_that_is_not_in_the_code_is_refused(name: str, text: str) -> None:
    code = SourceCode(files={"my_nets.py": "class Net: ...", "space/x.py": ""})
    provided = provide(code) if "provided" not in text else code.digest
    with pytest.raises(ConfigError, match=text):
        load(name, provided)


def test_code_is_provided_from_then_on_by_its_whole_digest() -> None:
    code = SourceCode(files={"my_nets.py": "x = 1"})
    assert not is_provided(code.digest)
    assert provide(code) == provide(code) == code.digest and is_provided(code.digest)
    assert sys.meta_path.count(loading._FINDER) == 1
    similar = Digest(code.digest[:16] + "0" * 48)
    assert not is_provided(similar) and not is_provided(Digest(""))
    with pytest.raises(ConfigError, match="was not provided"):
        load("my_nets:x", similar)


def test_code_whose_digest_begins_like_that_of_other_code_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_root", lambda digest: "agentkd_code_same")
    one, two = SourceCode(files={"my_nets.py": "x = 1"}), SourceCode(files={"my_nets.py": "x = 2"})
    provide(one)
    with pytest.raises(ConfigError, match=f"{two.digest} begins like {one.digest}"):
        provide(two)
    assert not is_provided(two.digest) and load("my_nets:x", one.digest) == 1


def test_what_happens_to_the_files_after_they_were_provided_changes_nothing() -> None:
    code = SourceCode(files={"my_nets.py": "x = 1"})
    digest = provide(code)
    code.files["my_nets.py"] = "x = 2"
    assert load("my_nets:x", digest) == 1


def test_own_code_may_hand_on_what_it_imports() -> None:
    digest = provide(SourceCode(files={"my_nets.py": "from subprocess import check_output"}))
    assert load("my_nets:check_output", digest) is subprocess.check_output


def test_modules_run_once_for_all_names_and_only_when_they_are_needed() -> None:
    counts = "import warnings\nwarnings.warn(__name__.rpartition('.')[2])"
    files = {"my_nets.py": f"{counts}\nimport helpers\na = b = 1", "helpers.py": counts, "other.py": counts}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        digest = provide(SourceCode(files=files))
        assert not caught
        for name in ("my_nets:a", "my_nets:b", "my_nets:a"):
            assert load(name, provide(SourceCode(files=files))) == 1
    assert [str(warning.message) for warning in caught] == ["my_nets", "helpers"] and is_provided(digest)


@pytest.mark.parametrize(
    ("text", "error", "line"),
    [
        ("import helpers\n\nx = 1 / 0", "ZeroDivisionError: division by zero", 3),
        ("import helpers\nimport sys\nsys.exit(3)", "SystemExit: 3", 3),
        ("import helpers\nimport nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found'", 2),
        ("import helpers\nfrom helpers import missing", "ImportError: cannot import name 'missing'", 2),
        ("import helpers\nimport helpers.missing", "ModuleNotFoundError: No module named 'helpers.missing' in code", 2),
        ("import helpers\nexec('x = (')", "SyntaxError: '(' was never closed", 2),
        ("import helpers\nx = (", "SyntaxError: '(' was never closed", 2),
    ],
)
def test_a_module_that_fails_is_refused_with_file_and_line_and_leaves_nothing_half_loaded(
    text: str, error: str, line: int
) -> None:
    code = SourceCode(
        files={"my_nets.py": text, "helpers.py": "import my_nets, sub.x", "sub/x.py": "", "fine.py": "import sub.x"}
    )
    fine = [load("fine:sub", provide(code))]
    for _ in range(2):
        with pytest.raises(ConfigError) as raised:
            load("my_nets:Net", code.digest)
        assert f"my_nets:Net: <code {code.digest[:12]}>/my_nets.py, line {line}: {error}" in str(raised.value)
        root = f"agentkd_code_{code.digest[:16]}"
        assert {name for name in sys.modules if name.startswith(root + ".")} == {f"{root}.{x}" for x in ("fine", "sub", "sub.x")}
        assert not hasattr(sys.modules[root], "my_nets") and not hasattr(sys.modules[root], "helpers")
    assert load("fine:sub", code.digest) is fine[0]


def test_a_module_that_failed_runs_anew_when_it_is_loaded_again(tmp_path: Path) -> None:
    text = f"import helpers\nopen({str(tmp_path / 'flag')!r}).close()\nx = helpers.my_nets"
    code = SourceCode(files={"my_nets.py": text, "helpers.py": "import my_nets"})
    with pytest.raises(ConfigError, match=r"line 2: FileNotFoundError"):
        load("my_nets:x", provide(code))
    (tmp_path / "flag").touch()
    assert load("my_nets:x", code.digest) is sys.modules[f"agentkd_code_{code.digest[:16]}.my_nets"]


def test_an_interrupt_passes_and_leaves_nothing_half_loaded() -> None:
    code = SourceCode(files={"my_nets.py": "import helpers\nraise KeyboardInterrupt", "helpers.py": ""})
    with pytest.raises(KeyboardInterrupt):
        load("my_nets:x", provide(code))
    assert [name for name in sys.modules if name.startswith(f"agentkd_code_{code.digest[:16]}.")] == []


def test_a_module_level_getattr_that_fails_is_refused_too() -> None:
    files = {"my_nets.py": "def __getattr__(name):\n    if name == 'gone': raise AttributeError(name)\n    return 1 / 0"}
    with pytest.raises(ConfigError, match=r"my_nets.py, line 3: ZeroDivisionError"):
        run(files, "my_nets:anything")
    with pytest.raises(ConfigError, match="has no 'gone'"):
        run(files, "my_nets:gone")


UNDECLARED = {
    "a name made when it runs": "import importlib\nimportlib.import_module('undeclared' + '_module')",
    "the same, swallowed": "try:\n    __import__('importlib').import_module('undeclared_module')\nexcept Exception: pass",
    "an import that was not there when it was collected": "try:\n    import undeclared_module\nexcept ImportError: pass",
    "another's import": "import pkgutil\npkgutil.resolve_name('undeclared_module:x')",
    "another's import, swallowed": "import pkgutil\ntry:\n    pkgutil.resolve_name('undeclared_module:x')\nfinally: pass",
    "of a package without init": "from undeclared_space import inner",
    "below a package without init": "import undeclared_space.inner",
}


@pytest.mark.parametrize(
    ("statement", "already"),  # what others look up of what they have already is not seen
    [(x, already) for x in UNDECLARED.values() for already in (False, True) if not (already and "pkgutil" in x)],
)
def test_own_modules_that_are_not_part_of_the_code_are_refused(
    statement: str, already: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(write(tmp_path, {"undeclared_module.py": "x = 1", "undeclared_space/inner.py": ""}))
    importlib.invalidate_caches()
    if already:
        importlib.import_module("undeclared_module")
        importlib.import_module("undeclared_space.inner")
    files = {"my_nets.py": f"import helpers\n{statement}\nx = 1", "helpers.py": ""}
    for _ in range(2):
        with pytest.raises(
            ConfigError, match=r"imports undeclared_\w+(\.inner)?, which is yours but not part .* import statement"
        ):
            run(files, "my_nets:x")
        assert ("undeclared_module" in sys.modules) is already and ("undeclared_space.inner" in sys.modules) is already
        assert f"agentkd_code_{SourceCode(files=files).digest[:16]}.helpers" not in sys.modules


def test_own_modules_are_refused_to_functions_that_run_later_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(write(tmp_path, {"undeclared_module.py": ""}))
    with pytest.raises(ConfigError, match=r"^my_nets imports undeclared_module, which is yours"):
        run({"my_nets.py": "def value():\n    import undeclared_module"})


def test_looking_whether_there_is_an_own_module_is_not_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(write(tmp_path, {"undeclared_module.py": ""}))
    assert (
        run({"my_nets.py": "from importlib.util import find_spec\nvalue = find_spec('undeclared_module').name"})
        == "undeclared_module"
    )


def test_what_is_installed_or_pythons_may_be_imported_by_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(
        write(tmp_path / "site-packages", {"installed_module.py": "import this_one", "this_one.py": "x = 1"})
    )
    assert run({"my_nets.py": "from importlib import import_module as i\nvalue = i('installed' + '_module').this_one.x"}) == 1
    assert run({"my_nets.py": "import colorsys, installed_module as i\nvalue = i.this_one.x"}) == 1


def test_own_code_never_comes_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = SourceCode(files={"my_nets.py": "import pkg\nx = pkg.x", "pkg/__init__.py": "x = 'kept'"})
    root = f"agentkd_code_{code.digest[:16]}"
    planted = {"my_nets.py": "x = 'disk'", "pkg/__init__.py": "x = 'disk'", "pkg/more.py": ""}
    write(tmp_path, planted)
    write(tmp_path / root, planted | {"__init__.py": ""})
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load("my_nets:x", provide(code)) == "kept"
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"{root}.pkg.more")
    assert not list((tmp_path / root).rglob("__pycache__"))


def test_threads_that_load_at_once_get_one_and_the_same(tmp_path: Path) -> None:
    line = f"with open({str(tmp_path / 'ran')!r}, 'a') as file: file.write(__name__ + '\\n')"
    trees: list[Tree] = [
        {"a.py": f"{line}\nimport b\nx = object()\nn = {n}", "b.py": f"{line}\nimport a\ny = object()\nn = {n}"} for n in range(8)
    ]
    barrier = threading.Barrier(16)

    def one(index: int) -> tuple[Any, ...]:
        digest = provide(SourceCode(files=trees[index % 8]))
        barrier.wait(timeout=60)
        names = ("a:x", "b:y", "a:n", "b:n") if index < 8 else ("b:y", "a:x", "a:n", "b:n")
        found = {name: load(name, digest) for name in names}
        return index % 8, found["a:x"], found["b:y"], found["a:n"], found["b:n"]

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(one, range(16)))
    assert len(set(results)) == 8 and all(index == a == b for index, _, _, a, b in results)
    assert len((tmp_path / "ran").read_text().splitlines()) == 16


def test_what_another_thread_imports_meanwhile_is_none_of_the_codes_business(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(write(tmp_path, {"of_a_script.py": "x = 1"}))
    text = (
        "import threading, sys\nt = threading.Thread(target=lambda: __import__('importlib').import_module('json'), daemon=True)\n"
    )
    text += "import of_a_thread\nof_a_thread.go()\nvalue = 'of_a_script' in sys.modules"
    others = (
        "import threading, pkgutil\ndef go():\n    t = threading.Thread(target=pkgutil.resolve_name, args=['of_a_script:x'])\n"
    )
    others += "    t.start()\n    t.join(60)"
    assert run({"my_nets.py": text, "of_a_thread.py": others}) is True


def test_the_unit_needs_no_torch_and_changes_nothing_when_it_is_imported() -> None:
    script = "import sys; before = list(sys.meta_path); import agentkd.code.loading; "
    script += "sys.exit('torch' in sys.modules or before != sys.meta_path)"
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 0
