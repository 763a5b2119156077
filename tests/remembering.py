"""What a lesson needs of a post, with every call kept. Nobody is at the other end: a test puts answers into the inbox."""

from typing import Any

from agentkd.messages.bodies import Body, PeerAddress


class RememberingPost:
    endpoint = "tcp://127.0.0.1:3"

    def __init__(self) -> None:
        self.said: list[tuple[str, Any, int]] = []
        self.open: set[str] = set()
        self.sent_buffers: tuple[bytes, ...] = ()
        self.answered: list[int] = []

    def connect(self, address: PeerAddress) -> None:
        self.open.add(address.public_key)

    def disconnect(self, public_key: str) -> None:
        self.open.discard(public_key)

    def peer(self, public_key: str) -> None:
        """Nothing is known of anybody, so pieces go inline."""

    def send(self, peer: str, body: Body, *, parent_id: int = 0, buffers: tuple[bytes, ...] = ()) -> int:
        self.sent_buffers = buffers
        self.answered += [parent_id] if parent_id else []
        self.said.append((peer, body, len(self.said) + 1))
        return len(self.said)
