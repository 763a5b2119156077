"""What happens to a dispatcher, and what it decides: events and actions, plain data."""

from collections.abc import Mapping
from dataclasses import dataclass

from agentkd.coordinator.state import Bench
from agentkd.names import NO_DIGEST, NO_TASK, AgentName, Digest, TaskKey, TeacherId
from agentkd.task import DataSource, Task, TeacherReference


@dataclass(frozen=True)
class Wanted:
    """Tasks, by key, are to be done, in this order."""

    tasks: tuple[tuple[TaskKey, Task], ...]


@dataclass(frozen=True)
class Spared:
    """For tasks, by key: the weights that need not be taught, because all that they would say is recorded."""

    spared: Mapping[TaskKey, frozenset[Digest]]


@dataclass(frozen=True)
class Joined:
    """An agent said hello. ``device`` as of ``Member``."""

    agent: AgentName
    device: str = ""


@dataclass(frozen=True)
class Arrived:
    """An agent that somebody else started said hello: it learns, or teaches these weights and no others, or neither."""

    agent: AgentName
    learns: bool
    teaches: Digest = NO_DIGEST


@dataclass(frozen=True)
class Late:
    """An agent that was launched has not come in time. It may come yet.

    Args:
        spares_one: whether one that learns may be ended so that there is room for one that is to teach.
    """

    agent: AgentName
    spares_one: bool = False


@dataclass(frozen=True)
class Lost:
    """An agent ended, fell silent or hangs.

    Args:
        is_crash: whether its process has ended in a way that only what it did can be to blame for.
        got_further: whether what it had in hand is further than when an agent was lost with it before.
        lacks_memory: whether the system seems to have ended it for that, which is its task's fault where it was alone.
    """

    agent: AgentName
    is_crash: bool = False
    got_further: bool = False
    lacks_memory: bool = False


@dataclass(frozen=True)
class Ended:
    """An agent answered a task with a result."""

    agent: AgentName
    task: TaskKey
    attempt: int


@dataclass(frozen=True)
class Failed:
    """An agent answered a task with an error, or refused to read it. A retryable one may go better elsewhere or later.

    Args:
        is_fault: whether the task may be to blame, and not a disk, a network or another agent.
        lacks_memory: whether it was that its device has too little memory.
    """

    agent: AgentName
    task: TaskKey
    attempt: int
    retryable: bool
    is_fault: bool = True
    lacks_memory: bool = False


@dataclass(frozen=True)
class Ready:
    """An agent adopted weights and teaches now."""

    agent: AgentName
    weights: Digest


@dataclass(frozen=True)
class TeachingFailed:
    """An agent could not adopt the weights that it was asked to, or refused to read that. As ``Failed``."""

    agent: AgentName
    retryable: bool
    is_fault: bool = True
    lacks_memory: bool = False


@dataclass(frozen=True)
class Idle:
    """An agent has said for long that it has nothing to do: what it was asked last was lost, or its answer was."""

    agent: AgentName


Event = Wanted | Spared | Joined | Arrived | Late | Lost | Ended | Failed | Ready | TeachingFailed | Idle


@dataclass(frozen=True)
class Launch:
    """Start an agent process."""

    agent: AgentName
    bench: Bench
    slot: int


@dataclass(frozen=True)
class Start:
    """Send a task to an agent. ``teachers`` names the agent at which each teacher is heard."""

    agent: AgentName
    task: TaskKey
    attempt: int
    teachers: tuple[tuple[TeacherId, AgentName], ...] = ()


@dataclass(frozen=True)
class Teach:
    """Have an agent adopt weights and teach."""

    agent: AgentName
    teacher: TeacherReference
    data: DataSource


@dataclass(frozen=True)
class Move:
    """Tell a student that one of its teachers is heard at another agent now."""

    student: AgentName
    teacher_id: TeacherId
    teacher: AgentName


@dataclass(frozen=True)
class Accept:
    """The result is current: commit it."""

    task: TaskKey


@dataclass(frozen=True)
class GiveUp:
    """The task has used up its attempts.

    Args:
        because: another task that has, and that it cannot do without.
        untaught: weights that it should learn from and that no agent could adopt.
        is_fault: whether the task is to blame; else it was taken from its agents too often by what is around it.
    """

    task: TaskKey
    because: TaskKey = NO_TASK
    untaught: Digest = NO_DIGEST
    is_fault: bool = True


@dataclass(frozen=True)
class Cancel:
    """Tell an agent to stop a task."""

    agent: AgentName
    task: TaskKey
    attempt: int


@dataclass(frozen=True)
class Dismiss:
    """End an agent process: it has run own code, of which nobody knows what that has changed in it, or its memory is needed."""

    agent: AgentName


Action = Launch | Start | Teach | Move | Accept | GiveUp | Cancel | Dismiss
