"""Tasks done in this process: in the place of a crew's agents a thread, which executes them one by one.

What a task is, how it is executed, recorded and told is as ever.
"""

import logging
import queue
import threading
from collections.abc import Iterable
from contextlib import nullcontext
from typing import NoReturn, Self

import torch

from agentkd.agents.blaming import blame
from agentkd.agents.feeding import DatasetFeed
from agentkd.agents.lessons import DirectLesson
from agentkd.agents.work import Surroundings, TaskTeaching, execute
from agentkd.artifacts.recordings import RecordingReport, Recordings
from agentkd.artifacts.run_folder import RunFolder
from agentkd.coordinator.clerk import Clerk
from agentkd.coordinator.desk import Desk
from agentkd.coordinator.underway import Finished
from agentkd.coordinator.watching import Activity, Watcher
from agentkd.errors import ConfigError, StorageError, TaskCancelledError
from agentkd.messages.bodies import ErrorReply, TaskProgressEvent
from agentkd.names import AgentName, TaskKey
from agentkd.task import EpochResult, Mutual, Status, Task, TaskResult, Taught
from agentkd.testing.table import SeatedTeaching, Table
from agentkd.training.loop import Hooks

CPU = torch.device("cpu")
HERE = AgentName("this process")
POLL_S = 0.1

log = logging.getLogger(__name__)


class Soloist:
    """Does what a desk wants on a thread of its own. Where agents would fail so does it; a full disk ends the desk."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._known: set[TaskKey] = set()
        self._asked: set[TaskKey] = set()
        self._wanted: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._finished: queue.SimpleQueue[dict[TaskKey, TaskResult] | BaseException | None] = queue.SimpleQueue()
        self._progress: dict[TaskKey, TaskProgressEvent] = {}
        self._is_closing = False
        self._thread = threading.Thread(target=self._work, name="agentkd-in-process", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Stops at the next step."""
        self._is_closing = True
        self._wanted.put(None)
        self._thread.join()

    def want(self, tasks: Iterable[tuple[TaskKey, Task, str]]) -> None:
        """Adds tasks (key, task, label) to be done; students who teach each other are done with the first of them."""
        for key, task, _ in tasks:
            self._asked.add(key)
            if key not in self._known:
                self._known |= {key, *(partner.key for partner in task.partner_tasks())}
                self._wanted.put(task)

    def note(self, task: Task, result: TaskResult) -> None:
        """Lessons are not recorded here."""

    def turn(self) -> list[Finished]:
        """Waits a moment, and returns what was finished since.

        Raises:
            StorageError: nothing can be written.
        """
        try:
            found = self._finished.get(timeout=POLL_S)
        except queue.Empty:
            return []
        if isinstance(found, BaseException):
            raise found
        results = found or {}
        asked = [key for key in results if key in self._asked]  # a partner may be recorded, or wanted later
        self._known -= results.keys()
        self._asked -= results.keys()
        return [Finished(key, results[key], HERE, 1, ()) for key in asked]

    def progress(self, key: TaskKey) -> TaskProgressEvent | None:
        """The newest of a task under way."""
        return self._progress.get(key)

    def activities(self) -> tuple[Activity, ...]:
        """Nobody shows what this thread does."""
        return ()

    def rouse(self) -> None:
        """Has ``turn`` return at once."""
        self._finished.put(None)

    # On the thread.

    def _work(self) -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as an agent on a CPU has
        try:
            while (task := self._wanted.get()) is not None and not self._is_closing:
                self._finished.put(self._do(task))
        except BaseException as error:  # whatever it was: the desk raises it, and everybody who waits is told
            self._finished.put(error)
        finally:
            torch.set_num_threads(threads)

    def _do(self, task: Task) -> dict[TaskKey, TaskResult]:
        """What comes of a task and, if students teach each other in it, of theirs: by key."""
        table = Table()
        with torch.random.fork_rng(devices=[]):  # the script's own random numbers are not ours to move
            cohort = {one.key: one for one in (task, *task.partner_tasks())}
            if len(cohort) > 1:
                return table.seat(cohort, lambda one: self._learn(one, table))
            return {task.key: self._learn(task, table)}

    def _learn(self, task: Task, table: Table) -> TaskResult:
        """The task's result, or how it failed.

        Raises:
            StorageError: nothing can be written; no other task can be done either.
            TaskCancelledError: the community is being closed.
        """

        def teaching(task: Taught, feed: DatasetFeed, steps: int) -> TaskTeaching:
            if isinstance(task, Mutual):
                return SeatedTeaching(task, feed, table)
            return DirectLesson(task, feed, store=self._folder.store, device=CPU)

        at = Surroundings(self._folder.store, CPU, hooks=self._hooks(task.key), lesson=teaching)
        try:
            return execute(task, at)
        except (StorageError, TaskCancelledError):
            raise
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # in the place of an agent, which answers whatever goes wrong with an error
            log.error("%s failed", task.kind, exc_info=True)  # a test that fails shows where in one's own code
            told = ErrorReply.of(error, text=blame(error, task))
            return TaskResult(status=Status.FAILED, error_code=told.code, error_text=told.text)

    def _hooks(self, key: TaskKey) -> Hooks:
        last: EpochResult | None = None

        def on_step(step: int, steps: int, loss: float) -> None:
            if self._is_closing:
                raise TaskCancelledError(key)
            miou, accuracy = (last.miou, last.accuracy) if last else (None, None)
            self._progress[key] = TaskProgressEvent(
                task=key, attempt=1, step=step, steps=steps, loss=loss, miou=miou, accuracy=accuracy
            )

        def on_epoch(result: EpochResult) -> None:
            nonlocal last
            last = result if result.miou is not None else last

        return Hooks(on_step=on_step, on_epoch=on_epoch)


class InProcess(Clerk[Soloist]):
    """Who has a community's tasks done in this process."""

    def __init__(self, folder: RunFolder, num_learners: int, watcher: Watcher) -> None:
        self.num_learners: int | None = num_learners
        self._store = folder.store
        desk = Desk(folder, lambda: Soloist(folder))
        super().__init__(desk, watcher, lambda crew: nullcontext(), name="agentkd-community")

    @property
    def agents(self) -> NoReturn:
        """Not here.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("a community of one process has neither agents nor guests; agentkd.Community has")

    def recordings(self) -> RecordingReport:
        """Of nothing: lessons are not recorded here."""
        return Recordings(self._store, max_bytes=0).report()
