"""Random histories of a dispatcher: whatever happens, its invariants hold, and in the end every task is accepted or given up.

``AGENTKD_HISTORIES=10000 pytest tests/unit/test_dispatch_histories.py`` for a long run; a few hundred otherwise.
"""

import os
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentkd.architecture import Architecture
from agentkd.coordinator import crowding
from agentkd.coordinator.dispatch import Dispatcher, retell
from agentkd.coordinator.events import (
    Accept,
    Action,
    Arrived,
    Cancel,
    Dismiss,
    Ended,
    Event,
    Failed,
    GiveUp,
    Idle,
    Joined,
    Late,
    Launch,
    Lost,
    Move,
    Ready,
    Start,
    Teach,
    TeachingFailed,
)
from agentkd.coordinator.state import Bench, Condition
from agentkd.recipe import Distillation, Recipe
from agentkd.task import Average, DataSource, Distill, Mutual, Partner, Task, TeacherReference, Train

NUM_HISTORIES = int(os.environ.get("AGENTKD_HISTORIES", "200"))
MAX_ROUNDS = 200
ARCHITECTURE = Architecture(family="unet", num_classes=2)
DATA, OTHER_DATA = DataSource(spec="s", content_digest="d"), DataSource(spec="t", content_digest="e")
OWN = Architecture(family="mine:net", num_classes=2, code="c" * 64)
THREE = TeacherReference(architecture=OWN, weights="w3")
ONE, TWO = (TeacherReference(architecture=ARCHITECTURE, weights=weights) for weights in ("w1", "w2"))
FOREIGN = TeacherReference(architecture=None, weights="w9")
LEARNING_GUESTS = ("ann", "bob", "cem")
TEACHING_GUESTS = ("tim", "una")
DEVICES = ("one", "other")


def _lesson(*teachers: TeacherReference, data: DataSource = DATA) -> Task:
    return Distill(architecture=ARCHITECTURE, data=data, teachers=teachers, distillation=Distillation())


def _cohort(size: int, seed: int = 0, architecture: Architecture = ARCHITECTURE) -> dict[str, Task]:
    seed = seed or 10 * size
    partners = tuple(Partner(architecture=architecture, recipe=Recipe(), seed=seed + number) for number in range(1, size))
    first = Mutual(
        architecture=architecture,
        data=DATA,
        seed=seed,
        distillation=Distillation(),
        partners=tuple(sorted(partners, key=lambda one: one.digest)),
    )
    return {task.key: task for task in (first, *first.partner_tasks())}


TASKS: dict[str, Task] = {
    "plain 1": Train(architecture=ARCHITECTURE, data=DATA),
    "plain 2": Train(architecture=ARCHITECTURE, data=DATA),
    "plain 3": Train(architecture=ARCHITECTURE, data=DATA),
    "average": Average(architecture=ARCHITECTURE, data=DATA, teachers=(ONE, TWO)),
    "of one": _lesson(ONE),
    "of one, too": _lesson(ONE),
    "of one, about other data": _lesson(ONE, data=OTHER_DATA),
    "of two": _lesson(TWO),
    "of both": _lesson(ONE, TWO),
    "of a guest": _lesson(FOREIGN),
    "of a guest and one": _lesson(FOREIGN, ONE),
    **_cohort(2),
    **_cohort(3),
    "own 1": Train(architecture=OWN, data=DATA),
    "own 2": Train(architecture=OWN, data=DATA),
    "of an own one": _lesson(THREE),
    "of an own one and one": _lesson(THREE, ONE),
    "own, of one": Distill(architecture=OWN, data=DATA, teachers=(ONE,), distillation=Distillation()),
    **_cohort(2, 90, OWN),
}
COHORTS = {key: {key, *(partner.key for partner in task.partner_tasks())} for key, task in TASKS.items() if task.partner_tasks()}
KEYS = list(TASKS)


@dataclass
class Agent:
    """What an agent process does, as far as the dispatcher could know: requests in order, and what it teaches."""

    has_joined: bool = False
    requests: deque[Start | Teach] = field(default_factory=deque)
    called_off: set[tuple[str, int]] = field(default_factory=set)
    teaches: set[str] = field(default_factory=set)
    has_run: str = ""  # what it has done or taught with own code


class Crew(RuleBasedStateMachine):
    """A dispatcher, and agents that do what they are told, or fail, fall silent, come late, come back."""

    @initialize(num_slots=st.integers(0, 3), max_attempts=st.integers(1, 3), max_copies=st.integers(1, 3))
    def begin(self, num_slots: int, max_attempts: int, max_copies: int) -> None:
        self.dispatcher = Dispatcher(num_slots, max_attempts=max_attempts, max_copies=max_copies)
        self.agents: dict[str, Agent] = {}
        self.hears: dict[tuple[str, str], dict[str, str]] = {}
        self.attempts: dict[str, int] = {}
        self.open: set[str] = set()
        self.accepted: set[str] = set()
        self.has_result: set[str] = set()
        self.followers: dict[str, list[str]] = {}
        self.answers: list[Ended | Failed] = [Ended("nobody", "plain 1", 1)]
        self.is_sound, self.is_short = True, False

    # What happens.

    @rule(keys=st.lists(st.sampled_from(KEYS), max_size=4))
    def want(self, keys: list[str]) -> None:
        self._want(keys)

    @rule(key=st.sampled_from(sorted(COHORTS)))
    def want_a_cohort(self, key: str) -> None:
        self._want(sorted(COHORTS[key]))

    @rule(first=st.sampled_from(KEYS), then=st.sampled_from(KEYS))
    def want_one_after_the_other(self, first: str, then: str) -> None:
        if first not in self.accepted:
            self.followers.setdefault(first, []).append(then)
        self._want([first])

    @rule(key=st.sampled_from(KEYS))
    def find_it_recorded(self, key: str) -> None:
        weights = frozenset(teacher.weights for teacher in TASKS[key].taught_by)
        self._act(self.dispatcher.spare({**self.dispatcher.state.spared, key: weights}))

    @rule()
    def lose_the_recordings(self) -> None:
        self._act(self.dispatcher.spare({}))

    @precondition(lambda self: self.agents)
    @rule(number=st.integers(0, 7))
    def join(self, number: int) -> None:
        self._join(self._pick(number))

    @precondition(lambda self: any(not agent.has_joined for agent in self.agents.values()))
    @rule(number=st.integers(0, 7), spares_one=st.booleans())
    def be_late(self, number: int, spares_one: bool) -> None:
        awaited = sorted(name for name, agent in self.agents.items() if not agent.has_joined)
        self.is_short = spares_one
        self._handle(Late(awaited[number % len(awaited)], spares_one))
        self.is_short = False

    @rule(name=st.sampled_from(LEARNING_GUESTS))
    def a_guest_comes_to_learn(self, name: str) -> None:
        self._arrive(Arrived(name, learns=True))

    @rule(name=st.sampled_from([*LEARNING_GUESTS, *TEACHING_GUESTS]), weights=st.sampled_from(["w1", "w2", "w9"]))
    def a_guest_comes_to_teach(self, name: str, weights: str) -> None:
        self._arrive(Arrived(name, learns=True, teaches=weights))

    @rule(name=st.sampled_from(LEARNING_GUESTS))
    def a_guest_comes_to_look_on(self, name: str) -> None:
        self._arrive(Arrived(name, learns=False))

    @precondition(lambda self: self.agents)
    @rule(number=st.integers(0, 7), lacks_memory=st.booleans())
    def lose(self, number: int, lacks_memory: bool) -> None:
        name = self._pick(number)
        del self.agents[name]
        self._handle(Lost(name, lacks_memory=lacks_memory))

    @precondition(lambda self: any(agent.requests for agent in self.agents.values()))
    @rule(number=st.integers(0, 7))
    def do_well(self, number: int) -> None:
        self._do_well(self._pick_asked(number))

    @precondition(lambda self: any(agent.requests for agent in self.agents.values()))
    @rule(number=st.integers(0, 7), retryable=st.booleans())
    def fail(self, number: int, retryable: bool) -> None:
        self._fail(self._pick_asked(number), retryable, lacks_memory=False)

    @precondition(lambda self: any(agent.requests for agent in self.agents.values()))
    @rule(number=st.integers(0, 7))
    def run_out_of_memory(self, number: int) -> None:
        name, state = self._pick_asked(number), self.dispatcher.state
        member, given_up = state.members.get(name), self.open.copy()
        can_spare = member is not None and crowding.can_spare_one(state, member)
        self.is_short = True
        self._fail(name, True, lacks_memory=True)
        self.is_short = False
        assert not can_spare or given_up == self.open, "a task is given up though there could be more room"

    @precondition(lambda self: any(agent.requests for agent in self.agents.values()))
    @rule(number=st.integers(0, 7))
    def lose_a_request(self, number: int) -> None:
        self.agents[self._pick_asked(number)].requests.popleft()

    @precondition(lambda self: self.agents)
    @rule(number=st.integers(0, 7))
    def say_idle(self, number: int) -> None:
        self._handle(Idle(self._pick(number)))

    @rule(number=st.integers(0, 99))
    def come_late(self, number: int) -> None:
        before = set(self.accepted)
        late = self.answers[number % len(self.answers)]
        if not self.dispatcher.state.is_current(late.agent, late.task, late.attempt):
            self._handle(late)
            assert self.accepted == before, "an answer that is void counted"

    # What holds after everything.

    @invariant()
    def its_invariants_hold(self) -> None:
        self.dispatcher.check()
        state = self.dispatcher.state
        assert self.open == state.waiting.keys() | state.running.keys() | state.ended.keys()
        assert state.members.keys() <= self.agents.keys()
        for running in state.running.values():
            told = self.hears[running.agent, self.dispatcher.state.members[running.agent].task]
            assert {**told, **running.teachers} == told, "a student was not told who teaches it"
        self.is_sound = True

    def teardown(self) -> None:
        """Nothing bad happens any more: everything gets done. And who is told the same decides the same."""
        if getattr(self, "is_sound", False):
            self._calm_down()
            assert not self.open, f"these wait for ever: {self.open}"
            story = self.dispatcher.story()
            assert retell(story).story() == story

    # The crew.

    def _calm_down(self) -> None:
        members, num_slots = self.dispatcher.state.members, self.dispatcher.state.num_slots
        for name in LEARNING_GUESTS:
            if name not in members or members[name].bench is not Bench.LEARNING:
                self._arrive(Arrived(name, learns=True))
        for weights in ("w1", "w2", "w3", "w9") if num_slots == 0 else ("w9",):
            self._arrive(Arrived(f"who has {weights}", learns=False, teaches=weights))
        for _ in range(MAX_ROUNDS):
            is_calm = True
            for name, agent in list(self.agents.items()):
                member = self.dispatcher.state.members.get(name)
                if name not in self.agents or member is None:
                    continue
                if not agent.has_joined:
                    self._join(name)
                elif agent.requests:
                    self._do_well(name)
                elif member.condition in (Condition.BUSY, Condition.ADOPTING):
                    self._handle(Idle(name))
                else:
                    continue
                is_calm = False
                self.dispatcher.check()
            if is_calm:
                return
        raise AssertionError(f"no end of it:\n{self.dispatcher.story()}")

    def _pick(self, number: int) -> str:
        return sorted(self.agents)[number % len(self.agents)]

    def _pick_asked(self, number: int) -> str:
        asked = sorted(name for name, agent in self.agents.items() if agent.requests)
        return asked[number % len(asked)]

    def _want(self, keys: Iterable[str]) -> None:
        wanted = list(dict.fromkeys(keys))
        self.open |= set(wanted) - self.accepted
        self._act(self.dispatcher.want((key, TASKS[key]) for key in wanted))

    def _join(self, name: str) -> None:
        self.agents[name].has_joined = True
        member = self.dispatcher.state.members.get(name)
        self._handle(Joined(name, DEVICES[member.slot % len(DEVICES)] if member else ""))

    def _fail(self, name: str, retryable: bool, *, lacks_memory: bool) -> None:
        request = self.agents[name].requests.popleft()
        if isinstance(request, Start):
            self._answer(Failed(name, request.task, request.attempt, retryable, lacks_memory))
        elif request.teacher.weights not in self.agents[name].teaches:
            self.agents[name].teaches.clear()
            self._handle(TeachingFailed(name, retryable, lacks_memory))

    def _arrive(self, event: Arrived) -> None:
        self.agents[event.agent] = Agent(has_joined=True, teaches={event.teaches} - {""})
        self._handle(event)

    def _do_well(self, name: str) -> None:
        agent = self.agents[name]
        request = agent.requests.popleft()
        if isinstance(request, Teach):
            agent.teaches = {request.teacher.weights}
            self._handle(Ready(name, request.teacher.weights))
        elif (request.task, request.attempt) in agent.called_off:
            self._answer(Failed(name, request.task, request.attempt, retryable=True))
        else:
            self._answer(Ended(name, request.task, request.attempt))

    def _answer(self, event: Ended | Failed) -> None:
        self.answers.append(event)
        if isinstance(event, Ended) and self.dispatcher.state.is_current(event.agent, event.task, event.attempt):
            self.has_result.add(event.task)
        self._handle(event)

    def _handle(self, event: Event) -> None:
        self._act(self.dispatcher.handle(event))

    def _act(self, actions: list[Action]) -> None:
        self.is_sound = False
        followers: list[str] = []
        for action in actions:
            if isinstance(action, Launch):
                assert action.agent not in self.agents
                self.agents[action.agent] = Agent()
            elif isinstance(action, Start):
                self._start(action)
            elif isinstance(action, Teach):
                agent = self.agents[action.agent]
                assert agent.has_joined and action.teacher.architecture is not None
                assert action.agent.startswith("agent-"), "a guest is told what to teach"
                self._run_code(action.agent, action.teacher.weights, runs_code=bool(action.teacher.architecture.code))
                agent.requests.append(action)
            elif isinstance(action, Move):
                member = self.dispatcher.state.members[action.student]
                assert action.teacher in self.agents
                self.hears[action.student, member.task][action.teacher_id] = action.teacher
            elif isinstance(action, Dismiss):
                agent = self.agents.pop(action.agent)
                assert agent.has_run or self.is_short, "an agent is ended that could go on"
                assert action.agent.startswith("agent-"), "a guest is ended"
                still = [request for request in agent.requests if isinstance(request, Start)]
                called_off = all((request.task, request.attempt) in agent.called_off for request in still)
                assert called_off or self.is_short, "it has a task"
            elif isinstance(action, Cancel):
                self.agents[action.agent].called_off.add((action.task, action.attempt))
            elif isinstance(action, Accept):
                assert action.task in self.open and action.task in self.has_result
                self.open.remove(action.task)
                self.accepted.add(action.task)
                followers += self.followers.pop(action.task, ())
            elif isinstance(action, GiveUp):
                assert action.task in self.open
                self.open.remove(action.task)
                self.has_result.discard(action.task)
                self.followers.pop(action.task, None)
        if followers:
            self._want(followers)

    def _start(self, action: Start) -> None:
        agent = self.agents[action.agent]
        assert agent.has_joined and action.task in self.open and action.attempt > self.attempts.get(action.task, 0)
        still = [request for request in agent.requests if isinstance(request, Start)]
        assert all((request.task, request.attempt) in agent.called_off for request in still), "an agent has two tasks"
        assert not any(isinstance(request, Teach) for request in agent.requests), "who is to teach is given a task"
        self._run_code(action.agent, f"{action.task} {action.attempt}", runs_code=TASKS[action.task].runs_code)
        for weights, teacher in action.teachers:
            assert weights in COHORTS.get(action.task, ()) or weights in self.agents[teacher].teaches
        agent.requests.append(action)
        self.attempts[action.task] = action.attempt
        self.hears[action.agent, action.task] = dict(action.teachers)

    def _run_code(self, name: str, what: str, *, runs_code: bool) -> None:
        agent = self.agents[name]
        assert not name.startswith("agent-") or agent.has_run in ("", what), "who has run own code does something else"
        agent.has_run = what if runs_code else agent.has_run


Crew.TestCase.settings = settings(
    max_examples=NUM_HISTORIES,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestHistories = pytest.mark.timeout(60 + 10 * NUM_HISTORIES)(Crew.TestCase)
