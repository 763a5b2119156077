"""One teach-and-distil script has one weights digest, whatever starts its agents: this machine, SLURM or Ray, on one host or two.

Real clusters, in namespaces of their own, brought up by the scripts in ``AGENTKD_LAUNCHING``; ``make engines`` installs what they
need.
"""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from experiments import EXPERIMENT, agentkd, command, environment, weights_of, write_experiment

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.engines, pytest.mark.timeout(900)]
TESTS = Path(__file__).parents[1]
SCRIPTS = Path(os.environ.get("AGENTKD_LAUNCHING", ""))
RAY = Path(sys.executable).with_name("ray")
APART = ("unshare", "--net", "--pid", "--uts", "--mount", "--fork", "--kill-child", "--mount-proc")
IN_STEPS = ("salloc", "-N2", "-n4", "-Q")
# Of an agent's command line in a process list; the brackets keep the command that looks for it from finding itself.
AGENT_2 = "--name=agent-[2] "
# A family of the library's own, whose agents stay from task to task; two trials side by side.
SMALL: dict[str, Any] = {
    "families": {"unet": {"settings": {"base": 8, "depth": 1, "convs": 1}, "space": {"convs": [1, 2]}}},
    "search": EXPERIMENT["search"] | {"trials": 2, "recipe_space": {}},
}


def missing(cluster: str) -> str:
    """Why such a cluster cannot be brought up here; empty if it can."""
    if not (SCRIPTS / f"{cluster}-one-host").is_file():
        return "AGENTKD_LAUNCHING names no folder with the scripts that bring up clusters"
    if os.geteuid() != 0 or subprocess.run([*APART, "true"], capture_output=True, check=False).returncode:
        return "namespaces of their own are root's to make, and not made here"
    if cluster == "slurm" and not all(map(shutil.which, ("slurmctld", "slurmd", "srun", "munged", "ip"))):
        return "SLURM is not installed; make engines installs it"
    if cluster == "ray" and (importlib.util.find_spec("ray") is None or not RAY.is_file()):
        return "Ray is not installed; make engines installs it"
    return ""


@pytest.fixture
def run() -> Iterator[Callable[..., str]]:
    """Runs a script of the tests in a cluster, or here, and returns what it said. Fails if it leaves a socket behind."""
    # Short paths, for sockets lie in them. A cluster's own files go with it; munge wants others to reach its socket.
    with tempfile.TemporaryDirectory(prefix="kd") as runtime, tempfile.TemporaryDirectory(prefix="kd") as clusters:
        Path(clusters).chmod(0o755)

        def run_in(cluster: str, *command: str) -> str:
            if cluster and (reason := missing(cluster.partition("-")[0])):
                pytest.skip(reason)
            before = (*APART, str(SCRIPTS / cluster)) if cluster else ()
            more = {"XDG_RUNTIME_DIR": runtime, "RAY": str(RAY), "CPUS": "3", "TMPDIR": clusters}
            done = subprocess.run(
                [*before, *command], capture_output=True, text=True, env=environment(**more), timeout=600, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout + done.stderr

        yield run_in
        assert not list(Path(runtime).rglob("*.sock"))


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest as it is without a cluster."""
    command = lesson(tmp_path_factory.mktemp("here"), "devices=cpu:2")
    return digest(subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300, check=True).stdout)


def lesson(place: Path, *words: str) -> tuple[str, ...]:
    return sys.executable, str(TESTS / "lesson_by_an_engine.py"), str(place / "run"), *words


def digest(said: str) -> str:
    found = re.search(r"^weights ([0-9a-f]{64})$", said, re.MULTILINE)
    assert found, said
    return found[1]


@pytest.mark.parametrize(("engine", "cluster"), [("srun", "slurm-one-host"), ("ray", "ray-one-host")])
def test_an_engine_keeps_to_the_contract_of_launchers(engine: str, cluster: str, run: Callable[..., str], tmp_path: Path) -> None:
    steps = IN_STEPS if engine == "srun" else ()
    said = run(cluster, *steps, sys.executable, str(TESTS / "contract_by_an_engine.py"), engine, str(tmp_path))
    assert "the contract is kept" in said


def test_steps_of_slurm_teach_as_forks_do(here: str, run: Callable[..., str], tmp_path: Path) -> None:
    assert digest(run("slurm-one-host", *IN_STEPS, *lesson(tmp_path, "engine=srun", "agents=2"))) == here


def test_a_step_that_is_cancelled_in_mid_lesson_changes_nothing(here: str, run: Callable[..., str], tmp_path: Path) -> None:
    lost = lesson(tmp_path, "engine=srun", "agents=2", "--then", "scancel $SLURM_JOB_ID.1")
    said = run("slurm-one-host", *IN_STEPS, *lost)
    assert digest(said) == here and "agent agent-2 was lost" in said


@pytest.mark.parametrize("own_folders", ["false", "true"])
def test_steps_on_two_hosts_teach_as_forks_do(here: str, own_folders: str, run: Callable[..., str], tmp_path: Path) -> None:
    # A step that takes both cores of a host leaves no room there for the other.
    settings = ("engine=srun", "agents=2", "bind=v0", "options=[--cpus-per-task=2]", f"own_folders={own_folders}")
    said = run("slurm-two-hosts", *IN_STEPS, *lesson(tmp_path, *settings, "--then", "squeue -h -s -o '%N=%j'"))
    assert digest(said) == here
    assert {"node0", "node1"} == set(re.findall(r"(node\d)=agent-\d", said))


def test_actors_of_ray_teach_as_forks_do_and_a_worker_that_is_killed_changes_nothing(
    here: str, run: Callable[..., str], tmp_path: Path
) -> None:
    kill = f'kill -9 $(ps -o ppid= -p $(pgrep -of -- "{AGENT_2}"))'
    said = run("ray-one-host", *lesson(tmp_path, "engine=ray", "agents=2", "--then", kill))
    assert digest(said) == here and "agent agent-2 was lost" in said


def test_actors_on_two_hosts_teach_as_forks_do(here: str, run: Callable[..., str], tmp_path: Path) -> None:
    said = run("ray-two-hosts", *lesson(tmp_path, "engine=ray", "agents=2", "bind=v0", "own_folders=true"))
    assert digest(said) == here


@pytest.fixture(scope="module")
def kd_nas_here(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digests of a KD-NAS run as they are without a cluster."""
    place = tmp_path_factory.mktemp("kd-nas")
    done = agentkd("run", write_experiment(place, **SMALL), "--out", place / "run", timeout_s=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return weights_of(place / "run")


@pytest.mark.parametrize(
    ("engine", "cluster", "settings"),
    [("srun", "slurm-two-hosts", {"agents": 2, "bind": "v0", "own_folders": True}), ("ray", "ray-one-host", {"agents": 1})],
)
def test_kd_nas_in_a_cluster_ends_as_by_forks(
    engine: str, cluster: str, settings: dict[str, Any], kd_nas_here: dict[str, str], run: Callable[..., str], tmp_path: Path
) -> None:
    given = write_experiment(tmp_path, **SMALL, launch={"engine": engine} | settings)
    steps = IN_STEPS if engine == "srun" else ()
    run(cluster, *steps, *command("run", given, "--out", tmp_path / "run"))
    assert weights_of(tmp_path / "run") == kd_nas_here


def test_what_ray_has_no_room_for_is_told_in_time(run: Callable[..., str], tmp_path: Path) -> None:
    asked = lesson(tmp_path, "engine=ray", "agents=1", "gpus_per_agent=0.5", "options=[wait_s=1]")
    said = run("ray-one-host", "sh", "-c", f"! {shlex.join(asked)}")
    assert re.search(r"Ray had no room for agent-\d within 1 s: it needs GPU 0.5, and of 0 in all 0 are free", said)


def test_a_head_of_ray_that_is_lost_in_mid_lesson_is_told_and_nothing_is_left(run: Callable[..., str], tmp_path: Path) -> None:
    kill = "kill -9 $(pgrep -f '[g]cs_server') $(pgrep -f '[r]aylet/raylet')"
    asked = shlex.join(lesson(tmp_path, "engine=ray", "agents=1", "--then", kill))
    said = run("ray-one-host", "sh", "-c", f"! {asked}; ! pgrep -f '[a]gentkd agent'")
    assert re.search(r"LaunchError: Ray's head at 127.0.0.1:6399 is lost: it did not answer 5 times in a row", said), said


def test_an_address_where_no_head_of_ray_answers_is_told_before_ray_is_asked(run: Callable[..., str], tmp_path: Path) -> None:
    asked = lesson(tmp_path, "engine=ray", "agents=1", "options=['address=127.0.0.1:1']")
    said = run("ray-one-host", "sh", "-c", f"! {shlex.join(asked)}")
    assert "no head of Ray answers at 127.0.0.1:1 within 5 s" in said


def test_a_worker_that_ray_is_slow_to_start_is_no_lack_of_room(run: Callable[..., str], tmp_path: Path) -> None:
    asked = lesson(tmp_path, "engine=ray", "agents=1", "options=[wait_s=0.001]")
    said = run("ray-one-host", "sh", "-c", f"! {shlex.join(asked)}")
    assert re.search(r"Ray did not start agent-\d within 0.001 s, though it has CPU 1 free in all", said), said
