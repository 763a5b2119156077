"""Agents that share a device, and who of them goes when its memory is short. Looks, and changes nothing."""

from agentkd.coordinator.state import Bench, Condition, Member, State
from agentkd.names import TaskKey


def can_spare_one(state: State, member: Member) -> bool:
    """Whether on this agent's device somebody learns who can be done without: with others there, and enough elsewhere."""
    return len(_learning_beside(state, member)) > 1 and state.num_open > _largest_cohort(state)


def who_goes(state: State, member: Member) -> Member | None:
    """The agent that learns on this one's device and is ended, so that there is room: itself, else an idle one, else the last."""
    if not can_spare_one(state, member):
        return None
    there = _learning_beside(state, member)
    if member in there:
        return member
    return _least_busy(there)


def who_can_be_spared(state: State) -> Member | None:
    """The agent that learns and is ended for one that is to teach: an idle one, else the last; none if as many are needed."""
    absent = (Condition.STARTING, Condition.LATE)
    learning = [m for m in state.members.values() if m.bench is Bench.LEARNING and not m.is_guest and m.condition not in absent]
    if len(learning) <= _largest_cohort(state):
        return None
    return _least_busy(learning)


def who_teaches_nobody(state: State, member: Member, key: TaskKey) -> list[Member]:
    """Agents on this one's device that teach, but nobody, and not what this task needs."""
    heard = {teacher for running in state.running.values() for teacher in running.teachers.values()}
    needed = state.needed(key)
    return [
        one
        for one in _beside(state, member)
        if one.bench is Bench.TEACHING and one.name not in heard and one.weights not in needed
    ]


def _least_busy(members: list[Member]) -> Member:
    return next((one for one in reversed(members) if one.condition is Condition.IDLE), members[-1])


def _beside(state: State, member: Member) -> list[Member]:
    if member.is_guest or not member.device:
        return []
    return [one for one in state.members.values() if one.device == member.device and not one.is_guest]


def _learning_beside(state: State, member: Member) -> list[Member]:
    return [one for one in _beside(state, member) if one.bench is Bench.LEARNING]


def _largest_cohort(state: State) -> int:
    """So many agents must there be at least: students that teach each other learn at once."""
    return max((len(state.cohorts[key]) for key in state.tasks if key not in state.done), default=1)
