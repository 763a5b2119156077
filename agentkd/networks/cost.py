"""What a network costs to run: multiply-accumulate operations (MACs), with everything that was not counted said by name."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from agentkd.architecture import Architecture
from agentkd.networks.build import build

# Operations without multiply-accumulates, or whose few per element are not counted by convention (fvcore does the same).
NOT_MACS = frozenset(
    """_native_batch_norm_legit_no_training _to_copy _unsafe_view abs add adaptive_avg_pool2d _adaptive_avg_pool2d alias
    avg_pool2d batch_norm cat clone constant_pad_nd copy_ detach div empty expand fill_ full gelu hardswish leaky_relu
    max_pool2d max_pool2d_with_indices mean mul native_batch_norm native_group_norm neg pad permute pixel_shuffle
    reflection_pad2d relu reshape rsub select sigmoid silu slice split squeeze stack sub sum t tanh transpose unsqueeze
    upsample_bilinear2d upsample_nearest2d var_mean view zeros zeros_like ones scalar_tensor arange index sqrt rsqrt
    empty_like ones_like full_like native_layer_norm native_dropout cudnn_batch_norm miopen_batch_norm sym_size
    _unsafe_index lift_fresh repeat clamp hardtanh exp log pow softmax _softmax _log_softmax new_empty new_zeros
    as_strided max min to contiguous flatten _adaptive_avg_pool2d_backward""".split()
)


@dataclass(frozen=True)
class Cost:
    """MACs of one forward pass in inference form, and the operations that torch's counter has no formula for."""

    num_macs: int
    uncounted_operations: tuple[str, ...]


class _OperationNames(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[Any] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add(func._overloadpacket)
        return func(*args, **(kwargs or {}))


def measure_cost(architecture: Architecture, height: int, width: int) -> Cost:
    """MACs for one image of ``height x width`` pixels, from torch's flop counter (two of its flops are one MAC)."""
    with torch.device("meta"):
        network = build(architecture).eval()
        image = torch.empty(1, 3, height, width)
    names = _OperationNames()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter, names:
        network(image)
    uncounted = {str(op.__name__) for op in names.seen if op not in flop_registry} - NOT_MACS
    return Cost(num_macs=counter.get_total_flops() // 2, uncounted_operations=tuple(sorted(uncounted)))
