"""A community's agents and records, kept by a thread of this process. Other processes may hand in tasks as well."""

import contextlib
import json
import os

from agentkd.artifacts.recordings import RecordingReport
from agentkd.artifacts.run_folder import RunFolder
from agentkd.community.futures import failure
from agentkd.coordinator.clerk import Clerk
from agentkd.coordinator.crew import Crew
from agentkd.coordinator.desk import Order, desk_with_agents
from agentkd.coordinator.watching import Watcher
from agentkd.errors import ChannelClosedError, StorageError
from agentkd.exchange.keys import write_private
from agentkd.exchange.post import Delivery
from agentkd.launch.devices import Slot
from agentkd.launch.settings import LaunchConfig
from agentkd.messages.bodies import ErrorReply, SubmitReply, SubmitRequest, TaskProgressEvent
from agentkd.names import TaskKey
from agentkd.task import Status, TaskResult


class Host(Clerk[Crew]):
    """Has tasks done by agents that it starts, and records them; other processes may hand in tasks too."""

    def __init__(self, folder: RunFolder, slots: tuple[Slot, ...], launch: LaunchConfig, watcher: Watcher) -> None:
        self.num_learners = len(slots) or None
        desk = desk_with_agents(folder, slots, launch, watcher, is_forgiving=True, on_order=self._take_order)
        super().__init__(desk, watcher, lambda crew: _Invitation(folder, crew, self.num_learners), name="agentkd-community")

    @property
    def agents(self) -> Crew:
        """The agents."""
        return self.crew

    def recordings(self) -> RecordingReport:
        """What recorded lessons take, and what they saved."""
        return self.crew.recordings.report()

    def _take_order(self, crew: Crew, delivery: Delivery) -> None:
        """A task that a script hands in, on the I/O thread. It may come before ``start`` returns, and though that will fail."""
        request = delivery.message.body
        assert isinstance(request, SubmitRequest)
        self.submit([Order(request.task, request.label, _Script(crew, delivery, request.task.key))])


class _Script:
    """A script in another process that waits for a task. It is told what happens as long as it is there."""

    def __init__(self, crew: Crew, delivery: Delivery, key: TaskKey) -> None:
        self._crew, self._delivery, self._key = crew, delivery, key

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
            self._crew.tell(self._delivery.sender, body, parent_id=self._delivery.message.msg_id)


class _Invitation:
    """The file by which scripts in other processes find a community while it is there. Use as a context manager."""

    def __init__(self, folder: RunFolder, crew: Crew, num_learners: int | None) -> None:
        self._path, contact = folder.contact, crew.contact
        told = {"endpoints": contact.endpoints, "coordinator_key": contact.coordinator_key}
        self._text = json.dumps(told | {"num_learners": num_learners, "pid": os.getpid()}, indent=2)

    def __enter__(self) -> None:
        write_private(self._path, self._text + "\n", replace=True)

    def __exit__(self, *rest: object) -> None:
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError.of(self._path, error) from error
