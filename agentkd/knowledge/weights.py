"""Weights as a kind of knowledge: how they are stored, and how a network takes them."""

from torch import Tensor

from agentkd.architecture import Architecture
from agentkd.knowledge import tensors
from agentkd.knowledge.tensors import Buffer
from agentkd.networks.blocks import SegmentationNetwork


def load_weights(network: SegmentationNetwork, data: Buffer) -> None:
    """Installs stored weights, which must match the network exactly.

    Raises:
        ContractError: other names, shapes or number types.
        RemoteProtocolError: the bytes are no weights that may be (damaged, over a limit, not finite).
    """
    loaded = tensors.decode(data)
    tensors.match(loaded, dict(network.state_dict()))
    network.load_state_dict(loaded)


def inherit_weights(network: SegmentationNetwork, data: Buffer) -> int:
    """Copies every tensor whose name and shape match; returns how many did."""
    own = network.state_dict()
    given = tensors.decode(data)
    matching = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
    network.load_state_dict({**own, **matching})
    return len(matching)


def encode_weights(architecture: Architecture, state: dict[str, Tensor]) -> bytes:
    """Weights as they are stored: their metadata say which architecture they belong to."""
    metadata = {"kind": "weights", "architecture": architecture.canonical()}
    return tensors.encode(state, metadata)
