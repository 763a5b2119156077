"""Processes killed in the middle: the same table and the same weights as an undisturbed run, and no task recorded twice."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from experiments import agentkd, agents_of, command, environment, table_of, weights_of, write_experiment

from agentkd.artifacts.journal import Journal
from agentkd.artifacts.run_folder import RunFolder

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(400)]
STAGES = ["baseline", "search", "round1", "round2"]
STARTS = re.compile(r"(?P<agent>agent-\d+) starts (?P<stage>\w+) of")


class Run:
    """A coordinator as a process of its own, whose lines are read as they come."""

    def __init__(self, experiment: Path, out: Path) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            command("run", experiment, "--out", out),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(),
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def starts(self) -> Iterator[tuple[str, str]]:
        """(agent, stage) of every task that is started."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line)
            found = STARTS.search(line)
            if found:
                yield found["agent"], found["stage"]

    def agents(self) -> dict[str, psutil.Process]:
        return agents_of(self.process.pid)

    def end(self) -> str:
        for _ in self.starts():
            pass
        self.process.wait(60)
        return "".join(self.lines)


def check_same(run: Path, undisturbed: Path) -> None:
    assert weights_of(run) == weights_of(undisturbed)
    assert table_of(run) == table_of(undisturbed)


def kill_in_each_stage(
    tmp_path: Path, victims: Callable[[Run, str], list[psutil.Process]], stages: list[str]
) -> tuple[Path, str]:
    run = Run(write_experiment(tmp_path), tmp_path / "run")
    left = list(stages)
    for agent, stage in run.starts():
        if stage in left:
            left.remove(stage)
            for victim in victims(run, agent):
                victim.kill()
    output = run.end()
    assert run.process.returncode == 0, output
    assert not left
    return tmp_path / "run", output


def test_an_agent_killed_in_each_stage_changes_nothing(tmp_path: Path, undisturbed: Path) -> None:
    run, output = kill_in_each_stage(tmp_path, lambda run, agent: [run.agents()[agent]], STAGES)
    check_same(run, undisturbed)
    assert output.count(" was lost (") == len(STAGES)
    assert "(attempt 2)" in output
    with Journal(RunFolder(run).journal, read_only=True) as journal:
        assert max(record.attempts for record in journal.records()) == 2


def test_a_teacher_killed_while_it_teaches_changes_nothing(tmp_path: Path, undisturbed: Path) -> None:
    def others(run: Run, student: str) -> list[psutil.Process]:
        return [process for name, process in run.agents().items() if name != student]

    run, output = kill_in_each_stage(tmp_path, others, ["round1", "round2"])
    check_same(run, undisturbed)
    assert output.count(" was lost (") >= 2


def test_the_coordinator_killed_in_each_stage_and_started_again_goes_on(tmp_path: Path, undisturbed: Path) -> None:
    experiment = write_experiment(tmp_path)
    for stage in STAGES:
        run = Run(experiment, tmp_path / "run")
        agents = []
        for _, started in run.starts():
            if started == stage:
                agents = list(run.agents().values())
                run.process.kill()
                break
        assert agents
        run.end()
        _, alive = psutil.wait_procs(agents, timeout=10)
        assert not alive, "agents outlived their coordinator"
    done = agentkd("run", experiment, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stdout + done.stderr
    check_same(tmp_path / "run", undisturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_being_interrupted_ends_every_agent_and_the_run_can_be_resumed(tmp_path: Path, undisturbed: Path, number: int) -> None:
    experiment = write_experiment(tmp_path)
    run = Run(experiment, tmp_path / "run")
    for _, stage in run.starts():
        if stage == "search":
            agents = list(run.agents().values())
            os.kill(run.process.pid, number)
            break
    output = run.end()
    assert run.process.returncode == 130 and "run the same command again" in output
    _, alive = psutil.wait_procs(agents, timeout=10)
    assert not alive
    assert not [file for file in (tmp_path / "run").glob("keys/*") if file.is_file()]
    agentkd("run", experiment, "--out", tmp_path / "run")
    check_same(tmp_path / "run", undisturbed)


def test_a_stopped_agent_is_fenced_off(tmp_path: Path, undisturbed: Path) -> None:
    """Silent longer than its lease: the work moves on, and the agent is ended."""
    launch = {"devices": "cpu:2", "checkpoint_every_s": 0, "lease_s": 4}
    run = Run(write_experiment(tmp_path, launch=launch), tmp_path / "run")
    for agent, _ in run.starts():
        stopped = run.agents()[agent]
        stopped.send_signal(signal.SIGSTOP)
        break
    output = run.end()
    assert run.process.returncode == 0, output
    assert "silent for" in output
    assert not stopped.is_running()
    check_same(tmp_path / "run", undisturbed)


def test_a_finished_run_does_nothing_again(tmp_path: Path, undisturbed: Path) -> None:
    run = shutil.copytree(undisturbed, tmp_path / "run")
    started = time.monotonic()
    done = agentkd("run", run / "experiment.yaml", "--out", run)
    assert done.returncode == 0 and "starts" not in done.stdout
    assert time.monotonic() - started < 60
    assert weights_of(run) == weights_of(undisturbed)


def test_another_experiment_in_the_same_folder_is_refused_with_what_differs(tmp_path: Path, undisturbed: Path) -> None:
    run = shutil.copytree(undisturbed, tmp_path / "run")
    done = agentkd("run", write_experiment(tmp_path, seed=4), "--out", run)
    assert done.returncode == 2
    assert "seed: is 4 now, but this run was begun with 3" in done.stderr


def test_a_second_coordinator_on_one_run_is_refused(tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path)
    run = Run(experiment, tmp_path / "run")
    next(run.starts())
    run.process.send_signal(signal.SIGSTOP)  # so that it does not end meanwhile
    second = agentkd("run", experiment, "--out", tmp_path / "run")
    run.process.send_signal(signal.SIGCONT)
    run.process.send_signal(signal.SIGINT)
    run.end()
    assert second.returncode == 15
    assert f"in use by another coordinator (process {run.process.pid})" in second.stderr


def test_an_ensemble_of_teachers_and_other_policies_run(tmp_path: Path) -> None:
    rounds = {"round1": {"epochs": 1, "teachers": "ensemble"}, "round2": {"epochs": 1, "teachers": "best", "keep_best": False}}
    done = agentkd("run", write_experiment(tmp_path, **rounds), "--out", tmp_path / "run")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_coordinator_that_was_stopped_for_a_while_goes_on(tmp_path: Path, undisturbed: Path) -> None:
    """Longer than the lease that it gives: agents go on meanwhile, and nothing is lost."""
    launch = {"devices": "cpu:2", "checkpoint_every_s": 0, "lease_s": 3}
    run = Run(write_experiment(tmp_path, launch=launch), tmp_path / "run")
    for _, stage in run.starts():
        if stage == "search":
            break
    run.process.send_signal(signal.SIGSTOP)
    time.sleep(5)
    run.process.send_signal(signal.SIGCONT)
    output = run.end()
    assert run.process.returncode == 0, output
    check_same(tmp_path / "run", undisturbed)


def test_a_teacher_that_cannot_note_whom_it_teaches_stops_the_run_and_fails_no_lesson(tmp_path: Path, undisturbed: Path) -> None:
    """As where its disk is full: here folders stand where it would write who fetched what."""
    experiment, logs = write_experiment(tmp_path), tmp_path / "run" / "logs"
    run = Run(experiment, tmp_path / "run")
    for _ in run.starts():
        blocked = [logs / f"agent-{number}.audit.jsonl" for number in range(1, 40)]
        for place in blocked:
            place.mkdir(exist_ok=True)
        break
    output = run.end()
    assert run.process.returncode == 16, output
    assert "agent-" in output.splitlines()[-1] and ".audit.jsonl" in output.splitlines()[-1]
    for place in blocked:
        place.rmdir()
    done = agentkd("run", experiment, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stdout + done.stderr
    check_same(tmp_path / "run", undisturbed)


def test_a_full_disk_stops_the_run_with_the_reason_and_it_goes_on_when_there_is_room(tmp_path: Path, undisturbed: Path) -> None:
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("mount namespaces are not allowed here")
    experiment, disk = write_experiment(tmp_path), tmp_path / "disk"
    disk.mkdir()
    again = " ".join(command("run", experiment, "--out", disk / "run"))
    script = (
        f"mount -t tmpfs -o size=200k none {disk} || exit 99; {again}; echo ended with $?; "
        f"mount -o remount,size=100m {disk}; {again}; echo ended with $?; cp -r {disk}/run {tmp_path}/copy"
    )
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, env=environment(), timeout=200, check=False
    )
    if done.returncode == 99:
        pytest.skip("a small disk cannot be mounted here")
    assert "ended with 16" in done.stdout and "ended with 0" in done.stdout, done.stdout + done.stderr
    assert "free some space" in done.stderr
    check_same(tmp_path / "copy", undisturbed)
