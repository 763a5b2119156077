"""A network as data: family, number of classes, settings and the scale of its images, with a canonical form and a digest.

What a family's settings mean and which values are legal is known to ``agentkd.networks``; here they are plain data.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from agentkd.canonical import FrozenData
from agentkd.code.source import Named

MAX_CLASSES = 1000
MAX_CLASS_NAME = 200
MAX_HEADS = 16
FIRST_REVISION, MAX_REVISION = 1, 1_000_000
NumClasses = Annotated[int, Field(ge=2, le=MAX_CLASSES)]
HeadName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Setting = bool | int | float | str
Channels = tuple[float, float, float]
Deviation = Annotated[float, Field(gt=0)]


class Normalization(FrozenData):
    """What a network's images look like: RGB in [0, 1], minus ``mean``, divided by ``deviation``, channel by channel.

    It belongs to a network as its architecture does, and to its weights, which are worth nothing on images of another scale.
    """

    mean: Channels
    deviation: tuple[Deviation, Deviation, Deviation]

    def __str__(self) -> str:
        named = next((name for name, value in NORMALIZATIONS.items() if value == self), "")
        return named or f"mean {self.mean}, deviation {self.deviation}"


# Channel statistics of ImageNet: what the published weights of the families here were trained with.
IMAGENET = Normalization(mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225))
UNIT = Normalization(mean=(0.0, 0.0, 0.0), deviation=(1.0, 1.0, 1.0))
NORMALIZATIONS = {"unit": UNIT, "imagenet": IMAGENET}
"""Those that have a name. ``unit`` leaves images in [0, 1]; so they are between agents."""


class NamedHeads(FrozenData):
    """The heads of a network by name, each with how many classes it tells apart."""

    heads: dict[HeadName, NumClasses] = Field(min_length=1, max_length=MAX_HEADS)


class Architecture(Named):
    """Family and settings of one network. Two equal architectures build identical networks, and train them by the same loss.

    Args:
        family: a name in ``agentkd networks`` or ``package.module:builder`` for one's own.
        num_classes: K, the classes the network tells apart (ignored pixels are not a class).
        settings: every setting that the family has; ``agentkd.networks.families.resolve`` fills in the defaults.
        normalization: of its images. The families here have ImageNet's; an own builder declares it, and has ``unit`` if not. The
            canonical form leaves ImageNet's out, which all had when there was no other.
        code: digest of the code that an own family's builder is in.
        revision: which network and training loss the family's name means. It rises when that changes, so that a record keeps its
            digest and meaning; what is of another revision than ``agentkd.networks.families`` has is read, but not built. The
            canonical form leaves the first out.
        heads: of a network with a head for each task: how many classes each tells apart, by its name; empty for one without.
        head: which of them is used and learns; ``num_classes`` is its. A network is the same whichever that is, and so is what it
            is before it has learned. The canonical form has neither of a network without.
    """

    family: str = Field(min_length=1, max_length=200)
    num_classes: NumClasses
    settings: dict[str, Setting] = Field(default_factory=dict)
    normalization: Normalization = IMAGENET
    revision: int = Field(default=FIRST_REVISION, ge=FIRST_REVISION, le=MAX_REVISION)
    heads: dict[HeadName, NumClasses] = Field(default_factory=dict, max_length=MAX_HEADS)
    head: str = Field(default="", max_length=64)

    @model_validator(mode="after")
    def _check_head(self) -> Self:
        if not self.heads and self.head:
            raise ValueError(f"there is a head {self.head!r} in use, and heads names none")
        if self.heads and self.heads.get(self.head) != self.num_classes:
            known = ", ".join(f"{name} of {count}" for name, count in sorted(self.heads.items()))
            raise ValueError(f"head {self.head!r} of {self.num_classes} classes is in use; there are {known}")
        return self

    def with_heads(self, heads: Mapping[str, int], head: str = "") -> Self:
        """This trunk with such heads, of which one is in use: the first by name if none is said.

        Raises:
            ValueError: there is no such head, or they are none (pydantic's ``ValidationError`` is one).
        """
        used = head or min(heads, default="")
        return self.replace(heads=dict(heads), head=used, num_classes=heads.get(used, self.num_classes))

    def under(self, head: str) -> Self:
        """The same network with another of its heads in use; without heads it is itself."""
        return self.with_heads(self.heads, head) if self.heads else self

    @property
    def whole(self) -> Self:
        """Which network it is, whichever of its heads is in use."""
        return self.under(min(self.heads, default=""))

    @model_serializer(mode="wrap")
    def _leave_out_what_all_had(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        plain = self.without_no_code(handler(self))
        if self.normalization == IMAGENET:
            del plain["normalization"]
        if self.revision == FIRST_REVISION:
            del plain["revision"]
        if not self.heads:
            del plain["heads"], plain["head"]
        return plain
