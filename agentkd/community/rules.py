"""The rules of education, for scripts, and what a community kept of what it learned.

Nobody decides for an agent. A cycle of education is: data arrive, the agent assesses itself, becomes teacher or student by its
own rules (which run in the agent, see ``agentkd.agents.deciding``), learns from the best, consolidates, and can teach the next.

Source: Kaimakamidis, Pitas, "Facilitating Experimental Reproducibility in Neural Network Research with a Unified Framework".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agentkd.task.rules import Decision, Offer, Policy, Protection, Role, Rules

__all__ = ["Decision", "Offer", "Policy", "Protection", "Retention", "Role", "Rules", "retention"]


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
