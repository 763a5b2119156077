"""The engine ``local``: agent processes on this machine, as forks of a server, ended with their parent."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agentkd.artifacts.run_folder import RunFolder
from agentkd.durable import make_folder
from agentkd.errors import LaunchError, StorageError, check_descriptors
from agentkd.exchange.keys import KeyPair
from agentkd.launch.devices import Slot
from agentkd.launch.fork_server import ForkServer
from agentkd.launch.launcher import ONE_CORE, Demand, environment, tail_of
from agentkd.names import AgentName

# By name: imported in the fork server alone. The last one torch imports at the first step of an optimizer, for two seconds.
PRELOADED = ("agentkd.agents.agent", "agentkd.cli", "torch._dynamo")


@dataclass
class Fork:
    """A started agent on this machine: see ``Started``."""

    name: AgentName
    log: Path
    server: ForkServer
    number: int

    @property
    def pid(self) -> int:
        """The operating system's number of the process; 0 while it is not there yet."""
        return self.server.pid(self.number)

    def poll(self) -> int | None:
        return self.server.poll(self.number)

    def end(self) -> None:
        """Sends the signal that ends an agent in good order."""
        self.server.send_signal(self.number, signal.SIGTERM)

    def kill(self) -> None:
        self.server.send_signal(self.number, signal.SIGKILL)
        self.server.wait(self.number)

    def tail(self) -> str:
        return tail_of(self.log, self.server.log)


class LocalLauncher:
    """Starts agents as forks of a server, in sessions of their own, so that Ctrl-C reaches the coordinator alone."""

    def __init__(self, folder: RunFolder, demand: Demand = ONE_CORE) -> None:
        self._folder = folder
        self._servers: dict[int, ForkServer] = {}

    def start(self, name: AgentName, slot: Slot, arguments: Sequence[str], key: KeyPair) -> Fork:
        log = self._folder.logs / f"{name}.log"
        try:
            make_folder(log.parent)
            log.touch()
            server = self._server(slot.threads)
        except OSError as error:
            check_descriptors(f"what agent {name} needs", error)
            if error.filename and Path(error.filename).is_relative_to(log.parent):
                raise StorageError.of(Path(error.filename), error) from error
            raise LaunchError(f"cannot start agent {name}: {error}", command=f"agentkd {' '.join(arguments)}") from error
        number = server.start([*arguments, f"--parent={server.own_pid}"], log, said=key.line())
        return Fork(name, log, server, number)

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
            server = self._servers[threads] = ForkServer(PRELOADED, environment(threads), log)
        return server
