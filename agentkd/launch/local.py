"""Agent processes on this machine: started with a key of their own, watched, and ended with their parent."""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agentkd.artifacts.run_folder import RunFolder
from agentkd.durable import discard
from agentkd.errors import LaunchError, StorageError, check_descriptors
from agentkd.launch.devices import Slot
from agentkd.launch.fork_server import ForkServer
from agentkd.names import AgentName, PublicKey

STDERR_TAIL_CHARACTERS = 4000
END_TIMEOUT_S = 5.0
# By name: imported in the fork server alone. The last one torch imports at the first step of an optimizer, for two seconds.
PRELOADED = ("agentkd.agents.agent", "agentkd.cli", "torch._dynamo")


class AgentProcess(Protocol):
    """A started agent, wherever it runs. One thread calls its methods, and none of them waits long but ``kill``."""

    @property
    def name(self) -> AgentName:
        """As it was given."""
        ...

    def poll(self) -> int | None:
        """Exit code (negative: signal), or ``None`` while it runs or is yet to run."""
        ...

    def ask_to_end(self) -> None:
        """Has it end in good order, soon; nothing if it has ended."""
        ...

    def kill(self) -> None:
        """It has ended, and its key file is gone, when this returns."""
        ...

    def stderr_tail(self) -> str:
        """The end of what it, or what should have started it, wrote to standard error; empty if that is not to be had."""
        ...


@dataclass
class Fork:
    """A started agent on this machine: an ``AgentProcess``."""

    name: AgentName
    slot: Slot
    log: Path
    key_file: Path
    server: ForkServer
    number: int

    @property
    def pid(self) -> int:
        """The operating system's number of the process; 0 while it is not there yet."""
        return self.server.pid(self.number)

    def poll(self) -> int | None:
        """Exit code (negative: signal), or ``None`` while it runs."""
        return self.server.poll(self.number)

    def ask_to_end(self) -> None:
        """Sends the signal that ends an agent in good order."""
        self.server.send_signal(self.number, signal.SIGTERM)

    def kill(self) -> None:
        """Ends the process at once and forgets its key."""
        self.server.send_signal(self.number, signal.SIGKILL)
        self.server.wait(self.number)
        discard(self.key_file)

    def stderr_tail(self) -> str:
        """The end of what it wrote to standard error, or the server did that should have started it."""
        return _tail(self.log) or _tail(self.server.log)


@dataclass(frozen=True)
class Contact:
    """What a new agent needs to know to join: where the coordinator is, its public key, and how things go here."""

    endpoint: str
    coordinator_key: PublicKey
    transport: str
    checkpoint_every_s: float
    image_cache_gib: float
    own_folders: bool = False


class Launcher(Protocol):
    """Starts agents. The process joins by itself."""

    def start(self, name: AgentName, slot: Slot, key_file: Path, contact: Contact) -> AgentProcess:
        """A new agent with the key pair in ``key_file``.

        Raises:
            LaunchError: it could not be started.
        """
        ...

    def close(self) -> None:
        """Nothing that it started is left when this returns. It can start agents again."""
        ...


class LocalLauncher:
    """Starts agents as forks of a server, in sessions of their own, so that Ctrl-C reaches the coordinator alone."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._servers: dict[int, ForkServer] = {}

    def start(self, name: AgentName, slot: Slot, key_file: Path, contact: Contact) -> Fork:
        log = self._folder.logs / f"{name}.log"
        arguments = ["agent", "--join", contact.endpoint, "--coordinator-key", contact.coordinator_key]
        arguments += ["--key", str(key_file), "--device", slot.device, "--threads", str(slot.threads)]
        folder = self._folder.of_agent(name) if contact.own_folders else self._folder
        arguments += ["--run-folder", str(folder.place), "--allow-code", "--share-data"]
        arguments += ["--transport", contact.transport, "--checkpoint-every", str(contact.checkpoint_every_s)]
        arguments += ["--image-cache-gib", str(contact.image_cache_gib)]
        arguments += ["--audit", str(self._folder.logs / f"{name}.audit.jsonl")]
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            log.touch()
            server = self._server(slot.threads)
        except OSError as error:
            discard(key_file)
            check_descriptors(f"what agent {name} needs", error)
            if error.filename and Path(error.filename).is_relative_to(log.parent):
                raise StorageError.of(Path(error.filename), error) from error
            raise LaunchError(f"cannot start agent {name}: {error}", command=f"agentkd {' '.join(arguments)}") from error
        number = server.start([*arguments, "--parent", str(server.own_pid)], log)
        return Fork(name, slot, log, key_file, server, number)

    def close(self) -> None:
        """Ends the servers."""
        for server in self._servers.values():
            server.close()
        self._servers.clear()

    def _server(self, threads: int) -> ForkServer:
        """The server for agents with so many threads: libraries read that number when they are loaded."""
        server = self._servers.get(threads)
        if server is None or not server.is_alive:
            if server is not None:
                server.close()
            log = self._folder.logs / f"fork-server-{threads}.log"
            server = self._servers[threads] = ForkServer(PRELOADED, _environment(threads), log)
        return server


def end_all(processes: Sequence[AgentProcess]) -> None:
    """Asks all to end, waits a moment, kills the rest. None is left when this returns."""
    for agent in processes:
        if agent.poll() is None:
            agent.ask_to_end()
    deadline = time.monotonic() + END_TIMEOUT_S
    while any(agent.poll() is None for agent in processes) and time.monotonic() < deadline:
        time.sleep(0.02)
    for agent in processes:
        agent.kill()


def _tail(log: Path) -> str:
    try:
        return log.read_text(encoding="utf-8", errors="replace")[-STDERR_TAIL_CHARACTERS:].strip()
    except OSError:
        return ""


def _environment(threads: int) -> dict[str, str]:
    """The parent's environment with threads pinned before any library reads it. OpenBLAS starts its own at once; one is none."""
    return os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1"}
