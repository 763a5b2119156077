"""How things stand with the agents and the tasks of a crew: all that a dispatcher remembers."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from agentkd.names import NO_DIGEST, NO_TASK, AgentName, Digest, TaskKey, TeacherId
from agentkd.task import DataSource, Task, TeacherReference

GUEST_SLOT = -1
MAX_LOSSES = 10


class Bench(StrEnum):
    """What an agent was started for."""

    LEARNING = "learning"
    TEACHING = "teaching"


class Condition(StrEnum):
    """What an agent is doing. One that is late was asked for and has not come; nobody counts on it until it does."""

    STARTING = "starting"
    LATE = "late"
    IDLE = "idle"
    BUSY = "busy"
    ADOPTING = "adopting"
    TEACHING = "teaching"


@dataclass
class Member:
    """One agent as the coordinator sees it.

    Args:
        device: where it is, by a name that agents on the same device have too; empty if that is not known.
    """

    name: AgentName
    bench: Bench
    slot: int
    condition: Condition = Condition.STARTING
    task: TaskKey = NO_TASK
    weights: Digest = NO_DIGEST
    data: tuple[DataSource, ...] = ()
    has_run_code: bool = False
    device: str = ""

    @property
    def is_guest(self) -> bool:
        """Whether somebody else started it."""
        return self.slot == GUEST_SLOT

    @property
    def is_free(self) -> bool:
        """Whether it can be given a task now."""
        is_fresh = self.is_guest or not self.has_run_code
        return self.bench is Bench.LEARNING and self.condition is Condition.IDLE and is_fresh

    def rest(self) -> None:
        """Has nothing to do from now on."""
        self.condition, self.task, self.weights, self.data = Condition.IDLE, NO_TASK, NO_DIGEST, ()


@dataclass
class Running:
    """A task in an agent's hands. ``attempt`` is the fence: answers of an earlier attempt are void.

    Args:
        teachers: the agent at which each is heard.
    """

    agent: AgentName
    attempt: int
    teachers: dict[TeacherId, AgentName] = field(default_factory=dict)


@dataclass
class State:
    """Agents by name, tasks by key. Every task known is either waiting, running, ended or done.

    Args:
        num_slots: learning agents that may be started.
        max_attempts: how often a task may fail before it is given up, and weights before their students are. What surroundings do
            does not count.
        max_copies: how many agents may teach with the same weights when several students learn from them.
        places: where teaching agents may be started; of each, how many agents count as being there besides.
        max_losses: how often in a row surroundings may end a task's attempts, or keep weights from being adopted.
        ended: of a cohort, who has a result while others have none yet, and by which agent.
        cohorts: for every task that was ever wanted, those that are accepted together with it, itself first.
        attempts: how often a task was started; never forgotten, so that no attempt has the number of an earlier one.
        spent: those attempts of a task that do not count: it was given up after them, or surroundings ended them.
        losses: how often in a row surroundings ended an attempt of a task, or kept weights from being adopted.
        hindered: weights that surroundings kept from being adopted too often.
        failed_at: the agents at which a task failed since it was wanted: others are given it first.
        spared: see ``Spared``.
        unadopted: how often these weights could not be adopted since a student of them was wanted last.
        closed: slots in which nobody is started any more, since the memory of their device was short.
        eased: tasks for which agents were ended that taught nobody.
        num_names: agents that were started.
    """

    num_slots: int
    max_attempts: int
    max_copies: int
    places: tuple[int, ...]
    max_losses: int = MAX_LOSSES
    members: dict[AgentName, Member] = field(default_factory=dict)
    tasks: dict[TaskKey, Task] = field(default_factory=dict)
    waiting: dict[TaskKey, Task] = field(default_factory=dict)
    running: dict[TaskKey, Running] = field(default_factory=dict)
    ended: dict[TaskKey, AgentName] = field(default_factory=dict)
    done: set[TaskKey] = field(default_factory=set)
    cohorts: dict[TaskKey, tuple[TaskKey, ...]] = field(default_factory=dict)
    attempts: dict[TaskKey, int] = field(default_factory=dict)
    spent: dict[TaskKey, int] = field(default_factory=dict)
    losses: dict[TaskKey | Digest, int] = field(default_factory=dict)
    hindered: set[Digest] = field(default_factory=set)
    failed_at: dict[TaskKey, frozenset[AgentName]] = field(default_factory=dict)
    spared: Mapping[TaskKey, frozenset[Digest]] = field(default_factory=dict)
    unadopted: dict[Digest, int] = field(default_factory=dict)
    closed: set[int] = field(default_factory=set)
    eased: set[TaskKey] = field(default_factory=set)
    num_names: int = 0

    def copy(self) -> "State":
        """The same, on its own from now on."""
        return replace(
            self,
            members={name: replace(member) for name, member in self.members.items()},
            tasks=dict(self.tasks),
            waiting=dict(self.waiting),
            running={key: replace(running, teachers=dict(running.teachers)) for key, running in self.running.items()},
            ended=dict(self.ended),
            done=set(self.done),
            cohorts=dict(self.cohorts),
            attempts=dict(self.attempts),
            spent=dict(self.spent),
            losses=dict(self.losses),
            hindered=set(self.hindered),
            failed_at=dict(self.failed_at),
            spared=dict(self.spared),
            unadopted=dict(self.unadopted),
            closed=set(self.closed),
            eased=set(self.eased),
        )

    @property
    def num_open(self) -> int:
        """How many learning agents may be started, as memory has it."""
        return self.num_slots - len(self.closed)

    def runs_at(self, agent: AgentName, key: TaskKey) -> bool:
        """Whether a task is in the hands of that agent now, and not another's, or cancelled."""
        running = self.running.get(key)
        return running is not None and running.agent == agent

    def is_current(self, agent: AgentName, key: TaskKey, attempt: int) -> bool:
        """Whether what an agent says about an attempt of a task counts."""
        running = self.running.get(key)
        return running is not None and (running.agent, running.attempt) == (agent, attempt)

    def attempts_left(self, key: TaskKey) -> int:
        """How often it may still be started before it is given up."""
        return self.max_attempts - self.attempts.get(key, 0) + self.spent.get(key, 0)

    def lose(self, name: TaskKey | Digest) -> bool:
        """Notes that surroundings were in the way of a task or of weights once more; whether that was once too often."""
        self.losses[name] = self.losses.get(name, 0) + 1
        return self.losses[name] >= self.max_losses

    def choose(self, key: TaskKey, free: list[Member]) -> Member | None:
        """Which of the agents that have nothing to do is given a task; none if there are others, at which it has not failed."""
        tried = self.failed_at.get(key, frozenset())
        if self.has_failed_everywhere(key):
            return free[0]
        return next((member for member in free if member.name not in tried), None)

    def has_failed_everywhere(self, key: TaskKey) -> bool:
        """Whether it has failed at each agent that could be given it."""
        tried = self.failed_at.get(key, frozenset())
        there = (m for m in self.members.values() if m.bench is Bench.LEARNING and m.condition is not Condition.LATE)
        return all(member.name in tried for member in there)

    def taught_by(self, key: TaskKey) -> list[TeacherReference]:
        """Whom a task must hear that waits, or does hear that runs: not those whose every word is recorded."""
        teachers, spared = self.tasks[key].taught_by, self.spared.get(key, frozenset())
        if key in self.running:
            return [teacher for teacher in teachers if teacher.weights in self.running[key].teachers]
        return [teacher for teacher in teachers if teacher.weights not in spared]

    def needed(self, key: TaskKey) -> set[Digest]:
        """The weights of those."""
        return {teacher.weights for teacher in self.taught_by(key)}

    def held(self) -> set[Digest]:
        """Weights that somebody teaches, or is about to."""
        return {member.weights for member in self.members.values()} - {NO_DIGEST}

    def is_adoptable(self, reference: TeacherReference) -> bool:
        """Whether it is of use to ask one more agent to teach these weights."""
        return reference.architecture is not None and self.unadopted.get(reference.weights, 0) < self.max_attempts

    def can_be_taught(self, key: TaskKey) -> bool:
        """Whether each of its teachers is there, or can be prepared: not a guest who is away, nor what was tried too often."""
        away = [teacher for teacher in self.taught_by(key) if not self.is_adoptable(teacher)]
        return not away or {teacher.weights for teacher in away} <= self.held()

    def untaught(self, key: TaskKey) -> set[Digest]:
        """Those of the weights that a task needs that nobody teaches, and that were tried too often."""
        tried = {t.weights for t in self.taught_by(key) if t.architecture is not None and not self.is_adoptable(t)}
        return tried - self.held() if tried else tried
