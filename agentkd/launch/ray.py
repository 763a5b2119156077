"""The engine ``ray``: an actor of Ray's for each agent, which is its parent wherever Ray has room for it.

Ray places actors and says when one ends; messages and tensors go between agents as ever. The actor starts the agent in its main
thread, for Linux ends a child with the *thread* that has started it: so it is gone when the actor, its worker, its host or this
process is. The key goes straight to the actor, in a call, and from there to the agent's standard input: what an actor is made
with, Ray keeps.
"""

import contextlib
import importlib.util
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentkd.artifacts.run_folder import RunFolder
from agentkd.durable import make_folder
from agentkd.errors import ConfigError, LaunchError
from agentkd.exchange.keys import KeyPair
from agentkd.launch.devices import Slot
from agentkd.launch.launcher import END_TIMEOUT_S, ONE_CORE, TAIL_CHARACTERS, Demand, end_all, pinned
from agentkd.launch.ray_head import RayHead, check
from agentkd.launch.trimming import KEPT_BYTES, MAX_LOG_BYTES
from agentkd.names import AgentName

WAIT_S = 30.0
KILLED = -9
CALLS_AT_ONCE = 4  # one waits for the agent's end
FORM = "expected address=HOST:PORT or wait_s=SECONDS"


class ActorOfAgent:
    """What Ray runs: the parent of one agent.

    Args:
        python: that the agent runs with; empty for the one that runs this.
        arguments: of ``python -m agentkd``.
        more: variables of its environment.
    """

    def __init__(self, python: str, arguments: list[str], more: dict[str, str]) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 as long as the actor
        self._process = subprocess.Popen(
            [python or sys.executable, "-P", "-m", "agentkd", *arguments, "--tethered", f"--parent={os.getpid()}"],
            stdin=subprocess.PIPE,
            stdout=self._said,
            stderr=self._said,
            start_new_session=True,
            env=os.environ | more,
        )

    def tell(self, line: str) -> None:
        """Says a line to the agent."""
        assert self._process.stdin
        with contextlib.suppress(OSError):  # it has ended, which ``wait`` tells
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()

    def wait(self) -> tuple[int, str]:
        """Exit code, and the end of what the agent wrote, when it has ended."""
        while True:
            try:
                code = self._process.wait(timeout=1.0)
                break
            except subprocess.TimeoutExpired:
                if os.fstat(self._said.fileno()).st_size > MAX_LOG_BYTES:
                    os.ftruncate(self._said.fileno(), 0)
                    os.lseek(self._said.fileno(), 0, os.SEEK_SET)
        size = os.fstat(self._said.fileno()).st_size
        return code, os.pread(self._said.fileno(), KEPT_BYTES, max(0, size - KEPT_BYTES)).decode(errors="replace")

    def end(self) -> None:
        """Ends what the agent hears, and so the agent, in good order."""
        assert self._process.stdin
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def kill(self) -> None:
        """Kills the agent; ``wait`` returns when it has ended."""
        self._process.kill()


@dataclass
class AgentOfActor:
    """An agent that an actor is to start, has started, or had: see ``Started``. It ends unplaced if Ray has no room in time."""

    name: AgentName
    log: Path
    actor: Any
    needs: dict[str, float]
    wait_s: float
    head: RayHead
    begun: Any = None
    ended: Any = None
    asked_at: float = field(default_factory=time.monotonic)
    is_placed: bool = False
    exit_code: int | None = None
    said: str = ""

    def poll(self) -> int | None:
        if self.exit_code is not None:
            return self.exit_code
        import ray

        if self.head.is_lost:  # nothing can be asked of it; who it had ends with it, or as soon as it sees that we are gone
            self._settle(LaunchError.exit_code, str(self.head))
            return self.exit_code
        if not ray.is_initialized():
            self._settle(KILLED, "")
            return self.exit_code
        try:
            if ray.wait([self.ended], timeout=0)[0]:
                self._settle(*ray.get(self.ended))
            elif not self.is_placed:
                self.is_placed = bool(ray.wait([self.begun], timeout=0)[0])
                if not self.is_placed and time.monotonic() - self.asked_at > self.wait_s:
                    self._settle(LaunchError.exit_code, self._missing())
                    ray.kill(self.actor)
        except ray.exceptions.RayError as error:  # the actor, its worker or its host is gone, and the agent with it
            self._settle(KILLED, str(error))
        return self.exit_code

    def end(self) -> None:
        if self.poll() is None:
            self.actor.end.remote()

    def kill(self) -> None:
        import ray

        is_there = ray.is_initialized() and self.head.is_there
        if self.poll() is None:
            if self.is_placed:
                self.actor.kill.remote()
            elif is_there:
                ray.kill(self.actor)
            ray.wait([self.ended], timeout=END_TIMEOUT_S)
            if self.poll() is None:  # out of reach
                self._settle(KILLED, "")
        if is_there:
            ray.kill(self.actor)

    def tail(self) -> str:
        if self.exit_code is None and not self.is_placed:
            return self._missing()
        return self.said[-TAIL_CHARACTERS:].strip()

    def _settle(self, code: int, said: str) -> None:
        self.exit_code, self.said = code, said
        with contextlib.suppress(OSError):
            make_folder(self.log.parent)
            self.log.write_text(said, encoding="utf-8")

    def _missing(self) -> str:
        """What Ray has too little of."""
        import ray

        if not self.head.is_there:
            return f"Ray's head at {self.head.address} does not answer"
        free, there = ray.available_resources(), ray.cluster_resources()
        lacking = [
            f"{kind} {amount:g}, and of {there.get(kind, 0.0):g} in all {free.get(kind, 0.0):g} are free"
            for kind, amount in self.needs.items()
            if free.get(kind, 0.0) < amount
        ]
        waited_s = f"{min(self.wait_s, time.monotonic() - self.asked_at):.3g} s"
        if lacking:
            needs = "; ".join(lacking)
            return f"Ray had no room for {self.name} within {waited_s}: it needs {needs}. Have fewer agents, or more hosts"
        needs = " and ".join(f"{kind} {amount:g}" for kind, amount in self.needs.items())
        return (
            f"Ray did not start {self.name} within {waited_s}, though it has {needs} free in all: it is slow to start a process, "
            "or no host alone has that. Give it longer (launch.options: [wait_s=SECONDS]), or have fewer agents"
        )


class RayLauncher:
    """Starts agents as children of Ray's actors. Of ``options``, ``address`` is where Ray is, ``wait_s`` how long it may search.

    Raises:
        ConfigError: Ray is not installed, or an option is none.
    """

    def __init__(self, folder: RunFolder, demand: Demand = ONE_CORE) -> None:
        self._folder, self._demand = folder, demand
        self._options = _read(demand.options)
        self._started: list[AgentOfActor] = []
        self._head: RayHead | None = None
        self._is_ours = False
        if importlib.util.find_spec("ray") is None:
            raise ConfigError("launch.engine: ray is not installed here; run: pip install 'agentkd[ray]'")

    def start(self, name: AgentName, slot: Slot, arguments: Sequence[str], key: KeyPair) -> AgentOfActor:
        import ray

        self._started = [one for one in self._started if one.poll() is None]
        gpus = self._demand.gpus_per_agent
        more = pinned(slot.threads) | ({} if gpus else {"CUDA_VISIBLE_DEVICES": ""})  # without any, Ray leaves all visible
        try:
            head = self._connect()
            kind = ray.remote(num_cpus=slot.threads, num_gpus=gpus, max_restarts=0, max_concurrency=CALLS_AT_ONCE)(ActorOfAgent)
            actor = kind.remote(self._demand.python, list(arguments), more)
        except (ray.exceptions.RayError, ConnectionError, ValueError, RuntimeError) as error:
            raise LaunchError(f"cannot start agent {name} by Ray: {error}") from error
        needs = {"CPU": float(slot.threads)} | ({"GPU": gpus} if gpus else {})
        started = AgentOfActor(name, self._folder.logs / f"{name}.log", actor, needs, self._options[1], head)
        started.begun = actor.tell.remote(key.line())
        started.ended = actor.wait.remote()
        self._started.append(started)
        return started

    def close(self) -> None:
        end_all(self._started)
        self._started.clear()
        self._disconnect()

    def _connect(self) -> RayHead:
        """Uses the connection to Ray that this process has, or makes one, which ``close`` ends. Anew, if the head was lost."""
        import ray

        if self._head is not None and self._head.is_lost:  # and nothing is left of what it had
            self._disconnect()
        if self._head is None:
            if not ray.is_initialized():
                address = _place_of(self._options[0])
                if address:
                    check(address)
                ray.init(address=self._options[0], log_to_driver=False, logging_level="ERROR")
                self._is_ours = True
            self._head = RayHead(ray.get_runtime_context().gcs_address)
        self._head.wait_for()
        return self._head

    def _disconnect(self) -> None:
        import ray

        if self._head is not None:
            self._head.close()
        if self._is_ours and ray.is_initialized():
            ray.shutdown()
        self._head, self._is_ours = None, False


def _place_of(address: str) -> str:
    """``HOST:PORT`` of Ray's head as Ray will look for it; empty if that is not known beforehand."""
    if address != "auto":
        return address
    try:
        from ray._private.services import canonicalize_bootstrap_address
    except ImportError:
        return os.environ.get("RAY_ADDRESS", "")
    return canonicalize_bootstrap_address(address) or ""


def _read(options: tuple[str, ...]) -> tuple[str, float]:
    """Where Ray is, and how many seconds it may search for room."""
    said = {name: value for name, _, value in (word.partition("=") for word in options)}
    if not said.keys() <= {"address", "wait_s"}:
        raise ConfigError(f"launch.options: {', '.join(sorted(said.keys() - {'address', 'wait_s'}))} is no option of ray; {FORM}")
    try:
        wait_s = float(said.get("wait_s", WAIT_S))
    except ValueError:
        wait_s = math.nan
    if not 0 < wait_s < math.inf:
        raise ConfigError(f"launch.options: wait_s is {said['wait_s']!r}; {FORM}, more than 0")
    return said.get("address") or "auto", wait_s
