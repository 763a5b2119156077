"""Agents that are started by hand: they come, do what the community does, leave, and come back."""

import contextlib
import shlex
import signal
import subprocess
from pathlib import Path

import pytest
from experiments import SPEC, command, environment
from sides import wait_until

import agentkd
from agentkd.exchange.keys import load_key_pair, new_key_pair, save_key_pair

VIEWS = agentkd.ViewSettings(crop_height=32, crop_width=32, scale_min=1.0, scale_max=1.0)
pytestmark = pytest.mark.process


def test_an_agent_started_by_hand_learns_leaves_and_comes_back(tmp_path: Path) -> None:
    save_key_pair(tmp_path / "guest.json", new_key_pair())
    ended = contextlib.ExitStack()

    def come() -> "subprocess.Popen[bytes]":
        options = ["--key", tmp_path / "guest.json", "--run-folder", tmp_path / "elsewhere", *shlex.split(community.invitation)]
        process = subprocess.Popen(command("agent", *options), env=environment())
        ended.callback(process.kill)
        return process

    with ended:
        with agentkd.Community(devices="none", record=tmp_path / "run") as community:
            guest = community.guest("by hand", load_key_pair(tmp_path / "guest.json").public)
            student = community.agent("student", "unet", num_classes=5, base=8, depth=2)
            first = student.train(SPEC, epochs=1, views=VIEWS)
            process = come()
            weights = first.result(timeout=120).weights
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == 0
            wait_until(lambda: not guest.is_here, timeout_s=20)
            second = student.train(SPEC, epochs=1, views=VIEWS)
            process = come()
            assert second.result(timeout=120).weights not in ("", weights)
        assert process.wait(timeout=20) == 0, "it was asked to leave with the community"
