"""Strangers at ports, as a process of their own: ``python knocking.py KIND COUNT ENDPOINT=KEY...``.

``silent`` and ``cut`` hold so many connections to each endpoint at a time, that say nothing or half a greeting, and come again
when they are shown out; ``unknown`` shakes hands so often with keys that nobody knows, a few times with each. It ends when its
standard input does, and prints how often it has knocked: connections that were made, handshakes that were refused. Who holds
connections prints ``many`` once they are.
"""

import contextlib
import select
import socket
import sys
import time

import zmq
from zmq.utils.monitor import recv_monitor_message

AT_ONCE = 20
MANY = 0.6  # of the connections to an endpoint
PATIENCE_MS = 5_000
HALF_A_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(15) + b"\x01"


def is_over() -> bool:
    """Whether whoever started this wants no more."""
    return bool(select.select([sys.stdin], [], [], 0)[0])


class Held:
    """A connection that says what it has to say, and is made again when it was ended."""

    def __init__(self, endpoint: str, says: bytes) -> None:
        scheme, _, place = endpoint.partition("://")
        host, _, port = place.rpartition(":")
        self._family = socket.AF_UNIX if scheme == "ipc" else socket.AF_INET
        self._address: object = place if scheme == "ipc" else (host, int(port))
        self._says, self.num_made = says, 0
        self._knock()

    def look(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            if not self._has_said:
                self._socket.send(self._says)
                self._has_said = True
                self.num_made += 1
        try:
            ended = self._socket.recv(4096) == b""
        except BlockingIOError:
            ended = False
        except OSError:
            ended = True
        if ended:
            self._socket.close()
            self._knock()

    def _knock(self) -> None:
        self._socket, self._has_said = socket.socket(self._family), False
        self._socket.setblocking(False)
        with contextlib.suppress(OSError):
            self._socket.connect(self._address)


def hold(endpoints: list[str], count: int, says: bytes) -> int:
    held = [Held(endpoint, says) for endpoint in endpoints for _ in range(count)]
    have_said = False
    while not is_over():
        for one in held:
            one.look()
        if not have_said and sum(one.num_made for one in held) >= count * MANY:
            have_said = True
            print("many", flush=True)
        time.sleep(0.1)
    return sum(one.num_made for one in held)


class Stranger:
    """Handshakes with a key that nobody knows, some at once."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", endpoint: str, key: str) -> None:
        self._socket = context.socket(zmq.ROUTER)  # which may connect to one endpoint several times
        self._socket.linger, self._socket.curve_serverkey = 0, key.encode()
        self._socket.curve_publickey, self._socket.curve_secretkey = zmq.curve_keypair()
        self._monitor = self._socket.get_monitor_socket(zmq.Event.HANDSHAKE_FAILED_AUTH | zmq.Event.HANDSHAKE_SUCCEEDED)
        for _ in range(AT_ONCE):
            self._socket.connect(endpoint)

    def end(self) -> int:
        """How many were refused, which all should be."""
        num_refused = 0
        while num_refused < AT_ONCE and self._monitor.poll(PATIENCE_MS):
            assert recv_monitor_message(self._monitor)["event"] == zmq.Event.HANDSHAKE_FAILED_AUTH, "a stranger was let in"
            num_refused += 1
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close()
        return num_refused


def shake_hands(endpoints: dict[str, str], count: int) -> int:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    num_refused = 0
    while num_refused < count and not is_over():
        strangers = [Stranger(context, endpoint, key) for endpoint, key in endpoints.items()]
        num_refused += sum(stranger.end() for stranger in strangers)
    context.destroy(linger=0)
    return num_refused


def main() -> None:
    kind, count, *places = sys.argv[1:]
    endpoints = dict(place.split("=", 1) for place in places)
    if kind == "unknown":
        print(shake_hands(endpoints, int(count)), flush=True)
    else:
        says = {"silent": b"", "cut": HALF_A_GREETING}[kind]
        print(hold(list(endpoints), int(count), says), flush=True)


if __name__ == "__main__":
    main()
