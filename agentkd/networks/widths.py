"""Widths of layers: how settings give them, and of all settings that give the same ones the plainest. Torch-free.

Channels are rounded to multiples of 8, so many settings are one network: 30 planes and 32, a factor of 0.75 and one of 0.76.
"""

import math
from collections.abc import Callable, Sequence

Widths = tuple[int, ...]
MAX_DIGITS = 17  # of a float; the value that was given has no more
NEARLY = 2**-44


def round_width(channels: float) -> int:
    """Channels rounded to a multiple of 8, at least 8."""
    return max(8, round(channels / 8) * 8)


def least_channels(width: int) -> float:
    """The fewest that are rounded to this width, or nearly."""
    return max(1, width - 4)


def level_widths(base: int, growth: float, depth: int, max_width: int) -> Widths:
    """Channels of each level of a U-Net, full resolution first."""
    widths = [round_width(base * growth**level) for level in range(depth + 1)]
    return tuple(min(width, max_width) if max_width else width for width in widths)


def plainest_factor(
    widths_of: Callable[[float], Widths], wanted: Widths, usual: Sequence[float], low: float, high: float, *, near: float = 1.0
) -> float | None:
    """Of all factors that give the wanted widths the first usual one, else that of the fewest decimals, else none.

    What comes out depends on the wanted widths alone, not on which of their factors was given.

    Args:
        widths_of: widths of a factor; none of them falls as it rises.
        wanted: those that are to come out.
        usual: factors that people write, the likeliest first.
        low: the least that is looked at.
        high: the largest.
        near: about where the least of them is. It makes no difference but in time.
    """
    for factor in usual:
        if widths_of(factor) == wanted:
            return factor

    def reaches(factor: float) -> bool:
        return all(found >= width for found, width in zip(widths_of(factor), wanted, strict=True))

    if not reaches(high):
        return None
    below, least = _threshold(reaches, low, high, near=near)
    if widths_of(least) != wanted:
        return None
    for digits in range(MAX_DIGITS + 1):
        scale = 10**digits
        number = max(math.ceil(low * scale), math.floor(below * scale))
        while number / scale < low or not reaches(number / scale):  # but once or twice: what is next to ``below`` does
            number += 1
        if number / scale <= high and widths_of(number / scale) == wanted:
            return float(number / scale)
    return None


def _threshold(holds: Callable[[float], bool], low: float, high: float, *, near: float) -> tuple[float, float]:
    """Two neighbors between which something begins to hold that holds for all larger numbers; ``low`` twice if it holds there.

    If that is where it was thought to be (``near``), it is found in a fifth of the time.
    """
    if holds(low):
        return low, low
    for likely in (near * (1 - NEARLY), near * (1 + NEARLY)):
        if low < likely < high:
            low, high = (low, likely) if holds(likely) else (likely, high)
    while low < (middle := (low + high) / 2) < high:
        low, high = (low, middle) if holds(middle) else (middle, high)
    return low, high


def plainest_levels(
    base: int, growth: float, depth: int, max_width: int, *, usual: Sequence[float], bases: range, growths: tuple[float, float]
) -> tuple[int, float, int]:
    """Base, growth and cap of the same widths: without a cap if that can be, then of the smallest base.

    A base that is a width itself goes before others.
    """
    wanted = level_widths(base, growth, depth, max_width)
    for cap in (0, wanted[-1]):
        likely = [wanted[0], *bases] if wanted[0] in bases else list(bases)
        for other in likely:
            first = round_width(other)
            if (min(first, cap) if cap else first) != wanted[0]:
                continue

            def widths_of(factor: float, other: int = other, cap: int = cap) -> Widths:
                return level_widths(other, factor, depth, cap)

            near = max((least_channels(width) / other) ** (1 / level) for level, width in enumerate(wanted[1:], start=1))
            found = plainest_factor(widths_of, wanted, usual, *growths, near=near)
            if found is not None:
                return other, found, cap
    return base, growth, max_width  # not reached: what was given gives them
