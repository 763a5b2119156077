"""A crew and an agent that refuses, or does not hear, what it is asked: nobody waits for ever."""

import itertools
import json
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from scripted import ARCHITECTURE, DATA, GOOD, TASK, TURNS_S, Behavior, ScriptedAgent, ScriptedLauncher, crew_with, finish

from agentkd.artifacts.run_folder import RunFolder
from agentkd.coordinator.answers import to_what_was_asked
from agentkd.coordinator.crew import MAX_WAITING, Crew
from agentkd.coordinator.events import Start, Teach
from agentkd.coordinator.hearing import Hearing
from agentkd.coordinator.requests import Requests
from agentkd.coordinator.state import MAX_LOSSES
from agentkd.coordinator.watching import Silent
from agentkd.errors import DescriptorsError, ExchangeError, RemoteProtocolError, Rule, StorageError
from agentkd.exchange.keys import new_key_pair
from agentkd.exchange.post import Delivery
from agentkd.exchange.quotas import Quotas
from agentkd.launch.devices import Slot
from agentkd.launch.settings import LaunchConfig
from agentkd.messages.bodies import (
    AdmittedPeer,
    Body,
    ErrorReply,
    HeartbeatEvent,
    KnowledgeKind,
    KnowledgeReply,
    KnowledgeRequest,
    LeftEvent,
    ReleaseEvent,
    TaskProgressEvent,
    TaskReply,
    TaskRequest,
    TeachReply,
    TeachRequest,
    WelcomeReply,
)
from agentkd.messages.wire import Message, seal_plain
from agentkd.recipe import Distillation
from agentkd.task import Distill, Status, TeacherReference

TEACHER = TeacherReference(architecture=ARCHITECTURE, weights="ab" * 32)
START, TEACH = Start("ann", "ab" * 32, 1), Teach("ann", TEACHER, DATA)


def test_a_task_that_is_refused_when_it_is_read_fails_at_once(tmp_path: Path) -> None:
    def refuse(agent: ScriptedAgent, delivery: Delivery) -> None:
        if isinstance(delivery.message.body, TaskRequest):
            raise RemoteProtocolError("shares: must be positive", Rule.BODY)

    with crew_with(tmp_path, refuse) as (crew, launcher):
        finished = finish(crew, TASK)
        asked = [body for body in launcher.agents[0].heard if isinstance(body, TaskRequest)]
    assert finished.result.status is Status.FAILED and finished.result.error_code == "protocol"
    assert "shares: must be positive" in finished.result.error_text and len(asked) == 1, "every agent would refuse it"


def test_surroundings_that_are_in_the_way_again_and_again_stop_a_run_and_are_recorded_of_no_task(tmp_path: Path) -> None:
    def wait_in_vain(agent: ScriptedAgent, delivery: Delivery) -> None:
        body, number = delivery.message.body, delivery.message.msg_id
        if isinstance(body, TaskRequest):
            agent.say(ErrorReply(code="exchange", text="agent-9 did not answer", task=body.key, attempt=body.attempt), number)

    launcher, config = ScriptedLauncher(wait_in_vain), LaunchConfig(transport="tcp", max_attempts=2)
    with (
        pytest.raises(ExchangeError, match="was taken from its agents again and again") as stopped,
        Crew(RunFolder(tmp_path), (Slot("cpu", 1),), config, Silent(), launcher) as crew,
    ):
        finish(crew, TASK)
    assert stopped.value.exit_code == 12 and "agent-9 did not answer" in str(stopped.value)
    assert len([body for body in launcher.agents[0].heard if isinstance(body, TaskRequest)]) == MAX_LOSSES


@pytest.mark.parametrize(("exit_code", "expected"), [(16, StorageError), (21, DescriptorsError)])
def test_an_agent_that_ends_because_it_cannot_write_stops_the_run_with_what_it_says(
    tmp_path: Path, exit_code: int, expected: type[StorageError]
) -> None:
    def leave(agent: ScriptedAgent, delivery: Delivery) -> None:
        if isinstance(delivery.message.body, TaskRequest):
            agent.say(LeftEvent(reason="cannot write logs: the disk is full; free some space"))
            agent.exit_code = exit_code

    with pytest.raises(expected) as stopped, crew_with(tmp_path, leave) as (crew, _):
        finish(crew, TASK)
    assert "agent-1" in str(stopped.value) and stopped.value.exit_code == exit_code


def test_an_agent_that_crashes_has_met_the_fault_of_its_task_and_one_that_is_killed_has_not(tmp_path: Path) -> None:
    ends = iter([-signal.SIGKILL] * 3 + [-signal.SIGSEGV] * 2)

    def end(agent: ScriptedAgent, delivery: Delivery) -> None:
        if isinstance(delivery.message.body, TaskRequest):
            agent.exit_code = next(ends)

    launcher, config = ScriptedLauncher(end), LaunchConfig(transport="tcp", max_attempts=2)
    with Crew(RunFolder(tmp_path), (Slot("cpu", 1),), config, Silent(), launcher) as crew:
        finished = finish(crew, TASK)
    assert (finished.result.status, finished.attempts) == (Status.FAILED, 5)
    assert "exit code -11" in finished.result.error_text


def test_a_loss_that_is_not_finite_would_be_so_anywhere(tmp_path: Path) -> None:
    def diverge(agent: ScriptedAgent, delivery: Delivery) -> None:
        body, number = delivery.message.body, delivery.message.msg_id
        if isinstance(body, TaskRequest):
            agent.say(ErrorReply(code="non_finite_loss", text="nan", task=body.key, attempt=body.attempt), number)

    with crew_with(tmp_path, diverge) as (crew, launcher):
        finished = finish(crew, TASK)
        asked = [body for body in launcher.agents[0].heard if isinstance(body, TaskRequest)]
    assert finished.result.error_code == "non_finite_loss" and len(asked) == 1


def test_a_result_that_cannot_be_read_fails_at_once_and_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    def mumble(agent: ScriptedAgent, delivery: Delivery) -> None:
        body, number = delivery.message.body, delivery.message.msg_id
        if isinstance(body, TaskRequest):
            result = {"status": "completed", "miou": math.nan}
            said = {"task": body.key, "attempt": body.attempt, "result": result}
            header = {"msg_id": 1_000_000 + number, "parent_id": number, "session": agent.post.session}
            agent.post.send_frames(agent.coordinator, [seal_plain(TaskReply, header, said)])

    with crew_with(tmp_path, mumble, max_attempts=2) as (crew, _):
        began = time.monotonic()
        finished = finish(crew, TASK)
        assert time.monotonic() - began < crew._config.lease_s, "nobody waits for an answer that has come"
    assert (finished.result.status, finished.result.error_code) == (Status.FAILED, "result")
    assert "miou" in finished.result.error_text and "cannot be read" in finished.result.error_text
    assert finished.attempts == 2, "another agent may say it well"


@pytest.mark.usefixtures("_believed")
def test_what_teachers_say_is_recorded_by_agents_of_ours_alone(tmp_path: Path) -> None:
    def work(agent: ScriptedAgent, delivery: Delivery) -> None:
        body = delivery.message.body
        if isinstance(body, TaskRequest):
            agent.say(TaskReply(task=body.key, attempt=body.attempt, result=GOOD), delivery.message.msg_id)

    def recorded(agent: ScriptedAgent) -> list[bool]:
        return [body.record for body in agent.heard if isinstance(body, TaskRequest)]

    with crew_with(tmp_path / "ours", work, record_lessons=True) as (crew, launcher):
        assert finish(crew, TASK).result == GOOD and recorded(launcher.agents[0]) == [True]
    config = LaunchConfig(transport="tcp", record_lessons=True)
    with Crew(RunFolder(tmp_path / "run"), (), config, Silent(), ScriptedLauncher(work)) as crew:
        guest = admitted(crew, "guest", work)
        assert finish(crew, TASK).result == GOOD and recorded(guest) == [False]
        guest.kill()


ANOTHER = {"task": "ab" * 32}


@pytest.mark.usefixtures("_believed")
@pytest.mark.parametrize("kind", [TaskReply, ErrorReply])
@pytest.mark.parametrize("about", [ANOTHER, {"attempt": 99}, {"attempt": 0}, ANOTHER | {"attempt": 99}], ids=str)
def test_an_answer_about_something_else_is_a_failure_of_what_was_asked(
    tmp_path: Path, kind: type[TaskReply | ErrorReply], about: dict[str, object]
) -> None:
    said = {"result": GOOD} if kind is TaskReply else {"code": "internal", "text": "no such thing"}

    def digress(agent: ScriptedAgent, delivery: Delivery) -> None:
        body, number = delivery.message.body, delivery.message.msg_id
        if isinstance(body, TaskRequest):
            agent.say(kind(**{"task": body.key, "attempt": body.attempt} | said | about), number)

    config = LaunchConfig(transport="tcp", max_attempts=2)
    with Crew(RunFolder(tmp_path / "run"), (), config, Silent(), ScriptedLauncher(digress), is_forgiving=True) as crew:
        guests = [admitted(crew, "astray", digress)]
        began = time.monotonic()
        failed = finish(crew, TASK)
        assert time.monotonic() - began < config.lease_s, "nobody waits for an answer that has come"
        guests.append(admitted(crew, "well", answer))
        while len(crew.activities()) < len(guests):
            crew.turn()
        done = finish(crew, TASK.replace(seed=7))
        for guest in guests:
            guest.kill()
    assert (failed.result.status, failed.result.error_code, failed.attempts) == (Status.FAILED, "result", 2)
    assert f"was asked for task {TASK.key[:12]}, attempt 2" in failed.result.error_text
    assert (done.result, done.agent) == (GOOD, "well"), "it is given to somebody else"


def answer(agent: ScriptedAgent, delivery: Delivery) -> None:
    """Does every task well."""
    body = delivery.message.body
    if isinstance(body, TaskRequest):
        agent.say(TaskReply(task=body.key, attempt=body.attempt, result=GOOD), delivery.message.msg_id)


def test_an_agent_that_says_it_teaches_something_else_does_not_teach(tmp_path: Path) -> None:
    def adopt(agent: ScriptedAgent, delivery: Delivery) -> None:
        if isinstance(delivery.message.body, TeachRequest):
            agent.say(TeachReply(weights="cd" * 32), delivery.message.msg_id)

    lesson = Distill(architecture=ARCHITECTURE, data=DATA, teachers=(TEACHER,), distillation=Distillation())
    with crew_with(tmp_path, adopt) as (crew, _):
        finished = finish(crew, lesson)
    assert "was asked to teach abababababab, and answered that it teaches cdcdcdcdcdcd" in finished.result.error_text


@pytest.mark.parametrize(
    ("asked", "said", "told"),
    [
        (START, TaskReply(task="ab" * 32, attempt=1, result=GOOD), ""),
        (START, ErrorReply(code="internal", text="x", task="ab" * 32, attempt=1), ""),
        (START, ErrorReply(code="internal", text="x", attempt=7), ""),
        (START, TeachReply(weights="ab" * 32), "teaches"),
        (TEACH, TeachReply(weights=TEACHER.weights), ""),
        (TEACH, ErrorReply(code="internal", text="x"), ""),
        (TEACH, ErrorReply(code="internal", text="x", task="ab" * 32), "an error"),
        (TEACH, TaskReply(task="ab" * 32, attempt=1, result=GOOD), "a result"),
        (None, TaskReply(task="cd" * 32, attempt=9, result=GOOD), ""),
    ],
)
def test_an_answer_is_taken_as_it_is_if_it_is_about_what_was_asked(
    asked: Start | Teach | None, said: TaskReply | TeachReply | ErrorReply, told: str
) -> None:
    taken = to_what_was_asked(asked, said)
    assert (taken is said) is not bool(told) and (not told or told in taken.text)


@pytest.mark.usefixtures("_believed")
def test_what_an_agent_says_about_the_task_of_another_changes_nothing_of_it(tmp_path: Path) -> None:
    other = TASK.replace(seed=7)

    def meddle(agent: ScriptedAgent, delivery: Delivery) -> None:
        body = delivery.message.body
        if isinstance(body, TaskRequest):
            about = {"task": (other if body.key == TASK.key else TASK).key, "attempt": 1}
            agent.say(TaskProgressEvent(**about, step=1, steps=2, loss=0.5), delivery.message.msg_id)
            agent.say(ErrorReply(code="internal", text="it was me", **about))

    with Crew(RunFolder(tmp_path / "run"), (), LaunchConfig(transport="tcp"), Silent(), ScriptedLauncher(meddle)) as crew:
        guests = [admitted(crew, name, meddle) for name in ("one", "two")]
        crew.want([(task.key, task, "a task") for task in (TASK, other)])
        wait_for_turns(crew, lambda: all(len(guest.heard) > 1 for guest in guests))
        received = crew.counters.messages_received
        wait_for_turns(crew, lambda: crew.counters.messages_received > received + 4)
        doings = [crew._underway.find(task.key) for task in (TASK, other)]
        assert [(doing.progress, doing.error) for doing in doings if doing] == [(None, None)] * 2
        for guest in guests:
            guest.kill()


def wait_for_turns(crew: Crew, holds: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + TURNS_S
    while not holds():
        assert time.monotonic() < give_up_at, "it does not come to that"
        crew.turn()


def test_a_task_of_an_attempt_that_is_over_is_tried_again_with_the_next_one(tmp_path: Path) -> None:
    def know_better(agent: ScriptedAgent, delivery: Delivery) -> None:
        body = delivery.message.body
        if isinstance(body, TaskRequest):
            if body.attempt < 3:
                raise RemoteProtocolError(f"attempt {body.attempt} is over", Rule.FENCE)
            agent.say(TaskReply(task=body.key, attempt=body.attempt, result=GOOD), delivery.message.msg_id)

    with crew_with(tmp_path, know_better) as (crew, _):
        assert finish(crew, TASK).result == GOOD


def test_a_task_that_was_lost_on_its_way_is_sent_again(tmp_path: Path) -> None:
    numbers = itertools.count()

    def overhear_the_first(agent: ScriptedAgent, delivery: Delivery) -> None:
        body = delivery.message.body
        if isinstance(body, TaskRequest) and next(numbers) > 0:
            agent.say(TaskReply(task=body.key, attempt=body.attempt, result=GOOD), delivery.message.msg_id)

    with crew_with(tmp_path, overhear_the_first, lease_s=1.1) as (crew, _):
        finished = finish(crew, TASK)
    assert finished.result == GOOD and finished.attempts == 2


def test_a_task_whose_teacher_is_refused_when_it_is_read_fails_with_the_reason(tmp_path: Path) -> None:
    def refuse_to_teach(agent: ScriptedAgent, delivery: Delivery) -> None:
        if isinstance(delivery.message.body, TeachRequest):
            raise RemoteProtocolError("no such architecture", Rule.BODY)

    lesson = Distill(architecture=ARCHITECTURE, data=DATA, teachers=(TEACHER,), distillation=Distillation())
    with crew_with(tmp_path, refuse_to_teach) as (crew, _):
        finished = finish(crew, lesson)
    assert finished.result.status is Status.FAILED and "no such architecture" in finished.result.error_text


def admitted(crew: Crew, name: str, behavior: Behavior) -> ScriptedAgent:
    """A guest that has been invited and comes."""
    keys = new_key_pair()
    crew.invite(AdmittedPeer(agent=name, public_key=keys.public))
    return ScriptedAgent(keys, crew.contact.endpoints[0], crew.contact.coordinator_key, behavior)


@pytest.fixture
def _believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What guests of a test hand in is not looked at."""
    monkeypatch.setattr(Hearing, "_inspect", lambda hearing, task, result: result)


@pytest.mark.usefixtures("_believed")
@pytest.mark.parametrize("code", ["storage", "config", "artifact", "contract", "dataset", "internal"])
def test_whatever_a_guest_answers_ends_no_work_but_its_own(tmp_path: Path, code: str) -> None:
    def fail(agent: ScriptedAgent, delivery: Delivery) -> None:
        body, number = delivery.message.body, delivery.message.msg_id
        if isinstance(body, TaskRequest):
            agent.say(ErrorReply(code=code, text="No space left on device", task=body.key, attempt=body.attempt), number)
            agent.say(ErrorReply(code=code, text="about nothing that was asked"))

    def work(agent: ScriptedAgent, delivery: Delivery) -> None:
        body = delivery.message.body
        if isinstance(body, TaskRequest):
            agent.say(TaskReply(task=body.key, attempt=body.attempt, result=GOOD), delivery.message.msg_id)

    config = LaunchConfig(transport="tcp", max_attempts=2)
    with Crew(RunFolder(tmp_path / "run"), (Slot("cpu", 1),), config, Silent(), ScriptedLauncher(work)) as crew:
        guest = admitted(crew, "ill", fail)
        while not crew.activities():
            crew.turn()
        done = finish(crew, TASK)
        asked = [body.attempt for body in guest.heard if isinstance(body, TaskRequest)]
        guest.kill()
    assert asked == [1], "it was given it first"
    assert (done.result, done.agent, done.attempts) == (GOOD, "agent-1", 2)


@pytest.mark.usefixtures("_believed")
def test_a_task_of_a_kind_that_a_guest_does_not_know_is_given_to_another(tmp_path: Path) -> None:
    def older(agent: ScriptedAgent, delivery: Delivery) -> None:
        if isinstance(delivery.message.body, TaskRequest):
            raise RemoteProtocolError("no such kind of task", Rule.BODY)

    def work(agent: ScriptedAgent, delivery: Delivery) -> None:
        body = delivery.message.body
        if isinstance(body, TaskRequest):
            agent.say(TaskReply(task=body.key, attempt=body.attempt, result=GOOD), delivery.message.msg_id)

    config = LaunchConfig(transport="tcp", max_attempts=2)
    with Crew(RunFolder(tmp_path / "run"), (), config, Silent(), ScriptedLauncher(older)) as crew:
        guests = [admitted(crew, "older", older)]
        while len(crew.activities()) < 1:
            crew.turn()
        guests.append(admitted(crew, "newer", work))
        while len(crew.activities()) < len(guests):
            crew.turn()
        done = finish(crew, TASK)
        crew.__exit__(None, None, None)
        for guest in guests:
            guest.kill()
    assert done.result == GOOD and (done.agent, done.attempts) == ("newer", 2)


@pytest.mark.usefixtures("_believed")
def test_a_guest_is_handed_what_its_task_needs_and_else_only_what_it_may_fetch(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    needed, other = folder.store.put(b"what it begins with"), folder.store.put(b"another's")
    task = TASK.replace(initial_weights=needed)
    asked = (
        KnowledgeRequest(kind=KnowledgeKind.WEIGHTS, weights=other, ways=("inline",)),
        KnowledgeRequest(kind=KnowledgeKind.SOFT_TARGETS, weights=needed, ways=("inline",)),
        KnowledgeRequest(kind=KnowledgeKind.WEIGHTS, weights=needed, ways=("inline",)),
    )

    tasks: dict[ScriptedAgent, Message] = {}

    def ask(agent: ScriptedAgent, delivery: Delivery) -> None:
        body = delivery.message.body
        if isinstance(body, TaskRequest):
            tasks[agent] = delivery.message
            for request in asked:
                agent.say(request)
        elif isinstance(body, KnowledgeReply):
            given = tasks[agent].body
            agent.say(TaskReply(task=given.key, attempt=given.attempt, result=GOOD), tasks[agent].msg_id)

    def come(name: str, may: tuple[str, ...], seed: int) -> list[str]:
        keys = new_key_pair()
        crew.invite(AdmittedPeer(agent=name, public_key=keys.public, may=may))
        guest = ScriptedAgent(keys, crew.contact.endpoints[0], crew.contact.coordinator_key, ask)
        assert finish(crew, task.replace(seed=seed)).result == GOOD
        guest.say(asked[0])  # once its task is done, nothing is its to have
        answers: list[Body] = []
        while len(answers) <= len(asked):
            crew.turn()
            answers = [body for body in guest.heard if isinstance(body, ErrorReply | KnowledgeReply)]
        guest.say(LeftEvent(reason="done"))
        while crew.activities():
            crew.turn()
        guest.kill()
        return [body.rule if isinstance(body, ErrorReply) else "served" for body in answers]

    with Crew(folder, (), LaunchConfig(transport="tcp"), Silent(), ScriptedLauncher(ask)) as crew:
        assert come("stranger", (), 1) == ["grant", "role", "served", "grant"]
        assert come("friend", ("weights",), 2)[0] == "served"
    lines = [json.loads(line) for line in (folder.logs / "coordinator.audit.jsonl").read_text().splitlines()]
    told = [(line["name"], line["digest"], line["outcome"]) for line in lines]
    assert told[:4] == [
        ("stranger", other, "refused"),
        ("stranger", needed, "refused"),
        ("stranger", needed, "served"),
        ("stranger", other, "refused"),
    ]


def test_an_agent_that_cannot_teach_ends_no_work_but_what_it_should_have_taught(tmp_path: Path) -> None:
    def refuse_to_teach(agent: ScriptedAgent, delivery: Delivery) -> None:
        body, number = delivery.message.body, delivery.message.msg_id
        if isinstance(body, TeachRequest):
            agent.say(ErrorReply(code="dataset", text="the data are not here"), number)
        elif isinstance(body, TaskRequest):
            agent.say(TaskReply(task=body.key, attempt=body.attempt, result=GOOD), number)

    lesson = Distill(architecture=ARCHITECTURE, data=DATA, teachers=(TEACHER,), distillation=Distillation())
    with crew_with(tmp_path, refuse_to_teach) as (crew, _):
        finished = finish(crew, lesson)
        assert finish(crew, TASK).result == GOOD
    assert finished.result.error_text == "the data are not here" and finished.result.error_code == "dataset"


def test_an_answer_finds_the_request_that_it_names_once() -> None:
    requests = Requests(patience_s=2)
    requests.note(START, 7)
    assert requests.answered("ann", 8) is None and requests.answered("bob", 7) is None
    assert requests.answered("ann", 7) is START and requests.answered("ann", 7) is None
    requests.note(START, 8)
    requests.note(TEACH, 9)
    assert requests.answered("ann", 8) is None and requests.answered("ann", 9) is TEACH
    requests.note(START, 10)
    requests.forget("ann")
    assert requests.answered("ann", 10) is None


def test_a_request_is_lost_once_its_agent_was_idle_for_too_long_without_a_break() -> None:
    requests = Requests(patience_s=2)
    assert not requests.is_lost("ann", is_busy=False, now=0)
    requests.note(START, 7)
    beats = [(100, False), (101, False), (102, True), (103, False), (105, False)]
    assert not any(requests.is_lost("ann", is_busy=is_busy, now=now) for now, is_busy in beats)
    assert requests.is_lost("ann", is_busy=False, now=105.1)
    assert not requests.is_lost("ann", is_busy=False, now=200), "it is said once"


@pytest.mark.parametrize(("error", "is_told"), [(KeyError("a bug"), True), (RemoteProtocolError("no", Rule.BODY), False)])
def test_a_fault_of_ours_leaves_in_the_log_what_led_to_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception, is_told: bool
) -> None:
    with pytest.raises(type(error)), crew_with(tmp_path, lambda agent, delivery: None) as (crew, _):
        crew.want([(TASK.key, TASK, "the task")])
        raise error
    assert ("Launch(agent-1, learning, 0)" in caplog.text) is is_told


def test_what_a_guest_says_waits_within_limits_and_what_our_agents_say_always(tmp_path: Path) -> None:
    def chatter(agent: ScriptedAgent, delivery: Delivery) -> None:
        if isinstance(delivery.message.body, WelcomeReply):
            for progress in range(1000):
                agent.say(HeartbeatEvent(progress=progress, is_busy=False))

    config = LaunchConfig(transport="tcp")
    with Crew(RunFolder(tmp_path / "run"), (Slot("cpu", 1),), config, Silent(), ScriptedLauncher(chatter)) as crew:
        guest = admitted(crew, "guest", chatter)
        wait_until(lambda: crew.counters.refused.get(Rule.LIMIT, 0) >= 1000 - MAX_WAITING - 5)
        assert crew._inbox.qsize() <= MAX_WAITING + 5, "and what the crew itself puts there"
        crew.want([(TASK.key, TASK, "the task")])
        wait_until(lambda: crew._inbox.qsize() > 1000)
        crew.turn()
        before, received = crew.counters.refused[Rule.LIMIT], crew.counters.messages_received
        wait_until(lambda: crew.counters.messages_received > received + 4)
        assert crew.counters.refused[Rule.LIMIT] == before, "once it was looked at there is room"
        guest.kill()
        crew.__exit__(KeyboardInterrupt, None, None)


def test_messages_leave_room_for_others_when_they_are_taken() -> None:
    quotas = Quotas(max_messages=2, max_bytes=10, max_bytes_in_all=15)
    one, two = Delivery("a" * 40, message(6)), Delivery("b" * 40, message(6))
    assert quotas.enter(one) == "" and quotas.enter(two) == ""
    assert quotas.enter(one) == "messages with 6 octets of this peer and 12 of all wait already"
    assert quotas.enter(Delivery("c" * 40, message(4))) == "messages with 0 octets of this peer and 12 of all wait already"
    empty = Delivery("a" * 40, message(0))
    assert quotas.enter(empty) == "" and quotas.enter(empty) == "2 messages of this peer wait already"
    quotas.leave(one)
    quotas.leave(Delivery("d" * 40, message(6)))
    assert quotas.enter(Delivery("a" * 40, message(9))) == ""
    assert quotas.enter(Delivery("c" * 40, message(1))) != "", "15 of all wait"


def message(size_bytes: int) -> Message:
    return Message(ReleaseEvent(leases=()), buffers=(b"x" * size_bytes,))


def wait_until(holds: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + TURNS_S
    while not holds():
        assert time.monotonic() < give_up_at, "it does not come to that"
        time.sleep(0.01)


def test_decoded_images_are_gone_before_a_crew_begins_and_when_it_has_ended(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    of_data = folder.images / ("d" * 64)
    of_data.mkdir(mode=0o700, parents=True)
    (of_data / "0").write_bytes(b"x")
    with crew_with(tmp_path, lambda agent, delivery: None):
        assert not folder.images.exists()
        of_data.mkdir(parents=True)
    assert not folder.images.exists()
