"""Which agent does what next: a machine without clocks, sockets or processes. Events in, actions out.

Agents stand in two benches: one *learning* agent a device slot does tasks; *teaching* agents beside them serve weights to
students. Teaching agents are started when a task first needs one. Any agent could do either; the benches only keep the cores
shared fairly, since a teacher mostly waits for its students.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from agentkd.task import DataSource, Task, TeacherReference

GUEST_SLOT = -1


class Bench(StrEnum):
    """What an agent was started for."""

    LEARNING = "learning"
    TEACHING = "teaching"


class Condition(StrEnum):
    """What an agent is doing."""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    ADOPTING = "adopting"
    TEACHING = "teaching"


@dataclass
class Member:
    """One agent as the coordinator sees it."""

    name: str
    bench: Bench
    slot: int
    condition: Condition = Condition.STARTING
    task: str = ""
    weights: str = ""
    data: tuple[DataSource, ...] = ()


@dataclass(frozen=True)
class Joined:
    """An agent said hello."""

    agent: str


@dataclass(frozen=True)
class Arrived:
    """An agent that somebody else started said hello: it learns, or teaches these weights and no others, or neither."""

    agent: str
    learns: bool
    teaches: str = ""


@dataclass(frozen=True)
class Lost:
    """An agent ended, fell silent or hangs."""

    agent: str


@dataclass(frozen=True)
class Ended:
    """An agent answered a task with a result."""

    agent: str
    task: str
    attempt: int


@dataclass(frozen=True)
class Failed:
    """An agent answered a task with an error. A retryable one may go better elsewhere or later."""

    agent: str
    task: str
    attempt: int
    retryable: bool


@dataclass(frozen=True)
class Ready:
    """An agent adopted weights and teaches now."""

    agent: str
    weights: str


Event = Joined | Arrived | Lost | Ended | Failed | Ready


@dataclass(frozen=True)
class Launch:
    """Start an agent process."""

    agent: str
    bench: Bench
    slot: int


@dataclass(frozen=True)
class Start:
    """Send a task to an agent. ``teachers`` names the agent that serves each teacher's weights."""

    agent: str
    task: str
    attempt: int
    teachers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Teach:
    """Have an agent adopt weights and teach."""

    agent: str
    teacher: TeacherReference
    data: DataSource


@dataclass(frozen=True)
class Move:
    """Tell a student that another agent serves those weights now."""

    student: str
    weights: str
    teacher: str


@dataclass(frozen=True)
class Accept:
    """The result is current: commit it."""

    task: str


@dataclass(frozen=True)
class GiveUp:
    """The task has used up its attempts, or ``because`` of another one that has and that it cannot do without."""

    task: str
    because: str = ""


@dataclass(frozen=True)
class Cancel:
    """Tell an agent to stop a task."""

    agent: str
    task: str
    attempt: int


Action = Launch | Start | Teach | Move | Accept | GiveUp | Cancel


@dataclass
class Running:
    """A task in an agent's hands. ``attempt`` is the fence: answers of an earlier attempt are void."""

    agent: str
    attempt: int
    teachers: dict[str, str] = field(default_factory=dict)


class Dispatcher:
    """Assigns tasks in the order wanted. ``num_slots`` learning agents at most, and teaching agents as needed.

    Args:
        max_attempts: how often a task is tried before it is given up.
        max_copies: how many agents may teach with the same weights when several students learn from them.
    """

    def __init__(self, num_slots: int, *, max_attempts: int = 3, max_copies: int = 1) -> None:
        self.num_slots, self.max_attempts, self.max_copies = num_slots, max_attempts, max_copies
        self.members: dict[str, Member] = {}
        self.waiting: dict[str, Task] = {}
        self.tasks: dict[str, Task] = {}
        self.running: dict[str, Running] = {}
        self.attempts: dict[str, int] = {}
        self.spared: dict[str, frozenset[str]] = {}
        self.ended: dict[str, str] = {}
        self._cohorts: dict[str, tuple[str, ...]] = {}
        self._spent: dict[str, int] = {}
        self._names = 0

    def spare(self, spared: Mapping[str, frozenset[str]]) -> None:
        """For tasks (by digest): the weights that need not be taught, because all that they would say is recorded."""
        self.spared = dict(spared)

    def want(self, tasks: Iterable[tuple[str, Task]]) -> list[Action]:
        """Adds tasks (by digest) to be done, in order; those under way or done are left as they are, given up ones begin anew."""
        for key, task in tasks:
            if key not in self.tasks:
                self.tasks[key] = self.waiting[key] = task
                self._cohorts[key] = (key, *(partner.digest for partner in task.partner_tasks()))
        return self._assign()

    def handle(self, event: Event) -> list[Action]:
        """Takes note of an event and says what is to be done."""
        actions: list[Action] = []
        if isinstance(event, Arrived):
            return self._take_in(event) + self._assign()
        member = self.members.get(event.agent)
        if member is None:
            return actions
        if isinstance(event, Joined):
            member.condition = Condition.IDLE
        elif isinstance(event, Lost):
            del self.members[event.agent]
            if member.task:
                actions += self._retry(member.task)
        elif isinstance(event, Ready):
            if member.weights == event.weights:
                member.condition = Condition.TEACHING
        elif self._is_current(event):
            member.condition, member.task = Condition.IDLE, ""
            if isinstance(event, Ended):
                actions += self._end(event)
            elif event.retryable:
                actions += self._retry(event.task)
            else:
                actions += self._give_up(event.task)
        elif member.task == event.task and not self._is_running(event):
            member.condition, member.task = Condition.IDLE, ""  # it has stopped what was cancelled
        return actions + self._share_out() + self._assign()

    def teaching_failed(self, agent: str) -> None:
        """An agent could not adopt the weights it was asked to; it is free again."""
        member = self.members.get(agent)
        if member is not None and member.condition is Condition.ADOPTING:
            member.condition, member.weights, member.data = Condition.IDLE, "", ()

    def students(self) -> dict[str, tuple[str, ...]]:
        """Who learns from each teaching agent now."""
        found: dict[str, list[str]] = {}
        for running in self.running.values():
            for teacher in running.teachers.values():
                found.setdefault(teacher, []).append(running.agent)
        return {teacher: tuple(students) for teacher, students in found.items()}

    def _take_in(self, event: Arrived) -> list[Action]:
        """A guest in the bench where it is of use. What it did in an earlier session is lost."""
        actions = self.handle(Lost(event.agent))
        if event.teaches:
            self.members[event.agent] = Member(event.agent, Bench.TEACHING, GUEST_SLOT, Condition.TEACHING, weights=event.teaches)
            actions += self._move_students(event.agent, event.teaches, come_back=True)
        elif event.learns:
            self.members[event.agent] = Member(event.agent, Bench.LEARNING, GUEST_SLOT, Condition.IDLE)
        return actions

    def _is_current(self, event: Ended | Failed) -> bool:
        running = self.running.get(event.task)
        return running is not None and (running.agent, running.attempt) == (event.agent, event.attempt)

    def _is_running(self, event: Ended | Failed) -> bool:
        running = self.running.get(event.task)
        return running is not None and running.agent == event.agent

    def _end(self, event: Ended) -> list[Action]:
        """Students that teach each other are accepted together, since one that must begin again needs what the others said."""
        del self.running[event.task]
        self.ended[event.task] = event.agent
        cohort = self._cohorts[event.task]
        if any(key not in self.ended for key in cohort):
            return []
        for key in cohort:
            del self.ended[key]
        return [Accept(key) for key in cohort]

    def _retry(self, task: str) -> list[Action]:
        self.running.pop(task, None)
        if self.attempts[task] - self._spent.get(task, 0) >= self.max_attempts:
            return self._give_up(task)
        self.waiting = {task: self.tasks[task], **self.waiting}
        return []

    def _give_up(self, task: str) -> list[Action]:
        """Forgets a task, and those of its cohort, but not their attempts: who wants them again is not in an earlier one."""
        actions: list[Action] = []
        for key in self._cohorts[task]:
            running = self.running.pop(key, None)
            if running is not None and key != task:
                actions.append(Cancel(running.agent, key, running.attempt))
            was_known = self.tasks.pop(key, None) is not None
            self.waiting.pop(key, None)
            self.ended.pop(key, None)
            self._spent[key] = self.attempts.get(key, 0)
            actions += [GiveUp(key, because=task if key != task else "")] if was_known else []
        return actions

    def _move_students(self, teacher: str, weights: str, *, come_back: bool = False) -> list[Move]:
        """Tells everybody who learns from these weights where they are taught now; or those alone whose teacher has come back."""
        moves: list[Move] = []
        for running in self.running.values():
            if weights in running.teachers and (not come_back or running.teachers[weights] == teacher):
                running.teachers[weights] = teacher
                moves.append(Move(running.agent, weights, teacher))
        return moves

    def _share_out(self) -> list[Action]:
        """Moves students whose teacher is gone to one with the same weights, and evens out the copies of a teacher."""
        moves: list[Action] = []
        for key, running in self.running.items():
            task = self.tasks[key]
            for weights, teacher in running.teachers.items() if task.taught_by else ():
                load = self._load()
                other = self._teaching(weights, task.data)
                member = self.members.get(teacher)
                is_gone = member is None or member.weights != weights
                if other is not None and (is_gone or load[other] + 1 < load[teacher]):
                    running.teachers[weights] = other
                    moves.append(Move(running.agent, weights, other))
        return moves

    def _load(self) -> Counter[str]:
        """How many students each teaching agent has."""
        return Counter(teacher for running in self.running.values() for teacher in running.teachers.values())

    def _assign(self) -> list[Action]:
        actions: list[Action] = list(self._fill_learning_bench())
        reserved = {weights for running in self.running.values() for weights in running.teachers}
        for key, running in self.running.items():
            references = {reference.weights: reference for reference in self.tasks[key].taught_by}
            for weights in running.teachers.keys() & references.keys():
                actions += self._have_taught(references[weights], self.tasks[key].data, reserved)
        free = [m for m in self.members.values() if m.bench is Bench.LEARNING and m.condition is Condition.IDLE]
        for key, task in list(self.waiting.items()):
            if not free or sum(other in self.waiting for other in self._cohorts[key]) > len(free):
                break  # or others would take the agents of students that must start together, for ever
            if len(self._cohorts[key]) > 1:
                actions += self._start_together(key, free) if key in self.waiting else []
                continue
            spared = self.spared.get(key, frozenset())
            taught_by = [teacher for teacher in task.taught_by if teacher.weights not in spared]
            needed = {reference.weights for reference in taught_by}
            reserved |= needed
            for reference in taught_by:
                actions += self._have_taught(reference, task.data, reserved)
            teachers = {weights: self._teaching(weights, task.data) for weights in needed}
            if all(teachers.values()):
                actions.append(self._start(free.pop(0), key, {w: str(a) for w, a in sorted(teachers.items())}))
        return actions

    def _start_together(self, key: str, free: list[Member]) -> list[Action]:
        """Starts those of a cohort that wait, each with the agents of the others; those that run are told who is new."""
        cohort = self._cohorts[key]
        chosen = {other: free.pop(0).name for other in cohort if other in self.waiting}
        where = {other: self.running[other].agent for other in cohort if other in self.running}
        where |= {other: agent for other, agent in self.ended.items() if other in cohort and agent in self.members} | chosen
        actions: list[Action] = []
        for other, agent in chosen.items():
            partners = {name: where[name] for name in sorted(where) if name != other}
            actions.append(self._start(self.members[agent], other, partners))
        for other, agent in chosen.items():
            actions += [move for move in self._move_students(agent, other) if move.student not in chosen.values()]
        return actions

    def _start(self, member: Member, key: str, teachers: dict[str, str]) -> Start:
        del self.waiting[key]
        attempt = self.attempts[key] = self.attempts.get(key, 0) + 1
        member.condition, member.task = Condition.BUSY, key
        self.running[key] = Running(member.name, attempt, teachers)
        return Start(member.name, key, attempt, tuple(teachers.items()))

    def _teaching(self, weights: str, data: DataSource) -> str | None:
        """The agent with the fewest students that teaches with these weights about these data. A guest may be sent images."""
        ready = [m for m in self.members.values() if m.weights == weights and m.condition is Condition.TEACHING]
        able, load = [m.name for m in ready if data in m.data or m.slot == GUEST_SLOT], self._load()
        return min(able, key=lambda name: load[name], default=None)

    def _num_copies(self, weights: str) -> int:
        """How many agents are to teach with these weights: one, or more if more students learn from them or wait for it."""
        tasks = (self.tasks[key] for key in (*self.running, *self.waiting))
        students = sum(any(teacher.weights == weights for teacher in task.taught_by) for task in tasks)
        return max(1, min(self.max_copies, students, self.num_slots))

    def _have_taught(self, reference: TeacherReference, data: DataSource, reserved: set[str]) -> list[Action]:
        """What must happen so that these weights are taught; nothing if they are, or soon will be."""
        bench = [m for m in self.members.values() if m.bench is Bench.TEACHING]
        holders = [m for m in bench if m.weights == reference.weights]
        for holder in holders:
            if data not in holder.data and holder.condition is Condition.TEACHING and holder.slot != GUEST_SLOT:
                holder.condition, holder.data = Condition.ADOPTING, (*holder.data, data)
                return [Teach(holder.name, reference, data)]
        if reference.architecture is None or len(holders) >= self._num_copies(reference.weights):
            return []
        idle = [m for m in bench if m.condition is Condition.IDLE]
        idle += [m for m in bench if m.condition is Condition.TEACHING and m.weights not in reserved and m.slot != GUEST_SLOT]
        if idle:
            idle[0].condition, idle[0].weights, idle[0].data = Condition.ADOPTING, reference.weights, (data,)
            return [Teach(idle[0].name, reference, data)]
        starting = sum(m.condition is Condition.STARTING for m in bench)
        copies = Counter({weights: self._num_copies(weights) for weights in reserved})
        lacking = sum(max(0, number - sum(m.weights == weights for m in bench)) for weights, number in copies.items())
        if self.num_slots and starting < lacking and len(bench) < max(copies.total(), self.num_slots):
            return [self._launch(Bench.TEACHING, len(bench) % self.num_slots)]
        return []

    def _fill_learning_bench(self) -> Iterable[Launch]:
        if not (self.waiting or self.running):
            return
        taken = {m.slot for m in self.members.values() if m.bench is Bench.LEARNING}
        for slot in range(self.num_slots):
            if slot not in taken and len(taken) < len(self.waiting) + len(self.running):
                taken.add(slot)
                yield self._launch(Bench.LEARNING, slot)

    def _launch(self, bench: Bench, slot: int) -> Launch:
        self._names += 1
        name = f"agent-{self._names}"
        self.members[name] = Member(name, bench, slot)
        return Launch(name, bench, slot)
