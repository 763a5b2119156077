"""What a network costs to run: multiply-accumulate operations (MACs), with everything that was not counted said by name."""

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from agentkd.architecture import Architecture
from agentkd.networks.build import build

# By convention not counted (fvcore does the same): pooling, normalization, up-sampling, copies, creation. Pointwise
# operations and views are recognized by torch's own tags.
NOT_MACS = re.compile(
    r"pool|norm|upsample|^cat$|^stack$|copy|clone|empty|zeros|ones|full|pad|^mean$|^sum$|^lift|^detach|^arange|softmax|dropout"
)


@dataclass(frozen=True)
class Cost:
    """MACs of one forward pass in inference form, and the operations that torch's counter has no formula for."""

    num_macs: int
    uncounted_operations: tuple[str, ...]


class _OperationNames(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[Any] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add(func)
        return func(*args, **(kwargs or {}))


def measure_cost(architecture: Architecture, height: int, width: int) -> Cost:
    """MACs for one image of ``height x width`` pixels, from torch's flop counter (two of its flops are one MAC)."""
    with torch.device("meta"):
        network = build(architecture).eval()
        image = torch.empty(1, architecture.num_channels, height, width)
    names = _OperationNames()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter, names:
        network(image)
    uncounted = {op._overloadpacket.__name__ for op in names.seen if not _is_accounted(op)}
    return Cost(num_macs=counter.get_total_flops() // 2, uncounted_operations=tuple(sorted(uncounted)))


def _is_accounted(op: Any) -> bool:
    packet = op._overloadpacket
    return packet in flop_registry or op.is_view or torch.Tag.pointwise in op.tags or bool(NOT_MACS.search(packet.__name__))
