"""A post for tests that sends nothing and remembers everything."""

from agentkd.messages.bodies import Body, PeerAddress


class RememberingPost:
    """What a lesson needs of a post, with every call kept."""

    endpoint = "tcp://127.0.0.1:3"

    def __init__(self) -> None:
        self.said: list[tuple[str, Body, int]] = []
        self.open: set[str] = set()

    def connect(self, address: PeerAddress) -> None:
        self.open.add(address.public_key)

    def disconnect(self, public_key: str) -> None:
        self.open.discard(public_key)

    def send(self, peer: str, body: Body, *, parent_id: int = 0, buffers: tuple[bytes, ...] = ()) -> int:
        self.sent_buffers = buffers
        self.said.append((peer, body, len(self.said) + 1))
        return len(self.said)
