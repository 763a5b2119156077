"""Hygiene for every test: no child process, thread or socket outlives it."""

import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

GRACE_S = 5.0
collect_ignore = ["validate_crate.py"]  # what it imports is installed elsewhere


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """Fails a test that leaves a child process or a thread of ours behind."""
    before = {thread.ident for thread in threading.enumerate()}
    of_the_module = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    children = [child for child in psutil.Process().children(recursive=True) if child.pid not in of_the_module]
    _, alive = psutil.wait_procs(children, timeout=GRACE_S)
    for process in alive:
        process.kill()
    left = [t.name for t in threading.enumerate() if t.ident not in before and t.name.startswith(("agentkd", "zmq"))]
    assert not alive, f"processes left behind: {alive}"
    assert not left, f"threads left behind: {left}"


@pytest.fixture
def examples() -> Path:
    """The folder of example experiments."""
    return Path(__file__).parents[1] / "examples" / "kd_nas"
