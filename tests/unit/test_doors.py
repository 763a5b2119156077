"""Connections and doors as the system sees them, and what is kept of a message that is over a limit."""

import contextlib
import os
import queue
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from sides import RawPeer

from agentkd.exchange import descriptors
from agentkd.exchange.connections import Connection
from agentkd.exchange.doors import Door, closed_name, is_listened_at
from agentkd.exchange.keys import new_key_pair
from agentkd.exchange.zeromq import MAX_FRAMES_KEPT, MAX_TAKEN_BYTES, ZeroMQChannel
from agentkd.messages.wire import Buffer


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        made.listen(16)
        yield made


def connection_of(end: socket.socket) -> Connection:
    return Connection(end.fileno(), os.fstat(end.fileno()).st_ino, since=0.0)


def test_a_connection_says_what_has_come_over_it_and_can_be_ended(listening: socket.socket) -> None:
    with socket.create_connection(listening.getsockname()) as theirs, listening.accept()[0] as ours:
        connection = connection_of(ours)
        assert connection.num_bytes(unknown=7) == 0
        theirs.sendall(bytes(1000))
        ours.recv(1000, socket.MSG_WAITALL)
        assert connection.num_bytes() == 1000
        connection.hang_up()
        assert theirs.recv(1) == b"" and ours.fileno() == connection.descriptor


def test_what_has_taken_a_connections_descriptor_is_left_alone(listening: socket.socket, tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stale = Connection(ours.fileno(), inode=1, since=0.0)
        stale.hang_up()
        assert stale.num_bytes(unknown=7) == 7
        theirs.sendall(b"still there")
        assert ours.recv(20) == b"still there"
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    no_socket = Connection(file, os.fstat(file).st_ino, since=0.0)
    before = len(list(Path("/proc/self/fd").iterdir()))
    no_socket.hang_up()
    assert no_socket.num_bytes(unknown=7) == 7 and len(list(Path("/proc/self/fd").iterdir())) == before
    os.close(file)


def test_a_closed_door_keeps_who_is_inside_and_lets_nobody_in_until_it_is_open(listening: socket.socket) -> None:
    with socket.create_connection(listening.getsockname()) as theirs, listening.accept()[0] as ours:
        door = Door("tcp://127.0.0.1:1", listening)
        door.close()
        assert not door.is_open
        with pytest.raises(TimeoutError):
            socket.create_connection(listening.getsockname(), timeout=0.3)
        theirs.sendall(b"inside")
        assert ours.recv(10) == b"inside"
        door.open()
        socket.create_connection(listening.getsockname(), timeout=5).close()


def test_a_socket_file_behind_a_closed_door_is_there_under_another_name(tmp_path: Path) -> None:
    file = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as listening, contextlib.ExitStack() as stack:
        listening.bind(str(file))
        listening.listen(16)
        door = Door(f"ipc://{file}", listening)
        door.close()
        assert is_listened_at(file) and closed_name(file).exists() and not file.exists()
        knocking = stack.enter_context(socket.socket(socket.AF_UNIX))
        with pytest.raises(FileNotFoundError):
            knocking.connect(str(file))
        door.open()
        knocking.connect(str(file))
    file.unlink()
    assert not is_listened_at(file)


def test_descriptors_are_short_when_the_reserve_alone_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    for most, are_short in ((lowest + descriptors.reserve(lowest) + 64, False), (lowest + 1, True)):
        monkeypatch.setattr(descriptors, "limit", lambda most=most: most)
        assert descriptors.are_short() is are_short


@pytest.mark.parametrize(("count", "size"), [(1_000, 10), (12, 16 * 1024**2)])
def test_of_a_message_over_a_limit_no_more_is_kept_than_shows_that_it_is(count: int, size: int) -> None:
    arrived: queue.Queue[Sequence[Buffer]] = queue.Queue()
    keys, known = new_key_pair(), new_key_pair()
    channel = ZeroMQChannel(keys, lambda key: key == known.public, ("ipc://*",))  # where the system does not count octets
    channel.start(lambda sender, frames: arrived.put(frames), lambda: 1.0)
    try:
        with RawPeer(channel.endpoints[0], keys.public, known) as peer:
            peer.send([bytes(size)] * count)
            peer.send([b"next"])
            kept = arrived.get(timeout=30)
            assert len(kept) < MAX_FRAMES_KEPT and sum(map(len, kept)) <= MAX_TAKEN_BYTES + size
            assert len(kept) > 17 or sum(map(len, kept)) > MAX_TAKEN_BYTES, "enough to be refused for"
            assert arrived.get(timeout=30) == [b"next"]
        assert channel.counters.bytes_received > count * size
    finally:
        channel.close()
