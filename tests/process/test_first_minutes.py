"""What a stranger does first: the quick demo, and the tutorial's chapters, each run cell by cell of its notebook."""

import json
import re
from pathlib import Path

import pytest
from experiments import agentkd
from notebook_cells import run
from PIL import Image

from website.notebooks import cells, chapters

CHAPTERS = {path.name[0]: path for path in chapters()}


def said_in(chapter: str, place: Path) -> dict[str, str]:
    """What each command of a chapter printed, in an empty folder."""
    return dict(run(cells(CHAPTERS[chapter].read_text(encoding="utf-8")), place))


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_quick_demo_ends_with_a_table_a_report_and_a_picture(tmp_path: Path) -> None:
    done = agentkd("demo", "--quick", "--out", tmp_path / "quick", timeout_s=580)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^UNet\+\+ +Round 2 .* winner$", done.stdout, re.MULTILINE) and "U-Net (paper: UNet++)" in done.stdout
    report = tmp_path / "quick" / "report"
    assert (report / "report.html").is_file()
    for name in ("journey.png", "pictures.png", "teaching.png"):
        assert Image.open(report / name).size > (100, 100)
    fewer = re.search(r"([\d.]+) % fewer parameters", done.stdout)
    assert fewer and float(fewer[1]) > 50, "there is something to see"


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_an_empty_folder_to_a_student_its_picture_and_its_onnx_file(tmp_path: Path) -> None:
    said = said_in("1", tmp_path)
    assert "sound, 0 warnings; 24 of 24 images read" in said["agentkd data check folder:path=fires,holdout=0.25"]
    scores = re.search(r"teacher ([\d.]+), student ([\d.]+), alone ([\d.]+)", said["python teach.py"])
    assert scores and float(scores[2]) > float(scores[3]) + 0.1, "the page says that the teacher is good for something"
    assert (tmp_path / "student" / "network.onnx").is_file() and (tmp_path / "student" / "README.md").is_file()
    assert "24 done, 0 failed" in said["agentkd predict student/network.onnx fires/images --out predicted --overlay"]
    assert Image.open(tmp_path / "predicted" / "overlays" / "photo00.png").size == (64, 64)


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_is_run_read_and_changed(tmp_path: Path) -> None:
    said = said_in("2", tmp_path)
    report = tmp_path / "runs" / "first-search" / "report"
    page = (report / "report.html").read_text(encoding="utf-8")
    assert (report / "table.md").is_file() and (report / "choices.csv").is_file()
    told = CHAPTERS["2"].read_text(encoding="utf-8").partition("## Read the report")[2].partition("## Change")[0]
    for title in re.findall(r"\*\*(.+?)\*\*", told):
        assert f">{title}<" in page, f"the report has no part {title!r}"
    again = said["agentkd run experiment.yaml --set search.trials=3"]
    assert "search.trials: is 3 now, and was 2" in again and "recorded tasks are kept" in again and "trial 2" in again


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_agents_teach_each_other_in_three_ways(tmp_path: Path) -> None:
    said = said_in("3", tmp_path)
    assert re.search(r"a: mIoU [\d.]+\nb: mIoU [\d.]+", said["python together.py"])
    assert "small is now 16 wide" in said["python hand_over.py"] and "big knows" in said["python hand_over.py"]
    roles = re.findall(r"^scenes by (\w+): knows-(\w+) is (\w+)", said["python educate.py"], re.MULTILINE)
    assert len(roles) == 4 and ("day", "day", "teacher") in roles and ("dusk", "day", "student") in roles


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_result_is_handed_on_checked_and_done_again(tmp_path: Path) -> None:
    said = said_in("4", tmp_path)
    assert "2 tasks: 2 bit-identical" in said["agentkd replay runs/theirs"]
    assert "1 counterfactual" in said["agentkd replay runs/theirs --task {DIGEST} --swap temperature=4"]
    assert "probabilities of 5 classes for each of 7575 pixels" in said["python use.py"]
    replayed = json.loads((tmp_path / "runs" / "theirs-replay" / "replay.json").read_text(encoding="utf-8"))
    assert replayed
