"""Agent processes on this machine: started with a key of their own, watched, and ended with their parent."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agentkd.artifacts.run_folder import RunFolder
from agentkd.errors import LaunchError, StorageError
from agentkd.launch.devices import Slot

STDERR_TAIL_CHARACTERS = 4000
END_TIMEOUT_S = 5.0


@dataclass
class AgentProcess:
    """A started agent."""

    name: str
    slot: Slot
    process: "subprocess.Popen[bytes]"
    log: Path
    key_file: Path

    @property
    def pid(self) -> int:
        """The operating system's number of the process."""
        return self.process.pid

    def poll(self) -> int | None:
        """Exit code (negative: signal), or ``None`` while it runs."""
        return self.process.poll()

    def kill(self) -> None:
        """Ends the process at once and forgets its key."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.key_file.unlink(missing_ok=True)

    def stderr_tail(self) -> str:
        """The end of what it wrote to standard error."""
        try:
            return self.log.read_text(encoding="utf-8", errors="replace")[-STDERR_TAIL_CHARACTERS:].strip()
        except OSError:
            return ""


@dataclass(frozen=True)
class Contact:
    """What a new agent needs to know to join: where the coordinator is, its public key, and how things go here."""

    endpoint: str
    coordinator_key: str
    transport: str = "auto"
    checkpoint_every_s: float = 30.0


class Launcher(Protocol):
    """Starts agents. The process joins by itself."""

    def start(self, name: str, slot: Slot, key_file: Path, contact: Contact) -> AgentProcess:
        """A new agent with the key pair in ``key_file``.

        Raises:
            LaunchError: it could not be started.
        """
        ...


class LocalLauncher:
    """Starts agents as child processes in sessions of their own, so that Ctrl-C reaches the coordinator alone."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def start(self, name: str, slot: Slot, key_file: Path, contact: Contact) -> AgentProcess:
        log = self._folder.logs / f"{name}.log"
        command = [sys.executable, "-m", "agentkd", "agent", "--join", contact.endpoint]
        command += ["--coordinator-key", contact.coordinator_key]
        command += ["--key", str(key_file), "--device", slot.device, "--threads", str(slot.threads)]
        command += ["--run-folder", str(self._folder.place), "--parent", str(os.getpid())]
        command += ["--transport", contact.transport, "--checkpoint-every", str(contact.checkpoint_every_s)]
        command += ["--audit", str(self._folder.logs / f"{name}.audit.jsonl")]
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as stream:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    start_new_session=True,
                    env=_environment(slot),
                )
        except OSError as error:
            key_file.unlink(missing_ok=True)
            if error.filename == str(log):
                raise StorageError(log, error.strerror or str(error)) from error
            raise LaunchError(f"cannot start agent {name}: {error}", command=" ".join(command)) from error
        return AgentProcess(name, slot, process, log, key_file)


def end_all(processes: list[AgentProcess]) -> None:
    """Asks all to end, waits a moment, kills the rest. None is left when this returns."""
    for agent in processes:
        if agent.poll() is None:
            agent.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + END_TIMEOUT_S
    while any(agent.poll() is None for agent in processes) and time.monotonic() < deadline:
        time.sleep(0.02)
    for agent in processes:
        agent.kill()


def _environment(slot: Slot) -> dict[str, str]:
    """The parent's environment with threads pinned before any library reads it."""
    threads = str(slot.threads)
    return os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
