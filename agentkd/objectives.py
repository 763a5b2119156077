"""Distillation objectives as data: what of a teacher's output a student is drawn to, and how strongly.

An objective has two halves. The teacher's half is a *payload*: a reduction of the teacher's output that travels. The student's
half is the loss; both are computed in ``agentkd.knowledge``. A tap is the dotted name of a module: ``spp``, ``layer3.1``;
or a place that is called the same in all families: ``bottleneck``, the deepest features, or ``penultimate``, what the last head
looks at.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from agentkd.canonical import ExplainedData
from agentkd.code.source import CodeDigest
from agentkd.names import NO_DIGEST

Weight = Annotated[float, Field(gt=0, le=1e9)]
Temperature = Annotated[float, Field(gt=0, le=100)]
Tap = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$", max_length=150)]
Taps = Annotated[dict[Tap, Tap], Field(min_length=1, max_length=16)]


# How payloads are written: see ``agentkd.knowledge.codecs``.
Codec = Literal["float16", "float32", "bfloat16", "int8", "top1", "top2", "top3", "top4", "top5", "top6", "top7", "top8", "auto"]


class Payload(ExplainedData):
    """What a teacher reduces its output to before it is sent."""

    form: Literal["logits", "features", "attention", "similarity"] = "logits"
    """``logits`` [N,K,h,w]; ``features`` [N,C,h,w] of a tap; ``attention`` [N,h,w], the mean over channels of their square;
    ``similarity`` [N,h,w,h*w], the cosines between all pairs of positions, pooled to at most ``size``.
    """
    tap: str = Field(default="", pattern=r"^([A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*)?$", max_length=150)
    """Module of the teacher; empty for logits."""
    size: int = Field(default=0, ge=0, le=32, strict=True)
    """Largest height and width of a similarity."""

    @model_validator(mode="after")
    def _check(self) -> "Payload":
        if (self.form == "logits") == bool(self.tap):
            raise ValueError("logits have no tap, everything else has one")
        if (self.form == "similarity") != bool(self.size):
            raise ValueError("a similarity has a size of 1 to 32, nothing else has one")
        return self

    @property
    def name(self) -> str:
        """Its tensor's name."""
        return ".".join(part for part in (self.form, self.tap, str(self.size) if self.size else "") if part)


LOGITS = Payload()
Schedule = Literal["constant", "rise", "fall", "cosine"]
USUAL = (("schedule", "constant"), ("code", NO_DIGEST))  # left out, so that a new field leaves earlier digests alone


class Scheduled(ExplainedData):
    """What every objective has besides its own fields."""

    schedule: Schedule = "constant"
    """How its weight goes with the share ``p`` of the steps that are done: ``constant``, ``rise`` (p), ``fall`` (1 - p) or
    ``cosine`` ((1 + cos(pi p)) / 2).
    """

    @model_serializer(mode="wrap")
    def _leave_out_what_is_usual(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        plain: dict[str, Any] = handler(self)
        return {name: value for name, value in plain.items() if (name, value) not in USUAL}

    def factor(self, progress: float) -> float:
        """What the weight is multiplied with after this share of the steps.

        Args:
            progress: that share, in [0, 1].

        Example:
            >>> [SoftTargets(schedule="fall").factor(p) for p in (0.0, 0.25, 1.0)]
            [1.0, 0.75, 0.0]
        """
        match self.schedule:
            case "rise":
                return progress
            case "fall":
                return 1 - progress
            case "cosine":
                return (1 + math.cos(math.pi * progress)) / 2
        return 1.0


class SoftTargets(Scheduled):
    """KL(softmax(z_T / tau) || softmax(z_S / tau)), mean over valid pixels.

    Source: Vlachos et al., Eq. 1; Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015.
    """

    kind: Literal["soft_targets"] = "soft_targets"
    temperature: Temperature = 2.0
    """Tau: by what logits are divided before the softmax, the teacher's and the student's; larger is softer."""
    weight: Weight = 1.0
    """Factor on top of ``1 - alpha``."""
    scale_by_temperature_squared: bool = True
    """Multiply by tau^2, so that the gradient does not shrink as tau grows (Hinton et al. 2015). The paper's Eq. 1 has no such
    factor: ``false`` is paper-exact.
    """
    resolution: Literal["full", "native"] = "full"
    """Compare at ``full`` image resolution (paper) or at the student's ``native`` stride."""
    standardize: bool = False
    """Bring each pixel's logits to mean zero and deviation one over the classes first (Sun et al. 2024)."""
    gate: Literal["through", "correct", "confidence", "cutoff", "linear"] = "through"
    """Where the teacher counts: ``through`` everywhere; ``correct`` where it is right; ``confidence`` where its largest
    probability is at least ``gate_at``; ``cutoff`` in the first ``gate_at`` of the steps; ``linear`` less and less.
    """
    gate_at: float = Field(default=0.5, ge=0, le=1)
    """See ``gate``."""


class Boundary(Scheduled):
    """Soft targets on the pixels within ``width`` of another label alone.

    Source: after Liu et al., "BPKD: Boundary Privileged Knowledge Distillation For Semantic Segmentation", 2024.
    """

    kind: Literal["boundary"] = "boundary"
    temperature: Temperature = 2.0
    """Tau: by what logits are divided before the softmax, the teacher's and the student's; larger is softer."""
    weight: Weight = 1.0
    """Factor of this objective in the loss."""
    width: int = Field(default=2, ge=1, le=64)
    """Pixels: how far from another label a pixel may be to count."""


class Dkd(Scheduled):
    """Decoupled soft targets: ``target`` times the divergence of target against rest, ``rest`` times that among the others.

    Source: Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022.
    """

    kind: Literal["dkd"] = "dkd"
    temperature: Temperature = 1.0
    """Tau: by what logits are divided before the softmax; larger is softer."""
    weight: Weight = 1.0
    """Factor of this objective in the loss."""
    target: float = Field(default=1.0, ge=0)
    """Factor of the divergence of target against rest."""
    rest: float = Field(default=8.0, ge=0)
    """Factor of the divergence among the other classes."""


class Dist(Scheduled):
    """One minus Pearson's correlation, over the classes of each pixel (``beta``) and over the pixels of each class (``gamma``).

    Source: Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022.
    """

    kind: Literal["dist"] = "dist"
    temperature: Temperature = 1.0
    """Tau: by what logits are divided before the softmax; larger is softer."""
    weight: Weight = 1.0
    """Factor of this objective in the loss."""
    beta: float = Field(default=1.0, ge=0)
    """Factor of the correlation over the classes of each pixel."""
    gamma: float = Field(default=1.0, ge=0)
    """Factor of the correlation over the pixels of each class."""


class ChannelWise(Scheduled):
    """tau^2 / C times the sum over channels of the KL between the spatial softmaxes, of the logits or of features.

    Source: Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021.
    """

    kind: Literal["channel"] = "channel"
    taps: dict[Tap, Tap] = Field(default_factory=dict, max_length=16)
    """Student's tap to teacher's tap; empty for the logits. Features are projected to the teacher's channels."""
    temperature: Temperature = 4.0
    """Tau: by what values are divided before the softmax over positions; larger is softer."""
    weight: Weight = 3.0
    """3 is the published one for logits; use 50 for features."""


class _Tapped(Scheduled):
    """An objective on features, which may be given the taps first: ``Features({"spp": "spp"}, weight=10)``."""

    taps: Taps
    """Student's tap to teacher's tap, each the dotted name of a module, or ``bottleneck`` or ``penultimate``, which are the same
    place in every family.
    """

    def __init__(self, taps: dict[str, str] | None = None, **fields: Any) -> None:
        given: dict[str, Any] = {} if taps is None else {"taps": taps}
        super().__init__(**given, **fields)


class Features(_Tapped):
    """Mean squared error of the projected student's and the teacher's features.

    Source: Romero et al., "FitNets", 2015; Cao et al., "PKD", NeurIPS 2022.
    """

    kind: Literal["features"] = "features"
    weight: Weight = 10.0
    """Factor of this objective in the loss."""
    standardize: bool = True
    """Bring each channel to mean zero and deviation one first (PKD). Without it (FitNets) one large channel, which is common
    where a tap stands before a normalization, drowns all others and soon the student.
    """


class Attention(_Tapped):
    """Squared distance of the attention maps (mean over channels of the squared features), each of length one; mean over images.

    The published loss is the mean over positions: its weight of 1e4 at a map of 32x32 is about 10 here, at any size.

    Source: Zagoruyko, Komodakis, "Paying More Attention to Attention", ICLR 2017.
    """

    kind: Literal["attention"] = "attention"
    weight: Weight = 10.0
    """Factor of this objective in the loss."""


class Pairwise(_Tapped):
    """Mean squared difference of the cosines between all pairs of positions, of features pooled to at most ``size``.

    Source: Liu et al., "Structured Knowledge Distillation for Semantic Segmentation", CVPR 2019.
    """

    kind: Literal["pairwise"] = "pairwise"
    weight: Weight = 10.0
    """Factor of this objective in the loss."""
    size: int = Field(default=32, ge=1, le=32)
    """Largest height and width of the features that are compared, in positions; larger ones are pooled to it."""


class Ifvd(_Tapped):
    """Mean squared difference of each position's cosine to the mean feature of its class.

    Source: Wang et al., "Intra-class Feature Variation Distillation for Semantic Segmentation", ECCV 2020.
    """

    kind: Literal["ifvd"] = "ifvd"
    weight: Weight = 20.0
    """Factor of this objective in the loss."""


class Own(Scheduled):
    """A user's own objective: ``path`` (``package.module:Name``) is called with ``settings`` in the student's process.

    What it makes must have ``loss(student, teacher, moment)``, see ``agentkd.knowledge.objectives.StudentHalf``. The teacher's
    half is one of the known payloads, so a teacher runs none of it.
    """

    kind: Literal["own"] = "own"
    path: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$")
    """Where the class can be imported from: ``package.module:Name``."""
    code: CodeDigest = NO_DIGEST
    """Digest of the code in which ``path`` is found; filled in where a task is made."""
    settings: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Keyword arguments that it is made with."""
    sends: tuple[Payload, ...] = (LOGITS,)
    """What it needs of the teacher."""
    student_taps: tuple[Tap, ...] = ()
    """Modules of the student whose outputs it looks at, by dotted name."""
    weight: Weight = 1.0
    """Factor of this objective in the loss."""

    @model_validator(mode="after")
    def _check(self) -> "Own":
        if not self.sends:
            raise ValueError("an objective needs at least one payload of the teacher")
        return self


Objective = Annotated[
    SoftTargets | Boundary | Dkd | Dist | ChannelWise | Features | Attention | Pairwise | Ifvd | Own, Field(discriminator="kind")
]
_FORMS = {"channel": "features", "features": "features", "ifvd": "features", "attention": "attention", "pairwise": "similarity"}


def payloads(objective: Objective) -> tuple[Payload, ...]:
    """What an objective needs of the teacher."""
    if isinstance(objective, Own):
        return objective.sends
    return tuple(payload_of(objective, tap) for tap in getattr(objective, "taps", {}).values()) or (LOGITS,)


def payload_of(objective: Objective, tap: str) -> Payload:
    """The payload that an objective on features needs of one of the teacher's taps."""
    return Payload.model_validate({"form": _FORMS[objective.kind], "tap": tap, "size": getattr(objective, "size", 0)})


def student_taps(objective: Objective) -> tuple[str, ...]:
    """The modules of the student that an objective looks at."""
    return objective.student_taps if isinstance(objective, Own) else tuple(getattr(objective, "taps", {}))


def projected_taps(objective: Objective) -> dict[str, str]:
    """Student's tap to teacher's tap, where a projection to the teacher's channels is trained with the student."""
    return dict(objective.taps) if isinstance(objective, Features | ChannelWise) else {}
