"""What the errors of the operating system and of libraries mean that lack something: memory, threads, descriptors, a disk.

None of it says anything about what was being done.
"""

import errno
import os
import threading
from pathlib import Path

from agentkd.errors import (
    DESCRIPTORS_USED_UP,
    STORAGE_WORDS,
    OutOfMemoryError,
    RemoteAgentError,
    StorageError,
    ThreadsError,
)

NO_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "failed to map segment",
    "std::bad_alloc",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    os.strerror(errno.ENOMEM),
)
"""What the system and libraries say, beside ``MemoryError``, where there is no memory for more."""
NO_THREADS = ("can't start new thread", os.strerror(errno.EAGAIN))
"""What Python says, and the threads of C++ do, where there are as many threads as are allowed."""


def lacks_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it was made from, means that there is too little memory, of a device or the machine."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, MemoryError) or any(kind.__name__ == OutOfMemoryError.__name__ for kind in type(error).__mro__):
            return True  # torch's has the same name as ours, and is not imported for it
        if isinstance(error, RemoteAgentError):
            return error.remote_code == OutOfMemoryError.code
        if isinstance(error, RuntimeError | OSError | ImportError) and any(text in str(error) for text in NO_MEMORY):
            return True
        error = error.__cause__
    return False


def check_disk(place: Path | str, error: OSError) -> None:
    """Whether something could not be read for want of descriptors or because its disk is broken, whatever is there.

    Raises:
        StorageError: it is so.
    """
    if error.errno in (*DESCRIPTORS_USED_UP, *STORAGE_WORDS):
        raise StorageError.of_use(place, error) from error


def as_agentkd_error(error: BaseException, place: Path | str = "a file") -> BaseException:
    """What the operating system refused and has a word here (a full disk, no descriptors, no threads) as that; else as it is."""
    if isinstance(error, OSError) and error.errno in (*DESCRIPTORS_USED_UP, *STORAGE_WORDS):
        return StorageError.of(error.filename or place, error)
    if isinstance(error, OSError) and error.errno == errno.EAGAIN:
        return ThreadsError("a process")
    if isinstance(error, RuntimeError | MemoryError) and any(text in str(error) for text in NO_THREADS):
        return ThreadsError("a thread")
    return error


def start(thread: threading.Thread) -> None:
    """Starts a thread.

    Raises:
        ThreadsError: there are as many as are allowed.
    """
    try:
        thread.start()
    except (RuntimeError, MemoryError) as error:
        if not any(text in str(error) for text in NO_THREADS):
            raise
        raise ThreadsError(f"the thread {thread.name}") from error
