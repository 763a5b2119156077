"""What an agent must do, clause by clause. Those of a dialogue stand in a module each; here they are put in order."""

from collections.abc import Callable

from agentkd.conformance.clause import Clause, expect_refusal, is_there
from agentkd.conformance.knowing import knowing
from agentkd.conformance.living import joining, leaving, living, looking_back
from agentkd.conformance.meaning import meaning
from agentkd.conformance.meeting import meeting, parting
from agentkd.conformance.probe import Probe
from agentkd.conformance.sharing import sharing
from agentkd.conformance.streaming import streaming
from agentkd.conformance.working import working
from agentkd.errors import ReplyTimeoutError, Rule
from agentkd.messages import vectors
from agentkd.messages.bodies import NUMBERS, HeartbeatEvent, HelloRequest, KnowledgeRequest, PingRequest
from agentkd.messages.wire import type_of

UNASKED = (HeartbeatEvent, HelloRequest)
READ_BY_ALL = {NUMBERS[PingRequest], NUMBERS[KnowledgeRequest]}  # an agent need not read what it has no use for


def all_clauses(num_classes: int, *, may_end: bool) -> tuple[Clause, ...]:
    """Every clause in the order in which it must be checked; the last one ends the agent, if it may."""
    listed = [*joining(), *living(), *knowing(num_classes), *sharing(num_classes), *meaning(num_classes)]
    listed += [*streaming(num_classes), *meeting(num_classes), *working()]
    listed += [Clause(f"invalid.{v.name}", f"{v.note} is refused", _refuses(v)) for v in vectors.invalid()]
    listed += [*looking_back(), *parting()]
    return (*listed, *(leaving() if may_end else []))


def _refuses(vector: vectors.Vector) -> Callable[[Probe], str | None]:
    rules = [Rule(vector.rule)]
    if type_of(vector.frames) not in READ_BY_ALL:
        rules.append(Rule.TYPE)

    def check(probe: Probe) -> str | None:
        probe.send(list(vector.frames))
        try:
            answer = probe.hear(
                timeout_s=probe.waits.silence_s, wanted=lambda message: not isinstance(message.body, UNASKED)
            ).body
        except ReplyTimeoutError:
            is_there(probe)
            return "dropped"
        expect_refusal(answer, *rules)
        is_there(probe)
        return None

    return check
