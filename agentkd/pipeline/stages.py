"""The vocabulary of the pipeline: stages, entrants, steps, rows and lessons. Plain data."""

import statistics
from dataclasses import dataclass
from enum import StrEnum

from agentkd.architecture import Architecture
from agentkd.names import TaskKey
from agentkd.recipe import Recipe
from agentkd.search.selection import Candidate, Choice
from agentkd.task import Evaluate, Task, TaskResult, TeacherReference, Training


@dataclass(frozen=True)
class Traits:
    """What distinguishes a stage.

    Args:
        title: its column's head in the table.
        is_vital: a failure stops the run and is not recorded; elsewhere it is a result like any other.
        is_in_table: each family has a network after it that stands in the table and the figures.
        is_round: networks teach each other in it.
    """

    title: str
    is_vital: bool = False
    is_in_table: bool = True
    is_round: bool = False


class Stage(StrEnum):
    """The stages of KD-NAS in their order: a row each, which is all that reports and the screen know of a stage.

    A new one is a row here, and its tasks in ``families`` or ``plan``.
    """

    BASELINE = "baseline", Traits("Baseline", is_vital=True)
    SEARCH = "search", Traits("Search")
    ROUND1 = "round1", Traits("Round 1", is_round=True)
    ROUND2 = "round2", Traits("Round 2", is_round=True)
    TEST = "test", Traits("Test", is_vital=True, is_in_table=False)

    traits: Traits

    def __new__(cls, value: str, traits: Traits) -> "Stage":
        """A member is a text that knows its row."""
        member = str.__new__(cls, value)
        member._value_, member.traits = value, traits
        return member


TABLE_STAGES = tuple(stage for stage in Stage if stage.traits.is_in_table)
ROUNDS = tuple(stage for stage in Stage if stage.traits.is_round)


@dataclass(frozen=True)
class PlannedTask:
    """A task that is wanted now, and how to call it on the screen."""

    key: TaskKey
    task: Task
    family: str
    stage: Stage
    label: str


@dataclass(frozen=True)
class Entrant:
    """A trained network that takes part: the task that made it, and its result.

    Args:
        before: whose weights it started from; ``None`` if it was initialized.
        scores: of trainings with other seeds (mIoU, or accuracy), by which it was confirmed: the mean counts in a choice, not its
            own score.
    """

    family: str
    label: str
    key: TaskKey
    task: Training
    result: TaskResult
    before: "Entrant | None" = None
    scores: tuple[float, ...] = ()

    @property
    def architecture(self) -> Architecture:
        """What the network is."""
        return self.task.architecture

    @property
    def recipe(self) -> Recipe:
        """What it was trained with."""
        return self.task.recipe

    @property
    def candidate(self) -> Candidate:
        """As selection sees it."""
        result, mean = self.result, statistics.fmean(self.scores) if self.scores else None
        is_classifier = result.accuracy is not None
        return Candidate(
            task=self.key,
            miou=result.miou if mean is None or is_classifier else mean,
            total_parameters=result.num_parameters_total,
            deploy_parameters=result.num_parameters_deploy,
            num_macs=result.num_macs,
            family=self.family,
            class_iou=result.class_iou,
            latency_ms=result.latency_ms,
            scores=self.scores,
            accuracy=mean if mean is not None and is_classifier else result.accuracy,
        )

    @property
    def epochs_in_all(self) -> int:
        """Epochs that its weights were trained, those before it included."""
        epochs, before = self.result.epochs, self.before
        while before is not None:  # what inherits from trial to trial has many before it
            epochs, before = epochs + before.result.epochs, before.before
        return epochs

    def as_teacher(self, *, by_class: bool = False) -> TeacherReference:
        """As a task names its teacher; ``by_class`` teaches the classes that it knows better than others do."""
        shares = tuple(iou or 0.0 for iou in self.result.class_iou) if by_class else ()
        return TeacherReference(architecture=self.architecture, weights=self.result.weights, class_shares=shares)


@dataclass(frozen=True)
class Tested:
    """A network on the test split."""

    family: str
    key: TaskKey
    task: Evaluate
    result: TaskResult


@dataclass(frozen=True)
class Standing:
    """One line of the table: what represents a family after a stage, and why that of all candidates, if there was a choice."""

    family: str
    stage: Stage
    entrant: Entrant
    choice: Choice | None = None


@dataclass(frozen=True)
class RoundLesson:
    """Who taught whom in a round, and what came of it.

    Args:
        taught: ``None`` if the distillation failed.
        reason: why it was kept, or not.
        alone: the student after as many epochs without a teacher; ``None`` if that was not asked for, is not done yet, or failed.
    """

    stage: Stage
    teachers: tuple[Entrant, ...]
    student: Entrant
    taught: Entrant | None
    is_kept: bool
    reason: str = ""
    alone: Entrant | None = None
