"""The two ends of a stream as pure machines: what may be sent, what may come, how much credit to give. No I/O.

Credit is an absolute offset, so a grant that is repeated, lost or late does no harm. A receiver that misses bytes opens a new
stream at the offset it has; at most one window is then sent twice.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from agentkd.errors import RemoteProtocolError, Rule

CHUNK_BYTES = 1024**2
WINDOW_BYTES = 32 * 1024**2


class ChunkTaken(StrEnum):
    """What a chunk is to the receiver: the next one, one that was had before, or one with bytes missing before it."""

    NEXT = "next"
    REPEATED = "repeated"
    GAP = "gap"


@dataclass
class Outflow:
    """The sender's end."""

    size: int
    offset: int
    limit: int
    chunk_bytes: int

    def grant(self, limit: int) -> None:
        """More credit; less is ignored."""
        self.limit = max(self.limit, limit)

    def next_chunk(self) -> tuple[int, int] | None:
        """Offset and length of what may be sent now, and takes note that it is."""
        length = min(self.chunk_bytes, self.size - self.offset, self.limit - self.offset)
        if length <= 0 or (length < self.chunk_bytes and self.offset + length < self.size):
            return None
        start, self.offset = self.offset, self.offset + length
        return start, length

    @property
    def is_done(self) -> bool:
        """Whether everything was sent."""
        return self.offset >= self.size


@dataclass
class Inflow:
    """The receiver's end. ``num_repeated_bytes`` counts what was received more than once."""

    size: int
    offset: int = 0
    window_bytes: int = WINDOW_BYTES
    limit: int = field(init=False)
    num_repeated_bytes: int = 0

    def __post_init__(self) -> None:
        self.limit = self.opening_limit()

    def opening_limit(self) -> int:
        """The credit with which a stream is opened, or opened again, at the present offset."""
        self.limit = min(self.size, self.offset + self.window_bytes)
        return self.limit

    def take(self, offset: int, length: int) -> ChunkTaken:
        """Takes note of a chunk; only ``NEXT`` is to be written.

        Raises:
            RemoteProtocolError: it lies beyond the credit or the end, or overlaps what was received (rule ``credit``).
        """
        if length <= 0 or offset + length > self.limit:
            raise RemoteProtocolError(f"chunk {offset}+{length} is beyond the credit of {self.limit}", Rule.CREDIT)
        if offset + length <= self.offset:
            self.num_repeated_bytes += length
            return ChunkTaken.REPEATED
        if offset < self.offset:
            raise RemoteProtocolError(f"chunk {offset}+{length} overlaps what was received up to {self.offset}", Rule.CREDIT)
        if offset > self.offset:
            return ChunkTaken.GAP
        self.offset += length
        return ChunkTaken.NEXT

    def credit_due(self) -> int | None:
        """The limit to grant now, if half the window has been used up."""
        wanted = min(self.size, self.offset + self.window_bytes)
        if wanted - self.limit < self.window_bytes // 2 and wanted != self.size:
            return None
        if wanted == self.limit:
            return None
        self.limit = wanted
        return wanted

    @property
    def is_done(self) -> bool:
        """Whether every byte is there."""
        return self.offset >= self.size
