"""A task: a unit of work as a pure function of canonical inputs, and the record of its result.

The digest of the inputs is the task's identity, its ``key``: resume, deduplication and exactly-once all follow from it. Labels
such as the stage or the agent that did the work are not inputs, so the same work asked for twice is the same task.
"""

from agentkd.task.inputs import Consolidation, DataSource, Partner, Rehearsal, ScoreName, TeacherReference
from agentkd.task.kinds import (
    KINDS,
    AnyTask,
    Assess,
    Average,
    Consolidate,
    Decide,
    Distill,
    Evaluate,
    FeatureMaps,
    Limited,
    Mutual,
    Pack,
    Task,
    Taught,
    Train,
    Training,
    read_task,
)
from agentkd.task.results import Competence, EpochResult, ExchangeSummary, Status, TaskResult
from agentkd.task.work import NEUTRAL, RUNS_CODE, TAUGHT_BY_CODE

__all__ = [
    "KINDS",
    "NEUTRAL",
    "RUNS_CODE",
    "TAUGHT_BY_CODE",
    "AnyTask",
    "Assess",
    "Average",
    "Competence",
    "Consolidate",
    "Consolidation",
    "DataSource",
    "Decide",
    "Distill",
    "EpochResult",
    "Evaluate",
    "ExchangeSummary",
    "FeatureMaps",
    "Limited",
    "Mutual",
    "Pack",
    "Partner",
    "Rehearsal",
    "ScoreName",
    "Status",
    "Task",
    "TaskResult",
    "Taught",
    "TeacherReference",
    "Train",
    "Training",
    "read_task",
]
