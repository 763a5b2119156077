"""How agents are started, watched and connected, as an experiment or a script says it. Nothing here changes results."""

from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema

from agentkd.canonical import FrozenData
from agentkd.exchange.transports import AUTO, TRANSPORTS, find_transport
from agentkd.launch.engines import ENGINES, LOCAL, find_engine
from agentkd.launch.launcher import Asked
from agentkd.messages.bodies import TEACHER_WAIT_S

CHECKPOINT_EVERY_S = 30.0
IMAGE_CACHE_GIB = 4.0


def _transport(name: str) -> str:
    find_transport(name)
    return name


def _engine(name: str) -> str:
    find_engine(name)
    return name


TransportName = Annotated[str, AfterValidator(_transport), WithJsonSchema({"type": "string", "enum": list(TRANSPORTS)})]
EngineName = Annotated[str, AfterValidator(_engine), WithJsonSchema({"type": "string", "enum": list(ENGINES)})]


class LaunchConfig(FrozenData):
    """How agents are started, watched and connected. Nothing here changes results.

    Args:
        engine: what starts agents: ``local`` (processes on this machine).
        teacher_copies: how many agents may teach with the same weights, if so many students learn from them at once.
        teacher_wait_s: how long a student waits for a teacher that does not answer before its lesson ends, to be tried again.
            Meanwhile another agent takes the place of a teacher that was lost, or a guest comes back.
        record_lessons: keep what teachers told, so that it can be replayed, and told again, with the teachers gone.
        own_folders: each agent keeps a folder of its own, as on machines that share no disk: weights, data and checkpoints then
            reach it by messages alone, and stay in ``agents/`` of the run folder.
        max_record_gib: the most that recorded lessons may take; the oldest are dropped first.
        image_cache_gib: the most that decoded images may take in the run folder while agents work: each is decoded once a host
            and read by all, through the system's page cache. Beyond it images are decoded again. Besides, an agent holds 64 MiB.
        recheck_guests: share of the guests' results whose mIoU the coordinator measures again itself before they count, where it
            has the dataset.
    """

    engine: EngineName = LOCAL
    devices: str = "auto"
    transport: TransportName = AUTO
    port: int = Field(default=0, ge=0, le=65535)
    lease_s: float = Field(default=20.0, gt=1)
    hang_s: float = Field(default=900.0, gt=1)
    max_attempts: int = Field(default=3, ge=1)
    checkpoint_every_s: float = Field(default=CHECKPOINT_EVERY_S, ge=0)
    teacher_copies: int = Field(default=1, ge=1, le=64)
    teacher_wait_s: float = Field(default=TEACHER_WAIT_S, gt=0)
    record_lessons: bool = False
    own_folders: bool = False
    max_record_gib: float = Field(default=4.0, gt=0)
    image_cache_gib: float = Field(default=IMAGE_CACHE_GIB, ge=0)
    recheck_guests: float = Field(default=1.0, ge=0, le=1)

    @property
    def asked(self) -> Asked:
        """What an engine is asked for."""
        return Asked()
