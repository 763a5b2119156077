"""What is known of tasks that agents have in hand: who has them, how far they are, and what came of them. No sockets."""

from collections.abc import Iterator
from dataclasses import dataclass

from agentkd.coordinator import events
from agentkd.coordinator.state import Bench, Condition, Member
from agentkd.coordinator.watching import Activity
from agentkd.errors import AgentLostError
from agentkd.messages.bodies import ErrorReply, TaskProgressEvent
from agentkd.names import NO_TASK, NOBODY, AgentName, Digest, TaskKey, TeacherId
from agentkd.task import Status, Task, TaskResult
from agentkd.visible import shortened

MAX_ERROR_TEXT = 2000


@dataclass(frozen=True)
class Finished:
    """A task that is done, or given up (status ``failed``). ``teachers`` are (weights, agent) pairs."""

    key: TaskKey
    result: TaskResult
    agent: AgentName
    attempts: int
    teachers: tuple[tuple[Digest, AgentName], ...]


@dataclass
class Doing:
    """A task in an agent's hands, and the newest that was heard of it."""

    task: Task
    label: str
    agent: AgentName
    attempt: int
    teachers: tuple[tuple[TeacherId, AgentName], ...]
    recorded: tuple[Digest, ...] = ()
    progress: TaskProgressEvent | None = None
    result: TaskResult | None = None
    error: ErrorReply | None = None


class Underway:
    """The tasks that a crew is asked for. One thread calls its methods."""

    def __init__(self) -> None:
        self.labels: dict[TaskKey, str] = {}
        self._doing: dict[TaskKey, Doing] = {}
        self._unadopted: dict[Digest, ErrorReply] = {}
        self._reached: dict[TaskKey, int] = {}
        self._there: dict[TaskKey, set[TaskKey]] = {}

    def begin(self, action: events.Start, task: Task, recorded: tuple[Digest, ...]) -> Doing:
        """An agent is given a task."""
        doing = Doing(task, self.labels[action.task], action.agent, action.attempt, action.teachers, recorded)
        self._doing[action.task] = doing
        return doing

    def find(self, key: TaskKey) -> Doing | None:
        """What is known of a task in an agent's hands."""
        return self._doing.get(key)

    def current(self, agent: AgentName, key: TaskKey, attempt: int) -> Doing | None:
        """The same, if that agent has it in this attempt: what others say of it, or it of an earlier one, is void."""
        doing = self._doing.get(key)
        return doing if doing and (doing.agent, doing.attempt) == (agent, attempt) else None

    def could_not_adopt(self, weights: Digest, error: ErrorReply) -> None:
        """Why an agent does not teach these weights."""
        self._unadopted[weights] = error

    def note_lost(self, lost: AgentLostError) -> bool:
        """An agent is lost; whether what it had in hand is further than whenever an agent was lost with it before."""
        key = next((key for key, doing in self._doing.items() if doing.agent == lost.agent), NO_TASK)
        if not key:
            return False
        doing = self._doing[key]
        doing.error = ErrorReply(code=lost.code, remote_type=type(lost).__name__, text=shortened(str(lost), MAX_ERROR_TEXT))
        self._there[key] = self._there.get(key, set(self._doing)) & set(self._doing)
        step, reached = doing.progress.step if doing.progress else 0, self._reached.get(key, 0)
        self._reached[key] = max(step, reached)
        return step > reached

    def there_each_time(self, key: TaskKey) -> tuple[str, ...]:
        """The tasks that were under way whenever an agent was lost with this one, itself among them, and which run own code."""
        there = [(self.labels[one], self._doing[one].task) for one in self._there.get(key, ()) if one in self._doing]
        return tuple(sorted(f"{label} (own code)" if task.runs_code else label for label, task in there))

    def recordings_in_use(self) -> Iterator[Digest]:
        """Recordings that students are being told from."""
        return (record for doing in self._doing.values() for record in doing.recorded)

    def accept(self, key: TaskKey) -> Finished:
        """The task's result is current."""
        doing = self._doing.pop(key)
        self._reached.pop(key, None)
        self._there.pop(key, None)
        assert doing.result is not None
        return _finished(key, doing, doing.result)

    def give_up(self, action: events.GiveUp) -> Finished:
        """The task has failed: with the last error that was heard, or for the reason that the dispatcher gives."""
        doing = self._doing.pop(action.task, None)
        self._reached.pop(action.task, None)
        error = self._unadopted.get(action.untaught) or (doing.error if doing else None)
        code, text = (error.code, error.text) if error else (AgentLostError.code, self._reason(action))
        return _finished(action.task, doing, TaskResult(status=Status.FAILED, error_code=code, error_text=text[:MAX_ERROR_TEXT]))

    def activity(self, member: Member, device: str, students: tuple[AgentName, ...]) -> Activity:
        """What an agent is doing now."""
        doing = self._doing.get(member.task)
        if doing is not None:
            p = doing.progress
            if p is None:
                return Activity(member.name, device, doing.label)
            return Activity(member.name, device, doing.label, p.step, p.steps, p.loss, p.judged_by)
        if member.condition is Condition.TEACHING:
            return Activity(member.name, device, f"teaches {', '.join(students)}" if students else "ready to teach")
        return Activity(member.name, device, member.condition + (" to teach" if member.bench is Bench.TEACHING else ""))

    def _reason(self, action: events.GiveUp) -> str:
        if action.because in self.labels:
            return f"{self.labels[action.because]} failed, without which it cannot be done"
        if action.untaught:
            return f"no agent could be made to teach the weights {action.untaught[:12]}"
        return "its agents were lost, or did not do what they were asked"


def _finished(key: TaskKey, doing: Doing | None, result: TaskResult) -> Finished:
    if doing is None:
        return Finished(key, result, NOBODY, 0, ())
    at, weights = dict(doing.teachers), sorted(teacher.weights for teacher in doing.task.taught_by)
    return Finished(key, result, doing.agent, doing.attempt, tuple((one, at[one]) for one in weights if one in at))
