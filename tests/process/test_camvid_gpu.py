"""The benchmark for a GPU, tried on the CPU: sittings end in time, and come to what one comes to that was not disturbed."""

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest
from experiments import environment, table_of, weights_of

from agentkd.errors import ArtifactError

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(600)]

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "camvid_gpu.py"
TINY = ("--device", "cpu", "--size", "64x48", "--tiny", "--set", "seeds=1", "--set", "search.trials=1")
TWO = """families={
  unet: {settings: {base: 8, depth: 2}, space: {depth: [1, 2]}},
  unetpp: {settings: {base: 8, depth: 2}, space: {convs: [1, 2]}},
}"""


ALONE = environment(AGENTKD_DATA="/nowhere", CUDA_VISIBLE_DEVICES="", PYTHONUNBUFFERED="1")


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(SCRIPT), *map(str, arguments)]


def sitting(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """What the script says, on scenes; without a GPU, whether there is one or not."""
    return subprocess.run(command(*arguments), env=ALONE, capture_output=True, text=True, timeout=300, check=False)


def test_sittings_that_are_cut_short_end_in_time_and_come_to_what_one_comes_to(tmp_path: Path) -> None:
    whole = sitting(*TINY, "--set", TWO, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert "No sitting is left." in whole.stdout and "Seed 1:" in whole.stdout and "**" in whole.stdout

    arguments = (*TINY, "--set", TWO, "--out", tmp_path / "parts")
    short = sitting(*arguments, "--minutes", 0.01)
    assert short.returncode == 0 and "No sitting is left." not in short.stdout, short.stdout + short.stderr
    assert re.search(r"This sitting ended after .*: \d+ of about 20 tasks are done", short.stdout)

    with subprocess.Popen(command(*arguments), env=ALONE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        told = list(itertools.islice((line for line in process.stdout if "mIoU" in line), 3))
        process.terminate()
        rest = process.stdout.read()
    recorded = weights_of(tmp_path / "parts")
    assert process.returncode == 130 and "No sitting is left." not in rest, "".join(told) + rest
    assert f": {len(recorded)} of about" in rest and len(recorded) >= 3

    last = sitting(*arguments)
    assert "No sitting is left." in last.stdout, last.stdout + last.stderr
    assert recorded.items() <= weights_of(tmp_path / "parts").items(), "nothing was done again"
    assert weights_of(tmp_path / "parts") == weights_of(tmp_path / "whole")
    assert table_of(tmp_path / "parts") == table_of(tmp_path / "whole")

    alone = sitting("--together", tmp_path / "whole")
    assert alone.stdout.strip() in whole.stdout, "what came out, as the sitting said it"
    twice = sitting("--together", tmp_path / "whole", tmp_path / "parts")
    assert twice.returncode == 2 and "have the seeds 1, 1; each must have its own" in twice.stderr


def test_without_a_gpu_or_the_data_it_says_so_and_ends_with_2(tmp_path: Path) -> None:
    for arguments, said, code in (
        ((), "there is no GPU here", 2),
        (("--device", "cpu"), "there is no camvid-11 in $AGENTKD_DATA", 2),
        (("--size", "480"), "expected WIDTHxHEIGHT", 2),
        (("--minutes", "0"), "expected a number above 0", 2),
        (("--together", tmp_path / "none"), "is not a run folder", ArtifactError.exit_code),
    ):
        ended = sitting("--out", tmp_path / "run", *arguments)
        assert (ended.returncode, said in ended.stderr, "Traceback" in ended.stderr) == (code, True, False), ended.stderr
    assert not (tmp_path / "run").exists()
