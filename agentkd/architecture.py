"""A network as data: family, number of classes, settings, channels and scale of its images, with a canonical form and a digest.

What a family's settings mean and which values are legal is known to ``agentkd.networks``; here they are plain data.
"""

import reprlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from agentkd.canonical import FrozenData
from agentkd.code.source import Named
from agentkd.errors import ConfigError

MAX_CLASSES = 1000
MAX_CLASS_NAME = 200
MAX_HEADS = 16
MAX_CHANNELS = 16
MAX_CHANNEL_NAME = 100
FIRST_REVISION, MAX_REVISION = 1, 1_000_000
NumClasses = Annotated[int, Field(ge=2, le=MAX_CLASSES)]
HEAD_NAME = r"^[A-Za-z0-9][A-Za-z0-9_]{0,63}$"  # it stands in the names of tensors
HeadName = Annotated[str, Field(pattern=HEAD_NAME)]
Setting = bool | int | float | str
Deviation = Annotated[float, Field(gt=0)]
ChannelName = Annotated[str, Field(min_length=1, max_length=MAX_CHANNEL_NAME)]
RGB = ("red", "green", "blue")


def numbered(count: int) -> tuple[str, ...]:
    """What channels are called of which nobody says more than how many there are: by their numbers, from 1 on; three are RGB."""
    return RGB if count == len(RGB) else tuple(str(number) for number in range(1, count + 1))


def are_same_channels(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether channels are the same in the same order, as far as both have names."""
    if len(one) != len(other):
        return False
    return tuple(one) == tuple(other) or any(len(c) != len(RGB) and tuple(c) == numbered(len(c)) for c in (one, other))


def colors_among(channels: Sequence[str]) -> tuple[int, int, int] | None:
    """Where red, green and blue are, by their names; of channels without names the first three. ``None`` if they are not there.

    Example:
        >>> colors_among(("nir", "red", "green", "blue")), colors_among(("1", "2", "3", "4")), colors_among(("1",))
        ((1, 2, 3), (0, 1, 2), None)
    """
    named = numbered(len(channels))[: len(RGB)] if tuple(channels) == numbered(len(channels)) else RGB
    if len(named) < len(RGB) or not all(name in channels for name in named):
        return None
    red, green, blue = (list(channels).index(name) for name in named)
    return red, green, blue


class Normalization(FrozenData):
    """What a network's images look like: channels in [0, 1], minus ``mean``, divided by ``deviation``, channel by channel.

    It belongs to a network as its architecture does, and to its weights, which are worth nothing on images of another scale.

    Args:
        mean: of each channel.
        deviation: of each channel.
        channels: what they are called, in their order; three are red, green and blue and others have numbers if it is not given.
            The canonical form leaves those out.
    """

    mean: tuple[float, ...] = Field(min_length=1, max_length=MAX_CHANNELS)
    deviation: tuple[Deviation, ...] = Field(min_length=1, max_length=MAX_CHANNELS)
    channels: tuple[ChannelName, ...] = Field(default=(), max_length=MAX_CHANNELS)

    @model_validator(mode="before")
    @classmethod
    def _call_them(cls, said: Any) -> Any:
        if not isinstance(said, Mapping):
            return said
        plain = {
            name: tuple(value) if isinstance(value, list) else value for name, value in said.items()
        }  # read strictly from here on
        if not plain.get("channels") and hasattr(plain.get("mean"), "__len__"):
            plain["channels"] = numbered(min(len(plain["mean"]), MAX_CHANNELS))
        return plain

    @model_validator(mode="after")
    def _check_channels(self) -> Self:
        counts = {"mean": len(self.mean), "deviation": len(self.deviation), "channels": len(self.channels)}
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{name} has {count}" for name, count in counts.items())
            raise ValueError(f"{told}; expected as many of each, one for each channel")
        if len(set(self.channels)) < len(self.channels):
            raise ValueError(f"two channels have one name: {', '.join(self.channels)}")
        return self

    @model_serializer(mode="wrap")
    def _leave_out_numbers(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        plain: dict[str, Any] = handler(self)
        if self.channels == numbered(len(self.channels)):
            del plain["channels"]
        return plain

    def __str__(self) -> str:
        named = next((name for name, value in NORMALIZATIONS.items() if value == self), "")
        of = "" if self.channels == RGB else f" of {', '.join(self.channels)}"
        return named or f"mean {self.mean}, deviation {self.deviation}{of}"

    def for_channels(self, channels: Sequence[str]) -> "Normalization":
        """The same of images of other channels, where it has a name: ``imagenet`` by ``usual_normalization``, ``unit`` as it is.

        Raises:
            ValueError: it has none, and is of another number of channels; or there is none of such channels.
        """
        if tuple(channels) == self.channels:
            return self
        if self == IMAGENET:
            return usual_normalization(channels)
        if self == UNIT:
            count = len(channels)
            return Normalization(mean=(0.0,) * count, deviation=(1.0,) * count, channels=tuple(channels))
        if len(channels) != len(self.channels):
            raise ValueError(f"mean and deviation are of {len(self.channels)} channels, and images have {len(channels)}")
        return Normalization(mean=self.mean, deviation=self.deviation, channels=tuple(channels))


# Channel statistics of ImageNet: what the published weights of the families here were trained with.
IMAGENET = Normalization(mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225))
UNIT = Normalization(mean=(0.0, 0.0, 0.0), deviation=(1.0, 1.0, 1.0))
NORMALIZATIONS = {"unit": UNIT, "imagenet": IMAGENET}
"""Those that have a name. ``unit`` leaves images in [0, 1]; so they are between agents."""
USUAL_MEAN, USUAL_DEVIATION = 0.449, 0.226
"""Of a channel that is no color: ImageNet's three, averaged."""


def usual_normalization(channels: Sequence[str]) -> Normalization:
    """Of images of such channels whose data do not say: ImageNet's of red, green and blue, their average of any other channel.

    Raises:
        ValueError: there are none, too many, or two of one name.
    """
    if not 1 <= len(channels) <= MAX_CHANNELS or len(set(channels)) < len(channels) or not all(channels):
        raise ValueError(f"{len(channels)} channels; expected 1 to {MAX_CHANNELS}, each with a name of its own")
    colors = colors_among(channels) or ()
    mean, deviation = [USUAL_MEAN] * len(channels), [USUAL_DEVIATION] * len(channels)
    for at, known_mean, known_deviation in zip(colors, IMAGENET.mean, IMAGENET.deviation, strict=False):
        mean[at], deviation[at] = known_mean, known_deviation
    return Normalization(mean=tuple(mean), deviation=tuple(deviation), channels=tuple(channels))


Images = int | Sequence[str] | Normalization
"""How a script says what images a network takes: how many channels they have, or what these are called, or all of it."""


def as_images(said: Images, *, whose: str = "") -> Normalization:
    """The channels and the scale that a script said.

    Args:
        said: how many channels images have, or what these are called, or all of it.
        whose: what an error begins with.

    Raises:
        ConfigError: there are no such channels.
    """
    try:
        return said if isinstance(said, Normalization) else _as_usual(said)
    except ValueError as error:
        raise ConfigError(f"{f'{whose}: ' if whose else ''}images={reprlib.repr(said)}: {error}") from None


def _as_usual(said: int | Sequence[str]) -> Normalization:
    if isinstance(said, int) and not isinstance(said, bool):
        return usual_normalization(numbered(said))
    if isinstance(said, str) or not isinstance(said, Sequence) or not all(isinstance(name, str) for name in said):
        raise ValueError("expected how many channels they have, or what these are called, in order")
    return usual_normalization(said)


class Architecture(Named):
    """Family and settings of one network. Two equal architectures build identical networks, and train them by the same loss.

    Args:
        family: a name in ``agentkd networks`` or ``package.module:builder`` for one's own.
        num_classes: K, the classes the network tells apart (ignored pixels are not a class).
        settings: every setting that the family has; ``agentkd.networks.families.resolve`` fills in the defaults.
        normalization: of its images, and which channels they have. The families here have ImageNet's, if the data do not say
            another; an own builder declares it, and has ``unit`` if not. The canonical form leaves ImageNet's out, which all had
            when there was no other.
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

    @property
    def channels(self) -> tuple[str, ...]:
        """What the channels of its images are called, in their order."""
        return self.normalization.channels

    @property
    def images_told(self) -> str:
        """What its images are, for people."""
        return "RGB" if self.channels == RGB else f"of {self.num_channels} channels ({', '.join(self.channels)})"

    @property
    def num_channels(self) -> int:
        """C, the channels of its images."""
        return len(self.normalization.channels)

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
