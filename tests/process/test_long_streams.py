"""Long streams: a stopped reader stops the sender and not the memory; cuts cost at most a window each and never a byte."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from experiments import environment
from proxy import CuttingProxy
from sides import Side, wait_until

from agentkd.artifacts.store import Store
from agentkd.canonical import digest_file
from agentkd.exchange.keys import new_key_pair
from agentkd.exchange.pieces import Carrier
from agentkd.exchange.sources import FileSource
from agentkd.exchange.streams import WINDOW_BYTES
from agentkd.messages.bodies import Piece, Way

pytestmark = [pytest.mark.process, pytest.mark.slow]
MIB, GIB = 1024**2, 1024**3
ALLOWED = WINDOW_BYTES + 64 * MIB
READER = """
import json, sys
from pathlib import Path
from agentkd.artifacts.store import Store
from agentkd.exchange.keys import KeyPair
from agentkd.exchange.pieces import Carrier
from agentkd.exchange.post import Post
from agentkd.messages.bodies import PeerAddress, Piece
public, secret, address, piece, place = sys.argv[1:]
with Post(KeyPair(public, secret), lambda delivery: None) as post:
    peer = PeerAddress.model_validate_json(address)
    post.connect(peer)
    carrier = Carrier(post, Store(Path(place)))
    print("ready", flush=True)
    carrier.fetch_to_store(peer.public_key, Piece.model_validate_json(piece), progress=lambda done, size: print(done, flush=True))
"""


def sparse(path: Path, size: int) -> Path:
    """A file of this size that takes little room: random bytes in places, holes elsewhere."""
    with path.open("wb") as file:
        file.truncate(size)
        for place in range(0, size, 256 * MIB):
            file.seek(place)
            file.write(random.Random(place).randbytes(4096))
    return path


def test_a_stopped_reader_stops_the_sender_and_nobody_grows(tmp_path: Path) -> None:
    sender, keys = Side(), new_key_pair()
    sender.post.allow([keys.public])
    source = FileSource(sparse(tmp_path / "long", 4 * GIB), "ab" * 32)
    sender.post.channel.call(lambda: sender.post.streams.offer(keys.public, source))
    piece = Piece(way=Way.STREAM, size_bytes=4 * GIB, sha256="ab" * 32)
    arguments = [keys.public, keys.secret, sender.address.model_dump_json(), piece.model_dump_json(), str(tmp_path / "store")]
    own = psutil.Process()
    with subprocess.Popen(
        [sys.executable, "-c", READER, *arguments], stdout=subprocess.PIPE, text=True, env=environment()
    ) as reader:
        try:
            assert reader.stdout.readline() == "ready\n"
            of_reader = psutil.Process(reader.pid)
            before = own.memory_info().rss, of_reader.memory_info().rss
            for _ in range(40):
                reader.stdout.readline()
            os.kill(reader.pid, signal.SIGSTOP)
            time.sleep(1)
            sent, most = sender.post.counters.bytes_sent, [0, 0]
            for _ in range(20):
                time.sleep(0.1)
                now = own.memory_info().rss, of_reader.memory_info().rss
                most = [max(m, n - b) for m, n, b in zip(most, now, before, strict=True)]
            assert sender.post.counters.bytes_sent - sent < WINDOW_BYTES, "it sends nothing while nobody reads"
            assert sent < 4 * GIB / 4
            assert max(most) < ALLOWED, [m / MIB for m in most]
        finally:
            reader.kill()
            sender.post.close()


def test_two_gib_cut_five_times_arrive_with_their_digest_and_hardly_a_byte_twice(tmp_path: Path) -> None:
    path = sparse(tmp_path / "long", 2 * GIB)
    with path.open("rb") as file:
        digest = digest_file(file)
    sender, receiver = Side(), Side()
    sender.post.allow([receiver.key])
    store = Store(tmp_path / "store")
    cuts = sorted(random.Random(5).sample(range(2 * GIB), 5))
    with CuttingProxy(sender.post.channel.bulk_endpoints[0]) as bulk:
        sender.post.channel.bulk_endpoints = (bulk.endpoint,)
        receiver.reach(sender)
        wait_until(lambda: receiver.post.peer(sender.key) is not None)
        sender.post.channel.call(lambda: sender.post.streams.offer(receiver.key, FileSource(path, digest)))

        def cut(done: int, size: int) -> None:
            if cuts and done > cuts[0]:
                cuts.pop(0)
                bulk.cut()

        piece = Piece(way=Way.STREAM, size_bytes=2 * GIB, sha256=digest)
        assert Carrier(receiver.post, store).fetch_to_store(sender.key, piece, progress=cut) == digest
        assert not cuts and digest in store
        repeated = bulk.bytes_forwarded - 2 * GIB
        assert repeated < 5 * WINDOW_BYTES + 0.02 * 2 * GIB, repeated / MIB
    for side in (sender, receiver):
        side.post.close()
