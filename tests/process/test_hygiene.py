"""What a test leaves behind fails that test, and none that another worker runs at the same time."""

import subprocess
import sys
from pathlib import Path

import pytest
from experiments import environment

pytestmark = pytest.mark.process
LEAVES = """
import socket, subprocess, threading
import conftest
conftest.GRACE_S, kept = 0.3, []

def test_process(): kept.append(subprocess.Popen(["sleep", "60"]))
def test_thread(): threading.Thread(target=threading.Event().wait, args=(3,), name="agentkd-io", daemon=True).start()
def test_socket(): kept.append(socket.socket())
def test_nothing(): subprocess.run(["true"], check=True)
"""
CLEAN = "import time\n" + "".join(f"def test_{i}(): time.sleep(0.3)\n" for i in range(5))


def test_leftovers_are_seen_in_the_worker_that_has_them_and_in_no_other(tmp_path: Path) -> None:
    (tmp_path / "test_leaves.py").write_text(LEAVES)
    (tmp_path / "test_clean.py").write_text(CLEAN)
    plugins = ["-p", "no:cacheprovider", "-p", "conftest", "-n", "2", "--dist", "loadfile"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--tb=line", *plugins, str(tmp_path)],
        cwd=tmp_path,
        env={name: value for name, value in environment().items() if not name.startswith("PYTEST_")},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "9 passed, 3 errors" in done.stdout, done.stdout + done.stderr
    for name, what in (("process", "processes left"), ("thread", "threads left"), ("socket", "left open")):
        assert f"ERROR test_leaves.py::test_{name}" in done.stdout and what in done.stdout
