"""What a ``transport`` setting means: where a process listens, and by which ways pieces may go. ``auto`` is for everyday use."""

from dataclasses import dataclass

from agentkd.errors import ConfigError
from agentkd.messages.bodies import Way

AUTO = "auto"
TCP, IPC = "tcp://127.0.0.1:*", "ipc://*"


@dataclass(frozen=True)
class Transport:
    """Addresses to listen on and ways that pieces may go."""

    bind: tuple[str, ...]
    ways: tuple[Way, ...]


TRANSPORTS = {
    AUTO: Transport((IPC, TCP), tuple(Way)),
    "shared": Transport((IPC, TCP), (Way.SHARED,)),
    "store": Transport((IPC, TCP), (Way.STORE,)),
    "ipc": Transport((IPC,), (Way.INLINE, Way.STREAM)),
    "tcp": Transport((TCP,), (Way.INLINE, Way.STREAM)),
}


def find_transport(name: str) -> Transport:
    """The transport of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in TRANSPORTS:
        raise ConfigError(f"transport {name!r}: there are {', '.join(TRANSPORTS)}")
    return TRANSPORTS[name]
