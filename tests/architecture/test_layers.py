"""The architecture as two tables: which unit may import which, and who owns which dependency."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "agentkd"
PREDICT = Path(__file__).parents[2] / "predict" / "agentkd_predict"

# Top row first. A unit imports only rows below its own; units in one row are independent.
LAYERS = [
    {"__main__"},
    {"cli", "testing"},
    {"watch"},
    {"community", "conformance", "deploy", "replay", "report"},
    {"coordinator"},
    {"agents"},
    {"checks"},
    {"pipeline"},
    {"config"},
    {"experiment"},
    {"launch"},
    {"exchange"},
    {"messages", "knowledge", "search", "artifacts"},
    {"training", "datasets", "networks"},
    {"task"},
    {"architecture", "recipe"},
    {"objectives"},
    {"code"},
    {"unrepeatable"},
    {"shortage"},
    {"errors", "seeding", "logs", "repeatable"},
    {"canonical", "durable", "plain"},
    {"names", "visible"},
]

OWNERS = {
    "zmq": {"exchange"},
    "msgpack": {"messages"},
    "optuna": {"search"},
    "sqlalchemy": {"search"},
    "torch": {
        "networks",
        "training",
        "knowledge",
        "agents",
        "coordinator",
        "community",
        "deploy",
        "testing",
        "repeatable",
        "unrepeatable",
    },
    "torchmetrics": {"training"},
    "safetensors": {"artifacts", "datasets", "training", "networks", "report"},
    "PIL": {"datasets"},
    "rasterio": {"datasets"},
    "yaml": {"config", "deploy", "plain"},
    "sqlite3": {"artifacts"},
    "matplotlib": {"report"},
    "jinja2": {"report", "watch"},
    "starlette": {"watch"},
    "uvicorn": {"watch"},
    "rich": {"report", "cli"},
    "typer": {"cli"},
    "tensorboardX": {"report"},
    "mlflow": {"report"},
    "setproctitle": {"launch"},
    "ray": {"launch"},
    "isal": {"exchange"},
    "agentkd_predict": {"cli"},
    "onnx": {"deploy"},
    "onnxruntime": {"deploy"},
    "numpy": {"agents", "artifacts", "datasets", "deploy", "exchange", "report", "seeding", "testing"},
}
EVERYWHERE = {"pydantic"}
FORBIDDEN = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}

ROW_OF = {unit: row for row, units in enumerate(LAYERS) for unit in units}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def unit_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_unit_imports_only_rows_below_its_own(path: Path) -> None:
    unit = unit_of(path)
    if unit == "__init__":
        return
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "agentkd" or parts[1] == unit or parts[1] == "__version__":
            continue
        assert ROW_OF[parts[1]] > ROW_OF[unit], f"{unit} must not import {parts[1]}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_its_owners_import_a_dependency_and_nobody_pickles(path: Path) -> None:
    unit = unit_of(path)
    for name in imports(path):
        top = name.split(".")[0]
        assert top not in FORBIDDEN, f"{path} imports {top}"
        if top in sys.stdlib_module_names or top == "agentkd" or top in EVERYWHERE:
            continue
        assert top in OWNERS, f"{path} imports {top}, which is in no list: see docs/decisions/0007-dependencies.md"
        assert unit in OWNERS[top], f"{unit} must not import {top}"


def test_every_dependency_that_is_listed_is_imported_by_each_of_its_owners() -> None:
    found = {(name.split(".")[0], unit_of(path)) for path in modules() for name in imports(path)}
    assert {(name, unit) for name, units in OWNERS.items() for unit in units} <= found


def test_every_unit_has_a_row() -> None:
    assert {unit_of(path) for path in modules()} - {"__init__"} <= set(ROW_OF)


def test_no_module_is_longer_than_500_lines() -> None:
    long = {str(path): count for path in modules() if (count := len(path.read_text(encoding="utf-8").splitlines())) > 500}
    assert not long


TORCH_FREE = [
    "agentkd",
    "agentkd.cli",
    "agentkd.config",
    "agentkd.coordinator.run",
    "agentkd.report.write",
    "agentkd.messages.wire",
    "agentkd.pipeline.plan",
    "agentkd.networks.families",
    "agentkd.datasets.opening",
]


@pytest.mark.parametrize("name", TORCH_FREE)
def test_planning_reporting_and_the_command_line_do_not_import_torch(name: str) -> None:
    code = f"import sys, {name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_the_package_and_its_help_do_not_import_what_takes_time() -> None:
    code = "import sys, agentkd.cli; sys.exit(bool({'torch', 'optuna', 'matplotlib', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_decision_rests_on_the_wall_clock(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "time.time(" not in text and "datetime.now" not in text, "deadlines, leases and durations use the monotonic clock"


def test_no_thread_holds_up_the_end_of_its_process() -> None:
    calls = [node for path in modules() for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    made = [call for call in calls if ast.unparse(call.func) in ("Thread", "threading.Thread")]
    said = [{keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords} for call in made]
    assert made and all(keywords.get("daemon") == "True" for keywords in said), said


def test_the_page_about_the_house_has_the_floors_in_their_order() -> None:
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page[page.index("| floor |") : page.index("Three rules")]
    units = [unit for line in table.splitlines()[2:] if line for unit in re.findall(r"`(\w+)`", line.split("|")[2])]
    rows = [ROW_OF[unit] for unit in units]
    assert rows == sorted(rows) and sorted(units) == sorted(ROW_OF)


# What predicts is a distribution of its own, without agentkd and torch. What its extras need is imported by these modules
# alone, which are imported when a file needs them.
PREDICT_MAY = {"numpy", "onnxruntime", "PIL", "rich", "typer", "agentkd_predict"}
OF_EXTRAS = {"rasterio": {"rasters.py", "maps.py"}, "av": {"videos.py"}}


@pytest.mark.parametrize("path", sorted(PREDICT.glob("*.py")), ids=lambda p: p.name)
def test_what_predicts_needs_neither_agentkd_nor_torch(path: Path) -> None:
    for name in imports(path):
        top = name.split(".")[0]
        assert top not in FORBIDDEN and top not in {"agentkd", "torch"}, f"{path.name} imports {top}"
        if top not in sys.stdlib_module_names and top not in PREDICT_MAY:
            assert path.name in OF_EXTRAS.get(top, set()), f"{path.name} must not import {top}"


@pytest.mark.parametrize("path", sorted(PREDICT.glob("*.py")), ids=lambda p: p.name)
def test_modules_that_need_an_extra_are_imported_when_a_file_needs_them(path: Path) -> None:
    needing = {name.removesuffix(".py") for names in OF_EXTRAS.values() for name in names}
    if path.stem in needing:
        return
    at_once = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)]
    assert not {str(node.module).split(".")[-1] for node in at_once} & needing


def test_what_predicts_has_no_module_of_more_than_300_lines_and_no_circle_of_imports() -> None:
    paths = {path.stem: path for path in PREDICT.glob("*.py")}
    assert max(len(path.read_text(encoding="utf-8").splitlines()) for path in paths.values()) <= 300
    needs = {
        name: {part.split(".")[1] for part in imports(path) if part.startswith("agentkd_predict.")} & set(paths)
        for name, path in paths.items()
        if name != "__init__"
    }
    lazy = {("sources", "rasters"), ("products", "maps")}
    while needs:
        free = {name for name, used in needs.items() if not {one for one in used if one in needs and (name, one) not in lazy}}
        assert free, f"these import each other: {sorted(needs)}"
        needs = {name: used for name, used in needs.items() if name not in free}
