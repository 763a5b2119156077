"""Where the bytes of a piece come from and go to: memory, a file, a segment, a GPU. Nothing is loaded before it is asked for."""

import logging
import os
from pathlib import Path
from typing import Any, Protocol

from agentkd.canonical import digest_bytes
from agentkd.errors import ExchangeError
from agentkd.exchange.blocks import BlockPool, GpuBlock
from agentkd.exchange.segments import Segment, SegmentPool
from agentkd.messages.wire import Buffer
from agentkd.names import NO_DIGEST, Digest

log = logging.getLogger(__name__)


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

    With ``blocks`` the bytes are in GPU memory, if there is enough of it: then ``array`` is written instead, and what it holds is
    copied to the host when somebody asks for ``view`` or what depends on it.
    """

    def __init__(self, size_bytes: int, pool: SegmentPool | None = None, blocks: BlockPool | None = None) -> None:
        self.size_bytes, self._pool, self._blocks = size_bytes, pool, blocks
        self.block: GpuBlock | None = None
        self._segment: Segment | None = None
        self._view: memoryview | None = None
        self._sha256 = NO_DIGEST
        if blocks is not None:
            try:
                self.block = blocks.take(size_bytes)
            except ExchangeError as error:
                log.info("a piece is made in memory of the host: %s", error)
        if self.block is None:
            self._view = self._on_host()

    @property
    def array(self) -> Any:
        """Its place in GPU memory, as what ``torch.as_tensor`` takes without a copy; ``None`` if it is not there."""
        return self.block.array(self.size_bytes) if self.block is not None else None

    @property
    def held_bytes(self) -> int:
        """What it takes of the memory where it was made."""
        return self.block.capacity if self.block is not None else self.size_bytes

    @property
    def view(self) -> memoryview:
        """Its bytes in memory of the host."""
        if self._view is None:
            self._view = self._on_host()
            assert self.block is not None
            self.block.read(self._view)
        return self._view

    @property
    def segment(self) -> Segment | None:
        """The memory of the host where its bytes are, if other processes can map that."""
        return self._segment if self.view is not None else None

    @property
    def sha256(self) -> Digest:
        """Its digest, computed when first asked for."""
        self._sha256 = self._sha256 or digest_bytes(self.view)
        return self._sha256

    def source(self) -> BytesSource:
        """Its bytes, which stay as they are for as long as the source, or what was read from it, is referred to."""
        held = self._pool.hold(self.segment, self.size_bytes) if self._pool is not None and self.segment else self.view
        return BytesSource(held, self.sha256)

    def close(self) -> None:
        """Lets go of the memory. May be called twice."""
        segment, self._segment = self._segment, None
        if segment is not None and self._pool is not None:
            self._pool.give(segment)
        block, self.block = self.block, None
        if block is not None and self._blocks is not None:
            self._blocks.give(block)

    def _on_host(self) -> memoryview:
        self._segment = self._pool.take(self.size_bytes) if self._pool is not None else None
        return self._segment.view[: self.size_bytes] if self._segment else memoryview(bytearray(self.size_bytes))


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
