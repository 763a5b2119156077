"""Own code goes to agents that run already, from the record and not from where it lies, and only to those that allow it."""

import contextlib
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from experiments import SPEC, command, environment
from own_script import RECIPE, edited, records, script, write

import agentkd
from agentkd.artifacts.run_folder import RunFolder
from agentkd.artifacts.verification import verify
from agentkd.exchange.keys import load_key_pair, new_key_pair, save_key_pair

pytestmark = pytest.mark.process


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, on the path of this process alone."""
    monkeypatch.syspath_prepend(str(tmp_path / "mine"))
    return write(tmp_path / "mine")


@contextlib.contextmanager
def kept(place: Path) -> Iterator[None]:
    """A community that another process keeps, which knows nothing of the user's folder."""
    arguments = command("community", place, "--devices", "cpu:1")
    process = subprocess.Popen(arguments, env=environment(), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout and "agentkd.Community.connect" in process.stdout.readline()
        yield
    finally:
        process.kill()
        process.wait()


def test_agents_that_run_already_load_the_new_code_after_each_edit(mine: Path, tmp_path: Path) -> None:
    place, made = tmp_path / "run", []
    with kept(place):
        for _ in edited(mine):
            made.append(script(agentkd.Community.connect(place)))
            count = len(records(place))
            assert script(agentkd.Community.connect(place)) == made[-1] and len(records(place)) == count
    assert len(set(made)) == 4 and count == 5
    assert len({record.agent for record in records(place)}) == 1, "one agent did all of it"
    assert not verify(RunFolder(place)).problems


@pytest.mark.parametrize("allowed", [False, True])
def test_an_agent_that_somebody_else_starts_runs_own_code_only_if_it_is_allowed(
    allowed: bool, mine: Path, tmp_path: Path
) -> None:
    save_key_pair(tmp_path / "guest.json", new_key_pair())
    options = ["--key", tmp_path / "guest.json", "--run-folder", tmp_path / "elsewhere", *(["--allow-code"] if allowed else [])]
    with agentkd.Community(devices="none", record=tmp_path / "run") as community:
        community.guest("by hand", load_key_pair(tmp_path / "guest.json").public)
        arguments = command("agent", *options, *shlex.split(community.invitation), "--transport", "tcp")
        process = subprocess.Popen(arguments, env=environment())
        try:
            student = community.agent("student", "my_nets:Small", num_classes=5)
            lesson = student.train(SPEC, **RECIPE)
            if allowed:
                assert lesson.result(timeout=120).weights
            else:
                with pytest.raises(agentkd.TrainingError, match=r"runs no code of a coordinator's user .*--allow-code"):
                    lesson.result(timeout=120)
        finally:
            process.kill()
            process.wait()
    code = student.architecture.code
    assert (code in RunFolder(tmp_path / "elsewhere").store) is allowed, "it is not even fetched"
