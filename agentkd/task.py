"""A task: a unit of work as a pure function of canonical inputs, and the record of its result.

The digest of the inputs is the task's identity: resume, deduplication and exactly-once all follow from it. Labels such as the
stage or the agent that did the work are not inputs, so the same work asked for twice is the same task.
"""

from enum import StrEnum
from typing import Any

from pydantic import Field, model_validator

from agentkd.architecture import Architecture
from agentkd.canonical import FrozenData, digest
from agentkd.objectives import LOGITS
from agentkd.recipe import Distillation, Recipe


class TaskKind(StrEnum):
    """What is to be done."""

    TRAIN = "train"
    DISTILL = "distill"
    MUTUAL = "mutual"
    CONSOLIDATE = "consolidate"
    EVALUATE = "evaluate"
    ASSESS = "assess"
    FEATURES = "features"
    AVERAGE = "average"


class DataSource(FrozenData):
    """A dataset by specification and content, and the splits that a task may read."""

    spec: str
    content_digest: str
    train: str = "train"
    validation: str = "validation"


class TeacherReference(FrozenData):
    """A network that teaches: architecture and the digest of its weights. Without an architecture only who holds it can teach.

    Args:
        share: its weight among several teachers.
        class_order: for each class of the student the teacher's class that means the same; empty if they are numbered alike.
        class_shares: how well it knows each of the student's classes, in [0, 1]: each pixel is taught by who knows best what it
            sees there. Either all teachers have them, or none.
        energies: median and 95th percentile of its energy on data that it knows: each tile is taught by who is most at home in
            it. Either all teachers have them, or none.
        parts: of joined data, those that it teaches, by number. Either all teachers have them, or none.
    """

    architecture: Architecture | None
    weights: str
    share: float = Field(default=1.0, gt=0)
    class_order: tuple[int, ...] = ()
    class_shares: tuple[float, ...] = ()
    energies: tuple[float, float] | None = None
    parts: tuple[int, ...] = ()

    def canonical(self) -> Any:
        """Plain data, without how teachers are told apart where they are not."""
        absent = {name for name in ("class_shares", "energies", "parts") if not getattr(self, name)}
        return {name: value for name, value in super().canonical().items() if name not in absent}


class Consolidation(FrozenData):
    """What a network must not forget: where its weights were, and how much each of them matters (online EWC).

    Args:
        anchors: digest of the weights.
        importance: digest of the importance of each weight, as a task of kind ``consolidate`` makes it.
        strength: factor of the penalty, see ``agentkd.training.continual``.
        decay: how much of an earlier importance counts when the next one is made.
    """

    anchors: str
    importance: str
    strength: float = Field(default=1.0, ge=0)
    decay: float = Field(default=0.9, ge=0, le=1)


class Partner(FrozenData):
    """Another student of a mutual lesson: those inputs of its task that may differ from ours."""

    architecture: Architecture
    recipe: Recipe
    seed: int
    initial_weights: str = ""


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
        home: of an assessment: the data that the network learned, whose validation split says what it knows.
        views: of feature maps: (sample index, view seed) pairs.
        taps: of feature maps: the modules whose output is wanted besides the logits.
        consolidation: what is not to be forgotten while this is learned; when consolidating: the importance until now.
        partners: of mutual teaching: the other students, by digest; they look at the same views in the same steps.
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
    home: DataSource | None = None
    views: tuple[tuple[int, int], ...] = ()
    taps: tuple[str, ...] = ()
    consolidation: Consolidation | None = None
    partners: tuple[Partner, ...] = Field(default=(), max_length=15)

    @model_validator(mode="after")
    def _check_routes(self) -> "Task":
        routes = [(bool(t.class_shares), bool(t.energies), bool(t.parts)) for t in self.teachers]
        if len(set(routes)) > 1 or any(sum(route) > 1 for route in routes):
            raise ValueError("teachers are told apart in one way, class_shares, energies or parts, and all of them or none")
        return self

    @model_validator(mode="after")
    def _check_partners(self) -> "Task":
        if (self.kind is TaskKind.MUTUAL) != bool(self.partners):
            raise ValueError("a mutual lesson has partners, nothing else has")
        everyone = (self._as_partner, *self.partners)
        if len({partner.digest for partner in everyone}) < len(everyone):
            raise ValueError("students that teach each other must differ in architecture, weights or seed")
        common = [(p.recipe.epochs, p.recipe.batch_size, p.recipe.steps_per_epoch, p.recipe.views) for p in everyone]
        if any(one != common[0] for one in common):
            raise ValueError("students that teach each other need equal epochs, batch_size, steps_per_epoch and views")
        if self.partners and (self.distillation is None or self.distillation.payloads != (LOGITS,)):
            raise ValueError("students teach each other by their logits alone; give objectives of logits")
        return self

    @property
    def _as_partner(self) -> Partner:
        return Partner(architecture=self.architecture, recipe=self.recipe, seed=self.seed, initial_weights=self.initial_weights)

    def partner_tasks(self) -> tuple["Task", ...]:
        """The tasks of the other students of a mutual lesson, in the order of ``partners``."""
        tasks = []
        for partner in self.partners:
            others = [self._as_partner, *(other for other in self.partners if other != partner)]
            fields = {name: getattr(partner, name) for name in Partner.model_fields}
            tasks.append(self.model_copy(update={**fields, "partners": tuple(sorted(others, key=lambda one: one.digest))}))
        return tuple(tasks)

    def canonical(self) -> Any:
        """Plain data without the fields that only some kinds have, so that a new kind leaves the digests of the others alone."""
        absent = {name for name in ("home", "views", "taps", "partners", "consolidation") if not getattr(self, name)}
        plain = super().canonical() | {"teachers": [teacher.canonical() for teacher in self.teachers]}
        return {name: value for name, value in plain.items() if name not in absent}

    def lesson_digest(self, teacher: TeacherReference) -> str:
        """What a teacher is asked, step by step: equal digests mean the same questions, whoever the student is."""
        d, r = self.distillation, self.recipe
        assert d is not None
        asked = [payload.canonical() for payload in d.payloads]
        how = [d.codec, d.max_kl, r.batch_size, r.steps_per_epoch, r.views.canonical(), self.view_seed]
        classes = 0 if teacher.class_order else self.architecture.num_classes  # with an order the weights say how many
        return digest([teacher.weights, classes, self.data.canonical(), asked, how])


class Status(StrEnum):
    """How a task ended."""

    COMPLETED = "completed"
    PRUNED = "pruned"
    INFEASIBLE = "infeasible"
    FAILED = "failed"


class EpochResult(FrozenData):
    """One epoch of a training: mean loss, the validation mIoU where the epoch was validated, and the digest of its weights."""

    epoch: int
    loss: float
    miou: float | None = None
    seconds: float
    weights: str = ""


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

    requests: int = 0
    bytes_received: int = 0
    waited_s: float = 0.0
    teacher_s: float = 0.0
    cached: int = 0
    recorded: int = 0
    saved_s: float = 0.0
    record: str = ""
    kept_s: float = 0.0


class Competence(FrozenData):
    """What a network knows about data.

    Args:
        weights: whose competence it is.
        dataset: content digest of what was looked at; ``split`` says which part of it.
        known_fraction: share of pixels whose energy is below the 95th percentile of that on the network's own validation split;
            ``None`` if it is not known what it learned.
        miou: as ever, ``None`` where nothing is labelled; so are ``class_iou`` and ``calibration_error``.
        calibration_error: expected calibration error of the labelled pixels, 15 bins (Guo et al. 2017).
        predicted: share of the pixels predicted as each class.
        energies: median and 95th percentile of the energy on the network's own validation split; ``None`` as above.
    """

    weights: str
    dataset: str
    split: str
    num_images: int
    known_fraction: float | None
    miou: float | None
    class_iou: tuple[float | None, ...]
    calibration_error: float | None
    predicted: tuple[float, ...]
    energies: tuple[float, float] | None = None


class TaskResult(FrozenData):
    """Outputs of one unit of work. Times and memory differ between machines; weights and mIoU do not on the same one.

    Args:
        weights: digest of the kept weights; empty unless the task trained a network.
        predictions: digest of the class maps of the first samples; only of an evaluation.
        knowledge: digest of feature maps, or of the importance of weights; only of the tasks that make them.
        trace: digest of the loss of every step; only of a training.
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
    knowledge: str = ""
    trace: str = ""
    competence: Competence | None = None
    error_code: str = ""
    error_text: str = ""
    environment: dict[str, str] = Field(default_factory=dict)

    @property
    def artifacts(self) -> tuple[str, ...]:
        """Digests of everything it refers to."""
        record = self.exchange.record if self.exchange else ""
        return tuple(filter(None, (self.weights, self.predictions, self.knowledge, self.trace, record)))
