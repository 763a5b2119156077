"""Whether Ray's head answers: asked before Ray is, and while agents that it has started are at work.

Ray's own library waits for minutes for a head that does not answer, and when it gives one up it ends the process at once.
"""

import contextlib
import os
import socket
import threading
import time

from agentkd.errors import LaunchError

ANSWER_S = 5.0
LOOK_S = 2.0
MAX_SILENT_LOOKS = 5
LOST_WITHIN_S = MAX_SILENT_LOOKS * (ANSWER_S + LOOK_S)  # and Ray gives it up after 60 s
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # of a client of gRPC: no settings of its own
LONGEST = 16
SETTINGS = 4


def answers(address: str, *, within_s: float = ANSWER_S) -> bool:
    """Whether what speaks as Ray's head does is at ``HOST:PORT``. With ``RAY_USE_TLS``: whether anything is."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    deadline = time.monotonic() + within_s
    with contextlib.suppress(OSError, ValueError), socket.create_connection((host.strip("[]"), int(port)), within_s) as peer:
        if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
            return True
        peer.sendall(PREFACE)
        said = b""
        while len(said) < LONGEST:
            peer.settimeout(max(0.01, deadline - time.monotonic()))
            more = peer.recv(LONGEST)
            said += more
            if len(said) > 3 or not more:  # the length of a frame, and its kind
                return len(said) > 3 and said[0] == 0 and said[3] == SETTINGS
    return False


def check(address: str) -> None:
    """Checks that Ray's head answers, before Ray itself is asked for minutes.

    Raises:
        LaunchError: it does not, within ``ANSWER_S``.
    """
    if not answers(address):
        raise LaunchError(
            f"no head of Ray answers at {address} within {ANSWER_S:g} s. Is it there (ray status --address {address}), and is "
            "that its port, not its dashboard's? launch.options: [address=HOST:PORT] says where it is"
        )


class RayHead:
    """Ray's head, looked at again and again by a thread of its own, until ``close``."""

    def __init__(self, address: str, *, look_s: float = LOOK_S) -> None:
        self.address, self._look_s = address, look_s
        self._is_over = threading.Event()
        self._is_lost = threading.Event()
        self._thread = threading.Thread(target=self._look, name="ray-head", daemon=True)
        self._thread.start()

    @property
    def is_lost(self) -> bool:
        """Whether it did not answer several times in a row, and so for good."""
        return self._is_lost.is_set()

    @property
    def is_there(self) -> bool:
        """Whether it answers now, within ``ANSWER_S``. If not, Ray would be asked in vain for a minute."""
        return not self.is_lost and answers(self.address)

    def wait_for(self) -> None:
        """Returns when it answers.

        Raises:
            LaunchError: it is lost.
        """
        while not self.is_there:
            if self._is_lost.wait(self._look_s):
                raise LaunchError(str(self))

    def __str__(self) -> str:
        told = f"Ray's head at {self.address} is lost: it did not answer {MAX_SILENT_LOOKS} times in a row"
        return f"{told}. When it is there again, the run can go on"

    def close(self) -> None:
        """Looks no more."""
        self._is_over.set()
        self._thread.join()

    def _look(self) -> None:
        silent = 0
        while not self._is_over.wait(self._look_s):
            silent = 0 if answers(self.address) else silent + 1
            if silent >= MAX_SILENT_LOOKS:
                self._is_lost.set()
                return
