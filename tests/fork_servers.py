"""Fork servers that are kept from test to test, so that what agents need is imported once a session and not once a community."""

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agentkd.launch.fork_server import ForkServer

MAX_WAITING = 2
KEEPER = "keeper of fork servers"


class KeptForkServer(ForkServer):
    """A server that, when it is closed, ends all that it has forked and waits for the next launcher."""

    kind: object
    keeper: "Keeper"
    num_started = 0

    def start(self, arguments: list[str], log: Path, *, said: str = "") -> int:
        self.num_started = super().start(arguments, log, said=said)
        return self.num_started

    def close(self) -> None:
        for number in range(1, self.num_started + 1):
            self.send_signal(number, signal.SIGKILL)
            self.wait(number)
        self.keeper.put_back(self)

    @property
    def socket(self) -> int:
        return self._stream.fileno()

    def end(self) -> None:
        super().close()


class Keeper:
    """The servers of a session. Each has one launcher at a time, and the environment in which it was started."""

    def __init__(self) -> None:
        self._waiting: list[KeptForkServer] = []
        self._lock = threading.Lock()
        # Linux ends a server with the *thread* that has started it. This one ends with the session.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=KEEPER)

    @property
    def pids(self) -> set[int]:
        """The operating system's numbers of the servers that wait."""
        return {server.own_pid for server in self._waiting}

    @property
    def sockets(self) -> set[int]:
        """Descriptors in this process of the sockets to them."""
        return {server.socket for server in self._waiting}

    def take(self, modules: tuple[str, ...], environment: dict[str, str], log: Path) -> KeptForkServer:
        """A server as ``ForkServer(...)`` would be: one that waits, if it is such a one, or a new one."""
        kind = (modules, Path.cwd(), {name: value for name, value in environment.items() if name != "PYTEST_CURRENT_TEST"})
        with self._lock:
            for server in self._waiting:
                if server.kind == kind and server.is_alive:
                    self._waiting.remove(server)
                    return server
        server = self._thread.submit(KeptForkServer, modules, environment, log).result()
        server.kind, server.keeper = kind, self
        return server

    def put_back(self, server: KeptForkServer) -> None:
        """Keeps it for the next launcher; the one that has waited longest is ended if there are too many."""
        with self._lock:
            self._waiting.append(server)
            while len(self._waiting) > MAX_WAITING:
                self._waiting.pop(0).end()

    def close(self) -> None:
        """Ends them all."""
        for server in self._waiting:
            server.end()
        self._thread.shutdown()
