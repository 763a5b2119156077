"""What a report looks like: one color for one meaning, on light paper and on dark, and a page for whatever lies in a folder."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from experiments import EXPERIMENT
from PIL import Image
from planning import end_of, invented, planner, play
from typer.testing import CliRunner

from agentkd.architecture import Architecture
from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.run_folder import RunFolder
from agentkd.cli import app
from agentkd.config import demo_file, load_experiment, look_through, read_experiment
from agentkd.datasets.opening import open_dataset
from agentkd.experiment import Experiment
from agentkd.pipeline.plan import Outlook
from agentkd.pipeline.stages import PlannedTask
from agentkd.recipe import Distillation
from agentkd.report import figures
from agentkd.report.drawing import IN_THE_DARK, INK, PAPER, Drawing, colors_of, family_colors
from agentkd.report.lessons import teaching_figure
from agentkd.report.of_community import is_of_community, write_community_report
from agentkd.report.paper import is_of_the_paper
from agentkd.report.pictures import color_of_errors
from agentkd.task import DataSource, Distill, EpochResult, Status, TaskResult, TeacherReference, Train

NETWORK = Architecture(family="unet", num_classes=2)
DATA = DataSource(spec="s", content_digest="d")
CURVE = tuple(EpochResult(epoch=n, loss=1.0, miou=0.1 * n, seconds=1.0) for n in (1, 2, 3))


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def rgb(color: str) -> tuple[int, ...]:
    return tuple(int(color[at : at + 2], 16) for at in (1, 3, 5))


def has(png: bytes, color: str) -> bool:
    return bool((pixels(png) == rgb(color)).all(axis=-1).any())


def drawings(outlook: Outlook) -> dict[str, Drawing]:
    return {
        "pareto": figures.pareto_figure(outlook, {}) if not outlook.rows else figures.pareto_figure(outlook, results_of(outlook)),
        "search": figures.search_figure(outlook),
        "curves": figures.curves_figure(outlook),
        "teaching": teaching_figure(outlook),
    }


def results_of(outlook: Outlook) -> dict[str, TaskResult]:
    found = {row.entrant.key: row.entrant.result for row in outlook.rows}
    keys = {key: number for family in outlook.trials for number, key in enumerate(outlook.trial_keys[family])}
    return {key: found.get(key, next(iter(found.values()))) for key in [*found, *keys]}


@pytest.fixture(scope="module")
def finished() -> Outlook:
    return end_of(play(planner(), lambda step: invented(step, 0.5)))


def test_figures_are_on_light_paper_and_on_dark_and_mean_the_same(finished: Outlook) -> None:
    for name, drawing in drawings(finished).items():
        light, dark = pixels(drawing.light), pixels(drawing.dark)
        assert light.shape == dark.shape, name
        assert tuple(light[0, 0]) == rgb(PAPER) and tuple(dark[0, 0]) == rgb(IN_THE_DARK[PAPER]), name
        assert has(drawing.light, INK) and not has(drawing.dark, INK), name
        assert has(drawing.dark, IN_THE_DARK[INK]) and not has(drawing.dark, PAPER), name
        for color in family_colors(finished).values():
            assert has(drawing.light, color) == has(drawing.dark, color), (name, "a family's color is the same")


def test_in_every_figure_a_family_has_its_color_and_no_other_ones(finished: Outlook) -> None:
    first, second = family_colors(finished).values()
    for name, drawing in drawings(finished).items():
        assert has(drawing.light, first) and has(drawing.light, second), name
    assert len(set(colors_of(map(str, range(8))).values())) == 8


@pytest.mark.parametrize("status", [None, Status.FAILED, Status.INFEASIBLE])
def test_there_are_figures_of_a_run_in_which_nothing_has_come_out(status: Status | None) -> None:
    def outcome(step: PlannedTask) -> TaskResult:
        return TaskResult(status=status or Status.FAILED, error_text="why")

    outlook = planner().outlook({}) if status is None else end_of(play(planner(), outcome))
    assert all(drawing.light and drawing.dark for drawing in drawings(outlook).values())


def test_errors_have_a_color_that_is_like_none_of_the_classes() -> None:
    data = open_dataset("generated:seed=1,size=32x32,train=1,validation=1,test=1")
    distances = np.abs(np.array(data.colors, dtype=int) - color_of_errors(data)).sum(axis=1)
    assert distances.min() > 150, "farther than any two shades of a thing"


def test_the_papers_numbers_stand_beside_the_papers_experiment_alone() -> None:
    file = demo_file().with_name("paper.yaml")

    def written(*changes: str) -> Experiment:
        found = look_through(read_experiment(file, [*changes])).experiment  # its data are not given away
        assert found is not None
        return found

    assert is_of_the_paper(written(), 5) and not is_of_the_paper(written(), 2)
    assert not is_of_the_paper(written("search.epochs=51"), 5)
    assert not is_of_the_paper(load_experiment(demo_file()), 5)


def record(task: Train | Distill, **result: object) -> Record:
    told = {"status": Status.COMPLETED, "weights": task.key[::-1], "miou": 0.3, "epochs": 3, "history": CURVE} | result
    teachers = tuple((one.weights, "agent-2") for one in task.taught_by)
    return Record(task, TaskResult.model_validate(told), "agent-1", 1, f"{task.kind} of <b>", teachers)


@pytest.fixture
def community(tmp_path: Path) -> RunFolder:
    first = record(Train(architecture=NETWORK, data=DATA))
    teacher = TeacherReference(architecture=NETWORK, weights=first.result.weights)
    lesson = Distill(architecture=NETWORK, data=DATA, seed=1, teachers=(teacher,), distillation=Distillation())
    failed = record(
        Train(architecture=NETWORK, data=DATA, seed=2), status="failed", weights="", error_text="why not", history=(), epochs=0
    )
    with Journal(tmp_path / "scripts" / "journal.sqlite") as journal:
        journal.commit(first)
        journal.commit(record(lesson))
        journal.commit(failed)
    return RunFolder(tmp_path / "scripts")


def test_a_communitys_folder_has_a_page_of_what_was_done_in_it(community: RunFolder) -> None:
    assert is_of_community(community)
    made = write_community_report(community)
    page = made.page.read_text(encoding="utf-8")
    assert "<h1>scripts</h1>" in page and "3 recorded tasks by 1 agent (agent-1)" in page
    assert page.count("30.00 %") == 2 and "why not" in page and "train of &lt;b&gt;" in page
    assert page.count("data:image/png;base64,") == 2 * 2, "curves, and where the newest comes from"
    assert [row.teachers.partition(" ")[0] for row in made.rows] == ["", "agent-2", ""]
    assert {path.name for path in community.report.iterdir()} == {"report.html", "table.csv", "curves.png", "lineage.png"}


def test_the_command_reports_a_community_and_an_empty_one(community: RunFolder, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["report", str(community.place)])
    assert result.exit_code == 0 and "train of <b>" in result.output and "report.html" in result.output
    told = CliRunner().invoke(app, ["report", str(community.place), "--format", "json"])
    assert [row["score"] for row in json.loads(told.output)] == ["30.00 %", "30.00 %", ""]
    with Journal(tmp_path / "empty" / "journal.sqlite"):
        pass
    result = CliRunner().invoke(app, ["report", str(tmp_path / "empty")])
    assert result.exit_code == 0
    assert "Nothing has been done here yet" in (tmp_path / "empty" / "report" / "report.html").read_text(encoding="utf-8")


def test_every_heading_of_a_page_stands_in_its_list_of_contents(community: RunFolder) -> None:
    page = write_community_report(community).page.read_text(encoding="utf-8")
    listed = re.findall(r'<li><a href="#([a-z-]+)">', page)
    assert listed == re.findall(r'<h2 id="([a-z-]+)">', page) and len(listed) == 5
    assert EXPERIMENT["name"] not in page
