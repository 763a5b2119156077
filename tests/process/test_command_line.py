"""The command line as a user meets it: what it prints, and how it refuses."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from experiments import agentkd, write_experiment

import agentkd as library

pytestmark = pytest.mark.process
COUNTS_K2 = {
    "pidnet_s": 7_716_549,
    "pidnet_m": 28_758_725,
    "pidnet_l": 37_305_573,
    "cnn_i2i_bisenet": 18_408_758,
    "unet": 7_763_074,
}


def test_help_answers_and_teaches() -> None:
    done = agentkd("--help")
    assert done.returncode == 0
    assert agentkd("--version").stdout == f"agentkd {library.__version__}\n"
    for name in ("run", "demo", "report", "networks", "doctor", "agentkd demo"):
        assert name in done.stdout


def test_networks_prints_the_counts_as_json() -> None:
    rows = json.loads(agentkd("networks", "--classes", 2, "--format", "json").stdout)
    assert {row["family"]: row["total"] for row in rows}.items() >= COUNTS_K2.items()
    assert set(rows[0]) == {"family", "num_classes", "channels", "settings", "total", "network", "deploy"}
    given = ["--family", "pidnet_s", "--set", "ppm_planes=16", "--set", "head_planes=16", "--format", "json"]
    assert [json.loads(agentkd("networks", "--classes", k, *given).stdout)[0]["total"] for k in (2, 5)] == [6_942_117, 6_942_219]


def test_a_family_that_does_not_exist_is_refused() -> None:
    done = agentkd("networks", "--family", "resnet")
    assert done.returncode == 2 and "no family 'resnet'" in done.stderr and "Traceback" not in done.stderr


def test_bad_experiment_files_are_refused_before_any_process_starts(tmp_path: Path) -> None:
    path = write_experiment(tmp_path, data={"dataset": "folder:path=/nowhere"}, baseline={"epochs": "x"}, serach={})
    done = agentkd("run", path, "--out", tmp_path / "run")
    assert done.returncode == 2
    for text in (
        "3 problems",
        "serach: unknown key; did you mean 'search'?",
        "baseline.epochs:",
        "data.dataset: /nowhere: no such folder",
    ):
        assert text in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    done = agentkd("run", write_experiment(tmp_path), "--out", tmp_path / "run", "--devices", "cuda:7", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2 and "cuda:7 is not there; there is no CUDA device" in done.stderr
    assert not (tmp_path / "run" / "journal.sqlite").exists()


def test_a_busy_port_is_refused(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        path = write_experiment(tmp_path, launch={"devices": "cpu:1", "port": taken.getsockname()[1]})
        done = agentkd("run", path, "--out", tmp_path / "run")
    assert done.returncode == 14 and "is the port in use?" in done.stderr


def test_a_report_of_no_run_is_refused(tmp_path: Path) -> None:
    done = agentkd("report", tmp_path)
    assert done.returncode == 15 and "is not a run folder" in done.stderr


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = agentkd("run", write_experiment(tmp_path), "--out", tmp_path / "file" / "run")
    assert done.returncode == 16 and "cannot write" in done.stderr


@pytest.mark.slow
def test_a_full_disk_stops_the_run_with_a_reason_and_it_goes_on_when_there_is_room(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(disk)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        experiment = write_experiment(tmp_path)
        full = agentkd("run", experiment, "--out", disk / "run")
        assert full.returncode == 16, full.stdout + full.stderr
        assert "free some space" in full.stderr
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        again = agentkd("run", experiment, "--out", disk / "run")
        assert again.returncode == 0, again.stdout + again.stderr
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def test_doctor_finds_this_machine_fit() -> None:
    findings = json.loads(agentkd("doctor", "--format", "json").stdout)
    assert all(finding["is_ok"] for finding in findings), findings


def test_an_agent_without_its_parent_does_not_start(tmp_path: Path) -> None:
    from agentkd.exchange.keys import new_key_pair, save_key_pair

    save_key_pair(tmp_path / "keys" / "a.json", new_key_pair())
    given = ["--join", "tcp://127.0.0.1:9", "--key", tmp_path / "keys" / "a.json", "--coordinator-key", new_key_pair().public]
    done = agentkd("agent", *given, "--run-folder", tmp_path, "--parent", 1 if sys.platform == "linux" else 999_999)
    assert done.returncode == 14


def test_weights_that_one_has_are_imported_and_every_training_of_the_family_starts_from_them(tmp_path: Path) -> None:
    import torch

    from agentkd.artifacts.journal import Journal
    from agentkd.artifacts.run_folder import RunFolder
    from agentkd.networks.build import build
    from agentkd.networks.families import resolve

    torch.save(build(resolve("tiny_networks:tiny", 5), seed=99).state_dict(), tmp_path / "published.pt")
    imported = tmp_path / "tiny.safetensors"
    done = agentkd("weights", tmp_path / "published.pt", imported, "--family", "tiny_networks:tiny")
    assert done.returncode == 0 and "0 left as initialized" in done.stdout, done.stderr
    families = {"tiny_networks:tiny": {"weights": str(imported)}}
    done = agentkd("run", write_experiment(tmp_path, families=families), "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    with Journal(RunFolder(tmp_path / "run").journal, read_only=True) as journal:
        pretrained = {record.task.pretrained for record in journal.records() if record.task.kind == "train"}
    assert len(pretrained) == 1 and pretrained.pop() in RunFolder(tmp_path / "run").store
    rows = json.loads(agentkd("report", tmp_path / "run", "--format", "json").stdout)
    assert [row["stage"] for row in rows] == ["baseline", "search", "round1", "round2"]


def test_a_baseline_that_cannot_be_trained_stops_the_run_with_the_reason_and_is_not_recorded(tmp_path: Path) -> None:
    from experiments import weights_of

    done = agentkd("run", write_experiment(tmp_path, families=["tiny_networks:broken"]), "--out", tmp_path / "run")
    assert done.returncode == 18
    told = " ".join(done.stderr.split())
    assert "baseline of tiny_networks:broken failed in attempt 3 (internal): network tiny_networks:broken: <code " in told
    assert "/tiny_modules.py, line 30: RuntimeError: this network is broken" in told
    assert weights_of(tmp_path / "run") == {}
