"""The command queue of an I/O thread: other threads put commands in, the thread takes them out and can be roused."""

import os
import queue
import threading
from collections.abc import Callable

from agentkd.errors import ChannelClosedError, check_descriptors
from agentkd.shortage import start as start_thread

CLOSE_TIMEOUT_S = 10.0


class CommandLoop:
    """Commands for a thread that waits on ``wake_fd``, which is readable when there are some. ``call`` never blocks."""

    def __init__(self, run: Callable[[], None], name: str) -> None:
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._is_roused = self._is_closed = self._has_ended = False
        self._run = run
        try:
            self.wake_fd, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            check_descriptors("a channel", error)
            raise
        self._thread = threading.Thread(target=self._run_to_the_end, name=name, daemon=True)

    def start(self, fell: Callable[[], None] = lambda: None) -> None:
        """Starts the thread; if it ends with an error, ``fell`` is called on it."""
        self._fell = fell
        start_thread(self._thread)

    def call(self, command: Callable[[], None]) -> None:
        """Queues a command.

        Raises:
            ChannelClosedError: the loop is closed.
        """
        with self._lock:
            self._check()
            self._commands.put(command)
            if not self._is_roused:
                self._is_roused = True
                os.write(self._writer, b"\0")

    def check(self) -> None:
        """Says if commands are obeyed no longer.

        Raises:
            ChannelClosedError: the loop is closed, or its thread has ended with an error.
        """
        with self._lock:
            self._check()

    def _check(self) -> None:
        if self._is_closed:
            raise ChannelClosedError("the channel is closed")
        if self._has_ended:
            raise ChannelClosedError(f"the thread {self._thread.name} has ended with an error, which standard error tells")

    def _run_to_the_end(self) -> None:
        is_well = False
        try:
            self._run()
            is_well = True
        finally:
            with self._lock:
                self._has_ended = True
            if not is_well:
                self._fell()

    def obey(self) -> bool:
        """Executes what is queued; false once closed and done. On the loop's thread."""
        with self._lock:
            if self._is_roused:
                self._is_roused = False
                os.read(self.wake_fd, 16)
            goes_on = not self._is_closed
        while True:
            try:
                self._commands.get_nowait()()
            except queue.Empty:
                return goes_on

    def close(self) -> bool:
        """Asks the thread to end after what is queued, and waits for it; false if that was done before."""
        with self._lock:
            if self._is_closed:
                return False
            self._is_closed = True
            if not self._is_roused:
                self._is_roused = True
                os.write(self._writer, b"\0")
        if self._thread.is_alive():
            self._thread.join(CLOSE_TIMEOUT_S)
        os.close(self.wake_fd)
        os.close(self._writer)
        return True
