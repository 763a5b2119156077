"""What is searched of each family: values, what they do, and when. Every combination builds, trains and evaluates. Torch-free.

A dimension that makes no difference is not searched then: its ``Proviso`` says when it does. Of values that build one network
``NetworkSettings.plainest`` says which is meant.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentkd.architecture import Setting
from agentkd.canonical import Proviso
from agentkd.networks.widths import level_widths

ArchitectureSpace = dict[str, tuple[Setting, ...]]
FIRST_EDITION, EDITION = 1, 2


@dataclass(frozen=True)
class Dimension:
    """One setting that is searched.

    Args:
        values: among which is chosen.
        effect: of the setting, in a few words.
        when: it makes a difference; always if there is none.
        since: the edition of the spaces in which it came. A search that was begun in the first goes on without later ones.
        is_for_loss: nothing but the family's own loss sees what it changes; with another loss it is not searched.
    """

    values: tuple[Setting, ...]
    effect: str
    when: Proviso | None = None
    since: int = FIRST_EDITION
    is_for_loss: bool = False


Space = dict[str, Dimension]

_ACTIVATION = Dimension(("relu", "leaky_relu", "silu", "hardswish", "gelu"), "activation after normalizations")
_DROPOUT = Dimension((0.0, 0.1, 0.2, 0.3), "share of channels left out in training")
_POOLED_NORM = Dimension(("batch", "group"), "normalization; groups of 8 channels or more")
_UPSAMPLING = Dimension(("bilinear", "nearest"), "how smaller maps are brought to the size of larger ones")
_CONVOLUTION = Dimension(
    ("standard", "separable", "dilated"), "type of the blocks' convolutions; dilated ones see twice as far", since=EDITION
)
_PADDING = Dimension(("zeros", "reflect", "replicate"), "what stands around a map at its border", since=EDITION)


def pidnet_space(*planes: int) -> Space:
    """Search space of a PIDNet size; ``planes`` are its candidate stem widths."""
    return {
        "planes": Dimension(planes, "channels of the stem, of which all other widths are multiples"),
        "num_blocks": Dimension((1, 2, 3), "blocks in layers 1 and 2 and in the P branch"),
        "num_blocks3": Dimension((1, 2, 3, 4), "blocks in layer 3"),
        "num_blocks4": Dimension((1, 2, 3, 4), "blocks in layer 4"),
        "bottlenecks": Dimension((1, 2), "bottleneck blocks in layer 5"),
        "width3": Dimension((0.5, 0.75, 1.0), "factor on the width of layer 3"),
        "width4": Dimension((0.5, 0.75, 1.0), "factor on the width of layer 4"),
        "width5": Dimension((0.5, 0.75, 1.0), "factor on the width of layer 5"),
        "side_width": Dimension((0.75, 1.0), "factor on the width of the P and D branches"),
        "full_detail": Dimension((False, True), "D branch of PIDNet-L instead of the light one"),
        "pyramid": Dimension(("pappm", "dappm"), "context module, parallel or cascaded"),
        "ppm_planes": Dimension((16, 32, 48, 64, 96, 112, 128), "width inside the context module"),
        "fusion": Dimension(("light_bag", "bag", "add"), "how the three branches are merged"),
        "pag": Dimension((True, False), "attention-guided fusion into the P branch, or addition"),
        "head_planes": Dimension((16, 32, 64, 96, 128, 192, 256), "width of the heads"),
        "stem_kernel": Dimension((3, 5, 7), "filter size of the stem"),
        "block_kernel": Dimension((3, 5), "filter size of the blocks"),
        "head_kernel": Dimension((1, 3), "filter size of the heads"),
        "stem_stride": Dimension(
            (1, 2), "stride of the second stem convolution; with 1 all maps have twice the height and width"
        ),
        "context_stride": Dimension((1, 2), "stride of layer 5"),
        "activation": _ACTIVATION,
        "norm": _POOLED_NORM,
        "upsampling": _UPSAMPLING,
        "dropout": _DROPOUT,
        "convolution": _CONVOLUTION,
        "padding": _PADDING,
    }


_HAS_DISCRIMINATOR = Proviso("discriminator is true", ("discriminator",), lambda s: bool(s["discriminator"]))

BISENET_SPACE: Space = {
    "width": Dimension((0.5, 0.75, 1.0), "factor on the widths of the ResNet"),
    "blocks1": Dimension((1, 2, 3), "blocks in stage 1 of the ResNet"),
    "blocks2": Dimension((1, 2, 3), "blocks in stage 2"),
    "blocks3": Dimension((1, 2, 3), "blocks in stage 3"),
    "blocks4": Dimension((1, 2, 3), "blocks in stage 4"),
    "context_planes": Dimension((64, 96, 128, 160), "channels of the refined context features"),
    "spatial_planes": Dimension((32, 64, 96), "channels of the spatial path"),
    "spatial_kernel": Dimension((3, 5, 7), "filter size of its first convolution"),
    "i2i_width": Dimension((32, 48, 64), "width of the I2I branch"),
    "i2i_upsampling": Dimension(("transpose", "bilinear", "nearest"), "its up-sampling"),
    "i2i_kernel": Dimension((3, 5, 7), "filter size of its segmentation tap", is_for_loss=True),
    "skips": Dimension((0, 1, 2), "skip synapses into the segmentation branch; those without need no I2I branch at inference"),
    "fusion_reduction": Dimension((1, 2, 4), "squeeze in feature fusion"),
    "head_planes": Dimension((32, 64, 128), "width of the main head"),
    "discriminator": Dimension(
        (True, False), "trains the I2I branch as a GAN, or by the distance to the painted labels", is_for_loss=True
    ),
    "discriminator_width": Dimension((8, 16, 32), "width of the discriminator", _HAS_DISCRIMINATOR, is_for_loss=True),
    "discriminator_layers": Dimension((1, 2, 3), "depth of the discriminator", _HAS_DISCRIMINATOR, is_for_loss=True),
    "activation": _ACTIVATION,
    "norm": _POOLED_NORM,
    "upsampling": _UPSAMPLING,
    "dropout": _DROPOUT,
    "stem_stride": Dimension(
        (1, 2), "stride of the ResNet's first convolution; with 1 all maps have twice the height and width", since=EDITION
    ),
    "context_stride": Dimension((1, 2), "stride of stage 4", since=EDITION),
    "spatial_stride": Dimension((1, 2), "stride of the spatial path's last 3x3 convolution", since=EDITION),
    "convolution": _CONVOLUTION,
    "padding": _PADDING,
}


CAPS = (0, 256, 512)


def _is_capped(settings: Mapping[str, Any]) -> bool:
    """Whether the least cap that is searched changes a width."""
    return max(level_widths(settings["base"], settings["growth"], settings["depth"], 0)) > min(filter(None, CAPS))


UNET_SPACE: Space = {
    "base": Dimension((16, 24, 32, 40, 48, 64), "channels at full resolution"),
    "depth": Dimension((2, 3, 4, 5), "how often the resolution is halved"),
    "convs": Dimension((1, 2, 3), "convolutions in a block"),
    "kernel": Dimension((3, 5), "filter size of the blocks"),
    "up": Dimension(("transpose", "bilinear", "nearest", "bilinear_1x1", "pixel_shuffle"), "up-sampling"),
    "skip": Dimension(("concat", "add"), "how the encoder's features join the decoder's; added ones need a 1x1 convolution"),
    "growth": Dimension((1.5, 2.0), "factor of the width from level to level"),
    "max_width": Dimension(
        CAPS,
        "cap on the width; 0 is none",
        Proviso(
            f"base, growth and depth make a level wider than {min(filter(None, CAPS))}", ("base", "growth", "depth"), _is_capped
        ),
    ),
    "norm": Dimension(("none", "batch", "group", "instance"), "normalization; groups of 8 channels or more"),
    "activation": _ACTIVATION,
    "dropout": _DROPOUT,
    "stem_stride": Dimension(
        (1, 2), "stride of the first convolution; with 2 all maps have half the height and width", since=EDITION
    ),
    "down": Dimension(
        ("pool", "stride"), "levels halved by max-pooling, or by a stride of 2 in the next convolution", since=EDITION
    ),
    "convolution": _CONVOLUTION,
    "padding": _PADDING,
}

UNETPP_SPACE: Space = UNET_SPACE | {
    "depth": Dimension((2, 3, 4), UNET_SPACE["depth"].effect),
    "deep_supervision": Dimension((False, True), "the mean of a head for each node of the top row, each of them trained"),
}


def values_of(space: Mapping[str, Dimension], edition: int = EDITION) -> ArchitectureSpace:
    """Setting name to its candidate values, as they were in an edition of the spaces."""
    return {name: dimension.values for name, dimension in space.items() if dimension.since <= edition}


def conditions_of(space: Mapping[str, Dimension]) -> dict[str, Proviso]:
    """Setting name to when it makes a difference, for those that do not always."""
    return {name: dimension.when for name, dimension in space.items() if dimension.when}
