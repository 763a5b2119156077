"""The tutorial on one's own network is run as it stands on its page."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from experiments import command, environment

from agentkd.artifacts.history import read_history
from agentkd.artifacts.run_folder import RunFolder
from agentkd.task import Taught

PAGE = Path(__file__).parents[2] / "docs" / "tutorial" / "own-network.md"
OWN = "my_networks:hourglass"


def said_by(line: str, place: Path, words: dict[str, str]) -> str:
    """What a line of the page prints where a user would type it."""
    program, *arguments = (words.get(word, word) for word in shlex.split(line))
    typed = command(*arguments) if program == "agentkd" else [sys.executable, *arguments]
    done = subprocess.run(typed, cwd=place, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.process
@pytest.mark.timeout(600)
def test_a_network_of_ones_own_goes_all_the_way_as_the_page_says(tmp_path: Path) -> None:
    lines, words = [], dict[str, str]()
    for kind, text in re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        if kind == "bash":
            lines += text.splitlines()
        else:
            (tmp_path / text.partition("\n")[0].removeprefix("# ")).write_text(text, encoding="utf-8")
    assert len((tmp_path / "my_networks.py").read_text().splitlines()) <= 34
    said = {}
    for line in lines:
        said[line] = said_by(line, tmp_path, words)
        if found := re.search(r"^digest (\w+)$", said[line], re.MULTILINE):
            words["DIGEST"] = found[1]
    told = list(said.values())
    assert "16 tensors loaded, 0 left as initialized, 0 not wanted" in told[1]
    assert "<network mine: my_networks:hourglass, Burnt, Half-Burnt" in told[3]
    assert told[4].splitlines() == [
        "('Burnt', 'Half-Burnt', 'Non-Burnt', 'Fire', 'Smoke') (1, 5, 75, 101) 1.0",
        "trained on",
    ]
    assert "of the pixels are of the same class" in told[5] and "1 done, 0 failed" in told[6]
    assert (tmp_path / "out" / "README.md").is_file() and (tmp_path / "predicted" / "masks" / "photo.png").is_file()
    records = read_history(RunFolder(tmp_path / "runs" / "own")).by_task.values()
    of_own = [record for record in records if record.task.architecture.family == OWN]
    assert len({record.task.architecture.settings["width"] for record in of_own}) > 1, "it is searched"
    assert any(getattr(record.task, "pretrained", "") for record in of_own), "it begins with its weights"
    for run in ("own", "lessons"):
        records = read_history(RunFolder(tmp_path / "runs" / run)).by_task.values()
        lessons = [record.task for record in records if isinstance(record.task, Taught)]
        assert any(task.architecture.family == OWN for task in lessons), "it is taught"
        teachers = [teacher.architecture.family for task in lessons for teacher in task.taught_by if teacher.architecture]
        assert OWN in teachers, "it teaches"
