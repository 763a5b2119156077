"""Of an agent that ended people are shown its last words, and where its log is; of a fork server too."""

import time
from pathlib import Path

import pytest
from scripted import GOOD, TASK, ScriptedAgent, ScriptedLauncher, finish

from agentkd.artifacts.run_folder import RunFolder
from agentkd.code.loading import provide
from agentkd.code.source import SourceCode
from agentkd.coordinator.crew import Crew
from agentkd.coordinator.watching import Silent
from agentkd.errors import AgentLostError, ExchangeError
from agentkd.exchange.post import Delivery
from agentkd.launch.devices import Slot
from agentkd.launch.settings import LaunchConfig
from agentkd.messages.bodies import TaskReply, TaskRequest

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


def test_who_ran_whenever_agents_were_lost_is_named_where_that_stops_a_run(tmp_path: Path) -> None:
    """As where own code ends the process whose forks all agents are: whoever learns beside it is lost as well."""
    code = provide(SourceCode(files={"mine.py": "x = 1\n"}))
    own = TASK.replace(architecture=TASK.architecture.replace(family="mine:net", code=code))
    quiet = [TASK.replace(seed=seed) for seed in (1, 2, 3)]
    there: dict[str, ScriptedAgent] = {}

    def kill(agent: ScriptedAgent, delivery: Delivery) -> None:
        body, number = delivery.message.body, delivery.message.msg_id
        if isinstance(body, TaskRequest) and body.task in quiet:
            agent.say(TaskReply(task=body.key, attempt=body.attempt, result=GOOD), number)
        elif isinstance(body, TaskRequest):
            there[body.key] = agent
            if len(there) == 2:
                for one in there.values():
                    one.exit_code = -9
                there.clear()

    config = LaunchConfig(transport="tcp")
    with (
        pytest.raises(ExchangeError, match=r"there ran: the killer .own code., the neighbour; that is not recorded"),
        Crew(RunFolder(tmp_path), (Slot("cpu", 1),) * 2, config, Silent(), ScriptedLauncher(kill)) as crew,
    ):
        crew.want([(own.key, own, "the killer"), (TASK.key, TASK, "the neighbour")])
        crew.want([(task.key, task, f"a quiet one {task.seed}") for task in quiet])
        until = time.monotonic() + 300
        while time.monotonic() < until:
            crew.turn()
