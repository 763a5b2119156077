"""A clause: one thing that an agent must do, how it is checked, and what came of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from agentkd.conformance.probe import BrokenClauseError, Probe
from agentkd.errors import AgentKDError, ReplyTimeoutError, Rule
from agentkd.messages.bodies import ErrorReply, PingReply, PingRequest
from agentkd.messages.wire import Message


@dataclass(frozen=True)
class Clause:
    """One thing an agent must do; ``name`` begins with the dialogue or the set of vectors it belongs to.

    Args:
        check: returns a remark or nothing, and raises ``BrokenClauseError`` if the clause is broken.
    """

    name: str
    text: str
    check: Callable[[Probe], str | None]


@dataclass(frozen=True)
class ClauseVerdict:
    """How an agent stands to a clause."""

    clause: Clause
    is_kept: bool
    remark: str
    is_silence: bool = False


def play(probe: Probe, clauses: tuple[Clause, ...]) -> Iterator[ClauseVerdict]:
    """Checks clause after clause, each whatever came of those before."""
    for clause in clauses:
        probe.forget()
        try:
            yield ClauseVerdict(clause, True, clause.check(probe) or "")
        except (BrokenClauseError, AgentKDError) as error:
            yield ClauseVerdict(clause, False, str(error), is_silence=isinstance(error, ReplyTimeoutError))


def expect(is_so: bool, otherwise: str) -> None:
    """What must be.

    Raises:
        BrokenClauseError: it is not, and this is.
    """
    if not is_so:
        raise BrokenClauseError(otherwise)


def expect_refusal(answer: object, *rules: Rule) -> None:
    """An answer must refuse what was said, by one of these rules.

    Raises:
        BrokenClauseError: it does not.
    """
    if not isinstance(answer, ErrorReply) or answer.code != "protocol":
        raise BrokenClauseError(f"it was answered with {_told(answer)} instead of an error of code 'protocol'")
    if answer.rule not in rules:
        raise BrokenClauseError(f"it was refused by the rule {answer.rule!r} instead of {str(rules[0])!r}")


def expect_error(answer: object, *codes: str) -> str:
    """An answer must be an error of one of these codes; returns what it says.

    Raises:
        BrokenClauseError: it is not.
    """
    if not isinstance(answer, ErrorReply) or answer.code not in codes:
        raise BrokenClauseError(f"it was answered with {_told(answer)} instead of an error of code {' or '.join(codes)}")
    return f"{answer.code}: {answer.text}"[:100]


def expect_silence(probe: Probe, numbers: tuple[int, ...], what: str) -> None:
    """Nothing may answer what has these numbers, or has none.

    Raises:
        BrokenClauseError: something does, or the agent is gone.
    """
    is_there(probe)
    for message in probe.said_since:
        if message.parent_id in numbers or (not message.parent_id and isinstance(message.body, ErrorReply)):
            raise BrokenClauseError(f"{what} was answered with {_told(message.body)}")


def is_there(probe: Probe) -> None:
    """The agent answers a ping, whatever number it says that it answers.

    Raises:
        BrokenClauseError: it does not.
    """
    text = f"there {probe.next_text()}"
    probe.say(PingRequest(text=text))

    def is_echo(message: Message) -> bool:
        return isinstance(message.body, PingReply) and message.body.text == text

    probe.hear(wanted=is_echo)


def _told(answer: object) -> str:
    if isinstance(answer, ErrorReply):
        return f"an error of code {answer.code!r}{f' and rule {answer.rule!r}' if answer.rule else ''} ({answer.text[:80]})"
    return type(answer).__name__
