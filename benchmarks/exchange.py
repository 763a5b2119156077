"""Moving knowledge between two processes: every way of agentkd beside memcpy, raw pyzmq and other libraries, in the same run.

Medians of interleaved rounds. "view": the receiver can read the bytes; for streams that means received, CRC-checked and hashed.
Raw pyzmq sends chunks of 1 MiB on one thread, also with the checks that a stream of agentkd makes.
"""

import multiprocessing
import os
import queue
import statistics
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection

import numpy as np
from exchange_peers import CHUNK, TEXT, Raw, in_a_process, installed_peers

from agentkd.exchange.asking import Asker
from agentkd.exchange.keys import KeyPair, new_key_pair
from agentkd.exchange.pieces import Carrier
from agentkd.exchange.post import Delivery, Manners, Post
from agentkd.exchange.sources import Parcel
from agentkd.messages.bodies import (
    KnowledgeReply,
    KnowledgeRequest,
    PeerAddress,
    PingRequest,
    ReleaseEvent,
    Way,
)

PIECES = {"the weights of PIDNet-S": 31 * 1024**2, "the soft targets of a batch": 21 * 1024**2}
ROUNDS = 15
ECHOES = 1500
IN_FLIGHT = 64
MANY = 20_000
CHECKED = "raw pyzmq, CURVE, CRC, SHA-256"
DIGEST = "ab" * 32


def serve(pipe: Connection, keys: KeyPair, client: str, bind: str, size: int) -> None:
    """The teacher's process: answers for one piece that lives in memory, or is copied in when asked with codec ``copied``."""
    work: queue.SimpleQueue[Delivery | None] = queue.SimpleQueue()

    def deliver(delivery: Delivery) -> None:
        body = delivery.message.body
        if isinstance(body, ReleaseEvent):
            carrier.pool.release(delivery.sender, body.leases)
        elif isinstance(body, KnowledgeRequest):
            work.put(delivery)

    with Post(keys, deliver, bind=bind, manners=Manners()) as post:
        carrier = Carrier(post)
        post.allow([client])
        pipe.send(post.endpoints)
        data = np.random.default_rng(1).integers(0, 255, size, dtype=np.uint8)
        living, plain = carrier.allocate(size), Parcel(size)
        for parcel in (living, plain):
            np.copyto(np.frombuffer(parcel.view, dtype=np.uint8), data)
        plain.sha256  # noqa: B018 computed before the clock runs, as a producer does
        while (delivery := work.get()) is not None:
            request = delivery.message.body
            if request.codec == "stop":
                break
            parcel = living if Way.SHARED in request.ways else plain
            if request.codec == "copied":
                parcel = carrier.allocate(size)
                np.copyto(np.frombuffer(parcel.view, dtype=np.uint8), data)
            piece, buffers = carrier.pack(delivery.sender, parcel, request.ways)
            if request.codec == "copied":
                parcel.close()
            reply = KnowledgeReply(kind=request.kind, weights=DIGEST, piece=piece)
            post.send(delivery.sender, reply, parent_id=delivery.message.msg_id, buffers=buffers)


def medians_ms(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median of each, in rounds in which every one has its turn."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            times[name].append(1000 * (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in times.items()}


class Ours:
    """The student's end of agentkd."""

    def __init__(self, bind: str, size: int) -> None:
        self.asker, keys, server = Asker(), new_key_pair(), new_key_pair()
        self.process, endpoints = in_a_process(serve, server, keys.public, bind, size)
        self.post = Post(keys, self.asker.take, bind=bind)
        self.post.start()
        self.carrier, self.peer = Carrier(self.post), server.public
        self.post.connect(PeerAddress(agent="", endpoints=endpoints, public_key=server.public))

    def fetch(self, way: Way, codec: str = "living", *, into: np.ndarray | None = None) -> None:
        request = KnowledgeRequest(kind="weights", weights=DIGEST, codec=codec, ways=(way,))
        reply = self.asker.ask(self.post, self.peer, request)
        fetched = self.carrier.fetch(self.peer, reply.message.body.piece, reply.message.buffers)
        if into is not None:
            np.copyto(into, np.frombuffer(fetched.data, dtype=np.uint8))
        fetched.release()

    def echo(self) -> None:
        self.asker.ask(self.post, self.peer, PingRequest(text=TEXT.decode()))

    def messages_per_s(self, count: int) -> float:
        inbox: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self.asker.take = inbox.put  # type: ignore[method-assign]
        self.post._deliver = inbox.put
        began = time.perf_counter()
        for _ in range(IN_FLIGHT):
            self.post.send(self.peer, PingRequest(text=TEXT.decode()))
        for index in range(count):
            inbox.get(timeout=30)
            if index + IN_FLIGHT < count:
                self.post.send(self.peer, PingRequest(text=TEXT.decode()))
        return count / (time.perf_counter() - began)

    def close(self) -> None:
        self.post.send(self.peer, KnowledgeRequest(kind="weights", weights=DIGEST, codec="stop"))
        self.process.join(10)
        self.post.close()


def main() -> None:
    multiprocessing.set_start_method("spawn")
    for what, size in PIECES.items():
        for scheme, bind in (("ipc", "ipc://*"), ("tcp", "tcp://127.0.0.1:*")):
            print(f"\n{size / 1024**2:.0f} MiB, like {what}, over {scheme}")
            measure_ways(scheme, bind, size)
    for scheme, bind in (("ipc", "ipc://*"), ("tcp", "tcp://127.0.0.1:*")):
        measure_messages(scheme, bind)


def raw_bind(scheme: str, name: str) -> str:
    return "tcp://127.0.0.1:*" if scheme == "tcp" else f"ipc:///tmp/agentkd-benchmark-{os.getpid()}-{name}.sock"


def measure_ways(scheme: str, bind: str, size: int) -> None:
    """Every way to move a piece, in turns."""
    source, target = np.ones(size, dtype=np.uint8), np.zeros(size, dtype=np.uint8)
    ours = Ours(bind, size)
    raw = {
        "raw pyzmq": Raw(raw_bind(scheme, "plain"), size),
        "raw pyzmq, CURVE": Raw(raw_bind(scheme, "curve"), size, is_curve=True),
        CHECKED: Raw(raw_bind(scheme, "checked"), size, is_curve=True, is_checked=True),
    }
    peers = {name: kind(size) for name, kind in installed_peers().items()} if scheme == "ipc" else {}
    runs: dict[str, Callable[[], object]] = {
        "memcpy": partial(np.copyto, target, source),
        "shared, lives there, view": partial(ours.fetch, Way.SHARED),
        "shared, lives there, installed": partial(ours.fetch, Way.SHARED, into=target),
        "shared, copied in, view": partial(ours.fetch, Way.SHARED, "copied"),
        "stream (CURVE, CRC, SHA-256)": partial(ours.fetch, Way.STREAM),
        **{name: end.fetch for name, end in (raw | peers).items()},
    }
    try:
        medians_ms(runs, 2)
        times = medians_ms(runs, ROUNDS)
    finally:
        for end in (ours, *raw.values(), *peers.values()):
            end.close()
    print(f"  {'':<36} {'ms':>8} {'x memcpy':>9} {'x raw CURVE':>12} {'x the same, checked':>20}")
    for name, value in times.items():
        ratios = [value / times[base] for base in ("memcpy", "raw pyzmq, CURVE", CHECKED)]
        shown = f"{ratios[1]:12.2f} {ratios[2]:20.2f}" if "CURVE" in name else ""
        print(f"  {name:<36} {value:8.2f} {ratios[0]:9.2f} {shown}")


def measure_messages(scheme: str, bind: str) -> None:
    """Requests and replies of 1 KB: one at a time, and many in flight."""
    ours = Ours(bind, CHUNK)
    plain, curve = (Raw(raw_bind(scheme, name), CHUNK, is_curve=name == "curve") for name in ("plain", "curve"))
    times = medians_ms({"raw": plain.echo, "curve": curve.echo, "ours": ours.echo}, ECHOES)
    print(
        f"\n1 KB request and reply over {scheme}: raw {1000 * times['raw']:.0f} us, raw + CURVE {1000 * times['curve']:.0f} us, ",
        end="",
    )
    print(f"agentkd {1000 * times['ours']:.0f} us ({times['ours'] / times['curve']:.2f} x raw + CURVE)")
    rates = curve.messages_per_s(MANY, IN_FLIGHT), ours.messages_per_s(MANY)
    print(f"  {IN_FLIGHT} in flight: raw + CURVE {rates[0]:,.0f}/s, agentkd {rates[1]:,.0f}/s ({rates[1] / rates[0]:.2f})")
    for end in (ours, plain, curve):
        end.close()


if __name__ == "__main__":
    main()
