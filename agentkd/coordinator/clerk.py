"""A thread that sits at a desk, for processes whose own threads have other things to do."""

import logging
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Generic

from agentkd.coordinator.desk import Crewed, Desk, Order
from agentkd.coordinator.watching import Watcher
from agentkd.errors import ConfigError
from agentkd.shortage import start
from agentkd.task import Status, TaskResult

CLOSE_TIMEOUT_S = 60.0

log = logging.getLogger(__name__)


class Clerk(Generic[Crewed]):
    """Turns a desk until it is closed, or ends with an error. Its methods may be called from any thread.

    Args:
        watcher: who is told what was done.
        around: what lasts as long as the crew is there. Entered on the thread.
    """

    def __init__(
        self, desk: Desk[Crewed], watcher: Watcher, around: Callable[[Crewed], AbstractContextManager[None]], *, name: str
    ) -> None:
        self._desk, self._watcher, self._around = desk, watcher, around
        self._started: Future[Crewed] = Future()
        self._ended: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Takes the folder, and begins.

        Raises:
            ConfigError: it has begun already; a clerk does so once.
            AgentKDError: why it cannot.
        """
        if self._thread.ident is not None:
            raise ConfigError("a community is entered once; make another one, which goes on from the records of this one")
        start(self._thread)
        self._started.result()

    def close(self) -> None:
        """Ends; whoever waits for what is unfinished is told so."""
        self._desk.close()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_TIMEOUT_S)
            if self._thread.is_alive():
                log.error("%s has not ended within %.0f s; it is left to itself", self._thread.name, CLOSE_TIMEOUT_S)

    @property
    def is_open(self) -> bool:
        """Whether orders are taken."""
        return self._thread.is_alive()

    @property
    def crew(self) -> Crewed:
        """Who does the tasks. Waits until they are there."""
        return self._started.result()

    def submit(self, orders: Iterable[Order]) -> None:
        """Has tasks done together; whoever waits for one is told what comes of it."""
        self._desk.submit(orders)

    def wait(self) -> None:
        """Until somebody closes it, or it fails.

        Raises:
            AgentKDError: what ended it.
        """
        self._ended.result()

    def _run(self) -> None:
        try:
            with self._desk as desk, self._around(desk.crew):
                self._started.set_result(desk.crew)
                while not desk.is_closing:
                    for done in desk.turn():
                        if done.is_new:
                            self._watcher.tell(f"{done.label} {_outcome(done.result)}")
        except BaseException as error:  # whatever it was: a supervisor tells it to who waits for this thread
            if not self._started.done():
                self._started.set_exception(error)
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)


def _outcome(result: TaskResult) -> str:
    failed = result.status is Status.FAILED
    return f"failed: {result.error_code}: {result.error_text}" if failed else f"is {result.status}"
