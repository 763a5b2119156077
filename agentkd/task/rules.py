"""What an agent decides by when data arrive, as data: its rules, what it and the others say of themselves, and its decision.

How it decides by them is in ``agentkd.agents.deciding``: it runs in the agent.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from agentkd.code.source import CodeDigest
from agentkd.names import NO_DIGEST
from agentkd.task.inputs import ENERGY, ScoreName

MAX_NAMED, MAX_REASON = 200, 2_000
Fraction = Annotated[float, Field(ge=0, le=1)]
AgentLabel = Annotated[str, Field(max_length=MAX_NAMED)]
OwnPath = Annotated[str, Field(pattern=r"^([A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*)?$", max_length=300)]
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
        score: how it is told what is known, and ``tap`` of which module's features, see ``AgentHandle.assess``.
        rule: a function of one's own in the place of ``agentkd.agents.deciding.decide``, by its path: ``my_rules:careful``. It is
            called in the agent with the same arguments, must depend on nothing else, and returns a ``Decision``.
        code: digest of the code in which ``rule`` is found; filled in where a task is made.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False, revalidate_instances="always")

    known_at: float = 0.8
    margin: float = 0.05
    policy: Policy = "soft_targets"
    protection: Protection = "replay"
    strength: float = 1000.0
    own_share: float = 0.5
    taps: tuple[tuple[str, str], ...] = ()
    score: ScoreName = ENERGY
    tap: str = ""
    rule: OwnPath = ""
    code: CodeDigest = NO_DIGEST


@dataclass(frozen=True)
class Offer:
    """What an agent says of itself about data.

    Args:
        known_fraction: how much of the data it knows, in [0, 1].
        miou: how well it does in its own validation: mIoU, or the accuracy where all are classifiers.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False, revalidate_instances="always")

    name: AgentLabel
    known_fraction: Fraction
    miou: Fraction

    @property
    def score(self) -> float:
        """How good a teacher it would be."""
        return self.known_fraction * self.miou


@dataclass(frozen=True)
class Decision:
    """An agent's role, the teachers that it chose, the best first, and why."""

    __pydantic_config__ = ConfigDict(revalidate_instances="always")

    role: Role
    teachers: Annotated[tuple[AgentLabel, ...], Field(max_length=64)]
    reason: Annotated[str, Field(max_length=MAX_REASON)]
