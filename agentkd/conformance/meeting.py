"""Clauses on peers: whom the coordinator names may speak, for what it was granted; whom it names no more may not."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from agentkd.conformance.clause import Clause, expect, expect_error, expect_refusal, is_there
from agentkd.conformance.knowing import ANSWER_S, Subject, of_a_teacher
from agentkd.conformance.pieces import SIDE, images
from agentkd.conformance.probe import BrokenClauseError, Probe
from agentkd.conformance.working import a_task
from agentkd.errors import ReplyTimeoutError, Rule
from agentkd.exchange.keys import new_key_pair
from agentkd.messages.bodies import (
    AdmittedPeer,
    AssessReply,
    AssessRequest,
    Body,
    ErrorReply,
    HelloRequest,
    KnowledgeKind,
    KnowledgeReply,
    KnowledgeRequest,
    LeaveRequest,
    PeersEvent,
    PingReply,
    PingRequest,
    StatusRequest,
    StreamChunkEvent,
    StreamCreditEvent,
    StreamRequest,
    TaskRequest,
    Way,
    WelcomeReply,
)
from agentkd.names import AgentName

CHUNK_BYTES = 4096
OF_COORDINATORS: tuple[Body, ...] = (
    StatusRequest(),
    PeersEvent(peers=()),
    TaskRequest(task=a_task(4), attempt=1),
)
TAUGHT = (KnowledgeKind.SOFT_TARGETS, KnowledgeKind.ASSESSMENT, KnowledgeKind.WEIGHTS)  # what every teacher may be asked for


def meeting(num_classes: int) -> list[Clause]:
    """What a ``PeersEvent`` means."""

    def clause(name: str, text: str, check: Callable[[Probe, Subject], str | None]) -> Clause:
        return Clause(name, text, of_a_teacher(check, num_classes))

    return [
        Clause("peers.named", "a peer that the coordinator names is met: admitted, or dialed if it listens", _named),
        Clause("peers.unknown_fields", "peers are met whatever else is said of them", _more_fields),
        Clause("peers.unnamed", "a peer that it names no longer is not answered any more", _unnamed),
        Clause("peers.role", "a peer that does not coordinate is refused what only a coordinator may say", _role),
        Clause("peers.greeting", "a peer is told the same as the coordinator of what is taught", _greeting),
        clause("peers.offer", "a piece that was offered to one is not streamed to another", _offer),
        clause("peers.grant", "soft targets and feature maps that a peer was not granted are refused it", _grant),
        clause("peers.grant_assessment", "an assessment that a peer was not granted is refused it", _assessment_ungranted),
        clause("peers.grant_weights", "weights that a peer was not granted are refused it", _weights_ungranted),
        clause("peers.grant_shared", "an architecture and data that a peer was not granted are refused it", _shared_ungranted),
        clause("peers.defaults", "a peer of which it is not said what it may fetch may fetch nothing", _nothing_said),
        clause("peers.taken", "a kind of knowledge that a peer is granted no longer is refused it from then on", _taken),
        clause("peers.same", "a peer is told the same as the coordinator: soft targets, weights and assessments", _same_to_peers),
        clause("peers.grant_stream", "what is granted to a peer no longer is not streamed to it either", _stream_taken),
    ]


def parting() -> list[Clause]:
    """What would end an agent that is broken so, and is therefore looked at last."""
    return [Clause("peers.leave", "a peer that does not coordinate is refused to have the agent leave", _leave_refused)]


def _leave_refused(probe: Probe) -> None:
    with _met(probe) as other:
        number = other.say(LeaveRequest())
        expect_refusal(other.hear(number).body, Rule.ROLE)
        other.want(PingReply, PingRequest(text="still here"))
    is_there(probe)


@contextmanager
def _met(probe: Probe, *may: str, **more: Any) -> Iterator[Probe]:
    """Another peer, that the agent has been told of, and perhaps ``more`` than it knows."""
    keys = new_key_pair()
    with probe.beside(keys) as other:
        peer = _described(other, may)
        probe.say_plain(PeersEvent, {"peers": [peer.model_dump(mode="json") | more]} | more)
        try:
            answer = other.greet(timeout_s=probe.waits.deed_s).body
        except ReplyTimeoutError:
            how = "does not dial" if probe.is_listening else "does not admit"
            raise BrokenClauseError(f"the agent {how} a peer that the coordinator has named") from None
        expect(isinstance(answer, WelcomeReply | HelloRequest), f"it was met with {type(answer).__name__}")
        try:
            yield other
        finally:
            probe.say(PeersEvent(peers=()))


def _named(probe: Probe) -> None:
    with _met(probe) as other:
        other.want(PingReply, PingRequest(text="other"))


def _more_fields(probe: Probe) -> None:
    with _met(probe, of_a_later_version={"a": [1]}) as other:
        other.want(PingReply, PingRequest(text="other"))


def _unnamed(probe: Probe) -> str:
    with _met(probe) as other:
        other.want(PingReply, PingRequest(text="other"))
        probe.say(PeersEvent(peers=()))
        probe.want(PingReply, PingRequest(text="heard"))
        other.patience_s = probe.waits.silence_s
        try:
            answer = other.ask(PingRequest(text="still?"), timeout_s=2 * probe.waits.silence_s).body
        except ReplyTimeoutError:
            return "silence"
        expect(isinstance(answer, ErrorReply), f"it was answered with {type(answer).__name__}")
        return "refused"


def _role(probe: Probe) -> None:
    with _met(probe) as other:
        for body in OF_COORDINATORS:
            other.forget()
            number = other.say(body)
            expect_refusal(other.hear(number).body, Rule.ROLE)
        other.want(PingReply, PingRequest(text="still here"))


def _greeting(probe: Probe) -> str | None:
    if not probe.is_listening:
        return "the agent listens: it does not greet"
    with _met(probe) as other:
        for field in ("teaches", "classes", "capabilities"):
            here, there = getattr(probe.heard_hello, field), getattr(other.heard_hello, field)
            expect(here == there, f"{field}: the coordinator was told {here}, a peer {there}")
        other.want(PingReply, PingRequest(text="welcomed"))  # who hangs up before that leaves it unsaid, and it is waited for
    return None


def _offer(probe: Probe, subject: Subject) -> str | None:
    """Each is offered a piece of images of its own, that the other then wants to be streamed, whatever else it may fetch."""
    with _met(probe, *KnowledgeKind) as other:
        pixels = {one: images(shape=(1, 3, SIDE, SIDE), high=high) for one, high in ((probe, 0.7), (other, 0.9))}
        request = subject.asking(ways=(Way.STREAM,))
        offered = set()
        for one, another in ((probe, other), (other, probe)):
            answer = one.ask(request, buffers=(pixels[one],), timeout_s=ANSWER_S).body
            if not isinstance(answer, KnowledgeReply) or answer.piece.way is not Way.STREAM:
                return "the agent does not stream"
            if answer.piece.sha256 in offered:
                return "both were offered the same piece"
            offered.add(answer.piece.sha256)
            asked = StreamRequest(sha256=answer.piece.sha256, offset=0, limit=CHUNK_BYTES, chunk_bytes=CHUNK_BYTES)
            expect_error(another.ask(asked).body, "artifact")
    return None


def _grant(probe: Probe, subject: Subject) -> None:
    with _met(probe, KnowledgeKind.ASSESSMENT) as other:
        for kind in (KnowledgeKind.SOFT_TARGETS, KnowledgeKind.FEATURE_MAPS):
            expect_refusal(_asked(other, subject, kind), Rule.GRANT)
        granted = _asked(other, subject, KnowledgeKind.ASSESSMENT)
        expect(not isinstance(granted, ErrorReply), "it is refused what it was granted too")


def _assessment_ungranted(probe: Probe, subject: Subject) -> None:
    _all_but(probe, subject, KnowledgeKind.ASSESSMENT)


def _weights_ungranted(probe: Probe, subject: Subject) -> None:
    _all_but(probe, subject, KnowledgeKind.WEIGHTS)


def _shared_ungranted(probe: Probe, subject: Subject) -> None:
    """Who does not know such a kind refuses it as such."""
    for kind in (KnowledgeKind.ARCHITECTURE, KnowledgeKind.DATA):
        for may in (_others(kind), ()):
            with _met(probe, *may) as other:
                request = KnowledgeRequest(kind=kind, weights=subject.weights)
                answer = other.ask(request, timeout_s=ANSWER_S).body
                expect(isinstance(answer, ErrorReply), f"{kind} was handed over to a peer that was not granted it")


def _all_but(probe: Probe, subject: Subject, kind: KnowledgeKind) -> None:
    """A peer that was granted every other kind, and one that was granted none, are refused this one."""
    for may in (_others(kind), ()):
        with _met(probe, *may) as other:
            expect_refusal(_asked(other, subject, kind), Rule.GRANT)


def _taken(probe: Probe, subject: Subject) -> None:
    """Each kind in turn, and what was taken before is granted again; at last all."""
    with _met(probe, *KnowledgeKind) as other:
        before = _asked(other, subject, KnowledgeKind.SOFT_TARGETS)
        expect(not isinstance(before, ErrorReply), "it is refused what it was granted")
        for kind in TAUGHT:
            _tell(probe, other, *_others(kind))
            expect_refusal(_asked(other, subject, kind), Rule.GRANT)
        _tell(probe, other, KnowledgeKind.SOFT_TARGETS)
        again = _asked(other, subject, KnowledgeKind.SOFT_TARGETS)
        expect(not isinstance(again, ErrorReply), "it is refused what it was granted again")
        _tell(probe, other)
        for kind in TAUGHT:
            expect_refusal(_asked(other, subject, kind), Rule.GRANT)
        other.want(PingReply, PingRequest(text="still named"))


def _same_to_peers(probe: Probe, subject: Subject) -> None:
    """Whatever is asked, inline or as a stream, and wherever the asker stands."""
    with _met(probe, *KnowledgeKind) as other:
        for kind in TAUGHT:
            here, there = _asked(probe, subject, kind), _asked(other, subject, kind)
            expect(_content(here) == _content(there), f"{kind}: the coordinator is told other than a peer")
        offers = [
            one.ask(subject.asking(ways=(Way.STREAM,)), buffers=(images(),), timeout_s=ANSWER_S).body for one in (probe, other)
        ]
        if all(isinstance(offer, KnowledgeReply) and offer.piece.way is Way.STREAM for offer in offers):
            expect(_content(offers[0]) == _content(offers[1]), "another piece is streamed to a peer than to the coordinator")
            streamed = [_streamed(one, offer) for one, offer in zip((probe, other), offers, strict=True)]
            expect(streamed[0] == streamed[1], "other bytes are streamed to a peer than to the coordinator")


def _content(answer: Body) -> object:
    """What an answer says of the knowledge itself, and not of how it came."""
    if isinstance(answer, KnowledgeReply):
        return answer.kind, answer.weights, answer.piece.size_bytes, answer.piece.sha256
    if isinstance(answer, AssessReply):
        return answer.weights, answer.num_images, answer.predicted
    return (answer.code, answer.rule) if isinstance(answer, ErrorReply) else type(answer)


def _streamed(one: Probe, offer: Body) -> bytes:
    assert isinstance(offer, KnowledgeReply)
    size, parts = offer.piece.size_bytes, list[bytes]()
    number = one.say(StreamRequest(sha256=offer.piece.sha256, offset=0, limit=size, chunk_bytes=CHUNK_BYTES))
    while isinstance((message := one.hear(number)).body, StreamChunkEvent):
        parts += map(bytes, message.buffers)
    return b"".join(parts)


def _stream_taken(probe: Probe, subject: Subject) -> str | None:
    """Neither in a stream that runs, however much credit it is given, nor in a new one."""
    with _met(probe, *KnowledgeKind) as other:
        pixels = images(shape=(1, 3, SIDE, SIDE), high=0.8)
        answer = other.ask(subject.asking(ways=(Way.STREAM,)), buffers=(pixels,), timeout_s=ANSWER_S).body
        if not isinstance(answer, KnowledgeReply) or answer.piece.way is not Way.STREAM:
            return "the agent does not stream"
        asked = StreamRequest(sha256=answer.piece.sha256, offset=0, limit=CHUNK_BYTES, chunk_bytes=CHUNK_BYTES)
        running = other.say(asked)
        other.hear(running)
        _tell(probe, other, *_others(KnowledgeKind.SOFT_TARGETS))
        other.say(StreamCreditEvent(limit=answer.piece.size_bytes), parent_id=running)
        refused = other.ask(asked).body
        if not isinstance(refused, ErrorReply) or refused.code != "artifact":
            expect_refusal(refused, Rule.GRANT)
        is_there(other)
        chunks = [m for m in other.said_since if m.parent_id == running and isinstance(m.body, StreamChunkEvent)]
        expect(len(chunks) <= 1, "a stream goes on whose piece the peer is granted no longer")
    return None


def _nothing_said(probe: Probe, subject: Subject) -> None:
    with _met(probe, *KnowledgeKind) as other:
        described = _described(other, ()).model_dump(mode="json")
        del described["may"]
        probe.say_plain(PeersEvent, {"peers": [described]})
        probe.want(PingReply, PingRequest(text="heard"))
        for kind in TAUGHT:
            expect_refusal(_asked(other, subject, kind), Rule.GRANT)


def _others(kind: KnowledgeKind) -> tuple[KnowledgeKind, ...]:
    return tuple(other for other in KnowledgeKind if other is not kind)


def _described(peer: Probe, may: tuple[str, ...]) -> AdmittedPeer:
    """What a coordinator says of a peer: where it listens, if it is the agent that dials, and what it is granted."""
    endpoints = (peer.endpoint,) if peer.is_listening else ()
    return AdmittedPeer(agent=AgentName("other"), endpoints=endpoints, public_key=peer.key, may=may)


def _tell(probe: Probe, other: Probe, *may: str) -> None:
    """Names the peer again with other grants; when this returns the agent has heard it."""
    probe.say(PeersEvent(peers=(_described(other, may),)))
    probe.want(PingReply, PingRequest(text="heard"))


def _asked(other: Probe, subject: Subject, kind: KnowledgeKind) -> Body:
    """What this peer is answered when it asks for knowledge of a kind."""
    if kind is KnowledgeKind.WEIGHTS:
        return other.ask(KnowledgeRequest(kind=kind, weights=subject.weights), timeout_s=ANSWER_S).body
    is_assessment = kind is KnowledgeKind.ASSESSMENT
    request = AssessRequest(num_classes=subject.num_classes) if is_assessment else subject.asking(kind=kind)
    return other.ask(request, buffers=(images(),), timeout_s=ANSWER_S).body
