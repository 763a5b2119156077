"""Shared memory between processes of one user on one host: sealed memory files, pooled by their owner, mapped by readers.

A segment is a ``memfd``: it has no name in any folder, and the kernel frees it when the last process that holds it ends,
however it ends. So nothing can be leaked and nobody has to reap. A reader opens it through the owner's ``/proc`` entry, which
the kernel allows to the same user alone, and checks that it is one of ours, cannot shrink, and is the very file meant.

A segment is used again only after everybody who holds it has let go; if a reader was lost, it is dropped instead.
"""

import contextlib
import fcntl
import itertools
import mmap
import os
import sys
import weakref
from pathlib import Path

import numpy as np

from agentkd.errors import ExchangeError, RemoteProtocolError, Rule, StorageError, check_descriptors
from agentkd.exchange.pools import Pool
from agentkd.messages.handles import SharedHandle
from agentkd.names import PublicKey

PREFIX = "agentkd"
POOL_BYTES = 512 * 1024**2
MAX_POPULATED_BYTES = 64 * 1024**2
MADV_POPULATE_READ = 22
IS_SUPPORTED = sys.platform == "linux" and hasattr(os, "memfd_create")
SEALS = getattr(fcntl, "F_SEAL_SHRINK", 2) | getattr(fcntl, "F_SEAL_GROW", 4) | getattr(fcntl, "F_SEAL_SEAL", 1)


class Segment:
    """A mapped stretch of memory that other processes can be handed. ``view`` is writable for the owner.

    Raises:
        StorageError: there is no memory or no descriptor for it.
    """

    def __init__(self, size_bytes: int) -> None:
        self.capacity = max(mmap.PAGESIZE, 1 << (size_bytes - 1).bit_length() if size_bytes > 1 else mmap.PAGESIZE)
        try:
            self.descriptor = os.memfd_create(PREFIX, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(self.descriptor, self.capacity)
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, SEALS)
            self._map = mmap.mmap(self.descriptor, self.capacity)
        except OSError as error:
            raise StorageError.of("shared memory", error) from error
        self.inode = os.fstat(self.descriptor).st_ino
        self.view = memoryview(self._map)
        self.num_holders, self.is_doubtful = 1, False

    def handle(self, lease: int) -> SharedHandle:
        """What another process needs to map it."""
        return SharedHandle(pid=os.getpid(), descriptor=self.descriptor, inode=self.inode, offset=0, lease=lease)

    def close(self) -> None:
        """Gives the memory up; it goes when nobody maps it any more. Whoever still has ``view`` may read on."""
        os.close(self.descriptor)
        del self.view, self._map


class SegmentPool(Pool[Segment]):
    """Segments of this process. Thread-safe. ``capacity_bytes`` bounds what is kept for the next use."""

    def __init__(self, capacity_bytes: int = POOL_BYTES, numbers: "itertools.count[int] | None" = None) -> None:
        super().__init__(capacity_bytes, numbers)

    def take(self, size_bytes: int) -> Segment:
        """A segment of at least this size, held once; its old content is of no account."""
        with self._lock:
            fitting = [segment for segment in self._free if size_bytes <= segment.capacity <= 4 * max(size_bytes, mmap.PAGESIZE)]
            if fitting:
                best = min(fitting, key=lambda segment: segment.capacity)
                self._free.remove(best)
                best.num_holders = 1
                return best
        return Segment(size_bytes)

    def hold(self, segment: Segment, size_bytes: int) -> memoryview:
        """A view that holds the segment for as long as it, or a slice of it, is referred to."""
        with self._lock:
            segment.num_holders += 1
        exporter = np.frombuffer(segment.view, dtype=np.uint8, count=size_bytes)
        weakref.finalize(exporter, self.give, segment).atexit = False
        return memoryview(exporter)  # type: ignore[arg-type]

    def lease(self, peer: PublicKey, segment: Segment) -> SharedHandle:
        """Lets a peer hold a segment until it releases the lease. The oldest lease of too many is dropped."""
        return segment.handle(self._lend(peer, segment))


def read_segment(handle: SharedHandle, size_bytes: int) -> memoryview:
    """The bytes a handle stands for, as they are while its lease is held; private to this process if written to.

    Of the segment the piece alone is mapped, each time anew: a mapping of before would show what this process has of it
    already, not what its owner has put there since.

    Raises:
        ExchangeError: the segment is not there any more.
        RemoteProtocolError: it is not what it should be.
    """
    descriptor = _open(handle)
    try:
        if handle.offset + size_bytes > os.fstat(descriptor).st_size:
            raise RemoteProtocolError(f"{size_bytes} bytes are more than the segment holds", Rule.CREDIT)
        if not size_bytes:
            return memoryview(b"")
        before = handle.offset % mmap.ALLOCATIONGRANULARITY
        try:
            mapped = mmap.mmap(
                descriptor,
                before + size_bytes,
                flags=mmap.MAP_PRIVATE,
                prot=mmap.PROT_READ | mmap.PROT_WRITE,
                offset=handle.offset - before,
            )
        except (OSError, OverflowError) as error:
            raise ExchangeError(f"the shared segment of process {handle.pid} cannot be mapped: {error}") from error
    finally:
        os.close(descriptor)
    if size_bytes <= MAX_POPULATED_BYTES:
        with contextlib.suppress(OSError):  # an older Linux: each page is mapped when it is read
            mapped.madvise(MADV_POPULATE_READ)  # MAP_POPULATE would make a copy
    return memoryview(mapped)[before:]


def _open(handle: SharedHandle) -> int:
    path = Path(f"/proc/{handle.pid}/fd/{handle.descriptor}")
    try:
        target = str(path.readlink())
        if not target.startswith(f"/memfd:{PREFIX}"):
            raise RemoteProtocolError(f"{path} is no shared segment of agentkd", Rule.IDENTITY)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        check_descriptors(path, error)
        raise ExchangeError(f"shared segment {path} is not to be had: {error.strerror}") from error
    try:
        if os.fstat(descriptor).st_ino != handle.inode:
            raise ExchangeError(f"shared segment {path} was given up by its owner")
        if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & SEALS != SEALS:
            raise RemoteProtocolError(f"{path} may shrink under its reader", Rule.IDENTITY)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
