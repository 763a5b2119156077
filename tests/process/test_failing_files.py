"""Files that fail, a few of them; ``make faults`` tries hundreds. What the runs there found has tests of its own beside it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from experiments import environment

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(1200)]


NO_COMPILER = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no compiler of C (cc) here")
TESTS = Path(__file__).parents[1]


def end_as_they_must(*words: str) -> None:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0 and "0 ends were not as they must be" in done.stdout, done.stdout + done.stderr


@NO_COMPILER
def test_whatever_file_fails_a_run_ends_with_a_reason_and_goes_on() -> None:
    end_as_they_must(str(TESTS / "faults.py"), "8", "--seed", "5")


@NO_COMPILER
def test_whatever_call_of_the_file_layer_fails_nothing_is_half_done_for_good() -> None:
    end_as_they_must(str(TESTS / "file_layer.py"), "--of", "7")
