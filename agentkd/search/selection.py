"""Which of the networks found go on: the set that trades mIoU against parameters and cost."""

from collections.abc import Iterable
from dataclasses import dataclass

from agentkd.names import TaskKey


@dataclass(frozen=True)
class Candidate:
    """A trained network as selection sees it. ``task`` is the key of the task that made it."""

    task: TaskKey
    miou: float
    deploy_parameters: int
    num_macs: int


def pareto_set(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The candidates that no other beats in mIoU without costing more in parameters or MACs; best mIoU first."""
    ranked = rank(candidates)
    return [a for a in ranked if not any(_dominates(b, a) for b in ranked)]


def rank(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Best mIoU first; of equals the smaller, then the earlier key, so that the order is total."""
    unique = {candidate.task: candidate for candidate in candidates}.values()
    return sorted(unique, key=lambda c: (-c.miou, c.deploy_parameters, c.num_macs, c.task))


def _dominates(a: Candidate, b: Candidate) -> bool:
    no_worse = a.miou >= b.miou and a.deploy_parameters <= b.deploy_parameters and a.num_macs <= b.num_macs
    better = a.miou > b.miou or a.deploy_parameters < b.deploy_parameters or a.num_macs < b.num_macs
    return no_worse and better
