"""How an agent decides its role when data arrive: from what it knows of itself and what the others say. Nobody decides for it.

Source: Kaimakamidis, Pitas, "Facilitating Experimental Reproducibility in Neural Network Research with a Unified Framework".
"""

from collections.abc import Mapping, Sequence

from pydantic import TypeAdapter, ValidationError

from agentkd.code.loading import load
from agentkd.code.running import told
from agentkd.errors import ConfigError
from agentkd.task import Decide
from agentkd.task.rules import Decision, Offer, Role, Rules

_DECISION = TypeAdapter(Decision)


def decision_of(task: Decide) -> Decision:
    """What the agent of a task decides, by its own rule if it has one.

    Raises:
        ConfigError: its own rule is not there, fails, or decides what cannot be.
    """
    taught = dict(task.taught)
    if not task.rules.rule:
        return decide(task.me, task.others, task.rules, taught)
    name = task.rules.rule
    rule = load(name, task.rules.code)
    if not callable(rule):
        raise ConfigError(f"{name} is {type(rule).__name__}; a rule is a function of (me, others, rules, taught)")
    with told(f"{name}: {task.me.name} cannot decide by it"):
        found = rule(task.me, task.others, task.rules, taught)
    try:
        decision = _DECISION.validate_python(found)
    except ValidationError as error:
        text = f"{name} returned {str(found)[:80]}; a rule returns agentkd.community.rules.Decision(role, teachers, reason)"
        raise ConfigError(f"{text}: {error.errors()[0]['msg']}") from None
    _check(decision, task, name)
    return decision


def _check(decision: Decision, task: Decide, name: str) -> None:
    """Whether what a rule decided can be carried out."""
    able = {other.name for other in task.others} - learned_from(task.me.name, dict(task.taught))
    if (decision.role is Role.STUDENT) != bool(decision.teachers):
        raise ConfigError(f"{name} made {task.me.name} a {decision.role} with {len(decision.teachers)} teachers")
    strange = [teacher for teacher in decision.teachers if teacher not in able]
    if strange or len(set(decision.teachers)) < len(decision.teachers):
        text = f"{name} chose {', '.join(strange or decision.teachers)} as teacher of {task.me.name}"
        raise ConfigError(
            f"{text}; it may choose, each once, of {', '.join(sorted(able)) or 'nobody'}, who did not learn from it"
        )


def decide(me: Offer, others: Sequence[Offer], rules: Rules, taught: Mapping[str, tuple[str, ...]]) -> Decision:
    """What an agent does about data.

    Args:
        me: what it finds of itself.
        others: what the others answered.
        rules: its own.
        taught: in this cycle, by student, who taught it: nobody may become its own teacher by way of others.

    Example:
        >>> decide(Offer("a", 0.1, 0.6), [Offer("b", 0.9, 0.7), Offer("c", 0.2, 0.9)], Rules(), {}).teachers
        ('b',)
    """
    if me.known_fraction >= rules.known_at:
        return Decision(Role.TEACHER, (), f"knows {me.known_fraction:.0%} of it")
    mine = learned_from(me.name, taught)
    better = [offer for offer in others if offer.score >= me.score + rules.margin and offer.name not in mine]
    able = [offer for offer in better if offer.known_fraction >= rules.known_at]
    if not able:
        return Decision(Role.IDLE, (), f"knows {me.known_fraction:.0%} of it, and nobody knows it better")
    able.sort(key=lambda offer: (-offer.score, offer.name))
    chosen = able if rules.policy == "ensemble" else able[:1]
    best = chosen[0]
    reason = f"knows {me.known_fraction:.0%} of it, {best.name} {best.known_fraction:.0%}"
    return Decision(Role.STUDENT, tuple(offer.name for offer in chosen), reason)


def learned_from(teacher: str, taught: Mapping[str, tuple[str, ...]]) -> set[str]:
    """Everybody who learned from an agent, also by way of others."""
    found: set[str] = set()
    new = {teacher}
    while new:
        new = {student for student, teachers in taught.items() if new & set(teachers)} - found
        found |= new
    return found
