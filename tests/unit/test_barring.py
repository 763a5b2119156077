"""Beside own code no other module of its user's runs, by whatever way it is reached; what is installed or Python's does."""

import contextlib
import importlib
import json
import os
import py_compile
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from agentkd.code import barring
from agentkd.code.loading import provide
from agentkd.code.source import SourceCode
from agentkd.errors import ConfigError

WAYS = {
    "resolve_name": "import pkgutil\n    return pkgutil.resolve_name('helper:SCALE')",
    "builtins.__import__": "import builtins\n    return builtins.__import__('hel' + 'per').SCALE",
    "the real importlib": "import sys\n    return sys.modules['importlib'].import_module('helper').SCALE",
    "a pickle": "import pickle\n    return pickle.loads(b'chelper\\nSCALE\\n.')",
    "a spec": "from importlib import util\n    spec = util.find_spec('helper')\n    made = util.module_from_spec(spec)\n"
    "    spec.loader.exec_module(made)\n    return made.SCALE",
    "a spec of a path": "from importlib import util\n    spec = util.spec_from_file_location('mine', HERE + '/helper.py')\n"
    "    made = util.module_from_spec(spec)\n    spec.loader.exec_module(made)\n    return made.SCALE",
    "a loader": "from importlib.machinery import SourceFileLoader\n"
    "    return SourceFileLoader('mine', HERE + '/helper.py').load_module().SCALE",
    "a lazy loader": "from importlib import util\n    spec = util.find_spec('helper')\n"
    "    loader = util.LazyLoader(spec.loader)\n    spec.loader = loader\n    made = util.module_from_spec(spec)\n"
    "    loader.exec_module(made)\n    return made.SCALE",
    "run_path": "import runpy\n    return runpy.run_path(HERE + '/helper.py')['SCALE']",
    "run_module": "import runpy\n    return runpy.run_module('helper')['SCALE']",
    "its text under its name": "made = {}\n    with open(HERE + '/helper.py') as file:\n"
    "        exec(compile(file.read(), file.name, 'exec'), made)\n    return made['SCALE']",
    "a folder put on the path": "import sys, pkgutil\n    sys.path.insert(0, HERE + '/more')\n"
    "    return pkgutil.resolve_name('further:SCALE')",
    "an archive": "import sys, pkgutil\n"
    "    sys.path.insert(0, HERE + '/all.zip')\n    return pkgutil.resolve_name('zipped:SCALE')",
    "bytecode alone": "import pkgutil\n    return pkgutil.resolve_name('bare:SCALE')",
    "another finder first": "import sys, pkgutil\n    from importlib.machinery import PathFinder\n"
    "    sys.meta_path.insert(0, PathFinder)\n    return pkgutil.resolve_name('helper:SCALE')",
    "a package": "import pkgutil\n    return pkgutil.resolve_name('bundle.part:SCALE')",
    "the code of a spec": "import types\n    from importlib import util\n    made = {}\n"
    "    loader = util.spec_from_file_location('mine', HERE + '/helper.py').loader\n"
    "    types.FunctionType(loader.get_code('mine'), made)()\n    return made['SCALE']",
    "its text as a function": "import types\n    made = {}\n    text = open(HERE + '/helper.py').read()\n"
    "    types.FunctionType(compile(text, HERE + '/helper.py', 'exec'), made)()\n    return made['SCALE']",
    "compiled code": "import shutil, sys, glob, os\n    from importlib import machinery, util\n"
    "    found = [one for one in glob.glob(os.path.dirname(os.__file__) + '/lib-dynload/*.so')][0]\n"
    "    name = os.path.basename(found).partition('.')[0]\n    made = shutil.copy(found, HERE)\n    sys.path.append(HERE)\n"
    "    spec = util.spec_from_file_location(name, made)\n    return str(util.module_from_spec(spec))",
    "a thread": "import threading, pkgutil\n    found = []\n    def go():\n        try:\n"
    "            found.append(pkgutil.resolve_name('helper:SCALE'))\n        except Exception as error:\n"
    "            found.append(error)\n    one = threading.Thread(target=go)\n    one.start()\n    one.join()\n"
    "    if isinstance(found[0], Exception):\n        raise found[0]\n    return found[0]",
}
FINE = {
    "Python's": "import pkgutil\n    return pkgutil.resolve_name('colorsys:rgb_to_hls').__name__",
    "installed": "import pkgutil\n    return pkgutil.resolve_name('httpx_like:SCALE')",
    "agentkd's": "import pkgutil\n    return pkgutil.resolve_name('agentkd.seeding:derive').__name__",
    "text of its own": "made = {}\n    exec('SCALE = 3', made)\n    return made['SCALE']",
    "the code's": "import other\n    return other.SCALE",
    "what an installed package made": "import httpx_like\n    return httpx_like.generate(HERE + '/made.py')",
}
GENERATES = """
SCALE = 2
def generate(file):
    open(file, 'w').write('SCALE = 4')
    made = {}
    exec(compile(open(file).read(), file, 'exec'), made)
    return made['SCALE']
"""
SCRIPT = """
import json, sys
from agentkd.code import barring
from agentkd.code.loading import load, provide
from agentkd.code.source import SourceCode
from agentkd.errors import ConfigError
if sys.argv[1] == "closed":
    barring.close()
said = {}
for way, body in json.load(sys.stdin).items():
    text = f"HERE = {sys.argv[2]!r}\\ndef loss():\\n    {body}"
    loss = load("goal:loss", provide(SourceCode(files={"goal.py": text, "other.py": "SCALE = 5"})))
    try:
        said[way] = loss()
    except ConfigError as error:
        said[way] = str(error)
    for name in ("helper", "further", "zipped", "bare", "bundle", "bundle.part", "mine"):
        sys.modules.pop(name, None)
print(json.dumps(said))
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A user's folder, which is on the path of the process."""
    for name in ("helper.py", "more/further.py", "bare.py", "bundle/__init__.py", "bundle/part.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("SCALE = 1\n")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("zipped.py", "SCALE = 1\n")
    py_compile.compile(str(tmp_path / "bare.py"), cfile=str(tmp_path / "bare.pyc"), doraise=True)
    (tmp_path / "bare.py").unlink()
    installed = tmp_path / "lib" / "site-packages"
    installed.mkdir(parents=True)
    (installed / "httpx_like.py").write_text(GENERATES)
    return tmp_path


def outcomes(tree: Path, ways: dict[str, str], kind: str = "closed") -> dict[str, object]:
    root = str(Path(barring.__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, str(tree), str(tree / "lib" / "site-packages")])}
    command = [sys.executable, "-P", "-c", SCRIPT, kind, str(tree)]
    done = subprocess.run(
        command, input=json.dumps(ways), capture_output=True, text=True, timeout=60, check=True, env=environment
    )
    return dict(json.loads(done.stdout))


def test_in_a_process_that_works_for_others_no_way_leads_to_what_is_not_part_of_the_code(tree: Path) -> None:
    said = outcomes(tree, WAYS)
    assert {way: found for way, found in said.items() if "which is yours but not part of the code" not in str(found)} == {}
    where = r"<code [0-9a-f]{12}>/goal.py, line \d+, imports helper, which"
    assert sum(bool(re.match(where, str(found))) for found in said.values()) >= 7
    assert all(str(tree) in str(found) for found in said.values()), "the file is named"


def test_what_is_installed_pythons_or_of_the_code_is_found_by_any_way(tree: Path) -> None:
    expected = {"Python's": "rgb_to_hls", "installed": 2, "agentkd's": "derive", "text of its own": 3, "the code's": 5}
    assert outcomes(tree, FINE) == expected | {"what an installed package made": 4}


def test_a_script_that_uses_own_code_may_import_what_it_likes(tree: Path) -> None:
    assert outcomes(tree, {"resolve_name": WAYS["resolve_name"]}, "open") == {"resolve_name": 1}


def test_a_refusal_that_own_code_passes_over_is_told_when_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "swallowed_module.py").write_text("SCALE = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    provide(SourceCode(files={"any_code.py": ""}))
    with pytest.raises(ConfigError, match="imports swallowed_module, which is yours"), barring.running():
        with contextlib.suppress(ConfigError):
            importlib.import_module("swallowed_module")
        assert "swallowed_module" not in sys.modules
    assert importlib.import_module("swallowed_module").SCALE == 1
    sys.modules.pop("swallowed_module")
