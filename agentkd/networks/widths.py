"""Widths of layers: how settings give them, and of all settings that give the same ones the plainest. Torch-free.

Channels are rounded to multiples of 8, so many settings are one network: 30 planes and 32, a factor of 0.75 and one of 0.76.
"""

from collections.abc import Callable, Sequence

Widths = tuple[int, ...]
MAX_DIGITS = 17  # of a float; the value that was given has no more
STEPS = 64


def round_width(channels: float) -> int:
    """Channels rounded to a multiple of 8, at least 8."""
    return max(8, round(channels / 8) * 8)


def level_widths(base: int, growth: float, depth: int, max_width: int) -> Widths:
    """Channels of each level of a U-Net, full resolution first."""
    widths = [round_width(base * growth**level) for level in range(depth + 1)]
    return tuple(min(width, max_width) if max_width else width for width in widths)


def plainest_factor(
    widths_of: Callable[[float], Widths], wanted: Widths, usual: Sequence[float], low: float, high: float
) -> float | None:
    """Of all factors that give the wanted widths the first usual one, else that of the fewest decimals, else none.

    What comes out depends on the wanted widths alone, not on which of their factors was given.

    Args:
        widths_of: widths of a factor; none of them falls as it rises.
        wanted: those that are to come out.
        usual: factors that people write, the likeliest first.
        low: the least that is looked at.
        high: the largest.
    """
    for factor in usual:
        if widths_of(factor) == wanted:
            return factor

    def reaches(factor: float) -> bool:
        return all(found >= width for found, width in zip(widths_of(factor), wanted, strict=True))

    if not reaches(high):
        return None
    least = _least(lambda step: reaches(low + (high - low) * step / 2**STEPS), 2**STEPS)
    if widths_of(low + (high - low) * least / 2**STEPS) != wanted:
        return None
    for digits in range(MAX_DIGITS + 1):
        scale = 10**digits
        first = _least(lambda number, scale=scale: number / scale >= low and reaches(number / scale), int(high * scale))  # type: ignore[misc]
        if low <= first / scale <= high and widths_of(first / scale) == wanted:
            return float(first / scale)
    return None


def _least(holds: Callable[[int], bool], high: int) -> int:
    """The least whole number from 0 to ``high`` for which something holds that holds for all larger ones; else ``high``."""
    low = 0
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


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

            found = plainest_factor(widths_of, wanted, usual, *growths)
            if found is not None:
                return other, found, cap
    return base, growth, max_width  # not reached: what was given gives them
