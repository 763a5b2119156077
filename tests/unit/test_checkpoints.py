"""Checkpoints on a thread of their own: from a copy, one at a time, waited for at the end, and whatever goes wrong is told."""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_tasks import CPU, Stop, make_task, stop_at
from torch import nn

from agentkd.agents.work import Surroundings, execute
from agentkd.artifacts.store import Store
from agentkd.errors import StorageError
from agentkd.names import TaskKey
from agentkd.training import checkpoint
from agentkd.training.checkpoint import Checkpoints, Copied, Progress, load_checkpoint, write_checkpoint
from agentkd.training.loop import Hooks

TASK = TaskKey("t")
PATIENCE_S = 60.0


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "agentkd-checkpoint"]


class Held:
    """A write that waits until it may go on, on whatever thread it is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, then: Callable[[Path, Copied], None] = write_checkpoint) -> None:
        self.begun, self.go_on, self.then = threading.Semaphore(0), threading.Semaphore(0), then
        self.by: list[str] = []
        monkeypatch.setattr(checkpoint, "write_checkpoint", self)

    def __call__(self, path: Path, made: Copied) -> None:
        self.by.append(threading.current_thread().name)
        self.begun.release()
        assert self.go_on.acquire(timeout=PATIENCE_S)
        self.then(path, made)


def found(path: Path) -> tuple[Progress, nn.Module, torch.optim.Optimizer]:
    network = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0, momentum=0.9)
    progress = load_checkpoint(path, network, {"main": optimizer}, task=TASK)
    assert progress is not None
    return progress, network, optimizer


def test_what_is_written_is_the_state_as_it_was_whatever_is_learned_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, path, network = Held(monkeypatch), tmp_path / "c", nn.Linear(2, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0, momentum=0.9)
    progress = Progress(step=1, best={"w": torch.ones(1)}, losses=[0.5])

    def learn() -> None:
        optimizer.zero_grad()
        network(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        progress.step += 1
        progress.losses.append(1.0)
        progress.best = {"w": progress.best["w"] + 1}

    states = []
    with Checkpoints(path, TASK) as checkpoints:
        for _ in range(3):
            learn()
            state = {name: value.clone() for name, value in network.state_dict().items()}
            momentum = [slots["momentum_buffer"].clone() for slots in optimizer.state_dict()["state"].values()]
            states.append((state, momentum, progress.step, list(progress.losses), progress.best["w"].clone()))
            checkpoints.save(network, {"main": optimizer}, progress)
            assert held.begun.acquire(timeout=PATIENCE_S)
            learn()
            held.go_on.release()
            checkpoints._wait()
            read, others, its = found(path)
            state, momentum, step, losses, best = states[-1]
            assert (read.step, read.losses) == (step, losses) and torch.equal(read.best["w"], best)
            assert all(torch.equal(value, state[name]) for name, value in others.state_dict().items())
            assert all(
                torch.equal(slots["momentum_buffer"], value)
                for slots, value in zip(its.state_dict()["state"].values(), momentum, strict=True)
            )
    assert set(held.by) == {"agentkd-checkpoint"} and not threads()


def test_one_is_written_at_a_time_and_the_last_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, path, network = Held(monkeypatch), tmp_path / "c", nn.Linear(2, 2)
    saved, ended = threading.Event(), threading.Event()

    def save_twice() -> None:
        with Checkpoints(path, TASK) as checkpoints:
            for step in (1, 2):
                checkpoints.save(network, {}, Progress(step=step))
            saved.set()
        ended.set()

    learning = threading.Thread(target=save_twice)
    learning.start()
    assert held.begun.acquire(timeout=PATIENCE_S)
    assert not held.begun.acquire(blocking=False) and not saved.is_set(), "the second waits for the first"
    held.go_on.release()
    assert held.begun.acquire(timeout=PATIENCE_S) and saved.wait(PATIENCE_S)
    assert not ended.is_set()
    held.go_on.release()
    learning.join(PATIENCE_S)
    assert ended.is_set()
    read = load_checkpoint(path, network, {}, task=TASK)
    assert read is not None and read.step == 2


@pytest.mark.parametrize("wrong", [StorageError(Path("c"), "disk full"), ValueError("a fault of ours")], ids=["disk", "fault"])
@pytest.mark.parametrize("noticed", ["by the next step", "by the next one", "at the end"])
def test_what_goes_wrong_is_told_as_it_is(
    noticed: str, wrong: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, made: Copied) -> None:
        raise wrong

    held, network = Held(monkeypatch, fail), nn.Linear(2, 2)
    told = []
    with pytest.raises(type(wrong)) as caught, Checkpoints(tmp_path / "c", TASK) as checkpoints:
        checkpoints.save(network, {}, Progress())
        checkpoints.check()  # nothing is known yet
        held.go_on.release()
        told.append("learning goes on")
        if noticed == "by the next step":
            for thread in threads():
                thread.join(PATIENCE_S)
            checkpoints.check()
        elif noticed == "by the next one":
            checkpoints.save(network, {}, Progress())
        told.append("and on")
    assert caught.value is wrong
    assert told == ["learning goes on", "and on"][: 1 + (noticed == "at the end")]


def test_what_ends_a_training_is_told_before_a_write_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(path: Path, made: Copied) -> None:
        raise StorageError(path, "disk full")

    monkeypatch.setattr(checkpoint, "write_checkpoint", fail)
    with caplog.at_level(logging.WARNING), pytest.raises(Stop), Checkpoints(tmp_path / "c", TASK) as checkpoints:
        checkpoints.save(nn.Linear(2, 2), {}, Progress())
        raise Stop
    assert "disk full" in caplog.text


def test_an_error_of_a_write_ends_the_training_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: object, file: Path, **fields: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(StorageError, match="No space left"):
        execute(make_task(), Surroundings(Store(tmp_path / "store"), CPU, checkpoint=tmp_path / "c"))
    assert not threads()
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("step", [1, 7])
def test_a_training_that_is_cancelled_waits_for_its_checkpoint(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch)
    for _ in range(99):
        held.go_on.release()
    with pytest.raises(Stop):
        execute(make_task(), Surroundings(Store(tmp_path / "store"), CPU, hooks=stop_at(step + 1), checkpoint=tmp_path / "c"))
    assert not threads()
    steps: list[int] = []
    hooks = Hooks(on_step=lambda now, *told: steps.append(now))
    execute(make_task(), Surroundings(Store(tmp_path / "store"), CPU, hooks=hooks, checkpoint=tmp_path / "c"))
    assert steps[0] == step + 1


KILLED = """
import os, sys
from pathlib import Path
from tiny_tasks import CPU, make_task
from agentkd.agents.work import Surroundings, execute
from agentkd.artifacts.store import Store
from agentkd.training import checkpoint

place, number, where = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
seen = []
made = getattr(checkpoint, where)

def dying(*told, **named):
    seen.append(0)
    if len(seen) == number:
        os.kill(os.getpid(), 9)
    return made(*told, **named)

setattr(checkpoint, where, dying)
execute(make_task(), Surroundings(Store(place / "store"), CPU, checkpoint=place / "c.safetensors"))
"""


@pytest.mark.parametrize("where", ["_digest", "save_file", "sync_file", "put_in_place"])
def test_one_that_is_killed_while_it_writes_resumes_to_the_same_bits(where: str, tmp_path: Path) -> None:
    whole: Any = execute(make_task(), Surroundings(Store(tmp_path / "whole"), CPU))
    paths = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), "4", where],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S * 2,
        check=False,
    )
    assert done.returncode == -9, done.stderr
    steps: list[int] = []
    hooks = Hooks(on_step=lambda step, *told: steps.append(step))
    at = Surroundings(Store(tmp_path / "store"), CPU, checkpoint=tmp_path / "c.safetensors", hooks=hooks)
    assert execute(make_task(), at).weights == whole.weights
    assert steps[0] == 4, "the three before are written"
