"""Every message of protocol version 2, as data. The table at the end gives each its number on the wire.

``XRequest`` asks, ``XReply`` answers one request, ``XEvent`` is said unasked. Who may say what, and when, is in
``dialogues``. Numbers are strict: a bool is not an int, bytes are not text.
"""

from enum import StrEnum
from typing import Annotated, ClassVar, Self

from pydantic import Field, StrictBool, model_validator

from agentkd.architecture import Architecture
from agentkd.code.running import words_of
from agentkd.errors import AgentKDError, DescriptorsError, ExchangeError, RemoteProtocolError, ThreadsError
from agentkd.messages.body import Body as Body
from agentkd.messages.fields import (
    MAX_NAME,
    AgentNameField,
    ClassNames,
    Count,
    DatasetField,
    DigestField,
    Divergence,
    Endpoint,
    Name,
    PublicKeyField,
    Seconds,
    TaskKeyField,
    TeacherField,
    Text,
)
from agentkd.messages.handles import DeviceHandle, SharedHandle
from agentkd.names import NO_DIGEST, NO_TASK, NOBODY, Digest, TaskKey
from agentkd.objectives import Payload
from agentkd.recipe import Arithmetic, ViewSettings
from agentkd.shortage import as_agentkd_error
from agentkd.task import AnyTask, DataSource, TaskResult
from agentkd.task.judging import Judged
from agentkd.visible import shortened, visible

MAX_VIEWS = 4096
MAX_PING_CHARACTERS = 65_536
TEACHER_WAIT_S = 300.0
MAX_ERROR_TEXT = 10_000


class Capability(StrEnum):
    """What a peer can do beyond plain messages. Unknown ones are ignored."""

    SHARED = "shared"
    STORE = "store"
    STREAM = "stream"
    VIEWS = "views"
    LEARN = "learn"


class KnowledgeKind(StrEnum):
    """What can be asked for, and granted or not, key by key."""

    WEIGHTS = "weights"
    SOFT_TARGETS = "soft_targets"
    FEATURE_MAPS = "feature_maps"
    ASSESSMENT = "assessment"
    DATA = "data"
    ARCHITECTURE = "architecture"


class PeerAddress(Body):
    """Where a peer is, and the public key (Z85) that proves it is that peer. A peer without endpoints reaches out itself."""

    agent: AgentNameField
    endpoints: tuple[Endpoint, ...] = Field(default=(), max_length=8)
    public_key: PublicKeyField


class AdmittedPeer(PeerAddress):
    """A peer, and the kinds of knowledge that it may fetch."""

    may: tuple[Name, ...] = Field(default=(), max_length=16)


class Way(StrEnum):
    """How the bytes of a piece of knowledge get from one process to another."""

    INLINE = "inline"
    SHARED = "shared"
    STORE = "store"
    STREAM = "stream"
    DEVICE = "device"


class Piece(Body):
    """Bytes that are handed over: how many, by which way, and their SHA-256 (may be empty by ``shared`` and ``device`` alone)."""

    way: Way
    size_bytes: int = Field(strict=True, ge=0, le=2**40)
    sha256: Digest = Field(default=NO_DIGEST, strict=True, pattern=r"^([0-9a-f]{64})?$")
    handle: SharedHandle | None = None
    block: DeviceHandle | None = None


# Joining and living together.


class HelloRequest(Body):
    """Dialer to listener, first of all: the minor versions I speak, what I can do, where I am. Who I am is my key.

    Args:
        teaches: digest of the weights that this agent teaches from the start, if any.
        classes: what the classes that it tells apart are called, in order, if it knows.
        gpu: that whose memory it can map, by its UUID in 32 hexadecimal digits; empty if there is none.
    """

    minor_min: int = Field(default=0, strict=True, ge=0, le=255)
    minor_max: int = Field(default=0, strict=True, ge=0, le=255)
    agent: AgentNameField = NOBODY
    endpoints: tuple[Endpoint, ...] = Field(default=(), max_length=8)
    capabilities: tuple[Name, ...] = Field(default=(), max_length=64)
    host: Name = ""
    store: Name = ""
    window_bytes: Count = 0
    pid: Count = 0
    device: Name = ""
    teaches: Digest = Field(default=NO_DIGEST, strict=True, pattern=r"^([0-9a-f]{64})?$")
    classes: ClassNames = ()
    gpu: Name = ""
    environment: dict[Name, Text] = Field(default_factory=dict, max_length=64)


class WelcomeReply(Body):
    """Listener to dialer: you are in, under this name, and this minor version is spoken."""

    minor: int = Field(default=0, strict=True, ge=0, le=255)
    agent: AgentNameField
    heartbeat_s: Seconds
    lease_s: Seconds
    capabilities: tuple[Name, ...] = Field(default=(), max_length=64)
    host: Name = ""
    store: Name = ""
    window_bytes: Count = 0
    gpu: Name = ""
    bulk_endpoints: tuple[Endpoint, ...] = Field(default=(), max_length=8)


class HeartbeatEvent(Body):
    """Agent to coordinator: alive. ``progress`` counts what the work thread has done, so a hang is seen."""

    progress: Count
    is_busy: StrictBool


class PeersEvent(Body):
    """Coordinator to agent: who may ask you for which knowledge, complete. Dial them if you do not listen yourself."""

    peers: tuple[AdmittedPeer, ...] = Field(max_length=4096)


class PingRequest(Body):
    """Say this back."""

    text: str = Field(default="", strict=True, max_length=MAX_PING_CHARACTERS)


class PingReply(Body):
    """The text of the ping."""

    text: str = Field(default="", strict=True, max_length=MAX_PING_CHARACTERS)


class StatusRequest(Body):
    """Coordinator to agent: how are you?"""


class StatusReply(Body):
    """What crossed this agent's sockets, and what it refused by rule."""

    progress: Count
    is_busy: StrictBool
    counters: dict[Name, Count] = Field(max_length=64)
    refused: dict[Name, Count] = Field(max_length=64)


class LeaveRequest(Body):
    """Coordinator to agent: finish and end the process."""


class LeftEvent(Body):
    """Agent to coordinator: I am going."""

    reason: Text


# Tasks.


class TaughtBy(Body):
    """One teacher of a task: the digest of its weights and who serves them. In mutual teaching: of the other's task."""

    weights: TeacherField
    peer: PeerAddress


class TaskRequest(Body):
    """Coordinator to agent: do this. ``attempt`` is the fence: a reply from an earlier attempt is void.

    ``key`` is the task's digest, for agents whose language cannot write the task's canonical JSON. ``teachers`` serve what the
    task's teachers know, but for those all of whose answers stand in the recordings ``recorded``. ``record`` asks for a
    recording of the lesson. A student gives its lesson up when a teacher has not answered for ``wait_s``. ``asks_room`` says that
    others work on the same device: an agent answers ``out_of_memory`` before it begins if it thinks that too little is free.
    """

    holds_records: ClassVar[bool] = True
    task: AnyTask
    key: TaskKeyField = Field(default_factory=lambda data: data["task"].key)
    attempt: int = Field(ge=1, lt=2**31)
    teachers: tuple[TaughtBy, ...] = Field(default=(), max_length=64)
    recorded: tuple[DigestField, ...] = Field(default=(), max_length=64)
    record: StrictBool = False
    wait_s: Seconds = TEACHER_WAIT_S
    asks_room: StrictBool = False

    @model_validator(mode="after")
    def _check_key(self) -> Self:
        if self.key != self.task.key:
            raise ValueError("key is not the digest of the task")
        return self


class TaskProgressEvent(Judged, Body):
    """Agent to coordinator: how far the task is; ``miou`` after a validation, and ``accuracy`` of a classifier.

    Args:
        received_bytes: what its teachers have sent in this attempt so far.
        waited_s: how long it had nothing to do but wait for them.
    """

    task: TaskKeyField
    attempt: Count
    step: Count
    steps: Count
    loss: Annotated[float, Field(strict=True)]
    miou: Annotated[float, Field(strict=True, ge=0, le=1)] | None = None
    accuracy: Annotated[float, Field(strict=True, ge=0, le=1)] | None = None
    received_bytes: Count = 0
    waited_s: Seconds = 0.0


class TaskReply(Body):
    """Agent to coordinator: the result. Weights can be asked for under their digest before this is said."""

    holds_records: ClassVar[bool] = True
    task: TaskKeyField
    attempt: Count
    result: TaskResult


class CancelRequest(Body):
    """Coordinator to agent: stop that task at its next step."""

    task: TaskKeyField
    attempt: Count


class SubmitRequest(Body):
    """A script to the coordinator: have this task done, or answer it from the records. ``label`` is for people."""

    holds_records: ClassVar[bool] = True
    task: AnyTask
    label: Name = ""


class SubmitReply(Body):
    """Coordinator to script: the result, which is recorded."""

    holds_records: ClassVar[bool] = True
    task: TaskKeyField
    result: TaskResult


# Knowledge.


class TeachRequest(Body):
    """Coordinator to agent: adopt these weights and answer requests for their knowledge."""

    holds_records: ClassVar[bool] = True
    architecture: Architecture
    weights: DigestField
    data: DataSource | None = None


class TeachReply(Body):
    """Agent to coordinator: ready to teach with those weights."""

    weights: DigestField


class TeacherMovedEvent(Body):
    """Coordinator to a student: the teacher with these weights is to be found elsewhere now."""

    weights: TeacherField
    peer: PeerAddress


class KnowledgeRequest(Body):
    """Student to teacher. Views are named; a teacher without the dataset is sent the images (a buffer).

    ``payloads`` says to what the output is reduced: logits for ``soft_targets``, anything for ``feature_maps``.
    ``ways`` are those by which the asker can take the answer now, and ``weights`` says whose knowledge is meant.

    ``architecture`` is that of the network with these ``weights``. ``data`` are those that ``dataset`` names by the digest of
    their file, or, if that is empty, those that who is asked shares; its splits and images are in the piece.

    ``classes`` are what the asker calls the classes, in order: those of its data, or empty if a mapping is known to it.

    ``head`` says which head of a network with several is asked; if it is empty, the one whose classes are the asker's, or else
    the one that it teaches with.

    ``arithmetic`` says how the network is to compute what it says: who cannot do so refuses it.

    With a ``step`` students teach each other: ``weights`` is the digest of the other's task, and what it said in that step is
    wanted. It is handed over once it is said; the reply names the weights that said it.
    """

    kind: KnowledgeKind
    weights: TeacherField
    num_classes: Count = 0
    classes: ClassNames = ()
    dataset: DatasetField = NO_DIGEST
    view_settings: ViewSettings = ViewSettings()
    views: tuple[tuple[Count, Count], ...] = Field(default=(), max_length=MAX_VIEWS)
    codec: Name = "float16"
    max_kl: Divergence = 0.0
    payloads: tuple[Payload, ...] = Field(default=(), max_length=16)
    step: Count | None = None
    ways: tuple[Way, ...] = Field(default=(Way.INLINE,), max_length=8)
    head: Name = ""
    arithmetic: Arithmetic = Arithmetic()


class KnowledgeReply(Body):
    """Teacher to student: a safetensors file, inline as the one buffer or by another way."""

    kind: KnowledgeKind
    weights: DigestField
    piece: Piece
    teacher_s: Seconds = 0.0
    is_cached: StrictBool = False


class ReleaseEvent(Body):
    """To the owner of shared memory: these leases are not read any more."""

    leases: tuple[Count, ...] = Field(max_length=4096)


class AssessRequest(Body):
    """Do you know images like these? The one buffer is a safetensors file with ``images`` [N,C,H,W] in [0, 1]."""

    num_classes: Count


class AssessReply(Body):
    """What the network makes of the images.

    Args:
        known_fraction: share of pixels whose energy is what the network has met in its own validation data; ``None`` if it
            has no such data to compare with.
        predicted: share of pixels of each class.
    """

    weights: DigestField
    num_images: Count
    known_fraction: Annotated[float, Field(strict=True, ge=0, le=1)] | None = None
    predicted: tuple[Annotated[float, Field(strict=True, ge=0, le=1)], ...] = Field(max_length=65_536)


# Streams: bytes in chunks, as far as the receiver has given credit.


class StreamRequest(Body):
    """Receiver to sender: send the piece of this digest from ``offset`` on; ``limit`` is how far the credit reaches."""

    sha256: DigestField
    offset: Count
    limit: Count
    chunk_bytes: int = Field(strict=True, ge=4096, le=16 * 1024**2)


class StreamChunkEvent(Body):
    """Sender to receiver: the one buffer stands at ``offset``; ``crc32`` is its CRC-32 (IEEE 802.3, as in zlib)."""

    offset: Count
    crc32: int = Field(strict=True, ge=0, lt=2**32)


class StreamCreditEvent(Body):
    """Receiver to sender: send up to ``limit``, an absolute offset, so that a repeated or reordered grant is harmless."""

    limit: Count


class StreamCancelEvent(Body):
    """Receiver to sender: no more."""


class StreamReply(Body):
    """Sender to receiver: that was all; its SHA-256 and size."""

    sha256: DigestField
    size_bytes: Count


INTERNAL = "internal"
"""The code of what own code raises, or whatever computes, and is no error of agentkd's own."""


class ErrorReply(Body):
    """An answer that is an error: stable codes, a type name and text. Never an exception object.

    Args:
        code: which branch of the error tree; ``protocol`` for a message that was refused.
        rule: for ``protocol``, the rule that was broken.
        retryable: whether the same request may go better later.
    """

    code: Name
    rule: Name = ""
    remote_type: Name = ""
    text: Text
    retryable: StrictBool = False
    task: TaskKey = Field(default=NO_TASK, strict=True, pattern=r"^([0-9a-f]{64})?$")
    attempt: Count = 0

    @classmethod
    def of(cls, error: BaseException, *, task: TaskKey = NO_TASK, attempt: int = 0, code: str = "", text: str = "") -> Self:
        """An exception as data: its code in the error tree (``internal`` without one), its type's name, and its text.

        Own code may raise anything: a type of any name, with no text or megabytes of it.
        """
        error = error if code else as_agentkd_error(error)
        name = "".join(letter if letter.isprintable() else "?" for letter in type(error).__name__)
        ours = next((kind for kind in type(error).__mro__ if kind.__module__.partition(".")[0] == "agentkd"), None)
        return cls(
            code=code or (ours.code if ours is not None and issubclass(ours, AgentKDError) else INTERNAL),
            rule=error.rule if isinstance(error, RemoteProtocolError) else "",
            retryable=isinstance(error, ExchangeError | DescriptorsError | ThreadsError),
            remote_type=name[:MAX_NAME],
            text=shortened(visible(text or words_of(error) or name), MAX_ERROR_TEXT),
            task=task,
            attempt=attempt,
        )


TYPES: dict[int, type[Body]] = {
    1: HelloRequest,
    2: WelcomeReply,
    3: HeartbeatEvent,
    4: PeersEvent,
    5: LeaveRequest,
    6: LeftEvent,
    7: PingRequest,
    8: PingReply,
    9: StatusRequest,
    10: TaskRequest,
    11: TaskProgressEvent,
    12: TaskReply,
    13: CancelRequest,
    14: StatusReply,
    15: SubmitRequest,
    16: SubmitReply,
    20: TeachRequest,
    21: TeachReply,
    22: TeacherMovedEvent,
    30: KnowledgeRequest,
    31: KnowledgeReply,
    32: ReleaseEvent,
    33: AssessRequest,
    34: AssessReply,
    40: StreamRequest,
    41: StreamChunkEvent,
    42: StreamCreditEvent,
    43: StreamCancelEvent,
    44: StreamReply,
    99: ErrorReply,
}
NUMBERS: dict[type[Body], int] = {body: number for number, body in TYPES.items()}
