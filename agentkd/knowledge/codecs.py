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

import re
from collections.abc import Mapping
from typing import get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from agentkd.errors import ConfigError, ContractError
from agentkd.objectives import Codec

FLOATS = {"float16": torch.float16, "float32": torch.float32, "bfloat16": torch.bfloat16}
TOP = re.compile(r"top([1-8])")
AUTO = "auto"
LARGEST_INT8 = 127
SUFFIXES = ("", "int8", "scale", "values", "indices", "tail")
# For ``auto``: shortest first at few classes. The last one is always near enough.
CANDIDATES = ("top1", "top2", "int8", "float16", "float32")

Parts = dict[str, Tensor]


def check(codec: str) -> None:
    """Raises ``ConfigError`` if there is no such codec."""
    if codec not in get_args(Codec):
        raise ConfigError(f"no codec {codec!r}; there are {', '.join(get_args(Codec))}")


def write(name: str, value: Tensor, codec: str, *, max_kl: float = 0.0) -> Parts:
    """The tensors that stand for a payload [N,C,...]; float16 where a codec is not made for it (top classes of features)."""
    is_logits = name == "logits"
    if codec == AUTO:
        codec = shortest(value, max_kl) if is_logits else "float16"
    top = TOP.fullmatch(codec)
    if top and is_logits and int(top[1]) < value.shape[1] - 1:
        return _named(name, _write_top(value, int(top[1])))
    if codec == "int8" and value.dim() == 4:
        return _named(name, _write_int8(value - value.mean(dim=1, keepdim=True) if is_logits else value))
    dtype = FLOATS.get(codec, torch.float16)
    limit = torch.finfo(dtype).max
    return {name: value.clamp(-limit, limit).to(dtype)}


def read(name: str, parts: Mapping[str, Tensor], num_classes: int) -> Tensor | None:
    """A payload from the tensors that ``write`` made of it, or ``None`` if they are not there.

    Raises:
        ContractError: they do not belong together.
    """
    if name in parts:
        return parts[name]
    found = {suffix: parts[f"{name}.{suffix}"] for suffix in SUFFIXES[1:] if f"{name}.{suffix}" in parts}
    if found.keys() == {"int8", "scale"}:
        numbers, scale = found["int8"], found["scale"]
        if numbers.dim() == 4 and tuple(scale.shape) == (*numbers.shape[:2], 1, 1) and numbers.dtype == torch.int8:
            return numbers.float() * scale.float()
    elif found.keys() == {"values", "indices", "tail"}:
        values, indices, tail = found["values"], found["indices"].long(), found["tail"]
        fits = values.dim() == 4 and values.shape == indices.shape and tail.shape == (len(values), 1, *values.shape[2:])
        if fits and 0 < values.shape[1] < num_classes and 0 <= int(indices.min()) <= int(indices.max()) < num_classes:
            rest = tail.float() - torch.log(torch.tensor(float(num_classes - values.shape[1])))
            whole = rest.expand(len(values), num_classes, *values.shape[2:]).clone()
            return whole.scatter_(1, indices, values.float())
    elif not found:
        return None
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


def _write_int8(value: Tensor) -> Parts:
    largest = value.abs().amax(dim=(2, 3), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    scale = largest / LARGEST_INT8
    return {"int8": (value / scale).round().to(torch.int8), "scale": scale}


def _write_top(logits: Tensor, count: int) -> Parts:
    values, indices = logits.topk(count, dim=1)
    rest = logits.scatter(1, indices, -torch.inf).logsumexp(dim=1, keepdim=True)
    largest = values[:, :1]
    limit = torch.finfo(torch.float16).max
    written = {"values": values - largest, "tail": rest - largest}
    return {name: part.clamp(-limit, limit).half() for name, part in written.items()} | {"indices": indices.to(torch.uint8)}


def _named(name: str, parts: Parts) -> Parts:
    return {f"{name}.{suffix}": part.contiguous() for suffix, part in parts.items()}
