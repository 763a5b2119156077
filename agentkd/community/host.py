"""A community's agents and records, kept by a thread of this process. Other processes may hand in tasks as well."""

import contextlib
import json
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future

from agentkd.artifacts.recordings import RecordingReport
from agentkd.artifacts.run_folder import RunFolder
from agentkd.community.futures import failure
from agentkd.coordinator.crew import Crew
from agentkd.coordinator.desk import Desk, Done, Order
from agentkd.coordinator.watching import Watcher
from agentkd.errors import ChannelClosedError, StorageError
from agentkd.exchange.keys import write_private
from agentkd.exchange.post import Delivery
from agentkd.launch.devices import Slot
from agentkd.launch.settings import LaunchConfig
from agentkd.messages.bodies import ErrorReply, SubmitReply, SubmitRequest, TaskProgressEvent
from agentkd.task import Status, TaskResult

CLOSE_TIMEOUT_S = 60.0


class Host:
    """Has tasks done by agents that it starts, and records them. ``submit`` may be called from any thread."""

    def __init__(self, folder: RunFolder, slots: tuple[Slot, ...], launch: LaunchConfig, watcher: Watcher) -> None:
        self._folder, self._slots, self._watcher = folder, slots, watcher
        self._desk = Desk(folder, slots, launch, watcher, is_forgiving=True, on_order=self._take_order)
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
        self._desk.close()
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
        """Has tasks done together; whoever waits for one is told what comes of it."""
        self._desk.submit(orders)

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
        self._desk.submit([Order(request.task, request.label, _Script(self, delivery, request.task.digest))])

    # On the host's thread.

    def _run(self) -> None:
        try:
            with self._desk as desk, _Invitation(self._folder, desk.crew):
                self._started.set_result(desk.crew)
                while not desk.is_closing:
                    for done in desk.turn():
                        if done.is_new:
                            self._watcher.tell(_describe(done))
        except BaseException as error:  # whatever it was: a supervisor tells it to who waits for this thread
            if not self._started.done():
                self._started.set_exception(error)
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)


class _Script:
    """A script in another process that waits for a task. It is told what happens as long as it is there."""

    def __init__(self, host: Host, delivery: Delivery, key: str) -> None:
        self._host, self._delivery, self._key = host, delivery, key

    def note(self, event: TaskProgressEvent) -> None:
        """How far it is."""
        self._tell(event)

    def settle(self, result: TaskResult) -> None:
        """It is done, or failed."""
        if result.status is Status.FAILED:
            self.fail(failure(result))
        else:
            self._tell(SubmitReply(task=self._key, result=result))

    def fail(self, error: BaseException) -> None:
        """Nobody will do it."""
        self._tell(ErrorReply.of(error))

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


def _describe(done: Done) -> str:
    failed = done.result.status is Status.FAILED
    return f"{done.label} failed: {failure(done.result)}" if failed else f"{done.label} is {done.result.status}"
