"""What can be set in each family, with legal values, defaults (the published network) and the search space. Torch-free.

A ``Choice`` of a family is searched over the values listed in its space; every combination builds, trains and evaluates.
"""

from typing import Annotated, Literal

from pydantic import Field

from agentkd.architecture import Setting
from agentkd.canonical import FrozenData

Activation = Literal["relu", "leaky_relu", "silu", "hardswish", "gelu"]
PooledNorm = Literal["batch", "group"]
Width = Annotated[float, Field(gt=0, le=2)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
OddKernel = Literal[1, 3, 5, 7]
ArchitectureSpace = dict[str, tuple[Setting, ...]]

ACTIVATIONS = ("relu", "leaky_relu", "silu", "hardswish", "gelu")
DROPOUTS = (0.0, 0.1, 0.2, 0.3)


class PIDNetSettings(FrozenData):
    """PIDNet (Xu et al., CVPR 2023). Defaults are PIDNet-S.

    Args:
        planes: c, channels of the stem; every other width is a multiple of it.
        num_blocks: m, basic blocks in layers 1 and 2 and in the P branch.
        num_blocks3: basic blocks in layer 3 (n of the paper), likewise layer 4.
        bottlenecks: bottleneck blocks in layer 5.
        width3: factor on the width of layer 3, likewise layers 4 and 5.
        side_width: factor on the width of the P and D branches.
        full_detail: D branch of PIDNet-L (two basic blocks at 2c) instead of the light one.
        pyramid: context module, parallel (``pappm``) or cascaded (``dappm``).
        ppm_planes: width inside the context module.
        fusion: how the three branches are merged.
        pag: attention-guided fusion into the P branch; off means addition.
        stem_stride: stride of the second stem convolution.
        context_stride: stride of layer 5.
    """

    planes: int = Field(default=32, ge=8, le=256)
    num_blocks: int = Field(default=2, ge=1, le=8)
    num_blocks3: int = Field(default=3, ge=1, le=8)
    num_blocks4: int = Field(default=3, ge=1, le=8)
    bottlenecks: int = Field(default=2, ge=1, le=4)
    width3: Width = 1.0
    width4: Width = 1.0
    width5: Width = 1.0
    side_width: Width = 1.0
    full_detail: bool = False
    pyramid: Literal["pappm", "dappm"] = "pappm"
    ppm_planes: int = Field(default=96, ge=8, le=512, multiple_of=4)
    fusion: Literal["light_bag", "bag", "add"] = "light_bag"
    pag: bool = True
    head_planes: int = Field(default=128, ge=8, le=1024)
    stem_kernel: OddKernel = 3
    block_kernel: OddKernel = 3
    head_kernel: OddKernel = 3
    stem_stride: Literal[1, 2] = 2
    context_stride: Literal[1, 2] = 2
    activation: Activation = "relu"
    norm: PooledNorm = "batch"
    upsampling: Literal["bilinear", "nearest"] = "bilinear"
    dropout: Dropout = 0.0


class BiSeNetSettings(FrozenData):
    """CNN-I2I BiSeNet: BiSeNet with a ResNet-18 context path and an image-to-image (GAN) branch. Defaults as published.

    Args:
        width: factor on the ResNet widths.
        blocks1: basic blocks in ResNet stage 1, likewise stages 2 to 4.
        context_planes: channels of the attention-refined context features.
        i2i_width: w; the I2I branch has widths 8w, 4w, 2w, w.
        skips: how many I2I taps feed the segmentation branch (skip synapses).
        fusion_reduction: squeeze factor in feature fusion.
        head_planes: width of the main head.
        discriminator: train the I2I branch with a patch discriminator.
    """

    width: Width = 1.0
    blocks1: int = Field(default=2, ge=1, le=6)
    blocks2: int = Field(default=2, ge=1, le=6)
    blocks3: int = Field(default=2, ge=1, le=6)
    blocks4: int = Field(default=2, ge=1, le=6)
    context_planes: int = Field(default=128, ge=16, le=512)
    spatial_planes: int = Field(default=64, ge=8, le=256)
    spatial_kernel: OddKernel = 7
    i2i_width: int = Field(default=64, ge=8, le=128)
    i2i_upsampling: Literal["transpose", "bilinear", "nearest"] = "transpose"
    i2i_kernel: OddKernel = 7
    skips: Literal[0, 1, 2] = 2
    fusion_reduction: Literal[1, 2, 4] = 1
    head_planes: int = Field(default=64, ge=8, le=512)
    discriminator: bool = True
    discriminator_width: int = Field(default=32, ge=4, le=128)
    discriminator_layers: Literal[1, 2, 3] = 3
    activation: Activation = "relu"
    norm: PooledNorm = "batch"
    upsampling: Literal["bilinear", "nearest"] = "bilinear"
    dropout: Dropout = 0.0


class UNetSettings(FrozenData):
    """U-Net (Ronneberger et al. 2015). Defaults: the network that the paper's "UNet++" row counts.

    Args:
        base: channels at full resolution.
        depth: number of 2x2 poolings.
        convs: convolutions in a block.
        up: up-sampling; ``bilinear_1x1`` halves the channels after it, ``pixel_shuffle`` is sub-pixel convolution.
        skip: how the encoder's features join the decoder's.
        growth: factor of the width from level to level.
        max_width: cap on the width; 0 means none.
    """

    base: int = Field(default=32, ge=8, le=256)
    depth: int = Field(default=4, ge=1, le=6)
    convs: int = Field(default=2, ge=1, le=4)
    kernel: OddKernel = 3
    up: Literal["transpose", "bilinear", "nearest", "bilinear_1x1", "pixel_shuffle"] = "transpose"
    skip: Literal["concat", "add"] = "concat"
    growth: Annotated[float, Field(ge=1, le=3)] = 2.0
    max_width: int = Field(default=0, ge=0, le=4096)
    norm: Literal["none", "batch", "group", "instance"] = "batch"
    activation: Activation = "relu"
    dropout: Dropout = 0.0


class UNetPPSettings(UNetSettings):
    """UNet++ (Zhou et al. 2018): nested skip nodes. ``deep_supervision`` averages the heads of the top row."""

    depth: int = Field(default=4, ge=2, le=4)
    deep_supervision: bool = False


def pidnet_space(*planes: int) -> ArchitectureSpace:
    """Search space of a PIDNet size; ``planes`` are its candidate stem widths."""
    return {
        "planes": planes,
        "num_blocks": (1, 2, 3),
        "num_blocks3": (1, 2, 3, 4),
        "num_blocks4": (1, 2, 3, 4),
        "bottlenecks": (1, 2),
        "width3": (0.5, 0.75, 1.0),
        "width4": (0.5, 0.75, 1.0),
        "width5": (0.5, 0.75, 1.0),
        "side_width": (0.75, 1.0),
        "full_detail": (False, True),
        "pyramid": ("pappm", "dappm"),
        "ppm_planes": (16, 32, 48, 64, 96, 112, 128),
        "fusion": ("light_bag", "bag", "add"),
        "pag": (True, False),
        "head_planes": (16, 32, 64, 96, 128, 192, 256),
        "stem_kernel": (3, 5, 7),
        "block_kernel": (3, 5),
        "head_kernel": (1, 3),
        "stem_stride": (1, 2),
        "context_stride": (1, 2),
        "activation": ACTIVATIONS,
        "norm": ("batch", "group"),
        "upsampling": ("bilinear", "nearest"),
        "dropout": DROPOUTS,
    }


BISENET_SPACE: ArchitectureSpace = {
    "width": (0.5, 0.75, 1.0),
    "blocks1": (1, 2, 3),
    "blocks2": (1, 2, 3),
    "blocks3": (1, 2, 3),
    "blocks4": (1, 2, 3),
    "context_planes": (64, 96, 128, 160),
    "spatial_planes": (32, 64, 96),
    "spatial_kernel": (3, 5, 7),
    "i2i_width": (32, 48, 64),
    "i2i_upsampling": ("transpose", "bilinear", "nearest"),
    "i2i_kernel": (3, 5, 7),
    "skips": (0, 1, 2),
    "fusion_reduction": (1, 2, 4),
    "head_planes": (32, 64, 128),
    "discriminator": (True, False),
    "discriminator_width": (8, 16, 32),
    "discriminator_layers": (1, 2, 3),
    "activation": ACTIVATIONS,
    "norm": ("batch", "group"),
    "upsampling": ("bilinear", "nearest"),
    "dropout": DROPOUTS,
}

UNET_SPACE: ArchitectureSpace = {
    "base": (16, 24, 32, 40, 48, 64),
    "depth": (2, 3, 4, 5),
    "convs": (1, 2, 3),
    "kernel": (3, 5),
    "up": ("transpose", "bilinear", "nearest", "bilinear_1x1", "pixel_shuffle"),
    "skip": ("concat", "add"),
    "growth": (1.5, 2.0),
    "max_width": (0, 256, 512),
    "norm": ("none", "batch", "group", "instance"),
    "activation": ACTIVATIONS,
    "dropout": DROPOUTS,
}

UNETPP_SPACE: ArchitectureSpace = UNET_SPACE | {"depth": (2, 3, 4), "deep_supervision": (False, True)}
