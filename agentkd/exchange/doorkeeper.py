"""Who stands at a channel's doors without having said who they are, and who sends a message without an end.

ZeroMQ accepts whoever connects for as long as there are descriptors, and collects the frames of a message until the last of them
has come, however many there are. Both are bounded here from outside; the sockets' monitors say which connections there are.

* With too many strangers inside, or few descriptors left, the doors are closed to newcomers, and strangers are shown out, soon
  if they have not even greeted, until there is room again. The connections of known peers stay as they are.
* A connection over which more octets have come than any message has, and no whole message, is hung up on.
"""

import contextlib
import itertools
import logging
import os
import socket
import struct
import time
from collections.abc import Container
from dataclasses import dataclass, field

import zmq

from agentkd.errors import Rule
from agentkd.exchange import descriptors
from agentkd.exchange.channel import Counters
from agentkd.exchange.connections import Connection
from agentkd.exchange.doors import Door
from agentkd.messages.wire import MAX_MESSAGE_BYTES

HANDSHAKE_MS = 5_000
GREETING_BYTES = 64  # of ZMTP; who dials has sent it before anything is answered
TELL_EVERY_S = 60.0
SILENT_S, GRACE_S = 0.25, 1.0
MAX_STRANGERS = 512
STRANGERS_SHARE = 8
LOOK_EVERY_S, LOOK_EVERY_CROWDED_S = 0.25, 0.05
MAX_UNFINISHED_BYTES = MAX_MESSAGE_BYTES * 5 // 4  # a message, its envelope, and what the encryption adds
EVENTS = zmq.Event.LISTENING | zmq.Event.ACCEPTED | zmq.Event.CONNECTED | zmq.Event.DISCONNECTED

log = logging.getLogger(__name__)

Socket = zmq.Socket[bytes]


@dataclass
class _Watched:
    """A socket with its monitor, the doors at which it listens, and its connections by descriptor.

    ``strangers`` are those of whom nothing was heard, the oldest first. They are fewer than ZeroMQ gives time to shake hands.
    """

    monitor: Socket
    doors: list[Door] = field(default_factory=list)
    connections: dict[int, Connection] = field(default_factory=dict)
    strangers: dict[int, Connection] = field(default_factory=dict)
    is_crowded: bool = False
    num_shown_out: int = 0
    told_at: float = -TELL_EVERY_S

    def tell(self, *, are_short: bool, now: float) -> None:
        """Says why the doors are closed, but not each time."""
        if now - self.told_at < TELL_EVERY_S:
            return
        self.told_at = now
        where = ", ".join(door.address for door in self.doors)
        why = "few descriptors are left (more: ulimit -n)" if are_short else f"{len(self.strangers)} have not said who they are"
        log.warning("nobody new is let in at %s for moments: %s; shown out so far: %d", where, why, self.num_shown_out)


class Doorkeeper:
    """Watches the sockets of one channel. For the thread that owns them."""

    def __init__(self, context: "zmq.Context[Socket]", counters: Counters) -> None:
        self._context, self._counters = context, counters
        self._watched: dict[Socket, _Watched] = {}
        self._numbers = itertools.count(1)
        self._next_look = 0.0

    def watch(self, watched: Socket) -> Socket:
        """Watches a socket, which listens and connects to nothing yet; returns its monitor, readable when there is news."""
        address = f"inproc://monitor-{next(self._numbers)}"
        watched.monitor(address, EVENTS)
        monitor = self._context.socket(zmq.PAIR)
        monitor.setsockopt(zmq.RCVHWM, 0)  # a full one would hold up ZeroMQ's own threads
        monitor.connect(address)
        self._watched[watched] = _Watched(monitor)
        return monitor

    def forget(self, watched: Socket) -> Socket:
        """Watches a socket no longer, which is about to be closed; returns its monitor, which is closed now."""
        found = self._watched.pop(watched)
        watched.disable_monitor()
        found.monitor.close(linger=0)
        for door in found.doors:
            door.open()
            door.listening.close()
        return found.monitor

    def close(self) -> None:
        """Watches nothing any more."""
        for watched in list(self._watched):
            self.forget(watched)

    def heard(self, watched: Socket, descriptor: int) -> None:
        """A whole message has come over this connection, from a peer that is admitted."""
        found = self._watched[watched]
        if descriptor not in found.connections:  # that it was accepted has been said before, but perhaps not been read
            self._read(found, time.monotonic())
        found.strangers.pop(descriptor, None)
        connection = found.connections.get(descriptor)
        if connection is not None:
            connection.was_heard = True

    def look(self, ready: Container[Socket], *, is_drained: bool) -> None:
        """Takes note of what the monitors that are ``ready`` tell, and keeps the doors.

        ``is_drained`` says whether every message that was there has been taken.
        """
        now = time.monotonic()
        is_due = now >= self._next_look
        for watched in self._watched.values():
            is_news = watched.monitor in ready and self._read(watched, now)
            if watched.doors and (is_news or is_due or watched.is_crowded):
                self._keep_doors(watched, now)
        if is_due and is_drained:
            self._next_look = now + LOOK_EVERY_S
            for watched in self._watched.values():
                self._end_the_endless(watched)

    def wait_s(self) -> float:
        """How long it may be before it looks again."""
        if any(watched.is_crowded for watched in self._watched.values()):
            return LOOK_EVERY_CROWDED_S
        return max(0.0, self._next_look - time.monotonic())

    def _read(self, watched: _Watched, now: float) -> bool:
        is_news = False
        with contextlib.suppress(zmq.Again):
            while True:
                told, address = watched.monitor.recv_multipart(zmq.DONTWAIT)
                is_news = True
                event, descriptor = struct.unpack("=Hi", told)
                self._note(watched, event, descriptor, address.decode(), now)
        return is_news

    def _note(self, watched: _Watched, event: int, descriptor: int, address: str, now: float) -> None:
        watched.connections.pop(descriptor, None)
        watched.strangers.pop(descriptor, None)
        with contextlib.suppress(OSError):  # it is gone already
            if event == zmq.Event.LISTENING:
                watched.doors.append(Door(address, socket.socket(fileno=os.dup(descriptor))))
            elif event in (zmq.Event.ACCEPTED, zmq.Event.CONNECTED):
                connection = Connection(descriptor, os.fstat(descriptor).st_ino, now)
                watched.connections[descriptor] = connection
                if event == zmq.Event.ACCEPTED:
                    watched.strangers[descriptor] = connection

    def _keep_doors(self, watched: _Watched, now: float) -> None:
        strangers = watched.strangers
        while strangers and now - next(iter(strangers.values())).since > HANDSHAKE_MS / 1000 + GRACE_S:
            del strangers[next(iter(strangers))]  # it has shaken hands, or it would have been shown out by ZeroMQ
        most = min(MAX_STRANGERS, descriptors.limit() // STRANGERS_SHARE)
        are_short = descriptors.are_short()
        if not watched.is_crowded and (are_short or len(strangers) >= most):
            watched.is_crowded = True
            watched.tell(are_short=are_short, now=now)
            for door in watched.doors:
                door.close()
        if watched.is_crowded:
            for stranger in [one for one in strangers.values() if _is_overdue(one, now)]:
                del strangers[stranger.descriptor]
                stranger.hang_up()
                watched.num_shown_out += 1
            if not are_short and len(strangers) <= most // 2:
                watched.is_crowded = False
                for door in watched.doors:
                    door.open()

    def _end_the_endless(self, watched: _Watched) -> None:
        for connection in list(watched.connections.values()):
            num_bytes = connection.num_bytes()
            if connection.was_heard:
                connection.was_heard, connection.num_bytes_taken = False, num_bytes
            elif num_bytes - connection.num_bytes_taken > MAX_UNFINISHED_BYTES:
                self._counters.refuse(Rule.LIMIT)
                log.warning("hung up on a peer that had sent %d octets of one message", num_bytes - connection.num_bytes_taken)
                del watched.connections[connection.descriptor]
                connection.hang_up()


def _is_overdue(stranger: Connection, now: float) -> bool:
    """Whether a stranger has had the time that there is for strangers while others wait."""
    age_s = now - stranger.since
    return age_s > GRACE_S or (age_s > SILENT_S and stranger.num_bytes(unknown=GREETING_BYTES) < GREETING_BYTES)
