"""Clauses on joining, on life together, and on what is dropped or ignored whoever says it."""

import itertools
import statistics
import time
from collections import Counter
from typing import Any

from agentkd.conformance.clause import Clause, expect, expect_refusal, expect_silence, is_there
from agentkd.conformance.probe import Probe
from agentkd.errors import AgentKDError, ReplyTimeoutError, Rule
from agentkd.messages.bodies import (
    INTERNAL,
    ErrorReply,
    HeartbeatEvent,
    HelloRequest,
    LeaveRequest,
    LeftEvent,
    PingReply,
    PingRequest,
    StatusReply,
    StatusRequest,
    StreamCreditEvent,
    WelcomeReply,
)
from agentkd.messages.wire import MINOR, Message
from agentkd.names import NOBODY

UNGREETED, SECOND = "0" * 16, "5ec0d05ec0d05ec0"
CREDIT_BYTES = 16_384
HEARTBEATS = 3
REFUSALS = 2
SLOW, LATE_S, SWIFT = 4, 0.1, 5  # how much longer than told heartbeats may be apart, and how much shorter
QUIET = 4  # which part of the time for a deed must pass without a word until an agent counts as gone: it may just be slow
NOWHERE = 999_999  # the number of a message that was never said
GREETING = HelloRequest(agent=NOBODY, capabilities=("stream",), window_bytes=CREDIT_BYTES)
DIALS = "the agent dials: nothing to be checked"


def joining() -> list[Clause]:
    """The greeting."""
    return [
        Clause("join.first", "what is said before the greeting is refused by a rule of its own", _speak_first),
        Clause("join.greeting", "a greeting is answered with a welcome, or the agent greets itself", _greet),
        Clause("join.again", "the same greeting in the same session does no harm", _greet_again),
        Clause("join.other", "another greeting in the same session is refused", _greet_otherwise),
        Clause("join.version", "a greeting without a minor version in common is refused", _greet_from_later),
    ]


def living() -> list[Clause]:
    """Heartbeats, pings, status, and what must not be answered."""
    return [
        Clause("life.heartbeat", "heartbeats come", _heartbeat),
        Clause("ping", "a ping is said back", _ping),
        Clause("ping.unknown", "unknown keys of header and body are ignored", _ping_with_more),
        Clause("status", "the coordinator is told how the agent is", _status),
        Clause("status.refused", "what was refused is counted by its rule, and nothing else", _counted),
        Clause("life.idle", "an agent that has nothing to do says so", _idle),
        Clause("late", "what continues no dialogue that is open is dropped", _late),
        Clause("errors.unanswered", "an error is never answered, nor one that cannot be read", _errors),
        Clause("errors.parent", "a refusal names the message that it refuses, though its body cannot be read", _parents),
    ]


def looking_back() -> list[Clause]:
    """What is seen in everything that the agent has said, after all else was checked."""
    return [
        Clause("life.pace", "heartbeats come about as often as the welcome says", _pace),
        Clause("life.progress", "progress never goes back", _progress),
        Clause("life.numbers", "no two messages have the same msg_id, and none has 0", _numbers),
        Clause("life.session", "every message is of one session", _sessions),
        Clause("errors.codes", "every error has a code that there is and, of code protocol, a rule", _codes),
        Clause("errors.text", "no text acts on a terminal, or hides", _texts),
    ]


def leaving() -> list[Clause]:
    """The end."""
    return [
        Clause("leave", "an agent that is asked to leave says so", _leave),
        Clause("leave.gone", "whoever has said that it leaves is gone", _gone),
    ]


def _speak_first(probe: Probe) -> str | None:
    if probe.is_listening:
        return DIALS
    try:
        answer = probe.reach(PingRequest(), session=UNGREETED, timeout_s=30.0).body
    except ReplyTimeoutError:
        return "dropped"
    expect_refusal(answer, Rule.GREETING, Rule.SESSION)  # the latter if this key greeted before the check began
    return None


def _greet(probe: Probe) -> str:
    answer = probe.greet(GREETING, timeout_s=30.0).body
    expect(isinstance(answer, WelcomeReply | HelloRequest), f"the greeting was answered with {type(answer).__name__}")
    return f"{type(answer).__name__} with {', '.join(getattr(answer, 'capabilities', ())) or 'no'} capabilities"


def _greet_again(probe: Probe) -> str | None:
    if probe.is_listening:
        return DIALS
    expect(isinstance(probe.ask(GREETING).body, WelcomeReply), "it was not welcomed")
    return None


def _greet_otherwise(probe: Probe) -> str | None:
    if probe.is_listening:
        return DIALS
    expect_refusal(probe.ask(GREETING.model_copy(update={"device": "another"})).body, Rule.ORDER)
    return None


def _greet_from_later(probe: Probe) -> str | None:
    if probe.is_listening:
        return DIALS
    later = GREETING.model_copy(update={"minor_min": MINOR + 1, "minor_max": MINOR + 2})
    expect_refusal(probe.ask(later, session=SECOND).body, Rule.VERSION)
    is_there(probe)
    return None


def _heartbeat(probe: Probe) -> None:
    for _ in range(HEARTBEATS):
        probe.hear(timeout_s=probe.waits.deed_s, wanted=lambda message: isinstance(message.body, HeartbeatEvent))


def _ping(probe: Probe) -> None:
    for text in ("", "hello", "\u00e4\u4e2d", " two  \n", "x" * 65_536):
        expect(probe.want(PingReply, PingRequest(text=text)).text == text, "the text is not the same")


def _ping_with_more(probe: Probe) -> None:
    unknown: dict[str, Any] = {"of_a_later_version": {"a": [1, None]}}
    answer = probe.hear(probe.say_plain(PingRequest, {"text": "more"} | unknown, (), **unknown)).body
    expect(isinstance(answer, PingReply) and answer.text == "more", f"it was answered with {type(answer).__name__}")
    answer = probe.hear(probe.say_plain(StatusRequest, unknown)).body
    expect(
        isinstance(answer, StatusReply), f"a request for the status with unknown keys was answered with {type(answer).__name__}"
    )


def _status(probe: Probe) -> str:
    return f"{sum(probe.want(StatusReply, StatusRequest()).refused.values())} messages refused so far"


def _counted(probe: Probe) -> str | None:
    """A ping is refused twice, between the accounts of it another one is not."""
    before = _account(probe)
    rules = []
    for _ in range(REFUSALS):
        number = probe.say_plain(PingRequest, {"text": None})
        try:
            answer = probe.hear(timeout_s=probe.waits.silence_s, wanted=lambda one: isinstance(one.body, ErrorReply)).body
        except ReplyTimeoutError:
            return f"message {number} was dropped"
        rules.append(answer.rule if isinstance(answer, ErrorReply) else "")
    after = _account(probe)
    if before is None or after is None:
        return "it does not say"
    more = {rule: after.get(rule, 0) - before.get(rule, 0) for rule in {*before, *after, *rules}}
    more = {rule: count for rule, count in more.items() if count}
    expect(more == Counter(rules), f"it refused {dict(Counter(rules))} and counted {more}")
    return None


def _account(probe: Probe) -> dict[str, int] | None:
    """What it says that it has refused after a ping was not, whatever number it says that it answers."""
    is_there(probe)
    probe.say(StatusRequest())
    try:
        told = probe.hear(timeout_s=probe.waits.deed_s, wanted=lambda one: isinstance(one.body, StatusReply)).body
    except ReplyTimeoutError:
        return None
    return dict(told.refused) if isinstance(told, StatusReply) else None


def _idle(probe: Probe) -> str | None:
    """It may do something of its own at first, but nothing was asked of it: a coordinator would wait for it for ever.

    Whoever does not say how it is breaks other clauses.
    """
    deadline = time.monotonic() + probe.waits.deed_s
    said: dict[str, bool] = {}
    while (len(said) < 2 or any(said.values())) and time.monotonic() < deadline:
        probe.say(StatusRequest())
        try:
            told = probe.hear(timeout_s=probe.waits.deed_s, wanted=_says_how_it_is).body
        except ReplyTimeoutError:
            break
        if isinstance(told, StatusReply | HeartbeatEvent):
            said[type(told).__name__] = told.is_busy
    is_there(probe)  # after that nothing is on its way
    busy = " and ".join(sorted(name for name, is_busy in said.items() if is_busy))
    expect(not busy, f"{busy} said that it is busy for {probe.waits.deed_s:g} s; nothing was asked of it")
    return f"said by {' and '.join(sorted(said))}" if said else "it says nothing"


def _says_how_it_is(message: Message) -> bool:
    return isinstance(message.body, StatusReply | HeartbeatEvent)


def _late(probe: Probe) -> None:
    said = [probe.say(body, parent_id=NOWHERE) for body in (PingReply(text="late"), StreamCreditEvent(limit=1))]
    expect_silence(probe, (*said, NOWHERE), "what continues no dialogue")


def _errors(probe: Probe) -> None:
    said = [
        probe.say(ErrorReply(code="config", text="nobody asked"), parent_id=NOWHERE),
        probe.say_plain(ErrorReply, {"code": 7}),
        probe.say_plain(ErrorReply, {"code": "config", "text": "x"}, session=UNGREETED),
    ]
    expect_silence(probe, (*said, NOWHERE), "an error")


def _parents(probe: Probe) -> str | None:
    """A refusal of its own is told by the rule: the session of an answer is the agent's, and it answers nothing else just now."""
    number = probe.say_plain(PingRequest, {"text": None})
    try:
        refusal = probe.hear(timeout_s=probe.waits.silence_s, wanted=lambda message: isinstance(message.body, ErrorReply))
    except ReplyTimeoutError:
        return "dropped"
    expect(refusal.parent_id == number, f"the refusal of message {number} has the parent_id {refusal.parent_id}")
    return None


def _pace(probe: Probe) -> str:
    """The median of all of the check, since one may be late; over two beats each, since two may come at once."""
    told, beats = probe.pace_s, probe.beats_s
    if not told or len(beats) < 3:
        return f"{len(beats)} heartbeats, {told:g} s between them by the welcome"
    usual_s = statistics.median((after - before) / 2 for before, after in zip(beats, beats[2:], strict=False))
    expect(told / SWIFT <= usual_s <= SLOW * told + LATE_S, f"one every {usual_s:.2g} s, by the welcome every {told:g} s")
    return f"one every {usual_s:.2g} s"


def _progress(probe: Probe) -> str:
    told = [message.body.progress for message in probe.said if isinstance(message.body, HeartbeatEvent | StatusReply)]
    back = [(before, after) for before, after in itertools.pairwise(told) if after < before]
    expect(not back, f"it went back from {back[0][0]} to {back[0][1]}" if back else "")
    return f"up to {max(told, default=0)}"


def _numbers(probe: Probe) -> str:
    counted = Counter((message.session, message.msg_id) for message in probe.said)
    number, times = max(((number, times) for (_, number), times in counted.items()), key=lambda one: one[1], default=(1, 1))
    expect(times == 1, f"{times} messages have the number {number}")
    return f"{len(counted)} messages"


def _sessions(probe: Probe) -> None:
    sessions = {message.session for message in probe.said}
    expect(len(sessions) <= 1, f"there were {len(sessions)}: {', '.join(sorted(sessions)[:3])}; was it started again?")


def _codes(probe: Probe) -> None:
    known = {INTERNAL, *_codes_of(AgentKDError)}
    for error in (message.body for message in probe.said if isinstance(message.body, ErrorReply)):
        expect(error.code in known, f"there is no code {error.code!r} (its text: {error.text[:80]!r})")
        has_rule = error.rule in {str(rule) for rule in Rule}
        expect(error.code != "protocol" or has_rule, f"an error of code protocol with the rule {error.rule!r}")


def _texts(probe: Probe) -> None:
    """All that it has said but the echoes of pings."""
    expect(not probe.acting, f"{len(probe.acting)} texts have characters that do, the first in {''.join(probe.acting[:1])[:100]}")


def _codes_of(kind: type[AgentKDError]) -> set[str]:
    return {kind.code}.union(*map(_codes_of, kind.__subclasses__()))


def _leave(probe: Probe) -> None:
    expect(
        isinstance(probe.ask(LeaveRequest(), timeout_s=2 * probe.waits.deed_s).body, LeftEvent), "it did not say that it leaves"
    )


def _gone(probe: Probe) -> str:
    """It may finish what it does, but not for long; whoever is gone neither beats, answers, nor greets again."""
    if not any(isinstance(message.body, LeftEvent) for message in probe.said):
        return "it has not said that it leaves"
    probe.patience_s = 0.0
    deadline = time.monotonic() + probe.waits.deed_s
    quiet_s = max(probe.waits.silence_s + probe.pace_s, probe.waits.deed_s / QUIET)
    while True:
        probe.forget()
        probe.say(PingRequest(text="still there?"))
        try:
            said = type(probe.hear(timeout_s=quiet_s).body).__name__
        except ReplyTimeoutError:
            return f"nothing came for {quiet_s:.2g} s"
        expect(time.monotonic() < deadline, f"{probe.waits.deed_s:g} s after it said that it leaves there came a {said}")
