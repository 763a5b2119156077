"""What stands beside agentkd in ``exchange.py``: raw pyzmq, gloo, gRPC and Ray, each moving the same bytes between two processes.

Each ``fetch`` returns when the bytes lie in this process's memory. gRPC and Ray take part where they are installed.
"""

import hashlib
import importlib.util
import multiprocessing
import time
from collections.abc import Callable
from concurrent import futures
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import zmq
from isal.isal_zlib import crc32

from agentkd.exchange.keys import KeyPair, new_key_pair

CHUNK = 1024**2
TEXT = b"x" * 1000


def in_a_process(target: Callable[..., None], *arguments: Any) -> tuple[multiprocessing.Process, Any]:
    """Starts a server's process; returns it and what it says first."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=target, args=(theirs, *arguments), daemon=True)
    process.start()
    return process, ours.recv()


def raw_server(pipe: Connection, keys: KeyPair, bind: str, size: int, is_curve: bool, is_checked: bool) -> None:
    """Echoes one message, or sends the piece in chunks when asked for it."""
    data = memoryview(bytes(size))
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
                for offset in range(0, size, CHUNK):
                    chunk = data[offset : offset + CHUNK]
                    head = crc32(chunk).to_bytes(4) if is_checked else b""
                    router.send_multipart([peer, head, chunk], copy=False)
            else:
                router.send_multipart([peer, question])


class Raw:
    """Raw pyzmq on one thread, a ROUTER and a DEALER; ``is_checked`` adds a CRC-32 for each chunk and SHA-256 over the whole."""

    def __init__(self, bind: str, size: int, *, is_curve: bool = False, is_checked: bool = False) -> None:
        server, keys = new_key_pair(), new_key_pair()
        self._is_checked, self._size = is_checked, size
        self._process, endpoint = in_a_process(raw_server, server, bind, size, is_curve, is_checked)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        if is_curve:
            self._socket.curve_serverkey = server.public.encode()
            self._socket.curve_publickey, self._socket.curve_secretkey = keys.public.encode(), keys.secret.encode()
        self._socket.connect(endpoint)
        self._target = np.zeros(size, dtype=np.uint8)
        self._digest = hashlib.sha256(bytes(size)).hexdigest()

    def fetch(self) -> None:
        self._socket.send(b"piece")
        hasher = hashlib.sha256()
        for offset in range(0, self._size, CHUNK):
            head, frame = self._socket.recv_multipart(copy=False)
            self._target[offset : offset + CHUNK] = np.frombuffer(frame.buffer, dtype=np.uint8)
            if self._is_checked:
                assert crc32(frame.buffer) == int.from_bytes(head.buffer)
                hasher.update(frame.buffer)
        assert not self._is_checked or hasher.hexdigest() == self._digest

    def echo(self) -> None:
        self._socket.send(TEXT)
        self._socket.recv()

    def messages_per_s(self, count: int, in_flight: int) -> float:
        began = time.perf_counter()
        for _ in range(in_flight):
            self._socket.send(TEXT)
        for index in range(count):
            self._socket.recv()
            if index + in_flight < count:
                self._socket.send(TEXT)
        return count / (time.perf_counter() - began)

    def close(self) -> None:
        self._socket.send(b"stop")
        self._process.join(10)
        self._context.destroy(linger=0)


def gloo_server(pipe: Connection, port: int, size: int) -> None:
    """Sends a flat tensor each time it is asked."""
    import torch
    import torch.distributed

    pipe.send("started")
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=1, world_size=2)
    data, question = torch.zeros(size, dtype=torch.uint8), torch.zeros(1)
    while torch.distributed.recv(question, 0) == 0 and question.item():
        torch.distributed.send(data, 0)


class Gloo:
    """torch.distributed with gloo, one flat tensor."""

    def __init__(self, size: int) -> None:
        import torch
        import torch.distributed

        self._torch, port = torch, free_port()
        self._process, _ = in_a_process(gloo_server, port, size)
        torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=2)
        self._target = torch.zeros(size, dtype=torch.uint8)

    def fetch(self) -> None:
        self._torch.distributed.send(self._torch.ones(1), 1)
        self._torch.distributed.recv(self._target, 1)

    def close(self) -> None:
        self._torch.distributed.send(self._torch.zeros(1), 1)
        self._process.join(10)
        self._torch.distributed.destroy_process_group()


def grpc_server(pipe: Connection, size: int) -> None:
    """One method that returns the piece, without generated code."""
    import grpc

    data = bytes(size)
    server = grpc.server(futures.ThreadPoolExecutor(2), options=UNLIMITED)
    method = grpc.unary_unary_rpc_method_handler(lambda request, context: data)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("Peer", {"Fetch": method})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    pipe.send(port)
    pipe.recv()
    server.stop(0)


UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


class Grpc:
    """gRPC without encryption, one message."""

    def __init__(self, size: int) -> None:
        import grpc

        self._pipe, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.Process(target=grpc_server, args=(theirs, size), daemon=True)
        self._process.start()
        self._channel = grpc.insecure_channel(f"127.0.0.1:{self._pipe.recv()}", options=UNLIMITED)
        self._method = self._channel.unary_unary("/Peer/Fetch")

    def fetch(self) -> None:
        self._method(b"")

    def close(self) -> None:
        self._channel.close()
        self._pipe.send("stop")
        self._process.join(10)


class RayStore:
    """Ray's object store, the piece put there by an actor before the clock runs."""

    def __init__(self, size: int) -> None:
        import ray

        self._ray = ray
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")

        @ray.remote
        class Holder:
            def __init__(self) -> None:
                self.reference = ray.put(np.zeros(size, dtype=np.uint8))

            def piece(self) -> list[Any]:
                return [self.reference]

        self._holder = Holder.remote()

    def fetch(self) -> None:
        self._ray.get(self._ray.get(self._holder.piece.remote())[0])

    def close(self) -> None:
        self._ray.shutdown()


def free_port() -> int:
    """A tcp port that was free a moment ago."""
    with zmq.Context() as context, context.socket(zmq.REP) as socket:
        return socket.bind_to_random_port("tcp://127.0.0.1")


def installed_peers() -> dict[str, type[Gloo | Grpc | RayStore]]:
    """Other libraries that can be measured here, by name."""
    listed = {"torch": ("gloo, flat", Gloo), "grpc": ("gRPC", Grpc), "ray": ("Ray object store", RayStore)}
    return {name: kind for module, (name, kind) in listed.items() if importlib.util.find_spec(module)}
