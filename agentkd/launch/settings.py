"""How agents are started, watched and connected, as an experiment or a script says it. Nothing here changes results."""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from agentkd.canonical import ExplainedData
from agentkd.errors import ConfigError
from agentkd.exchange.addresses import AUTO as NEAREST
from agentkd.exchange.addresses import is_local
from agentkd.exchange.transports import AUTO, TRANSPORTS, find_transport
from agentkd.launch.devices import Slot, parse_devices, share_devices
from agentkd.launch.engines import ENGINES, LOCAL, find_engine
from agentkd.launch.launcher import Contact, Demand
from agentkd.launch.placement import BESIDE, TeachingPlace, check_policy, teaching_places
from agentkd.messages.bodies import TEACHER_WAIT_S
from agentkd.names import PublicKey

CHECKPOINT_EVERY_S = 30.0
JOIN_S = 120.0
MAX_AGENTS = 100_000
IMAGE_CACHE_GIB = 4.0
MAX_LOADERS = 64


def _transport(name: str) -> str:
    find_transport(name)
    return name


def _engine(name: str) -> str:
    find_engine(name)
    return name


def _words(given: object) -> object:
    """Numbers among words are words too."""
    if isinstance(given, str):
        raise ValueError(f"expected words in a list, such as [{given[:80]}]")
    if not isinstance(given, list | tuple):
        return given
    odd = [word for word in given if not isinstance(word, str | int) or isinstance(word, bool)]
    if odd:
        raise ValueError(f"{odd[0]!r} is no word; put it in quotes: '\"yes\"', '\"1.5\"'")
    return tuple(map(str, given))


TransportName = Annotated[str, AfterValidator(_transport), WithJsonSchema({"type": "string", "enum": list(TRANSPORTS)})]
Placement = Annotated[str, AfterValidator(check_policy)]
EngineName = Annotated[str, AfterValidator(_engine), WithJsonSchema({"type": "string", "enum": list(ENGINES)})]


class LaunchConfig(ExplainedData):
    """How agents are started, watched and connected. Nothing here changes results."""

    engine: EngineName = LOCAL
    """What starts agents: ``local`` (processes on this machine), ``ray``, ``srun`` (SLURM), ``ssh``, or ``command`` (any other
    that starts a process). See docs/how-to/many-machines.md.
    """
    devices: str = "auto"
    """Devices of this machine, one slot for each agent that learns: ``auto`` (every GPU, else a slot a core), ``cpu:2``,
    ``cuda:0,cuda:1``, or ``cuda:0x2`` for two agents on one GPU.
    """
    agents: int = Field(default=0, ge=0, le=MAX_AGENTS)
    """How many learn at a time; 0 for as many as ``devices`` says, which only ``local`` can."""
    gpus_per_agent: float = Field(default=0.0, ge=0, le=64)
    """Of the engine's GPUs; a fraction where several agents share one."""
    cpus_per_agent: int = Field(default=1, ge=1, le=1024)
    """Cores of an agent, which are its threads."""
    join_s: float = Field(default=JOIN_S, gt=1)
    """Seconds that an agent may take to come before it is said what is missing; what it is missing for is up to the engine."""
    min_agents: int = Field(default=0, ge=0, le=MAX_AGENTS)
    """How many that learn are enough to go on with if the engine does not give all; who comes later is taken. 0 for all of them:
    a run ends if agents do not come, time after time.
    """
    options: Annotated[tuple[str, ...], BeforeValidator(_words)] = ()
    """What the engine is told besides, in words: options of ``srun``, hosts for ``ssh``, a command."""
    python: str = ""
    """That agents run with on their hosts; empty for the one that runs this."""
    bind: str = ""
    """Where to listen for other hosts: addresses or interfaces of this one, with commas between; loopback by default."""
    transport: TransportName = AUTO
    """How messages and weights go between agents: ``auto`` takes the shortest way that both sides know; ``shared``, ``store``,
    ``ipc`` and ``tcp`` allow one way alone.
    """
    port: int = Field(default=0, ge=0, le=65535)
    """TCP port to listen on; 0 for any that is free."""
    lease_s: float = Field(default=20.0, gt=1)
    """Seconds of silence after which an agent counts as lost, and its task is given to another."""
    hang_s: float = Field(default=900.0, gt=1)
    """Seconds without progress in its work after which an agent counts as lost, though it still answers."""
    max_attempts: int = Field(default=3, ge=1)
    """How often a task may fail before it is given up. What its surroundings do (lost agents, networks, disks of guests) does not
    count; in an experiment they stop the run if it is taken from its agents ten times in a row.
    """
    checkpoint_every_s: float = Field(default=CHECKPOINT_EVERY_S, ge=0)
    """Seconds between checkpoints of a training, from which it goes on after an interruption."""
    teachers: Placement = BESIDE
    """Where agents that teach are, if the engine is ``local``: ``beside`` those that learn, on their slots in turn; ``spread``,
    on that of their devices that has the fewest agents; or on devices of their own, such as ``cuda:1``.
    """
    teacher_copies: int = Field(default=1, ge=1, le=64)
    """How many agents may teach with the same weights, if so many students learn from them at once."""
    teacher_wait_s: float = Field(default=TEACHER_WAIT_S, gt=0)
    """Seconds that a student waits for a teacher that does not answer before its lesson ends, to be tried again. Meanwhile
    another agent takes the place of a teacher that was lost, or a guest comes back.
    """
    record_lessons: bool = False
    """Keep what teachers told, so that it can be replayed, and told again, with the teachers gone."""
    own_folders: bool = False
    """Each agent keeps a folder of its own, as on machines that share no disk: weights, data and checkpoints then reach it by
    messages alone, and stay in ``agents/`` of the run folder.
    """
    max_record_gib: float = Field(default=4.0, gt=0)
    """GiB that recorded lessons may take at most; the oldest are dropped first."""
    image_cache_gib: float = Field(default=IMAGE_CACHE_GIB, ge=0)
    """GiB that decoded images may take in the run folder while agents work: each is decoded once a host and read by all, through
    the system's page cache. Beyond it images are decoded again. Besides, an agent holds 64 MiB.
    """
    loaders: int | None = Field(default=None, ge=0, le=MAX_LOADERS)
    """Threads of each agent that make views ahead of need; 0 makes them where they are needed. Not given, an agent on CUDA has as
    many as it has cores, eight at most, and one on a CPU none: there the cores are busy with learning.
    """
    recheck_guests: float = Field(default=1.0, ge=0, le=1)
    """Share of the guests' results whose mIoU the coordinator measures again itself before they count, where it has the dataset.
    """

    @property
    def demand(self) -> Demand:
        """What an engine is asked for."""
        return Demand(self.gpus_per_agent, self.cpus_per_agent, self.options, self.python)

    def contact(self, endpoints: tuple[str, ...], coordinator_key: PublicKey) -> Contact:
        """What agents are told of a coordinator that listens at these endpoints."""
        return Contact(
            endpoints=endpoints,
            coordinator_key=coordinator_key,
            transport=self.transport,
            checkpoint_every_s=self.checkpoint_every_s,
            image_cache_gib=self.image_cache_gib,
            loaders=self.loaders,
            own_folders=self.own_folders,
            bind="" if all(map(is_local, endpoints)) else NEAREST,
        )

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Room for each agent that learns: devices of this machine, or what the engine is to give.

        Raises:
            ConfigError: it is not said how many there are to be, they do not fit, or fewer than are enough.
        """
        slots = self._slots()
        if self.min_agents > len(slots):
            raise ConfigError(f"launch.min_agents: {self.min_agents} are to be enough, and there are to be {len(slots)}")
        return slots

    def _slots(self) -> tuple[Slot, ...]:
        if self.engine != LOCAL:
            if not self.agents:
                raise ConfigError(f"launch.agents: how many? The engine {self.engine} has devices that are not known here")
            return (Slot("cuda:0" if self.gpus_per_agent else "cpu", self.cpus_per_agent),) * self.agents
        if self.agents:
            return share_devices(self.agents, self.gpus_per_agent, self.cpus_per_agent)
        return parse_devices(self.devices)

    def places(self, slots: tuple[Slot, ...]) -> tuple[TeachingPlace, ...]:
        """Room for agents that teach those that learn on these slots.

        Raises:
            ConfigError: a device that ``teachers`` names is not there.
        """
        return teaching_places(self.teachers if self.engine == LOCAL else BESIDE, slots)
