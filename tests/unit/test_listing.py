"""Own code that asks what lies beside it is refused when it is collected, or else when it runs: it would find nothing there."""

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


HIDDEN = {
    "a name of it": "import pkgutil\nvalue = [m.name for m in getattr(pkgutil, 'iter_modules')(__path__)]",
    "its package": "import pkgutil, sys\nvalue = list(vars(pkgutil)['walk_packages'](sys.modules[__name__].__path__))",
    "its folder": "import pkgutil, os\nvalue = list(vars(pkgutil)['iter_modules']([os.path.dirname(__file__)]))",
}


@pytest.mark.parametrize("text", HIDDEN.values(), ids=HIDDEN)
def test_what_was_not_seen_when_it_was_collected_is_refused_when_it_runs(tmp_path: Path, text: str) -> None:
    code: Any = provide(tried(tmp_path, text))
    with pytest.raises(ConfigError, match="has no folder whose modules could be listed; import each of them by a statement"):
        load("plug:value", code)
