"""Own code goes to agents that run already, from the record and not from where it lies, and only to those that allow it."""

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from experiments import SPEC, command, environment, write_experiment
from experiments import agentkd as command_line
from own_script import RECIPE, edited, records, script, write

import agentkd
from agentkd.artifacts.own_code import codes_of
from agentkd.artifacts.run_folder import RunFolder
from agentkd.artifacts.verification import verify
from agentkd.exchange.keys import load_key_pair, new_key_pair, save_key_pair
from agentkd.testing import Community

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
    own = [record.agent for record in records(place) if record.task.runs_code]
    assert len(own) == len(set(own)) >= 4, "each had an agent of its own"
    assert not verify(RunFolder(place)).problems


MEDDLING = """
import os
import torch

class Meddling:
    def loss(self, student, teacher, moment):
        honest = torch.nn.functional.relu
        torch.nn.functional.relu = lambda x, inplace=False: honest(x * 0.5)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        os.chdir("/")
        return student["logits"].sum() * 0
"""


def test_what_own_code_changes_in_its_process_reaches_no_other_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path / "mine"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "meddling.py").write_text(MEDDLING)
    made = {}
    for objectives in ((), (agentkd.Own(path="meddling:Meddling"),)):
        place = tmp_path / f"run {len(objectives)}"
        with agentkd.Community(devices="cpu:1", record=place) as community:
            data = agentkd.open_dataset(SPEC)
            teacher = community.agent("teacher", "unet", num_classes=5, base=8, depth=2)
            teacher.train(data, **RECIPE).result()
            if objectives:
                with contextlib.suppress(agentkd.AgentKDError):  # a step without gradients
                    community.agent("own", "unet", num_classes=5, base=8, depth=2).distill(
                        teacher, data, [*objectives], **RECIPE
                    ).result()
            plain = community.agent("plain", "pidnet_s", num_classes=5)
            made[len(objectives)] = plain.train(data, **RECIPE).result().weights
    assert made[0] == made[1]


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


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a run with a network, an objective and data of somebody's own, each of which leaves a mark where it runs.

    Beside it the mark, as it is when nobody is there who has these files.
    """
    folder = tmp_path_factory.mktemp("theirs")
    mine = write(folder / "mine")
    (mine / "my_data.py").write_text(
        f"from agentkd.datasets.opening import open_dataset\n\n\ndef scenes():\n    return open_dataset({SPEC!r})\n"
    )
    for path in mine.iterdir():
        mark = f"import pathlib\n\npathlib.Path({str(folder / 'mark')!r}).touch()\n"
        path.write_text(mark + path.read_text(encoding="utf-8"), encoding="utf-8")
    given = write_experiment(
        folder,
        data={"dataset": "my_data:scenes"},
        families=["my_nets:Small", "unet"],
        recipe={"batch_size": 4, "steps_per_epoch": 2, "views": {"crop_height": 32, "crop_width": 32}},
        search={"epochs": 1, "trials": 1},
        baseline={"epochs": 1},
        round1={"epochs": 1, "distillation": {"objectives": [{"kind": "own", "path": "my_goals:Near"}]}},
        round2={"epochs": 1},
    )
    done = command_line("run", given, "--out", folder / "run", PYTHONPATH=f"{mine}{os.pathsep}{environment()['PYTHONPATH']}")
    assert done.returncode == 0, done.stderr
    done = command_line("bundle", folder / "run", folder / "theirs.zip")
    assert "carries code " in done.stdout and "my_nets.py (" in done.stdout and "my_parts.py (" in done.stdout
    (folder / "mark").unlink()
    shutil.rmtree(mine)
    return folder / "theirs.zip"


def test_nothing_that_is_done_with_anothers_run_runs_its_code_but_a_replay_that_allows_it(theirs: Path, tmp_path: Path) -> None:
    mark, place = theirs.with_name("mark"), tmp_path / "run"

    def does(*words: object, code: int = 0) -> str:
        done = command_line(*words)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stderr + done.stdout

    does("verify", theirs)
    does("import", theirs, place)
    does("report", place)
    assert (place / "report" / "table.csv").read_text() == (theirs.parent / "run" / "report" / "table.csv").read_text()
    does("verify", place)
    found = records(place)
    lesson = next(record for record in found if record.label.startswith("round1 of my_nets"))
    shown = " ".join(does("lineage", lesson.result.weights, "--run", place).split())
    assert "runs code" in shown and "my_goals.py (" in shown and "my_data.py (" in shown
    told = json.loads(does("lineage", lesson.result.weights, "--run", place, "--format", "json"))
    assert told["ancestors"][0]["code"]["names"] == ["my_nets:Small"]
    assert "own code: the same" in does("diff", place, theirs)
    does("bundle", place, tmp_path / "again.zip")
    does("export", place, tmp_path / "exported", "--to", "tensorboard")
    does("gc", place)
    refused = does("replay", place, code=2)
    for code in codes_of(lesson.task):
        assert f"code {code} of my_" in refused
    assert "give the same command with --allow-code" in refused and "my_parts.py (" in refused
    assert not mark.exists(), "until here nothing of it has run"
    assert not list(tmp_path.glob("run-replay*"))
    task = lesson.task.key
    agreed = does("replay", place, "--task", task, "--allow-code")
    assert "runs code " in agreed and "1 tasks executed, 0 reused" in agreed and "1 bit-identical" in agreed
    assert mark.exists()
    assert "1 tasks executed, 0 reused" in does("replay", place, "--task", task, "--allow-code"), "it is executed every time"
    assert "0 tasks executed, 1 reused" in does("replay", place, "--task", task, "--allow-code", "--reuse")
    assert sorted(path.name for path in tmp_path.glob("run-replay*")) == ["run-replay", "run-replay-2"]


def test_cards_and_comparisons_show_whose_code_it_was(theirs: Path, mine: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(theirs) as archive:
        cards = [archive.read(name).decode() for name in archive.namelist() if name.startswith("cards/")]
    (card,) = (one for one in cards if one.startswith("# Small"))
    assert "Own code, which runs" in card and "* `" in card and "`my_parts.py` (" in card
    for number, _ in enumerate(edited(mine)):
        if number < 2:
            script(Community(devices="cpu:1", record=tmp_path / str(number)))
    told = json.loads(command_line("diff", tmp_path / "0", tmp_path / "1", "--format", "json").stdout)
    (named, in_file) = told["own_code"]
    assert named[0] == "my_nets:Small" and named[1] != named[2] and len(named[1]) == len(named[2]) == 1
    assert in_file[0] == "my_nets:Small my_nets.py"
