"""Moving knowledge between two processes: every way of agentkd beside memcpy, raw pyzmq and other libraries, in the same run.

Medians of interleaved rounds. "view": the receiver can read the bytes; for streams that means received, CRC-checked and hashed.
Raw pyzmq sends chunks of 1 MiB on one thread, also with the checks that a stream of agentkd makes.

Where there is a GPU a piece goes from what one process has made on it to what another computes with there, in its memory and by
the host; ``--gpu`` measures that alone.
"""

import argparse
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
from agentkd.exchange.cuda import Gpu, find_gpu
from agentkd.exchange.keys import KeyPair, new_key_pair
from agentkd.exchange.pieces import Carrier
from agentkd.exchange.post import PLAIN_HELLO, Delivery, Manners, Post
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
            carrier.release(delivery.sender, body.leases)
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


def serve_on_gpu(pipe: Connection, keys: KeyPair, client: str, bind: str, size: int) -> None:
    """A teacher's process: each time it is asked it copies what it has on the GPU to where it is handed over from."""
    import torch  # where there is none, nothing is measured on a GPU

    work: queue.SimpleQueue[Delivery] = queue.SimpleQueue()

    def deliver(delivery: Delivery) -> None:
        body = delivery.message.body
        if isinstance(body, ReleaseEvent):
            carrier.release(delivery.sender, body.leases)
        elif isinstance(body, KnowledgeRequest):
            work.put(delivery)

    made = torch.randint(0, 255, (size,), dtype=torch.uint8, device="cuda:0")
    gpu = find_gpu(0)
    with Post(keys, deliver, bind=bind, manners=on_gpu(gpu.uuid if gpu else "")) as post:
        carrier = Carrier(post, gpu=gpu)
        post.allow([client])
        pipe.send(post.endpoints)
        while (request := (delivery := work.get()).message.body).codec != "stop":
            parcel = carrier.allocate(size, request.ways)
            if parcel.array is not None:
                torch.as_tensor(parcel.array, device="cuda:0").copy_(made)
            else:
                torch.frombuffer(parcel.view, dtype=torch.uint8).copy_(made)
            torch.cuda.synchronize()
            piece, buffers = carrier.pack(delivery.sender, parcel, request.ways)
            parcel.close()
            reply = KnowledgeReply(kind=request.kind, weights=DIGEST, piece=piece)
            post.send(delivery.sender, reply, parent_id=delivery.message.msg_id, buffers=buffers)
        carrier.close()


def on_gpu(uuid: str) -> Manners:
    return Manners(hello=PLAIN_HELLO.model_copy(update={"gpu": uuid}))


class Ours:
    """The student's end of agentkd."""

    def __init__(self, bind: str, size: int, *, gpu: Gpu | None = None) -> None:
        self.asker, keys, server = Asker(), new_key_pair(), new_key_pair()
        self.process, endpoints = in_a_process(serve_on_gpu if gpu else serve, server, keys.public, bind, size)
        self.post = Post(keys, self.asker.take, bind=bind, manners=on_gpu(gpu.uuid if gpu else ""))
        self.post.start()
        self.carrier, self.peer = Carrier(self.post, gpu=gpu), server.public
        self.post.connect(PeerAddress(agent="", endpoints=endpoints, public_key=server.public))

    def fetch(self, way: Way, codec: str = "living", *, into: np.ndarray | None = None) -> None:
        request = KnowledgeRequest(kind="weights", weights=DIGEST, codec=codec, ways=(way,))
        reply = self.asker.ask(self.post, self.peer, request)
        fetched = self.carrier.fetch(self.peer, reply.message.body.piece, reply.message.buffers)
        if into is not None:
            np.copyto(into, np.frombuffer(fetched.data, dtype=np.uint8))
        fetched.release()

    def fetch_to_gpu(self, ways: tuple[Way, ...], land: Callable[[object], object]) -> Way:
        """``land`` makes memory of this process on the GPU of an array there or of bytes of the host; says how they came."""
        request = KnowledgeRequest(kind="soft_targets", weights=DIGEST, ways=ways)
        reply = self.asker.ask(self.post, self.peer, request)
        fetched = self.carrier.fetch(self.peer, reply.message.body.piece, reply.message.buffers, land=land)
        if fetched.landed is None:
            land(np.frombuffer(fetched.data, dtype=np.uint8))
        fetched.release()
        return fetched.way

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
        self.carrier.close()
        self.post.close()


def main() -> None:
    chosen = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    chosen.add_argument("--gpu", action="store_true", help="measure between processes on one GPU alone")
    only_gpu = chosen.parse_args().gpu
    multiprocessing.set_start_method("spawn")
    measure_on_gpu()
    if only_gpu:
        return
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


def measure_on_gpu() -> None:
    """From one process's memory on a GPU to another's there: by a block of that GPU, and by shared memory of the host."""
    import torch

    gpu = find_gpu(0)
    if gpu is None or not torch.cuda.is_available():
        print("nothing is measured on a GPU: there is none")
        return
    device = torch.device("cuda:0")

    def land(found: object) -> object:
        own = torch.as_tensor(found, device=device)
        own = own.clone() if hasattr(found, "__cuda_array_interface__") else own
        torch.cuda.synchronize(device)
        return own

    for what, size in PIECES.items():
        ours = Ours("ipc://*", size, gpu=gpu)
        by_host, by_device = (Way.SHARED,), (Way.DEVICE, Way.SHARED)
        try:
            came = [ours.fetch_to_gpu(ways, land) for ways in (by_host, by_device)]
            assert came == [Way.SHARED, Way.DEVICE], came
            runs = {
                "shared memory of the host": partial(ours.fetch_to_gpu, by_host, land),
                "memory of the GPU (CUDA IPC)": partial(ours.fetch_to_gpu, by_device, land),
            }
            medians_ms(runs, 2)
            times = medians_ms(runs, ROUNDS)
        finally:
            ours.close()
        print(f"\n{size / 1024**2:.0f} MiB, like {what}, from GPU to GPU ({torch.cuda.get_device_name(device)})")
        print(f"  {'':<36} {'ms':>8} {'GB/s':>9} {'x the host':>11}")
        for name, value in times.items():
            ratio = value / times["shared memory of the host"]
            print(f"  {name:<36} {value:8.2f} {size / value / 1e6:9.2f} {ratio:11.2f}")


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
