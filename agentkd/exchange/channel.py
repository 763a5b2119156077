"""What carries frames from one process to another: the interface, and the counters each channel keeps.

A channel knows keys and bytes, no messages. It has one I/O thread; everything but ``call`` is done on that thread, and the
callbacks are made on it. Delivery is at most once and in order per peer and lane; a peer that is gone loses what was in flight.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from agentkd.errors import Rule
from agentkd.messages.wire import Buffer
from agentkd.names import PublicKey

Frames = list[Buffer]
FramesArrived = Callable[[PublicKey, Sequence[Buffer]], None]
Turn = Callable[[], float]


@dataclass
class Counters:
    """What crossed this process's channel since it started; ``refused`` counts messages by the rule they broke.

    The I/O thread alone counts; others may read.
    """

    messages_sent: int = 0
    messages_received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    late: int = 0
    dropped: int = 0
    refused: dict[Rule, int] = field(default_factory=dict)

    def refuse(self, rule: Rule) -> None:
        """One more refusal."""
        self.refused = self.refused | {rule: self.refused.get(rule, 0) + 1}  # a new one: another thread may be reading this one


class Channel(Protocol):
    """Moves frames between peers that are known by their public keys."""

    endpoints: tuple[str, ...]
    bulk_endpoints: tuple[str, ...]
    counters: Counters

    def start(self, arrived: FramesArrived, turn: Turn, fell: Callable[[], None] = lambda: None) -> None:
        """Starts the I/O thread. ``turn`` is called again and again; it returns how many seconds it can wait.

        ``fell`` is called if the thread ends with an error: nothing moves any more, and nobody else would say so.
        """
        ...

    def call(self, command: Callable[[], None]) -> None:
        """Has a command executed on the I/O thread, soon. From any thread; does not block.

        Raises:
            ChannelClosedError: the channel is closed.
        """
        ...

    def check(self) -> None:
        """Says if nothing moves any more.

        Raises:
            ChannelClosedError: the channel is closed, or its thread has ended with an error.
        """
        ...

    def connect(self, key: PublicKey, endpoint: str, *, bulk: bool = False) -> None:
        """Opens a lane to a peer. The bulk lane is a second one, so that long pieces never stand before short messages."""
        ...

    def disconnect(self, key: PublicKey) -> None:
        """Closes the lanes that were opened to a peer."""
        ...

    def has_dialed(self, key: PublicKey, *, bulk: bool = False) -> bool:
        """Whether that lane was opened from here."""
        ...

    def send(self, key: PublicKey, frames: Frames, *, bulk: bool = False) -> bool:
        """Hands frames over; false if the peer cannot be reached or its lane is full now."""
        ...

    def close(self) -> None:
        """Sends what was handed over, ends the thread and frees everything. May be called twice."""
        ...
