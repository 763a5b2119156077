"""Clauses on peers: whom the coordinator names may speak, for what it was granted; whom it names no more may not."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from agentkd.conformance.clause import Clause, expect, expect_refusal
from agentkd.conformance.knowing import ANSWER_S, Subject, images, of_a_teacher
from agentkd.conformance.probe import BrokenClauseError, Probe
from agentkd.errors import ReplyTimeoutError, Rule
from agentkd.exchange.keys import new_key_pair
from agentkd.messages.bodies import (
    AdmittedPeer,
    AssessRequest,
    ErrorReply,
    HelloRequest,
    KnowledgeKind,
    PeersEvent,
    PingReply,
    PingRequest,
    StatusRequest,
    WelcomeReply,
)
from agentkd.names import AgentName


def meeting(num_classes: int) -> list[Clause]:
    """What a ``PeersEvent`` means."""
    return [
        Clause("peers.named", "a peer that the coordinator names is met: admitted, or dialed if it listens", _named),
        Clause("peers.unknown_fields", "peers are met whatever else is said of them", _more_fields),
        Clause("peers.unnamed", "a peer that it names no longer is not answered any more", _unnamed),
        Clause("peers.role", "a peer that does not coordinate is refused what only a coordinator may say", _role),
        Clause("peers.grant", "a kind of knowledge that a peer was not granted is refused it", of_a_teacher(_grant, num_classes)),
    ]


@contextmanager
def _met(probe: Probe, *may: str, **more: Any) -> Iterator[Probe]:
    """Another peer, that the agent has been told of, and perhaps ``more`` than it knows."""
    keys = new_key_pair()
    with probe.beside(keys) as other:
        endpoints = (other.endpoint,) if probe.is_listening else ()
        peer = AdmittedPeer(agent=AgentName("other"), endpoints=endpoints, public_key=keys.public, may=may)
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
        for body in (StatusRequest(), PeersEvent(peers=())):
            other.forget()
            number = other.say(body)
            expect_refusal(other.hear(number).body, Rule.ROLE)


def _grant(probe: Probe, subject: Subject) -> None:
    with _met(probe, KnowledgeKind.ASSESSMENT) as other:
        answer = other.ask(subject.asking(), buffers=(images(),), timeout_s=ANSWER_S).body
        expect_refusal(answer, Rule.GRANT)
        request = AssessRequest(num_classes=subject.num_classes)
        granted = other.ask(request, buffers=(images(),), timeout_s=ANSWER_S).body
        expect(not isinstance(granted, ErrorReply), "it is refused what it was granted too")
