"""What comes of a task: weights, scores, what crossed the wire, and how it ended."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from agentkd.canonical import FrozenData
from agentkd.names import NO_DIGEST, Digest
from agentkd.task.inputs import ENERGY, ScoreName
from agentkd.task.judging import Judged
from agentkd.task.rules import Decision
from agentkd.task.showing import rows, summary
from agentkd.visible import html_table

Score = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Amount = Annotated[float, Field(ge=0)]


class Status(StrEnum):
    """How a task ended."""

    COMPLETED = "completed"
    PRUNED = "pruned"
    INFEASIBLE = "infeasible"
    FAILED = "failed"


class EpochResult(Judged, FrozenData):
    """One epoch of a training: mean loss, the scores where the epoch was validated, and the digest of its weights."""

    epoch: Count
    loss: float
    miou: Score | None = None
    accuracy: Score | None = None
    seconds: Amount
    weights: Digest = Field(default=NO_DIGEST, pattern=r"^([0-9a-f]{64})?$")


class ExchangeSummary(FrozenData):
    """What crossed the wire for one task, as the student saw it.

    Args:
        waited_s: seconds that the student had nothing to do but wait for its teachers.
        teacher_s: seconds of the teachers' work, also where it was done for another student before.
        cached: answers that a teacher had given before, to this student or another.
        recorded: answers that came from recordings instead of a teacher, who would have taken ``saved_s`` for them.
        record: digest of the recording of this lesson; empty if none was made.
        kept_s: seconds that the student waited for its recording to be written.
    """

    requests: Count = 0
    bytes_received: Count = 0
    waited_s: Amount = 0.0
    teacher_s: Amount = 0.0
    cached: Count = 0
    recorded: Count = 0
    saved_s: Amount = 0.0
    record: Digest = NO_DIGEST
    kept_s: Amount = 0.0


class Competence(Judged, FrozenData):
    """What a network knows about data.

    Args:
        weights: whose competence it is.
        dataset: content digest of what was looked at; ``split`` says which part of it.
        known_fraction: share of pixels whose score is below the 95th percentile of that on the network's own validation split;
            ``None`` if it is not known what it learned.
        miou: as ever, ``None`` where nothing is labelled; so are ``class_iou`` and ``calibration_error``.
        calibration_error: expected calibration error of the labelled pixels, 15 bins (Guo et al. 2017).
        predicted: share of the pixels predicted as each class.
        energies: median and 95th percentile of the energy on the network's own validation split; ``None`` as above, and if
            another score was asked for.
        score: by which it is told what is known.
        accuracy: of a classifier of whole images, see ``TaskResult``.
    """

    weights: Digest
    dataset: Digest
    split: str
    num_images: Count
    known_fraction: Score | None
    miou: Score | None
    class_iou: tuple[Score | None, ...]
    calibration_error: Score | None
    predicted: tuple[Score, ...]
    energies: tuple[float, float] | None = None
    score: ScoreName = ENERGY
    accuracy: Score | None = None


class TaskResult(Judged, FrozenData):
    """Outputs of one unit of work. Times and memory differ between machines; weights and mIoU do not on the same one.

    Args:
        accuracy: share of the images whose class is right, of a network that gives one answer for a whole image (a classifier).
            The class of an image is that of most of its labelled pixels. ``None`` of any other network. A classifier's best epoch
            is the one with the best accuracy.
        weights: digest of the kept weights; empty unless the task trained a network.
        predictions: digest of the class maps of the first samples; only of an evaluation.
        knowledge: digest of feature maps, of the importance of weights, of packed data or an architecture; only of the tasks that
            make them.
        decision: what an agent does about data; only of a task that decides.
        trace: digest of the loss of every step; only of a training.
        latency_ms: what the network takes for one image of the dataset, measured where it was trained; 0, and left out, unless
            the task asks for it.
        class_weights: what a pixel of each class counted where the recipe weighs classes; empty, and left out, elsewhere.
        environment: what else decides bits: device, threads, instruction set, library versions.
    """

    status: Status
    weights: Digest = NO_DIGEST
    miou: Score = 0.0
    class_iou: tuple[Score | None, ...] = ()
    one_class_miou: Score = 0.0
    accuracy: Score | None = None
    best_epoch: Count = 0
    epochs: Count = 0
    history: tuple[EpochResult, ...] = ()
    num_parameters_total: Count = 0
    num_parameters_network: Count = 0
    num_parameters_deploy: Count = 0
    num_macs: Count = 0
    latency_ms: Amount = 0.0
    class_weights: tuple[Amount, ...] = ()
    uncounted_operations: tuple[str, ...] = ()
    seconds: Amount = 0.0
    images_per_s: Amount = 0.0
    peak_memory_bytes: Count = 0
    exchange: ExchangeSummary | None = None
    predictions: Digest = NO_DIGEST
    knowledge: Digest = NO_DIGEST
    trace: Digest = NO_DIGEST
    competence: Competence | None = None
    decision: Decision | None = None
    error_code: str = ""
    error_text: str = ""
    environment: dict[str, str] = Field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<TaskResult: {summary(self)}>"

    def _repr_html_(self) -> str:
        return html_table("result", rows(self))

    @model_serializer(mode="wrap")
    def _leave_out_what_is_rare(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        plain: dict[str, Any] = handler(self)
        return {name: value for name, value in plain.items() if value or name not in ("latency_ms", "class_weights")}

    @property
    def judged_by(self) -> float:
        """What is compared: a classifier's accuracy, else mIoU."""
        return self.measure.must_be_of(self)

    @property
    def artifacts(self) -> tuple[Digest, ...]:
        """Digests of everything it refers to."""
        record = self.exchange.record if self.exchange else NO_DIGEST
        return tuple(filter(None, (self.weights, self.predictions, self.knowledge, self.trace, record)))
