"""Codecs: how a payload's numbers are written. What is written names its codec, so reading needs no agreement.

============ ============================================ ==================================================================
codec        tensors, by suffix to the payload's name     loses
============ ============================================ ==================================================================
float32      (none)                                       nothing
float16      (none)                                       below 1e-3 of each number
bfloat16     (none)                                       below 1e-2 of each number; keeps the range
int8         ``int8``, ``scale`` [N,C,1,1]                1/254 of the largest of each channel; logits are centred first
top1 to top8 ``values``, ``indices``, ``tail``            which of the other classes the rest of the probability is on
auto         any of these                                 no more than ``max_kl``: the shortest that keeps to it
============ ============================================ ==================================================================

Centring takes the mean over the classes off each pixel's logits, which changes no probability.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from agentkd import objectives
from agentkd.errors import ContractError

AUTO = "auto"
LOGITS = objectives.LOGITS.name
LARGEST_INT8 = 127
# For ``auto``: shortest first at few classes. The last one is always near enough.
CANDIDATES = ("top1", "top2", "int8", "float16", "float32")

Parts = dict[str, Tensor]


@dataclass(frozen=True)
class Codec:
    """One row of the table.

    Args:
        parts: suffixes of its tensors to the payload's name; what is read is told apart by them.
        suits: whether it is made for a payload of that name and these numbers; float16 is written where it is not.
        write: the tensors, by suffix, that stand for a payload.
        read: the payload of so many classes again, or ``None`` if the tensors do not belong together.
    """

    parts: frozenset[str]
    suits: Callable[[str, Tensor], bool]
    write: Callable[[str, Tensor], Parts]
    read: Callable[[Parts, int], Tensor | None]


def check(codec: str) -> None:
    """Raises ``ContractError`` if there is no such codec."""
    if codec not in get_args(objectives.Codec):
        raise ContractError("codec", ", ".join(get_args(objectives.Codec)), codec)


def write(name: str, value: Tensor, codec: str, *, max_kl: float = 0.0) -> Parts:
    """The tensors that stand for a payload [N,C,...]; float16 where a codec is not made for it (top classes of features)."""
    if codec == AUTO:
        codec = shortest(value, max_kl) if name == LOGITS else "float16"
    row = CODECS[codec] if CODECS[codec].suits(name, value) else CODECS["float16"]
    return {_named(name, suffix): part.contiguous() for suffix, part in row.write(name, value).items()}


def read(name: str, parts: Mapping[str, Tensor], num_classes: int) -> Tensor | None:
    """A payload from the tensors that ``write`` made of it, or ``None`` if they are not there.

    Raises:
        ContractError: they do not belong together.
    """
    suffixes = {suffix for row in CODECS.values() for suffix in row.parts}
    found = {suffix: parts[_named(name, suffix)] for suffix in suffixes if _named(name, suffix) in parts}
    if not found:
        return None
    for suffix, part in found.items():
        if not part.numel():
            raise ContractError(_named(name, suffix), tuple(part.shape), "at least one number")
    for row in CODECS.values():
        if row.parts == found.keys() and (value := row.read(found, num_classes)) is not None:
            return value
    raise ContractError(name, {suffix: tuple(part.shape) for suffix, part in found.items()}, "the tensors of one codec")


def shortest(logits: Tensor, max_kl: float) -> str:
    """The codec that needs the fewest bytes of those that lose no more than ``max_kl`` (mean over pixels, tau = 1)."""
    fitting = [(size(codec, logits), codec) for codec in CANDIDATES if divergence(logits, codec) <= max_kl]
    return min(fitting)[1] if fitting else "float32"


def divergence(logits: Tensor, codec: str) -> float:
    """KL of the softmax of logits [N,K,h,w] to that of what is read after writing, mean over pixels."""
    read_back = read("logits", write("logits", logits, codec), logits.shape[1])
    assert read_back is not None
    log_p, log_q = F.log_softmax(logits.double(), dim=1), F.log_softmax(read_back.double(), dim=1)
    return float((log_p.exp() * (log_p - log_q)).sum(dim=1).mean())


def size(codec: str, logits: Tensor) -> int:
    """Bytes of logits written with a codec."""
    return sum(part.numel() * part.element_size() for part in write("logits", logits, codec).values())


def _named(name: str, suffix: str) -> str:
    return f"{name}.{suffix}" if suffix else name


def _float(dtype: torch.dtype) -> Codec:
    limit = torch.finfo(dtype).max
    return Codec(
        parts=frozenset({""}),
        suits=lambda name, value: True,
        write=lambda name, value: {"": value.clamp(-limit, limit).to(dtype)},
        read=lambda found, num_classes: found[""] if found[""].is_floating_point() else None,
    )


def _write_int8(name: str, value: Tensor) -> Parts:
    centred = value - value.mean(dim=1, keepdim=True) if name == LOGITS else value
    largest = centred.abs().amax(dim=(2, 3), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    scale = largest / LARGEST_INT8
    return {"int8": (centred / scale).round().to(torch.int8), "scale": scale}


def _read_int8(found: Parts, num_classes: int) -> Tensor | None:
    numbers, scale = found["int8"], found["scale"]
    fits = numbers.dim() == 4 and tuple(scale.shape) == (*numbers.shape[:2], 1, 1) and numbers.dtype == torch.int8
    return numbers.float() * scale.float() if fits else None


def _write_top(count: int, name: str, logits: Tensor) -> Parts:
    values, indices = logits.topk(count, dim=1)
    rest = logits.scatter(1, indices, -torch.inf).logsumexp(dim=1, keepdim=True)
    largest = values[:, :1]
    limit = torch.finfo(torch.float16).max
    written = {"values": values - largest, "tail": rest - largest}
    return {part: value.clamp(-limit, limit).half() for part, value in written.items()} | {"indices": indices.to(torch.uint8)}


def _read_top(found: Parts, num_classes: int) -> Tensor | None:
    values, indices, tail = found["values"], found["indices"].long(), found["tail"]
    fits = values.dim() == 4 and values.shape == indices.shape and tail.shape == (len(values), 1, *values.shape[2:])
    if not (fits and 0 < values.shape[1] < num_classes and 0 <= int(indices.min()) <= int(indices.max()) < num_classes):
        return None
    rest = tail.float() - torch.log(torch.tensor(float(num_classes - values.shape[1])))
    whole = rest.expand(len(values), num_classes, *values.shape[2:]).clone()
    return whole.scatter_(1, indices, values.float())


def _top(count: int) -> Codec:
    return Codec(
        parts=frozenset({"values", "indices", "tail"}),
        suits=lambda name, value: name == LOGITS and count < value.shape[1] - 1,
        write=partial(_write_top, count),
        read=_read_top,
    )


_INT8 = Codec(frozenset({"int8", "scale"}), lambda name, value: value.dim() == 4, _write_int8, _read_int8)
CODECS: dict[str, Codec] = {
    "float16": _float(torch.float16),
    "float32": _float(torch.float32),
    "bfloat16": _float(torch.bfloat16),
    "int8": _INT8,
    **{f"top{count}": _top(count) for count in range(1, 9)},
}
