"""Whether Ray's head answers is seen without Ray, whatever is at its address, and before Ray is asked for minutes."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from agentkd.errors import LaunchError
from agentkd.launch import ray_head
from agentkd.launch.ray_head import MAX_SILENT_LOOKS, RayHead, answers, check

SETTINGS = bytes((0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0))
LONG_S = 60.0


@contextmanager
def something(says: Callable[[], bytes | None]) -> Iterator[str]:
    """Something that listens, and says that to each who comes; nothing at all for ``None``, until its peer is gone."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                with peer, suppress(ConnectionError):
                    said = says()
                    if said is not None:
                        peer.recv(1024)
                        peer.sendall(said)
                    while peer.recv(1024):
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    ("said", "is_head"),
    [(SETTINGS, True), (b"HTTP/1.1 400 Bad Request\r\n\r\n", False), (b"\0", False), (b"\0\0\6\7" + bytes(12), False)],
)
def test_a_head_is_told_from_what_is_none(said: bytes, is_head: bool) -> None:
    with something(lambda: said) as address:
        assert answers(address, within_s=LONG_S if len(said) > 3 else 0.2) is is_head


def test_what_says_nothing_is_none_after_that_time() -> None:
    with something(lambda: None) as address:
        assert not answers(address, within_s=0.2)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1", "127.0.0.1:999999", ""])
def test_where_nobody_is_it_is_said_what_to_look_at(address: str) -> None:
    with pytest.raises(LaunchError, match=f"no head of Ray answers at {address} within 5 s") as told:
        check(address)
    assert told.value.exit_code == 14


def test_behind_tls_a_connection_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USE_TLS", "1")
    with something(lambda: None) as address:
        assert answers(address)


def test_a_head_is_lost_when_it_was_silent_several_times_in_a_row() -> None:
    said = iter([SETTINGS, b"?" * 16, *[SETTINGS] * 2, *[b"?" * 16] * (MAX_SILENT_LOOKS - 1), SETTINGS])
    done = threading.Event()

    def next_of_it() -> bytes:
        word = next(said, None)
        if word is None:
            done.set()
        return word or SETTINGS

    with something(next_of_it) as address:
        head = RayHead(address, look_s=0.001)
        try:
            assert done.wait(LONG_S) and not head.is_lost
            head.wait_for()
        finally:
            head.close()
    head = RayHead(address, look_s=0.001)  # nobody is there any more
    try:
        with pytest.raises(LaunchError, match="is lost: it did not answer 5 times in a row"):
            head.wait_for()
        assert head.is_lost and not head.is_there
    finally:
        head.close()


def test_ray_gives_a_head_up_later() -> None:
    assert ray_head.LOST_WITHIN_S <= 35
