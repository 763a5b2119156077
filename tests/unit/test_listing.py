"""Own code that asks what lies beside it is refused when it is collected, or else when it runs: it would find nothing there."""

import sys
from pathlib import Path
from typing import Any

import pytest

from agentkd.code.collecting import collect
from agentkd.code.loading import load, provide
from agentkd.code.source import SourceCode
from agentkd.errors import ConfigError

LISTS_MODULES = [
    "import pkgutil\nfor m in pkgutil.iter_modules(__path__): pass",
    "import pkgutil as p\nfound = list(p.walk_packages(__path__, __name__ + '.'))",
    "from pkgutil import iter_modules as each\ndef late():\n    return list(each(path=__path__))",
    "import pkgutil\nfound = list(pkgutil.iter_modules())",
    "import pkgutil, os\nfound = list(pkgutil.iter_modules([os.path.dirname(__file__)]))",
    "import pkgutil, plug.inner as inner\nfound = list(pkgutil.iter_modules(inner.__path__))",
    "import pkgutil\nfrom . import inner\nfound = list(pkgutil.iter_modules(inner.__path__))",
    "import pkgutil\ndef all_of(package):\n    return list(pkgutil.iter_modules(package.__path__))",
]
LISTS_FILES = [
    "from pathlib import Path\nfor file in Path(__file__).parent.glob('*.py'): pass",
    "import os\nHERE = os.path.dirname(os.path.abspath(__file__))\nfiles = os.listdir(HERE)",
    "from os import listdir, path\nhere: str = path.dirname(__file__)\nthere = path.join(here, 'x')\nfiles = listdir(there)",
    "import glob\nfiles = glob.glob(__path__[0] + '/*.py')",
    "from pathlib import Path\nROOT = Path(__file__).parent\ndef f():\n    return sorted(ROOT.iterdir())",
    "import os\nfor root, folders, files in os.walk(__spec__.submodule_search_locations[0]): pass",
]
FINE = [
    "import pkgutil, json, torch.nn\nfound = list(pkgutil.iter_modules(json.__path__)), pkgutil.iter_modules(torch.nn.__path__)",
    "from pathlib import Path\ndef f(folder):\n    return sorted(Path(folder).glob('*.png')), __file__",
    "import ast\ndef f(tree):\n    return list(ast.walk(tree))",
    "class Net:\n    def iter_modules(self): return []\n    def f(self): return self.iter_modules()",
    "from pathlib import Path\nif __name__ == '__main__':\n    print(list(Path(__file__).parent.glob('*')))",
    "import pkgutil\ndef f(name): return pkgutil.resolve_name(name), pkgutil.resolve_name('json:loads')",
]


def tried(folder: Path, text: str) -> SourceCode:
    (folder / "plug" / "inner").mkdir(parents=True)
    (folder / "plug" / "__init__.py").write_text(text)
    (folder / "plug" / "inner" / "__init__.py").write_text("x = 1")
    (folder / "plug" / "term.py").write_text("")
    return collect("plug:Goal", [str(folder)])


@pytest.mark.parametrize("text", LISTS_MODULES)
def test_a_package_that_lists_its_modules_is_refused_with_what_to_write(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"plug/__init__.py, line \d, lists modules by pkgutil\.\w+, .*from \. import a, b"):
        tried(tmp_path, text)


@pytest.mark.parametrize("text", LISTS_FILES)
def test_a_module_that_lists_the_files_beside_it_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"plug/__init__.py, line \d, lists the files beside it, .* as a setting"):
        tried(tmp_path, text)


@pytest.mark.parametrize("text", FINE)
def test_what_asks_for_others_files_or_only_looks_alike_is_not(tmp_path: Path, text: str) -> None:
    assert "plug/__init__.py" in tried(tmp_path, text).files


@pytest.mark.parametrize("call", ["pkgutil.resolve_name('plug.inner:x')", "runpy.run_module('plug.inner')"])
def test_an_own_module_by_a_name_that_only_a_library_reads_is_refused(tmp_path: Path, call: str) -> None:
    with pytest.raises(ConfigError, match=r"line 3, reaches plug\.inner.* by \w+\.\w+, .* import it by a statement"):
        tried(tmp_path, f"import pkgutil, runpy\ndef f():\n    return {call}")


REFUSED_BESIDE = {
    "a test": "from pathlib import Path\nC = Path(__file__).with_name('c.json')\nvalue = 'c' if C.exists() else ''",
    "a test by os": "import os\ndef f():\n    here = os.path.dirname(__file__)\n    return os.path.isfile(here + '/c')",
    "a function": "from pathlib import Path\ndef here():\n    return Path(__file__).parent\nvalue = (here() / 'c').is_file()",
    "an attribute": "import os\nclass A:\n  def __init__(self): self.at = __file__\n  def f(self): os.access(self.at, 4)",
    "a class": "from pathlib import Path\nclass A:\n    AT = Path(__file__)\n    def f(self): return self.AT.stat()",
    "opened": "try:\n    value = open(__file__ + '.json').read()\nexcept OSError:\n    value = ''",
    "the path": "import os, sys\nvalue = any(os.path.exists(os.path.join(folder, 'h.py')) for folder in sys.path)",
    "the path, with names": "from sys import path as p\nfrom os.path import exists\n[exists(one + '/h') for one in p]",
    "data of a package": "import pkgutil\nvalue = pkgutil.get_data('plug', 'c.json')",
    "data of itself": "import pkgutil\nvalue = pkgutil.get_data(__package__, 'c.json')",
    "resources": "from importlib import resources\nvalue = resources.files(__name__)",
    "resources of a module": "import importlib.resources as r, plug.inner\nvalue = r.files(plug.inner)",
    "a finder": "from importlib.machinery import PathFinder\nvalue = PathFinder.find_spec('plug') is not None",
    "a name that only running tells": "import importlib.util as u\ndef f(name): return u.find_spec(name)",
    "a module below one": "import importlib.util\nvalue = importlib.util.find_spec('plug.inner')",
    "pydoc": "import pydoc\nvalue = pydoc.locate('plug.inner')",
}


@pytest.mark.parametrize("text", REFUSED_BESIDE.values(), ids=REFUSED_BESIDE)
def test_what_would_be_answered_otherwise_where_it_runs_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"plug/__init__.py, line \d, (looks|lists|reads|reaches)"):
        tried(tmp_path, text)


HARMLESS = {
    "two variables": "from pathlib import Path\ndef where():\n    path = Path(__file__)\n    return path\n"
    "def pictures(path):\n    return sorted(Path(path).glob('*.png')), path.exists()",
    "its own method": "class V:\n    def walk(self, x): return 1\n    def f(self): return self.walk(__file__)",
    "a module in a function": "from pathlib import Path\npath = Path(__file__)\n"
    "def f(x):\n    from os import path\n    path.exists(x)",
    "two classes": "class A:\n    def __init__(self): self.at = __file__\nclass B:\n    def f(self): return self.at.exists()",
    "what is installed": "import importlib.util\nvalue = importlib.util.find_spec('torch'), importlib.util.find_spec('nowhere')",
    "several that are": "import importlib.util\nfor name in ('torch', 'apex'):\n    value = importlib.util.find_spec(name)",
    "an others resource": "import importlib.resources, torch\nvalue = importlib.resources.files(torch)",
    "its name": "from pathlib import Path\nvalue = Path(__file__).stem",
}


@pytest.mark.parametrize("text", HARMLESS.values(), ids=HARMLESS)
def test_what_is_answered_alike_everywhere_is_collected(tmp_path: Path, text: str) -> None:
    assert "plug/__init__.py" in tried(tmp_path, text).files


def written(folder: Path, files: dict[str, str]) -> SourceCode:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return collect("mine:f", [str(folder)])


LOOKING = {
    "find_spec": "import importlib.util\nX = importlib.util.find_spec('beside') is not None\ndef f(): return X",
    "by another name": "from importlib.util import find_spec as there_is\ndef f(): return bool(there_is('beside'))",
    "pkgutil": "import pkgutil\ndef f(): return pkgutil.find_loader('beside') is not None",
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("text", LOOKING.values(), ids=LOOKING)
def test_whether_there_is_an_own_module_is_answered_from_the_code(tmp_path: Path, text: str) -> None:
    without = written(tmp_path, {"mine.py": text})
    assert load("mine:f", provide(without))() is False
    with_it = written(tmp_path, {"beside.py": "X = 1"})
    assert sorted(with_it.files) == ["beside.py", "mine.py"]
    assert load("mine:f", provide(with_it))() is True
    assert load("mine:f", provide(without))() is False


def test_what_import_takes_from_a_package_is_collected(tmp_path: Path) -> None:
    for number, text in enumerate(("__import__('p', fromlist=['a'])", "__import__('p', None, None, ('a',), 0)")):
        files = {"mine.py": f"p = {text}\ndef f(): return p.a.X", "p/__init__.py": "", "p/a.py": "X = 7"}
        code = written(tmp_path / str(number), files)
        assert "p/a.py" in code.files and load("mine:f", provide(code))() == 7


@pytest.mark.parametrize("where", ["colorsys.py", "colorsys/__init__.py"])
def test_a_file_that_is_called_like_a_module_of_pythons_is_refused_where_it_is_imported(tmp_path: Path, where: str) -> None:
    text = "def f():\n    import colorsys\n    return colorsys"
    with pytest.raises(ConfigError, match=rf"mine.py, line 2, imports colorsys, and .*{where} is called like .* rename"):
        written(tmp_path / "first", {"mine.py": text, where: "X = 1"})
    assert list(written(tmp_path / "alone", {"mine.py": text}).files) == ["mine.py"]
    found_later = [str(tmp_path / "alone"), *(one for one in sys.path if "lib/python" in one), str(tmp_path / "first")]
    assert list(collect("mine:f", found_later).files) == ["mine.py"]
    builtin = {"mine.py": "import sys, os, time\ndef f(): return 1", "os.py": "", "time.py": "", "sys.py": ""}
    assert list(written(tmp_path / "builtin", builtin).files) == ["mine.py"]


HIDDEN = {
    "a file": "value = getattr(__import__('io'), 'open')(__file__ + '.json')",
    "a listing": "import os\nvalue = getattr(os, 'list' + 'dir')(getattr(os.path, 'dirname')(__file__))",
    "data": "import pkgutil\nvalue = getattr(pkgutil, 'get_data')(__name__, 'c.json')",
    "resources": "import importlib.resources\nvalue = getattr(importlib.resources, 'files')(__name__).joinpath('c').read_text()",
    "a name of it": "import pkgutil\nvalue = [m.name for m in getattr(pkgutil, 'iter_modules')(__path__)]",
    "its package": "import pkgutil, sys\nvalue = list(vars(pkgutil)['walk_packages'](sys.modules[__name__].__path__))",
    "its folder": "import pkgutil, os\nvalue = list(vars(pkgutil)['iter_modules']([os.path.dirname(__file__)]))",
}


@pytest.mark.parametrize("text", HIDDEN.values(), ids=HIDDEN)
def test_what_was_not_seen_when_it_was_collected_is_refused_when_it_runs(tmp_path: Path, text: str) -> None:
    code: Any = provide(tried(tmp_path, text))
    with pytest.raises(
        ConfigError, match=r"has no folder whose modules could be listed; import each|beside own code there are no files"
    ):
        load("plug:value", code)
