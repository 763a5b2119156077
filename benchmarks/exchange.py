"""Moving knowledge between two processes: every way of agentkd against memcpy and raw pyzmq, in the same run.

Medians of interleaved rounds. "view": the receiver can read the bytes; for streams that means received, CRC-checked and hashed.
Prints each figure with its ratio to memcpy (31 MB) or to raw pyzmq with 1 MiB chunks or single messages.
"""

import multiprocessing
import queue
import statistics
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection

import numpy as np
import zmq

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

SIZE = 31 * 1024**2
CHUNK = 1024**2
ROUNDS = 15
ECHOES = 1500
IN_FLIGHT = 64
DIGEST = "ab" * 32


def serve(pipe: Connection, keys: KeyPair, client: str, bind: str) -> None:
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
        data = np.random.default_rng(1).integers(0, 255, SIZE, dtype=np.uint8)
        living, plain = carrier.allocate(SIZE), Parcel(SIZE)
        for parcel in (living, plain):
            np.copyto(np.frombuffer(parcel.view, dtype=np.uint8), data)
        plain.sha256  # noqa: B018 computed before the clock runs, as a producer does
        while (delivery := work.get()) is not None:
            request = delivery.message.body
            if request.codec == "stop":
                break
            parcel = living if Way.SHARED in request.ways else plain
            if request.codec == "copied":
                parcel = carrier.allocate(SIZE)
                np.copyto(np.frombuffer(parcel.view, dtype=np.uint8), data)
            piece, buffers = carrier.pack(delivery.sender, parcel, request.ways)
            if request.codec == "copied":
                parcel.close()
            reply = KnowledgeReply(kind=request.kind, weights=DIGEST, piece=piece)
            post.send(delivery.sender, reply, parent_id=delivery.message.msg_id, buffers=buffers)


def raw_server(pipe: Connection, keys: KeyPair, bind: str, is_curve: bool) -> None:
    """Raw pyzmq: echoes one message, or sends the piece in chunks when asked for it."""
    data = memoryview(bytes(SIZE))
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        if is_curve:
            router.curve_server, router.curve_publickey, router.curve_secretkey = True, keys.public.encode(), keys.secret.encode()
        router.bind(bind)
        pipe.send(router.getsockopt_string(zmq.LAST_ENDPOINT))
        while True:
            peer, question = router.recv_multipart()
            if question == b"stop":
                return
            if question == b"piece":
                for offset in range(0, SIZE, CHUNK):
                    router.send_multipart([peer, data[offset : offset + CHUNK]], copy=False)
            else:
                router.send_multipart([peer, question])


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

    def __init__(self, bind: str) -> None:
        self.asker, keys, server = Asker(), new_key_pair(), new_key_pair()
        ours, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=serve, args=(theirs, server, keys.public, bind))
        self.process.start()
        self.post = Post(keys, self.asker.take, bind=bind)
        self.post.start()
        self.carrier, self.peer = Carrier(self.post), server.public
        self.post.connect(PeerAddress(agent="", endpoints=ours.recv(), public_key=server.public))

    def fetch(self, way: Way, codec: str = "living", *, into: np.ndarray | None = None) -> None:
        request = KnowledgeRequest(kind="weights", weights=DIGEST, codec=codec, ways=(way,))
        reply = self.asker.ask(self.post, self.peer, request)
        fetched = self.carrier.fetch(self.peer, reply.message.body.piece, reply.message.buffers)
        if into is not None:
            np.copyto(into, np.frombuffer(fetched.data, dtype=np.uint8))
        fetched.release()

    def echo(self) -> None:
        self.asker.ask(self.post, self.peer, PingRequest(text="x" * 1000))

    def messages_per_s(self, count: int) -> float:
        inbox: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self.asker.take = inbox.put  # type: ignore[method-assign]
        self.post._deliver = inbox.put
        began = time.perf_counter()
        for _ in range(IN_FLIGHT):
            self.post.send(self.peer, PingRequest(text="x" * 1000))
        for index in range(count):
            inbox.get(timeout=30)
            if index + IN_FLIGHT < count:
                self.post.send(self.peer, PingRequest(text="x" * 1000))
        return count / (time.perf_counter() - began)

    def close(self) -> None:
        self.post.send(self.peer, KnowledgeRequest(kind="weights", weights=DIGEST, codec="stop"))
        self.process.join(10)
        self.post.close()


class Raw:
    """The student's end of raw pyzmq."""

    def __init__(self, bind: str, is_curve: bool) -> None:
        server, keys = new_key_pair(), new_key_pair()
        ours, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=raw_server, args=(theirs, server, bind, is_curve))
        self.process.start()
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        if is_curve:
            self.socket.curve_serverkey = server.public.encode()
            self.socket.curve_publickey, self.socket.curve_secretkey = keys.public.encode(), keys.secret.encode()
        self.socket.connect(ours.recv())
        self.target = np.zeros(SIZE, dtype=np.uint8)

    def fetch(self) -> None:
        self.socket.send(b"piece")
        for offset in range(0, SIZE, CHUNK):
            frame = self.socket.recv(copy=False)
            self.target[offset : offset + CHUNK] = np.frombuffer(frame.buffer, dtype=np.uint8)

    def echo(self) -> None:
        self.socket.send(b"x" * 1000)
        self.socket.recv()

    def close(self) -> None:
        self.socket.send(b"stop")
        self.process.join(10)
        self.context.destroy(linger=0)


def main() -> None:
    multiprocessing.set_start_method("spawn")
    source, target = np.ones(SIZE, dtype=np.uint8), np.zeros(SIZE, dtype=np.uint8)
    for scheme, bind in (("ipc", "ipc://*"), ("tcp", "tcp://127.0.0.1:*")):
        ours = Ours(bind)
        raw_bind = bind if scheme == "tcp" else "ipc:///tmp/agentkd-benchmark-{}.sock"
        plain, curve = (Raw(raw_bind.format(name), is_curve) for name, is_curve in (("plain", False), ("curve", True)))
        runs = {
            "memcpy": partial(np.copyto, target, source),
            "shared, lives there, view": partial(ours.fetch, Way.SHARED),
            "shared, lives there, installed": partial(ours.fetch, Way.SHARED, into=target),
            "shared, copied in, view": partial(ours.fetch, Way.SHARED, "copied"),
            "raw pyzmq, 1 MiB chunks": plain.fetch,
            "raw pyzmq + CURVE, 1 MiB chunks": curve.fetch,
            "agentkd stream (CURVE, CRC, SHA-256)": partial(ours.fetch, Way.STREAM),
        }
        medians_ms(runs, 2)
        times = medians_ms(runs, ROUNDS)
        print(f"\n31 MiB over {scheme}")
        for name, value in times.items():
            base = "raw pyzmq + CURVE, 1 MiB chunks" if "stream" in name else "memcpy"
            print(f"  {name:<40} {value:8.2f} ms   {value / times[base]:6.2f} x {base}")
        echoes = medians_ms({"raw": plain.echo, "curve": curve.echo, "ours": ours.echo}, ECHOES)
        print(f"  1 KB echo: raw {1000 * echoes['raw']:.0f} us, raw + CURVE {1000 * echoes['curve']:.0f} us, ", end="")
        print(f"agentkd {1000 * echoes['ours']:.0f} us ({echoes['ours'] / echoes['curve']:.2f} x raw + CURVE)")
        print(f"  agentkd, {IN_FLIGHT} in flight: {ours.messages_per_s(20_000):,.0f} requests and replies/s")
        for end in (ours, plain, curve):
            end.close()


if __name__ == "__main__":
    main()
