"""Of an agent that ended people are shown its last words, and where its log is; of a fork server too."""

from pathlib import Path

import pytest
from scripted import TASK, ScriptedAgent, ScriptedLauncher, finish

from agentkd.artifacts.run_folder import RunFolder
from agentkd.coordinator.crew import Crew
from agentkd.coordinator.watching import Silent
from agentkd.errors import AgentLostError
from agentkd.exchange.post import Delivery
from agentkd.launch.devices import Slot
from agentkd.launch.settings import LaunchConfig
from agentkd.messages.bodies import TaskRequest

TRACEBACK = 'Traceback (most recent call last):\n  File "agent.py", line 3, in main\nKeyError: 12\n\n'


class Heard(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def tell(self, text: str) -> None:
        self.lines.append(text)


def test_whoever_watches_is_told_the_last_line_and_the_log_of_an_agent_that_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(agent: ScriptedAgent, delivery: Delivery) -> None:
        if isinstance(delivery.message.body, TaskRequest):
            agent.exit_code = -11

    monkeypatch.setattr(ScriptedAgent, "tail", lambda agent: TRACEBACK)
    config, heard = LaunchConfig(transport="tcp", max_attempts=1), Heard()
    with Crew(RunFolder(tmp_path), (Slot("cpu", 1),), config, heard, ScriptedLauncher(end)) as crew:
        failed = finish(crew, TASK).result.error_text
    [told] = [line for line in heard.lines if "was lost" in line]
    assert f"exit code -11): KeyError: 12; its log is {tmp_path}/logs/agent-1.log; its work" in told
    assert failed.endswith("exit code -11): KeyError: 12")


def test_all_of_the_last_words_are_kept_for_the_log() -> None:
    lost = AgentLostError("ann", 1.0, 1, TRACEBACK)
    assert "Traceback" not in str(lost) and lost.stderr_tail == TRACEBACK
