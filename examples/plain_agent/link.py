"""A connection to one peer: where it can be dialed, the greeting, and messages with their numbers."""

import time
from pathlib import Path
from typing import Protocol

import zmq
from wire import encode


class Caller(Protocol):
    """Who has links: its keys, what it says of itself in a greeting, its session, and how many messages it has sent."""

    keys: dict
    greeting: dict
    session: str
    number: int
    context: zmq.Context


def reachable(peer: dict) -> str:
    """Where a peer can be dialed from here: a socket file that exists, or tcp; empty if it dials itself."""
    ways = [one.partition("://") for one in peer.get("endpoints", [])]
    return next((scheme + mark + place for scheme, mark, place in ways if scheme == "tcp" or Path(place).exists()), "")


class Link:
    """The connection to one peer: dialed and greeted anew until it says welcome, which begins a session."""

    def __init__(self, agent: "Caller", peer: dict) -> None:
        self.agent, self.key, self.may, self.session, self.socket = agent, peer["public_key"], peer.get("may", []), "", None
        self.endpoint = reachable(peer)
        self.dial()

    def dial(self) -> None:
        if self.socket:
            self.socket.close(linger=0)
        self.session, self.dialed_at, self.socket = "", time.monotonic(), self.agent.context.socket(zmq.DEALER)
        self.socket.curve_publickey, self.socket.curve_secretkey = (
            self.agent.keys[half].encode() for half in ("public", "secret")
        )
        self.socket.curve_serverkey, self.socket.linger = self.key.encode(), 500
        self.socket.connect(self.endpoint)
        self.say("HelloRequest", self.agent.greeting)

    def say(self, name: str, body: dict, parent_id: int = 0, buffers: tuple = ()) -> int:
        self.agent.number += 1
        header = {"msg_id": self.agent.number, "parent_id": parent_id, "session": self.agent.session}
        self.socket.send_multipart(encode(name, header, body, list(buffers)))
        return header["msg_id"]
