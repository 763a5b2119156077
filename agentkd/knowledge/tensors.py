"""Tensors as safetensors bytes: the form in which knowledge travels, is stored and is named by its SHA-256.

Decoding has limits of its own besides those of the format: header size, number of tensors, rank, names, finite values.
"""

import json
import re
import struct
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from agentkd import canonical
from agentkd.errors import ContractError, RemoteProtocolError

MAX_HEADER_BYTES = 1024 * 1024
MAX_TENSORS = 16_384
MAX_RANK = 8
METADATA_KEY = "agentkd"
NAME = re.compile(r"[A-Za-z0-9_.]{1,200}")

Tensors = dict[str, Tensor]


def encode(tensors: Tensors, metadata: dict[str, Any] | None = None) -> bytes:
    """Safetensors bytes. The same tensors and metadata always give the same bytes.

    The metadata are one entry of canonical JSON, because safetensors writes several entries in no fixed order.
    """
    told = {METADATA_KEY: canonical.encode(metadata).decode()} if metadata else None
    return save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, metadata=told)


def decode(data: bytes | bytearray | memoryview, *, finite: bool = True) -> Tensors:
    """The tensors in the bytes.

    Raises:
        RemoteProtocolError: the bytes are not safetensors, over a limit, or hold NaN or infinite values.
    """
    raw = bytes(data)
    _check_header(raw)
    try:
        tensors = load(raw)
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise RemoteProtocolError(f"not a safetensors file: {error}") from error
    for name, value in tensors.items():
        if finite and value.is_floating_point() and not torch.isfinite(value).all():
            raise RemoteProtocolError(f"tensor {name!r} holds NaN or infinite values")
    return tensors


def read_metadata(data: bytes) -> dict[str, Any]:
    """The metadata that ``encode`` wrote."""
    return dict(json.loads(_check_header(data).get("__metadata__", {}).get(METADATA_KEY, "{}")))


def match(tensors: Tensors, expected: Tensors) -> None:
    """Checks that names, shapes and dtypes are exactly those expected.

    Raises:
        ContractError: naming the first difference.
    """
    if tensors.keys() != expected.keys():
        extra, missing = sorted(tensors.keys() - expected.keys()), sorted(expected.keys() - tensors.keys())
        raise ContractError("tensor names", extra[:3], missing[:3], hint="are these weights of another architecture?")
    for name, wanted in expected.items():
        value = tensors[name]
        if value.shape != wanted.shape or value.dtype != wanted.dtype:
            raise ContractError(name, (tuple(value.shape), value.dtype), (tuple(wanted.shape), wanted.dtype))


def _check_header(raw: bytes) -> dict[str, dict[str, str]]:
    if len(raw) < 8:
        raise RemoteProtocolError("shorter than a safetensors header")
    (size,) = struct.unpack("<Q", raw[:8])
    if size > MAX_HEADER_BYTES or size + 8 > len(raw):
        raise RemoteProtocolError(f"safetensors header of {size} octets is over its limit")
    try:
        header = json.loads(raw[8 : 8 + size])
        entries = {name: info for name, info in header.items() if name != "__metadata__"}
        ranks = [len(info["shape"]) for info in entries.values()]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RemoteProtocolError(f"safetensors header is malformed: {error}") from error
    if len(entries) > MAX_TENSORS or max(ranks, default=0) > MAX_RANK:
        raise RemoteProtocolError(f"{len(entries)} tensors of rank up to {max(ranks, default=0)} are over the limits")
    for name in entries:
        if not NAME.fullmatch(name):
            raise RemoteProtocolError(f"tensor name {name[:50]!r} is not allowed")
    return header
