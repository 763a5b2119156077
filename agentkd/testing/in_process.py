"""Who has a community's tasks done in this process: a thread that executes them one by one, and records them.

It takes the place of the coordinator and of all agents. What a task is, how it is executed and what is recorded is theirs.
"""

import logging
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import NoReturn

import torch

from agentkd.agents.feeding import DatasetFeed
from agentkd.agents.lessons import DirectLesson
from agentkd.agents.watching import Watcher
from agentkd.agents.work import Surroundings, TeachersLesson, execute
from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.provenance import provenance
from agentkd.artifacts.recordings import RecordingReport, Recordings
from agentkd.artifacts.run_folder import RunFolder, RunLock
from agentkd.community.futures import Lesson
from agentkd.errors import AgentKDError, ChannelClosedError, ConfigError, StorageError, TrainingError
from agentkd.messages.bodies import TaskProgressEvent
from agentkd.task import EpochResult, Task, TaskKind, TaskResult
from agentkd.testing.table import Outcome, SeatedLesson, Table
from agentkd.training.loop import Hooks

CPU = torch.device("cpu")
HERE = "this process"
CLOSED = "the community was closed before this was done; run the script again to go on"
Order = tuple[Task, str, Lesson]

log = logging.getLogger(__name__)


class InProcess:
    """Does tasks on a thread of its own. ``submit`` may be called from any thread; every future ends, whatever happens.

    Args:
        num_learners: how many students may teach each other.
    """

    def __init__(self, folder: RunFolder, num_learners: int, watcher: Watcher) -> None:
        self.num_learners: int | None = num_learners
        self._folder, self._watcher = folder, watcher
        self._orders: queue.SimpleQueue[Sequence[Order] | None] = queue.SimpleQueue()
        self._taken: Sequence[Order] = ()
        self._lock = threading.Lock()
        self._is_open, self._is_closing = False, False
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="agentkd-in-process", daemon=True)

    def start(self) -> None:
        """Takes the folder, and begins.

        Raises:
            AgentKDError: why it cannot.
        """
        self._thread.start()
        self._started.result()

    def close(self) -> None:
        """Stops at the next step; what is unfinished ends with an error."""
        self._is_closing = True
        self._orders.put(None)
        self._thread.join()

    @property
    def is_open(self) -> bool:
        """Whether tasks are taken."""
        return self._is_open

    @property
    def crew(self) -> NoReturn:
        """Not here.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("a community of one process has neither agents nor guests; agentkd.Community has")

    def recordings(self) -> RecordingReport:
        """Of nothing: lessons are not recorded here."""
        return Recordings(self._folder.store, max_bytes=0).report()

    def submit(self, orders: Sequence[Order]) -> None:
        """Has tasks (with labels) done; each future gets its result, or the error that ended it.

        Raises:
            ChannelClosedError: it is closed.
        """
        with self._lock:
            if not self._is_open:
                raise ChannelClosedError("the community is closed; use it inside its with-block")
            self._orders.put(orders)

    # On the thread.

    def _run(self) -> None:
        why: BaseException = ChannelClosedError(CLOSED)
        threads = torch.get_num_threads()
        try:
            with RunLock(self._folder), Journal(self._folder.journal) as journal:
                torch.set_num_threads(1)  # as an agent on a CPU has
                journal.begin_sitting(provenance())
                self._is_open = True
                self._started.set_result(None)
                while (orders := self._orders.get()) is not None:
                    self._taken = orders
                    self._do(orders, journal)
        except BaseException as error:  # whatever it is, somebody waits to be told
            log.debug("the community ends", exc_info=True)
            why = error
        finally:
            torch.set_num_threads(threads)
            self._end(why)

    def _end(self, why: BaseException) -> None:
        """Takes nothing any more, and tells everybody who still waits."""
        with self._lock:
            self._is_open = False
        if not self._started.done():
            self._started.set_exception(why)
        left = list(self._taken)
        while not self._orders.empty():
            left += self._orders.get() or ()
        for _, _, lesson in left:
            if not lesson.done():
                lesson.set_exception(why)

    def _do(self, orders: Sequence[Order], journal: Journal) -> None:
        failed: dict[str, TrainingError] = {}
        for task, label, lesson in orders:
            key = task.digest
            if key not in failed and journal.find(key) is None:
                outcomes = self._outcomes(task, orders)
                failed |= {key: one for key, one in outcomes.items() if isinstance(one, TrainingError)}
                self._commit(task, outcomes, orders, journal)
            result = journal.find(key)
            if result is not None:
                lesson.set_result(result)
            else:
                self._watcher.tell(f"{label} failed: {failed[key]}")
                lesson.set_exception(failed[key])

    def _outcomes(self, task: Task, orders: Sequence[Order]) -> dict[str, Outcome]:
        """What comes of a task and, if students teach each other in it, of theirs: by digest."""
        listening: dict[str, list[Lesson]] = {}
        for one, _, lesson in orders:
            listening.setdefault(one.digest, []).append(lesson)
        table = Table()

        def learn(task: Task) -> Outcome:
            return self._learn(task, table, listening.get(task.digest, []))

        with torch.random.fork_rng(devices=[]):  # the script's own random numbers are not ours to move
            cohort = {one.digest: one for one in _cohort(task)}
            return table.seat(cohort, learn) if len(cohort) > 1 else {task.digest: learn(task)}

    def _commit(self, task: Task, outcomes: dict[str, Outcome], orders: Sequence[Order], journal: Journal) -> None:
        labels = {one.digest: label for one, label, _ in orders}
        for one in _cohort(task):
            result, label = outcomes[one.digest], labels.get(one.digest, "")
            if isinstance(result, TaskResult):
                journal.commit(Record(one, result, HERE, 1, label))
                self._watcher.tell(f"{label} is {result.status}")

    def _learn(self, task: Task, table: Table, lessons: list[Lesson]) -> Outcome:
        """The task's result, or the error that a script is told where agents failed in the same way.

        Raises:
            StorageError: nothing can be written; no other task can be done either.
            ChannelClosedError: the community is being closed.
        """

        def lesson(task: Task, feed: DatasetFeed, steps: int) -> TeachersLesson:
            if task.kind is TaskKind.MUTUAL:
                return SeatedLesson(task, feed, table)
            return DirectLesson(task, feed, store=self._folder.store, device=CPU)

        at = Surroundings(self._folder.store, CPU, hooks=self._hooks(task.digest, lessons), lesson=lesson)
        try:
            return execute(task, at)
        except (StorageError, ChannelClosedError):
            raise
        except Exception as error:  # in the place of an agent, which answers whatever goes wrong with an error
            failed = TrainingError(f"{error.code if isinstance(error, AgentKDError) else 'internal'}: {error}")
            failed.__cause__ = error
            return failed

    def _hooks(self, key: str, lessons: list[Lesson]) -> Hooks:
        miou: float | None = None

        def on_step(step: int, steps: int, loss: float) -> None:
            if self._is_closing:
                raise ChannelClosedError(CLOSED)
            for lesson in lessons:
                lesson.note(TaskProgressEvent(task=key, epoch=1, step=step, steps=steps, loss=loss, miou=miou))

        def on_epoch(result: EpochResult) -> None:
            nonlocal miou
            miou = result.miou if result.miou is not None else miou

        return Hooks(on_step=on_step, on_epoch=on_epoch)


def _cohort(task: Task) -> tuple[Task, ...]:
    """The task, and those of the students that it is done together with."""
    return (task, *task.partner_tasks())
