"""Agents as forks of one process that has imported all they need: ready in a tenth of a second, and most memory is shared.

A fork server is a Python process that is told its parent and modules: it imports these, starts no thread and reads commands
from its standard input, a socket. Nothing of the folder where it is started is on its path but what ``PYTHONPATH`` puts there:
a user's ``random.py`` or ``token.py`` is none of its business. Each command and each answer is one line of JSON:

    {"start": 1, "arguments": ["agent", ...], "log": "...", "said": "..."}
                                                               a fork goes on as ``python -m agentkd agent ...``, told that
    {"signal": 9, "to": 1}                                     for a fork that has not ended
    {"started": 1, "pid": 4711}                                answer
    {"ended": 1, "exit_code": -9}                              answer

It ends with its parent, or when the other end of the socket is closed, and its forks end with it.
"""

import contextlib
import errno
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

from setproctitle import setproctitle

from agentkd.errors import ThreadsError
from agentkd.launch.parent import die_with_parent
from agentkd.launch.trimming import trim

REAP_EVERY_S = 0.05
TELL_TIMEOUT_S = 20.0
START_WITHIN_S = 60.0
ROOT = Path(__file__).parents[2]  # last on the path: where this package is found if it is not installed
SERVE = "import sys; sys.path.append({root!r}); from agentkd.launch.fork_server import main; main()"


class Lines:
    """Objects as lines of JSON over a stream socket."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream, self._rest = stream, b""

    def send(self, **fields: Any) -> None:
        """Sends one object; nothing if the other end is gone, which ``receive`` will tell."""
        with contextlib.suppress(ConnectionError):
            self._stream.settimeout(None)
            self._stream.sendall(json.dumps(fields).encode() + b"\n")

    def receive(self, timeout_s: float | None) -> list[dict[str, Any]] | None:
        """What has come within the time; ``None`` if the other end is gone."""
        self._stream.settimeout(timeout_s)
        try:
            data = self._stream.recv(1 << 16)
        except (BlockingIOError, TimeoutError):
            return []
        except ConnectionError:
            data = b""
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]


class ForkServer:
    """The launcher's side of a fork server. For one thread.

    Args:
        modules: what is imported before anything is forked.
        environment: of the server and all its forks.
        log: file for what the server writes to standard error.

    Raises:
        OSError: it could not be started.
    """

    def __init__(self, modules: tuple[str, ...], environment: dict[str, str], log: Path) -> None:
        self.log, self._is_alive = log, True
        self._pids: dict[int, int] = {}
        self._asked_at: dict[int, float] = {}
        self._exit_codes: dict[int, int] = {}
        self._numbers = count(1)
        self._stream, theirs = socket.socketpair()
        self._lines = Lines(self._stream)
        with theirs, log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", SERVE.format(root=str(ROOT)), str(os.getpid()), *modules],
                stdin=theirs.fileno(),
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=environment,
            )

    @property
    def is_alive(self) -> bool:
        """Whether it can fork."""
        self._catch_up()
        return self._is_alive

    @property
    def own_pid(self) -> int:
        """The operating system's number of the server: the parent of its forks."""
        return self._process.pid

    def start(self, arguments: list[str], log: Path, *, said: str = "") -> int:
        """Has ``python -m agentkd ARGUMENTS`` go on in a fork that writes to ``log``. Returns its number here, at once.

        Its standard input says what is ``said``, 64 KiB at most, and ends.
        """
        number = next(self._numbers)
        self._asked_at[number] = time.monotonic()
        self._lines.send(start=number, arguments=arguments, log=str(log), said=said)
        return number

    def pid(self, number: int) -> int:
        """The operating system's number of a fork; 0 while there is none."""
        self._catch_up()
        return self._pids.get(number, 0)

    def poll(self, number: int) -> int | None:
        """Exit code of a fork (negative: signal), or ``None`` while it runs or is yet to run."""
        if not self.is_alive:  # its forks died with it
            return self._exit_codes.setdefault(number, self._process.wait())
        return self._exit_codes.get(number)

    def send_signal(self, number: int, what: signal.Signals) -> None:
        """Sends a signal to a fork that has not ended. One that is yet to be forked counts as ended by it.

        A server that has not forked one within ``START_WITHIN_S`` forks nothing any more (it was stopped): it is ended.
        """
        if self.poll(number) is not None:
            return
        if number in self._pids:
            self._lines.send(signal=int(what), to=number)
            return
        self._exit_codes[number] = -what
        if time.monotonic() - self._asked_at[number] > START_WITHIN_S:
            self._process.kill()
            self._process.wait()
        else:
            self._lines.send(signal=int(what), to=number)

    def wait(self, number: int) -> None:
        """Waits for the end of a fork that was killed. A server that does not tell it in time is stuck: it is ended."""
        deadline = time.monotonic() + TELL_TIMEOUT_S
        while self.poll(number) is None:
            if time.monotonic() > deadline:
                self._process.kill()
            self._catch_up(REAP_EVERY_S)

    def close(self) -> None:
        """Ends the server, and with it what it has forked."""
        self._process.kill()
        self._process.wait()
        self._catch_up()
        self._stream.close()

    def _catch_up(self, timeout_s: float = 0.0) -> None:
        while self._is_alive:
            answers = self._lines.receive(timeout_s)
            if answers is None:
                self._is_alive = False
            elif not answers:
                return
            for answer in answers or ():
                if "started" in answer:
                    self._asked_at.pop(answer["started"], None)
                    self._pids[answer["started"]] = answer["pid"]
                else:
                    self._exit_codes.setdefault(answer["ended"], answer["exit_code"])


class _Forks:
    """The server's side."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream, self._lines = stream, Lines(stream)
        self._numbers: dict[int, int] = {}
        self._logs: dict[int, str] = {}

    def serve(self) -> list[str] | None:
        """Forks as it is told. Returns twice or more: in a fork with its arguments, and in the server ``None`` at the end."""
        while True:
            commands = self._lines.receive(REAP_EVERY_S if self._numbers else None)
            if commands is None:
                return None
            for command in commands:
                if "start" not in command:
                    self._signal(command["to"], command["signal"])
                elif self._fork(command["start"], command["log"], command["said"]):
                    return list(command["arguments"])
            for log in self._logs.values():
                trim(log)
            self._reap()

    def _fork(self, number: int, log: str, said: str) -> bool:
        """Whether this is the fork."""
        try:
            pid = os.fork()
        except OSError as error:
            print(f"cannot fork: {error}", file=sys.stderr, flush=True)  # noqa: T201
            is_short = error.errno == errno.EAGAIN
            self._lines.send(ended=number, exit_code=ThreadsError.exit_code if is_short else os.EX_OSERR)
            return False
        if pid:
            self._numbers[pid], self._logs[pid] = number, log
            self._lines.send(started=number, pid=pid)
            return False
        os.setsid()
        self._stream.detach()
        heard, saying = os.pipe()
        output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(saying, said.encode())  # a pipe takes it at once
        for source, target in ((heard, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        for done in (heard, saying, output):
            os.close(done)
        return True

    def _signal(self, number: int, what: int) -> None:
        """A fork that has ended is not reaped before it is known here to have ended, so its process number is still its own."""
        for pid, known in self._numbers.items():
            if known == number:
                os.kill(pid, what)

    def _reap(self) -> None:
        while self._numbers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            trim(self._logs.pop(pid))
            self._lines.send(ended=self._numbers.pop(pid), exit_code=os.waitstatus_to_exitcode(status))


def main() -> None:
    """The server; and in each of its forks, what that was forked for."""
    parent, *modules = sys.argv[1:]
    die_with_parent(int(parent))
    for module in modules:
        importlib.import_module(module)
    gc.freeze()
    arguments = _Forks(socket.socket(fileno=sys.stdin.fileno())).serve()
    if arguments is not None:
        sys.argv = ["agentkd", *arguments]
        title = f"{sys.executable} -m {' '.join(sys.argv)}"
        setproctitle(title.encode(errors="replace").decode())  # a name in it may be in another encoding
        runpy.run_module("agentkd", run_name="__main__", alter_sys=True)
