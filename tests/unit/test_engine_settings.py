"""What ``launch`` asks of engines, and how an agent is told its key."""

import io
import json
import os

import pytest
import typer
from planning import experiment
from pydantic import ValidationError

from agentkd.artifacts.run_folder import RunFolder
from agentkd.checks.before import look_at
from agentkd.cli.app import given_fields
from agentkd.cli.typed import bind
from agentkd.config import launch_settings
from agentkd.errors import ConfigError
from agentkd.exchange.keys import hear_key_pair, new_key_pair
from agentkd.launch.command import CommandLauncher, SrunLauncher, SshLauncher
from agentkd.launch.devices import Slot, count_cuda_devices, share_devices
from agentkd.launch.launcher import Contact, Demand
from agentkd.launch.settings import LaunchConfig
from agentkd.plain import read_yaml


def test_agents_here_share_devices_evenly_and_those_of_an_engine_have_what_it_gives() -> None:
    assert [slot.device for slot in share_devices(3, 0.5, 2, cuda_count=2)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert launch_settings({"agents": 2, "cpus_per_agent": 3}).slots == (Slot("cpu", 3),) * 2
    assert launch_settings({"engine": "srun", "agents": 2, "gpus_per_agent": 1}).slots == (Slot("cuda:0", 1),) * 2
    assert launch_settings({"engine": "ray", "agents": 1}).slots == (Slot("cpu", 1),)


@pytest.mark.parametrize(
    ("agents", "gpus", "text"),
    [(5, 0.5, r"5 with 0.5 GPUs each do not fit on 2 CUDA devices; 4 do"), (1, 2.0, "one device, not on 2")],
)
def test_what_does_not_fit_on_this_machine_is_refused(agents: int, gpus: float, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        share_devices(agents, gpus, 1, cuda_count=2)


def test_an_engine_elsewhere_must_be_told_how_many_agents() -> None:
    with pytest.raises(ConfigError, match=r"launch\.agents: how many"):
        _ = launch_settings({"engine": "ray"}).slots


def test_a_key_is_one_line_and_what_follows_is_left() -> None:
    keys = new_key_pair()
    told = io.BytesIO(keys.line().encode() + b"more")
    assert hear_key_pair(told) == keys and told.read() == b"more"


@pytest.mark.parametrize(
    "said", [b"", b"\n", b"{}\n", b"[1]\n", b"x" * 2**17, json.dumps({"public": "a", "secret": "b"}).encode()]
)
def test_what_is_no_key_is_told_and_not_repeated(said: bytes) -> None:
    with pytest.raises(ConfigError, match="standard input does not say a key"):
        hear_key_pair(io.BytesIO(said))


def test_an_agent_is_told_all_endpoints_and_no_secret(tmp_path) -> None:
    keys = new_key_pair()
    contact = Contact(("ipc:///a", "tcp://10.0.0.1:5"), keys.public, "auto", 30, 1, bind="auto")
    words = contact.arguments(RunFolder(tmp_path), "agent-1", Slot("cpu", 2))
    assert {"--join=ipc:///a", "--join=tcp://10.0.0.1:5", "--bind=auto", "--key=-", "--threads=2", "--name=agent-1"} <= set(words)
    assert f"--coordinator-key={keys.public}" in words and keys.secret not in " ".join(words)


def with_commands(place, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        (place / name).write_text("#!/bin/sh\n")
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")


def test_a_step_says_exactly_what_it_takes_and_what_a_user_says_comes_behind(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_commands(tmp_path, monkeypatch, "srun")
    launcher = SrunLauncher(RunFolder(tmp_path), Demand(gpus_per_agent=2, options=("--mem=4G",)))
    words = launcher._prefix(0, Slot("cuda:0", 4))
    assert words[:2] == ["srun", "--exact"] and words[-2:] == ["--gpus=2", "--mem=4G"]
    assert "--mem=0" in words and "--cpus-per-task=4" in words


def test_hosts_take_turns_and_the_line_for_a_shell_there_is_quoted(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_commands(tmp_path, monkeypatch, "ssh")
    launcher = SshLauncher(RunFolder(tmp_path), Demand(options=("one", "-p2222", "ann@two")))
    assert [launcher._prefix(number, Slot("cpu", 1))[-1] for number in range(3)] == ["one", "ann@two", "one"]
    assert "-p2222" in launcher._prefix(0, Slot("cpu", 1))
    assert launcher._quoted(["agentkd", "--coordinator-key=-$(k)!&'"]) == ["agentkd '--coordinator-key=-$(k)!&'\"'\"''"]


@pytest.mark.parametrize(
    ("launch", "unused"),
    [
        ({"devices": "cpu:2"}, set()),
        ({"devices": "cpu:2", "gpus_per_agent": 0.5, "cpus_per_agent": 2}, {"gpus_per_agent", "cpus_per_agent"}),
        ({"agents": 1, "cpus_per_agent": 2}, set()),
        ({"agents": 1, "devices": "cpu:2", "options": ["-x"], "python": "python3"}, {"devices", "options", "python"}),
        ({"engine": "command", "agents": 1, "options": ["env"], "devices": "cpu:2"}, {"devices"}),
        ({"engine": "command", "agents": 1, "options": ["env"], "python": "python3", "gpus_per_agent": 0.5}, set()),
    ],
)
def test_what_an_engine_does_not_look_at_is_said(launch: dict[str, object], unused: set[str]) -> None:
    concerns = look_at(experiment(launch=launch)).concerns
    said = {one.path.removeprefix("launch.") for one in concerns if "changes nothing here" in one.text and not one.is_error}
    assert said == unused


@pytest.mark.parametrize(
    ("launch", "path", "text"),
    [
        ({"agents": 2, "gpus_per_agent": 1}, "launch.agents", "do not fit"),
        ({"agents": 5000}, "launch.agents", "5,000 agents are more than the 1,024"),
        ({"devices": "cpu:2", "min_agents": 5}, "launch.min_agents", "5 are to be enough"),
        ({"bind": "192.0.2.1"}, "launch.bind", "no address of this host"),
    ],
)
def test_what_is_wrong_is_told_once_under_its_own_name_before_anything_is_made(
    launch: dict[str, object], path: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    errors = [one for one in look_at(experiment(launch=launch)).concerns if one.is_error]
    assert len({one.problem for one in errors}) == 1 and errors[0].path == path and text in errors[0].text


def test_options_are_words_and_numbers_are_words_too() -> None:
    assert LaunchConfig(options=["docker", "--cpus", 4]).options == ("docker", "--cpus", "4")
    for given, text in (("env", r"words in a list, such as \[env\]"), (["env", True], "True is no word; put it in quotes")):
        with pytest.raises(ValidationError, match=text):
            LaunchConfig(options=given)


@pytest.mark.parametrize("value", ["*", "yes", "7", "a: b", "cpu:2"])
def test_text_that_an_option_gives_is_text_whatever_yaml_would_make_of_it(value: str) -> None:
    [field] = given_fields(None, bind=value)
    name, _, text = field.partition("=")
    assert name == "launch.bind" and read_yaml(text) == value


def test_no_place_to_listen_is_refused_and_not_taken_for_loopback() -> None:
    with pytest.raises(typer.BadParameter, match="it is empty"):
        bind(" ")


@pytest.mark.parametrize(("gpus", "seen"), [(0.0, True), (1.0, False)])
def test_agents_that_are_to_have_no_gpu_see_none(gpus: float, seen: bool, tmp_path) -> None:
    launcher = CommandLauncher(RunFolder(tmp_path), Demand(gpus_per_agent=gpus, options=("env",)))
    assert (launcher._environment(Slot("cpu", 1)).get("CUDA_VISIBLE_DEVICES") == "") is seen


@pytest.mark.parametrize(("visible", "count"), [("", 0), ("-1", 0), ("0,1", 2), ("0, -1", 1)])
def test_a_device_that_is_hidden_is_not_counted(visible: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert count_cuda_devices() == count


def test_what_is_typed_to_interrupt_a_run_does_not_reach_the_commands_that_it_has_started(tmp_path) -> None:
    """They are ended in good order instead; so each has a session of its own."""
    launcher = CommandLauncher(RunFolder(tmp_path), Demand(options=("sh", "-c", "cat; exit 0", "sh")))
    try:
        started = launcher.start("agent-1", Slot("cpu", 1), (), new_key_pair())
        assert os.getsid(started.process.pid) == started.process.pid != os.getsid(0)
    finally:
        launcher.close()
    assert started.poll() == 0
