"""What a run leaves for people: tables, figures and one page, also of a run that is not finished."""

import csv
import math
import re
from datetime import timedelta
from pathlib import Path

import optuna
import pytest
from experiments import SPEC, agentkd, command, environment, write_experiment

from agentkd.artifacts.run_folder import RunFolder
from agentkd.config import load_experiment
from agentkd.coordinator.run import run_experiment
from agentkd.coordinator.watching import Snapshot
from agentkd.report.live import render, status_line
from agentkd.report.write import write_report

pytestmark = pytest.mark.process


class Recorder:
    """A watcher that keeps what it is shown."""

    def __init__(self) -> None:
        self.snapshots: list[Snapshot] = []
        self.lines: list[str] = []

    def show(self, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)

    def tell(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recorder]:
    """A finished run, made through the Python API while somebody watched."""
    folder = tmp_path_factory.mktemp("report")
    recorder = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
        experiment = load_experiment(write_experiment(folder, round2={"epochs": 80}))  # long enough to be watched
        run_experiment(experiment, RunFolder(folder / "run"), recorder)
    write_report(RunFolder(folder / "run"))
    return folder / "run", recorder


def test_the_table_is_complete(watched) -> None:
    place, _ = watched
    with (place / "report" / "table.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["stage"] for row in rows] == ["baseline", "search", "round1", "round2"] * 2
    assert all(int(row["num_parameters_deploy"]) > 0 and int(row["num_macs"]) > 0 and len(row["task"]) == 64 for row in rows)


def test_the_page_is_self_contained_and_says_that_the_scenes_are_generated(watched) -> None:
    page = (watched[0] / "report" / "report.html").read_text(encoding="utf-8")
    assert "<strong>generated</strong>" in page
    assert page.count("data:image/png;base64,") == 2 * 7, "on light paper and on dark"
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", page)
    assert "<script" not in page
    assert re.search(r"with \d+ parameters, \d+\.\d\d %, against .* of the best baseline: [\d.]+ % fewer parameters", page)
    assert page.count("the fewest parameters within 0.70 points of the best mIoU") >= 3, "why each was chosen"


def test_figures_and_other_forms_are_there(watched) -> None:
    written = {path.name for path in (watched[0] / "report").iterdir()}
    figures = {f"{name}.png" for name in ("journey", "pareto", "search", "curves", "teaching", "lineage", "pictures")}
    assert written == figures | {"table.csv", "table.md", "table.tex", "test.csv", "lessons.csv", "choices.csv", "report.html"}


def test_optunas_tools_open_the_studies(watched) -> None:
    names = optuna.get_all_study_names(f"sqlite:///{watched[0]}/study.db")
    assert sorted(names) == ["tiny-tiny_networks:other", "tiny-tiny_networks:tiny"]
    for name in names:
        trials = optuna.load_study(study_name=name, storage=f"sqlite:///{watched[0]}/study.db").trials
        completed = [trial for trial in trials if math.isfinite(trial.value or 0.0)]
        assert completed and all(trial.duration > timedelta(0) for trial in completed), "each took its time"


def test_a_watcher_sees_agents_stages_and_the_time_left(watched) -> None:
    from rich.console import Console

    snapshots = watched[1].snapshots
    doing = {activity.doing for snapshot in snapshots for activity in snapshot.activities}
    assert any("round2" in text for text in doing) and any("teaches" in text for text in doing)
    assert any(activity.steps for snapshot in snapshots for activity in snapshot.activities)
    assert "tasks are done" in status_line(snapshots[-1]) and "best" in status_line(snapshots[-1])
    assert snapshots[0].num_recorded == 0 and snapshots[-1].num_recorded == snapshots[-1].num_expected
    assert any(one.left_s for one in snapshots) and not any("0:00 left" in status_line(one) for one in snapshots)
    console = Console(width=140, record=True, file=Path("/dev/null").open("w"))  # noqa: SIM115
    console.print(render(snapshots[-1], ["a line"]))
    text = console.export_text()
    assert "tiny" in text and "round2" in text and "taught by" in text


def test_lines_tell_who_does_what_and_what_came_of_it(watched) -> None:
    text = "\n".join(watched[1].lines)
    assert re.search(r"agent-\d+ starts round2 of tiny_networks:\w+: .* teaches", text)
    assert re.search(r"tiny_networks:other baseline, baseline: mIoU \d+\.\d\d %", text)


def test_an_unfinished_run_has_a_report_too(tmp_path: Path) -> None:
    import subprocess

    process = subprocess.Popen(
        command("run", write_experiment(tmp_path), "--out", tmp_path / "run"),
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout
    for line in process.stdout:
        if "starts search" in line:
            break
    process.kill()
    process.communicate()
    done = agentkd("report", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "not finished" in (tmp_path / "run" / "report" / "report.html").read_text(encoding="utf-8")


def test_a_script_teaches_and_is_answered_from_the_records_when_run_again(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    from agentkd import Community, ConfigError, TrainingError, ViewSettings

    views = ViewSettings(crop_height=32, crop_width=32)
    digests = []
    for _ in range(2):
        with Community(devices="cpu:2", record=tmp_path / "run") as community:
            big = community.agent("big", "unet", num_classes=5, base=8, depth=2)
            small = community.agent("small", "unet", num_classes=5, base=8, depth=1)
            with pytest.raises(ConfigError, match="big has no weights yet"):
                small.distill(big, SPEC)
            with pytest.raises(ConfigError, match=r"a network 'big' .*take another name"):
                community.agent("big", "unet", num_classes=5)
            big.train(SPEC, epochs=1, views=views)
            result = small.distill(big, SPEC, start="scratch", epochs=1, views=views).result(120)
            assert result.exchange.requests > 0
            assert 0 <= small.evaluate(SPEC).miou <= 1
            digests.append(small.weights)
            bad = community.agent("bad", "tiny_networks:tiny", num_classes=5)
            wild = {"learning_rate": 9.9, "weight_decay": 1.0, "momentum": 0.99, "epochs": 200}
            with pytest.raises(TrainingError, match="non_finite_loss"):
                bad.train(SPEC, views=views, batch_size=4, **wild).result(120)
    assert digests[0] == digests[1]


def test_the_example_script_runs(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = f"import sys; sys.path.insert(0, 'examples'); import teach; teach.main({str(tmp_path / 'run')!r}, epochs=1)"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=150, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    assert "mIoU of the small network taught" in done.stdout
