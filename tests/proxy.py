"""A TCP proxy in a thread that can cut every connection through it. Listens and connects on loopback only."""

import contextlib
import selectors
import socket
import threading


class CuttingProxy:
    """Forwards connections to ``endpoint`` (``tcp://host:port``). Use as a context manager."""

    def __init__(self, endpoint: str) -> None:
        host, _, port = endpoint.removeprefix("tcp://").partition(":")
        self._target = (host, int(port))
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.setblocking(False)
        self.endpoint = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self.bytes_forwarded = 0
        self.num_cuts = 0
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._other: dict[socket.socket, socket.socket] = {}
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "CuttingProxy":
        self._selector.register(self._server, selectors.EVENT_READ)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._is_closed = True
        self._thread.join(5)
        self.cut()
        self._server.close()
        self._selector.close()

    def cut(self) -> None:
        """Ends every connection now; new ones may be made."""
        with self._lock:
            for end in list(self._other):
                self._drop(end)
            self.num_cuts += 1

    def _run(self) -> None:
        while not self._is_closed:
            for key, _ in self._selector.select(0.05):
                with self._lock:
                    if key.fileobj is self._server:
                        self._accept()
                    elif key.fileobj in self._other:
                        self._forward(key.fileobj)

    def _accept(self) -> None:
        near, _ = self._server.accept()
        try:
            far = socket.create_connection(self._target, timeout=5)
        except OSError:
            near.close()
            return
        for end, other in ((near, far), (far, near)):
            end.settimeout(10)
            self._other[end] = other
            self._selector.register(end, selectors.EVENT_READ)

    def _forward(self, end: socket.socket) -> None:
        try:
            data = end.recv(256 * 1024)
            if data:
                self._other[end].sendall(data)
                self.bytes_forwarded += len(data)
                return
        except OSError:
            pass
        self._drop(end)

    def _drop(self, end: socket.socket) -> None:
        other = self._other.pop(end, None)
        for each in (end, other):
            if each is not None:
                self._other.pop(each, None)
                with contextlib.suppress(KeyError, ValueError):
                    self._selector.unregister(each)
                each.close()
