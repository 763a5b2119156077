"""Agents that say what a test has them say: the I/O thread of one, without a work thread, behind a launcher as processes are."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentkd.architecture import Architecture
from agentkd.artifacts.run_folder import RunFolder
from agentkd.coordinator.crew import Crew
from agentkd.coordinator.underway import Finished
from agentkd.coordinator.watching import Silent
from agentkd.exchange.grants import EVERYTHING, Grants
from agentkd.exchange.keys import KeyPair
from agentkd.exchange.post import Delivery, Manners, Post
from agentkd.launch.devices import Slot
from agentkd.launch.settings import LaunchConfig
from agentkd.messages.bodies import AdmittedPeer, Body, HeartbeatEvent, HelloRequest
from agentkd.task import DataSource, Status, Task, TaskResult, Train

DATA = DataSource(spec="s", content_digest="d")
ARCHITECTURE = Architecture(family="unet", num_classes=2)
TASK = Train(architecture=ARCHITECTURE, data=DATA)
GOOD = TaskResult(status=Status.COMPLETED, miou=0.5)
TURNS_S = 30.0
BEAT_S = 0.1

Behavior = Callable[["ScriptedAgent", Delivery], None]


class ScriptedAgent:
    """An agent's I/O thread without a work thread: it says hello and that it is idle, and does what the test says."""

    def __init__(
        self, keys: KeyPair, endpoint: str, coordinator: str, behavior: Behavior, *, name: str = "", device: str = ""
    ) -> None:
        self.behavior, self.coordinator, self.name, self.device = behavior, coordinator, name, device
        hello = HelloRequest(capabilities=("learn",), window_bytes=1, device=device)
        self.heard: list[Body] = []
        self.has_ended, self.exit_code = False, 0
        peer = AdmittedPeer(agent="coordinator", endpoints=(endpoint,), public_key=self.coordinator, may=EVERYTHING)
        grants = Grants(None)
        grants.admit([peer])
        self.post = Post(
            keys,
            self._deliver,
            manners=Manners(hello=hello, coordinator_key=self.coordinator),
            grants=grants,
            tick=self._tick,
            tick_s=BEAT_S,
        )
        self.post.start()
        self.post.connect(peer)

    def _deliver(self, delivery: Delivery) -> None:
        self.heard.append(delivery.message.body)
        self.behavior(self, delivery)

    def _tick(self) -> None:
        self.say(HeartbeatEvent(progress=0, is_busy=False))

    def say(self, body: Body, parent_id: int = 0) -> None:
        self.post.send(self.coordinator, body, parent_id=parent_id)

    # As a process.

    def poll(self) -> int | None:
        return self.exit_code if self.has_ended or self.exit_code else None

    def end(self) -> None:
        if not self.has_ended:
            self.has_ended = True
            self.post.close()

    kill = end

    def tail(self) -> str:
        return ""


class ScriptedLauncher:
    """Starts scripted agents here."""

    def __init__(self, behavior: Behavior) -> None:
        self.behavior = behavior
        self.agents: list[ScriptedAgent] = []

    def start(self, name: str, slot: Slot, arguments: Sequence[str], key: KeyPair) -> ScriptedAgent:
        told = dict(word.removeprefix("--").split("=", 1) for word in arguments if "=" in word)
        where = told["join"], told["coordinator-key"]
        self.agents.append(ScriptedAgent(key, *where, self.behavior, name=name, device=slot.device))
        return self.agents[-1]

    def close(self) -> None:
        for agent in self.agents:
            agent.kill()


@contextmanager
def crew_with(folder: Path, behavior: Behavior, **options: object) -> Iterator[tuple[Crew, ScriptedLauncher]]:
    launcher = ScriptedLauncher(behavior)
    config = LaunchConfig(transport="tcp", **options)
    with Crew(RunFolder(folder), (Slot("cpu", 1),), config, Silent(), launcher, is_forgiving=True) as crew:
        yield crew, launcher


def finish(crew: Crew, task: Task) -> Finished:
    """What comes of a task."""
    crew.want([(task.key, task, "the task")])
    give_up_at = time.monotonic() + TURNS_S
    while time.monotonic() < give_up_at:
        for finished in crew.turn():
            return finished
    pytest.fail("everybody waits")
