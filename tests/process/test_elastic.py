"""Agents come and go while a community works: killed, started by hand, leaving, coming back. Its weights are the same."""

import contextlib
import os
import queue
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from experiments import SPEC, agents_of, command, environment
from sides import wait_until

import agentkd
from agentkd.artifacts.run_folder import RunFolder
from agentkd.artifacts.verification import verify
from agentkd.coordinator.watching import Silent
from agentkd.exchange.keys import load_key_pair, new_key_pair, save_key_pair

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(400)]
VIEWS = agentkd.ViewSettings(crop_height=32, crop_width=32)
LESSON_S = 240.0
STARTS = re.compile(r"^(.+) starts (.+?)(?: \(attempt (\d+)\))?$")
Lessons = list[agentkd.Lesson]


class Listening(Silent):
    """Hands on who starts what, and keeps everything."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.starts: queue.Queue[tuple[str, str]] = queue.Queue()

    def tell(self, line: str) -> None:
        self.lines.append(line)
        if found := STARTS.match(line):
            self.starts.put((found[1], found[2]))

    def next_start(self, holds: Callable[[str], bool]) -> str:
        """Who it is for whom that holds that starts something next."""
        deadline = time.monotonic() + LESSON_S
        while True:
            agent, _ = self.starts.get(timeout=max(0.0, deadline - time.monotonic()))
            if holds(agent):
                return agent


def trainings(community: agentkd.Community, wave: str) -> Lessons:
    students = [community.agent(f"{wave} {number}", "unet", num_classes=5, base=8, depth=2) for number in range(4)]
    return [student.train(SPEC, epochs=2, batch_size=4, views=VIEWS) for student in students]


def lessons(community: agentkd.Community) -> Lessons:
    teacher = community.agent("first 0", "unet", num_classes=5, base=8, depth=2)
    students = [community.agent(f"taught {number}", "unet", num_classes=5, base=8, depth=2) for number in range(3)]
    return [student.distill(teacher, SPEC, epochs=2, batch_size=4, views=VIEWS) for student in students]


def digests(made: Lessons) -> list[str]:
    return [str(lesson.result(timeout=LESSON_S).weights) for lesson in made]


def undisturbed(place: Path) -> list[str]:
    with agentkd.Community(devices="cpu:2", record=place) as community:
        return [*digests(trainings(community, "first")), *digests(trainings(community, "second")), *digests(lessons(community))]


def test_agents_that_come_and_go_change_no_weights(tmp_path: Path) -> None:
    expected = undisturbed(tmp_path / "undisturbed")
    key, watcher, found = tmp_path / "guest.json", Listening(), list[str]()
    save_key_pair(key, new_key_pair())
    with contextlib.ExitStack() as ended:

        def come() -> "subprocess.Popen[bytes]":
            options = ["--key", key, "--run-folder", tmp_path / "elsewhere", *shlex.split(community.invitation)]
            process = subprocess.Popen(command("agent", *options), env=environment())
            ended.callback(process.wait, 20)
            ended.callback(process.kill)
            return process

        def kill_next_own() -> None:
            victim = watcher.next_start(lambda name: name in agents_of(os.getpid()))
            agents_of(os.getpid())[victim].kill()

        community = ended.enter_context(
            agentkd.Community(devices="cpu:2", teachers="cpu:1", record=tmp_path / "run", watcher=watcher, max_attempts=9)
        )
        guest = community.guest("hand", load_key_pair(key).public)

        made = trainings(community, "first")
        kill_next_own()
        by_hand = come()  # while the work goes on
        found += digests(made)
        wait_until(lambda: guest.is_here, timeout_s=LESSON_S)

        made = trainings(community, "second")
        watcher.next_start(lambda name: name == "hand")
        by_hand.send_signal(signal.SIGTERM)  # leaves with a task in hand
        assert by_hand.wait(timeout=60) == 0
        kill_next_own()  # who does it again, or something else
        by_hand = come()
        found += digests(made)
        wait_until(lambda: guest.is_here, timeout_s=LESSON_S)

        made = lessons(community)
        watcher.next_start(lambda name: name == "hand")
        by_hand.kill()  # falls silent
        kill_next_own()
        for process in agents_of(os.getpid()).values():  # those that teach, too
            process.kill()
        found += digests(made)
    assert found == expected, watcher.lines
    assert sum("was lost" in line for line in watcher.lines) >= 4, watcher.lines
    assert not verify(RunFolder(tmp_path / "run")).problems
