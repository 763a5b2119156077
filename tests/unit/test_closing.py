"""The end of a run: a table for people, and the next three things to do, which can be pasted."""

import io
import shlex
from pathlib import Path

import pytest
from planning import planner, play
from rich.console import Console

from agentkd.pipeline.plan import Outlook
from agentkd.report import closing
from agentkd.report.closing import columns, next_steps, print_next, print_summary


@pytest.fixture(scope="module")
def outlooks() -> list[Outlook]:
    return list(play(planner()))


def summary(outlook: Outlook, *, is_terminal: bool, width: int = 100) -> str:
    stream = io.StringIO()
    print_summary(outlook, Console(file=stream, force_terminal=is_terminal, width=width, color_system=None))
    return stream.getvalue()


def test_the_table_has_a_line_for_each_network_with_its_digest_and_marks_the_winner(outlooks: list[Outlook]) -> None:
    outlook = outlooks[-1]
    lines = summary(outlook, is_terminal=False).splitlines()
    assert lines[0].split()[:2] == ["family", "stage"] and len(lines) > len(outlook.rows)
    for row in outlook.rows:
        [line] = [
            one for one in lines if one.split()[0] == row.family.rpartition(":")[2] and f"  {row.stage.traits.title}  " in one
        ]
        assert row.entrant.result.weights[:12] in line and f"{100 * row.entrant.result.miou:.2f} %" in line
    [winners] = [line for line in lines if line.endswith("winner")]
    assert outlook.winner and outlook.winner.result.weights[:12] in winners and "Round 2" in winners


def test_nothing_of_it_is_cut_or_broken_however_narrow_the_console_is(outlooks: list[Outlook]) -> None:
    assert summary(outlooks[-1], is_terminal=False, width=20) == summary(outlooks[-1], is_terminal=False, width=400)
    drawn = summary(outlooks[-1], is_terminal=True, width=200)
    for row in outlooks[-1].rows:
        assert row.entrant.result.weights[:12] in drawn
    assert "fewer parameters" in drawn or "more parameters" in drawn


def test_an_unfinished_run_has_a_table_of_what_there_is(outlooks: list[Outlook]) -> None:
    for outlook in outlooks[:6]:
        text = summary(outlook, is_terminal=False)
        assert text.startswith("family") and "winner" not in text


def test_the_next_steps_name_this_run_and_its_winner_and_are_one_shell_line_each(outlooks: list[Outlook], tmp_path: Path) -> None:
    outlook, run = outlooks[-1], tmp_path / "a run's folder"
    steps = next_steps(outlook, run, run / "report" / "report.html")
    assert len(steps) == 3 and outlook.winner
    opened, exported, replayed = (shlex.split(step.command) for step in steps)
    assert opened[-1] in (str(run / "report" / "report.html"), (run / "report" / "report.html").absolute().as_uri())
    weights, key = outlook.winner.result.weights[:12], outlook.winner.key[:12]
    assert exported == ["agentkd", "export", str(run), f"winner-{weights}", "--allow-code"]
    assert replayed == ["agentkd", "verify", str(run), "&&", "agentkd", "replay", str(run), "--task", key, "--allow-code"]
    stream = io.StringIO()
    print_next(steps, Console(file=stream, width=30))
    assert all(f"  {step.command}\n" in stream.getvalue() for step in steps)


def test_without_a_program_that_opens_pages_python_does(outlooks: list[Outlook], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing.shutil, "which", lambda name: None)
    opened = next_steps(outlooks[0], Path("run"), Path("run/report/report.html"))[0].command
    assert opened.startswith("python3 -m webbrowser file:///") and opened.endswith("/run/report/report.html")


def test_what_others_wrote_does_nothing_in_a_table() -> None:
    assert columns([["a\x1b[2J\n", "b"], ["c", "12"]], right=[1]) == ["a\\x1b[2J\\n   b", "c           12"]
