"""A tiny experiment that goes through every stage in seconds, and a coordinator process to run it in."""

import contextlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import yaml

from agentkd.artifacts.journal import Journal
from agentkd.artifacts.run_folder import RunFolder

EXAMPLES = Path(__file__).parents[1] / "examples"
SPEC = "generated:seed=5,size=32x32,train=16,validation=8,test=8"
EXPERIMENT: dict[str, Any] = {
    "name": "tiny",
    "seed": 3,
    "data": {"dataset": SPEC},
    "families": ["tiny_networks:tiny", "tiny_networks:other"],
    "recipe": {"batch_size": 4, "learning_rate": 0.05, "views": {"crop_height": 32, "crop_width": 32}},
    "baseline": {"epochs": 2},
    "search": {
        "epochs": 3,
        "trials": 3,
        "lag": 2,
        "recipe_space": {"learning_rate": {"low": 0.01, "high": 0.1, "log": True}},
    },
    "round1": {"epochs": 2, "teachers": "best"},
    "round2": {"epochs": 2},
    "launch": {"devices": "cpu:2", "checkpoint_every_s": 0},
}

RECORDING = EXPERIMENT["launch"] | {"record_lessons": True}


def write_experiment(folder: Path, **changes: Any) -> Path:
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(EXPERIMENT | changes), encoding="utf-8")
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "agentkd", *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    """The environment of a child, in which the tests' own networks can be imported, and the library that lies beside them."""
    tests = Path(__file__).parent
    paths = map(str, (tests, tests.parent, *filter(None, (os.environ.get("PYTHONPATH"),))))
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"} | more


def agentkd(*arguments: object, timeout_s: float = 150, **more: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=timeout_s, env=environment(**more), check=False
    )


def table_of(place: Path) -> str:
    """The table without the columns that differ from run to run."""
    rows = [line.split(",") for line in (place / "report" / "table.csv").read_text(encoding="utf-8").splitlines()]
    costs = [rows[0].index(name) for name in ("seconds", "peak_memory_bytes")]
    return "\n".join(",".join(cell for index, cell in enumerate(row) if index not in costs) for row in rows)


def weights_of(place: Path) -> dict[str, str]:
    """Task digest to weights digest, of every record. Fails if a task is recorded twice."""
    with Journal(RunFolder(place).journal, read_only=True) as journal:
        records = list(journal.records())
    found = {record.task.key: record.result.weights for record in records}
    assert len(found) == len(records), "a task was recorded twice"
    return found


def agents_of(pid: int) -> dict[str, psutil.Process]:
    """The agents that a coordinator has started, by name."""
    found = {}
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                named = re.search(r"--name=(agent-\d+) ", " ".join(child.cmdline()))
                if named:
                    found[named[1]] = child
    return found


def load_example(name: str) -> ModuleType:
    """A script of ``examples/`` as a module."""
    spec = importlib.util.spec_from_file_location(f"{name.replace('/', '_')}_example", EXAMPLES / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
