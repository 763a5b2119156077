"""How a network is trained, and how it is taught: hyperparameters as data."""

from collections.abc import Callable
from typing import Literal

from pydantic import Field, model_validator

from agentkd.canonical import FrozenData
from agentkd.names import Digest
from agentkd.objectives import (
    Boundary,
    Codec,
    Dkd,
    Ifvd,
    Objective,
    Own,
    Payload,
    SoftTargets,
    payloads,
    projected_taps,
    student_taps,
)

MAX_EPOCHS, MAX_STEPS = 100_000, 10**9


class ViewSettings(FrozenData):
    """What a training view may look like: a random scale, crop, flip and color change of one sample.

    Args:
        crop_height: pixels; 0 keeps the image's own size and turns scaling and cropping off.
        crop_width: pixels; 0 as above.
        scale_min: smallest enlargement before the crop.
        scale_max: largest enlargement before the crop.
        flip: probability of a left-right mirror image.
        color: largest relative change of brightness, contrast and saturation, in [0, 1).
    """

    crop_height: int = Field(default=0, ge=0, le=8192)
    crop_width: int = Field(default=0, ge=0, le=8192)
    scale_min: float = Field(default=0.5, gt=0, le=8)
    scale_max: float = Field(default=2.0, gt=0, le=8)
    flip: float = Field(default=0.5, ge=0, le=1)
    color: float = Field(default=0.2, ge=0, lt=1)

    @model_validator(mode="after")
    def _check(self) -> "ViewSettings":
        if self.scale_min > self.scale_max:
            raise ValueError(f"scale_min {self.scale_min} is above scale_max {self.scale_max}")
        if (self.crop_height == 0) != (self.crop_width == 0):
            raise ValueError("crop_height and crop_width must both be zero or both be positive")
        return self


class Recipe(FrozenData):
    """Training hyperparameters.

    Args:
        epochs: passes over the training split.
        batch_size: images a step; at least 2, for batch normalization.
        steps_per_epoch: steps an epoch; 0 means one pass over the split.
        optimizer: ``sgd`` (with momentum) or ``adamw``.
        schedule: ``polynomial`` decays as (1 - step/steps)^power, ``cosine`` to zero, ``constant`` not at all.
        warmup_steps: steps of linear increase from zero at the start.
        clip_norm: largest gradient norm; 0 turns clipping off.
        precision: ``float32``, or ``bfloat16`` autocast.
        loss: ``family`` is the family's own training loss, ``cross_entropy`` the plain one on the main output.
        validate_every: epochs between validations; the last epoch is always validated.
        keep: weights handed on: of the ``best`` validated epoch or the ``last``.
    """

    epochs: int = Field(default=50, ge=1, le=MAX_EPOCHS)
    batch_size: int = Field(default=4, ge=2, le=4096)
    steps_per_epoch: int = Field(default=0, ge=0, le=MAX_STEPS)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(default=0.01, gt=0, le=10)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0, le=1)
    schedule: Literal["polynomial", "cosine", "constant"] = "polynomial"
    power: float = Field(default=0.9, gt=0, le=5)
    warmup_steps: int = Field(default=0, ge=0, le=MAX_STEPS)
    clip_norm: float = Field(default=0.0, ge=0)
    precision: Literal["float32", "bfloat16"] = "float32"
    loss: Literal["family", "cross_entropy"] = "family"
    validate_every: int = Field(default=1, ge=1, le=MAX_EPOCHS)
    keep: Literal["best", "last"] = "best"
    views: ViewSettings = ViewSettings()

    def validates(self, epoch: int) -> bool:
        """Whether an epoch, from 1, ends with a validation."""
        return epoch % self.validate_every == 0 or epoch == self.epochs


class Distillation(FrozenData):
    """How a student is taught: ``alpha`` times the hard-label loss plus what its objectives add.

    With soft targets alone this is Eq. 1 of the paper, ``alpha * hard + (1 - alpha) * KL``: soft targets count ``1 - alpha``
    times their weight, every other objective its weight.

    Args:
        objectives: what of the teachers' output the student is drawn to.
        alpha: weight of the hard-label loss.
        hard_loss: ``cross_entropy`` as in Eq. 1, or ``family``, which keeps auxiliary heads trained; ``none`` learns from the
            teachers alone (alpha must be 0): labels are not looked at, every pixel counts.
        start: initial weights of the student: its ``own``, ``scratch``, or ``inherit`` the teacher's matching layers.
        codec: how payloads travel, logits always at the teacher's native stride: see ``agentkd.knowledge.codecs``.
        max_kl: with codec ``auto``, the most that the teacher's probabilities may change by (mean KL a pixel).
    """

    objectives: tuple[Objective, ...] = Field(default=(SoftTargets(),), min_length=1, max_length=16)
    alpha: float = Field(default=0.5, ge=0, le=1)
    hard_loss: Literal["family", "cross_entropy", "none"] = "family"
    start: Literal["own", "scratch", "inherit"] = "own"
    codec: Codec = "float16"
    max_kl: float = Field(default=1e-5, ge=0)

    @model_validator(mode="after")
    def _check_labels(self) -> "Distillation":
        if self.hard_loss != "none":
            return self
        if self.alpha:
            raise ValueError(f"hard_loss none has no labels to weigh, but alpha is {self.alpha}; give alpha=0")
        in_need = [o.kind for o in self.objectives if isinstance(o, Boundary | Dkd | Ifvd) or getattr(o, "gate", "") == "correct"]
        if in_need:
            raise ValueError(f"{', '.join(in_need)} needs labels, but hard_loss is none")
        return self

    def with_code(self, find: Callable[[str], Digest]) -> "Distillation":
        """The same, in which every own objective says in which code it is found; ``find`` gives that of those that do not yet."""
        found = [o.replace(code=find(o.path)) if isinstance(o, Own) and not o.code else o for o in self.objectives]
        return self.replace(objectives=tuple(found))

    @property
    def codes(self) -> tuple[Digest, ...]:
        """The code of its own objectives, each once."""
        return tuple(dict.fromkeys(o.code for o in self.objectives if isinstance(o, Own) and o.code))

    @property
    def payloads(self) -> tuple[Payload, ...]:
        """What the objectives need of each teacher, each once."""
        return tuple(dict.fromkeys(payload for objective in self.objectives for payload in payloads(objective)))

    @property
    def student_taps(self) -> tuple[str, ...]:
        """The student's modules that the objectives look at, each once."""
        return tuple(dict.fromkeys(tap for objective in self.objectives for tap in student_taps(objective)))

    @property
    def projected_taps(self) -> tuple[tuple[str, str], ...]:
        """Student's and teacher's tap of each projection that is trained with the student."""
        pairs = (pair for objective in self.objectives for pair in projected_taps(objective).items())
        return tuple(dict.fromkeys(pairs))
