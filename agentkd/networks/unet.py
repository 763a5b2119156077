"""U-Net and UNet++.

Sources: Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015; Zhou et al., "UNet++: A Nested U-Net Architecture", DLMIA 2018.
Written from the papers' descriptions.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agentkd.networks.blocks import Outputs, SegmentationNetwork, activation, block_conv, conv, kaiming_init, norm, resize
from agentkd.networks.settings import UNetPPSettings, UNetSettings

FREE_UPSAMPLING = ("bilinear", "nearest")


class Block(nn.Sequential):
    """``convs`` times convolution, normalization, activation. Without normalization the convolution has a bias.

    The first convolution has the stride.
    """

    def __init__(self, inputs: int, outputs: int, s: UNetSettings, *, stride: int = 1) -> None:
        layers: list[nn.Module] = []
        for index in range(s.convs):
            given, step = (outputs, 1) if index else (inputs, stride)
            layers.append(block_conv(given, outputs, s.kernel, step, bias=s.norm == "none", s=s))
            layers += [norm(s.norm, outputs), activation(s.activation)]
        if s.dropout:
            layers.append(nn.Dropout2d(s.dropout))
        super().__init__(*layers)


class Up(nn.Module):
    """Twice the resolution, resized to the skip's actual size. ``outputs`` is what it really puts out."""

    def __init__(self, inputs: int, wanted: int, s: UNetSettings) -> None:
        super().__init__()
        needs_width = s.skip == "add"
        self.mode = "nearest" if s.up == "nearest" else "bilinear"
        self.before: nn.Module = nn.Identity()
        self.after: nn.Module = nn.Identity()
        self.outputs = wanted
        if s.up == "transpose":
            self.before = nn.ConvTranspose2d(inputs, wanted, 2, stride=2)
        elif s.up == "pixel_shuffle":
            self.before = nn.Sequential(conv(inputs, wanted * 4, 1, bias=True), nn.PixelShuffle(2))
        elif s.up == "bilinear_1x1" or needs_width:
            self.after = conv(inputs, wanted, 1, bias=True)
        else:
            self.outputs = inputs

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        return self.after(resize(self.before(x), like.shape[-2:], self.mode))


class UNet(SegmentationNetwork):
    """Encoder, decoder and skips; ``logits`` at full resolution, or at half of it with a ``stem_stride`` of 2."""

    head_modules = ("head",)

    def __init__(self, num_classes: int, s: UNetSettings, num_channels: int = 3) -> None:
        super().__init__()
        widths = s.widths
        self.skip, self.pools = s.skip, s.down == "pool"
        self.encoder = nn.ModuleList(_encoder(s, num_channels))
        self.ups = nn.ModuleList()
        self.decoder = nn.ModuleList()
        for level in reversed(range(s.depth)):
            up = Up(widths[level + 1], widths[level], s)
            self.ups.append(up)
            self.decoder.append(Block(up.outputs + (widths[level] if s.skip == "concat" else 0), widths[level], s))
        self.head = conv(widths[0], num_classes, 1, bias=True)
        self.places = {"bottleneck": f"encoder.{s.depth}", "penultimate": f"decoder.{s.depth - 1}"}
        kaiming_init(self)

    def forward(self, images: Tensor) -> Outputs:
        skips: list[Tensor] = []
        x = images
        for level, block in enumerate(self.encoder):
            x = block(halved(x) if level and self.pools else x)
            skips.append(x)
        skips.pop()
        for up, block in zip(self.ups, self.decoder, strict=True):
            side = skips.pop()
            raised = up(x, side)
            x = block(torch.cat([side, raised], dim=1) if self.skip == "concat" else side + raised)
        return {"logits": self.head(x)}


class UNetPP(SegmentationNetwork):
    """Nested U-Net: node (i, j) fuses all nodes (i, 0..j-1) with the up-sampled node (i+1, j-1).

    With deep supervision every node of the top row has a head; ``logits`` is their mean and, in training,
    ``deep_logits`` [heads,N,K,H,W] holds each of them.
    """

    def __init__(self, num_classes: int, s: UNetPPSettings, num_channels: int = 3) -> None:
        super().__init__()
        widths = s.widths
        self.depth, self.skip, self.pools, self.deep_supervision = s.depth, s.skip, s.down == "pool", s.deep_supervision
        self.nodes = nn.ModuleDict()
        self.ups = nn.ModuleDict()
        for level, block in enumerate(_encoder(s, num_channels)):
            self.nodes[f"{level}_0"] = block
        for column in range(1, s.depth + 1):
            for level in range(s.depth + 1 - column):
                up = Up(widths[level + 1], widths[level], s)
                sides = column * widths[level] if s.skip == "concat" else 0
                self.ups[f"{level}_{column}"] = up
                self.nodes[f"{level}_{column}"] = Block(up.outputs + sides, widths[level], s)
        columns = range(1, s.depth + 1) if s.deep_supervision else [s.depth]
        self.heads = nn.ModuleDict({str(column): conv(widths[0], num_classes, 1, bias=True) for column in columns})
        self.head_modules = tuple(f"heads.{column}" for column in columns)
        self.places = {"bottleneck": f"nodes.{s.depth}_0", "penultimate": f"nodes.0_{s.depth}"}
        kaiming_init(self)

    def forward(self, images: Tensor) -> Outputs:
        rows: list[list[Tensor]] = []
        x = images
        for level in range(self.depth + 1):
            x = self.nodes[f"{level}_0"](halved(x) if level and self.pools else x)
            rows.append([x])
        for column in range(1, self.depth + 1):
            for level in range(self.depth + 1 - column):
                sides = rows[level][:column]
                raised = self.ups[f"{level}_{column}"](rows[level + 1][column - 1], sides[0])
                merged = torch.cat([*sides, raised], dim=1) if self.skip == "concat" else sum(sides) + raised
                rows[level].append(self.nodes[f"{level}_{column}"](merged))
        each = torch.stack([head(rows[0][int(column)]) for column, head in self.heads.items()])
        outputs = {"logits": each.mean(dim=0)}
        if self.training and self.deep_supervision:
            outputs["deep_logits"] = each
        return outputs


def halved(x: Tensor) -> Tensor:
    """``x`` pooled to half its height and width, rounded up, as a convolution with a stride of 2 leaves them."""
    return F.max_pool2d(x, 2, ceil_mode=True)


def _encoder(s: UNetSettings, num_channels: int) -> list[Block]:
    """The blocks of the levels, full resolution first; where nothing is pooled, those below halve the resolution themselves."""
    strides = [s.stem_stride, *[1 if s.down == "pool" else 2] * s.depth]
    return [Block(a, b, s, stride=stride) for a, b, stride in zip([num_channels, *s.widths], s.widths, strides, strict=False)]
