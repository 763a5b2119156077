"""Who teaches what: agents started for it, weights adopted, students shared out among those who teach the same."""

from collections import Counter
from collections.abc import Iterator, Mapping

from agentkd.coordinator.events import Dismiss, Launch, Move, Teach
from agentkd.coordinator.state import Bench, Condition, Member, State
from agentkd.names import AgentName, Digest, TaskKey
from agentkd.task import DataSource, TeacherReference


def share_out(state: State) -> list[Move]:
    """Moves students whose teacher is gone to one with the same weights, and evens out the copies of a teacher.

    Every move but from a teacher that is gone makes the sum of the squared loads smaller, so there is an end of it.
    """
    moves: list[Move] = []
    while more := _share_out_once(state):
        moves += more
    return moves


def _share_out_once(state: State) -> list[Move]:
    moves: list[Move] = []
    for key, running in state.running.items():
        task = state.tasks[key]
        for weights in sorted(state.needed(key)):
            teacher, load = running.teachers[weights], _load(state)
            other = teaching(state, weights, task.data)
            member = state.members.get(teacher)
            is_gone = member is None or member.weights != weights
            if other is not None and (is_gone or load[other] + 1 < load[teacher]):
                running.teachers[weights] = other
                moves.append(Move(running.agent, weights, other))
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


def _load(state: State) -> Counter[AgentName]:
    """How many students each teaching agent has, of the weights that it teaches now."""
    taught = [pair for running in state.running.values() for pair in running.teachers.items()]
    weights_of = {member.name: member.weights for member in state.members.values()}
    return Counter(teacher for weights, teacher in taught if weights_of.get(teacher) == weights)


def teaching(state: State, weights: Digest, data: DataSource) -> AgentName | None:
    """The agent with the fewest students that teaches with these weights about these data. A guest may be sent images."""
    ready = [m for m in state.members.values() if m.weights == weights and m.condition is Condition.TEACHING]
    able, load = [m.name for m in ready if data in m.data or m.is_guest], _load(state)
    return min(able, key=lambda name: load[name], default=None)


def _num_copies(state: State, weights: Digest) -> int:
    """How many agents are to teach with these weights: one, or more if more students learn from them or wait for it."""
    students = sum(weights in state.needed(key) for key in (*state.running, *state.waiting))
    return max(1, min(state.max_copies, students, state.num_slots))


def reserve(state: State, key: TaskKey, reserved: dict[Digest, int]) -> None:
    """Notes how many agents are to teach each of the weights that a task needs; none if only a guest can."""
    for reference in state.taught_by(key):
        reserved[reference.weights] = _num_copies(state, reference.weights) if state.is_adoptable(reference) else 0


def have_taught(state: State, key: TaskKey, reserved: Mapping[Digest, int]) -> Iterator[Dismiss | Launch | Teach]:
    """What must happen so that a task is taught; nothing if it is, or soon will be."""
    for reference in state.taught_by(key):
        while (action := _have_one_more_taught(state, reference, state.tasks[key].data, reserved)) is not None:
            yield action


def _have_one_more_taught(
    state: State, reference: TeacherReference, data: DataSource, reserved: Mapping[Digest, int]
) -> Dismiss | Launch | Teach | None:
    bench = [m for m in state.members.values() if m.bench is Bench.TEACHING]
    started = [m for m in bench if not m.is_guest]
    holders, load = Counter(m.weights for m in bench), _load(state)
    for member in started:
        is_lacking = member.weights == reference.weights and data not in member.data
        if is_lacking and member.condition is Condition.TEACHING:
            return _teach(member, reference, (*member.data, data))
    if holders[reference.weights] >= reserved[reference.weights]:
        return None
    idle = [m for m in started if m.condition is Condition.IDLE]
    spare = {weights for weights in holders if weights not in reserved or holders[weights] > reserved[weights] > 0}
    idle += [m for m in started if m.condition is Condition.TEACHING and m.weights in spare and not load[m.name]]
    if idle:
        is_fresh = not idle[0].has_run_code
        return _teach(idle[0], reference, (data,)) if is_fresh else dismiss(state, idle[0].name)
    starting = sum(m.condition is Condition.STARTING for m in started)
    lacking = sum(max(0, number - holders[weights]) for weights, number in reserved.items())
    if starting < lacking and len(started) < max(sum(reserved.values()), state.num_slots) and state.num_slots:
        return launch(state, Bench.TEACHING, len(started) % state.num_slots)
    return None


def _teach(member: Member, reference: TeacherReference, data: tuple[DataSource, ...]) -> Teach:
    member.condition, member.weights, member.data = Condition.ADOPTING, reference.weights, data
    assert reference.architecture is not None
    member.has_run_code |= bool(reference.architecture.code or data[-1].code)
    return Teach(member.name, reference, data[-1])


def launch(state: State, bench: Bench, slot: int) -> Launch:
    """One more agent, whose name no other had."""
    state.num_names += 1
    name = AgentName(f"agent-{state.num_names}")
    state.members[name] = Member(name, bench, slot)
    return Launch(name, bench, slot)


def dismiss(state: State, agent: AgentName) -> Dismiss:
    """One agent less."""
    del state.members[agent]
    return Dismiss(agent)
