"""What is recorded of a run's tasks, as much of it as a page shows: read from the journal as it grows, a row at a time.

A record is looked at here and not held against its digest: this is to be seen, and quickly. Who wants to know whether a run is
whole asks ``agentkd verify``.
"""

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentkd.artifacts.journal import Journal, Row
from agentkd.names import NO_DIGEST, AgentName, Digest, TaskKey
from agentkd.pipeline.stages import Stage
from agentkd.visible import shortened, visible_line
from agentkd.watch.timeline import seconds_of

OF_A_STAGE = re.compile(rf"({'|'.join(Stage)}) of ")
"""How the label of a task begins that an experiment wants."""
MAX_LABEL, MAX_ERROR = 200, 500

Score = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
"""What a page can count to."""
Seconds = Annotated[float, Field(ge=0, le=1e9)]


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class _Architecture(_Plain):
    family: str = ""


class _Inputs(_Plain):
    kind: str = ""
    architecture: _Architecture = _Architecture()


class _Epoch(_Plain):
    epoch: Count
    loss: float | None = None
    miou: Score | None = None
    accuracy: Score | None = None


class _Exchange(_Plain):
    bytes_received: Count = 0
    waited_s: Seconds = 0.0


class _Outputs(_Plain):
    status: str = ""
    weights: str = ""
    miou: Score = 0.0
    accuracy: Score | None = None
    seconds: Seconds = 0.0
    num_parameters_deploy: Count = 0
    peak_memory_bytes: Count = 0
    history: tuple[_Epoch, ...] = ()
    exchange: _Exchange | None = None
    error_text: str = ""


class _Circumstances(_Plain):
    agent: str = ""
    attempts: Count = 0
    label: str = ""
    teachers: tuple[tuple[str, str], ...] = ()
    at: str = ""


@dataclass(frozen=True)
class Recorded:
    """A recorded task.

    Args:
        stage: of the experiment; empty of a task that a script wanted.
        ended_at: seconds since 1970.
        score: mIoU, or accuracy of a classifier, in [0, 1].
        curve: of each epoch its number, its loss, and its score where it was validated.
        teachers: agents that taught it.
    """

    task: TaskKey
    agent: AgentName
    kind: str
    family: str
    stage: str
    label: str
    status: str
    score: float
    is_classifier: bool
    num_parameters: int
    seconds: float
    ended_at: float
    attempts: int
    weights: Digest = NO_DIGEST
    peak_memory_bytes: int = 0
    received_bytes: int = 0
    waited_s: float = 0.0
    teachers: tuple[AgentName, ...] = ()
    curve: tuple[tuple[int, float | None, float | None], ...] = ()
    error: str = ""


def stage_of(label: str) -> tuple[str, str]:
    """The stage for which a task is wanted, as its label says, and the label without; no stage of a script's task.

    Example:
        >>> stage_of("round1 of unet: a teaches b"), stage_of("my training")
        (('round1', 'a teaches b'), ('', 'my training'))
    """
    found = OF_A_STAGE.match(label)
    return (found[1], label.partition(": ")[2] or label) if found else ("", label)


def read_new(journal: Journal, after: int) -> tuple[list[Recorded], int]:
    """The records behind the one with that number, and the number of the last. What is no record is passed over.

    Raises:
        ArtifactError: the journal cannot be read.
    """
    found = []
    for row in journal.rows(after=after):
        after = row.number
        read = recorded(row)
        if read is not None:
            found.append(read)
    return found, after


def recorded(row: Row) -> Recorded | None:
    """A row as a page shows it; ``None`` of what is no record."""
    try:
        inputs = _Inputs.model_validate_json(row.inputs)
        outputs = _Outputs.model_validate_json(row.outputs)
        how = _Circumstances.model_validate_json(row.circumstances)
    except ValidationError:
        return None
    stage, label = stage_of(how.label)
    is_classifier = outputs.accuracy is not None
    exchange = outputs.exchange or _Exchange()
    return Recorded(
        task=row.task,
        agent=AgentName(visible_line(how.agent)[:MAX_LABEL]),
        kind=inputs.kind[:20],
        family=visible_line(inputs.architecture.family)[:MAX_LABEL],
        stage=stage,
        label=visible_line(label)[:MAX_LABEL],
        status=outputs.status[:20],
        score=outputs.miou if outputs.accuracy is None else outputs.accuracy,
        is_classifier=is_classifier,
        num_parameters=outputs.num_parameters_deploy,
        seconds=outputs.seconds,
        ended_at=seconds_of(how.at),
        attempts=how.attempts,
        weights=Digest(outputs.weights[:64]),
        peak_memory_bytes=outputs.peak_memory_bytes,
        received_bytes=exchange.bytes_received,
        waited_s=exchange.waited_s,
        teachers=tuple(dict.fromkeys(AgentName(visible_line(agent)[:MAX_LABEL]) for _, agent in how.teachers)),
        curve=tuple((e.epoch, e.loss, e.accuracy if is_classifier else e.miou) for e in outputs.history),
        error=shortened(visible_line(outputs.error_text), MAX_ERROR),
    )
