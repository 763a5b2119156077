"""What a script holds while agents work: futures, with progress."""

import queue
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Generic, TypeVar

from agentkd.errors import TrainingError
from agentkd.messages.bodies import TaskProgressEvent
from agentkd.task import Status, TaskResult
from agentkd.task.showing import rows, summary
from agentkd.visible import html_table, visible_line

Given = TypeVar("Given")
Made = TypeVar("Made")


class Lesson(Future[TaskResult]):
    """A task that an agent does. ``result()`` waits for it; ``progress()`` tells how it goes meanwhile."""

    def __init__(self, label: str = "") -> None:
        super().__init__()
        self.label = label
        self._newest: TaskProgressEvent | None = None
        self.set_running_or_notify_cancel()  # what agents have begun is not called off, here or there
        self.is_told_failed = False
        self.rivals: Callable[[], list[Lesson | None]] = list
        self._events: queue.SimpleQueue[TaskProgressEvent | None] = queue.SimpleQueue()
        self.add_done_callback(lambda done: self._events.put(None))

    def result(self, timeout: float | None = None) -> TaskResult:
        """What came of it; waits.

        Args:
            timeout: seconds to wait at most; as long as it takes if it is not given.

        Raises:
            TrainingError: it failed.
            TimeoutError: it takes longer.
        """
        try:
            return super().result(timeout)
        except TrainingError:
            self.is_told_failed = True
            raise

    def progress(self) -> Iterator[TaskProgressEvent]:
        """Each report of the agent (step, steps, loss, newest validation mIoU), until the task ended, however it ended."""
        while (event := self._events.get()) is not None:
            yield event
        self._events.put(None)

    def teacher_miou(self) -> list[float | None]:
        """MIoU of each teacher in the same validation as the student's; ``None`` for one that cannot be measured so.

        A guest cannot, nor can who numbers the classes in another order. Each teacher is evaluated once, and recorded. Waits.
        """
        return [rival.result().miou if rival else None for rival in self.rivals()]

    @property
    def state(self) -> str:
        """How it stands, in a few words. Does not wait."""
        event = self._newest
        if not self.done():
            return f"step {event.step:,} of {event.steps:,}, loss {event.loss:.4g}" if event else "asked for"
        error = self.exception()
        return visible_line(f"ended by {type(error).__name__}: {error}") if error else summary(self.result())

    def __repr__(self) -> str:
        return f"<Lesson {visible_line(self.label)}: {self.state}>"

    def _repr_html_(self) -> str:
        ended = rows(self.result()) if self.done() and not self.exception() else {"state": self.state}
        return html_table(self.label or "lesson", ended)

    def note(self, event: TaskProgressEvent) -> None:
        """A new report, from the community's thread."""
        self._newest = event
        self._events.put(event)

    def settle(self, result: TaskResult) -> None:
        """What came of it, from the community's thread."""
        if result.status is Status.FAILED:
            self.set_exception(failure(result))
        else:
            self.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Why nothing comes of it, from the community's thread."""
        self.set_exception(error)


class Derived(Generic[Given, Made]):
    """What is made of a task's result, by whoever asks for it and at that moment."""

    def __init__(self, future: "Future[Given]", make: Callable[[Given], Made]) -> None:
        self._future, self._make = future, make

    def done(self) -> bool:
        """Whether the task has ended."""
        return self._future.done()

    def __repr__(self) -> str:
        return f"<Derived from {self._future!r}>"

    def result(self, timeout: float | None = None) -> Made:
        """Waits for the task; raises what ended it, or ``TimeoutError``."""
        return self._make(self._future.result(timeout))


def failure(result: TaskResult) -> TrainingError:
    """A failed task as whoever waits for it meets it."""
    return TrainingError(f"{result.error_code}: {result.error_text}")
