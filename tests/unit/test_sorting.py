"""Whoever gets messages has a use for each kind, or refuses it: none is passed over, and a new kind shows here."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentkd.agents.agent import Agent, AgentSettings, EndedBySignal
from agentkd.architecture import Architecture
from agentkd.artifacts.run_folder import RunFolder
from agentkd.code.barring import CODE
from agentkd.community.visit import Visit
from agentkd.coordinator.crew import Crew
from agentkd.coordinator.desk import Order
from agentkd.coordinator.watching import Silent
from agentkd.errors import ChannelClosedError, RemoteProtocolError, Rule
from agentkd.exchange.keys import new_key_pair
from agentkd.exchange.post import Delivery
from agentkd.launch.local import LocalLauncher
from agentkd.launch.settings import LaunchConfig
from agentkd.messages.bodies import TYPES, AdmittedPeer, ErrorReply, KnowledgeKind, KnowledgeRequest, TaskRequest
from agentkd.messages.vectors import valid
from agentkd.messages.wire import Message, decode
from agentkd.recipe import Distillation, Recipe
from agentkd.task import DataSource, Mutual, Partner

MESSAGES = {type(message.body).__name__: message for message in (decode(vector.frames) for vector in valid())}
FRIEND, STRANGER = new_key_pair().public, new_key_pair().public
NETWORK = Architecture(family="unet", num_classes=2)
GIVEN = Mutual(
    architecture=NETWORK,
    data=DataSource(spec="s", content_digest="d"),
    distillation=Distillation(),
    partners=(Partner(architecture=NETWORK, recipe=Recipe(), seed=1),),
)
FOR_THE_POST = {"PingRequest", *(name for name in MESSAGES if name.startswith("Stream"))}


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    settings = AgentSettings(
        (), FRIEND, new_key_pair(), device="cpu", threads=1, run_folder=tmp_path / "run", listen=("memory://*",)
    )
    made = Agent(settings)
    made.post.start()
    yield made
    made.carrier.close()
    made.post.close()


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    folder = RunFolder(tmp_path / "run")
    with Crew(folder, (), LaunchConfig(), Silent(), LocalLauncher(folder), on_order=lambda crew, delivery: None) as made:
        yield made


def refused(sort: Callable[[Delivery], None], sender: str = FRIEND) -> set[str]:
    """The kinds of messages that are refused as being of no use."""
    assert {type(message.body) for message in MESSAGES.values()} == set(TYPES.values())
    found = set()
    for name, message in MESSAGES.items():
        try:
            sort(Delivery(sender, message))
        except RemoteProtocolError as error:
            if error.rule is Rule.TYPE:
                found.add(name)
    return found - FOR_THE_POST


def test_an_agent_refuses_what_only_coordinators_and_scripts_have_a_use_for(agent: Agent) -> None:
    of_others = {"HeartbeatEvent", "LeftEvent", "SubmitRequest", "SubmitReply", "TaskProgressEvent", "TaskReply", "TeachReply"}
    assert refused(agent._sort) == of_others | {"AssessReply", "PingReply", "StatusReply"}
    assert agent._work.qsize() == 5 and agent._lesson_inbox.qsize() == 3


def test_a_coordinator_refuses_what_it_is_not_for_and_nothing_of_that_reaches_its_thread(crew: Crew) -> None:
    crew.invite(AdmittedPeer(agent="ann", public_key=FRIEND, may=("tasks",)))
    crew._inbox.get()
    to_agents = {"CancelRequest", "LeaveRequest", "PeersEvent", "TaskRequest", "TeachRequest", "TeacherMovedEvent"}
    useless = to_agents | {"AssessRequest", "PingReply", "StatusReply", "StatusRequest", "SubmitReply", "WelcomeReply"}
    assert refused(crew._sort) == useless
    assert crew._inbox.qsize() == 9 and crew.counters.late == 2


def test_a_coordinator_refuses_of_strangers_what_only_its_agents_may_want(crew: Crew) -> None:
    """A script that hands tasks in is no agent: it is not left waiting for knowledge."""
    assert {"KnowledgeRequest", "HeartbeatEvent", "TaskReply"} <= refused(crew._sort, STRANGER)
    assert crew._inbox.qsize() == 2, "a greeting and an error"


def test_a_script_refuses_everything_but_what_becomes_of_its_tasks(tmp_path: Path) -> None:
    visit = Visit(RunFolder(tmp_path / "run"))
    useful = {"WelcomeReply", "PingReply", "TaskProgressEvent", "SubmitReply", "ErrorReply"}
    assert refused(visit._take) == set(MESSAGES) - FOR_THE_POST - useful


def test_a_script_that_can_hear_nothing_any_more_waits_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Any] = {}

    class Fallen:
        def __init__(self, keys: object, deliver: object, **how: Any) -> None:
            made.update(how)

        def start(self) -> None:
            made["fell"]()

        connect = send = close = lambda *rest, **more: 7
        peer = lambda *rest: True  # noqa: E731

    told: list[Exception] = []
    folder = RunFolder(tmp_path / "run")
    monkeypatch.setattr("agentkd.community.visit.Post", Fallen)
    monkeypatch.setattr("agentkd.community.visit._read_contact", lambda folder: (SimpleNamespace(public_key=FRIEND), 1))
    visit = Visit(folder)
    visit.start()
    visit.submit([Order(GIVEN, "mine", SimpleNamespace(fail=told.append))])  # type: ignore[arg-type]
    made["fell"]()
    assert [type(error) for error in told] == [ChannelClosedError] and "connect again" in str(told[0]) and not visit.is_open
    visit.close()


def test_a_partner_is_heard_by_the_lesson_that_it_asks_also_when_the_one_before_ends_after_the_next_was_given(
    agent: Agent,
) -> None:
    def give(attempt: int, seed: int) -> TaskRequest:
        request = TaskRequest(task=GIVEN.replace(seed=seed), attempt=attempt)
        agent._sort(Delivery(FRIEND, Message(request)))
        return request

    def reaches_the_lesson(request: TaskRequest) -> bool:
        asked = KnowledgeRequest(kind=KnowledgeKind.SOFT_TARGETS, weights=request.key, step=0)
        before = agent._lesson_inbox.qsize()
        agent._sort(Delivery(FRIEND, Message(asked)))
        return agent._lesson_inbox.qsize() > before

    first = give(1, seed=5)
    assert reaches_the_lesson(first)
    second = give(1, seed=6)
    agent._over = (first.key, 1)  # as the work thread says at the end of the first
    assert reaches_the_lesson(second) and not reaches_the_lesson(first)
    agent._over = (second.key, 1)
    assert not reaches_the_lesson(second), "what was said lies in its folder"
    assert reaches_the_lesson(give(2, seed=6))


@pytest.mark.parametrize("kind", KnowledgeKind)
def test_what_was_said_in_a_step_is_soft_targets_whatever_it_is_asked_for_as(agent: Agent, kind: KnowledgeKind) -> None:
    asked = KnowledgeRequest(kind=kind, weights=GIVEN.key, step=0)
    for may, is_granted in (
        (tuple(other for other in KnowledgeKind if other != "soft_targets"), False),
        (("soft_targets",), True),
    ):
        agent.post.admit([AdmittedPeer(agent="ann", public_key=STRANGER, may=may)])
        if is_granted:
            agent._sort(Delivery(STRANGER, Message(asked)))
            assert agent._work.qsize() == 1
        else:
            with pytest.raises(RemoteProtocolError) as refused:
                agent._sort(Delivery(STRANGER, Message(asked)))
            assert refused.value.rule is Rule.GRANT and agent._work.qsize() == 0


@pytest.mark.parametrize("asked", [SystemExit(3), SystemExit("done"), KeyboardInterrupt(), ValueError("nothing")])
def test_own_code_that_asks_for_an_end_ends_its_task_and_not_the_agent(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, asked: BaseException
) -> None:
    said = end_with(agent, monkeypatch, asked)
    assert [(error.remote_type, error.code) for error in said] == [(type(asked).__name__, "internal")]
    assert said[0].task == GIVEN.key and not agent._is_busy


def test_a_signal_ends_the_agent_in_the_middle_of_a_task(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EndedBySignal) as caught:
        end_with(agent, monkeypatch, EndedBySignal(0))
    assert caught.value.code == 0


def end_with(agent: Agent, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> list[ErrorReply]:
    """What the coordinator is told when a task ends so."""
    said: list[ErrorReply] = []
    names = {"error": error}
    exec(compile("def execute(task, at):\n    raise error\n", f"{CODE} {'c0' * 32}> mine.py", "exec"), names)
    monkeypatch.setattr("agentkd.agents.agent.execute", names["execute"])
    monkeypatch.setattr(agent.post, "send", lambda peer, body, **rest: said.append(body))
    agent._answer(Delivery(FRIEND, Message(TaskRequest(task=GIVEN, attempt=1))))
    return said
