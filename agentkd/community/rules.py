"""The rules by which an agent decides its role when data arrive: pure, from what it knows of itself and what the others say.

Nobody decides for it. A cycle of education is: data arrive, the agent assesses itself, becomes teacher or student, learns from
the best, consolidates, and can teach the next one.

Source: Kaimakamidis, Pitas, "Facilitating Experimental Reproducibility in Neural Network Research with a Unified Framework".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Policy = Literal["soft_targets", "features", "relations", "ensemble", "weights", "weights_and_fine_tune", "data", "architecture"]
Protection = Literal["none", "ewc", "lwf", "replay"]


class Role(StrEnum):
    """What an agent is in one cycle."""

    TEACHER = "teacher"
    STUDENT = "student"
    IDLE = "idle"


@dataclass(frozen=True)
class Rules:
    """How an agent judges and learns.

    Args:
        known_at: data of which at least this fraction is known need no lesson; who knows less does not teach.
        margin: how much better than one's own a teacher's score must be.
        policy: what is taken from the best teacher: its ``soft_targets`` (with ``features`` or ``relations`` of ``taps`` too),
            those of an ``ensemble`` of all who know, its ``weights`` (the same architecture), those as a start, the ``data`` that
            it learned, or its ``architecture``, in which the student begins anew and is taught by soft targets.
        protection: how earlier knowledge is kept: ``ewc`` holds the weights that matter, ``lwf`` (learning without forgetting)
            has the student's earlier self teach too, ``replay`` has it teach on the data that it learned before (not with an
            ensemble). Policy ``weights`` replaces everything; ``data`` trains on the own data as well. Both need none of these.
        strength: of the penalty with ``ewc``.
        own_share: of the earlier self among the teachers with ``lwf``.
        taps: student's tap to teacher's tap, for ``features`` and ``relations``.
    """

    known_at: float = 0.8
    margin: float = 0.05
    policy: Policy = "soft_targets"
    protection: Protection = "replay"
    strength: float = 1000.0
    own_share: float = 0.5
    taps: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Offer:
    """What an agent says of itself about data.

    Args:
        known_fraction: how much of the data it knows, in [0, 1].
        miou: how well it does in its own validation.
    """

    name: str
    known_fraction: float
    miou: float

    @property
    def score(self) -> float:
        """How good a teacher it would be."""
        return self.known_fraction * self.miou


@dataclass(frozen=True)
class Decision:
    """An agent's role, the teachers that it chose, the best first, and why."""

    role: Role
    teachers: tuple[str, ...]
    reason: str


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


@dataclass(frozen=True)
class Retention:
    """How well a community kept what it learned, over cycles, as mIoU.

    Args:
        average: mean over agents and data at the end.
        forgetting: mean over what was known before the last cycle of the best that it ever was, less what it is at the end.
        backward_transfer: mean over the same of what it is at the end, less what it was when it was learned.
    """

    average: float
    forgetting: float
    backward_transfer: float


def retention(scores: Sequence[Mapping[str, Sequence[float]]], learned: Mapping[str, Sequence[int]]) -> Retention:
    """What was kept.

    Args:
        scores: after each cycle, for each agent, its mIoU on each dataset; the first entry is before the first cycle.
        learned: for each agent and each dataset the entry of ``scores`` in which it was learned; -1 if never.

    Source: Lopez-Paz, Ranzato, "Gradient Episodic Memory", NeurIPS 2017; Chaudhry et al., "Riemannian Walk", ECCV 2018.
    """
    last = scores[-1]
    flat = [value for row in last.values() for value in row]
    lost, moved = [], []
    for agent, cycles in learned.items():
        for data, cycle in enumerate(cycles):
            if 0 <= cycle < len(scores) - 1:
                past = [entry[agent][data] for entry in scores[cycle:-1]]
                lost.append(max(past) - last[agent][data])
                moved.append(last[agent][data] - past[0])
    return Retention(sum(flat) / len(flat), _mean(lost), _mean(moved))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
