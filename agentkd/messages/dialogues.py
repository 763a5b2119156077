"""Who may say what, and when: one table for each dialogue, and the machine that holds two peers to them. No I/O.

The state tables and diagrams of ``protocols/dialogues.md`` are drawn from ``DIALOGUES``. A message that continues a dialogue
names the message that opened it in ``parent_id``; whatever names none that is open came too late and is dropped, since
retries and reconnections make that ordinary.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn

from agentkd.errors import LocalProtocolError, RemoteProtocolError, Rule
from agentkd.messages.bodies import (
    AssessReply,
    AssessRequest,
    Body,
    CancelRequest,
    ErrorReply,
    HeartbeatEvent,
    HelloRequest,
    KnowledgeReply,
    KnowledgeRequest,
    LeaveRequest,
    LeftEvent,
    PeersEvent,
    PingReply,
    PingRequest,
    ReleaseEvent,
    StatusReply,
    StatusRequest,
    StreamCancelEvent,
    StreamChunkEvent,
    StreamCreditEvent,
    StreamReply,
    StreamRequest,
    SubmitReply,
    SubmitRequest,
    TaskProgressEvent,
    TaskReply,
    TaskRequest,
    TeacherMovedEvent,
    TeachReply,
    TeachRequest,
    WelcomeReply,
)

MAX_OPEN = 8192
NEW, OPEN, END = "new", "open", "end"


class Speaker(StrEnum):
    """Who says a message. The coordinator's messages go to agents, the agents' to their coordinator."""

    OPENER = "opener"
    ANSWERER = "answerer"
    COORDINATOR = "coordinator"
    AGENT = "agent"
    EITHER = "either"


@dataclass(frozen=True)
class Transition:
    """In ``state``, ``speaker`` may say ``message``; then the dialogue is in the state ``then``."""

    state: str
    speaker: Speaker
    message: type[Body]
    then: str


@dataclass(frozen=True)
class Dialogue:
    """A legal sequence of messages. The first move opens it, unless it lasts as long as the connection (``join``, ``life``)."""

    name: str
    purpose: str
    moves: tuple[Transition, ...]


def _ask(name: str, purpose: str, request: type[Body], reply: type[Body], asker: Speaker = Speaker.OPENER) -> Dialogue:
    answerer = {Speaker.OPENER: Speaker.ANSWERER, Speaker.COORDINATOR: Speaker.AGENT}[asker]
    return Dialogue(
        name,
        purpose,
        (
            Transition(NEW, asker, request, "asked"),
            Transition("asked", answerer, reply, END),
            Transition("asked", answerer, ErrorReply, END),
        ),
    )


JOIN = Dialogue(
    "join",
    "Two peers learn each other's session, version and abilities. Nothing else may be said before.",
    (
        Transition(NEW, Speaker.OPENER, HelloRequest, "greeted"),
        Transition("greeted", Speaker.OPENER, HelloRequest, "greeted"),
        Transition("greeted", Speaker.ANSWERER, WelcomeReply, OPEN),
        Transition("greeted", Speaker.ANSWERER, ErrorReply, NEW),
        Transition(OPEN, Speaker.OPENER, HelloRequest, "greeted"),
    ),
)
LIFE = Dialogue(
    "life",
    "What may be said at any time while the connection is open.",
    (
        Transition(OPEN, Speaker.AGENT, HeartbeatEvent, OPEN),
        Transition(OPEN, Speaker.COORDINATOR, PeersEvent, OPEN),
        Transition(OPEN, Speaker.COORDINATOR, TeacherMovedEvent, OPEN),
        Transition(OPEN, Speaker.EITHER, ReleaseEvent, OPEN),
        Transition(OPEN, Speaker.AGENT, LeftEvent, OPEN),
    ),
)
DIALOGUES = (
    JOIN,
    LIFE,
    _ask("ping", "Is somebody there?", PingRequest, PingReply),
    _ask("status", "How an agent is.", StatusRequest, StatusReply, Speaker.COORDINATOR),
    Dialogue(
        "task",
        "The coordinator has a task done. Cancelling asks for an end at the next step; the result may still win the race.",
        (
            Transition(NEW, Speaker.COORDINATOR, TaskRequest, "given"),
            Transition("given", Speaker.AGENT, TaskProgressEvent, "given"),
            Transition("given", Speaker.AGENT, TaskReply, END),
            Transition("given", Speaker.AGENT, ErrorReply, END),
            Transition("given", Speaker.COORDINATOR, CancelRequest, "cancelling"),
            Transition("cancelling", Speaker.COORDINATOR, CancelRequest, "cancelling"),
            Transition("cancelling", Speaker.AGENT, TaskProgressEvent, "cancelling"),
            Transition("cancelling", Speaker.AGENT, TaskReply, END),
            Transition("cancelling", Speaker.AGENT, ErrorReply, END),
        ),
    ),
    Dialogue(
        "submit",
        "A script in another process has the coordinator have a task done. If the script goes away the task goes on.",
        (
            Transition(NEW, Speaker.AGENT, SubmitRequest, "taken"),
            Transition("taken", Speaker.COORDINATOR, TaskProgressEvent, "taken"),
            Transition("taken", Speaker.COORDINATOR, SubmitReply, END),
            Transition("taken", Speaker.COORDINATOR, ErrorReply, END),
        ),
    ),
    _ask("teach", "An agent adopts weights and becomes a teacher.", TeachRequest, TeachReply, Speaker.COORDINATOR),
    _ask("knowledge", "A student asks a teacher, or anybody who holds the weights.", KnowledgeRequest, KnowledgeReply),
    _ask("assess", "Does this network know such images?", AssessRequest, AssessReply),
    Dialogue(
        "stream",
        "A long piece in chunks, as far as the receiver's credit reaches. To resume, the receiver opens another at an offset.",
        (
            Transition(NEW, Speaker.OPENER, StreamRequest, "flowing"),
            Transition("flowing", Speaker.ANSWERER, StreamChunkEvent, "flowing"),
            Transition("flowing", Speaker.OPENER, StreamCreditEvent, "flowing"),
            Transition("flowing", Speaker.OPENER, StreamCancelEvent, END),
            Transition("flowing", Speaker.ANSWERER, StreamReply, END),
            Transition("flowing", Speaker.ANSWERER, ErrorReply, END),
        ),
    ),
    Dialogue(
        "leave",
        "The coordinator ends an agent's process; the agent finishes what it does first.",
        (
            Transition(NEW, Speaker.COORDINATOR, LeaveRequest, "leaving"),
            Transition("leaving", Speaker.AGENT, LeftEvent, END),
        ),
    ),
)

_LASTING = {move.message: move.speaker for move in LIFE.moves}
_OPENING = {dialogue.moves[0].message: dialogue for dialogue in DIALOGUES if dialogue not in (JOIN, LIFE)}
_NEXT = {
    dialogue.name: {(move.state, move.message): move for move in dialogue.moves} for dialogue in DIALOGUES if dialogue is not LIFE
}


@dataclass(frozen=True)
class Step:
    """A legal next step: which dialogue (by who opened it and the number of the opening message) and where it leads."""

    key: tuple[bool, int] | None
    name: str
    then: str


_STAY = Step(None, LIFE.name, OPEN)


class Conversation:
    """Everything that one peer and this side are in the middle of. Not thread-safe: the I/O thread owns it."""

    def __init__(self, *, i_coordinate: bool, peer_coordinates: bool) -> None:
        self._coordinates = {True: i_coordinate, False: peer_coordinates}
        self._open: dict[tuple[bool, int], tuple[str, str]] = {}
        self._i_greeted, self._greeting = False, 0
        self.join_state = NEW

    @property
    def is_open(self) -> bool:
        """Whether both sides have greeted."""
        return self.join_state == OPEN

    @property
    def num_open(self) -> int:
        """Dialogues that wait for something."""
        return len(self._open)

    def judge(self, body: Body, *, is_mine: bool, msg_id: int, parent_id: int) -> Step | None:
        """The step that a message would be; ``None`` if it belongs to no dialogue that is open (late: drop it).

        Raises:
            LocalProtocolError: this side must not say that now.
            RemoteProtocolError: the peer must not (rule ``greeting``, ``order`` or ``role``).
        """
        kind = type(body)
        if kind is HelloRequest or kind is WelcomeReply or self.is_answer_to_greeting(body, parent_id):
            return self._judge_join(kind, msg_id, is_mine=is_mine)
        if self.join_state != OPEN:
            if kind is ErrorReply:
                return None
            _refuse(Rule.GREETING, f"{kind.__name__} before the greeting", is_mine)
        if kind in _LASTING and not (kind is LeftEvent and parent_id):
            self._check_speaker(_LASTING[kind], kind, is_mine)
            return _STAY
        dialogue = _OPENING.get(kind)
        if dialogue is not None:
            self._check_speaker(dialogue.moves[0].speaker, kind, is_mine)
            return Step((is_mine, msg_id), dialogue.name, dialogue.moves[0].then)
        return self._judge_next(kind, parent_id, is_mine=is_mine)

    def take(self, step: Step) -> None:
        """Takes a step that was judged legal."""
        if step.name == JOIN.name:
            self.join_state = step.then
            self._i_greeted, self._greeting = step.key or (self._i_greeted, self._greeting)
        elif step.key is not None and step.then == END:
            self._open.pop(step.key, None)
        elif step.key is not None:
            self._open[step.key] = (step.name, step.then)
            if len(self._open) > MAX_OPEN:
                self._open.pop(next(iter(self._open)))

    def abandon(self, msg_id: int) -> None:
        """Forgets a dialogue that the peer opened with this message, because it was refused."""
        self._open.pop((False, msg_id), None)

    def would_answer(self, kind: type[Body], parent_id: int) -> bool:
        """Whether such a message of the peer would end a dialogue that this side opened."""
        name, state = self._open.get((True, parent_id), ("", ""))
        found = _NEXT[name].get((state, kind)) if name else None
        return found is not None and found.then == END

    def is_answer_to_greeting(self, body: Body, parent_id: int) -> bool:
        """Whether this is the error that answers the greeting under way."""
        return type(body) is ErrorReply and self.join_state == "greeted" and parent_id == self._greeting

    def _judge_join(self, kind: type[Body], msg_id: int, *, is_mine: bool) -> Step | None:
        if kind is WelcomeReply and self.join_state == OPEN and not is_mine:
            return None  # it answers a greeting that was said twice, or crossed the other side's
        found = _NEXT[JOIN.name].get((self.join_state, kind))
        if found is None:
            _refuse(Rule.ORDER, f"{kind.__name__} in the state {self.join_state!r}", is_mine)
        is_hello = kind is HelloRequest
        if not is_hello and not _may(found.speaker, is_mine == self._i_greeted, *self._coordinators(is_mine)):
            _refuse(Rule.ROLE, f"{kind.__name__} may be said by: {found.speaker}", is_mine)
        return Step((is_mine, msg_id) if is_hello else None, JOIN.name, found.then)

    def _judge_next(self, kind: type[Body], parent_id: int, *, is_mine: bool) -> Step | None:
        is_known = False
        for i_opened in (not is_mine, is_mine):
            name, state = self._open.get((i_opened, parent_id), ("", ""))
            if not name:
                continue
            is_known = True
            found = _NEXT[name].get((state, kind))
            if found and _may(found.speaker, is_mine == i_opened, *self._coordinators(is_mine)):
                return Step((i_opened, parent_id), name, found.then)
        if is_known and not is_mine:
            _refuse(Rule.ORDER, f"{kind.__name__} does not continue the dialogue of message {parent_id}", is_mine)
        return None

    def _coordinators(self, is_mine: bool) -> tuple[bool, bool]:
        """Whether who speaks coordinates, and whether who listens does."""
        return self._coordinates[is_mine], self._coordinates[not is_mine]

    def _check_speaker(self, speaker: Speaker, kind: type[Body], is_mine: bool) -> None:
        if not _may(speaker, True, *self._coordinators(is_mine)):
            _refuse(Rule.ROLE, f"{kind.__name__} may be said by: {speaker}", is_mine)


def _may(speaker: Speaker, has_opened: bool, coordinates: bool, is_told_coordinator: bool) -> bool:
    if speaker is Speaker.OPENER:
        return has_opened
    if speaker is Speaker.ANSWERER:
        return not has_opened
    if speaker is Speaker.COORDINATOR:
        return coordinates
    return is_told_coordinator if speaker is Speaker.AGENT else True


def _refuse(rule: Rule, text: str, is_mine: bool) -> NoReturn:
    if is_mine:
        raise LocalProtocolError(text)
    raise RemoteProtocolError(text, rule)
