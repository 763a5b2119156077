"""Every message of protocol version 1, as data. The table at the end gives each its number on the wire.

``XRequest`` asks, ``XReply`` answers one request, ``XEvent`` is said unasked.
"""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from agentkd.architecture import Architecture
from agentkd.recipe import ViewSettings
from agentkd.task import DataSource, Task, TaskResult

Name = str
MAX_VIEWS = 4096


class Body(BaseModel):
    """One message's content. Unknown fields are ignored (they may come from a newer minor version)."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class PeerAddress(Body):
    """Where a peer serves knowledge, and the public key (Z85) that proves it is that peer."""

    agent: Name = Field(max_length=100)
    endpoint: str = Field(max_length=200)
    public_key: str = Field(min_length=40, max_length=40)


class HelloRequest(Body):
    """Agent to coordinator: I am here, and serve knowledge at ``endpoint``. Who I am is my key, not what I say."""

    session: str = Field(max_length=64)
    pid: int
    endpoint: str = Field(max_length=200)
    device: str = Field(max_length=32)
    environment: dict[str, str] = Field(default_factory=dict, max_length=64)


class WelcomeReply(Body):
    """Coordinator to agent: you are in, under this name."""

    agent: Name
    heartbeat_s: float = Field(gt=0)
    lease_s: float = Field(gt=0)


class HeartbeatEvent(Body):
    """Agent to coordinator: alive. ``progress`` counts what the work thread has done, so a hang is seen."""

    progress: int = Field(ge=0)
    is_busy: bool


class PeersEvent(Body):
    """Coordinator to agent: the public keys that may ask you for knowledge, complete."""

    public_keys: tuple[str, ...] = Field(max_length=10_000)


class TaughtBy(Body):
    """One teacher of a task: the digest of its weights and who serves them."""

    weights: str
    peer: PeerAddress


class TaskRequest(Body):
    """Coordinator to agent: do this. ``epoch`` is the fence: a reply from an older epoch is void."""

    task: Task
    epoch: int = Field(ge=1)
    teachers: tuple[TaughtBy, ...] = Field(default=(), max_length=64)


class TaskProgressEvent(Body):
    """Agent to coordinator: how far the task is; ``miou`` after a validation."""

    task: str
    epoch: int
    step: int
    steps: int
    loss: float
    miou: float | None = None


class TaskReply(Body):
    """Agent to coordinator: the result. Weights are in the store under their digest before this is said."""

    task: str
    epoch: int
    result: TaskResult


class CancelRequest(Body):
    """Coordinator to agent: stop that task at its next step."""

    task: str
    epoch: int


class TeachRequest(Body):
    """Coordinator to agent: adopt these weights and answer requests for their knowledge."""

    architecture: Architecture
    weights: str
    data: DataSource


class TeachReply(Body):
    """Agent to coordinator: ready to teach with those weights."""

    weights: str


class TeacherMovedEvent(Body):
    """Coordinator to a student: the teacher with these weights is to be found elsewhere now."""

    weights: str
    peer: PeerAddress


class KnowledgeKind(StrEnum):
    """What can be asked for."""

    WEIGHTS = "weights"
    SOFT_TARGETS = "soft_targets"


class KnowledgeRequest(Body):
    """Student to teacher. For soft targets the views are named, not sent: both sides make the same pixels."""

    kind: KnowledgeKind
    weights: str
    num_classes: int = 0
    dataset: str = ""
    view_settings: ViewSettings = ViewSettings()
    views: tuple[tuple[int, int], ...] = Field(default=(), max_length=MAX_VIEWS)
    codec: str = "float16"


class KnowledgeReply(Body):
    """Teacher to student: one safetensors buffer, named by its SHA-256 where it is stored (weights)."""

    kind: KnowledgeKind
    weights: str
    sha256: str
    teacher_s: float = 0.0


class ErrorReply(Body):
    """An answer that is an error: a stable code from the error tree, a type name and text. Never an exception object."""

    code: str = Field(max_length=64)
    remote_type: str = Field(max_length=100)
    text: str = Field(max_length=20_000)
    task: str = ""
    epoch: int = 0


class LeaveRequest(Body):
    """Coordinator to agent: finish and end the process."""


class LeftEvent(Body):
    """Agent to coordinator: I am going."""

    reason: str = Field(max_length=200)


TYPES: dict[int, type[Body]] = {
    1: HelloRequest,
    2: WelcomeReply,
    3: HeartbeatEvent,
    4: PeersEvent,
    5: LeaveRequest,
    6: LeftEvent,
    10: TaskRequest,
    11: TaskProgressEvent,
    12: TaskReply,
    13: CancelRequest,
    20: TeachRequest,
    21: TeachReply,
    22: TeacherMovedEvent,
    30: KnowledgeRequest,
    31: KnowledgeReply,
    99: ErrorReply,
}
NUMBERS: dict[type[Body], int] = {body: number for number, body in TYPES.items()}
