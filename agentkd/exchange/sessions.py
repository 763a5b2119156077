"""The sessions of one key with its peers: who is greeted, what waits, what is said again. No sockets, no clock, no threads.

Events are method calls, with the time (monotonic seconds) where it matters; each returns the list of actions that it leads to.
They are carried out in order. A ``Send`` is answered with ``went`` or ``stuck`` first of all: what that leads to comes before the
next action of the list. So messages to one peer leave in order, one at a time, and a dialogue moves only when they left.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from agentkd.errors import LocalProtocolError, ProtocolError, RemoteProtocolError, ResultError, Rule
from agentkd.messages.bodies import Body, ErrorReply, HelloRequest, WelcomeReply
from agentkd.messages.dialogues import Conversation, Step
from agentkd.messages.wire import MINOR, Buffer, Message
from agentkd.names import AgentName, PublicKey

SEND_GIVE_UP_S = 30.0
SEND_RETRY_S = 0.02
GREET_AGAIN_S = 1.0
MAX_REFUSAL_CHARACTERS = 2000


class Reason(StrEnum):
    """Why a message of ours is not sent."""

    GIVEN_UP = "nobody took it in time"
    LATE = "its dialogue is over"
    ILLEGAL = "the protocol does not allow it"
    UNWELCOME = "the greeting was refused"
    FORGOTTEN = "its receiver was given up"


@dataclass(frozen=True)
class Dial:
    """Open a lane to a peer, anew if there is one."""

    peer: PublicKey
    endpoint: str


@dataclass(frozen=True)
class HangUp:
    """Close the lanes that were opened to a peer."""

    peer: PublicKey


@dataclass(frozen=True)
class Send:
    """Hand a message to the channel, then say ``went`` or ``stuck``.

    It is tried again until ``give_up_at``; 0 means now or never. ``frames`` are those of the message, if they are made already.
    """

    peer: PublicKey
    message: Message
    bulk: bool = False
    give_up_at: float = 0.0
    frames: tuple[Buffer, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class Deliver:
    """Hand a message of a peer in."""

    peer: PublicKey
    message: Message


@dataclass(frozen=True)
class Refuse:
    """Count a message of a peer as refused, and tell it so, if there is an ``answer``: at once or never."""

    peer: PublicKey
    rule: Rule
    text: str
    answer: Message | None


@dataclass(frozen=True)
class Drop:
    """A message of ours is given up."""

    peer: PublicKey
    message: Message
    reason: Reason
    text: str = ""


@dataclass(frozen=True)
class Late:
    """A message of a peer belongs to nothing that is open: count it."""

    peer: PublicKey
    message: Message


@dataclass(frozen=True)
class Opened:
    """Both sides have greeted. ``dialed`` is where the peer was reached, if it was."""

    peer: PublicKey
    greeting: HelloRequest | WelcomeReply
    dialed: str


@dataclass(frozen=True)
class Ended:
    """A session is over, and with it everything that was said in it."""

    peer: PublicKey


@dataclass(frozen=True)
class Unwelcome:
    """A peer refused the greeting; it is not greeted again before it is dialed anew."""

    peer: PublicKey
    text: str


Action = Dial | HangUp | Send | Deliver | Refuse | Drop | Late | Opened | Ended | Unwelcome


@dataclass(frozen=True)
class Introduction:
    """Who speaks, and how it introduces itself.

    Args:
        key: its public key.
        session: that of this process, 16 hexadecimal digits.
        coordinator_key: the key whose owner coordinates; empty if nobody does.
        hello: what is said to a peer that is dialed.
        welcome: what a peer that greets is told, by its key and greeting.
        name_of: the name that belongs to a key; empty if it has none.
    """

    key: PublicKey
    session: str
    coordinator_key: PublicKey
    hello: HelloRequest
    welcome: Callable[[PublicKey, HelloRequest], WelcomeReply]
    name_of: Callable[[PublicKey], AgentName]


@dataclass
class _Session:
    """One peer.

    Args:
        greeted_at: when a greeting was said that is not answered yet, by either side, if the peer was dialed.
        has_opened: from ``Opened`` until ``Ended``.
        step: where its conversation gets if the message leaves that was offered last.
        waiting: what could not be sent yet, in order.
    """

    key: PublicKey
    conversation: Conversation
    session: str = ""
    greeting: HelloRequest | WelcomeReply | None = None
    dialed: str = ""
    greeted_at: float | None = None
    has_opened: bool = False
    step: Step | None = None
    waiting: deque[Send] = field(default_factory=deque)

    @property
    def is_open(self) -> bool:
        return self.conversation.is_open

    @property
    def is_blank(self) -> bool:
        """Whether nothing would be lost with it."""
        return not (self.session or self.dialed or self.waiting)


class Sessions:
    """Every session of one key. ``numbers`` are those of its messages."""

    def __init__(self, me: Introduction, numbers: Iterator[int]) -> None:
        self._me, self._numbers = me, numbers
        self._peers: dict[PublicKey, _Session] = {}
        self._restless: dict[
            PublicKey, None
        ] = {}  # keys of those that something waits for: a message, or an answer to the greeting

    @property
    def num_waiting(self) -> int:
        """Messages that could not be sent yet."""
        return sum(len(self._peers[key].waiting) for key in self._restless)

    @property
    def peers(self) -> tuple[PublicKey, ...]:
        """The keys of which anything is known."""
        return tuple(self._peers)

    def is_open(self, key: PublicKey) -> bool:
        """Whether both sides have greeted."""
        return key in self._peers and self._peers[key].is_open

    def wait_s(self, now: float) -> float:
        """Seconds until ``tick`` has something to do; infinite if only an event can change that."""
        due = math.inf
        for key in self._restless:
            peer = self._peers[key]
            if peer.waiting:
                due = min(due, SEND_RETRY_S if peer.is_open else peer.waiting[0].give_up_at - now)
            if peer.greeted_at is not None:
                due = min(due, peer.greeted_at + GREET_AGAIN_S - now)
        return max(0.0, due)

    # What this side does.

    def dial(self, key: PublicKey, endpoint: str, now: float) -> list[Action]:
        """A peer is to be reached there, and greeted."""
        peer = self._known(key)
        peer.dialed = endpoint
        return [Dial(key, endpoint), *self._greet(peer, now)]

    def say(self, key: PublicKey, message: Message, now: float, frames: tuple[Buffer, ...] = ()) -> list[Action]:
        """A message for a peer, which is sent after what waits for it already, and not before it is greeted."""
        peer = self._known(key)
        send = Send(key, message, give_up_at=now + SEND_GIVE_UP_S, frames=frames)
        if peer.is_open and not peer.waiting:
            return [self._judged(peer, send)]
        peer.waiting.append(send)
        self._restless[key] = None
        return []

    def stream(self, key: PublicKey, message: Message, frames: tuple[Buffer, ...] = ()) -> list[Action]:
        """A message for the lane of long pieces: now or never. No action at all if the peer is not greeted."""
        if not self.is_open(key):
            return []
        return [self._judged(self._peers[key], Send(key, message, bulk=True, frames=frames))]

    def went(self, send: Send) -> list[Action]:
        """The channel took a message."""
        peer = self._peers.get(send.peer)
        if peer is None:
            return []
        if peer.step is not None:
            peer.conversation.take(peer.step)
            peer.step = None
        if isinstance(send.message.body, WelcomeReply):
            peer.greeted_at = None
            return [self._open(peer), *self._next(peer)]
        return self._next(peer) if send.give_up_at else []

    def stuck(self, send: Send) -> list[Action]:
        """The channel did not take a message: its lane is full, or nobody is there now."""
        peer = self._peers.get(send.peer)
        if peer is not None:
            peer.step = None
            if send.give_up_at:
                peer.waiting.appendleft(send)
                self._restless[peer.key] = None
        return []

    def forget(self, key: PublicKey) -> list[Action]:
        """A peer is given up, with everything that waits for it."""
        peer = self._peers.pop(key, None)
        self._restless.pop(key, None)
        waiting = peer.waiting if peer is not None else ()
        return [HangUp(key), Ended(key), *(Drop(key, send.message, Reason.FORGOTTEN) for send in waiting)]

    # What happens.

    def arrived(self, key: PublicKey, message: Message, now: float) -> list[Action]:
        """A peer said something."""
        try:
            if isinstance(message.body, HelloRequest):
                return self._greeted(key, message, message.body, now)
            return self._heard(key, message, now)
        except RemoteProtocolError as error:
            is_answered = not isinstance(message.body, ErrorReply)
            return self.refuse(key, message.msg_id, error.rule, str(error), is_answered=is_answered)

    def refuse(self, key: PublicKey, msg_id: int, rule: Rule, text: str, *, is_answered: bool = True) -> list[Action]:
        """Something that a peer said is refused, here or by whoever it was delivered to. An error must not be answered."""
        if key in self._peers:
            self._peers[key].conversation.abandon(msg_id)
        error = ErrorReply(
            code=ProtocolError.code, rule=rule, remote_type=RemoteProtocolError.__name__, text=text[:MAX_REFUSAL_CHARACTERS]
        )
        return [Refuse(key, rule, text, self._message(error, msg_id) if is_answered else None)]

    def misread(self, key: PublicKey, kind: type[Body] | None, error: RemoteProtocolError) -> list[Action]:
        """Something that a peer said, of that kind if it has one, cannot be read.

        Would it have ended a dialogue, it does: whoever waits for an answer is handed an error in its place.
        """
        actions = self.refuse(key, error.msg_id, error.rule, str(error), is_answered=kind is not ErrorReply)
        peer = self._peers.get(key)
        if peer is None or kind is None or not peer.conversation.would_answer(kind, error.parent_id):
            return actions
        text = f"its answer cannot be read: {error}"[:MAX_REFUSAL_CHARACTERS]
        instead = ErrorReply(code=ResultError.code, remote_type=ResultError.__name__, text=text)
        step = peer.conversation.judge(instead, is_mine=False, msg_id=error.msg_id, parent_id=error.parent_id)
        assert step is not None
        peer.conversation.take(step)
        return [*actions, Deliver(key, Message(instead, error.msg_id, error.parent_id, peer.session))]

    def tick(self, now: float) -> list[Action]:
        """Time passes: what waited too long is dropped, what is stuck is tried again, who did not answer is dialed anew."""
        actions: list[Action] = []
        for key in list(self._restless):
            peer = self._peers[key]
            while peer.waiting and peer.waiting[0].give_up_at <= now:
                actions.append(Drop(key, peer.waiting.popleft().message, Reason.GIVEN_UP))
            if peer.greeted_at is not None and now >= peer.greeted_at + GREET_AGAIN_S:
                actions += self.dial(key, peer.dialed, now)
            actions += self._next(peer)
            if not peer.waiting and peer.greeted_at is None:
                del self._restless[key]
            if peer.is_blank:
                del self._peers[key]
        return actions

    def _greet(self, peer: _Session, now: float) -> list[Action]:
        """Greets, which nothing needs to have answered. It counts as said: what does not arrive is said again."""
        actions = self._end(peer)
        peer.session, peer.greeting, peer.greeted_at = "", None, now
        self._restless[peer.key] = None
        hello = self._message(self._me.hello)
        step = peer.conversation.judge(hello.body, is_mine=True, msg_id=hello.msg_id, parent_id=0)
        assert step is not None
        peer.conversation.take(step)
        return [*actions, Send(peer.key, hello)]

    def _greeted(self, key: PublicKey, message: Message, hello: HelloRequest, now: float) -> list[Action]:
        """Answers a greeting. The same one again is answered again; another one in the same session is refused.

        If the welcome does not leave, whoever was dialed is greeted again: it may have hung up and not come back by itself.
        """
        known = self._peers.get(key)
        is_new = known is None or known.session != message.session
        if known is not None and not is_new and isinstance(known.greeting, HelloRequest) and known.greeting != hello:
            raise RemoteProtocolError("a second, different greeting in one session", Rule.ORDER)
        if not hello.minor_min <= MINOR <= hello.minor_max:
            text = f"this side speaks minor version {MINOR}, the peer {hello.minor_min} to {hello.minor_max}"
            raise RemoteProtocolError(text, Rule.VERSION)
        name = self._me.name_of(key)
        if hello.agent and name and hello.agent != name:
            raise RemoteProtocolError(f"this key belongs to {name!r}, not to {hello.agent!r}", Rule.IDENTITY)
        peer = self._known(key)
        actions: list[Action] = []
        if is_new:
            actions = self._end(peer)
            peer.session = message.session
        if peer.dialed:
            peer.greeted_at = now
            self._restless[key] = None
        peer.greeting = hello
        step = peer.conversation.judge(hello, is_mine=False, msg_id=message.msg_id, parent_id=0)
        assert step is not None
        peer.conversation.take(step)
        welcome = Send(key, self._message(self._me.welcome(key, hello), message.msg_id))
        return [*actions, self._judged(peer, welcome), *([Deliver(key, message)] if is_new else [])]

    def _heard(self, key: PublicKey, message: Message, now: float) -> list[Action]:
        body, parent_id = message.body, message.parent_id
        peer = self._peers.get(key) or _Session(key, self._new_conversation(key))
        is_other = bool(peer.session) and message.session != peer.session
        if is_other and not isinstance(body, WelcomeReply | ErrorReply):
            raise RemoteProtocolError(f"session {message.session} is not the one that greeted, {peer.session}", Rule.SESSION)
        if (is_other and isinstance(body, WelcomeReply)) or (isinstance(body, ErrorReply) and _is_forgotten(peer, body)):
            return self._greet(peer, now)  # it was started again
        is_refusal = peer.conversation.is_answer_to_greeting(body, parent_id)
        step = peer.conversation.judge(body, is_mine=False, msg_id=message.msg_id, parent_id=parent_id)
        if step is None:
            return [Late(key, message)]
        peer.conversation.take(step)
        if isinstance(body, WelcomeReply):
            peer.session, peer.greeting, peer.greeted_at = message.session, body, None
            return [self._open(peer), Deliver(key, message), *self._next(peer)]
        if is_refusal and isinstance(body, ErrorReply):
            peer.greeted_at = None
            dropped = [Drop(key, send.message, Reason.UNWELCOME) for send in peer.waiting]
            peer.waiting.clear()
            return [Unwelcome(key, body.text), *dropped, Deliver(key, message)]
        return [Deliver(key, message)]

    def _next(self, peer: _Session) -> list[Action]:
        """Offers the first message that waits for a greeted peer; what may not be said any more is dropped before it."""
        actions: list[Action] = []
        while peer.is_open and peer.waiting:
            actions.append(self._judged(peer, peer.waiting.popleft()))
            if isinstance(actions[-1], Send):
                break
        return actions

    def _judged(self, peer: _Session, send: Send) -> Send | Drop:
        message = send.message
        try:
            step = peer.conversation.judge(message.body, is_mine=True, msg_id=message.msg_id, parent_id=message.parent_id)
        except LocalProtocolError as error:
            return Drop(peer.key, message, Reason.ILLEGAL, str(error))
        peer.step = step
        return send if step is not None else Drop(peer.key, message, Reason.LATE)

    def _open(self, peer: _Session) -> Opened:
        assert peer.greeting is not None
        peer.has_opened = True
        return Opened(peer.key, peer.greeting, peer.dialed)

    def _end(self, peer: _Session) -> list[Action]:
        """Begins a new conversation with a peer; the one before, if both sides had greeted, is over."""
        had_opened, peer.has_opened = peer.has_opened, False
        peer.conversation = self._new_conversation(peer.key)
        return [Ended(peer.key)] if had_opened else []

    def _message(self, body: HelloRequest | WelcomeReply | ErrorReply, parent_id: int = 0) -> Message:
        return Message(body, next(self._numbers), parent_id, self._me.session)

    def _known(self, key: PublicKey) -> _Session:
        if key not in self._peers:
            self._peers[key] = _Session(key, self._new_conversation(key))
        return self._peers[key]

    def _new_conversation(self, key: PublicKey) -> Conversation:
        coordinator = self._me.coordinator_key
        return Conversation(i_coordinate=coordinator == self._me.key, peer_coordinates=coordinator == key)


def _is_forgotten(peer: _Session, error: ErrorReply) -> bool:
    """Whether a peer that was dialed and greeted does not know us any more: it was started again, or hung up."""
    return error.code == ProtocolError.code and error.rule == Rule.GREETING and bool(peer.dialed) and peer.is_open
