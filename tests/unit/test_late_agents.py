"""An engine that does not give all that was asked for: what is missing is said, and the work goes on with what there is."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from scripted import ARCHITECTURE, DATA, GOOD, TASK, TURNS_S, ScriptedAgent, ScriptedLauncher

from agentkd.artifacts.run_folder import RunFolder
from agentkd.config import launch_settings
from agentkd.coordinator.crew import Crew
from agentkd.coordinator.dispatch import Dispatcher
from agentkd.coordinator.events import Accept, Dismiss, Ended, Failed, Joined, Late, Launch, Start, Teach
from agentkd.coordinator.watching import Silent
from agentkd.errors import ConfigError, LaunchError
from agentkd.exchange.keys import KeyPair
from agentkd.exchange.post import Delivery
from agentkd.launch.devices import Slot
from agentkd.launch.launcher import Demand
from agentkd.launch.settings import LaunchConfig
from agentkd.messages.bodies import TaskReply, TaskRequest
from agentkd.recipe import Distillation, Recipe
from agentkd.task import Distill, Mutual, Partner, Task, TeacherReference

SLOTS = (Slot("cpu", 1), Slot("cpu", 1))
JOIN_S = 1.1
TEACHER = TeacherReference(architecture=ARCHITECTURE, weights="w1")


class Awaited:
    """What an engine has started for an agent that does not come."""

    def __init__(self, exit_code: int | None = None, words: str = "queued\nno node has so many GPUs") -> None:
        self.words = words
        self.exit_code, self.agent = exit_code, None  # type: int | None, ScriptedAgent | None

    def poll(self) -> int | None:
        return self.agent.poll() if self.agent else self.exit_code

    def end(self) -> None:
        if self.agent:
            self.agent.end()
        elif self.exit_code is None:
            self.exit_code = -9

    kill = end

    def tail(self) -> str:
        return self.words


class Sparing(ScriptedLauncher):
    """Gives every agent but one, which waits until it is ``released``, or ends at once so many times."""

    def __init__(self, withheld: str, num_ends: int = 0, **words: str) -> None:
        super().__init__(answer)
        self.withheld, self.num_ends, self.words = withheld, num_ends, words
        self.asked: list[tuple[Awaited, tuple[str, Slot, Sequence[str], KeyPair]]] = []

    def start(self, name: str, slot: Slot, arguments: Sequence[str], key: KeyPair) -> "ScriptedAgent | Awaited":  # type: ignore[override]
        if name != self.withheld:
            return super().start(name, slot, arguments, key)
        if self.num_ends and len(self.asked) == self.num_ends:
            return super().start(name, slot, arguments, key)
        self.asked.append((Awaited(7 if self.num_ends else None, **self.words), (name, slot, arguments, key)))
        return self.asked[-1][0]

    def release(self) -> None:
        awaited, asked = self.asked[-1]
        awaited.agent = super().start(*asked)


def answer(agent: ScriptedAgent, delivery: Delivery) -> None:
    body = delivery.message.body
    if isinstance(body, TaskRequest):
        agent.say(TaskReply(task=body.key, attempt=body.attempt, result=GOOD), delivery.message.msg_id)


class Told(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def tell(self, line: str) -> None:
        self.lines.append(line)


def crew_of(place: Path, launcher: ScriptedLauncher, watcher: Told, **options: object) -> Crew:
    config = LaunchConfig(transport="tcp", join_s=JOIN_S, **options)
    return Crew(RunFolder(place), SLOTS, config, watcher, launcher, is_forgiving=True)


def do(crew: Crew, *seeds: int) -> set[str]:
    """Who did these tasks."""
    tasks = [TASK.replace(seed=seed) for seed in seeds]
    crew.want((task.key, task, "task") for task in tasks)
    done = []
    while len(done) < len(tasks):
        done += crew.turn()
    assert all(finished.result == GOOD for finished in done)
    return {finished.agent for finished in done}


def turn_until(crew: Crew, watcher: Told, text: str) -> None:
    while not any(text in line for line in watcher.lines):
        crew.turn()


pytestmark = pytest.mark.timeout(4 * TURNS_S)


def test_a_run_goes_on_with_the_agents_that_came_and_takes_who_comes_later(tmp_path: Path) -> None:
    launcher, watcher = Sparing("agent-2"), Told()
    with crew_of(tmp_path, launcher, watcher, min_agents=1) as crew:
        assert do(crew, 1, 2, 3) == {"agent-1"}
        crew.want([(TASK.key, TASK, "task")])
        turn_until(crew, watcher, "did not come")
        launcher.release()
        turn_until(crew, watcher, "came after all")
        while "agent-2" not in do(crew, *range(100 * len(watcher.lines), 100 * len(watcher.lines) + 4)):
            watcher.lines.append("again")
    [late] = [line for line in watcher.lines if "did not come" in line]
    assert late == (
        "agent-2 did not come within 1.1 s; local was asked for 1 core; the engine says: no node has so many GPUs; "
        "the work goes on with 1 of 2 (launch.min_agents: 1); it is taken when it comes"
    )
    assert len(launcher.asked) == 1, "what waits in a queue goes on waiting"


def test_an_engine_that_waits_without_a_word_is_said_to(tmp_path: Path) -> None:
    watcher = Told()
    with crew_of(tmp_path, Sparing("agent-2", words=""), watcher, min_agents=1) as crew:
        crew.want((task.key, task, "task") for task in (TASK, TASK.replace(seed=2)))
        turn_until(crew, watcher, "asked for 1 core; it says nothing, as where it waits for room; the work goes on with 1 of 2")


def test_an_agent_that_ended_before_it_came_is_started_again_after_a_while(tmp_path: Path) -> None:
    launcher, watcher = Sparing("agent-2", num_ends=2), Told()
    with crew_of(tmp_path, launcher, watcher, min_agents=1) as crew:
        assert do(crew, 1, 2, 3) >= {"agent-1"}
        turn_until(crew, watcher, "came after all")
    told = [line for line in watcher.lines if "agent-2 ended with 7 before it came" in line]
    assert len(told) == 1 and len(launcher.asked) == 2 and "no node has so many GPUs" in told[0]
    assert len({key for _, (_, _, _, key) in launcher.asked}) == 2, "each start has a key of its own"


@pytest.mark.parametrize("min_agents", [0, 2])
def test_a_run_that_needs_all_of_its_agents_ends_with_what_is_missing(tmp_path: Path, min_agents: int) -> None:
    class Never(Sparing):
        def start(self, name: str, *rest: object) -> "ScriptedAgent | Awaited":  # type: ignore[override]
            self.withheld = "" if name == "agent-1" else name
            return super().start(name, *rest)  # type: ignore[arg-type]

    launcher, watcher = Never(""), Told()
    launcher.behavior = lambda agent, delivery: None  # one agent does not do it all
    crew = crew_of(tmp_path, launcher, watcher, min_agents=min_agents)
    missing = r"did not join within 1\.1 s; local was asked for 1 core, and 3 starts"
    with pytest.raises(LaunchError, match=missing) as raised, crew:
        crew.want((task.key, task, "task") for task in (TASK, TASK.replace(seed=2)))
        while True:
            crew.turn()
    assert "with launch.min_agents a run goes on with those that come" in str(raised.value)
    assert "no node has so many GPUs" in str(raised.value)
    assert any("no node has so many GPUs" in line for line in watcher.lines), "after the first time"


def test_more_agents_than_there_are_to_be_cannot_be_enough() -> None:
    with pytest.raises(ConfigError, match=r"launch\.min_agents: 3 are to be enough, and there are to be 2"):
        _ = launch_settings({"devices": "cpu:2", "min_agents": 3}).slots
    assert len(launch_settings({"devices": "cpu:2", "min_agents": 2}).slots) == 2


def test_what_is_asked_for_an_agent_is_told_in_words() -> None:
    assert [str(Demand()), str(Demand(0.5, 2)), str(Demand(2, 1))] == ["1 core", "0.5 GPU and 2 cores", "2 GPUs and 1 core"]


def test_nobody_counts_on_an_agent_that_is_late() -> None:
    dispatcher = Dispatcher(2, max_attempts=3)
    dispatcher.want([("a", TASK), ("b", TASK)])
    dispatcher.handle(Joined("agent-1"))
    assert dispatcher.handle(Failed("agent-1", "a", 1, retryable=True)) == [Start("agent-1", "b", 1)], "agent-2 will do it"
    assert dispatcher.handle(Ended("agent-1", "b", 1)) == [Accept("b")]
    assert dispatcher.handle(Late("agent-2")) == [Start("agent-1", "a", 2)], "it will not"
    dispatcher.check()
    assert dispatcher.want([("c", TASK)]) == [], "no other agent is asked for in its place"
    assert dispatcher.handle(Joined("agent-2")) == [Start("agent-2", "c", 1)]
    assert dispatcher.handle(Late("agent-2")) == [], "it is here"
    dispatcher.check()


def test_students_that_learn_together_wait_for_late_agents_and_others_go_on() -> None:
    first = Mutual(
        architecture=ARCHITECTURE,
        data=DATA,
        seed=1,
        distillation=Distillation(),
        partners=(Partner(architecture=ARCHITECTURE, recipe=Recipe(), seed=2),),
    )
    both: dict[str, Task] = {task.key: task for task in (first, *first.partner_tasks())}
    dispatcher = Dispatcher(2)
    dispatcher.want([*both.items(), ("c", TASK)])
    assert dispatcher.handle(Joined("agent-1")) == [], "the other one may be here soon"
    assert dispatcher.handle(Late("agent-2")) == [Start("agent-1", "c", 1)]
    dispatcher.check()
    dispatcher.handle(Ended("agent-1", "c", 1))
    assert [action.task for action in dispatcher.handle(Joined("agent-2")) if isinstance(action, Start)] == list(both)


def test_an_agent_that_learns_makes_room_for_one_that_is_to_teach_and_has_not_come() -> None:
    lesson = Distill(architecture=ARCHITECTURE, data=DATA, teachers=(TEACHER,), distillation=Distillation())

    def waiting_for_its_teacher() -> Dispatcher:
        dispatcher = Dispatcher(2)
        dispatcher.want([("a", lesson), ("b", TASK)])
        assert dispatcher.handle(Joined("agent-1")) == [Launch("agent-3", "teaching", 0), Start("agent-1", "b", 1)]
        dispatcher.handle(Joined("agent-2"))
        return dispatcher

    assert waiting_for_its_teacher().handle(Late("agent-3")) == [], "none can be spared"
    dispatcher = waiting_for_its_teacher()
    assert dispatcher.handle(Late("agent-3", spares_one=True)) == [Dismiss("agent-2")]
    dispatcher.check()
    assert dispatcher.handle(Joined("agent-3")) == [], "agent-1 is busy"
    assert dispatcher.handle(Ended("agent-1", "b", 1)) == [Accept("b"), Teach("agent-3", TEACHER, DATA)]
    dispatcher.check()
