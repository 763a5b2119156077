"""A task: a unit of work as a pure function of canonical inputs, and the record of its result.

The digest of the inputs is the task's identity: resume, deduplication and exactly-once all follow from it. Labels such as the
stage or the agent that did the work are not inputs, so the same work asked for twice is the same task.
"""

from enum import StrEnum

from pydantic import Field

from agentkd.architecture import Architecture
from agentkd.canonical import FrozenData
from agentkd.recipe import Distillation, Recipe


class TaskKind(StrEnum):
    """What is to be done."""

    TRAIN = "train"
    DISTILL = "distill"
    EVALUATE = "evaluate"


class DataSource(FrozenData):
    """A dataset by specification and content, and the splits that a task may read."""

    spec: str
    content_digest: str
    train: str = "train"
    validation: str = "validation"


class TeacherReference(FrozenData):
    """A network that teaches: architecture and the digest of its weights. Without an architecture only who holds it can teach."""

    architecture: Architecture | None
    weights: str
    share: float = Field(default=1.0, gt=0)


class Task(FrozenData):
    """Inputs of one unit of work.

    Args:
        seed: root of initialization and dropout; views have a seed of their own so that students can share them.
        view_seed: root of the training views.
        initial_weights: digest to start from; empty means initialization from ``seed``.
        pretrained: digest of weights of which matching tensors are inherited at initialization.
        max_deploy_parameters: reject before training if the deploy form is larger; 0 means no limit.
        max_num_macs: the same for the multiply-accumulates of one image.
        prune_below: per epoch, the validation mIoU under which a trial is stopped; empty means never.
    """

    kind: TaskKind
    architecture: Architecture
    data: DataSource
    recipe: Recipe = Recipe()
    seed: int = 0
    view_seed: int = 0
    initial_weights: str = ""
    pretrained: str = ""
    teachers: tuple[TeacherReference, ...] = ()
    distillation: Distillation | None = None
    max_deploy_parameters: int = 0
    max_num_macs: int = 0
    prune_below: tuple[float, ...] = ()


class Status(StrEnum):
    """How a task ended."""

    COMPLETED = "completed"
    PRUNED = "pruned"
    INFEASIBLE = "infeasible"
    FAILED = "failed"


class EpochResult(FrozenData):
    """One epoch of a training: mean loss, and the validation mIoU where the epoch was validated."""

    epoch: int
    loss: float
    miou: float | None = None
    seconds: float


class ExchangeSummary(FrozenData):
    """What crossed the wire for one task, as the student saw it."""

    requests: int = 0
    bytes_received: int = 0
    waited_s: float = 0.0
    teacher_s: float = 0.0


class TaskResult(FrozenData):
    """Outputs of one unit of work. Times and memory differ between machines; weights and mIoU do not on the same one.

    Args:
        weights: digest of the kept weights; empty unless the task trained a network.
        predictions: digest of the class maps of the first samples; only of an evaluation.
        environment: what else decides bits: device, threads, instruction set, library versions.
    """

    status: Status
    weights: str = ""
    miou: float = 0.0
    class_iou: tuple[float | None, ...] = ()
    one_class_miou: float = 0.0
    best_epoch: int = 0
    epochs: int = 0
    history: tuple[EpochResult, ...] = ()
    num_parameters_total: int = 0
    num_parameters_network: int = 0
    num_parameters_deploy: int = 0
    num_macs: int = 0
    uncounted_operations: tuple[str, ...] = ()
    seconds: float = 0.0
    images_per_s: float = 0.0
    peak_memory_bytes: int = 0
    exchange: ExchangeSummary | None = None
    predictions: str = ""
    error_code: str = ""
    error_text: str = ""
    environment: dict[str, str] = Field(default_factory=dict)
