"""What can be set in each family, with legal values and defaults (the published network). Torch-free.

Some values make no difference: a discriminator's width without a discriminator, a factor that is rounded to the same width. Of
all settings that build one network ``plainest`` says which are written, so that it has one digest. What is searched is in
``agentkd.networks.spaces``.
"""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from agentkd.canonical import FrozenData
from agentkd.networks.widths import Widths, least_channels, level_widths, plainest_factor, plainest_levels, round_width

Activation = Literal["relu", "leaky_relu", "silu", "hardswish", "gelu"]
PooledNorm = Literal["batch", "group"]
Convolution = Literal["standard", "separable", "dilated"]
Padding = Literal["zeros", "reflect", "replicate"]
Stride = Literal[1, 2]
MAX_FACTOR, MIN_GROWTH, MAX_GROWTH, MIN_BASE, MAX_BASE = 2.0, 1.0, 3.0, 8, 256
Width = Annotated[float, Field(gt=0, le=MAX_FACTOR)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
OddKernel = Literal[1, 3, 5, 7]

# Factors that people write, the likeliest first: of several that build one network the first of them stands in its digest.
FACTORS = (1.0, 0.75, 0.5)
LEAST_FACTOR = 0.001  # all that are smaller give the least width too
GROWTHS = (2.0, 1.5)
RESNET_WIDTHS = (64, 128, 256, 512)


class NetworkSettings(FrozenData):
    """Settings of a family.

    Three are alike in all families: ``convolution``, the type of the blocks' convolutions that are not 1x1 (``standard``;
    ``separable``, one convolution for each channel and then one of 1x1 across them; ``dilated``, with a dilation of 2);
    ``padding``, what stands around a map where a convolution looks over its border (``zeros``; ``reflect``, the map mirrored,
    or zeros where it is too small for that; ``replicate``, its border); ``dropout``, the probability with which a channel is
    left out in training.
    """

    later: ClassVar[frozenset[str]] = frozenset()
    """Settings that were not always there. The canonical form leaves their defaults out, so that earlier digests stay."""

    @model_serializer(mode="wrap")
    def _leave_out_what_all_had(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        plain: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        return {name: value for name, value in plain.items() if name not in self.later or value != fields[name].default}

    def complete(self) -> dict[str, Any]:
        """Every setting, the usual ones of ``later`` too."""
        return {name: getattr(self, name) for name in type(self).model_fields}

    def plainest(self) -> Self:
        """The settings that stand for all that build the same network; published ones stay as they are."""
        return self

    def _usual(self, *names: str) -> dict[str, Any]:
        """These settings as they are if nobody says anything."""
        return {name: type(self).model_fields[name].default for name in names}


def _factor(given: float, *bases: int) -> float:
    """The plainest factor that gives layers of these widths what the given one gives them."""

    def widths_of(factor: float) -> Widths:
        return tuple(round_width(base * factor) for base in bases)

    wanted = widths_of(given)
    near = max(least_channels(width) / base for width, base in zip(wanted, bases, strict=True))
    return plainest_factor(widths_of, wanted, FACTORS, LEAST_FACTOR, MAX_FACTOR, near=near) or given


class PIDNetSettings(NetworkSettings):
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
    stem_stride: Stride = 2
    context_stride: Stride = 2
    activation: Activation = "relu"
    norm: PooledNorm = "batch"
    upsampling: Literal["bilinear", "nearest"] = "bilinear"
    dropout: Dropout = 0.0
    convolution: Convolution = "standard"
    padding: Padding = "zeros"

    later: ClassVar = frozenset({"convolution", "padding"})

    def plainest(self) -> Self:
        """Planes are rounded; of factors of a width one is written; a block of 1x1 convolutions has one type of them."""
        c = round_width(self.planes)
        side = (2 * c,) if self.full_detail else (2 * c, c)
        return self.replace(
            planes=c,
            width3=_factor(self.width3, 4 * c),
            width4=_factor(self.width4, 8 * c),
            width5=_factor(self.width5, 8 * c),
            side_width=_factor(self.side_width, *side),
            **self._usual(*["convolution"] * (self.block_kernel == 1)),
        )


class BiSeNetSettings(NetworkSettings):
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
        stem_stride: stride of the context path's first convolution.
        context_stride: stride of its last stage.
        spatial_stride: stride of the last 3x3 convolution of the spatial path.
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
    stem_stride: Stride = 2
    context_stride: Stride = 2
    spatial_stride: Stride = 2
    convolution: Convolution = "standard"
    padding: Padding = "zeros"

    later: ClassVar = frozenset({"stem_stride", "context_stride", "spatial_stride", "convolution", "padding"})

    def plainest(self) -> Self:
        """No settings of a discriminator without one; of factors of the width one is written."""
        idle = () if self.discriminator else ("discriminator_width", "discriminator_layers")
        return self.replace(width=_factor(self.width, *RESNET_WIDTHS), **self._usual(*idle))


class UNetSettings(NetworkSettings):
    """U-Net (Ronneberger et al. 2015). Defaults: the network that the paper's "UNet++" row counts.

    Args:
        base: channels at full resolution.
        depth: number of 2x2 poolings.
        convs: convolutions in a block.
        up: up-sampling; ``bilinear_1x1`` halves the channels after it, ``pixel_shuffle`` is sub-pixel convolution.
        skip: how the encoder's features join the decoder's.
        growth: factor of the width from level to level.
        max_width: cap on the width; 0 means none.
        stem_stride: stride of the first convolution; with 2 the logits have half the height and width of the images.
        down: how a level's resolution is halved: by 2x2 max-pooling, or by a stride of 2 in the next convolution.
    """

    base: int = Field(default=32, ge=MIN_BASE, le=MAX_BASE)
    depth: int = Field(default=4, ge=1, le=6)
    convs: int = Field(default=2, ge=1, le=4)
    kernel: OddKernel = 3
    up: Literal["transpose", "bilinear", "nearest", "bilinear_1x1", "pixel_shuffle"] = "transpose"
    skip: Literal["concat", "add"] = "concat"
    growth: Annotated[float, Field(ge=MIN_GROWTH, le=MAX_GROWTH)] = 2.0
    max_width: int = Field(default=0, ge=0, le=4096)
    norm: Literal["none", "batch", "group", "instance"] = "batch"
    activation: Activation = "relu"
    dropout: Dropout = 0.0
    stem_stride: Stride = 1
    down: Literal["pool", "stride"] = "pool"
    convolution: Convolution = "standard"
    padding: Padding = "zeros"

    later: ClassVar = frozenset({"stem_stride", "down", "convolution", "padding"})

    @property
    def widths(self) -> Widths:
        """Channels of each level, full resolution first."""
        return level_widths(self.base, self.growth, self.depth, self.max_width)

    def plainest(self) -> Self:
        """Of what gives the levels their widths one is written; added skips need the 1x1 convolution anyway; 1x1 has no type."""
        base, growth, cap = plainest_levels(
            self.base,
            self.growth,
            self.depth,
            self.max_width,
            usual=GROWTHS,
            bases=range(MIN_BASE, MAX_BASE + 1),
            growths=(MIN_GROWTH, MAX_GROWTH),
        )
        up = "bilinear_1x1" if self.skip == "add" and self.up == "bilinear" else self.up
        idle = ("convolution", "padding") if self.kernel == 1 else ()
        return self.replace(base=base, growth=growth, max_width=cap, up=up, **self._usual(*idle))


class UNetPPSettings(UNetSettings):
    """UNet++ (Zhou et al. 2018): nested skip nodes. ``deep_supervision`` averages the heads of the top row."""

    depth: int = Field(default=4, ge=2, le=4)
    deep_supervision: bool = False
