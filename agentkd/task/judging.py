"""By what networks are compared: a score with a name. The one place that says which of the scores that is."""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Protocol


class Scored(Protocol):
    """What has scores: a result, an epoch, a candidate."""

    @property
    def miou(self) -> float | None: ...
    @property
    def accuracy(self) -> float | None: ...


class Measure(StrEnum):
    """The name of a score, as people read it."""

    MIOU = "mIoU"
    ACCURACY = "accuracy"

    def of(self, scored: Scored) -> float | None:
        """That score, in [0, 1]; ``None`` where there is none."""
        return scored.accuracy if self is Measure.ACCURACY else scored.miou

    def must_be_of(self, scored: Scored) -> float:
        """That score; zero of what has none."""
        return self.of(scored) or 0.0

    def text(self, scored: Scored) -> str:
        """The score with its name, in percent, as ``mIoU 81.25 %``."""
        return f"{self} {100 * self.must_be_of(scored):.2f} %"


def measure_of(scored: Iterable[Scored]) -> Measure:
    """By what all of these are compared: accuracy if all are classifiers, else mIoU, which every network has.

    Example:
        >>> from agentkd.task import Status, TaskResult
        >>> of_classifier = TaskResult(status=Status.COMPLETED, miou=0.4, accuracy=0.9)
        >>> str(measure_of([of_classifier])), str(measure_of([of_classifier, TaskResult(status=Status.COMPLETED, miou=0.5)]))
        ('accuracy', 'mIoU')
    """
    return shared_measure([Measure.MIOU if one.accuracy is None else Measure.ACCURACY for one in scored])


def shared_measure(measures: Sequence[Measure]) -> Measure:
    """By what all of those are compared that are each judged by these: accuracy if all are, else mIoU."""
    return Measure.ACCURACY if measures and set(measures) == {Measure.ACCURACY} else Measure.MIOU


def gained(before: Scored, after: Scored) -> float:
    """The score that something brought."""
    score = measure_of([before, after]).must_be_of
    return score(after) - score(before)


class Judged:
    """What is compared by one of its scores, as it is alone."""

    @property
    def measure(self: Scored) -> Measure:
        """Which score that is: a classifier's accuracy, else mIoU."""
        return measure_of([self])

    @property
    def judged_by(self: Scored) -> float | None:
        """That score; ``None`` if there is none."""
        return measure_of([self]).of(self)
