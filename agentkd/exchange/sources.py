"""Where the bytes of a piece come from and go to: memory, a file, a shared segment. Nothing is loaded before it is asked for."""

import os
from pathlib import Path
from typing import Protocol

from agentkd.canonical import digest_bytes
from agentkd.exchange.segments import SegmentPool
from agentkd.messages.wire import Buffer
from agentkd.names import NO_DIGEST, Digest


class Source(Protocol):
    """Bytes that can be read from any offset while they are offered."""

    size_bytes: int
    sha256: Digest

    def read(self, offset: int, length: int) -> Buffer:
        """Exactly these bytes."""
        ...


class BytesSource:
    """Bytes in memory, which nobody may change while they are offered."""

    def __init__(self, data: Buffer, sha256: Digest) -> None:
        self.view, self.size_bytes, self.sha256 = memoryview(data).cast("B"), len(data), sha256

    def read(self, offset: int, length: int) -> Buffer:
        return self.view[offset : offset + length]


class Parcel:
    """Bytes made to be handed over, perhaps several times: memory that other processes can map, or plain memory.

    ``view`` is written once, by who made it, before the first hand-over. ``close`` lets go; who still reads is not disturbed.
    """

    def __init__(self, size_bytes: int, pool: SegmentPool | None = None) -> None:
        self.size_bytes, self._pool = size_bytes, pool
        self.segment = pool.take(size_bytes) if pool else None
        self.view = self.segment.view[:size_bytes] if self.segment else memoryview(bytearray(size_bytes))
        self._sha256 = NO_DIGEST

    @property
    def sha256(self) -> Digest:
        """Its digest, computed when first asked for."""
        self._sha256 = self._sha256 or digest_bytes(self.view)
        return self._sha256

    def source(self) -> BytesSource:
        """Its bytes, which stay as they are for as long as the source, or what was read from it, is referred to."""
        held = self._pool.hold(self.segment, self.size_bytes) if self._pool and self.segment else self.view
        return BytesSource(held, self.sha256)

    def close(self) -> None:
        """Lets go of the memory. May be called twice."""
        segment, self.segment = self.segment, None
        if segment is not None and self._pool is not None:
            self._pool.give(segment)


class FileSource:
    """A file that is complete and will not change."""

    def __init__(self, path: Path, sha256: Digest) -> None:
        self.path, self.sha256 = path, sha256
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size_bytes = os.fstat(self._descriptor).st_size

    def read(self, offset: int, length: int) -> Buffer:
        parts = bytearray()
        while len(parts) < length:
            part = os.pread(self._descriptor, length - len(parts), offset + len(parts))
            if not part:
                raise OSError(f"{self.path} ends at {offset + len(parts)}")
            if len(part) == length:
                return part
            parts += part
        return parts

    def __del__(self) -> None:
        os.close(self._descriptor)


class Sink(Protocol):
    """Takes the bytes of a stream in order."""

    def write(self, offset: int, data: Buffer) -> None:
        """Puts bytes at an offset."""
        ...


class BufferSink:
    """Memory that is there already."""

    def __init__(self, view: memoryview) -> None:
        self._view = view

    def write(self, offset: int, data: Buffer) -> None:
        self._view[offset : offset + len(data)] = data
