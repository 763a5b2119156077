"""What an exported network says of itself, and what a user says of one that is silent: pure."""

import colorsys
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentkd_predict.errors import NetworkError, UsageError

KEY = "agentkd"
FORMAT = 1
MAX_CLASSES = 255
"""As many as a mask of 8 bits can tell apart, with one value left for pixels without data."""
GOLDEN = 0.618033988749895
Color = tuple[int, int, int]


@dataclass(frozen=True)
class Foreign:
    """What a user says of a network that agentkd did not export.

    Args:
        classes: names, in the order of the output's channels; empty if nothing is said.
        mean: what is taken from each channel of values in [0, 1].
        std: what that is divided by.
        multiple: sizes must be multiples of it.
        is_logits: whether the output is to go through a softmax.
    """

    classes: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    multiple: int = 0
    is_logits: bool = False

    @property
    def said(self) -> tuple[str, ...]:
        """The options that say something."""
        told = {"--mean": self.mean, "--std": self.std, "--multiple": self.multiple, "--logits": self.is_logits}
        return tuple(name for name, value in ({"--classes": self.classes} | told).items() if value)


@dataclass(frozen=True)
class About:
    """What a network's numbers mean.

    ``scale`` are the values of images with more than 8 bits that were black and white when it learned, if it says so.
    """

    classes: tuple[str, ...]
    colors: tuple[Color, ...]
    multiple: int
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    is_logits: bool = False
    scale: tuple[float, float] | None = None
    told: Mapping[str, Any] = field(default_factory=dict)


def about(path: Path, found: Mapping[str, str], foreign: Foreign) -> About:
    """What the metadata of an ONNX file, or else a user, say.

    Raises:
        NetworkError: the file says nothing, and neither does the user; or what it says cannot be.
        UsageError: the user says of a network what it says itself, or what cannot be.
    """
    if KEY in found:
        if foreign.said:
            raise UsageError(f"{', '.join(foreign.said)}: {path} says itself what its classes and values are; leave it out")
        return _exported(path, found[KEY])
    if not foreign.classes:
        names = ", ".join(sorted(found)[:5]) or "none"
        raise NetworkError(
            path,
            f"does not say what its classes are: it is not a file of agentkd export (its metadata: {names})",
            "say so with --classes road,car,sky, and --mean, --std, --multiple, --logits if it needs them",
        )
    return _of_user(foreign)


def _of_user(foreign: Foreign) -> About:
    names = tuple(name.strip() for name in foreign.classes)
    wrong = _wrong_names(list(names))
    if wrong:
        raise UsageError(f"--classes: {wrong}")
    for option, values in (("--mean", foreign.mean), ("--std", foreign.std)):
        if len(values) not in (0, 3):
            raise UsageError(f"{option}: {len(values)} numbers; give three, for red, green and blue, of values in [0, 1]")
    if any(value <= 0 for value in foreign.std):
        raise UsageError(f"--std: {','.join(f'{value:g}' for value in foreign.std)}: each must be above 0")
    return About(names, own_colors(len(names)), max(foreign.multiple, 1), foreign.mean, foreign.std, foreign.is_logits)


def _exported(path: Path, text: str) -> About:
    try:
        told = json.loads(text)
    except ValueError as error:
        raise NetworkError(path, f"its metadata {KEY!r} are no JSON ({error})", "export it again") from None
    if not isinstance(told, dict):
        raise NetworkError(path, f"its metadata {KEY!r} are no object of JSON", "export it again")
    if told.get("format") != FORMAT:
        found = told.get("format")
        raise NetworkError(
            path, f"is of format {found!r}; this version reads {FORMAT}", "upgrade agentkd-predict, or export it again"
        )
    names: Any = told.get("classes")
    wrong = _wrong_names(names)
    if wrong:
        raise NetworkError(path, f"its metadata {KEY!r}: classes: {wrong}", "export it again")
    if told.get("channels", 3) != 3:
        raise NetworkError(
            path, f"takes {told['channels']!r} channels", "only networks on red, green and blue predict on image files"
        )
    multiple = told.get("multiple", 1)
    if not _is_whole(multiple, 1, 4096):
        raise NetworkError(path, f"its metadata {KEY!r}: multiple is {multiple!r}", "export it again")
    colors = told.get("colors") or own_colors(len(names))
    if not _are_colors(colors, len(names)):
        raise NetworkError(
            path, f"its metadata {KEY!r}: colors are not one of [red, green, blue] for each class", "export it again"
        )
    return About(
        tuple(names), tuple(tuple(color) for color in colors), multiple, scale=_scale(path, told.get("scale")), told=told
    )


def _scale(path: Path, told: Any) -> tuple[float, float] | None:
    """The values that became black and white: of files, a pair for all channels.

    Raises:
        NetworkError: it is something else.
    """
    if told is None:
        return None
    pairs = told if isinstance(told, list) and told and all(isinstance(one, list) for one in told) else [told]
    if not all(_is_range(pair) for pair in pairs):
        raise NetworkError(path, f"its metadata {KEY!r}: scale is {told!r}, not [low, high]", "export it again")
    if any(pair != pairs[0] for pair in pairs):
        raise NetworkError(
            path, "learned with another scale in each channel", "only networks on red, green and blue predict on image files"
        )
    return float(pairs[0][0]), float(pairs[0][1])


def _is_range(pair: Any) -> bool:
    return (
        isinstance(pair, list)
        and len(pair) == 2
        and all(isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) for value in pair)
        and pair[0] < pair[1]
    )


def _wrong_names(names: Any) -> str:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return "no list of names"
    if not 2 <= len(names) <= MAX_CLASSES:
        return f"{len(names)} names; expected 2 to {MAX_CLASSES}"
    if any(not name.strip() for name in names):
        return "a name is empty"
    twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
    return "" if twice is None else f"{twice!r} stands there twice"


def _are_colors(colors: Any, count: int) -> bool:
    return (
        isinstance(colors, list | tuple)
        and len(colors) == count
        and all(
            isinstance(color, list | tuple) and len(color) == 3 and all(_is_whole(value, 0, 255) for value in color)
            for color in colors
        )
    )


def _is_whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def own_colors(count: int) -> tuple[Color, ...]:
    """Colors that neighbors in the list can be told apart by.

    Example:
        >>> own_colors(2)
        ((217, 65, 65), (65, 109, 217))
    """
    found = []
    for index in range(count):
        red, green, blue = colorsys.hsv_to_rgb(index * GOLDEN % 1, 0.7, 0.85)
        found.append((round(red * 255), round(green * 255), round(blue * 255)))
    return tuple(found)
