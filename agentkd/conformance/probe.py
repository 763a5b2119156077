"""The kit's own end of a connection: says anything, legal or not, and hears everything. It coordinates the agent under test."""

import itertools
import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from agentkd.errors import RemoteProtocolError, ReplyTimeoutError
from agentkd.exchange.channel import Frames
from agentkd.exchange.keys import KeyPair
from agentkd.exchange.zeromq import ZeroMQChannel
from agentkd.messages.bodies import Body, ErrorReply, HeartbeatEvent, HelloRequest, PingReply, WelcomeReply
from agentkd.messages.vectors import SESSION
from agentkd.messages.wire import Buffer, Message, acting_texts, decode, encode, seal_plain
from agentkd.names import AgentName, Digest, PublicKey

ANSWER_S = 5.0
FIRST_NUMBER = 1_000_000  # what a vector says has a small number, and its refusal is no answer to what is asked here
DIAL_AGAIN_S = 2.0
TURN_S = 1.0
Kind = TypeVar("Kind", bound=Body)


class BrokenClauseError(Exception):
    """The agent did not do what a clause says."""


@dataclass(frozen=True)
class Waits:
    """What an agent is given time for.

    Args:
        silence_s: how long nothing must come to count as no answer.
        heartbeat_s: how often one that dials is asked for its heartbeat.
        deed_s: until it does what it does of itself: beats, dials, leaves.
    """

    silence_s: float = 0.5
    heartbeat_s: float = 0.5
    deed_s: float = 15.0


@dataclass(frozen=True)
class Heard:
    """A message and those of its texts that act on a terminal, or frames that are none (then ``problem`` says why)."""

    message: Message | None
    problem: str = ""
    arrived_s: float = 0.0
    acting: tuple[str, ...] = ()


class Probe:
    """A conversation with one agent. Use as a context manager.

    ``said`` is every message that was heard from it, in order; ``said_since`` those since the clause began. ``beats_s`` is when
    its heartbeats arrived, ``pace_s`` how often they should by the welcome (0 if there was none), ``acting`` what it said that
    acts on a terminal, ``taught`` the weights that it teaches, once that has been found out.

    Args:
        endpoint: where the agent listens (``is_listening`` false), or where to wait for it to dial.
        agent_key: the agent's public key (Z85).
    """

    def __init__(
        self,
        endpoint: str,
        keys: KeyPair,
        agent_key: PublicKey,
        *,
        is_listening: bool = False,
        waits: Waits = Waits(),
    ) -> None:
        self.key, self.agent_key, self.is_listening, self.waits = keys.public, agent_key, is_listening, waits
        self._endpoint = endpoint
        self._inbox: queue.SimpleQueue[Heard] = queue.SimpleQueue()
        self._number, self._texts = FIRST_NUMBER, itertools.count(1)
        self.said: list[Message] = []
        self.beats_s: list[float] = []
        self.acting: list[str] = []
        self.pace_s = 0.0
        self.taught: Digest | None = None
        self.patience_s = ANSWER_S  # how long a message may wait for a connection
        self._said_before = 0
        self._channel = ZeroMQChannel(keys, lambda key: key == agent_key, (endpoint if is_listening else "tcp://127.0.0.1:*",))
        self.session, self.heard_hello = SESSION, HelloRequest()
        self._greeting: Message | None = None  # that nobody has taken note of yet
        self.endpoint = self._channel.endpoints[0]

    def __enter__(self) -> "Probe":
        self._channel.start(self._arrived, lambda: TURN_S)
        if not self.is_listening:
            self._channel.call(lambda: self._channel.connect(self.agent_key, self._endpoint))
        return self

    def __exit__(self, *exc: object) -> None:
        self._channel.close()

    @property
    def said_since(self) -> list[Message]:
        """What was heard since ``forget``."""
        return self.said[self._said_before :]

    def next_text(self) -> int:
        """A number that was not used before."""
        return next(self._texts)

    def beside(self, keys: KeyPair) -> "Probe":
        """Another peer of the same agent: it listens where this one does, or dials as this one does. To be opened yet."""
        scheme, _, where = self.endpoint.partition("://")
        anywhere = "ipc://*" if scheme == "ipc" else f"{scheme}://{where.rpartition(':')[0]}:*"
        place = anywhere if self.is_listening else self._endpoint
        return Probe(place, keys, self.agent_key, is_listening=self.is_listening, waits=self.waits)

    def greet(self, hello: HelloRequest | None = None, *, timeout_s: float = ANSWER_S) -> Message:
        """Greets and returns the answer; of an agent that dials its greeting, which may have come before, or is waited for."""
        if self.is_listening:
            wanted = self._greeting or self.hear(timeout_s=timeout_s, wanted=lambda one: isinstance(one.body, HelloRequest))
            self._greeting = None
            return wanted
        return self.reach(hello or HelloRequest(), timeout_s=timeout_s)

    def reach(self, body: Body, *, session: str = "", timeout_s: float = ANSWER_S) -> Message:
        """The answer of an agent that perhaps does not listen yet: it is dialed anew, and told again, until it answers.

        Raises:
            ReplyTimeoutError: it did not.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return self.ask(body, session=session, timeout_s=min(DIAL_AGAIN_S, deadline - time.monotonic()))
            except ReplyTimeoutError:
                if time.monotonic() >= deadline:
                    raise
                self._channel.call(lambda: self._channel.connect(self.agent_key, self._endpoint))

    def say(self, body: Body, *, parent_id: int = 0, buffers: tuple[Buffer, ...] = (), session: str = "") -> int:
        """Says something; returns its number."""
        self._number += 1
        self.send(encode(Message(body, self._number, parent_id, session or self.session, 0, buffers)))
        return self._number

    def say_plain(self, kind: type[Body], body: dict[str, Any], buffers: tuple[Buffer, ...] = (), **header: Any) -> int:
        """Says a message whose body is any map, with these entries in its header besides its own; returns its number."""
        self._number += 1
        head = {"msg_id": self._number, "parent_id": 0, "session": self.session} | header
        self.send([seal_plain(kind, head, body), *buffers])
        return self._number

    def send(self, frames: Frames) -> None:
        """Sends frames as they are."""

        def send() -> None:
            deadline = time.monotonic() + self.patience_s
            while not self._channel.send(self.agent_key, frames) and time.monotonic() < deadline:
                time.sleep(0.01)

        self._channel.call(send)

    def ask(self, body: Body, *, buffers: tuple[Buffer, ...] = (), session: str = "", timeout_s: float = ANSWER_S) -> Message:
        """Says something and returns the answer to it."""
        number = self.say(body, buffers=buffers, session=session)
        return self.hear(number, timeout_s=timeout_s)

    def want(self, kind: type[Kind], body: Body, *, buffers: tuple[Buffer, ...] = (), timeout_s: float = ANSWER_S) -> Kind:
        """The answer to a request, which must be of this kind.

        Raises:
            BrokenClauseError: it is another.
        """
        answer = self.ask(body, buffers=buffers, timeout_s=timeout_s).body
        if not isinstance(answer, kind):
            text = f": {answer.text}" if isinstance(answer, ErrorReply) else ""
            raise BrokenClauseError(f"{type(body).__name__} was answered with {type(answer).__name__}{text}")
        return answer

    def hear(
        self,
        parent_id: int | None = None,
        *,
        timeout_s: float = ANSWER_S,
        wanted: Callable[[Message], bool] = lambda message: True,
    ) -> Message:
        """The next message that is wanted, or the next one of those with that parent.

        Raises:
            BrokenClauseError: what came is no message.
            ReplyTimeoutError: nothing came.
        """
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            try:
                heard = self._inbox.get(timeout=left_s)
            except queue.Empty:
                break
            if heard.message is None:
                raise BrokenClauseError(f"the agent sent what is no message: {heard.problem}")
            self._note(heard)
            if parent_id in (None, heard.message.parent_id) and wanted(heard.message):
                return heard.message
        raise ReplyTimeoutError("the agent", "a message", timeout_s)

    def forget(self) -> None:
        """Passes over what has come so far."""
        while not self._inbox.empty():
            heard = self._inbox.get()
            self._note(heard)
        self._said_before = len(self.said)

    def _note(self, heard: Heard) -> None:
        """Writes a message down, and welcomes an agent that has dialed."""
        message = heard.message
        if message is None:
            return
        self.said.append(replace(message, buffers=()))
        self.acting += [f"{type(message.body).__name__}: {text}" for text in heard.acting]
        if isinstance(message.body, HeartbeatEvent):
            self.beats_s.append(heard.arrived_s)
        if isinstance(message.body, WelcomeReply):
            self.pace_s = message.body.heartbeat_s
        if self.is_listening and isinstance(message.body, HelloRequest):
            self._greeting, self.heard_hello, self.pace_s = message, message.body, self.waits.heartbeat_s
            welcome = WelcomeReply(agent=AgentName("agent"), heartbeat_s=self.waits.heartbeat_s, lease_s=20.0)
            self.say(welcome, parent_id=message.msg_id)

    def _arrived(self, sender: PublicKey, frames: Sequence[Buffer]) -> None:
        now, copied = time.monotonic(), [bytes(frame) for frame in frames]
        try:
            message = decode(copied)
        except RemoteProtocolError as error:
            self._inbox.put(Heard(None, str(error)))
        else:
            is_echo = isinstance(message.body, PingReply)
            self._inbox.put(Heard(message, arrived_s=now, acting=() if is_echo else acting_texts(copied)))
