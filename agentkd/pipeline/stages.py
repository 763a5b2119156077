"""The vocabulary of the pipeline: stages, entrants, steps, rows and lessons. Plain data."""

from dataclasses import dataclass
from enum import StrEnum

from agentkd.architecture import Architecture
from agentkd.recipe import Recipe
from agentkd.search.selection import Candidate
from agentkd.task import Evaluate, Task, TaskResult, TeacherReference, Training


class Stage(StrEnum):
    """The stages of KD-NAS in their order."""

    BASELINE = "baseline"
    SEARCH = "search"
    ROUND1 = "round1"
    ROUND2 = "round2"
    TEST = "test"


@dataclass(frozen=True)
class Step:
    """A task that is wanted now, and how to call it on the screen."""

    key: str
    task: Task
    family: str
    stage: Stage
    label: str


@dataclass(frozen=True)
class Entrant:
    """A trained network that takes part: the task that made it, and its result."""

    family: str
    label: str
    key: str
    task: Training
    result: TaskResult

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
        return Candidate(self.key, self.result.miou, self.result.num_parameters_deploy, self.result.num_macs)

    def as_teacher(self) -> TeacherReference:
        """As a task names its teacher."""
        return TeacherReference(architecture=self.architecture, weights=self.result.weights)


@dataclass(frozen=True)
class Tested:
    """A family's final network on the test split."""

    family: str
    key: str
    task: Evaluate
    result: TaskResult


@dataclass(frozen=True)
class Row:
    """One line of the table: what represents a family after a stage."""

    family: str
    stage: Stage
    entrant: Entrant


@dataclass(frozen=True)
class Lesson:
    """Who taught whom in a round, and what came of it. ``taught`` is ``None`` if the distillation failed."""

    stage: Stage
    teachers: tuple[Entrant, ...]
    student: Entrant
    taught: Entrant | None
    is_kept: bool
