"""Architectures as a kind of knowledge. Nothing here builds a network or runs code.

How data are packed is in ``agentkd.datasets.shared``, since plans and scripts read them without torch.
"""

from collections.abc import Sequence
from typing import Any

from agentkd.architecture import Architecture
from agentkd.errors import ContractError, RemoteProtocolError, Rule
from agentkd.knowledge import tensors
from agentkd.knowledge.tensors import MAX_HEADER_BYTES, Buffer
from agentkd.knowledge.weights import read_metadata

ARCHITECTURE = "architecture"
MAX_ARCHITECTURE_BYTES = 8 + MAX_HEADER_BYTES


def encode_architecture(architecture: Architecture, classes: Sequence[str] = ()) -> bytes:
    """An architecture as a piece of knowledge: a file without tensors, whose metadata say what it is.

    Args:
        architecture: code of an own network is named in it by its digest, and is not in it.
        classes: names of those that the network tells apart, in the order of its logits; empty if nobody knows.
    """
    metadata: dict[str, Any] = {"kind": ARCHITECTURE, "architecture": architecture.canonical()}
    return tensors.encode({}, metadata | ({"classes": list(classes)} if classes else {}))


def decode_architecture(data: Buffer) -> tuple[Architecture, tuple[str, ...]]:
    """The architecture that somebody handed over, and the classes that it is for.

    Raises:
        ContractError: it is another kind of knowledge, or does not say what it is.
        RemoteProtocolError: the bytes are no such file, or over its limit.
    """
    if len(data) > MAX_ARCHITECTURE_BYTES:
        text = f"an architecture of {len(data):,} octets; it has {MAX_ARCHITECTURE_BYTES:,} at most"
        raise RemoteProtocolError(text, Rule.LIMIT)
    kind, inside = tensors.read_metadata(data).get("kind"), tensors.decode(data)
    if kind != ARCHITECTURE or inside:
        raise ContractError("kind", f"{str(kind)[:40]!r} with {len(inside)} tensors", f"{ARCHITECTURE!r} with none")
    said = read_metadata(data)
    if said.architecture is None:
        raise ContractError(ARCHITECTURE, None, "family, num_classes and settings")
    if said.classes and len(said.classes) != said.architecture.num_classes:
        raise ContractError("classes", len(said.classes), said.architecture.num_classes)
    return said.architecture, said.classes
