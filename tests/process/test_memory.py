"""Two agents on a device that has room for one: one is ended, and both trainings are done, as by a single agent."""

from pathlib import Path

import pytest
from experiments import SPEC

import agentkd
from agentkd.coordinator.watching import Silent

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]

# A network that needs all of a device: a lock is its memory, and it keeps it as long as its process lives. The first that has it
# waits until another was refused, so that two surely meet.
HUNGRY = """
import fcntl
import os
import time
from pathlib import Path

import torch
from torch import nn

DEVICE = os.environ.get("AGENTKD_TEST_DEVICE", "")
HELD = []


def take():
    file = open(f"{DEVICE}/memory", "a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        Path(DEVICE, "refused").touch()
        raise torch.OutOfMemoryError("tried to allocate a whole device") from None
    HELD.append(file)
    give_up_at = time.monotonic() + 120
    while not Path(DEVICE, "refused").exists() and time.monotonic() < give_up_at:
        time.sleep(0.01)


class Hungry(nn.Module):
    def __init__(self, num_classes, width=4):
        super().__init__()
        self.body = nn.Conv2d(3, width, 3, padding=1)
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, images):
        if DEVICE and self.training and images.device.type != "meta" and not HELD:
            take()
        return self.head(torch.relu(self.body(images)))
"""
VIEWS = agentkd.ViewSettings(crop_height=32, crop_width=32)


class Noting(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def tell(self, line: str) -> None:
        self.lines.append(line)


def weights(place: Path, devices: str, watcher: Noting) -> list[str]:
    with agentkd.Community(devices=devices, record=place, watcher=watcher, max_attempts=1) as community:
        students = [community.agent(name, "hungry:Hungry", num_classes=5) for name in ("ann", "bob")]
        lessons = [student.train(SPEC, epochs=1, batch_size=4, views=VIEWS) for student in students]
        return [str(lesson.result(timeout=200).weights) for lesson in lessons]


def test_of_two_agents_on_a_device_with_room_for_one_one_goes_and_no_task_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hungry.py").write_text(HUNGRY)
    monkeypatch.syspath_prepend(str(tmp_path))
    alone = weights(tmp_path / "alone", "cpu:1", Noting())
    monkeypatch.setenv("AGENTKD_TEST_DEVICE", str(tmp_path))
    watcher = Noting()
    assert weights(tmp_path / "run", "cpu:2", watcher) == alone
    told = [line for line in watcher.lines if "ran out of memory on cpu" in line]
    assert len(told) == 1 and "is ended, and it is tried again with more room" in told[0], watcher.lines
    assert (tmp_path / "refused").exists()
