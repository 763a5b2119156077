"""How a network is trained, and how it is taught: hyperparameters as data."""

from typing import Literal

from pydantic import Field, model_validator

from agentkd.canonical import FrozenData


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

    epochs: int = Field(default=50, ge=1, le=100_000)
    batch_size: int = Field(default=4, ge=2, le=4096)
    steps_per_epoch: int = Field(default=0, ge=0)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(default=0.01, gt=0, le=10)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0, le=1)
    schedule: Literal["polynomial", "cosine", "constant"] = "polynomial"
    power: float = Field(default=0.9, gt=0, le=5)
    warmup_steps: int = Field(default=0, ge=0)
    clip_norm: float = Field(default=0.0, ge=0)
    precision: Literal["float32", "bfloat16"] = "float32"
    loss: Literal["family", "cross_entropy"] = "family"
    validate_every: int = Field(default=1, ge=1)
    keep: Literal["best", "last"] = "best"
    views: ViewSettings = ViewSettings()


class Distillation(FrozenData):
    """How a student is taught with soft targets (Eq. 1 of the paper).

    ``L = alpha * hard + (1 - alpha) * KL(softmax(z_T / tau) || softmax(z_S / tau))``, mean over valid pixels.

    Args:
        alpha: weight of the hard-label loss.
        temperature: tau.
        scale_by_temperature_squared: multiply the KL term by tau^2, so that its gradient does not shrink as tau grows
            (Hinton et al. 2015). The paper's Eq. 1 has no such factor: ``false`` is paper-exact.
        hard_loss: ``cross_entropy`` as in Eq. 1, or ``family``, which keeps auxiliary heads trained.
        start: initial weights of the student: its ``own``, ``scratch``, or ``inherit`` the teacher's matching layers.
        resolution: where soft targets are compared: ``full`` image resolution (paper) or the student's ``native`` stride.
        codec: how logits travel: ``float16`` or ``float32``, always at the teacher's native stride.
    """

    alpha: float = Field(default=0.5, ge=0, le=1)
    temperature: float = Field(default=2.0, gt=0, le=100)
    scale_by_temperature_squared: bool = True
    hard_loss: Literal["family", "cross_entropy"] = "family"
    start: Literal["own", "scratch", "inherit"] = "own"
    resolution: Literal["full", "native"] = "full"
    codec: Literal["float16", "float32"] = "float16"
