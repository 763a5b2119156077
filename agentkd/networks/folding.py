"""A network made ready for inference: what only training needs is dropped, and normalizations become part of convolutions."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from agentkd.networks.blocks import BorderedConv, SegmentationNetwork

# Whose weights are those that are used: a class of a user's own may change them before.
CONVOLUTIONS = (nn.Conv2d, BorderedConv, nn.ConvTranspose2d)
Convolution = nn.Conv2d | nn.ConvTranspose2d


def drop_training_parts(network: SegmentationNetwork) -> None:
    """Takes out the submodules that inference does not need: auxiliary heads, the discriminator, heads for other tasks."""
    adversary = (network.adversary,) if network.adversary else ()
    for name in (*network.training_only, *adversary, *getattr(network, "resting", ())):
        parent, _, child = name.rpartition(".")
        owner = network.get_submodule(parent)
        if isinstance(owner._modules.get(child), nn.Module):
            owner._modules[child] = None


def fold_normalizations(network: SegmentationNetwork, images: Tensor) -> int:
    """Makes each batch normalization that sees nothing but a convolution's output a part of that; returns how many there were.

    The network computes the same, up to rounding. What follows what is found by looking on while it takes images.

    Args:
        network: in evaluation mode; it is changed.
        images: ``[N,C,H,W]`` that it takes.
    """
    shared = Counter(id(value) for _, value in network.named_parameters(remove_duplicate=False))
    pairs = [
        (conv, norm)
        for conv, norm in _followers(network, images)
        if all(shared[id(value)] == 1 for module in (conv, norm) for value in module.parameters(recurse=False))
    ]
    for conv, norm in pairs:
        _merge(conv, norm)
    folded = {id(norm) for _, norm in pairs}
    for module in network.modules():
        for name, child in module._modules.items():
            if id(child) in folded:
                module._modules[name] = nn.Identity()
    return len(pairs)


class _Uses(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts which tensors are used how often, and keeps them: no two may have one id."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[int] = Counter()
        self._kept: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts.update({id(one) for one in tree_leaves((args, kwargs or {})) if isinstance(one, Tensor)})
        made = func(*args, **(kwargs or {}))
        self._kept.append((args, made))
        return made


def _followers(network: SegmentationNetwork, images: Tensor) -> Iterator[tuple[Convolution, nn.BatchNorm2d]]:
    """Convolutions and the normalizations that alone see what they make, each called once."""
    calls: Counter[int] = Counter()
    made: dict[int, tuple[Convolution, Tensor]] = {}
    pairs: list[tuple[Convolution, nn.BatchNorm2d, int]] = []

    def before(module: nn.Module, given: tuple[Any, ...]) -> None:
        calls[id(module)] += 1
        if type(module) is nn.BatchNorm2d and module.running_mean is not None and id(given[0]) in made:
            pairs.append((made[id(given[0])][0], module, id(given[0])))

    def after(module: nn.Module, given: object, output: Any) -> None:
        if isinstance(output, Tensor) and isinstance(module, CONVOLUTIONS) and _is_plain(module):
            made[id(output)] = (module, output)

    altered = [module for module in network.modules() if module._forward_hooks or module._forward_pre_hooks]
    hooks = [one.register_forward_pre_hook(before) for one in network.modules()]
    hooks += [one.register_forward_hook(after) for one in network.modules()]
    uses = _Uses()
    try:
        with torch.no_grad(), uses:
            outputs = network(images)
    finally:
        for hook in hooks:
            hook.remove()
    returned = {id(one) for one in tree_leaves(outputs)}
    for conv, norm, name in pairs:
        is_alone = uses.counts[name] == 1 and name not in returned and calls[id(conv)] == calls[id(norm)] == 1
        if is_alone and not any(module is one for module in altered for one in (conv, norm)):
            yield conv, norm


def _is_plain(module: Convolution) -> bool:
    """Whether it can be merged: its weights are those that are used, and the formula for transposed ones is of a single group."""
    return type(module) in CONVOLUTIONS and not (isinstance(module, nn.ConvTranspose2d) and module.groups > 1)


def _merge(conv: Convolution, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None and norm.running_var is not None
    kind = conv.weight.dtype
    bias = None if conv.bias is None else conv.bias.double()
    scale = norm.weight.double() if norm.weight is not None else torch.ones_like(norm.running_mean, dtype=torch.float64)
    shift = norm.bias.double() if norm.bias is not None else torch.zeros_like(scale)
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    weight, offset = fuse_conv_bn_weights(
        conv.weight.double(), bias, mean, variance, norm.eps, scale, shift, transpose=isinstance(conv, nn.ConvTranspose2d)
    )
    conv.weight = nn.Parameter(weight.detach().to(kind), requires_grad=False)
    conv.bias = nn.Parameter(offset.detach().to(kind), requires_grad=False)
