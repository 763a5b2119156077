"""CNN-I2I BiSeNet: BiSeNet-R18 whose context features also feed an image-to-image (I2I) branch trained as a GAN.

Sources: Yu et al., "BiSeNet", ECCV 2018; Papaioannidis et al. (AUTH) for the I2I branch and its skip synapses into the
segmentation branch; He et al. 2016 for ResNet-18, with torchvision's parameter names so that ImageNet weights load;
Isola et al. 2017 for the patch discriminator. Everything runs at any size; nothing is computed in place.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agentkd.networks.blocks import (
    Outputs,
    ParameterGroup,
    SegmentationNetwork,
    activation,
    block_conv,
    conv,
    conv_norm_act,
    decayed_apart,
    kaiming_init,
    norm,
    normal_init,
    resize,
)
from agentkd.networks.open_sizes import first_of, is_open
from agentkd.networks.settings import RESNET_WIDTHS, BiSeNetSettings
from agentkd.networks.widths import round_width

HEAD_RATE = 10.0
I2I_RATE = 0.01
DISCRIMINATOR_MIN_SIZE = 32
PAINTED = 3


class ResidualBlock(nn.Module):
    """ResNet's basic block."""

    def __init__(self, inputs: int, outputs: int, s: BiSeNetSettings, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = block_conv(inputs, outputs, 3, stride, s=s)
        self.bn1 = norm(s.norm, outputs)
        self.conv2 = block_conv(outputs, outputs, 3, s=s)
        self.bn2 = norm(s.norm, outputs)
        self.act = activation(s.activation)
        self.downsample = (
            nn.Sequential(conv(inputs, outputs, 1, stride), norm(s.norm, outputs)) if stride != 1 or inputs != outputs else None
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        return self.act(out + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """ResNet without classifier. Returns features at strides 8, 16 and 32, or at those that other settings give them."""

    def __init__(self, s: BiSeNetSettings, num_channels: int) -> None:
        super().__init__()
        self.widths = [round_width(w * s.width) for w in RESNET_WIDTHS]
        self.conv1 = conv(num_channels, self.widths[0], 7, s.stem_stride, padding=s.padding)
        self.bn1 = norm(s.norm, self.widths[0])
        self.act = activation(s.activation)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        blocks = (s.blocks1, s.blocks2, s.blocks3, s.blocks4)
        strides = (1, 2, 2, s.context_stride)
        inputs = self.widths[0]
        for index, (width, count, stride) in enumerate(zip(self.widths, blocks, strides, strict=True), start=1):
            stage = [ResidualBlock(inputs, width, s, stride=stride)]
            stage += [ResidualBlock(width, width, s) for _ in range(1, count)]
            self.add_module(f"layer{index}", nn.Sequential(*stage))
            inputs = width

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.get_submodule("layer1")(self.maxpool(self.act(self.bn1(self.conv1(x)))))
        f8 = self.get_submodule("layer2")(x)
        f16 = self.get_submodule("layer3")(f8)
        return f8, f16, self.get_submodule("layer4")(f16)


class AttentionRefinement(nn.Module):
    """3x3 convolution whose channels are weighted by a gate from their global averages."""

    def __init__(self, inputs: int, outputs: int, s: BiSeNetSettings) -> None:
        super().__init__()
        self.conv = conv_norm_act(inputs, outputs, 3, s=s)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(outputs, outputs, 1), norm(s.norm, outputs), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * self.gate(x)


class FeatureFusion(nn.Module):
    """1x1 convolution of two concatenated maps, plus itself times a squeeze-and-excite gate."""

    def __init__(self, inputs: int, outputs: int, s: BiSeNetSettings) -> None:
        super().__init__()
        squeezed = round_width(outputs / s.fusion_reduction)
        self.conv = conv_norm_act(inputs, outputs, 1, s=s)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            conv(outputs, squeezed, 1),
            activation(s.activation),
            conv(squeezed, outputs, 1),
            nn.Sigmoid(),
        )

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = self.conv(torch.cat([a, b], dim=1))
        return x + x * self.gate(x)


class Upscale(nn.Module):
    """Up-sampling to the size of a given feature: transposed convolution, or resize and convolution.

    ``stride`` is how much larger that is; with 1 nothing is.
    """

    def __init__(self, inputs: int, outputs: int, s: BiSeNetSettings, *, stride: int = 2) -> None:
        super().__init__()
        self.mode = s.i2i_upsampling
        self.conv: nn.Module
        if self.mode == "transpose":
            self.conv = nn.ConvTranspose2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        else:
            self.conv = conv(inputs, outputs, 3, padding=s.padding)
        self.tail = nn.Sequential(norm(s.norm, outputs), activation(s.activation))

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        if self.mode == "transpose":
            return self.tail(self._transposed(x, size))
        return self.tail(self.conv(resize(x, size, self.mode)))

    def _transposed(self, x: Tensor, size: torch.Size) -> Tensor:
        assert isinstance(self.conv, nn.ConvTranspose2d)
        if not is_open():
            return self.conv(x, output_size=list(size))
        # How much is added at the end must be known while sizes are open: as much as can be, and the rest is cut off.
        stride, more = self.conv.stride, self.conv.stride[0] - 1
        largest = F.conv_transpose2d(x, self.conv.weight, self.conv.bias, stride, 1, more)
        return first_of(largest, size)


class I2IBranch(nn.Module):
    """From the deepest features back to an RGB map of the colored mask at stride 8, with taps on the way.

    The number of up-scaling steps that inference needs depends on how many taps are used (``skips``).
    """

    def __init__(self, inputs: int, num_classes: int, s: BiSeNetSettings) -> None:
        super().__init__()
        w = s.i2i_width
        self.up16 = Upscale(inputs, 8 * w, s, stride=s.context_stride)
        self.conv16 = conv_norm_act(8 * w, 4 * w, 3, s=s)
        self.up8 = Upscale(4 * w, 2 * w, s)
        self.conv8 = conv_norm_act(2 * w, w, 3, s=s)
        self.segment = nn.Sequential(
            conv(w, num_classes, s.i2i_kernel, bias=True, padding="reflect"), norm(s.norm, num_classes), activation(s.activation)
        )
        self.paint = nn.Sequential(nn.Conv2d(num_classes, PAINTED, 1), nn.Tanh())

    def tap16(self, f32: Tensor, size16: torch.Size) -> Tensor:
        return self.conv16(self.up16(f32, size16))

    def tap8(self, tap16: Tensor, size8: torch.Size) -> Tensor:
        return self.up8(tap16, size8)

    def picture(self, tap8: Tensor) -> tuple[Tensor, Tensor]:
        """The segmentation tap [N,K,h,w], normalized and activated, and the RGB map in [-1, 1] that is painted from it."""
        scores = self.segment(self.conv8(tap8))
        return scores, self.paint(scores)


class PatchDiscriminator(nn.Module):
    """Real or painted, patch by patch. Inputs smaller than 32 pixels are padded."""

    def __init__(self, s: BiSeNetSettings, num_channels: int) -> None:
        super().__init__()
        width, slope = s.discriminator_width, 0.2
        layers: list[nn.Module] = [nn.Conv2d(num_channels + PAINTED, width, 4, stride=2, padding=1), nn.LeakyReLU(slope)]
        for index in range(1, s.discriminator_layers + 1):
            inputs, outputs = width * 2 ** (index - 1), width * 2**index
            stride = 1 if index == s.discriminator_layers else 2
            layers += [nn.Conv2d(inputs, outputs, 4, stride=stride, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(outputs), nn.LeakyReLU(slope)]
        layers.append(nn.Conv2d(width * 2**s.discriminator_layers, 1, 4, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor, picture: Tensor) -> Tensor:
        x = torch.cat([images, picture], dim=1)
        height, width = (max(0, DISCRIMINATOR_MIN_SIZE - n) for n in x.shape[-2:])
        return self.layers(F.pad(x, (0, width, 0, height)))


class CnnI2IBiSeNet(SegmentationNetwork):
    """CNN-I2I BiSeNet; every output is at stride 8, or 4 with a stem stride of 1.

    A skip synapse is fused into the up-sampled context features before these are refined, at strides 16 and 8 (or 8 and 4).

    In training the outputs also hold ``aux16_logits``, ``aux8_logits``, ``i2i_logits`` [N,K,h,w] and ``picture`` [N,3,h,w].
    """

    head_modules = ("head", "aux16", "aux8", "i2i.segment", "i2i.paint")

    def __init__(self, num_classes: int, s: BiSeNetSettings, num_channels: int = 3) -> None:
        super().__init__()
        planes = s.context_planes

        def layer(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
            return conv_norm_act(inputs, outputs, kernel, stride, s=s)

        self.upsampling, self.skips = s.upsampling, s.skips
        self.context = ResNet(s, num_channels)
        w16, w32 = self.context.widths[2:]
        spatial = s.spatial_planes
        self.spatial = nn.Sequential(
            layer(num_channels, spatial, s.spatial_kernel, 2),
            layer(spatial, spatial, 3, 2),
            layer(spatial, spatial, 3, s.spatial_stride),
            layer(spatial, planes, 1),
        )
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), layer(w32, planes, 1))
        self.refine32 = AttentionRefinement(w32, planes, s)
        self.refine16 = AttentionRefinement(w16, planes, s)
        self.smooth16 = layer(planes, planes, 3)
        self.smooth8 = layer(planes, planes, 3)
        self.i2i = I2IBranch(w32, num_classes, s)
        if s.skips >= 1:
            self.tap_refine16 = AttentionRefinement(4 * s.i2i_width, planes, s)
            self.tap_fuse16 = FeatureFusion(2 * planes, planes, s)
        if s.skips >= 2:
            self.tap_refine8 = AttentionRefinement(2 * s.i2i_width, planes, s)
            self.tap_fuse8 = FeatureFusion(2 * planes, planes, s)
        self.fuse = FeatureFusion(2 * planes, 2 * planes, s)
        self.dropout = nn.Dropout2d(s.dropout) if s.dropout else nn.Identity()
        self.head = nn.Sequential(layer(2 * planes, s.head_planes, 3), conv(s.head_planes, num_classes, 1, bias=True))
        self.aux16 = nn.Sequential(layer(planes, planes, 3), conv(planes, num_classes, 1, bias=True))
        self.aux8 = nn.Sequential(layer(planes, planes, 3), conv(planes, num_classes, 1, bias=True))
        kaiming_init(self, mode="fan_in")
        normal_init(self.i2i)
        self.discriminator = PatchDiscriminator(s, num_channels) if s.discriminator else None
        if self.discriminator:
            normal_init(self.discriminator)
        self.adversary = "discriminator" if s.discriminator else ""
        self.places = {"bottleneck": "refine32", "penultimate": "fuse"}
        self.training_only = ("aux16", "aux8", *self._tail_after_last_tap())

    def _tail_after_last_tap(self) -> tuple[str, ...]:
        if self.skips == 0:
            return ("i2i",)
        tail = ("i2i.conv8", "i2i.segment", "i2i.paint")
        return tail if self.skips == 2 else ("i2i.up8", *tail)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Backbone at the base rate, segmentation layers 10 times it, I2I branch a hundredth, discriminator on its own.

        Convolution weights decay; normalizations and biases do not.
        """
        parts: dict[str, list[nn.Module]] = {"context": [], "i2i": [], "discriminator": [], "": []}
        for name, module in self.named_modules():
            top = name.partition(".")[0]
            parts[top if top in parts else ""].append(module)
        groups = [
            *decayed_apart(parts["context"]),
            *decayed_apart(parts[""], rate=HEAD_RATE),
            *decayed_apart(parts["i2i"], rate=I2I_RATE),
        ]
        if self.discriminator:
            groups.append(ParameterGroup(tuple(self.discriminator.parameters()), optimizer="discriminator"))
        return groups

    def forward(self, images: Tensor) -> Outputs:
        f8, f16, f32 = self.context(images)
        size8, size16 = f8.shape[-2:], f16.shape[-2:]
        tap16 = tap8 = None
        if self.training or self.skips >= 1:
            tap16 = self.i2i.tap16(f32, size16)
        if self.training or self.skips >= 2:
            assert tap16 is not None
            tap8 = self.i2i.tap8(tap16, size8)

        x = resize(self.refine32(f32) + self.pool(f32), size16, self.upsampling)
        if self.skips >= 1:
            x = self.tap_fuse16(x, self.tap_refine16(tap16))
        x = out16 = self.smooth16(x)
        x = resize(self.refine16(f16) + x, size8, self.upsampling)
        if self.skips >= 2:
            x = self.tap_fuse8(x, self.tap_refine8(tap8))
        x = out8 = self.smooth8(x)
        fused = self.fuse(resize(self.spatial(images), size8, self.upsampling), x)
        outputs = {"logits": self.head(self.dropout(fused))}
        if self.training:
            assert tap8 is not None
            i2i_logits, picture = self.i2i.picture(tap8)
            outputs |= {
                "aux16_logits": resize(self.aux16(out16), size8, self.upsampling),
                "aux8_logits": self.aux8(out8),
                "i2i_logits": i2i_logits,
                "picture": picture,
            }
        return outputs
