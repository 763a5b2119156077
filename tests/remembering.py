"""A post for tests that sends nothing and remembers everything."""

from collections.abc import Sequence

from agentkd.messages.bodies import AdmittedPeer, Body, PeerAddress


class RememberingPost:
    """What a lesson needs of a post, with every call kept."""

    endpoint = "tcp://127.0.0.1:3"

    def __init__(self) -> None:
        self.said: list[tuple[str, Body, int]] = []
        self.answered: list[int] = []
        self.open: set[str] = set()
        self.admitted: list[tuple[str, str, tuple[str, ...]]] = []

    def admit(self, peers: Sequence[AdmittedPeer]) -> None:
        self.admitted += [(peer.agent, peer.public_key, tuple(peer.may)) for peer in peers]

    def connect(self, address: PeerAddress) -> None:
        self.open.add(address.public_key)

    def disconnect(self, public_key: str) -> None:
        self.open.discard(public_key)

    def send(self, peer: str, body: Body, *, parent_id: int = 0, buffers: tuple[bytes, ...] = ()) -> int:
        self.sent_buffers = buffers
        self.answered.append(parent_id)
        self.said.append((peer, body, len(self.said) + 1))
        return len(self.said)
