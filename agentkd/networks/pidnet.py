"""PIDNet: a proportional (detail), an integral (context) and a derivative (boundary) branch.

Source: Xu, Xiong, Bhattacharyya, "PIDNet: A Real-time Semantic Segmentation Network Inspired by PID Controllers", CVPR 2023.
Module names are those of the published checkpoints, so official weights load (``agentkd.networks.weights``). Unlike the
published forward, any input size works: merges interpolate to the size that is really there. The heads of the P and D branch see
their features after the activation that the next block begins with; the published code computes that one in place.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from agentkd.networks.blocks import Outputs, SegmentationNetwork, activation, block_conv, conv, kaiming_init, norm, resize
from agentkd.networks.settings import PIDNetSettings
from agentkd.networks.widths import round_width

EXPANSION = 2


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut; ``final_act`` is off where a stage's caller applies the activation."""

    def __init__(self, inputs: int, outputs: int, s: PIDNetSettings, *, stride: int = 1, final_act: bool = True) -> None:
        super().__init__()
        self.conv1 = block_conv(inputs, outputs, s.block_kernel, stride, s=s)
        self.bn1 = norm(s.norm, outputs)
        self.conv2 = block_conv(outputs, outputs, s.block_kernel, s=s)
        self.bn2 = norm(s.norm, outputs)
        self.act = activation(s.activation)
        self.downsample = _shortcut(inputs, outputs, stride, s)
        self.final_act = final_act

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        out = out + (x if self.downsample is None else self.downsample(x))
        return self.act(out) if self.final_act else out


class Bottleneck(nn.Module):
    """1x1, kxk, 1x1 convolutions with expansion 2 and a shortcut, without final activation."""

    def __init__(self, inputs: int, planes: int, s: PIDNetSettings, *, stride: int = 1) -> None:
        super().__init__()
        outputs = planes * EXPANSION
        self.conv1 = conv(inputs, planes, 1)
        self.bn1 = norm(s.norm, planes)
        self.conv2 = block_conv(planes, planes, s.block_kernel, stride, s=s)
        self.bn2 = norm(s.norm, planes)
        self.conv3 = conv(planes, outputs, 1)
        self.bn3 = norm(s.norm, outputs)
        self.act = activation(s.activation)
        self.downsample = _shortcut(inputs, outputs, stride, s)

    def forward(self, x: Tensor) -> Tensor:
        out = self.act(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(self.act(self.bn2(self.conv2(out)))))
        return out + (x if self.downsample is None else self.downsample(x))


class Pag(nn.Module):
    """Pixel-attention-guided fusion: a sigmoid gate of the branches' similarity mixes ``y`` into ``x``."""

    def __init__(self, x_planes: int, y_planes: int, mid: int, s: PIDNetSettings) -> None:
        super().__init__()
        self.f_x = _project(x_planes, mid, s)
        self.f_y = _project(y_planes, mid, s)
        self.upsampling = s.upsampling

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        size = x.shape[-2:]
        similarity = self.f_x(x) * resize(self.f_y(y), size, self.upsampling)
        gate = torch.sigmoid(similarity.sum(dim=1, keepdim=True))
        return (1 - gate) * x + gate * resize(y, size, self.upsampling)


class SideAdd(nn.Module):
    """Fusion by addition, where ``pag`` is off."""

    def __init__(self, upsampling: str) -> None:
        super().__init__()
        self.upsampling = upsampling

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + resize(y, x.shape[-2:], self.upsampling)


class PyramidPooling(nn.Module):
    """Context from pools 5/2, 9/4, 17/8 and global: all at once (PAPPM) or each on top of the previous one (DAPPM)."""

    def __init__(self, inputs: int, planes: int, outputs: int, s: PIDNetSettings) -> None:
        super().__init__()

        def act_conv(channels: int, out: int, kernel: int = 1, groups: int = 1) -> list[nn.Module]:
            layer = conv(channels, out, kernel, groups=groups, padding=s.padding)
            return [norm(s.norm, channels), activation(s.activation), layer]

        self.scale1 = nn.Sequential(nn.AvgPool2d(5, stride=2, padding=2), *act_conv(inputs, planes))
        self.scale2 = nn.Sequential(nn.AvgPool2d(9, stride=4, padding=4), *act_conv(inputs, planes))
        self.scale3 = nn.Sequential(nn.AvgPool2d(17, stride=8, padding=8), *act_conv(inputs, planes))
        self.scale4 = nn.Sequential(nn.AdaptiveAvgPool2d(1), *act_conv(inputs, planes))
        self.scale0 = nn.Sequential(*act_conv(inputs, planes))
        self.parallel = s.pyramid == "pappm"
        if self.parallel:
            self.scale_process = nn.Sequential(*act_conv(4 * planes, 4 * planes, 3, groups=4))
        else:
            self.process1, self.process2, self.process3, self.process4 = (
                nn.Sequential(*act_conv(planes, planes, 3)) for _ in range(4)
            )
        self.compression = nn.Sequential(*act_conv(5 * planes, outputs))
        self.shortcut = nn.Sequential(*act_conv(inputs, outputs))
        self.upsampling = s.upsampling

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        identity = self.scale0(x)
        pooled = [resize(scale(x), size, self.upsampling) for scale in (self.scale1, self.scale2, self.scale3, self.scale4)]
        if self.parallel:
            merged = [identity, self.scale_process(torch.cat([p + identity for p in pooled], dim=1))]
        else:
            merged = [identity]
            for process, p in zip((self.process1, self.process2, self.process3, self.process4), pooled, strict=True):
                merged.append(process(p + merged[-1]))
        return self.compression(torch.cat(merged, dim=1)) + self.shortcut(x)


class LightBag(nn.Module):
    """Boundary-attention-guided fusion, light: the boundary gate chooses between detail and context."""

    def __init__(self, planes: int, s: PIDNetSettings) -> None:
        super().__init__()
        self.conv_p = _project(planes, planes, s)
        self.conv_i = _project(planes, planes, s)

    def forward(self, p: Tensor, i: Tensor, d: Tensor) -> Tensor:
        edge = torch.sigmoid(d)
        return self.conv_p((1 - edge) * i + p) + self.conv_i(i + edge * p)


class Bag(nn.Module):
    """Boundary-attention-guided fusion, full."""

    def __init__(self, planes: int, s: PIDNetSettings) -> None:
        super().__init__()
        self.conv = nn.Sequential(norm(s.norm, planes), activation(s.activation), conv(planes, planes, 3, padding=s.padding))

    def forward(self, p: Tensor, i: Tensor, d: Tensor) -> Tensor:
        edge = torch.sigmoid(d)
        return self.conv(edge * p + (1 - edge) * i)


class AddFusion(nn.Module):
    """Fusion by addition."""

    def forward(self, p: Tensor, i: Tensor, d: Tensor) -> Tensor:
        return p + i + d


class Head(nn.Module):
    """Normalization, activation, convolution, twice; the last convolution is 1x1 with bias."""

    def __init__(self, inputs: int, planes: int, outputs: int, s: PIDNetSettings, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.bn1 = norm(s.norm, inputs)
        self.conv1 = conv(inputs, planes, s.head_kernel, padding=s.padding)
        self.bn2 = norm(s.norm, planes)
        self.conv2 = conv(planes, outputs, 1, bias=True)
        self.act = activation(s.activation)
        self.dropout = nn.Dropout2d(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(self.act(self.bn1(x)))
        return self.conv2(self.dropout(self.act(self.bn2(x))))


class PIDNet(SegmentationNetwork):
    """PIDNet of any size. Outputs: ``logits``; in training also ``p_logits`` [N,K,h,w] and ``boundary`` [N,1,h,w]."""

    training_only = ("seghead_p", "seghead_d")
    head_modules = ("seghead_p", "final_layer")

    def __init__(self, num_classes: int, s: PIDNetSettings, num_channels: int = 3) -> None:
        super().__init__()
        c = round_width(s.planes)
        side = round_width(2 * c * s.side_width)
        c3, c4 = round_width(4 * c * s.width3), round_width(8 * c * s.width4)
        c5 = round_width(8 * c * s.width5)
        end = 4 * c
        self.upsampling = s.upsampling
        self.relu = activation(s.activation)
        self.conv1 = nn.Sequential(
            conv(num_channels, c, s.stem_kernel, 2, bias=True, padding=s.padding),
            norm(s.norm, c),
            activation(s.activation),
            conv(c, c, s.stem_kernel, s.stem_stride, bias=True, padding=s.padding),
            norm(s.norm, c),
            activation(s.activation),
        )
        # I: context
        self.layer1 = _basic_stage(c, c, s.num_blocks, s)
        self.layer2 = _basic_stage(c, 2 * c, s.num_blocks, s, stride=2)
        self.layer3 = _basic_stage(2 * c, c3, s.num_blocks3, s, stride=2)
        self.layer4 = _basic_stage(c3, c4, s.num_blocks4, s, stride=2)
        self.layer5 = _bottleneck_stage(c4, c5, s.bottlenecks, s, stride=s.context_stride)
        self.spp = PyramidPooling(c5 * EXPANSION, s.ppm_planes, end, s)
        # P: detail
        self.compression3 = _project(c3, side, s)
        self.compression4 = _project(c4, side, s)
        self.pag3 = Pag(side, side, c, s) if s.pag else SideAdd(s.upsampling)
        self.pag4 = Pag(side, side, c, s) if s.pag else SideAdd(s.upsampling)
        self.layer3_ = _basic_stage(2 * c, side, s.num_blocks, s)
        self.layer4_ = _basic_stage(side, side, s.num_blocks, s)
        self.layer5_ = _bottleneck_stage(side, 2 * c, 1, s)
        # D: boundary
        d3 = side if s.full_detail else round_width(c * s.side_width)
        self.layer3_d = BasicBlock(2 * c, d3, s, final_act=False)
        self.layer4_d: nn.Module
        if s.full_detail:
            self.layer4_d = BasicBlock(d3, side, s, final_act=False)
        else:
            self.layer4_d = nn.Sequential(Bottleneck(d3, side // EXPANSION, s))
        self.diff3 = nn.Sequential(conv(c3, d3, 3, padding=s.padding), norm(s.norm, d3))
        self.diff4 = nn.Sequential(conv(c4, side, 3, padding=s.padding), norm(s.norm, side))
        self.layer5_d = _bottleneck_stage(side, 2 * c, 1, s)
        # fusion and heads
        fusions: dict[str, Callable[[], nn.Module]] = {
            "light_bag": lambda: LightBag(end, s),
            "bag": lambda: Bag(end, s),
            "add": AddFusion,
        }
        self.dfm = fusions[s.fusion]()
        self.seghead_p = Head(side, s.head_planes, num_classes, s)
        self.seghead_d = Head(side, c, 1, s)
        self.final_layer = Head(end, s.head_planes, num_classes, s, dropout=s.dropout)
        self.places = {"bottleneck": "spp", "penultimate": "dfm"}
        kaiming_init(self)

    def forward(self, images: Tensor) -> Outputs:
        x = self.relu(self.layer2(self.relu(self.layer1(self.conv1(images)))))
        size = x.shape[-2:]
        p, d = self.layer3_(x), self.layer3_d(x)
        x = self.relu(self.layer3(x))
        p = self.pag3(p, self.compression3(x))
        d = d + resize(self.diff3(x), size, self.upsampling)
        p = p_tap = self.relu(p)
        x = self.relu(self.layer4(x))
        p = self.pag4(self.layer4_(p), self.compression4(x))
        d = self.layer4_d(self.relu(d)) + resize(self.diff4(x), size, self.upsampling)
        d = d_tap = self.relu(d)
        p, d = self.layer5_(self.relu(p)), self.layer5_d(d)
        i = resize(self.spp(self.layer5(x)), size, self.upsampling)
        outputs = {"logits": self.final_layer(self.dfm(p, i, d))}
        if self.training:
            outputs |= {"p_logits": self.seghead_p(p_tap), "boundary": self.seghead_d(d_tap)}
        return outputs


def _shortcut(inputs: int, outputs: int, stride: int, s: PIDNetSettings) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(conv(inputs, outputs, 1, stride), norm(s.norm, outputs))


def _project(inputs: int, outputs: int, s: PIDNetSettings) -> nn.Sequential:
    return nn.Sequential(conv(inputs, outputs, 1), norm(s.norm, outputs))


def _basic_stage(inputs: int, outputs: int, blocks: int, s: PIDNetSettings, *, stride: int = 1) -> nn.Sequential:
    """In a stage of several blocks the last has no final activation; a single block keeps it."""
    layers = [BasicBlock(inputs, outputs, s, stride=stride)]
    layers += [BasicBlock(outputs, outputs, s, final_act=index < blocks - 1) for index in range(1, blocks)]
    return nn.Sequential(*layers)


def _bottleneck_stage(inputs: int, planes: int, blocks: int, s: PIDNetSettings, *, stride: int = 1) -> nn.Sequential:
    layers = [Bottleneck(inputs, planes, s, stride=stride)]
    layers += [Bottleneck(planes * EXPANSION, planes, s) for _ in range(1, blocks)]
    return nn.Sequential(*layers)
