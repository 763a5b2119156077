"""Many samples read in parallel, in their order, a few at a time: whoever stops listening ends it, and nothing piles up."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from agentkd.errors import ConfigError, DatasetError

THREADS = 4
AHEAD = 2 * THREADS

Read = TypeVar("Read")


def read_through(read: Callable[[int], Read], indices: Iterable[int]) -> Iterator[tuple[int, Read | DatasetError | ConfigError]]:
    """Each index with what is read under it, or with why it cannot be read; in order, and at most ``AHEAD`` before its turn.

    Args:
        read: thread-safe. It is not called any more once the iterator is closed, also by Ctrl-C.
        indices: of samples.
    """

    def attempt(index: int) -> Read | DatasetError | ConfigError:
        try:
            return read(index)
        except (DatasetError, ConfigError) as error:
            return error

    pool = ThreadPoolExecutor(THREADS)
    waiting: deque[tuple[int, Future[Read | DatasetError | ConfigError]]] = deque()
    try:
        for index in indices:
            waiting.append((index, pool.submit(attempt, index)))
            if len(waiting) >= AHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
