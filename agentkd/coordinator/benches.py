"""Who teaches what: agents started for it, weights adopted, students shared out among those who teach the same."""

from collections import Counter
from collections.abc import Iterator

from agentkd.coordinator.events import Dismiss, Launch, Move, Teach
from agentkd.coordinator.state import Bench, Condition, Member, Running, State
from agentkd.names import AgentName, Digest, TaskKey, TeacherId
from agentkd.task import DataSource, TeacherReference

Asked = tuple[Digest, int]
"""Weights, and which data they are to be taught about."""


class Roster:
    """The members by what a decision asks of them again and again: looked for once a decision, and kept true while it is made.

    Args:
        state: as it is now; from here on it is changed through the roster's methods alone, until the decision is made.
    """

    def __init__(self, state: State) -> None:
        self.state = state
        self.learning: list[Member] = []
        self.started: list[Member] = []  # on the bench of teachers, and not by somebody else
        self._by_weights: dict[Digest, list[Member]] = {}
        for member in state.members.values():
            self._enlist(member)
        self.lessons = [(key, running) for key, running in state.running.items() if running.teachers]
        taught = [pair for _, running in self.lessons for pair in running.teachers.items()]
        holds = {member.name: weights for weights, holders in self._by_weights.items() for member in holders}
        self._load: Counter[AgentName] = Counter([teacher for weights, teacher in taught if holds.get(teacher) == weights])
        alone = ((weights, holders[0].name) for weights, holders in self._by_weights.items() if len(holders) == 1)
        self._sole: dict[TeacherId, AgentName] = dict(alone)
        self._reserved: dict[Digest, int] = {}
        self._num_reserved = self._num_lacking = 0
        self._num_starting = sum(m.condition in (Condition.STARTING, Condition.LATE) for m in self.started)
        self._settled: set[Asked] = set()
        self._num_running: Counter[Digest] | None = None
        self._num_waiting: Counter[Digest] | None = None

    def hears(self, running: Running, weights: Digest, teacher: AgentName) -> Move:
        """From now on a student hears that teacher."""
        self._count(weights, running.teachers[weights], -1)
        running.teachers[weights] = teacher
        self._count(weights, teacher, 1)
        return Move(running.agent, weights, teacher)

    def begins(self, running: Running) -> None:
        """A task runs now that waited, with these teachers."""
        for weights, teacher in running.teachers.items():
            self._count(weights, teacher, 1)

    def teaches_at(self, teacher: AgentName, weights: TeacherId) -> bool:
        """Whether that agent teaches these weights, or is about to."""
        member = self.state.members.get(teacher)
        return member is not None and member.weights == weights

    def reserve(self, reference: TeacherReference) -> None:
        """Notes how many agents are to teach weights that a task needs; none if only a guest can."""
        weights = reference.weights
        number = self.num_copies(weights) if self.state.is_adoptable(reference) else 0
        if self._reserved.get(weights) != number:
            self._num_lacking -= self._lacks(weights)
            self._num_reserved += number - self._reserved.get(weights, 0)
            self._reserved[weights] = number
            self._num_lacking += self._lacks(weights)
            self._settled.clear()

    def is_settled(self, what: Asked) -> bool:
        """Whether nothing was to be done about it when it was settled, and nothing has come up since."""
        return what in self._settled

    def settle(self, what: Asked) -> None:
        """Notes that nothing is to be done about it: many that wait want the same."""
        self._settled.add(what)

    def has_enough(self, weights: Digest) -> bool:
        """Whether as many agents teach them, or are about to, as are to."""
        return self.num_holders(weights) >= self._reserved[weights]

    def may_start_one(self) -> bool:
        """Whether one more agent is to be started for what nobody teaches, and there is a place for it."""
        most = max(self._num_reserved, self.state.num_slots)
        return self._num_starting < self._num_lacking and len(self.started) < most and bool(self.state.places)

    def unsettled(self) -> list[tuple[TaskKey, Running]]:
        """Lessons with a teacher that is gone or has others beside it. To be asked before anybody is told to teach."""
        sole = self._sole
        return [one for one in self.lessons if any(sole.get(w) != teacher for w, teacher in one[1].teachers.items())]

    def load(self, teacher: AgentName) -> int:
        """How many students learn from an agent what it teaches now."""
        return self._load[teacher]

    def num_holders(self, weights: Digest) -> int:
        """How many agents teach these weights, or are about to, on the bench of teachers."""
        return len(self._by_weights.get(weights, ()))

    def lacking(self, weights: Digest, data: DataSource) -> Member | None:
        """One that teaches these weights and does not have these data."""
        return next(
            (
                m
                for m in self._by_weights.get(weights, ())
                if not m.is_guest and data not in m.data and m.condition is Condition.TEACHING
            ),
            None,
        )

    def teaching(self, weights: Digest, data: DataSource) -> AgentName | None:
        """The agent with the fewest students that teaches with these weights about these data. A guest may be sent images."""
        ready = (m for m in self._by_weights.get(weights, ()) if m.condition is Condition.TEACHING)
        able = (m.name for m in ready if data in m.data or m.is_guest)
        return min(able, key=self.load, default=None)

    def idle(self) -> Member | None:
        """One that has nothing to do; else one that nobody learns from, of which there are more than are to be."""
        found = next((m for m in self.started if m.condition is Condition.IDLE), None)
        if found is not None:
            return found
        teaching = (m for m in self.started if m.condition is Condition.TEACHING and not self._load[m.name])
        return next((m for m in teaching if self._is_spare(m.weights)), None)

    def num_copies(self, weights: Digest) -> int:
        """How many agents are to teach with these weights: one, or more if more students learn from them or wait for it."""
        state = self.state
        if state.max_copies <= 1 or state.num_slots <= 1:
            return 1
        most = min(state.max_copies, state.num_slots)
        if self._num_running is None:
            self._num_running = Counter(w for key in state.running for w in state.needed(key))
        if self._num_running[weights] >= most:
            return most
        if self._num_waiting is None:
            self._num_waiting = Counter(w for key in state.waiting for w in state.needed(key))
        return max(1, min(most, self._num_running[weights] + self._num_waiting[weights]))

    def teach(self, member: Member, reference: TeacherReference, data: tuple[DataSource, ...]) -> Teach:
        """Has an agent adopt weights."""
        self._settled.clear()
        if member.weights != reference.weights:
            self._leave(member)
            member.weights = reference.weights
            self._join(member)
        member.condition, member.data = Condition.ADOPTING, data
        assert reference.architecture is not None
        member.has_run_code |= bool(reference.architecture.code or data[-1].code)
        return Teach(member.name, reference, data[-1])

    def launch(self, bench: Bench, slot: int) -> Launch:
        """One more agent, whose name no other had."""
        self._settled.clear()
        self.state.num_names += 1
        name = AgentName(f"agent-{self.state.num_names}")
        member = self.state.members[name] = Member(name, bench, slot)
        self._enlist(member)
        self._num_starting += bench is Bench.TEACHING
        return Launch(name, bench, slot)

    def emptiest_place(self) -> int:
        """Where one more teaching agent is best started: the first of the places that have the fewest agents."""
        there = Counter(member.slot for member in self.started)
        places = self.state.places
        return min(range(len(places)), key=lambda place: places[place] + there[place])

    def dismiss(self, member: Member) -> Dismiss:
        """One agent less."""
        self._settled.clear()
        del self.state.members[member.name]
        (self.started if member.bench is Bench.TEACHING else self.learning).remove(member)
        self._leave(member)
        return Dismiss(member.name)

    def _enlist(self, member: Member) -> None:
        if member.bench is Bench.LEARNING:
            self.learning.append(member)
            return
        if not member.is_guest:
            self.started.append(member)
        if member.weights:
            self._by_weights.setdefault(member.weights, []).append(member)

    def _join(self, member: Member) -> None:
        self._num_lacking -= self._lacks(member.weights)
        self._by_weights.setdefault(member.weights, []).append(member)
        self._num_lacking += self._lacks(member.weights)

    def _leave(self, member: Member) -> None:
        weights = member.weights
        if not weights or member.bench is not Bench.TEACHING:
            return
        self._num_lacking -= self._lacks(weights)
        holders = self._by_weights[weights]
        holders.remove(member)
        if not holders:
            del self._by_weights[weights]
        self._num_lacking += self._lacks(weights)

    def _lacks(self, weights: Digest) -> int:
        """How many more are to teach them than do."""
        return max(0, self._reserved.get(weights, 0) - self.num_holders(weights))

    def _is_spare(self, weights: Digest) -> bool:
        return weights not in self._reserved or self.num_holders(weights) > self._reserved[weights] > 0

    def _count(self, weights: TeacherId, teacher: AgentName, change: int) -> None:
        if self.teaches_at(teacher, weights):
            self._load[teacher] += change
            self._settled.clear()


def share_out(roster: Roster) -> list[Move]:
    """Moves students whose teacher is gone to one with the same weights, and evens out the copies of a teacher.

    Every move but from a teacher that is gone makes the sum of the squared loads smaller, so there is an end of it.
    """
    moves: list[Move] = []
    while more := _share_out_once(roster):
        moves += more
    return moves


def _share_out_once(roster: Roster) -> list[Move]:
    moves: list[Move] = []
    state = roster.state
    for key, running in roster.unsettled():
        task = state.tasks[key]
        for weights in sorted(state.needed(key)):
            teacher, other = running.teachers[weights], roster.teaching(weights, task.data)
            is_gone = not roster.teaches_at(teacher, weights)
            if other is not None and (is_gone or roster.load(other) + 1 < roster.load(teacher)):
                moves.append(roster.hears(running, weights, other))
    return moves


def students(state: State) -> dict[AgentName, tuple[AgentName, ...]]:
    """Who learns from each teaching agent now."""
    found: dict[AgentName, list[AgentName]] = {}
    for running in state.running.values():
        for teacher in running.teachers.values():
            found.setdefault(teacher, []).append(running.agent)
    return {teacher: tuple(names) for teacher, names in found.items()}


def move_back(state: State, teacher: AgentName, weights: Digest) -> list[Move]:
    """Tells those who learned from a guest that it has come back, perhaps at another place."""
    left = [running for running in state.running.values() if running.teachers.get(weights) == teacher]
    return [Move(running.agent, weights, teacher) for running in left]


def have_taught(roster: Roster, reference: TeacherReference, data: DataSource) -> Iterator[Dismiss | Launch | Teach]:
    """What must happen so that weights are taught about these data; nothing if they are, or soon will be."""
    what = (reference.weights, id(data))
    if roster.is_settled(what):
        return
    while (action := _have_one_more_taught(roster, reference, data)) is not None:
        yield action
    roster.settle(what)


def _have_one_more_taught(roster: Roster, reference: TeacherReference, data: DataSource) -> Dismiss | Launch | Teach | None:
    weights = reference.weights
    if (member := roster.lacking(weights, data)) is not None:
        return roster.teach(member, reference, (*member.data, data))
    if roster.has_enough(weights):
        return None
    if (idle := roster.idle()) is not None:
        return roster.dismiss(idle) if idle.has_run_code else roster.teach(idle, reference, (data,))
    return roster.launch(Bench.TEACHING, roster.emptiest_place()) if roster.may_start_one() else None
