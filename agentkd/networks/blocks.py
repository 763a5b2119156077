"""Building blocks that more than one family uses: activation, normalization, convolution, resizing, initialization."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agentkd import repeatable
from agentkd.networks.open_sizes import are_equal, instance_normalized, is_open, reflected
from agentkd.networks.settings import Padding

MIN_CHANNELS_PER_GROUP = 8
BATCH_NORM_MOMENTUM = 0.1
DILATION = 2
CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
NORMALIZATIONS = (nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d)

Outputs = dict[str, Tensor]


class BlockSettings(Protocol):
    """What all families' settings have."""

    @property
    def convolution(self) -> str: ...
    @property
    def padding(self) -> Padding: ...
    @property
    def norm(self) -> str: ...
    @property
    def activation(self) -> str: ...


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that are optimized alike.

    Args:
        parameters: each of the network's is in exactly one group.
        rate: factor on the learning rate.
        optimizer: ``main`` or ``discriminator``.
        decays: whether the recipe's weight decay is for them.
    """

    parameters: tuple[nn.Parameter, ...]
    rate: float = 1.0
    optimizer: str = "main"
    decays: bool = True


class SegmentationNetwork(nn.Module):
    """A network for dense prediction.

    ``forward(images [N,C,H,W])`` returns a dict whose ``"logits"`` are ``[N,K,h,w]`` at the network's own stride; in training
    mode it holds what the family's loss needs besides. Any H, W from 32 on; no padding by the caller.

    ``training_only`` names the submodules that inference does not need, ``adversary`` the discriminator's, ``head_modules`` those
    whose shape depends on K: there is one for each head of a network with several, see ``heads``. ``resting`` are those of heads
    that are not in use. ``places`` names modules by what they are to every family, see ``agentkd.objectives``.
    """

    training_only: tuple[str, ...] = ()
    adversary: str = ""
    head_modules: tuple[str, ...] = ()
    resting: tuple[str, ...] = ()
    places: Mapping[str, str] = MappingProxyType({})

    @property
    def tap_root(self) -> nn.Module:
        """The module whose submodules can be tapped by name."""
        return self

    @property
    def tappable(self) -> dict[str, nn.Module]:
        """What can be tapped: every submodule by its dotted name, and the places that are known of it."""
        named = {name: module for name, module in self.tap_root.named_modules() if name}
        return {place: named[name] for place, name in self.places.items() if name in named} | named

    def parameter_groups(self) -> list[ParameterGroup]:
        """How the parameters are optimized; one group unless a family says otherwise."""
        return [ParameterGroup(tuple(self.parameters()))]

    def deploy_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters that inference needs, by name."""
        dropped = (*self.training_only, *self.resting, *([self.adversary] if self.adversary else []))
        prefixes = tuple(f"{name}." for name in dropped)
        return ((name, p) for name, p in self.named_parameters() if not name.startswith(prefixes))


def activation(name: str) -> nn.Module:
    """A fresh activation module; never in place, because taps alias its input."""
    table: dict[str, Callable[[], nn.Module]] = {
        "relu": nn.ReLU,
        "leaky_relu": lambda: nn.LeakyReLU(0.1),
        "silu": nn.SiLU,
        "hardswish": nn.Hardswish,
        "gelu": nn.GELU,
    }
    return table[name]()


def norm(name: str, channels: int) -> nn.Module:
    """A normalization layer. Groups hold at least 8 channels each, so that a 1x1 map still has a variance."""
    if name == "batch":
        return nn.BatchNorm2d(channels, momentum=BATCH_NORM_MOMENTUM)
    if name == "group":
        return nn.GroupNorm(num_groups(channels), channels)
    if name == "instance":
        return InstanceNorm(channels, affine=True)
    return nn.Identity()


class InstanceNorm(nn.InstanceNorm2d):
    """Instance normalization that leaves a 1x1 map, which has no variance, unnormalized."""

    def forward(self, input: Tensor) -> Tensor:
        if is_open():
            return instance_normalized(input, self.weight, self.bias, self.eps)
        if input.shape[-2:].numel() > 1:
            return super().forward(input)
        return input * self.weight[:, None, None] + self.bias[:, None, None]


def num_groups(channels: int, largest: int = 32) -> int:
    """The largest divisor of ``channels``, at most ``largest``, that leaves 8 channels or more in a group."""
    limit = max(1, min(largest, channels // MIN_CHANNELS_PER_GROUP))
    return next(g for g in range(limit, 0, -1) if channels % g == 0)


class BorderedConv(nn.Conv2d):
    """A convolution with something else than zeros around its map; zeros after all where there is too little to reflect."""

    def forward(self, input: Tensor) -> Tensor:
        border = self.dilation[0] * (self.kernel_size[0] // 2)
        if self.padding_mode == "reflect" and is_open():
            return F.conv2d(reflected(input, border), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)
        if self.padding_mode != "reflect":
            return super().forward(input)
        if min(input.shape[-2:]) > border:
            around = repeatable.reflected(input, border)
            return F.conv2d(around, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)
        return F.conv2d(input, self.weight, self.bias, self.stride, border, self.dilation, self.groups)


class SeparableConv(nn.Module):
    """A convolution for each channel, then one of 1x1 across them, with nothing between (Chollet 2017)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, *, bias: bool, padding: Padding) -> None:
        super().__init__()
        self.depthwise = conv(inputs, inputs, kernel, stride, padding=padding, groups=inputs)
        self.pointwise = conv(inputs, outputs, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


def conv(
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int = 1,
    *,
    bias: bool = False,
    padding: Padding = "zeros",
    dilation: int = 1,
    groups: int = 1,
) -> nn.Conv2d:
    """A convolution whose output is as large as its input, or the ``stride``-th part of that, rounded up."""
    kind = nn.Conv2d if padding == "zeros" or kernel == 1 else BorderedConv
    mode: Padding = "zeros" if kernel == 1 else padding
    border = dilation * (kernel // 2)
    return kind(
        inputs,
        outputs,
        kernel,
        stride=stride,
        padding=border,
        dilation=dilation,
        groups=groups,
        bias=bias,
        padding_mode=mode,
    )


def block_conv(inputs: int, outputs: int, kernel: int, stride: int = 1, *, bias: bool = False, s: BlockSettings) -> nn.Module:
    """A convolution of a family's blocks, of the type that its settings say; of 1x1 there is one type."""
    if kernel > 1 and s.convolution == "separable":
        return SeparableConv(inputs, outputs, kernel, stride, bias=bias, padding=s.padding)
    dilation = DILATION if kernel > 1 and s.convolution == "dilated" else 1
    return conv(inputs, outputs, kernel, stride, bias=bias, padding=s.padding, dilation=dilation)


def conv_norm_act(inputs: int, outputs: int, kernel: int, stride: int = 1, *, s: BlockSettings) -> nn.Sequential:
    """Convolution without bias, normalization, activation."""
    layer = conv(inputs, outputs, kernel, stride, padding=s.padding)
    return nn.Sequential(layer, norm(s.norm, outputs), activation(s.activation))


def resize(x: Tensor, size: torch.Size | tuple[int, int], mode: str = "bilinear") -> Tensor:
    """``x`` at exactly ``size``; the one up-sampling rule of the library is ``align_corners=False``."""
    if are_equal(x.shape[-2:], size):
        return x
    if mode == "nearest":
        return F.interpolate(x, size=tuple(size), mode="nearest")
    return repeatable.bilinear(x, size)


def decayed_apart(modules: Iterable[nn.Module], *, rate: float = 1.0) -> list[ParameterGroup]:
    """The modules' own parameters in two groups: convolution weights, which decay, and all others, which do not."""
    decays: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for module in modules:
        for name, parameter in module.named_parameters(recurse=False):
            decays[isinstance(module, CONVOLUTIONS) and name == "weight"].append(parameter)
    return [ParameterGroup(tuple(found), rate=rate, decays=which) for which, found in decays.items() if found]


def kaiming_init(network: nn.Module, mode: str = "fan_out") -> None:
    """Kaiming-normal convolution weights, small uniform biases, unit normalization (He et al. 2015)."""
    if any(parameter.is_meta for parameter in network.parameters()):
        return  # there is nothing to fill, and torch would import its compiler to do so
    separable: list[SeparableConv] = []
    for module in network.modules():
        if isinstance(module, CONVOLUTIONS):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")  # type: ignore[arg-type]
            if module.bias is not None:
                bound = 1 / math.sqrt(module.weight[0].numel())
                nn.init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, NORMALIZATIONS) and module.weight is not None:
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, SeparableConv):
            separable.append(module)
    for module in separable:
        # A channel has one input channel and no activation after it: its variance is to be what it was.
        nn.init.normal_(module.depthwise.weight, 0.0, 1 / math.sqrt(module.depthwise.weight[0].numel()))


def normal_init(network: nn.Module, deviation: float = 0.02) -> None:
    """As adversarial networks begin: convolution weights from N(0, 0.02), normalizations' scales from N(1, 0.02), the rest zero.

    Source: Radford et al. 2016 and Isola et al. 2017 for the weights; scales as in the code published with the latter.
    """
    if any(parameter.is_meta for parameter in network.parameters()):
        return
    for module in network.modules():
        if isinstance(module, CONVOLUTIONS):
            nn.init.normal_(module.weight, 0.0, deviation)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, NORMALIZATIONS) and module.weight is not None:
            nn.init.normal_(module.weight, 1.0, deviation)
            nn.init.zeros_(module.bias)
