"""What holds for every test: nothing outlives it, fork servers are kept warm, and what many compare with is made once."""

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pytest
from experiments import RECORDING, agentkd, write_experiment
from fork_servers import Keeper

hypothesis.settings.register_profile("patient", parent=hypothesis.settings(), deadline=None)  # a busy machine is no fault
hypothesis.settings.load_profile("patient")
GRACE_S = 5.0
MAX_WORKERS = 8
collect_ignore = ["validate_crate.py", "typed"]  # what one imports is installed elsewhere; the others are read by type checkers


def pytest_xdist_auto_num_workers() -> int:
    """A worker a core, but not so many that they hold the machine's memory: each keeps its own fork servers."""
    return min(MAX_WORKERS, len(os.sched_getaffinity(0)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long first, so that no worker begins one when the others are done."""
    marks = dict[Path, set[str]]()
    for item in items:
        marks.setdefault(item.path, set()).update(mark.name for mark in item.iter_markers())
    items.sort(key=lambda item: [name not in marks[item.path] for name in ("slow", "process")])


@pytest.fixture(scope="session", autouse=True)
def keeper() -> Iterator[Keeper]:
    """Launchers in this process take their fork servers from here."""
    made = Keeper()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agentkd.launch.local.ForkServer", made.take)
        yield made
    made.close()


@pytest.fixture(autouse=True)
def nothing_is_left_behind(keeper: Keeper, request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves a child process, a thread of ours or a socket behind; of this process, not of other workers'."""
    if request.node.get_closest_marker("gpu"):
        wake_the_driver()
    own = psutil.Process()
    children, threads, held = {child.pid for child in own.children(recursive=True)}, threads_of_ours(), sockets()
    yield
    left = [child for child in own.children(recursive=True) if child.pid not in children | keeper.pids]
    _, alive = psutil.wait_procs(left, timeout=GRACE_S)
    for process in alive:
        process.kill()
    assert not alive, f"processes left behind: {alive}"
    assert not (still := after_a_while(lambda: threads_of_ours() - threads)), f"threads left behind: {still}"
    assert not (still := after_a_while(lambda: sockets() - held - keeper.sockets)), f"left open: {still}"


def wake_the_driver() -> None:
    """The first use of CUDA opens a socket, which the process then keeps."""
    import torch

    if torch.cuda.is_available():
        torch.zeros(1, device="cuda")


def after_a_while(left: Callable[[], set[Any]]) -> set[Any]:
    """What is left once nothing is, or the grace is over: what was told to end needs its turn on a busy machine."""
    deadline = time.monotonic() + GRACE_S
    while (still := left()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return still


def threads_of_ours() -> set[tuple[int | None, str]]:
    """Each thread that the library or ZeroMQ has started here, with its name."""
    return {(t.ident, t.name) for t in threading.enumerate() if t.name.startswith(("agentkd", "zmq"))}


def sockets() -> set[int]:
    """Descriptors of this process's open sockets. Shared memory goes with its last user, as ``unit/test_segments.py`` shows."""
    found = set()
    for entry in Path("/proc/self/fd").glob("*"):
        with contextlib.suppress(OSError):
            if str(entry.readlink()).startswith("socket:"):
                found.add(int(entry.name))
    return found


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny experiment's finished run, recorded, to compare with and to replay. All workers read it, and none writes there."""

    def make(folder: Path) -> None:
        done = agentkd("run", write_experiment(folder, launch=RECORDING), "--out", folder / "run")
        assert done.returncode == 0, done.stdout + done.stderr

    base = tmp_path_factory.getbasetemp()
    return made_once(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base, "undisturbed", make) / "run"


def made_once(place: Path, name: str, make: Callable[[Path], None]) -> Path:
    """The folder of this name, filled by the first worker that wants it; the others wait until it is there."""
    folder, is_made = place / name, place / f"{name}.made"
    with (place / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_made.exists():
            folder.mkdir()
            make(folder)
            is_made.touch()
    return folder


@pytest.fixture
def examples() -> Path:
    """The folder of example experiments."""
    return Path(__file__).parents[1] / "examples" / "kd_nas"
