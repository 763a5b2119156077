"""The engines ``command``, ``srun`` and ``ssh``: an agent is whatever a command starts, wherever that is.

The command is this process's child, and its standard input is a tether: the key comes first, and when nothing more can come, for
this process is gone or wants the agent to end, the agent ends in good order. So it does behind commands that do not pass on
signals (``ssh``), or that kill on the polite one (``srun``). A command that ends with 0 says nothing: ``srun`` does if a host was
lost while its agent lives on.
"""

import contextlib
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from agentkd.artifacts.run_folder import RunFolder
from agentkd.durable import make_folder
from agentkd.errors import ConfigError, LaunchError, StorageError, check_descriptors
from agentkd.exchange.keys import KeyPair
from agentkd.launch.devices import Slot
from agentkd.launch.launcher import ONE_CORE, Demand, end_all, environment, pinned, tail_of
from agentkd.launch.trimming import trim
from agentkd.names import AgentName


@dataclass
class Command:
    """A command that has started an agent, or is about to: see ``Started``."""

    name: AgentName
    log: Path
    process: "subprocess.Popen[bytes]"

    def poll(self) -> int | None:
        trim(str(self.log))
        return self.process.poll()

    def end(self) -> None:
        assert self.process.stdin
        with contextlib.suppress(OSError):  # nobody listens any more
            self.process.stdin.close()

    def kill(self) -> None:
        """Kills the command; the agent ends with it or with its standard input.

        No more is killed than the command: ``srun`` has a helper that ends the step when ``srun`` is gone.
        """
        self.end()
        self.process.kill()
        self.process.wait()

    def tail(self) -> str:
        return tail_of(self.log)


class CommandLauncher:
    """Starts agents by the words of ``options``, behind which the agent's own command is put.

    In the words ``{name}`` stands for the agent's name, ``{cpus}`` for its cores and ``{gpus}`` for its GPUs:
    ``docker run --rm -i --network=host --cpus={cpus} IMAGE``. The command must pass standard input on.

    Raises:
        ConfigError: there are no words, or the first is no command that is there.
    """

    def __init__(self, folder: RunFolder, demand: Demand = ONE_CORE) -> None:
        self._folder, self._demand = folder, demand
        self._started: list[Command] = []
        self._numbers = count()
        self._check()

    def start(self, name: AgentName, slot: Slot, arguments: Sequence[str], key: KeyPair) -> Command:
        self._started = [one for one in self._started if one.poll() is None]
        log = self._folder.logs / f"{name}.log"
        inner = ["env", *(f"{variable}={value}" for variable, value in self._environment(slot).items())]
        inner += [self._demand.python or sys.executable, "-P", "-m", "agentkd", *arguments, "--tethered"]
        words = [self._filled(word, name, slot) for word in self._prefix(next(self._numbers), slot)]
        command = [*words, *self._quoted(inner)]
        try:
            make_folder(log.parent)
            output = log.open("ab")
        except OSError as error:
            check_descriptors(log, error)
            raise StorageError.of(log, error) from error
        try:
            with output:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    env=environment(slot.threads),
                )
        except OSError as error:
            check_descriptors(f"what agent {name} needs", error)
            raise LaunchError(f"cannot start agent {name}: {error}", command=shlex.join(command)) from error
        started = Command(name, log, process)
        self._started.append(started)
        assert process.stdin
        with contextlib.suppress(BrokenPipeError):  # it has ended, which its exit code tells
            process.stdin.write(key.line().encode())
            process.stdin.flush()
        return started

    def close(self) -> None:
        end_all(self._started)
        self._started.clear()

    def _check(self) -> None:
        if not self._demand.options:
            raise ConfigError("launch.options: the engine command needs a command, in words: [docker, run, -i, IMAGE]")
        _must_be_there(self._demand.options[0])

    def _prefix(self, number: int, slot: Slot) -> list[str]:
        """What starts the agent with that number."""
        return list(self._demand.options)

    def _quoted(self, words: list[str]) -> list[str]:
        """The agent's own command as the other side takes it."""
        return words

    def _environment(self, slot: Slot) -> dict[str, str]:
        """Without GPUs it shall see none: libraries take what they see."""
        return pinned(slot.threads) | ({} if self._demand.gpus_per_agent else {"CUDA_VISIBLE_DEVICES": ""})

    def _filled(self, word: str, name: AgentName, slot: Slot) -> str:
        values = {"{name}": name, "{cpus}": str(slot.threads), "{gpus}": f"{self._demand.gpus_per_agent:g}"}
        for place, value in values.items():
            word = word.replace(place, value)
        return word


class SrunLauncher(CommandLauncher):
    """Starts agents as steps of a SLURM allocation, or as jobs of their own outside of one. ``options`` are more of ``srun``'s.

    Steps run beside each other only if each says exactly what it takes of cores, GPUs and memory; by default no memory. A later
    option goes before an earlier one, so that each of these can be said otherwise.
    """

    def _check(self) -> None:
        _must_be_there("srun")
        gpus = self._demand.gpus_per_agent
        if gpus != int(gpus):
            raise ConfigError(f"launch.gpus_per_agent: SLURM gives whole GPUs to an agent, not {gpus:g}")

    def _prefix(self, number: int, slot: Slot) -> list[str]:
        gpus = int(self._demand.gpus_per_agent)
        words = ["srun", "--exact", "--nodes=1", "--ntasks=1", "--mem=0", "--job-name={name}", f"--cpus-per-task={slot.threads}"]
        return [*words, *([f"--gpus={gpus}"] if gpus else []), *self._demand.options]


class SshLauncher(CommandLauncher):
    """Starts agents over ``ssh``: ``options`` are hosts, which take turns, and options of ``ssh``, a word each (``-p2222``)."""

    def _check(self) -> None:
        _must_be_there("ssh")
        if not self._hosts:
            raise ConfigError("launch.options: the engine ssh needs hosts, such as [ann@host1, host2]")

    @property
    def _hosts(self) -> list[str]:
        return [word for word in self._demand.options if not word.startswith("-")]

    def _prefix(self, number: int, slot: Slot) -> list[str]:
        options = [word for word in self._demand.options if word.startswith("-")]
        return ["ssh", "-T", "-oBatchMode=yes", *options, "--", self._hosts[number % len(self._hosts)]]

    def _quoted(self, words: list[str]) -> list[str]:
        return [shlex.join(words)]


def _must_be_there(command: str) -> None:
    if shutil.which(command) is None:
        raise ConfigError(f"launch.engine: there is no command {command!r} here; install it, or take another engine")
