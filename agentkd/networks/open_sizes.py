"""What a network does at a size that is left open: while it is exported, a question about a size has no answer yet.

Where the answer is the same for all sizes that there may be, it is that. Where it is not, both cases are computed as one
expression, so that an exported network is the same at every size, and not only at the one at which it was looked at.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def is_open() -> bool:
    """Whether sizes are left open now."""
    return torch.compiler.is_exporting()


def always(condition: object) -> bool:
    """Whether something about sizes is so for all of them."""
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(condition)  # type: ignore[arg-type]


def are_equal(size: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two sizes are the same; of open ones, whether they always are."""
    if not is_open():
        return tuple(size) == tuple(other)
    return all(always(one == its) for one, its in zip(size, other, strict=True))


def first_of(x: Tensor, size: Sequence[int]) -> Tensor:
    """The first rows and columns of ``x [N,C,H,W]``, which has as many. A slice would ask whether it is all of them."""
    rows, columns = (torch.arange(side, device=x.device) for side in size)
    return x.index_select(-2, rows).index_select(-1, columns)


def reflected(x: Tensor, border: int) -> Tensor:
    """``x [N,C,H,W]`` with its reflection around it; with zeros where it is no larger than the border, which is asked here.

    Both are picked from ``x`` by index; what is to be zero is multiplied by zero.
    """
    height, width = x.shape[-2:]
    if always(height > border) and always(width > border):
        return F.pad(x, (border, border, border, border), mode="reflect")
    rows, has_row, many_rows = _picked(height, border, x)
    columns, has_column, many_columns = _picked(width, border, x)
    around = x.index_select(-2, rows).index_select(-1, columns)
    inside = has_row[:, None] * has_column
    return around * torch.maximum(inside, many_rows * many_columns)


def _picked(size: int, border: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of one side: from where each position is taken, whether it is inside (1 or 0), and whether there is enough to reflect."""
    positions = torch.arange(-border, size + border, device=like.device)
    last = size - 1
    places = (last - (last - positions.abs()).abs()).clamp(min=0).clamp(max=last)
    is_inside = ((positions >= 0) & (positions <= last)).to(like.dtype)
    is_enough = (torch.full((1,), size, device=like.device) > border).to(like.dtype)
    return places, is_inside, is_enough


def instance_normalized(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Instance normalization of ``x [N,C,H,W]``, whose values stay as they are in a map of a single pixel."""
    normalized = torch.instance_norm(x, weight, bias, None, None, True, 0.0, eps, False)
    num_pixels = x.shape[-2] * x.shape[-1]
    if always(num_pixels > 1):
        return normalized
    is_single = (torch.full((1,), num_pixels, device=x.device) == 1).to(x.dtype)
    return normalized + x * (weight[:, None, None] * is_single)
