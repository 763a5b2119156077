"""Datasets by name: ``kind:key=value,key=value`` or a user's ``package.module:name``."""

import logging
import math
import reprlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agentkd import __version__, canonical, seeding
from agentkd.architecture import MAX_CHANNELS, RGB, Normalization
from agentkd.code.loading import load
from agentkd.code.taking import take
from agentkd.datasets import files
from agentkd.datasets.balance import Counts
from agentkd.datasets.caching import OwnMemory, SharedSamples
from agentkd.datasets.derived import FewImages, JoinedDataset, OnlyClasses, Unlabelled
from agentkd.datasets.generated import LIGHTS, SPLIT_STRIDE, GeneratedScenes
from agentkd.datasets.manner import STRICT, Manner
from agentkd.datasets.options import find_path, read_options
from agentkd.datasets.order import ViewKey
from agentkd.datasets.outline import Outline
from agentkd.datasets.samples import (
    Color,
    Dataset,
    Sample,
    Size,
    ValueScale,
    channels_of,
    check_splits,
    count_classes,
    fingerprint,
    images_of,
    labels_of,
    problem_of_names,
    read_size,
    size_of,
    value_scale_of,
)
from agentkd.datasets.shared import open_shared
from agentkd.errors import DatasetError, must_be
from agentkd.names import NO_DIGEST, SHARED, Digest, shared_data
from agentkd.recipe import ViewSettings
from agentkd.visible import visible_line

JOINED = "joined:"
MAX_SPEC = 4_000
MAX_JOINED = 3 * SPLIT_STRIDE
KINDS = ("generated", "folder", "camvid")
EXAMPLES = "generated:seed=7,size=96x96,train=64,validation=16,test=16 or folder:path=DIR,size=240x180 or package.module:name"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Views:
    """Named views of a dataset: (sample index, view seed) pairs, and what a view may look like."""

    data: "Opened"
    keys: tuple[ViewKey, ...]
    settings: ViewSettings


class Opened:
    """A dataset with the specification it was opened by: what scripts hold, and pass on to agents. A ``Dataset`` itself.

    Args:
        code: digest of the code of those own datasets that the specification names; empty if it names none.

    ``is_checked`` says whether ``check`` has read everything, and found nothing wrong.
    """

    def __init__(self, spec: str, dataset: Dataset, code: Digest = NO_DIGEST) -> None:
        self.spec, self._dataset, self.code, self.is_checked = spec, dataset, code, False
        self._kept = OwnMemory()
        self._shared: SharedSamples | None = None
        self._counted: dict[tuple[int, ...], Counts] = {}

    @property
    def name(self) -> str:
        """As the dataset calls itself."""
        return self._dataset.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; class k is the k-th."""
        return self._dataset.classes

    @property
    def colors(self) -> tuple[Color, ...]:
        """A color for each class."""
        return self._dataset.colors

    @property
    def ignore_index(self) -> int:
        """The label that does not count."""
        return self._dataset.ignore_index

    @property
    def channels(self) -> tuple[str, ...]:
        """What the channels of its images are called, in their order."""
        return channels_of(self._dataset)

    @property
    def normalization(self) -> Normalization:
        """How a network sees its images that does not say otherwise."""
        return images_of(self._dataset)

    @property
    def value_scale(self) -> ValueScale:
        """Which values of its files with more than 8 bits became black and white, see ``value_scale_of``."""
        return value_scale_of(self._dataset)

    @property
    def splits(self) -> Mapping[str, tuple[int, ...]]:
        """Sample indices of each split."""
        return self._dataset.splits

    @property
    def digest(self) -> Digest:
        """SHA-256 over the content."""
        return Digest(self._dataset.digest)

    def sample(self, index: int) -> Sample:
        """A labelled image. One of an own dataset is asked for each time."""
        return self._dataset.sample(index) if self.code else self._kept.sample(index, self._read)

    def share_samples(self, shared: SharedSamples) -> None:
        """Has decoded samples written and read there. They are those of an equal specification, and of equal content."""
        self._shared = shared

    def _read(self, index: int) -> Sample:
        if self._shared is None:
            return self._dataset.sample(index)
        return self._shared.sample(self._key, index, self._dataset.sample)

    @property
    def _key(self) -> Digest:
        """By which agents of a host share what they have read of it."""
        return canonical.digest([self.spec, self.digest, __version__])

    def group(self, index: int) -> str:
        """The video or clip that a sample comes from."""
        return self._dataset.group(index)

    def part(self, index: int) -> int:
        """Which of several joined datasets a sample comes from; 0 of a single one."""
        return self._dataset.part(index) if isinstance(self._dataset, JoinedDataset) else 0

    @property
    def has_samples(self) -> bool:
        """Whether it can be read: not if it is only an outline."""
        return not isinstance(self._dataset, Outline)

    @property
    def num_parts(self) -> int:
        """How many datasets are joined in it; 1 of a single one."""
        return self._dataset.num_parts if isinstance(self._dataset, JoinedDataset) else 1

    @property
    def notices(self) -> tuple[str, ...]:
        """What was seen in the data that may be meant or not, in sentences; more of them after ``check``."""
        return getattr(self._dataset, "notices", ())

    @property
    def files(self) -> dict[str, str]:
        """Its files, each with what marks its content; none if it is not made of files, or does not tell."""
        return getattr(self._dataset, "files", {})

    @property
    def sizes(self) -> dict[str, dict[Size, int]]:
        """How many images of each size, (height, width), each split has, by the heads of their files.

        Empty if the dataset cannot say without reading them: an own one need not have ``size_of``.

        Raises:
            DatasetError: a file cannot be read.
        """
        size_of = getattr(self._dataset, "size_of", None)
        return {split: dict(Counter(map(size_of, indices))) for split, indices in self.splits.items()} if size_of else {}

    @property
    def tells_sizes(self) -> bool:
        """Whether it knows the sizes of its samples without reading them whole."""
        return hasattr(self._dataset, "size_of")

    @property
    def judges_labels(self) -> bool:
        """Whether its ``check`` says which classes have pixels."""
        return isinstance(self._dataset, files.FileDataset)

    def size_of(self, index: int) -> Size:
        """(height, width) of a sample."""
        return size_of(self._dataset, index)

    def labels_of(self, index: int) -> NDArray[np.bool_]:
        """Which labels, 0 to 255, have pixels in a sample."""
        return labels_of(self._dataset, index)

    def labels_in(self, indices: Sequence[int]) -> frozenset[int]:
        """Which labels have pixels in any of these samples."""
        found = np.zeros(256, dtype=bool)
        for index in indices:
            found |= labels_of(self._dataset, index)
        return frozenset(np.flatnonzero(found).tolist())

    def class_pixels(self, indices: tuple[int, ...]) -> Counts:
        """Pixels of each class in each of these samples, [N,K]; all are read once, for every agent of the host.

        Raises:
            DatasetError: a sample cannot be read, or is none.
            ConfigError: an own dataset raises something.
        """
        if indices not in self._counted:
            if self._shared is None or self.code:
                self._counted[indices] = count_classes(self, indices)
            else:
                name = canonical.digest(list(indices))
                counts = self._shared.counts(self._key, name, len(indices), lambda: count_classes(self, indices))
                self._counted[indices] = counts
        return self._counted[indices]

    def fingerprint(self, index: int) -> bytes:
        """What two samples have in common only if they are one image."""
        return fingerprint(self._dataset, index)

    def check(self, *, says: bool = True) -> None:
        """Reads everything once, and logs what is then to be said (``notices``), unless somebody else says it.

        Raises:
            DatasetError: the first sample that is not as described.
        """
        before = self.notices
        self._dataset.check()
        self.is_checked = True
        if says:
            _say(text for text in self.notices if text not in before)

    def check_splits(self) -> None:
        """Whether the splits can be trained, selected and tested on; a run does not begin otherwise.

        Raises:
            DatasetError: an image is in two of them, byte for byte.
        """
        check_splits(self._dataset)

    def views(self, indices: Sequence[int], seed: int = 0, settings: ViewSettings | None = None) -> Views:
        """A seeded view of each of these samples: the same seed gives the same pixels, everywhere."""
        keys = tuple((index, seeding.derive("view", seed, index)) for index in indices)
        return Views(self, keys, settings or ViewSettings())


def open_dataset(spec: str) -> Opened:
    """The dataset that a specification names.

    ========== ============================================== =============================================
    kind       options                                        meaning
    ========== ============================================== =============================================
    generated  seed, size=WxH, train, validation, test,       generated burnt-area scenes, counts per split
               light, channels, fires
    folder     path, size=WxH, holdout                        the folder layout with dataset.yaml
    camvid     path, size=WxH, holdout                        CamVid as SegNet arranged it
    shared     the digest of their file                       data that an agent has shared, see ``AgentHandle.share_data``
    ========== ============================================== =============================================

    Of any of them ``unlabelled:SPEC`` hides the training labels, ``few:16:SPEC`` has only so many training images,
    ``only:CLASS+CLASS:SPEC`` ignores all other classes, and ``joined:SPEC|SPEC`` puts several together. ``light`` is
    ``day``, ``dusk``, ``haze`` or ``infrared``; ``channels`` of generated images are 1 to 16, red, green and blue if 3, with near
    infrared if 4; ``fires=0.1`` is the share of the scenes that burn, where all do by default.

    What is doubtful in the data but no error is logged as a warning, and is in ``notices``.

    ``holdout`` takes a validation split out of ``train``: a fraction, or group names joined by ``+``. A relative ``path``
    is looked for here and then in the folder that the environment variable AGENTKD_DATA names. Any other
    ``package.module:name`` is your own: its code is collected from your files as they are now, see ``agentkd.code``, and what it
    names is called without arguments.

    Raises:
        DatasetError: the specification or the data are wrong.
        ConfigError: own code cannot be collected, or fails.
    """
    must_be(spec, str, "the dataset", "its specification, such as generated:seed=7,size=64x64 or folder:path=DATA")
    opened = open_silently(spec)
    _say(opened.notices)
    return opened


def open_silently(spec: str) -> Opened:
    """The same for who says himself what is doubtful.

    Raises:
        DatasetError: the specification or the data are wrong.
        ConfigError: own code cannot be collected, or fails.
    """
    names = own_names(spec)
    return open_again(spec, take(*names) if names else NO_DIGEST)


def open_again(spec: str, code: Digest) -> Opened:
    """The dataset that a specification named when something was recorded: own ones are found in that code and nowhere else.

    Raises:
        DatasetError: the specification or the data are wrong.
        ConfigError: the code is not there, or fails, see ``agentkd.code.loading.load``.
    """
    return Opened(spec, _open(spec, code), code if own_names(spec) else NO_DIGEST)


def open_in(manner: Manner, spec: str) -> Dataset:
    """The dataset of a specification as it is, for who looks at it and not for who learns: nothing is logged or kept in memory.

    Args:
        manner: what is done with faults of single files, and how many images are taken. Only of files at once, not of what is
            made of other datasets.
        spec: of it.

    Raises:
        DatasetError: the specification is wrong, or there is nothing to look at.
        ConfigError: own code cannot be collected, or fails.
    """
    names = own_names(spec)
    return _open(spec, take(*names) if names else NO_DIGEST, manner)


def _say(notices: Iterable[str]) -> None:
    for text in notices:
        log.warning("%s", visible_line(text))


def own_names(spec: str) -> tuple[str, ...]:
    """The user's own datasets that a specification names, as ``package.module:name``; each once. Nothing is opened.

    Raises:
        DatasetError: it is longer than one can be.
    """
    if len(spec) > MAX_SPEC:
        raise DatasetError(f"{spec[:80]}...", f"has {len(spec):,} characters", f"at most {MAX_SPEC:,}")
    return tuple(dict.fromkeys(_own_names(spec)))


def _own_names(spec: str) -> Iterator[str]:
    kind, _, rest = spec.partition(":")
    if kind == "unlabelled":
        yield from _own_names(rest)
    elif kind in ("few", "only"):
        yield from _own_names(rest.partition(":")[2])
    elif spec.startswith(JOINED):
        for part in rest.split("|"):
            yield from _own_names(part)
    elif kind not in KINDS and f"{kind}:" != SHARED and all(name.isidentifier() for name in (*kind.split("."), rest)):
        yield spec


def _open(spec: str, code: Digest, manner: Manner = STRICT) -> Dataset:
    kind, _, rest = spec.partition(":")
    if kind == "unlabelled":
        return Unlabelled(_open(rest, code))
    if kind == "few":
        count, _, inner = rest.partition(":")
        if not count.isdecimal():
            raise DatasetError(spec, f"{count!r} is not a number of images", "few:16:SPEC")
        return FewImages(_open(inner, code), int(count))
    if kind == "only":
        classes, _, inner = rest.partition(":")
        return OnlyClasses(_open(inner, code), classes.split("+"))
    if spec.startswith(JOINED):
        parts = rest.split("|")
        if any(JOINED in part for part in parts):
            raise DatasetError(spec, "has a joined dataset among those that it joins", f"a flat list: {JOINED}A|B|C")
        opened: list[Dataset] = []
        for part in parts:
            opened.append(_open(part, code))
            if sum(len(indices) for one in opened for indices in one.splits.values()) > MAX_JOINED:
                raise DatasetError(spec[:200], "joins too many images", f"at most {MAX_JOINED:,}")
        return JoinedDataset(opened)
    if spec.startswith(SHARED):
        named = shared_data(spec)
        if not named:
            raise DatasetError(spec[:80], "does not name a file of shared data", f"{SHARED}DIGEST, of 64 hexadecimal digits")
        return open_shared(named[0])
    if kind in KINDS:
        options = read_options(kind, rest)
        return _open_generated(options) if kind == "generated" else _open_files(kind, options, manner)
    if own_names(spec):
        return _open_own(spec, code)
    raise DatasetError(spec, "is not a dataset", EXAMPLES)


def _open_generated(options: dict[str, str]) -> Dataset:
    def number(key: str, default: int) -> int:
        try:
            return int(options.get(key, default))
        except ValueError:
            raise DatasetError("generated", f"{key}={options[key][:80]!r} is not a number", "a whole number") from None

    counts = {split: number(split, count) for split, count in (("train", 64), ("validation", 16), ("test", 16))}
    over = next((split for split, count in counts.items() if not 0 <= count <= SPLIT_STRIDE), None)
    if over:
        raise DatasetError("generated", f"{over}={options[over][:40]} images cannot be made", f"0 to {SPLIT_STRIDE:,}")
    size, light = read_size(options.get("size", "96x96"), "generated"), options.get("light", "day")
    if light not in LIGHTS:
        raise DatasetError("generated", f"light={light!r} is not known", f"one of {', '.join(LIGHTS)}")
    channels = number("channels", len(RGB))
    if not 1 <= channels <= MAX_CHANNELS:
        raise DatasetError("generated", f"channels={options['channels'][:40]} cannot be made", f"1 to {MAX_CHANNELS}")
    seed, fires = number("seed", 0), _share(options)
    return GeneratedScenes(seed=seed, size=size, counts=counts, light=light, num_channels=channels, fires=fires)


def _share(options: dict[str, str]) -> float:
    """Which share of generated scenes burns."""
    told = options.get("fires", "1")
    try:
        fires = float(told)
    except ValueError:
        fires = math.nan
    if not 0 <= fires <= 1:
        raise DatasetError("generated", f"fires={told[:80]!r} is not a share of the scenes", "a number from 0 to 1, such as 0.1")
    return fires


def _open_files(kind: str, options: dict[str, str], manner: Manner) -> Dataset:
    if "path" not in options:
        raise DatasetError(kind, "needs path=DIR", EXAMPLES)
    size = read_size(options["size"], kind) if "size" in options else None
    reader = files.open_folder if kind == "folder" else files.open_camvid
    return reader(find_path(options["path"]), size=size, holdout=options.get("holdout", ""), manner=manner)


def _open_own(name: str, code: Digest) -> Dataset:
    factory = load(name, code)
    if not callable(factory):
        raise DatasetError(name, f"is {type(factory).__name__}", "a callable that returns a dataset")
    made = factory()
    missing = [
        name for name in ("classes", "splits", "digest", "sample", "group", "check", "ignore_index") if not hasattr(made, name)
    ]
    if missing:
        raise DatasetError(name, f"lacks {', '.join(missing)}", "agentkd.datasets.samples.Dataset")
    are_texts = isinstance(made.classes, Sequence) and all(isinstance(one, str) for one in made.classes)
    problem = problem_of_names(made.classes) if are_texts else ""
    if problem:
        raise DatasetError(name, problem)
    channels = getattr(made, "channels", RGB)
    if isinstance(channels, str) or not isinstance(channels, Sequence) or not all(isinstance(one, str) for one in channels):
        raise DatasetError(
            name, f"channels is {reprlib.repr(channels)}", "their names in order, such as ('red', 'green', 'blue', 'nir')"
        )
    if not isinstance(getattr(made, "normalization", None), Normalization | None):
        raise DatasetError(name, f"normalization is {reprlib.repr(made.normalization)}", "an agentkd.architecture.Normalization")
    images_of(made)
    return made
