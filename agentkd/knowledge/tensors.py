"""Tensors as safetensors bytes: the form in which knowledge travels, is stored and is named by its SHA-256.

Decoding has limits of its own besides those of the format: header size, number of tensors, rank, names, finite values.
"""

import json
import math
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from agentkd import canonical
from agentkd.errors import ContractError, RemoteProtocolError, Rule
from agentkd.names import TENSOR_NAME, Digest
from agentkd.plain import read_json

MAX_HEADER_BYTES = 1024 * 1024
MAX_TENSORS = 16_384
MAX_RANK = 8
MAX_SIZE = 2**48
METADATA_KEY = "agentkd"
WEIGHTS_AND_NETWORK = ("the weights have", "the network has")
ALIGNMENT = 8
# In the order in which the format's own writer sorts tensors: wide types first, then by name.
DTYPES = {
    "I64": torch.int64,
    "F64": torch.float64,
    "F32": torch.float32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
RANKS = {name: rank for rank, name in enumerate(DTYPES)}

Buffer = bytes | bytearray | memoryview
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class TensorLayout:
    """Where each tensor will stand in a file, so that it can be written straight to its place."""

    head: bytes
    order: tuple[str, ...]
    size_bytes: int


def plan(tensors: Tensors, metadata: dict[str, Any] | None = None) -> TensorLayout:
    """The layout of a file of these tensors. The same tensors and metadata always give the same bytes.

    The metadata are one entry of canonical JSON, because writers put several entries in no fixed order.
    """
    header: dict[str, Any] = {"__metadata__": {METADATA_KEY: canonical.encode(metadata).decode()}} if metadata else {}
    order = sorted(tensors, key=lambda name: (RANKS[DTYPE_NAMES[tensors[name].dtype]], name))
    end = 0
    for name in order:
        tensor = tensors[name]
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return TensorLayout(struct.pack("<Q", len(text)) + text, tuple(order), 8 + len(text) + end)


def write(tensors: Tensors, layout: TensorLayout, target: memoryview | bytearray | Tensor) -> None:
    """Writes the file into memory of at least its size, of the host or octets of a device; each tensor is copied once."""
    at = len(layout.head)
    if isinstance(target, Tensor):
        target[:at].copy_(torch.frombuffer(bytearray(layout.head), dtype=torch.uint8))
    else:
        target[:at] = layout.head
    for name in layout.order:
        tensor = tensors[name].detach()
        size = tensor.numel() * tensor.element_size()
        if size:
            _numbers(target, tensor.dtype, tensor.numel(), at).view(tensor.shape).copy_(tensor)
        at += size


def encode(tensors: Tensors, metadata: dict[str, Any] | None = None) -> bytes:
    """Safetensors bytes. The same tensors and metadata always give the same bytes."""
    return b"".join(_parts(tensors, metadata))


def digest(tensors: Tensors, metadata: dict[str, Any] | None = None) -> Digest:
    """That of the bytes, which are not put together."""
    made = canonical.new_digest()
    for part in _parts(tensors, metadata):
        made.update(part)
    return Digest(made.hexdigest())


def _parts(tensors: Tensors, metadata: dict[str, Any] | None) -> Iterator[Buffer]:
    """The file piece by piece: its head, and each tensor where it lies, if that is on the CPU in one piece."""
    layout = plan(tensors, metadata)
    yield layout.head
    for name in layout.order:
        yield tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def decode(data: Buffer | Tensor, *, finite: bool = True) -> Tensors:
    """The tensors in the bytes, which they share: nothing is copied, and nobody may change or reuse the bytes meanwhile.

    Bytes of a device are a tensor of octets [size], and then so is what is found.

    Raises:
        RemoteProtocolError: the bytes are not safetensors, over a limit, or hold NaN or infinite values (rule ``tensors``).
    """
    header, at = _check_header(data)
    tensors, names, end = {}, sorted(header, key=lambda name: header[name]["data_offsets"]), 0
    for name in names:
        dtype, shape = DTYPES[header[name]["dtype"]], header[name]["shape"]
        begin, count = end, math.prod(shape)
        end = begin + count * dtype.itemsize
        if header[name]["data_offsets"] != [begin, end] or at + end > len(data):
            _refuse(f"tensor {name!r} does not stand where its shape and neighbours put it")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # bytes of a message cannot be written to, and nobody does
            flat = _numbers(data, dtype, count, at + begin) if count else torch.empty(0, dtype=dtype)
        tensors[name] = flat.view(shape)
    if at + end != len(data):
        _refuse(f"{len(data) - at - end} octets after the last tensor")
    for name, value in tensors.items():
        if finite and value.is_floating_point() and not torch.isfinite(value).all():
            _refuse(f"tensor {name!r} holds NaN or infinite values")
    return tensors


def read_metadata(data: Buffer) -> dict[str, Any]:
    """The metadata that ``encode`` wrote; none if it wrote none.

    Raises:
        RemoteProtocolError: the bytes are not safetensors, or their metadata are not such (rule ``tensors``).
    """
    told = _parse_header(data)[0].get("__metadata__", {}).get(METADATA_KEY, "{}")
    try:
        metadata = read_json(told) if isinstance(told, str) else None
    except ValueError as error:
        raise RemoteProtocolError(f"the metadata are malformed: {error}", Rule.TENSORS) from error
    if not isinstance(metadata, dict):
        _refuse("the metadata are no JSON object")
    return metadata


def match(tensors: Tensors, expected: Tensors) -> None:
    """Checks that names, shapes and dtypes are exactly those expected.

    Raises:
        ContractError: naming the first difference.
    """
    if tensors.keys() != expected.keys():
        extra, missing = sorted(tensors.keys() - expected.keys()), sorted(expected.keys() - tensors.keys())
        hint = "are these weights of another architecture?"
        raise ContractError("tensor names", extra[:3], missing[:3], hint=hint, sides=WEIGHTS_AND_NETWORK)
    for name, wanted in expected.items():
        value = tensors[name]
        if value.shape != wanted.shape or value.dtype != wanted.dtype:
            said, expects = ((tuple(one.shape), one.dtype) for one in (value, wanted))
            raise ContractError(name, said, expects, sides=WEIGHTS_AND_NETWORK)


def _numbers(data: Buffer | Tensor, dtype: torch.dtype, count: int, at: int) -> Tensor:
    """So many numbers [count] that stand at an octet; those of a device are copied where no such number may stand."""
    if not isinstance(data, Tensor):
        return torch.frombuffer(data, dtype=dtype, count=count, offset=at)
    octets = data[at : at + count * dtype.itemsize]
    return (octets.clone() if octets.storage_offset() % dtype.itemsize else octets).view(dtype)


def _bytes(data: Buffer | Tensor, begin: int, end: int) -> bytes:
    return bytes(data[begin:end].cpu().numpy()) if isinstance(data, Tensor) else bytes(data[begin:end])


def _check_header(data: Buffer | Tensor) -> tuple[dict[str, dict[str, Any]], int]:
    """The entries, each known to be well-formed, and where the tensors' bytes begin."""
    header, at = _parse_header(data)
    entries = {name: info for name, info in header.items() if name != "__metadata__"}
    if len(entries) > MAX_TENSORS:
        _refuse(f"{len(entries)} tensors; at most {MAX_TENSORS} are allowed")
    for name, info in entries.items():
        if not TENSOR_NAME.fullmatch(name):
            _refuse(f"tensor name {name[:50]!r} is not allowed")
        is_described = isinstance(info, dict) and info.keys() == {"dtype", "shape", "data_offsets"}
        if not is_described or not isinstance(info["dtype"], str) or info["dtype"] not in RANKS:
            _refuse(f"tensor {name!r} is described wrongly or has an unknown number type")
        shape, offsets = info["shape"], info["data_offsets"]
        if not _are_sizes(shape) or not _are_sizes(offsets) or len(shape) > MAX_RANK or len(offsets) != 2:
            _refuse(f"tensor {name!r} has an impossible shape or place, or a rank above {MAX_RANK}")
        if math.prod(max(size, 1) for size in shape) >= MAX_SIZE:  # zero times huge is zero, but no tensor
            _refuse(f"tensor {name!r} has an impossible shape {shape}")
    return entries, at


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < MAX_SIZE for value in values)


def _parse_header(data: Buffer | Tensor) -> tuple[dict[str, Any], int]:
    if len(data) < 8:
        _refuse("shorter than a safetensors header")
    (size,) = struct.unpack("<Q", _bytes(data, 0, 8))
    if size > MAX_HEADER_BYTES or size + 8 > len(data):
        _refuse(f"safetensors header of {size} octets is over its limit or not there")
    try:
        header = read_json(_bytes(data, 8, 8 + size))
    except ValueError as error:
        raise RemoteProtocolError(f"safetensors header is malformed: {error}", Rule.TENSORS) from error
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict):
        _refuse("safetensors header is not a map of tensors")
    return header, 8 + size


def _refuse(text: str) -> NoReturn:
    raise RemoteProtocolError(text, Rule.TENSORS)
