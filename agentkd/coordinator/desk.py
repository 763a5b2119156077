"""The desk of a run: orders come in, agents do them, results are recorded, and whoever waits is told. The only such loop.

Experiments, communities and replays differ in what they order and in what they make of a failure. Everything else is here: the
run folder is locked, a recorded task is answered from the record, agents are started when there is something to do, a result is
committed before anybody hears of it, and whatever ends the desk, everybody who waits is told why.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.own_code import keep_code
from agentkd.artifacts.provenance import provenance
from agentkd.artifacts.run_folder import RunFolder, RunLock
from agentkd.coordinator.crew import Crew
from agentkd.coordinator.underway import Finished
from agentkd.coordinator.watching import Activity, Watcher
from agentkd.datasets.shared import look_in
from agentkd.errors import ChannelClosedError
from agentkd.exchange import socket_files
from agentkd.exchange.post import Delivery
from agentkd.launch.devices import Slot
from agentkd.launch.engines import find_engine
from agentkd.launch.settings import LaunchConfig
from agentkd.messages.bodies import TaskProgressEvent
from agentkd.names import TaskKey
from agentkd.task import Status, Task, TaskResult

CLOSED = "the community was closed before this was done; run the script again to go on"


class Waiting(Protocol):
    """Whoever waits for a task. Called on the desk's thread; must not block."""

    def note(self, event: TaskProgressEvent) -> None:
        """How far it is."""
        ...

    def settle(self, result: TaskResult) -> None:
        """It is done, or failed. Called once, unless ``fail`` is."""
        ...

    def fail(self, error: BaseException) -> None:
        """Nobody will do it. Called once, unless ``settle`` is."""
        ...


class Hands(Protocol):
    """Who does tasks for a desk. Use as a context manager: when it is left, nothing goes on. ``Crew`` is the one with agents."""

    def __enter__(self) -> Self: ...
    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None: ...

    def want(self, tasks: Iterable[tuple[TaskKey, Task, str]]) -> None:
        """Adds tasks (key, task, label) to be done; those known already are left as they are."""
        ...

    def note(self, task: Task, result: TaskResult) -> None:
        """A result that is committed, now or in an earlier session."""
        ...

    def turn(self) -> list[Finished]:
        """Waits a moment for news, and returns what was finished since.

        Raises:
            AgentKDError: why the work cannot go on.
        """
        ...

    def progress(self, key: TaskKey) -> TaskProgressEvent | None:
        """The newest that is known of a task under way."""
        ...

    def activities(self) -> tuple[Activity, ...]:
        """What everybody is doing."""
        ...

    def rouse(self) -> None:
        """Has ``turn`` return at once. From any thread."""
        ...


@dataclass(frozen=True)
class Order:
    """A task that somebody wants done.

    Args:
        label: what it is for, for people.
        waiting: who is told; ``None`` if what ``turn`` returns is enough.
        keeps_failure: whether a failure is a result that is recorded like any other.
    """

    task: Task
    label: str
    waiting: Waiting | None = None
    keeps_failure: bool = False


@dataclass(frozen=True)
class Done:
    """A task that is done, or failed; now, or before if it was recorded."""

    task: Task
    label: str
    result: TaskResult
    attempts: int
    is_new: bool = True


@dataclass
class _Open:
    order: Order
    waiting: list[Waiting]
    told: TaskProgressEvent | None = None


Crewed = TypeVar("Crewed", bound=Hands)


class Desk(Generic[Crewed]):
    """Has tasks done and recorded, each once. Use as a context manager: it holds the folder, and no agent outlives it.

    One thread enters it, calls ``turn`` and leaves it; ``submit`` and ``close`` may be called from any.

    Args:
        folder: where everything of the run lies.
        make_crew: makes who does the tasks, as soon as there is one.
    """

    def __init__(self, folder: RunFolder, make_crew: Callable[[], Crewed]) -> None:
        self.folder, self._make_crew = folder, make_crew
        self._crew: Crewed | None = None
        self._submitted: deque[Order] = deque()
        self._open: dict[TaskKey, _Open] = {}
        self._held: ExitStack
        self._lock = threading.Lock()
        self._ended: BaseException | None = None
        self._is_closing = False

    def __enter__(self) -> Self:
        try:
            with ExitStack() as held:
                held.enter_context(RunLock(self.folder))
                self.journal = held.enter_context(Journal(self.folder.journal))
                self.journal.must_be_whole()
                self._held = held.pop_all()
                look_in(self.folder.store.place)
        except BaseException as error:  # whatever it was: somebody may have handed in an order already
            self._refuse_all(error)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._refuse_all(error if error is not None else ChannelClosedError(CLOSED))
        finally:
            self._held.__exit__(kind, error, trace)

    @property
    def crew(self) -> Crewed:
        """Who does the tasks; they are there from the first call on. On the desk's thread."""
        if self._crew is None:
            self.journal.begin_sitting(provenance())
            crew = self._make_crew()
            self._held.enter_context(crew)
            for record in self.journal.records():
                crew.note(record.task, record.result)
            self._crew = crew
        return self._crew

    def activities(self) -> tuple[Activity, ...]:
        """What every agent is doing; nobody is there before there is something to do."""
        return self._crew.activities() if self._crew is not None else ()

    def take_over(self, records: Sequence[Record], provenance: dict[str, Any]) -> None:
        """Records what was done elsewhere, and whose artifacts are here already.

        Raises:
            ArtifactError: a task is recorded with other weights.
            StorageError: it cannot be written.
        """
        self.journal.commit(*records, provenance=provenance)
        for record in records:
            if self._crew is not None:
                self._crew.note(record.task, record.result)
            self.folder.clear(record.task.key)

    def shares(self) -> dict[TaskKey, float]:
        """Of the tasks under way that say how far they are, the share that is done."""
        told = {key: opened.told for key, opened in self._open.items()}
        return {key: min(1.0, event.step / event.steps) for key, event in told.items() if event is not None and event.steps}

    @property
    def is_closing(self) -> bool:
        """Whether somebody has asked that it ends."""
        return self._is_closing

    def submit(self, orders: Iterable[Order]) -> None:
        """Takes orders, which are begun together. A desk that has ended tells whoever waits why it has."""
        listed = list(orders)
        with self._lock:
            ended = self._ended
            if ended is None:
                self._submitted.extend(listed)
        for order in listed:
            if ended is not None and order.waiting is not None:
                order.waiting.fail(ended)
        if self._crew is not None:
            self._crew.rouse()

    def close(self) -> None:
        """Asks that the desk ends; whoever turns it sees ``is_closing``."""
        self._is_closing = True
        if self._crew is not None:
            self._crew.rouse()

    def turn(self) -> list[Done]:
        """Takes what was ordered, waits a moment for news, and returns what was done since, recorded.

        Raises:
            AgentKDError: why the work cannot go on; see ``Crew.turn`` and ``Journal.commit``.
        """
        done = self._take_orders()
        if done or self._crew is None:
            return done
        finished = self._crew.turn()
        self._tell_progress()
        self._record(finished)
        return [self._tell(one) for one in finished]

    def _take_orders(self) -> list[Done]:
        """Begins what is new; what is recorded is done already."""
        done, wanted = [], []
        while self._submitted:
            order = self._submitted[0]  # it stays there until it is answered, or open: whatever happens it is told of
            key = order.task.key
            known = self.journal.find(key)
            if known is None:
                keep_code(order.task, self.folder.store)  # before anybody is asked to run it
                opened = self._open.setdefault(key, _Open(order, []))
                opened.waiting += [order.waiting] if order.waiting is not None else []
                wanted.append((key, order.task, order.label))
            self._submitted.popleft()
            if known is not None:
                done.append(Done(order.task, order.label, known, 0, is_new=False))
                if order.waiting is not None:
                    order.waiting.settle(known)
        if wanted:
            self.crew.want(wanted)
        return done

    def _record(self, finished: list[Finished]) -> None:
        """Records what was finished, all at once: of students that taught each other, one alone could not be done again."""
        kept: list[tuple[Finished, Record]] = []
        for one in finished:
            order = self._open[one.key].order
            if one.result.status is not Status.FAILED or order.keeps_failure:
                kept.append((one, Record(order.task, one.result, one.agent, one.attempts, order.label, one.teachers)))
        if kept:
            self.journal.commit(*(record for _, record in kept))
        for one, record in kept:
            self.crew.note(record.task, record.result)
            self.folder.clear(one.key)

    def _tell(self, finished: Finished) -> Done:
        """Tells a result, which is recorded, to whoever waits."""
        opened, result = self._open[finished.key], finished.result
        while opened.waiting:  # until it is their turn, whoever waits is told of any error
            opened.waiting.pop(0).settle(result)
        del self._open[finished.key]
        return Done(opened.order.task, opened.order.label, result, finished.attempts)

    def _tell_progress(self) -> None:
        for key, opened in self._open.items():
            event = self.crew.progress(key)
            if event is not None and event != opened.told:
                opened.told = event
                for waiting in opened.waiting:
                    waiting.note(event)

    def _refuse_all(self, error: BaseException) -> None:
        """From now on nothing is taken; whoever waits is told."""
        with self._lock:
            self._ended = error
        left = [waiting for opened in self._open.values() for waiting in opened.waiting]
        left += [order.waiting for order in self._submitted if order.waiting is not None]
        with ExitStack() as told:  # each of them, whatever the others make of it
            for waiting in reversed(left):
                told.callback(waiting.fail, error)


def desk_with_agents(
    folder: RunFolder,
    slots: tuple[Slot, ...],
    launch: LaunchConfig,
    watcher: Watcher,
    *,
    is_forgiving: bool,
    on_order: Callable[[Crew, Delivery], None] | None = None,
) -> Desk[Crew]:
    """A desk whose tasks agents do, as processes.

    Args:
        folder: where everything of the run lies.
        slots: one learning agent each.
        launch: engine, timing, transport, attempts.
        watcher: who is told what happens.
        is_forgiving: a task that every agent would refuse fails alone and does not end the desk.
        on_order: as of ``Crew``.
    """
    socket_files.sweep()
    launcher = find_engine(launch.engine)(folder, launch.demand)
    return Desk(folder, lambda: Crew(folder, slots, launch, watcher, launcher, is_forgiving=is_forgiving, on_order=on_order))
