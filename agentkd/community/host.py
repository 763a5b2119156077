"""A community's agents and records, kept by a thread of this process. Other processes may hand in tasks as well."""

import contextlib
import json
import os
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future

from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.provenance import provenance
from agentkd.artifacts.recordings import RecordingReport
from agentkd.artifacts.run_folder import RunFolder, RunLock
from agentkd.community.futures import Lesson
from agentkd.config import LaunchConfig
from agentkd.coordinator.crew import Crew
from agentkd.coordinator.watching import Watcher
from agentkd.errors import AgentKDError, ChannelClosedError, StorageError, TrainingError
from agentkd.exchange.keys import write_private
from agentkd.exchange.post import Delivery
from agentkd.launch.devices import Slot
from agentkd.messages.bodies import ErrorReply, SubmitReply, SubmitRequest, TaskProgressEvent
from agentkd.task import Status, Task

IDLE_WAIT_S = 0.2
CLOSE_TIMEOUT_S = 60.0
MAX_ERROR_TEXT = 10_000

Order = tuple[Task, str, Lesson]


class Host:
    """Has tasks done by agents that it starts, and records them. ``submit`` may be called from any thread."""

    def __init__(self, folder: RunFolder, slots: tuple[Slot, ...], launch: LaunchConfig, watcher: Watcher) -> None:
        self._folder, self._slots, self._launch, self._watcher = folder, slots, launch, watcher
        self._submitted: queue.Queue[Sequence[Order] | None] = queue.Queue()
        self._waiting: dict[str, list[Lesson]] = {}
        self._tasks: dict[str, tuple[Task, str]] = {}
        self._started: Future[Crew] = Future()
        self._ended: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="agentkd-community", daemon=True)

    def start(self) -> None:
        """Takes the folder, and begins.

        Raises:
            AgentKDError: why it cannot.
        """
        self._thread.start()
        self._started.result()

    def close(self) -> None:
        """Ends all agents; what is unfinished ends with an error."""
        self._submitted.put(None)
        self._thread.join(CLOSE_TIMEOUT_S)

    @property
    def is_open(self) -> bool:
        """Whether tasks are taken."""
        return self._thread.is_alive()

    @property
    def num_learners(self) -> int | None:
        """How many agents can learn at once; ``None`` if that is up to guests."""
        return len(self._slots) or None

    @property
    def crew(self) -> Crew:
        """The agents."""
        return self._started.result()

    def recordings(self) -> RecordingReport:
        """What recorded lessons take, and what they saved."""
        return self.crew.recordings.report()

    def submit(self, orders: Sequence[Order]) -> None:
        """Has tasks (with labels) done together; each future gets its result, or the error that ended it."""
        self._submitted.put(orders)

    def wait(self) -> None:
        """Until somebody closes it, or it fails.

        Raises:
            AgentKDError: what ended it.
        """
        self._ended.result()

    # On the I/O thread.

    def _take_order(self, delivery: Delivery) -> None:
        request = delivery.message.body
        assert isinstance(request, SubmitRequest)
        self._submitted.put([(request.task, request.label, _Ordered(self, delivery, request.task.digest))])

    # On the host's thread.

    def _run(self) -> None:
        try:
            with (
                RunLock(self._folder),
                Journal(self._folder.journal) as journal,
                Crew(
                    self._folder, self._slots, self._launch, self._watcher, is_forgiving=True, on_order=self._take_order
                ) as crew,
                _Invitation(self._folder, crew),
            ):
                journal.begin_sitting(provenance())
                for record in journal.records():
                    crew.note(record.task, record.result)
                self._started.set_result(crew)
                try:
                    self._work(journal, crew)
                    text = "the community was closed before this was done; run the script again to go on"
                    self._end_all(ChannelClosedError(text))
                except AgentKDError as error:
                    self._end_all(error)
                    raise
        except AgentKDError as error:
            if not self._started.done():
                self._started.set_exception(error)
            self._ended.set_exception(error)
        finally:
            if not self._ended.done():
                self._ended.set_result(None)

    def _end_all(self, error: AgentKDError) -> None:
        for lesson in (lesson for lessons in self._waiting.values() for lesson in lessons):
            lesson.set_exception(error)
        self._waiting.clear()

    def _work(self, journal: Journal, crew: Crew) -> None:
        told: dict[str, TaskProgressEvent] = {}
        while True:
            with contextlib.suppress(queue.Empty):
                orders = self._submitted.get(timeout=0 if self._waiting else IDLE_WAIT_S)
                if orders is None:
                    return
                crew.want([wanted for order in orders if (wanted := self._take(order, journal))])
            finished_now = crew.turn()
            for key, lessons in self._waiting.items():
                event = crew.progress(key)
                if event is not None and event != told.get(key):
                    told[key] = event
                    for lesson in lessons:
                        lesson.note(event)
            for finished in finished_now:
                (task, label), futures = self._tasks[finished.key], self._waiting.pop(finished.key, [])
                if finished.result.status is Status.FAILED:
                    error = TrainingError(f"{finished.result.error_code}: {finished.result.error_text}")
                    self._watcher.tell(f"{label} failed: {error}")
                    for future in futures:
                        future.set_exception(error)
                    continue
                journal.commit(Record(task, finished.result, finished.agent, finished.attempts, label, finished.teachers))
                crew.note(task, finished.result)
                self._folder.clear(finished.key)
                self._watcher.tell(f"{label} is {finished.result.status}")
                for future in futures:
                    future.set_result(finished.result)

    def _take(self, order: Order, journal: Journal) -> tuple[str, Task, str] | None:
        """The task as the crew wants it; ``None`` if it is answered from the records."""
        task, label, future = order
        key = task.digest
        known = journal.find(key)
        if known is not None:
            future.set_result(known)
            return None
        self._tasks[key] = task, label
        self._waiting.setdefault(key, []).append(future)
        return key, task, label


class _Ordered(Lesson):
    """A task for a script in another process, which is told what happens to it as long as it is there."""

    def __init__(self, host: Host, delivery: Delivery, key: str) -> None:
        super().__init__()
        self._host, self._delivery, self._key = host, delivery, key
        self.add_done_callback(lambda done: self._answer())

    def note(self, event: TaskProgressEvent) -> None:
        self._tell(event)

    def _answer(self) -> None:
        error = self.exception()
        if error is None:
            self._tell(SubmitReply(task=self._key, result=self.result()))
            return
        code = error.code if isinstance(error, AgentKDError) else "internal"
        self._tell(ErrorReply(code=code, remote_type=type(error).__name__, text=str(error)[:MAX_ERROR_TEXT]))

    def _tell(self, body: TaskProgressEvent | SubmitReply | ErrorReply) -> None:
        with contextlib.suppress(ChannelClosedError):
            self._host.crew.tell(self._delivery.sender, body, parent_id=self._delivery.message.msg_id)


class _Invitation:
    """The file by which scripts in other processes find a community while it is there. Use as a context manager."""

    def __init__(self, folder: RunFolder, crew: Crew) -> None:
        self._path, contact = folder.contact, crew.contact
        self._text = json.dumps(
            {"endpoint": contact.endpoint, "coordinator_key": contact.coordinator_key, "pid": os.getpid()}, indent=2
        )

    def __enter__(self) -> None:
        write_private(self._path, self._text + "\n", replace=True)

    def __exit__(self, *rest: object) -> None:
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(self._path, error.strerror or str(error)) from error
