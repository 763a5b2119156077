"""What every engine that starts agents keeps to: a launcher, and what it has started.

An engine knows of an agent its name, the room that it gets, the arguments of ``python -m agentkd`` and its key. The key is one
line of the agent's standard input, and stands in no file, no argument and no environment.
"""

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agentkd.artifacts.run_folder import RunFolder
from agentkd.exchange.keys import KeyPair
from agentkd.launch.devices import Slot
from agentkd.names import AgentName, PublicKey

END_TIMEOUT_S = 5.0
TAIL_CHARACTERS = 4000


class Started(Protocol):
    """A started agent, wherever it runs. One thread calls its methods, and none of them waits long but ``kill``."""

    @property
    def name(self) -> AgentName:
        """As it was given."""
        ...

    def poll(self) -> int | None:
        """Exit code (negative: signal), or ``None`` while it runs or is yet to run.

        However an agent ends, what it had in hand is lost if it has not said that it leaves: an engine may answer 0 for a host
        that was cut off.
        """
        ...

    def end(self) -> None:
        """Has it end in good order, soon; nothing if it has ended."""
        ...

    def kill(self) -> None:
        """It has ended when this returns; if it is out of reach, it ends as soon as it sees that."""
        ...

    def tail(self) -> str:
        """The end of what it, or what should have started it, wrote to standard error; empty if that is not to be had."""
        ...


class Launcher(Protocol):
    """Starts agents. The process joins by itself."""

    def start(self, name: AgentName, slot: Slot, arguments: Sequence[str], key: KeyPair) -> Started:
        """``python -m agentkd ARGUMENTS``, with the key on its standard input, as ``KeyPair.line`` writes it.

        Returns at once. Libraries read the number of threads of the slot from the environment, see ``pinned``.

        Raises:
            LaunchError: it could not be started.
            StorageError: its log cannot be written.
        """
        ...

    def close(self) -> None:
        """Nothing that it started is left when this returns. It can start agents again."""
        ...


@dataclass(frozen=True)
class Demand:
    """What an agent is to have, and how the engine is to get it.

    Args:
        gpus_per_agent: of the engine's GPUs; a fraction where several agents share one.
        cpus_per_agent: cores.
        options: as ``launch.options``; what they mean is up to the engine.
        python: that agents run with; empty for the one that runs this.
    """

    gpus_per_agent: float = 0.0
    cpus_per_agent: int = 1
    options: tuple[str, ...] = ()
    python: str = ""

    def __str__(self) -> str:
        """What an agent is to have, in words."""
        cores = f"{self.cpus_per_agent} core{'s' if self.cpus_per_agent > 1 else ''}"
        if not self.gpus_per_agent:
            return cores
        return f"{self.gpus_per_agent:g} GPU{'s' if self.gpus_per_agent > 1 else ''} and {cores}"


ONE_CORE = Demand()


@dataclass(frozen=True)
class Contact:
    """What a new agent needs to know to join: where the coordinator is, its public key, and how things go here.

    Args:
        endpoints: all that the coordinator listens at; an agent dials the nearest.
        bind: where the agent is to listen, as of ``--bind``; empty for this host alone.
        own_folders: whether each agent has a folder of its own in the run folder.
        loaders: threads of an agent that make views ahead; ``None`` leaves it to the agent.
    """

    endpoints: tuple[str, ...]
    coordinator_key: PublicKey
    transport: str
    checkpoint_every_s: float
    image_cache_gib: float
    own_folders: bool = False
    bind: str = ""
    loaders: int | None = None

    def greeting(self, name: AgentName, command: str) -> tuple[str, ...]:
        """Arguments of ``python -m agentkd`` for a process that reads its key from standard input, and comes."""
        joined = [f"--join={endpoint}" for endpoint in self.endpoints]
        bound = [f"--bind={self.bind}"] if self.bind else []
        return (command, f"--name={name}", *joined, f"--coordinator-key={self.coordinator_key}", "--key=-", *bound)

    def arguments(self, folder: RunFolder, name: AgentName, slot: Slot) -> tuple[str, ...]:
        """Those of an agent."""
        own = folder.of_agent(name) if self.own_folders else folder
        return (
            *self.greeting(name, "agent"),
            f"--device={slot.device}",
            f"--threads={slot.threads}",
            f"--run-folder={own.place.absolute()}",
            "--allow-code",
            "--share-data",
            f"--transport={self.transport}",
            f"--checkpoint-every={self.checkpoint_every_s}",
            f"--image-cache-gib={self.image_cache_gib}",
            *([] if self.loaders is None else [f"--loaders={self.loaders}"]),
            f"--audit={(folder.logs / f'{name}.audit.jsonl').absolute()}",
        )


def end_all(started: Sequence[Started]) -> None:
    """Asks all to end, waits a moment, kills the rest. None is left when this returns."""
    for agent in started:
        if agent.poll() is None:
            agent.end()
    deadline = time.monotonic() + END_TIMEOUT_S
    while any(agent.poll() is None for agent in started) and time.monotonic() < deadline:
        time.sleep(0.02)
    for agent in started:
        agent.kill()


def tail_of(*logs: Path) -> str:
    """The end of the first of these logs that says anything."""
    for log in logs:
        try:
            said = log.read_text(encoding="utf-8", errors="replace")[-TAIL_CHARACTERS:].strip()
        except OSError:
            continue
        if said:
            return said
    return ""


def pinned(threads: int) -> dict[str, str]:
    """The environment that pins threads before any library reads it. OpenBLAS starts its own at once; one is none."""
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1"}


def environment(threads: int, more: Iterable[tuple[str, str]] = ()) -> dict[str, str]:
    """This process's environment with that, and more, in it."""
    return os.environ | pinned(threads) | dict(more)
