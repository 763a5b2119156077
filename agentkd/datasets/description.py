"""``dataset.yaml``: what a folder of images says of itself. Unknown keys, and what contradicts itself, are refused here.

What the keys decide is elsewhere: ``finding`` reads the layout, ``masks`` and the readers of annotations the rest.
"""

import difflib
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from agentkd.architecture import MAX_CHANNELS, RGB, Deviation, Normalization, numbered
from agentkd.canonical import FrozenData
from agentkd.datasets.patterns import CHANNEL, composed
from agentkd.datasets.samples import IGNORE_INDEX, Color, is_blank, problem_of_names
from agentkd.datasets.text import read_yaml
from agentkd.errors import DatasetError

DESCRIPTION = "dataset.yaml"
MAX_CLASSES = 255
OTHERS = "others"
IGNORED = "ignored"
ABOUT = frozenset(
    [
        "about",
        "authors",
        "citation",
        "contact",
        "date",
        "description",
        "doi",
        "homepage",
        "licence",
        "license",
        "note",
        "notes",
        "num_classes",
        "source",
        "stats",
        "url",
        "version",
    ]
)
"""Keys that tell people something, and decide nothing. ``num_classes`` is held against the list of classes."""

# What other programs call what has another name here; a word that is merely like it would mislead.
CALLED_OTHERWISE = {
    "annotations": "layout.masks",
    "background_class": "background",
    "class_names": "classes",
    "ignore": "ignore_index",
    "ignore_label": "ignore_index",
    "image": "layout.images",
    "images": "layout.images",
    "label_names": "classes",
    "labels": "classes",
    "mask": "layout.masks",
    "masks": "layout.masks",
    "names": "classes",
    "nc": "num_classes",
    "num_labels": "num_classes",
    "type": "format",
    "val": "splits",
    "train": "splits",
    "test": "splits",
}

PIXELS = ("index-mask", "color-mask", "binary-mask", "threshold-mask")
Format = Literal["index-mask", "color-mask", "binary-mask", "threshold-mask", "labelme", "coco", "run-lengths", "segments"]
Part = Literal["red", "green", "blue", "alpha", "rgb"]
Scale = tuple[float, float]


# Which formats read a key; those that are not here, all do.
USED_BY: dict[str, tuple[str, ...]] = {
    "ignored_colors": ("color-mask",),
    "threshold": ("threshold-mask",),
    "first_value": ("index-mask",),
    "label_divisor": ("index-mask",),
    "values": ("index-mask", "labelme", "coco", "run-lengths", "segments"),
    "id_channel": ("index-mask", "binary-mask", "threshold-mask"),
    "palette": PIXELS,
    "alpha": PIXELS,
    "stray_pixels": ("index-mask", "color-mask", "binary-mask"),
    "background": ("labelme", "coco", "run-lengths", "segments"),
}


class Statistics(FrozenData):
    """Mean and deviation of each channel."""

    mean: tuple[float, ...]
    deviation: tuple[Deviation, ...]


class Layout(FrozenData):
    """Where files lie: patterns as ``patterns.Pattern`` takes them, one or several of each."""

    images: tuple[str, ...] = Field(default=("images/{split}/{stem}.*",), min_length=1)
    masks: tuple[str, ...] = Field(default=("masks/{split}/{stem}.png",), min_length=1)

    @field_validator("images", "masks", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


class Description(FrozenData):
    """The content of ``dataset.yaml``.

    Args:
        format: ``index-mask`` holds class numbers, ``color-mask`` the classes' colors, ``binary-mask`` 0 and any other
            value for two classes, ``threshold-mask`` (for JPEG) the second class from ``threshold`` on; ``labelme``, ``coco``,
            ``run-lengths`` and ``segments`` are annotations in text.
        ignore_index: the label that means "not labelled"; in color masks, any color of ``ignored_colors``.
        first_value: what an index mask holds for the first class; those of the others follow.
        values: or, what a mask holds for each class: ``{7: road}``; for annotations, what they call it: ``{fogo: Fire}``.
        ignored_values: what else it may hold, which is then not labelled; ``others`` is whatever is not listed.
        label_divisor: class and instance in one number: the class is that number divided by this, without remainder.
        id_channel: the channel of a mask in colors that holds its numbers; ``rgb`` is red + 256 green + 65536 blue.
        palette: whether the number or the color of a palette's entry counts. Without it both must say the same.
        alpha: what a mask's pixels are that are not opaque: ``omit`` forgets about it, ``ignored`` takes them for not labelled.
        channels: of an image: how many, or what they are called in their order, or that with what stands for each in the names of
            files that hold one channel, as ``{channel}`` in ``layout.images``.
        scale: the values of an image with more than 8 bits that become black and white; one for all channels, or one for each.
        normalization: mean and deviation of each channel, of values from 0 to 1, by which networks see images; see
            ``agentkd.architecture.usual_normalization`` for what it is if it is not given.
        orientation: ``shown`` turns images and masks as their own tags say; ``stored`` leaves them as they lie in the file.
        stray_pixels: which share of a JPEG mask may be nothing that a class has; it is not labelled.
        background: the class of what no annotation covers, or ``ignored``.
        release: the release file of Segments.ai that says what instances are.
        group_separator: a file's group (video, clip) is what stands before the last one in its stem; none if it is empty.
        splits: stems of each split, or a file with one a line, or a pattern of such files; or names of the splits to use. By
            default the folders found.
        ignored_files: patterns of files that are none of the dataset's.
        duplicates: whether the same bytes may be in two splits.
    """

    name: str
    format: Format = "index-mask"
    layout: Layout = Layout()
    classes: tuple[str, ...] = Field(min_length=2, max_length=MAX_CLASSES)
    colors: tuple[Color, ...] = ()
    ignored_colors: tuple[Color, ...] = ()
    ignore_index: int = Field(default=IGNORE_INDEX, ge=0, le=255)
    threshold: int = Field(default=127, ge=1, le=65535)
    first_value: int = Field(default=0, ge=0)
    values: dict[int | str, str] = Field(default_factory=dict)
    ignored_values: tuple[int | str, ...] | Literal["others"] = ()
    label_divisor: int = Field(default=1, ge=1)
    id_channel: Part | None = None
    palette: Literal["index", "color"] | None = None
    alpha: Literal["omit", "ignored"] | None = None
    channels: dict[str, str] = Field(default_factory=lambda: {name: name for name in RGB})
    scale: Scale | tuple[Scale, ...] | None = None
    normalization: Statistics | None = None
    orientation: Literal["shown", "stored"] = "shown"
    stray_pixels: float = Field(default=0.01, ge=0, lt=1)
    background: str = ""
    release: str = ""
    group_separator: str = "_"
    splits: dict[str, tuple[str, ...] | str] | tuple[str, ...] = Field(default_factory=dict)
    ignored_files: tuple[str, ...] = ()
    duplicates: Literal["refused", "allowed"] = "refused"

    @field_validator("channels", mode="before")
    @classmethod
    def _named(cls, said: object) -> object:
        """Names to what stands for them in the names of files."""
        if isinstance(said, int) and not isinstance(said, bool):
            said = numbered(min(max(said, 0), MAX_CHANNELS + 1))
        pairs = (
            said.items() if isinstance(said, dict) else [(name, name) for name in said] if isinstance(said, list | tuple) else ()
        )
        texts = [text for pair in pairs for text in pair]
        wrong = next((text for text in texts if not isinstance(text, str) or is_blank(text)), None)
        if wrong is not None:
            raise ValueError(
                f"{wrong!r} is no name of a channel; expected a text" + ("" if isinstance(wrong, str) else ", in quotes")
            )
        found = dict(pairs)
        if not 1 <= len(found) <= MAX_CHANNELS:
            raise ValueError(f"expected how many there are, 1 to {MAX_CHANNELS}, or what they are called, in order")
        if len(found) < len(pairs) or len(set(found.values())) < len(found):
            raise ValueError("two of them have one name; expected a name of its own for each")
        return found

    @model_validator(mode="after")
    def _check(self) -> "Description":
        problem = next(self._problems(), "")
        if problem:
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        if is_blank(self.name):
            yield f"name is {self.name!r}, which nobody can read; expected what the dataset is called"
        yield from self._problems_of_classes()
        yield from self._problems_of_colors()
        if self.format in ("binary-mask", "threshold-mask") and len(self.classes) != 2:
            yield f"a {self.format} has two classes, not {len(self.classes)}"
        unknown = [name for name in self.values.values() if name not in self.classes]
        if unknown:
            yield f"values: {unknown[0]!r} is no class; expected one of {', '.join(self.classes)}"
        if self.values and self.first_value:
            yield "first_value and values say the same thing in two ways; expected one of them"
        missing = [name for name in self.classes if name not in self.values.values()]
        if self.values and self.format == "index-mask" and missing:
            yield f"values has none for class {missing[0]!r}; expected one or more for each class"
        ignored = () if self.ignored_values == OTHERS else self.ignored_values
        last = self.first_value + len(self.classes) - 1
        taken = [value for value in ignored if isinstance(value, int) and self.first_value <= value <= last]
        if taken and not self.values and self.format == "index-mask":
            name = self.classes[taken[0] - self.first_value]
            yield f"ignored value {taken[0]} is that of class {name!r}; see first_value and values"
        both = [value for value in ignored if value in self.values]
        if both:
            yield f"{both[0]!r} is both in values and in ignored_values"
        names = () if isinstance(self.splits, dict) else tuple(map(composed, self.splits))
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            yield f"splits names {twice[0]!r} twice; expected each split once"
        yield from self._problems_of_channels()
        if self.background and self.background not in (*self.classes, IGNORED):
            yield f"background {self.background!r} is no class; expected {', '.join(self.classes)} or {IGNORED}"
        if self.format not in PIXELS and not self.background:
            yield f"{self.format} needs background: the class of what no annotation covers, or {IGNORED}"
        if (self.format == "segments") != bool(self.release):
            yield "release is the release file (JSON) of Segments.ai, and belongs to format: segments"
        if self.id_channel == "alpha" and self.alpha == "ignored":
            yield "alpha: ignored does not go with id_channel: alpha, which holds numbers; expected ignored_values: [0]"
        if self.format == "color-mask" and (self.palette == "index" or self.id_channel):
            yield "a color-mask is read by its colors; with palette: index or id_channel write format: index-mask"
        yield from self._problems_of_unused_keys()

    @property
    def images(self) -> Normalization | None:
        """How networks see them, if it is said."""
        said = self.normalization
        return Normalization(mean=said.mean, deviation=said.deviation, channels=tuple(self.channels)) if said else None

    @property
    def value_scale(self) -> tuple[Scale, ...]:
        """What is said of images with more than 8 bits: a pair for all channels, one for each, or nothing."""
        scale = self.scale
        if scale is None:
            return ()
        return scale if isinstance(scale[0], tuple) else (scale,)

    @property
    def scales(self) -> tuple[Scale | None, ...]:
        """That of each channel."""
        scale = self.scale
        if scale is None or not isinstance(scale[0], tuple):
            return (scale,) * len(self.channels)
        return scale

    def _problems_of_channels(self) -> Iterator[str]:
        count = len(self.channels)
        for low, high in filter(None, self.scales):
            if low >= high:
                yield f"scale is {[low, high]}; expected [low, high], the lower first"
        if len(self.scales) != count:
            yield f"scale has {len(self.scales)} pairs, and there are {count} channels; expected one for all, or one for each"
        if tuple(self.channels) == RGB and self.scale and isinstance(self.scale[0], tuple):
            yield "scale of images in RGB is one for all channels: [low, high]"
        said = self.normalization
        if said and not len(said.mean) == len(said.deviation) == count:
            text = f"normalization has {len(said.mean)} means and {len(said.deviation)} deviations"
            yield f"{text}, and there are {count} channels; expected one of each for each channel"
        parted = [pattern for pattern in self.layout.images if CHANNEL in pattern]
        if parted and len(parted) < len(self.layout.images):
            yield f"layout.images has patterns with and without {CHANNEL}; expected it in all, or in none"
        if parted and count == 1:
            yield f"layout.images has {CHANNEL}, and images have one channel; leave it out"

    def _problems_of_unused_keys(self) -> Iterator[str]:
        for key, formats in USED_BY.items():
            if key in self.model_fields_set and self.format not in formats and getattr(self, key) not in (None, "", (), {}):
                yield f"{key} does not apply to format: {self.format}; it belongs to {', '.join(formats)}; leave it out"
        if self.ignored_values == OTHERS and self.format in ("binary-mask", "threshold-mask"):
            yield (
                f"ignored_values: {OTHERS} does not apply to format: {self.format}, where every value is one of the two classes; "
                f"expected numbers, or format: index-mask with values"
            )
        if self.ignored_values and self.ignored_values != OTHERS and self.format == "color-mask":
            yield f"ignored_values of a color-mask can only be {OTHERS}; expected ignored_colors: [[red, green, blue]]"
        if self.format in PIXELS:
            ignored = () if self.ignored_values == OTHERS else self.ignored_values
            texts = [value for value in (*self.values, *ignored) if isinstance(value, str)]
            if texts:
                yield f"{texts[0]!r} in values or ignored_values is no number; masks hold numbers, written without quotes"

    def _problems_of_classes(self) -> Iterator[str]:
        problem = problem_of_names(self.classes)
        if problem:
            yield problem
        if self.ignore_index < len(self.classes):
            name = self.classes[self.ignore_index]
            yield (
                f"ignore_index {self.ignore_index} is the class {name!r}; expected a number that is no class, "
                f"{len(self.classes)} to 255. If masks hold {self.ignore_index} where nothing is labelled, take {name!r} out of "
                "classes, leave ignore_index out "
                f"and write ignored_values: [{self.ignore_index}]" + (" and first_value: 1" if self.ignore_index == 0 else "")
            )

    def _problems_of_colors(self) -> Iterator[str]:
        if self.colors and len(self.colors) != len(self.classes):
            yield f"{len(self.classes)} classes but {len(self.colors)} colors"
        for color in (*self.colors, *self.ignored_colors):
            if not all(0 <= part <= 255 for part in color):
                yield f"color {list(color)} is none; expected [red, green, blue], each 0 to 255"
        if self.format == "color-mask" and not self.colors:
            yield "a color-mask needs colors, one a class"
        seen: dict[Color, str] = {}
        for name, color in zip(self.classes, self.colors, strict=False):
            if color in seen:
                both = f"{seen[color]!r} and {name!r}"
                yield f"classes {both} have the same color {list(color)}; expected a color of its own for each"
            seen[color] = name
        for color in self.ignored_colors:
            if color in seen:
                yield f"color {list(color)} is ignored, and that of class {seen[color]!r}"


def read_description(place: Path) -> Description:
    """The description of a folder.

    Raises:
        DatasetError: none, or not UTF-8, or a key or value that is not known; all problems at once.
    """
    path = place / DESCRIPTION
    if not place.is_dir():
        raise DatasetError(place, "no such folder", "a folder with dataset.yaml; set AGENTKD_DATA or give an absolute path")
    if not path.is_file():
        like = sorted(
            entry.name for entry in place.iterdir() if entry.name.lower() in ("dataset.yml", "dataset.yaml", "dataset.yaml.txt")
        )
        found = f"has no {DESCRIPTION}" + (f", but {like[0]}: rename it" if like else "")
        raise DatasetError(place, found, "a description; see docs/how-to/datasets.md")
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise DatasetError(
            path,
            f"holds {'nothing' if data is None else type(data).__name__}",
            "name, classes and so on, see docs/how-to/datasets.md",
        )
    return _checked(data, path)


def _checked(data: dict[Any, Any], path: Path) -> Description:
    about = {key: value for key, value in data.items() if key in ABOUT}
    fields = {key: value for key, value in data.items() if key not in ABOUT}
    problems = []
    for british, american in (("colours", "colors"), ("ignored_colours", "ignored_colors")):
        if british in fields and american in fields:
            problems.append(f"{american} and {british} are both there; expected one of them")
        if british in fields:
            fields[american] = fields.pop(british)
    if fields.get("palette") == "colour":
        fields["palette"] = "color"
    try:
        description = Description.model_validate(fields)
    except ValidationError as error:
        problems += [_problem(dict(item)) for item in error.errors(include_url=False)]
    else:
        count = about.get("num_classes", len(description.classes))
        if count != len(description.classes):
            problems.append(f"num_classes is {count!r}, but {len(description.classes)} classes are listed")
        if not problems:
            return description
    raise DatasetError(path, "; ".join(dict.fromkeys(problems)))


def _problem(error: dict[str, Any]) -> str:
    """What is wrong with one key, in a sentence that says what to write."""
    first, *inner = error["loc"] or ("",)
    kinds = ("tuple[", "dict[", "literal[", "constrained-")  # what pydantic adds where a value may be of several kinds
    where = ".".join(map(str, (first, *(p for p in inner if p not in ("str", "int") and not str(p).startswith(kinds)))))
    text, found = error["msg"].removeprefix("Value error, "), error["input"]
    if error["type"] == "extra_forbidden":
        kind = Layout if where.startswith("layout.") else Description
        known = sorted(kind.model_fields) + (sorted(ABOUT) if kind is Description else [])
        key = where.rpartition(".")[2]
        plain = key.lower().replace("-", "_")
        meant = "" if kind is Layout else CALLED_OTHERWISE.get(plain, "")
        like = [meant] if meant else difflib.get_close_matches(plain, known, n=1)
        return f"unknown key {where!r}; " + (
            f"did you mean {like[0]!r}?" if like else f"known: {', '.join(sorted(kind.model_fields))}"
        )
    if error["type"] == "missing":
        return f"{where} is required"
    if error["type"] == "string_type" and isinstance(found, bool | int | float):
        return f"{where} is {found!r}, which YAML takes for a {type(found).__name__}; write it in quotes"
    if where in ("classes", "colors") and isinstance(found, dict):
        return f"{where} is a mapping; expected a list in the order of the classes; values says what their numbers are in masks"
    if error["type"] == "too_long":
        return f"{where}: {len(found)} classes; expected at most {MAX_CLASSES}, as many as a byte holds beside 'not labelled'"
    return f"{where}: {text}; found {reprlib.repr(found)}" if where else text
