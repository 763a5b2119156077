"""How unevenly classes share the pixels of a split, and what a pixel of each is to count. Pure: whoever reads samples counts."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agentkd.errors import DatasetError
from agentkd.recipe import ClassWeights

Counts = NDArray[np.int64]


def class_weights(rule: ClassWeights, pixels: Sequence[int], *, name: str) -> tuple[float, ...]:
    """What a pixel of each class counts; their mean over the classes that occur is 1. Empty if all count the same by rule.

    ``inverse``: 1 / n of a class with n pixels. ``effective``: (1 - b) / (1 - b^n), one over the effective number of samples,
    with b = (N - 1) / N and N the mean of n over the classes that occur: classes that are rarer than the mean weigh nearly as by
    ``inverse``, those that are more frequent nearly alike, and the same data twice give the same weights. By both a class that
    has no pixel weighs 0.

    Args:
        rule: as a recipe has it.
        pixels: of each class in the training split.
        name: of the data, for errors.

    Raises:
        DatasetError: no class has a pixel, or none of those that have weighs anything, or the list is of other classes.

    Source: Cui et al., "Class-balanced loss based on effective number of samples", CVPR 2019, Eq. 2, where b is chosen, for
    images and not for pixels; N is ours.

    Example:
        >>> class_weights("inverse", [30, 10, 0], name="data")
        (0.5, 1.5, 0.0)
    """
    if rule == "none":
        return ()
    occurring = [count for count in pixels if count]
    if not occurring:
        raise DatasetError(name, "no pixel of the training split is labelled", "labels, or class_weights: none")
    if isinstance(rule, str):
        volume = sum(occurring) / len(occurring)
        raw = [(_inverse(count) if rule == "inverse" else _effective(count, volume)) if count else 0.0 for count in pixels]
    else:
        problem = problem_of_weights(rule, pixels)
        if problem:
            raise DatasetError(name, problem)
        raw = [float(weight) for weight in rule]
    mean = math.fsum(weight for weight, count in zip(raw, pixels, strict=True) if count) / len(occurring)
    return tuple(weight / mean for weight in raw)


def problem_of_weights(weights: Sequence[float], pixels: Sequence[int]) -> str:
    """Why a list of weights does not go with classes that have so many pixels; nothing if it does."""
    if len(weights) != len(pixels):
        return f"class_weights has {len(weights)} numbers, and there are {len(pixels)} classes; give one for each"
    if any(pixels) and not any(weight for weight, count in zip(weights, pixels, strict=True) if count):
        return "class_weights is 0 for every class that has pixels in the training split, so none counts; give one of them more"
    return ""


def _inverse(count: int) -> float:
    return 1.0 / count


def _effective(count: int, volume: float) -> float:
    """One over the effective number of so many samples: that is ``volume`` (1 - (1 - 1 / volume)^count)."""
    return 1.0 if volume <= 1 else -1.0 / (volume * math.expm1(count * math.log1p(-1.0 / volume)))


def rare_class_shares(pixels: Sequence[int], temperature: float) -> tuple[float, ...]:
    """How often each class is drawn: P(c) = exp((1 - f_c) / T) / sum over c' of exp((1 - f_c') / T), of the classes that occur.

    f_c is the share of class c in all labelled pixels. A class that has none is never drawn.

    Source: Hoyer, Dai, Van Gool, "DAFormer", CVPR 2022, rare class sampling; T is 0.01 there too.

    Example:
        >>> [round(share, 3) for share in rare_class_shares([90, 10, 0], 1.0)]
        [0.31, 0.69, 0.0]
    """
    total = sum(pixels)
    rarest = min(count for count in pixels if count) / total
    powers = [math.exp((rarest - count / total) / temperature) if count else 0.0 for count in pixels]
    return tuple(power / math.fsum(powers) for power in powers)
