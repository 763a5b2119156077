"""Others' text: nothing of it acts on a terminal, hides, or looks like somebody else's line, wherever it comes out."""

import logging
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.testing import CliRunner

import agentkd
from agentkd.architecture import Architecture
from agentkd.artifacts.history import History
from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.run_folder import RunFolder
from agentkd.cli import app
from agentkd.errors import AgentKDError, RemoteAgentError, TrainingError
from agentkd.logs import LINE_FORMAT, VisibleFormatter
from agentkd.messages.bodies import ErrorReply, LeftEvent, SubmitRequest
from agentkd.report.cards import card
from agentkd.report.page import _shown
from agentkd.task import DataSource, Status, TaskResult, Train
from agentkd.visible import visible, visible_line

EVIL = "\x1b[2J\x9b31mred\x07\u202eback\r\u2028line\ud800"
SHOWN = r"\x1b[2J\x9b31mred\x07\u202eback\r\u2028line\ud800"


def is_harmless(text: str) -> bool:
    return not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") and char not in "\t\n" for char in text)


@given(st.text(st.characters()))
def test_nothing_is_left_that_acts_and_what_does_not_act_stays(text: str) -> None:
    shown = visible(text)
    assert is_harmless(shown) and visible(shown) == shown
    assert "\n" not in visible_line(text)
    plain = "".join(char for char in text if unicodedata.category(char)[0] in "NPS")  # of letters, see the words below
    assert visible(plain) == plain
    shown.encode()


def test_words_in_any_script_stay_as_they_are() -> None:
    for hidden in "\u00ad\u034f\u115f\u180e\u3164\ufff9\U000e0041":
        assert visible(hidden) == hidden.encode("unicode_escape").decode()
    for text in (
        "\u0646\u0645\u06cc\u200c\u062e\u0648",
        "👩\u200d🔬",
        "❤\ufe0f",
        "Größe 3 µm²",
        "пожар",
        "火災 🔥",
        "שריפה",
        "a\tb\nc",
    ):
        assert visible(text) == text


@pytest.mark.parametrize("error", [AgentKDError(EVIL), TrainingError(EVIL), RemoteAgentError("ann", "x", "y", EVIL)])
def test_an_error_says_it_harmlessly(error: AgentKDError) -> None:
    assert SHOWN in str(error)


def test_a_message_is_read_harmlessly() -> None:
    task = Train(architecture=Architecture(family="unet", num_classes=2), data=DataSource(spec="s", content_digest="d"))
    evil, shown = EVIL[:-1], SHOWN.removesuffix(r"\ud800")
    assert ErrorReply(code="x", text=evil).text == LeftEvent(reason=evil).reason == shown
    for one in [char for char in evil if not is_harmless(char)] + ["\u202e", "\n"]:
        with pytest.raises(ValidationError):
            SubmitRequest(task=task, label=f"a{one}b")
    assert ErrorReply.of(ValueError(EVIL)).text == SHOWN, "as a file's name may be"


def test_a_line_of_a_log_is_nobody_elses() -> None:
    record = logging.LogRecord(
        "agentkd.x", logging.ERROR, "x.py", 1, "%s", ("no\n2026-01-01 ERROR   agentkd.y: forged" + EVIL,), None
    )
    first, second = VisibleFormatter(LINE_FORMAT).format(record).splitlines()
    assert first.endswith("agentkd.x: no") and second.startswith("    2026-01-01 ERROR") and second.endswith(SHOWN)


@pytest.fixture
def foreign(tmp_path: Path) -> tuple[Path, Record]:
    """A run folder of somebody who means harm."""
    folder = RunFolder(tmp_path / "run")
    data = DataSource(spec=f"generated:{EVIL[:-1]}", content_digest="d")
    task = Train(architecture=Architecture(family="unet", num_classes=2, settings={"base": EVIL[:-1]}), data=data)
    result = TaskResult(status=Status.COMPLETED, weights="ab" * 32, environment={"device": EVIL[:-1]})
    record = Record(task, result, "agent-1", 1, label=f"{EVIL[:-1]}\nsound")
    with Journal(folder.journal) as journal:
        journal.commit(record)
    return folder.place, record


def test_commands_show_a_foreign_run_harmlessly(foreign: tuple[Path, Record]) -> None:
    place, record = foreign
    for arguments in (["lineage", record.task.key, "--run", place], ["verify", place], ["diff", place, place], ["gc", place]):
        said = CliRunner().invoke(app, list(map(str, arguments)))
        assert is_harmless(said.output), arguments
        assert arguments[0] != "lineage" or r"\x1b[2J\x9b31m" in said.output, said.output


def test_pages_and_cards_show_it_harmlessly(foreign: tuple[Path, Record]) -> None:
    _, record = foreign
    assert is_harmless(card(record, History([record]))) and _shown(EVIL) == SHOWN and _shown(3) == 3


def test_commands_print_through_one_function() -> None:
    sources = (Path(agentkd.__file__).parent / "cli").glob("*.py")
    assert sum(source.read_text(encoding="utf-8").count("typer.echo(") for source in sources) == 1
