"""What a replay shows: the recorded result and the new one, compared. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from agentkd.artifacts.own_code import Listing
from agentkd.names import Digest, TaskKey
from agentkd.task import EpochResult, TaskResult
from agentkd.task.judging import Measure, gained, measure_of

# Seconds, memory and who did it may differ; these may not.
COMPARED = (
    *("status", "weights", "trace", "predictions", "knowledge", "miou", "accuracy", "class_iou", "competence"),
    "class_weights",
)


UNREPEATABLE = "unrepeatable"  # in the environment of a record, see ``agentkd.unrepeatable``


class Outcome(StrEnum):
    """How a replay compares with the record."""

    IDENTICAL = "bit-identical"
    TOLERATED = "within tolerance"
    DIVERGED = "diverged"
    FAILED = "could not be repeated"
    SWAPPED = "counterfactual"
    KEPT = "kept as recorded"
    ELSEWHERE = "not replayed, its data are not here"


@dataclass(frozen=True)
class Divergence:
    """Where the two first differ; steps and epochs count from 1, 0 means not in the training itself."""

    epoch: int = 0
    step: int = 0


@dataclass(frozen=True)
class Verdict:
    """One task.

    Args:
        reason: why it was not executed, or why it may differ.
        epochs: (epoch, recorded score, new score) of the validated epochs.
        classes: (recorded IoU, new IoU) of each class.
        environment: what of the environment differs, as (name, then, now).
        code: digests of the own code that ran then, and now.
    """

    task: TaskKey
    label: str
    outcome: Outcome
    then: TaskResult
    now: TaskResult | None = None
    reason: str = ""
    divergence: Divergence | None = None
    environment: tuple[tuple[str, str, str], ...] = ()
    code: tuple[tuple[Digest, ...], tuple[Digest, ...]] = ((), ())

    @property
    def measure(self) -> Measure:
        """By which score the two are compared."""
        return measure_of([self.then, self.now] if self.now else [self.then])

    @property
    def difference(self) -> float:
        """New score less the recorded."""
        return gained(self.then, self.now) if self.now else 0.0

    @property
    def epochs(self) -> list[tuple[int, float | None, float | None]]:
        """Validated epochs with both scores."""
        score = self.measure.of
        now = {epoch.epoch: score(epoch) for epoch in self.now.history} if self.now else {}
        listed = [(epoch.epoch, score(epoch), now.get(epoch.epoch)) for epoch in self.then.history]
        return [row for row in listed if row[1] is not None or row[2] is not None]

    def as_data(self) -> dict[str, Any]:
        """As plain data."""
        now = self.now
        return {
            "task": self.task,
            "label": self.label,
            "outcome": str(self.outcome),
            "reason": self.reason,
            "miou": [self.then.miou, now.miou if now else None],
            "weights": [self.then.weights, now.weights if now else None],
            "code": [list(codes) for codes in self.code],
            "first_difference": vars(self.divergence) if self.divergence else None,
            "environment": [list(difference) for difference in self.environment],
            "epochs": [list(row) for row in self.epochs],
            "class_iou": [list(self.then.class_iou), list(now.class_iou) if now else []],
        }


@dataclass(frozen=True)
class ReplayReport:
    """All verdicts, and whether the plan of the run follows from its records.

    Args:
        num_executed: tasks that were executed now.
        num_reused: those that were executed when this replay was interrupted.
        code: the own code that ran.
        lacking: the data that are not here as they were, each with the reason.
        num_superseded: of the tasks whose data are not here, those of before a correction: the run stands without them.
    """

    source: str
    verdicts: tuple[Verdict, ...]
    plan: str = ""
    num_taught_live: int = 0
    is_plan_confirmed: bool = True
    swaps: tuple[str, ...] = field(default=())
    num_executed: int = 0
    num_reused: int = 0
    code: tuple[Listing, ...] = ()
    lacking: tuple[str, ...] = ()
    num_superseded: int = 0

    def count(self, outcome: Outcome) -> int:
        """How many tasks ended so."""
        return sum(verdict.outcome is outcome for verdict in self.verdicts)

    @property
    def is_confirmed(self) -> bool:
        """Whether nothing diverged, and all that the run is now was replayed."""
        unconfirmed = sum(self.count(outcome) for outcome in (Outcome.DIVERGED, Outcome.FAILED, Outcome.ELSEWHERE))
        return unconfirmed == self.num_superseded and self.is_plan_confirmed

    def as_data(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "source": self.source,
            "swaps": list(self.swaps),
            "is_confirmed": self.is_confirmed,
            "plan": self.plan,
            "num_lessons_with_teachers": self.num_taught_live,
            "num_executed": self.num_executed,
            "num_reused": self.num_reused,
            "code": [one.as_data() for one in self.code],
            "lacking_data": list(self.lacking),
            "counts": {str(outcome): self.count(outcome) for outcome in Outcome},
            "tasks": [verdict.as_data() for verdict in self.verdicts],
        }


def judge(
    task: TaskKey,
    label: str,
    then: TaskResult,
    now: TaskResult,
    *,
    tolerance: float,
    losses: tuple[Sequence[float], Sequence[float]] = ((), ()),
    is_swapped: bool = False,
) -> Verdict:
    """Compares two results of a task, the recorded and the new one.

    Args:
        task: its key.
        label: what it was for.
        then: what is recorded.
        now: what came out.
        tolerance: the largest difference in score (mIoU, or accuracy) that another environment may make.
        losses: of each step, recorded and new.
        is_swapped: something was replaced, so that a difference is what was asked for.
    """
    same = all(getattr(then, name) == getattr(now, name) for name in COMPARED)
    keys = sorted({*then.environment, *now.environment})
    environment = tuple(
        (key, then.environment.get(key, ""), now.environment.get(key, ""))
        for key in keys
        if then.environment.get(key) != now.environment.get(key)
    )
    where = None if same else first_difference(then.history, now.history, *losses)
    outcome, reason = Outcome.IDENTICAL, ""
    if is_swapped:
        outcome, reason = Outcome.SWAPPED, "no difference at all" if same else ""
    elif not same:
        is_near = then.status is now.status and abs(gained(then, now)) <= tolerance
        allowed = then.environment.get(UNREPEATABLE, "")
        outcome = Outcome.TOLERATED if (environment or allowed) and is_near else Outcome.DIVERGED
        names = ", ".join(f"{name} was {old or 'unknown'} and is {new or 'unknown'}" for name, old, new in environment)
        reason = f"another environment: {names}" if names else "in the same environment, so something is not deterministic"
        if allowed:
            reason = f"its recipe allowed operations that are not repeatable: {allowed}"
    return Verdict(task, label, outcome, then, now, reason, where, environment)


def first_difference(
    then: Sequence[EpochResult], now: Sequence[EpochResult], then_losses: Sequence[float], now_losses: Sequence[float]
) -> Divergence:
    """The first epoch after which the weights differ, and the first step in which the loss does."""
    pairs = zip(then, now, strict=False)
    epoch = next((a.epoch for a, b in pairs if _differ(a, b)), 0)
    if not epoch and len(then) != len(now):
        epoch = min(len(then), len(now)) + 1
    steps = zip(then_losses, now_losses, strict=False)
    step = next((number for number, (a, b) in enumerate(steps, start=1) if a != b), 0)
    return Divergence(epoch, step)


def _differ(then: EpochResult, now: EpochResult) -> bool:
    """Of epochs of which nobody knows the weights, as of a guest's, only the losses are compared."""
    are_known = bool(then.weights and now.weights)
    return then.loss != now.loss or (are_known and then.weights != now.weights)
