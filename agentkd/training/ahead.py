"""Batches made before they are needed: by threads, in their order, within a cap in bytes, and copied while the step before runs.

What is made is a pure function of its place, so neither how many threads make it nor which of them is faster changes anything.
Python's lock is free while pixels are decoded, resized and computed with, so threads make views side by side.
"""

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor

from agentkd.errors import ThreadsError
from agentkd.shortage import start
from agentkd.training.batches import Batch, Feed

log = logging.getLogger(__name__)

Made = TypeVar("Made")

WAITING_BYTES = 512 * 1024**2
"""What may wait to be taken, in main memory (on CUDA in memory that is pinned), the one that is made first aside."""
MAX_LOADERS = 8
CLOSE_S = 30.0


def usual_loaders(device: torch.device, threads: int) -> int:
    """How many threads make batches if nobody says it: on CUDA as many as an agent has cores, else none.

    Agents on a CPU compute on every core that there is, so a batch costs the same whoever makes it.
    """
    return min(MAX_LOADERS, threads) if device.type == "cuda" else 0


class Ahead(Generic[Made]):
    """What is made of each of some places, in their order. One thread calls its methods.

    The first is made alone, which says how large one is, unless that is known; then as many are made or wait as the cap has room
    for, one at least.

    Args:
        make: called by any of the threads, by several at once. What it raises is raised by ``take``, of its place.
        places: of which something is made.
        loaders: threads; with none everything is made where it is taken.
        size_of: bytes.
        max_bytes: the cap.
        expected_bytes: how large one will be; 0 if nobody knows.
    """

    def __init__(
        self,
        make: Callable[[int], Made],
        places: Sequence[int],
        *,
        loaders: int,
        size_of: Callable[[Made], int],
        max_bytes: int = WAITING_BYTES,
        expected_bytes: int = 0,
    ) -> None:
        self._make, self._places, self._size_of, self._max_bytes = make, places, size_of, max_bytes
        self._largest, self._next = expected_bytes, 0
        self._coming: deque[Future[Made]] = deque()
        self._wanted: queue.SimpleQueue[tuple[int, Future[Made]] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        for number in range(min(loaders, len(places))):
            thread = threading.Thread(target=self._load, name=f"agentkd-loader-{number}", daemon=True)
            try:
                start(thread)
            except ThreadsError as error:
                log.warning("%s; %d loaders make what is needed, or whoever takes it", error, number)
                break
            self._threads.append(thread)
        self._want()

    def take(self) -> Made:
        """The next one. Waits until it is made.

        Raises:
            IndexError: all are taken.
        """
        if not self._threads:
            self._next += 1
            return self._make(self._places[self._next - 1])
        if not self._coming:
            raise IndexError("all are taken")
        made = self._coming.popleft().result()
        self._largest = max(self._largest, self._size_of(made))
        self._want()
        return made

    def is_next_made(self) -> bool:
        """Whether the next one is taken without waiting."""
        return bool(self._coming) and self._coming[0].done()

    def close(self) -> None:
        """Makes nothing more, and waits for the threads, each of which ends what it has in hand."""
        for coming in self._coming:
            coming.cancel()
        self._coming.clear()
        for _ in self._threads:
            self._wanted.put(None)
        deadline = time.monotonic() + CLOSE_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                log.warning("%s still makes a batch that nobody needs", thread.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _want(self) -> None:
        """Has made what there is room for."""
        room = max(1, min(2 * len(self._threads), self._max_bytes // self._largest)) if self._largest else 1
        while self._threads and self._next < len(self._places) and len(self._coming) < room:
            coming: Future[Made] = Future()
            self._coming.append(coming)
            self._wanted.put((self._places[self._next], coming))
            self._next += 1

    def _load(self) -> None:
        while (wanted := self._wanted.get()) is not None:
            place, coming = wanted
            if not coming.set_running_or_notify_cancel():
                continue
            try:
                made = self._make(place)
            except BaseException as error:  # whatever it was: it is raised where the batch is taken
                coming.set_exception(error)
            else:
                coming.set_result(made)
                del made
            del wanted, coming


class Supply:
    """A feed's training batches, in their order, on a device.

    On CUDA they are made in pinned memory, and the next one is copied on a stream of its own while the step runs that has the
    one before: neither the queue nor the loop waits for it.

    Args:
        steps: whose batches are taken, one after the other.
        loaders: threads that make them; 0 to make each when it is taken.
    """

    def __init__(self, feed: Feed, steps: range, device: torch.device, *, loaders: int) -> None:
        self._device = device
        is_sent = device.type == "cuda" and loaders > 0
        self._stream = torch.cuda.Stream(device) if is_sent else None  # type: ignore[no-untyped-call]

        def make(step: int) -> Batch:
            return pinned(feed.training_batch(step)) if self._stream else feed.training_batch(step)

        self._ahead = Ahead(make, steps, loaders=loaders, size_of=size_of)
        self._arriving: tuple[Batch, torch.cuda.Event] | None = None

    def take(self) -> Batch:
        """The batch of the next step, for the stream that is the current one."""
        if self._stream is None:
            return carried(self._ahead.take(), self._device)
        batch, is_here = self._arriving or self._sent(self._stream)
        current = torch.cuda.current_stream(self._device)
        current.wait_event(is_here)
        for tensor in (batch.images, batch.labels):
            tensor.record_stream(current)  # whose memory is not to be used again before the step is over
        self._arriving = self._sent(self._stream) if self._ahead.is_next_made() else None
        return batch

    def close(self) -> None:
        """Makes nothing more; no thread is left."""
        self._ahead.close()

    def _sent(self, stream: torch.cuda.Stream) -> tuple[Batch, torch.cuda.Event]:
        made = self._ahead.take()
        with torch.cuda.stream(stream):
            sent = Batch(
                made.images.to(self._device, non_blocking=True), made.labels.to(self._device, non_blocking=True), made.views
            )
            return sent, stream.record_event()


def size_of(batch: Batch) -> int:
    """Bytes of its tensors."""
    return batch.images.nbytes + batch.labels.nbytes


def pinned(batch: Batch) -> Batch:
    """A copy in pinned memory, from which a device copies by itself."""
    return Batch(_pinned(batch.images), _pinned(batch.labels), batch.views)


def carried(batch: Batch, device: torch.device) -> Batch:
    """A batch on a device."""
    return Batch(carry(batch.images, device), carry(batch.labels, device), batch.views)


def carry(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device. What goes to CUDA does so when the device comes to it, and nobody waits."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return (tensor if tensor.is_pinned() else _pinned(tensor)).to(device, non_blocking=True)


def _pinned(tensor: Tensor) -> Tensor:
    """By numpy, which copies on this thread alone."""
    made = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    if tensor.dtype == torch.bfloat16:
        return made.copy_(tensor)
    made.numpy()[...] = tensor.numpy()
    return made
