"""Scripts that come to a community which another process keeps: they share agents and records, and it outlives them."""

import contextlib
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from experiments import SPEC, command, environment
from sides import wait_until

import agentkd
from agentkd.artifacts.journal import Journal
from agentkd.artifacts.run_folder import RunFolder
from agentkd.errors import ChannelClosedError, RemoteAgentError
from agentkd.exchange.grants import Registry
from agentkd.exchange.keys import new_key_pair

RECIPE = {"views": agentkd.ViewSettings(crop_height=32, crop_width=32, scale_min=1.0, scale_max=1.0)}
NETWORK = {"base": 8, "depth": 2}
pytestmark = pytest.mark.process


@contextlib.contextmanager
def kept(place: Path) -> "Iterator[subprocess.Popen[str]]":
    process = subprocess.Popen(
        command("community", place, "--devices", "cpu:2"), env=environment(), stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout and "agentkd.Community.connect" in process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.wait()


def test_scripts_come_and_go_and_share_agents_and_records(tmp_path: Path) -> None:
    place = tmp_path / "run"
    with pytest.raises(agentkd.AgentKDError, match="not a run folder"):
        agentkd.Community.connect(place)
    with kept(place) as keeper:
        with agentkd.Community.connect(place) as one, agentkd.Community.connect(place) as other:
            teacher = one.agent("teacher", "unet", **NETWORK)
            lesson = other.agent("teacher", "unet", **NETWORK).train(SPEC, epochs=2, **RECIPE)
            learned = teacher.train(SPEC, epochs=2, **RECIPE)
            assert [event.steps for event in learned.progress()][-1] == 8
            assert learned.result() == lesson.result(), "the same work, asked for twice, is done once"
            student = other.agent("student", "unet", base=16, depth=2)
            master = other.agent("master", "unet", weights=learned.result().weights, **NETWORK)
            assert student.distill(master, SPEC, epochs=1, **RECIPE).result().exchange.requests == 4
            with pytest.raises(agentkd.TrainingError, match="spp"):
                teacher.feature_maps(agentkd.open_dataset(SPEC).views([0]), taps=["spp"]).result()
            with pytest.raises(agentkd.ConfigError, match="process that keeps the community"):
                other.guest("ann", new_key_pair().public)
            assert other.recordings.num_lessons == 0
            abandoned = one.agent("slow", "unet", **NETWORK).train(SPEC, epochs=3, **RECIPE)
        with pytest.raises(ChannelClosedError, match="connect again"):
            abandoned.result()
        with agentkd.Community.connect(place) as again:
            assert again.agent("slow", "unet", **NETWORK).train(SPEC, epochs=3, **RECIPE).result().epochs == 3
        entries = Registry(RunFolder(place).visitors).entries().values()
        assert len(entries) == 3 and all(entry.is_revoked for entry in entries)
        keeper.send_signal(signal.SIGTERM)
        assert keeper.wait(timeout=30) == 0
    with Journal(RunFolder(place).journal, read_only=True) as journal:
        assert len(list(journal.records())) == 3
    with pytest.raises(agentkd.ConfigError, match="nobody keeps a community"), agentkd.Community.connect(place):
        pass


def test_a_script_is_told_when_its_community_ends_or_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentkd.community.visit.PING_EVERY_S", 0.2)
    monkeypatch.setattr("agentkd.community.visit.GONE_AFTER_S", 2.0)
    for number, kind, text in ((1, signal.SIGTERM, "was closed before this was done"), (2, signal.SIGKILL, "does not answer")):
        place = tmp_path / str(number)
        with kept(place) as keeper, agentkd.Community.connect(place) as script:
            lesson = script.agent("a", "unet", **NETWORK).train(SPEC, epochs=500, **RECIPE)
            next(lesson.progress())
            keeper.send_signal(kind)
            with pytest.raises(ChannelClosedError, match=text):
                lesson.result(timeout=60)
            wait_until(lambda script=script: not script._works.is_open, timeout_s=20)
            with pytest.raises(ChannelClosedError, match="closed"):
                script.agent("b", "unet", **NETWORK).train(SPEC, epochs=1, **RECIPE)
    with pytest.raises(agentkd.ConfigError, match="nobody keeps a community"), agentkd.Community.connect(tmp_path / "2"):
        pass


def test_whoever_may_not_hand_in_tasks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentkd.community.visit.TASKS", "weights")
    with (
        agentkd.Community(devices="cpu:1", record=tmp_path / "run"),
        agentkd.Community.connect(tmp_path / "run") as script,
        pytest.raises(RemoteAgentError, match="may not fetch tasks"),
    ):
        script.agent("a", "unet", **NETWORK).train(SPEC, epochs=1, **RECIPE).result(timeout=30)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("agentkd")]
