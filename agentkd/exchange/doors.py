"""An address that ZeroMQ listens at, closed to newcomers and opened again while connections that are there stay.

Unbinding would end them too. So the door is closed in front of ZeroMQ: on a TCP port the system passes over whoever knocks, who
knocks again after a second; a socket file is renamed.
"""

import contextlib
import ctypes
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

CLOSED_SUFFIX = ".closed"
SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27  # Linux
RETURN_NOTHING = struct.pack("HBBI", 0x06, 0, 0, 0)  # a packet filter of one instruction, which keeps no packet


@dataclass
class Door:
    """``listening`` is a second descriptor of ZeroMQ's own socket there."""

    address: str
    listening: socket.socket
    is_open: bool = True

    def close(self) -> None:
        """Lets in nobody who is not in, and has not been taken by the system already. Where that cannot be done it stays open."""
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.rename(closed_name(self._file))
            else:
                program = ctypes.create_string_buffer(RETURN_NOTHING)
                given = struct.pack("HL", 1, ctypes.addressof(program))
                self.listening.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, given)
            self.is_open = False

    def open(self) -> None:
        """Lets newcomers in again."""
        with contextlib.suppress(OSError):
            if self._file is not None:
                closed_name(self._file).rename(self._file)
            else:
                self.listening.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
        self.is_open = True

    @property
    def _file(self) -> Path | None:
        scheme, _, place = self.address.partition("://")
        return Path(place) if scheme == "ipc" else None


def closed_name(file: Path) -> Path:
    """What a socket file is called while its door is closed."""
    return file.with_name(file.name + CLOSED_SUFFIX)


def is_listened_at(file: Path) -> bool:
    """Whether there is a socket file, be its door closed at the moment."""
    return os.path.exists(file) or os.path.exists(closed_name(file))  # noqa: PTH110 of what others forbid to look at, no
