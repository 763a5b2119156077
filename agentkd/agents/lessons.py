"""The student's side of an exchange: what is asked of a teacher in each step, and what its answer adds to the loss.

``DirectLesson`` has its teachers in the same process, ``RemoteLesson`` (in ``remote_lesson``) asks agents. Both give the same
numbers to the bit.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from agentkd import canonical
from agentkd.agents.feeding import DatasetFeed
from agentkd.agents.teaching import Teacher
from agentkd.architecture import Architecture
from agentkd.artifacts.store import Store
from agentkd.datasets.opening import Opened
from agentkd.errors import (
    ConfigError,
    ContractError,
    RemoteProtocolError,
)
from agentkd.knowledge import codecs, objectives, tensors
from agentkd.knowledge.objectives import Moment
from agentkd.knowledge.tensors import Buffer
from agentkd.messages.bodies import (
    KnowledgeKind,
    KnowledgeRequest,
)
from agentkd.names import Digest
from agentkd.objectives import LOGITS, Objective, Own, SoftTargets
from agentkd.recipe import Distillation, ViewSettings
from agentkd.task import Distill, ExchangeSummary, Taught, TeacherReference
from agentkd.training.ahead import carry
from agentkd.training.batches import Batch
from agentkd.training.loop import Knowledge
from agentkd.training.losses import Outputs, Terms, cross_entropy

NOTHING = -1  # no label has this number
MAX_SIDE, FILLED_TO = 8192, 64
"""Pixels: of an image as it is, at most; and to a multiple of what a network may fill images up."""
RANKS = {"logits": 4, "features": 4, "attention": 3, "similarity": 4}


@dataclass(frozen=True)
class Blend:
    """Eq. 1 and beyond: alpha times the hard loss, (1 - alpha) times soft targets, and what other objectives add.

    Args:
        class_weights: what a pixel of each class counts in the hard loss, and nowhere else; empty if all count the same.
    """

    distillation: Distillation
    dataset: Opened
    teachers: tuple[TeacherReference, ...]
    class_weights: tuple[float, ...] = ()

    def terms(self, hard: Terms, outputs: Outputs, knowledge: Knowledge, batch: Batch, progress: float) -> Terms:
        """The weighted terms; their sum is the loss."""
        d = self.distillation
        ignored = NOTHING if d.hard_loss == "none" else self.dataset.ignore_index
        moment = Moment(
            batch.labels,
            ignored,
            progress,
            shares=tuple(teacher.share for teacher in self.teachers),
            class_shares=tuple(teacher.class_shares for teacher in self.teachers if teacher.class_shares),
            energies=tuple(teacher.energies for teacher in self.teachers if teacher.energies),
            teacher_of=self._teachers_by_part(batch) if any(teacher.parts for teacher in self.teachers) else None,
        )
        if d.hard_loss == "none":
            hard = {name: term for name, term in hard.items() if name == "discriminator"}
        if d.hard_loss == "cross_entropy":
            ignored = self.dataset.ignore_index
            hard = {"cross_entropy": cross_entropy(outputs["logits"], batch.labels, ignored, self.class_weights)}
        weighted = {name: term if name == "discriminator" else d.alpha * term for name, term in hard.items()}
        for index, objective in enumerate(d.objectives):
            factor = (1 - d.alpha) * objective.weight if isinstance(objective, SoftTargets) else objective.weight
            if objective.schedule != "constant":
                factor *= objective.factor(progress)
            weighted[_term(index, objective)] = factor * objectives.loss(objective, outputs, knowledge, moment)
        return weighted

    def _teachers_by_part(self, batch: Batch) -> Tensor:
        """For each image [N] who teaches it."""
        parts = [self.dataset.part(index) for index, _ in batch.views]
        chosen = [next((i for i, teacher in enumerate(self.teachers) if part in teacher.parts), None) for part in parts]
        if None in chosen:
            raise ContractError("parts", [teacher.parts for teacher in self.teachers], parts, hint="each part needs a teacher")
        return carry(torch.tensor(chosen), batch.labels.device)


def _term(index: int, objective: Objective) -> str:
    """What an objective's term of the loss is called: a user's own by where it is found."""
    return f"{index}.{objective.path if isinstance(objective, Own) else objective.kind}"


class DirectLesson:
    """Teachers in this process: the reference that exchanges between processes are compared with."""

    is_heard = False

    def __init__(self, task: Distill, feed: DatasetFeed, *, store: Store, device: torch.device) -> None:
        self._task, self._feed, self._store = task, feed, store
        self._teachers = [
            (t, Teacher(must_have_architecture(t), t.weights, task.data, stored=store.get(t.weights), device=device))
            for t in task.teachers
        ]
        self.terms = blend(task, feed).terms

    def attend(self, network: nn.Module) -> None:
        """Who learns makes no difference."""

    def hear(self, step: int, outputs: Outputs) -> Knowledge:
        """The payloads of a step, one a teacher."""
        return self.peek(step)

    def secure(self) -> None:
        """Nothing is recorded."""

    def can_resume(self, step: int) -> bool:
        """The teachers are here."""
        return True

    def peek(self, step: int) -> Knowledge:
        """The payloads of a step, one a teacher."""
        payloads = []
        for reference, teacher in self._teachers:
            parcel = teacher.answer(lesson_request(self._task, self._feed, reference, step)).parcel
            payloads.append(unpack(self._task, reference, parcel.view))
        return tuple(payloads)

    def fetch_weights(self, weights: Digest) -> bytes:
        """A teacher's weights."""
        return self._store.get(weights)

    def summary(self) -> ExchangeSummary:
        """Nothing was exchanged."""
        return ExchangeSummary()


def unpack(task: Distill, teacher: TeacherReference, data: Buffer | Tensor) -> dict[str, Tensor]:
    """The payloads of one step by name, as numbers again, with classes in the student's order.

    Raises:
        ContractError: one is missing, or has another shape than the task's batch and classes ask for.
        RemoteProtocolError: the bytes are no tensors that may be.
    """
    try:
        return _unpacked(task, teacher, tensors.decode(data))
    except ContractError as error:
        hint = f"so teacher {teacher.weights[:12]} says it; it is to be mended, or another chosen"
        raise ContractError(error.field, error.teacher, error.student, hint=hint) from error
    except RemoteProtocolError as error:
        raise RemoteProtocolError(f"what teacher {teacher.weights[:12]} says is no knowledge: {error}", error.rule) from error


def _unpacked(task: Distill, teacher: TeacherReference, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    payloads: dict[str, Tensor] = {}
    images, classes = task.recipe.batch_size, num_classes_of(task, teacher)
    largest = _largest(task.recipe.views)
    known = {one.name for one in task.distillation.payloads}
    strange = {name for name in found if not any(name == one or name.startswith(f"{one}.") for one in known)}
    if strange:
        raise ContractError("payloads", sorted(found)[:8], sorted(known))
    for payload in task.distillation.payloads:
        tensor = codecs.read(payload.name, found, classes)
        wanted = (images, classes) if payload.form == "logits" else (images,)
        if tensor is None or tuple(tensor.shape[: len(wanted)]) != wanted or tensor.dim() != RANKS[payload.form]:
            raise ContractError(payload.name, None if tensor is None else tuple(tensor.shape), wanted)
        if payload.form == "logits" and (tensor.shape[2] > largest[0] or tensor.shape[3] > largest[1]):
            raise ContractError(payload.name, tuple(tensor.shape), (*wanted, f"up to {largest[0]}", f"up to {largest[1]}"))
        is_ordered = payload.form == "logits" and bool(teacher.class_order)
        payloads[payload.name] = tensor[:, list(teacher.class_order)] if is_ordered else tensor
    return payloads


def _largest(views: ViewSettings) -> tuple[int, int]:
    """The most rows and columns that logits can have: those of the images, which a network may have filled up."""
    height, width = views.crop_height or MAX_SIDE, views.crop_width or MAX_SIDE
    return -(-height // FILLED_TO) * FILLED_TO, -(-width // FILLED_TO) * FILLED_TO


def num_classes_of(task: Distill, teacher: TeacherReference) -> int:
    """How many classes a teacher is to tell apart: as many as the student, unless a class order says how they correspond."""
    return (teacher.architecture if teacher.class_order and teacher.architecture else task.architecture).num_classes


def must_have_architecture(teacher: TeacherReference) -> Architecture:
    """The architecture of a teacher that is to be built here.

    Raises:
        ConfigError: only who holds it can teach.
    """
    if teacher.architecture is None:
        raise ConfigError(f"teacher {teacher.weights[:12]} has no architecture here: only the agent that holds it can teach")
    return teacher.architecture


def blend(task: Taught, feed: DatasetFeed) -> Blend:
    """How a task's loss is put together."""
    return Blend(task.distillation, feed.dataset, task.taught_by, feed.class_weights)


def lesson_request(task: Distill, feed: DatasetFeed, teacher: TeacherReference, step: int) -> KnowledgeRequest:
    """The request for a step's payloads; equal requests of several students have equal bodies."""
    payloads = task.distillation.payloads
    return KnowledgeRequest(
        kind=KnowledgeKind.SOFT_TARGETS if payloads == (LOGITS,) else KnowledgeKind.FEATURE_MAPS,
        payloads=payloads,
        weights=teacher.weights,
        num_classes=num_classes_of(task, teacher),
        classes=() if teacher.class_order else feed.dataset.classes,
        dataset=feed.dataset.digest,
        view_settings=task.recipe.views,
        views=feed.views(step),
        codec=task.distillation.codec,
        max_kl=task.distillation.max_kl if task.distillation.codec == codecs.AUTO else 0.0,
        head=teacher.architecture.head if teacher.architecture else "",
        arithmetic=task.distillation.arithmetic,
    )


def request_digest(request: KnowledgeRequest) -> Digest:
    """What is asked, whatever the way by which the answer comes: equal digests, equal answers to the bit."""
    unsaid = {"ways", "step", "classes"} | {name for name in ("head", "arithmetic") if not request.model_dump()[name]}
    return canonical.digest(request.model_dump(exclude=unsaid))
