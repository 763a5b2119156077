"""What a script asked a network by, so that who asks for it again by its name is given the same one, or told what differs."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import TypeGuard

from agentkd.architecture import (
    HEAD_NAME,
    MAX_CLASSES,
    MAX_HEADS,
    Architecture,
    Normalization,
    Setting,
    are_same_channels,
)
from agentkd.errors import ConfigError, Problem
from agentkd.names import Digest
from agentkd.networks import families
from agentkd.visible import shortened

EXPECTED = 'expected names, each with its number of classes, such as {"fire": 5, "roads": 2}'
EXPECTED_NAME = "expected 1 to 64 letters, digits and _, not beginning with _"
EXPECTED_CLASSES = f"expected a whole number from 2 to {MAX_CLASSES}"
SHOWN = 80  # characters of what is wrong
FEW = 2  # classes, where it is not said how many: settings are the same for any number


@dataclass(frozen=True)
class Asked:
    """A network as it was asked for.

    Args:
        family: its name.
        num_classes: K; ``None`` if it was not said.
        settings: those that were given.
        weights: that it begins with; empty if it has none.
        heads: how many classes each of several heads tells apart; ``None`` if it was not said.
        images: that it takes; ``None`` if it was not said.
    """

    family: str
    num_classes: int | None
    settings: Mapping[str, Setting]
    weights: Digest
    heads: Mapping[str, int] | None = None
    images: Normalization | None = None

    def must_be_as(self, first: "Asked", name: str, *, there: Architecture | None) -> None:
        """Nothing, if this asks for what is there already under the name. What is not said is as it is there.

        Args:
            first: as what it is there.
            name: of the network.
            there: the network as it is known by now; ``None`` before it has met data.

        Raises:
            ConfigError: it asks for another one, and in what.
        """
        differing: dict[str, tuple[object, object]] = {}
        if self.family != first.family:
            differing["family"] = (first.family, self.family)
        else:
            before, now = (_complete(one) for one in (first, self))
            differing |= {one: (before.get(one), now.get(one)) for one in {**before, **now} if before.get(one) != now.get(one)}
        num_classes: object = there.num_classes if there else None
        if there and there.heads:
            num_classes = "a number for each head"
        if self.num_classes not in (None, num_classes):
            differing["num_classes"] = (num_classes, self.num_classes)
        heads = there.heads if there else {}
        if self.heads is not None and dict(self.heads) != heads:
            differing["heads"] = (heads or "none", dict(self.heads))
        shown = there.normalization if there else None
        if self.images and shown and not are_same_channels(self.images.channels, shown.channels):
            differing["images"] = (list(shown.channels), list(self.images.channels))
        if self.weights and self.weights != first.weights:
            differing["weights"] = (first.weights[:12] or "none", self.weights[:12])
        if differing:
            told = ", ".join(f"{what} {was!r}, not {wanted!r}" for what, (was, wanted) in differing.items())
            raise ConfigError(
                f"there is a network {name!r} in this community already, with {told}; take another name for another one"
            )


def counted_classes(num_classes: object, name: str) -> int | None:
    """A number of classes as a script asks for it; ``None`` if it does not.

    Raises:
        ConfigError: it is none.
    """
    if num_classes is None or _is_count(num_classes):
        return None if num_classes is None else int(num_classes)
    text = f"{EXPECTED_CLASSES}, got {shortened(repr(num_classes), SHOWN)}"
    raise ConfigError([Problem("num_classes", text)], source=name)


def _is_count(value: object) -> TypeGuard[Integral]:
    return isinstance(value, Integral) and not isinstance(value, bool) and 2 <= int(value) <= MAX_CLASSES


def counted_heads(heads: object, name: str) -> dict[str, int]:
    """Heads as a script asks for them, by name, each with how many classes it tells apart.

    Raises:
        ConfigError: they are none, and all that is wrong with them.
    """
    if not isinstance(heads, Mapping):
        raise ConfigError(
            [Problem("heads", f"{shortened(repr(heads), SHOWN)} is {type(heads).__name__}; {EXPECTED}")], source=name
        )
    problems = [] if heads else [Problem("heads", f"there is none in it; {EXPECTED}")]
    if len(heads) > MAX_HEADS:
        problems.append(Problem("heads", f"there are {len(heads)}; a network has {MAX_HEADS} at most"))
    counted: dict[str, int] = {}
    for head, count in heads.items():
        if not (isinstance(head, str) and re.fullmatch(HEAD_NAME, head)):
            text = f"{shortened(repr(head), SHOWN)} is no name of a head; {EXPECTED_NAME}"
            problems.append(Problem("heads", text))
        elif not _is_count(count):
            text = f"{shortened(repr(count), SHOWN)} is no number of classes; {EXPECTED_CLASSES}"
            problems.append(Problem(f"heads.{head}", text))
        else:
            counted[head] = int(count)
    if problems:
        raise ConfigError(problems, source=name)
    return counted


def _complete(asked: Asked) -> dict[str, Setting]:
    return families.all_settings(
        families.resolve(asked.family, asked.num_classes or FEW, dict(asked.settings), images=asked.images)
    )
