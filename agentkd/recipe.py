"""How a network is trained, and how it is taught: hyperparameters as data."""

import difflib
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from agentkd.canonical import ExplainedData, Proviso
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
MAX_CLASS_WEIGHTS = 255
# What is read with this context stays as it was written: a record's, and another agent's, are known by a digest of that.
AS_WRITTEN = {"as_written": True}

# When these fields of a recipe make a difference. Whether others do, a recipe's other fields decide in rare cases alone.
CONDITIONS = {
    "momentum": Proviso("optimizer is sgd", ("optimizer",), lambda recipe: bool(recipe["optimizer"] == "sgd")),
    "power": Proviso("schedule is polynomial", ("schedule",), lambda recipe: bool(recipe["schedule"] == "polynomial")),
    "sampler_temperature": Proviso("sampler is rare_class", ("sampler",), lambda recipe: bool(recipe["sampler"] == "rare_class")),
}
# Fields that recipes have got since there are records: at their defaults they are left out of the canonical form.
LATER = ("class_weights", "sampler", "sampler_temperature", "validation_precision", "channels_last", "compiled", "repeatable")


def _word_of(words: Any) -> BeforeValidator:
    """Refuses a word that is none of a ``Literal``, and names the one that is nearly so."""
    known = get_args(words)

    def check(value: object) -> object:
        if isinstance(value, str) and value not in known:
            like = difflib.get_close_matches(value.strip().lower(), known, n=1)
            raise ValueError(
                f"{value[:80]!r} is not known; " + (f"did you mean {like[0]!r}?" if like else f"known: {', '.join(known)}")
            )
        return value

    return BeforeValidator(check)


Precision = Literal["float32", "bfloat16"]
Weighting = Literal["none", "inverse", "effective"]
LossChoice = Literal["family", "cross_entropy", "ohem"]
Sampler = Literal["uniform", "rare_class"]
WORD, WEIGHTS = "<word>", "<weights>"


def _weighting(value: object) -> str | None:
    return WORD if isinstance(value, str) else WEIGHTS if isinstance(value, list | tuple) else None


ClassWeights = Annotated[
    Annotated[Weighting, _word_of(Weighting), Tag(WORD)]
    | Annotated[tuple[Annotated[float, Field(ge=0, strict=True)], ...], Field(max_length=MAX_CLASS_WEIGHTS), Tag(WEIGHTS)],
    Discriminator(
        _weighting,
        custom_error_type="class_weights",
        custom_error_message="expected none, inverse, effective, or a list with a number for each class",
    ),
]


class _WrittenInOneWay(ExplainedData):
    """Data of which a field that makes no difference is as if nobody had said anything, so that what is equal has one digest."""

    _is_made: bool = PrivateAttr(default=False)

    @model_validator(mode="after")
    def _write_in_one_way(self, info: ValidationInfo) -> Self:
        """Once: a part of something else is looked at again when that is made, and stays as it is."""
        if not self._is_made and not (info.context or {}).get("as_written"):
            for name, value in self._plainest():
                self.__dict__[name] = value
        self._is_made = True
        return self

    def _plainest(self) -> Iterator[tuple[str, Any]]:
        """Fields and what stands for their values, each looked at after those before have been changed."""
        yield from ()

    def _usual(self, *names: str) -> Iterator[tuple[str, Any]]:
        yield from ((name, type(self).model_fields[name].default) for name in names)


class ViewSettings(_WrittenInOneWay):
    """What a training view may look like: a random scale, crop, flip and color change of one sample.

    Without a crop there is no scale.
    """

    crop_height: int = Field(default=0, ge=0, le=8192)
    """Height of the crop in pixels; 0 keeps the image's own size and turns scaling and cropping off."""
    crop_width: int = Field(default=0, ge=0, le=8192)
    """Width of the crop in pixels; 0 as above."""
    scale_min: float = Field(default=0.5, gt=0, le=8)
    """Smallest enlargement before the crop."""
    scale_max: float = Field(default=2.0, gt=0, le=8)
    """Largest enlargement before the crop."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability of a left-right mirror image."""
    color: float = Field(default=0.2, ge=0, lt=1)
    """Largest relative change of brightness, contrast and saturation, in [0, 1)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._check_scale()
        if (self.crop_height == 0) != (self.crop_width == 0):
            raise ValueError("crop_height and crop_width must both be zero or both be positive")
        return self

    def _check_scale(self) -> None:
        if self.scale_min > self.scale_max:
            raise ValueError(f"scale_min {self.scale_min} is above scale_max {self.scale_max}")

    def _plainest(self) -> Iterator[tuple[str, Any]]:
        self._check_scale()  # before what is wrong is gone
        if not self.crop_height:
            yield from self._usual("scale_min", "scale_max")


class Arithmetic(ExplainedData):
    """How a network computes that does not learn. Each of these gives other bits, and none another meaning.

    In the canonical form stands what is not as it usually is.
    """

    precision: Precision = "float32"
    """``float32``, or ``bfloat16`` autocast."""
    channels_last: bool = Field(default=False, strict=True)
    """Weights and maps are laid out with the channels of a pixel side by side."""
    folded: bool = Field(default=False, strict=True)
    """Each batch normalization that sees nothing but a convolution's output becomes a part of that convolution."""
    repeatable: bool = Field(default=True, strict=True)
    """On CUDA an operation that PyTorch has no repeatable form of there is an error. If not, it is used, and neither another run
    nor a replay need have the same bits.
    """

    @model_serializer(mode="wrap")
    def _leave_out_what_is_usual(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        plain: dict[str, Any] = handler(self)
        usual = type(self).model_fields
        return {name: value for name, value in plain.items() if value != usual[name].default}


class Recipe(_WrittenInOneWay):
    """Training hyperparameters.

    What makes no difference is not kept: momentum without ``sgd``, a power without ``polynomial``, how often is validated beyond
    the last epoch, which weights are kept if one epoch alone is validated, and a schedule of one step.
    """

    epochs: int = Field(default=50, ge=1, le=MAX_EPOCHS)
    """Passes over the training split."""
    batch_size: int = Field(default=4, ge=2, le=4096)
    """Images a step; at least 2, for batch normalization."""
    steps_per_epoch: int = Field(default=0, ge=0, le=MAX_STEPS)
    """Steps an epoch; 0 means one pass over the split."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """``sgd`` (with momentum) or ``adamw`` (without)."""
    learning_rate: float = Field(default=0.01, gt=0, le=10)
    """Largest learning rate, at the end of the warm-up."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of ``sgd``; of no effect with ``adamw``."""
    weight_decay: float = Field(default=5e-4, ge=0, le=1)
    """Weight decay (L2) of all weights that have it."""
    schedule: Literal["polynomial", "cosine", "constant"] = "polynomial"
    """``polynomial`` decays as (1 - step/steps)^power, ``cosine`` to zero, ``constant`` not at all."""
    power: float = Field(default=0.9, gt=0, le=5)
    """Exponent of the ``polynomial`` schedule."""
    warmup_steps: int = Field(default=0, ge=0, le=MAX_STEPS)
    """Steps of linear increase from zero at the start."""
    clip_norm: float = Field(default=0.0, ge=0)
    """Largest norm of the whole gradient: a larger one is scaled down to it before each step, so that a single bad batch does no
    harm; 0 turns clipping off.
    """
    precision: Precision = "float32"
    """``float32``, or ``bfloat16`` autocast."""
    loss: Annotated[LossChoice, _word_of(LossChoice)] = "family"
    """``family`` is the family's own training loss, ``cross_entropy`` the plain one on the main output, ``ohem`` the family's own
    with every cross-entropy, those of auxiliary heads too, over the hard pixels alone (online hard example mining, Shrivastava et
    al. 2016), see ``agentkd.training.losses``.
    """
    validate_every: int = Field(default=1, ge=1, le=MAX_EPOCHS)
    """Epochs between validations; the last epoch is always validated. Validating less often takes less time, and fewer epochs can
    be the best one.
    """
    keep: Literal["best", "last"] = "best"
    """Weights handed on: of the ``best`` validated epoch or the ``last``."""
    views: ViewSettings = ViewSettings()
    """What a training view of an image may look like: crop, scale, flip, color."""
    class_weights: ClassWeights = "none"
    """What a pixel counts in every cross-entropy with labels, by its class: ``none``; ``inverse`` to how many labelled pixels of
    the training split the class has; to their ``effective`` number; or a list, a number for each class. See
    ``agentkd.datasets.balance``.
    """
    sampler: Annotated[Sampler, _word_of(Sampler)] = "uniform"
    """Which training images a step sees: ``uniform``, each once in a pass, or by ``rare_class``: a class is drawn, the rarer the
    more often, and then an image that has it. See ``agentkd.datasets.order``.
    """
    sampler_temperature: float = Field(default=0.01, ge=1e-4, le=100)
    """The smaller, the more often the rarest class is drawn."""
    validation_precision: Precision = "float32"
    """As ``precision``, of validations."""
    channels_last: bool = False
    """Weights and maps are laid out with the channels of a pixel side by side, in validations too."""
    compiled: bool = False
    """The network is compiled (``torch.compile``), which needs a C++ compiler, on CUDA Triton."""
    repeatable: bool = True
    """As of ``Arithmetic``; what was used of such operations stands in the record's environment."""

    @field_validator("class_weights")
    @classmethod
    def _check_class_weights(cls, value: ClassWeights) -> ClassWeights:
        if isinstance(value, str):
            return value
        if len(value) < 2:
            raise ValueError(f"{len(value)} of the classes have a weight; give one for each, two at least")
        if not any(value):
            raise ValueError("every class weighs 0, so no pixel counts; give one of them more")
        return value

    @model_serializer(mode="wrap")
    def _leave_out_what_came_later(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        plain: dict[str, Any] = handler(self)
        usual = type(self).model_fields
        return {name: value for name, value in plain.items() if name not in LATER or value != usual[name].default}

    def _plainest(self) -> Iterator[tuple[str, Any]]:
        """What ``training.optimization`` and ``training.loop`` look at, and no more."""
        yield from self._plainest_rate()
        for name, condition in CONDITIONS.items():
            if not condition.holds(self.__dict__):
                yield from self._usual(name)
        if self.validate_every > self.epochs:
            yield "validate_every", self.epochs
        if self.validate_every == self.epochs:
            yield from self._usual("keep")

    def _plainest_rate(self) -> Iterator[tuple[str, Any]]:
        """How the learning rate goes, and the momentum of a single step. Without the data nobody may know how many there are."""
        steps = self.epochs * self.steps_per_epoch
        falls_for = steps - self.warmup_steps if steps else MAX_STEPS
        if self.warmup_steps <= 1 and (self.schedule == "constant" or falls_for <= 1):
            yield "warmup_steps", 0  # the first step has the whole rate, and so have the others
            yield "schedule", "constant"
        if steps == 1:
            yield from self._usual("momentum")
        if falls_for <= 1 and (self.warmup_steps > 1 or steps == 1):
            yield from self._usual("schedule", "power")  # no step is left to fall in, or one, in which none has fallen
        if falls_for == 2 and (self.schedule, self.power) == ("polynomial", 1.0):
            yield "schedule", "cosine"  # to a half, both

    def validates(self, epoch: int) -> bool:
        """Whether an epoch, from 1, ends with a validation."""
        return epoch % self.validate_every == 0 or epoch == self.epochs


class Distillation(_WrittenInOneWay):
    """How a student is taught: ``alpha`` times the hard-label loss plus what its objectives add.

    With soft targets alone this is Eq. 1 of the paper, ``alpha * hard + (1 - alpha) * KL``: soft targets count ``1 - alpha``
    times their weight, every other objective its weight.
    """

    objectives: tuple[Objective, ...] = Field(default=(SoftTargets(),), min_length=1, max_length=16)
    """What of the teachers' output the student is drawn to."""
    alpha: float = Field(default=0.5, ge=0, le=1)
    """Weight of the hard-label loss."""
    hard_loss: Literal["family", "cross_entropy", "none"] = "family"
    """``cross_entropy`` as in Eq. 1, or ``family``, which keeps auxiliary heads trained; ``none`` learns from the teachers alone
    (alpha must be 0): labels are not looked at, every pixel counts.
    """
    start: Literal["own", "scratch", "inherit"] = "own"
    """Initial weights of the student: its ``own``, ``scratch``, or ``inherit`` the teacher's matching layers."""
    codec: Codec = "float16"
    """How payloads travel, logits always at the teacher's native stride: see ``agentkd.knowledge.codecs``."""
    max_kl: float = Field(default=1e-5, ge=0)
    """With codec ``auto``, the most that the teacher's probabilities may change by (mean KL a pixel)."""
    arithmetic: Arithmetic = Arithmetic()
    """How teachers compute what they say; left out of the canonical form where that is as usual."""

    @model_serializer(mode="wrap")
    def _leave_out_what_came_later(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        plain: dict[str, Any] = handler(self)
        return {name: value for name, value in plain.items() if value or name != "arithmetic"}

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

    def _plainest(self) -> Iterator[tuple[str, Any]]:
        if self.codec != "auto":
            yield from self._usual("max_kl")

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
