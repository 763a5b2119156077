"""A connection of ZeroMQ's as the system sees it: by its descriptor. How much has come over it, and how it is ended."""

import contextlib
import os
import socket
import struct
from dataclasses import dataclass

TCP_INFO = getattr(socket, "TCP_INFO", 11)
TCP_INFO_BYTES = 256
BYTES_RECEIVED_AT = 128  # tcpi_bytes_received in Linux's struct tcp_info


@dataclass
class Connection:
    """A connection that ZeroMQ holds. Its descriptor may be another thing's by now; the inode tells whether it is.

    Args:
        since: when it was accepted or made (monotonic seconds).
        was_heard: whether a whole message has come since that was last looked at.
        num_bytes_taken: how many octets had come over it then.
    """

    descriptor: int
    inode: int
    since: float
    was_heard: bool = False
    num_bytes_taken: int = 0

    def hang_up(self) -> None:
        """Ends it, whatever is under way. To ZeroMQ the other side is gone; it frees what it holds of an unfinished message."""
        held = self._held()
        if held is not None:
            with held, contextlib.suppress(OSError):  # the other side was quicker
                held.shutdown(socket.SHUT_RDWR)

    def num_bytes(self, *, unknown: int = 0) -> int:
        """How many octets have come over it; ``unknown`` if the system does not say so, as of socket files."""
        held = self._held()
        if held is None:
            return unknown
        with held:
            if held.family == socket.AF_UNIX:
                return unknown
            try:
                told = held.getsockopt(socket.IPPROTO_TCP, TCP_INFO, TCP_INFO_BYTES)
            except OSError:
                return unknown
        return int(struct.unpack_from("Q", told, BYTES_RECEIVED_AT)[0]) if len(told) >= BYTES_RECEIVED_AT + 8 else unknown

    def _held(self) -> socket.socket | None:
        """A second descriptor of it, so that nothing takes its place meanwhile; ``None`` if it is gone, or none is left."""
        try:
            second = os.dup(self.descriptor)
        except OSError:
            return None
        try:
            if os.fstat(second).st_ino == self.inode:
                return socket.socket(fileno=second)
        except OSError:  # it is no socket
            pass
        os.close(second)
        return None
