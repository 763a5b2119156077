"""Data that arrive begin a cycle of education: one after the other, whoever brings them, as long as somebody is there."""

import logging
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from agentkd.community.education import Educated, education_cycle
from agentkd.community.rules import Decision
from agentkd.community.works import Data
from agentkd.datasets.description import DESCRIPTION
from agentkd.errors import AgentKDError, ChannelClosedError, ConfigError, must_be
from agentkd.shortage import start

LOOK_EVERY_S = 1.0
ENDED = "nobody learns here any more: use it inside its with-block"

log = logging.getLogger(__name__)
Cycle = dict[str, Decision]
Signature = tuple[tuple[str, int, int], ...]


class Education:
    """Agents that educate each other whenever data arrive. Use as a context manager, within that of their community.

    Cycles are gone through one after the other on a thread of its own; meanwhile nobody else may use the agents. When the block
    ends, the cycle under way is finished, and what waits is told that nothing comes of it.

    Args:
        agents: the community.
        inbox: a folder; each dataset in the folder layout that is put into it, and does not change any more, arrives. What is
            there already arrives too.
        recipe: fields of ``Recipe`` for those who learn.

    Example::

        with agentkd.Community(...) as community, Education([ann, bob], inbox="new", epochs=10) as education:
            print(education.arrive("generated:seed=9,light=dusk").result()["ann"].role)
    """

    def __init__(self, agents: Sequence[Educated], *, inbox: str | Path = "", **recipe: Any) -> None:
        self._agents, self._recipe = [*agents], recipe
        for agent in self._agents:
            must_be(agent, Educated, "an agent", "an agentkd.Educated")
        if inbox and not Path(inbox).is_dir():
            raise ConfigError(f"the inbox {inbox} is no folder; make it first: mkdir -p {inbox}")
        self._inbox = Path(inbox) if inbox else None
        self._waiting: queue.Queue[tuple[Data, Future[Cycle]]] = queue.Queue()
        self._seen: dict[Path, Signature] = {}
        self._arrived: set[Path] = set()
        self._lock = threading.Lock()
        self._is_open, self._ended = False, threading.Event()
        self._thread = threading.Thread(target=self._run, name="agentkd-education", daemon=True)
        self.cycles: list[tuple[Data, Future[Cycle]]] = []

    def __enter__(self) -> Self:
        self._is_open = True
        start(self._thread)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self._is_open = False
        self._ended.set()
        self._thread.join()
        while not self._waiting.empty():
            self._waiting.get()[1].set_exception(ChannelClosedError(ENDED))

    def arrive(self, data: Data) -> "Future[Cycle]":
        """Data arrive at every agent. Returns at once; the future has what each decided, or what ended the cycle.

        ``cycles`` has all that arrived, in their order, from the inbox too. From any thread.

        Raises:
            ChannelClosedError: the block has ended, or has not begun.
        """
        told: Future[Cycle] = Future()
        told.set_running_or_notify_cancel()
        with self._lock:
            if not self._is_open:
                raise ChannelClosedError(ENDED)
            self.cycles.append((data, told))
            self._waiting.put((data, told))
        return told

    def _run(self) -> None:
        while not self._ended.is_set():
            self._look()
            try:
                data, told = self._waiting.get(timeout=LOOK_EVERY_S)
            except queue.Empty:
                continue
            try:
                told.set_result(education_cycle(self._agents, data, **self._recipe))
            except BaseException as error:  # whatever it was: who brought the data is told, and the next ones may do
                log.error("the cycle of %s ended: %s", data, error)
                told.set_exception(error)

    def _look(self) -> None:
        """What has come into the inbox, and has been the same twice."""
        if self._inbox is None:
            return
        try:
            found = sorted(path.parent for path in self._inbox.glob(f"*/{DESCRIPTION}"))
            for folder in found:
                signature = _signature(folder)
                if folder not in self._arrived and self._seen.get(folder) == signature:
                    self._arrived.add(folder)
                    self.arrive(f"folder:path={folder.resolve()}")
                self._seen[folder] = signature
        except OSError as error:  # it is being written; or is gone, and may come back
            log.warning("the inbox %s cannot be looked at now: %s", self._inbox, error)
        except AgentKDError:
            log.info("data came when nobody learned any more")


def _signature(folder: Path) -> Signature:
    """What changes while somebody writes there."""
    found = ((path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file())
    return tuple((str(path), status.st_size, status.st_mtime_ns) for path, status in found)
