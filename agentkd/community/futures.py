"""What a script holds while agents work: futures, with progress."""

import queue
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from agentkd.messages.bodies import TaskProgressEvent
from agentkd.task import TaskResult

Given = TypeVar("Given")
Made = TypeVar("Made")


class Lesson(Future[TaskResult]):
    """A task that an agent does. ``result()`` waits for it; ``progress()`` tells how it goes meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self._events: queue.SimpleQueue[TaskProgressEvent | None] = queue.SimpleQueue()
        self.add_done_callback(lambda done: self._events.put(None))

    def progress(self) -> Iterator[TaskProgressEvent]:
        """Each report of the agent (step, steps, loss, newest validation mIoU), until the task ended, however it ended."""
        while (event := self._events.get()) is not None:
            yield event
        self._events.put(None)

    def note(self, event: TaskProgressEvent) -> None:
        """A new report, from the community's thread."""
        self._events.put(event)


def then(future: "Future[Given]", make: "Callable[[Given], Made]") -> "Future[Made]":
    """A future for what is made of another's result; an error of either is its error."""
    made: Future[Made] = Future()

    def go_on(done: "Future[Given]") -> None:
        try:
            made.set_result(make(done.result()))
        except BaseException as error:
            made.set_exception(error)

    future.add_done_callback(go_on)
    return made
