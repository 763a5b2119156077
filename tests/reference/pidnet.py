"""PIDNet-S, M and L from their description (Xu et al., CVPR 2023), with the heads of training. Nothing here calls agentkd.

Tensors have the names of the published checkpoints. The heads of the P and D branch read the branch's features *after* the
ReLU that the next block begins with: in the published network that ReLU overwrites them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from reference.layers import Layers, average, enlarged, relu, size_of
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Size:
    """Blocks of the first layers, blocks of layers 3 and 4, and whether it has what PIDNet-L alone has."""

    few: int
    many: int
    is_large: bool


SIZES = {"pidnet_s": Size(2, 3, False), "pidnet_m": Size(2, 3, False), "pidnet_l": Size(3, 4, True)}


def forward(tensors: Mapping[str, Tensor], images: Tensor, size: Size, *, is_training: bool) -> dict[str, Tensor]:
    """Main, P and D heads, an eighth of the image's size (rounded up)."""
    net = Layers(tensors, is_training=is_training)
    x = relu(net.norm("conv1.1", net.conv("conv1.0", images, 2)))
    x = relu(net.norm("conv1.4", net.conv("conv1.3", x, 2)))
    x = relu(stage(net, "layer1", x, size.few))
    x = relu(stage(net, "layer2", x, size.few, stride=2))
    eighth = size_of(x)

    i3 = relu(stage(net, "layer3", x, size.many, stride=2))
    i4 = relu(stage(net, "layer4", i3, size.many, stride=2))
    i5 = bottleneck(net, "layer5.1", bottleneck(net, "layer5.0", i4, stride=2))
    context = dappm if size.is_large else pappm
    i = enlarged(context(net, i5), eighth)

    p3 = relu(attended(net, "pag3", stage(net, "layer3_", x, size.few), net.conv_norm("compression3", i3)))
    p4 = relu(attended(net, "pag4", stage(net, "layer4_", p3, size.few), net.conv_norm("compression4", i4)))
    p = bottleneck(net, "layer5_.0", p4)

    d3 = relu(basic(net, "layer3_d", x, ends_in_relu=False) + enlarged(net.conv_norm("diff3", i3), eighth))
    d4 = basic(net, "layer4_d", d3, ends_in_relu=False) if size.is_large else bottleneck(net, "layer4_d.0", d3)
    d4 = relu(d4 + enlarged(net.conv_norm("diff4", i4), eighth))
    d = bottleneck(net, "layer5_d.0", d4)

    fused = bag(net, p, i, d) if size.is_large else light_bag(net, p, i, d)
    return {
        "logits": head(net, "final_layer", fused),
        "p_logits": head(net, "seghead_p", p3),
        "boundary": head(net, "seghead_d", d4),
    }


def basic(net: Layers, name: str, x: Tensor, *, stride: int = 1, ends_in_relu: bool = True) -> Tensor:
    out = relu(net.norm(f"{name}.bn1", net.conv(f"{name}.conv1", x, stride)))
    out = net.norm(f"{name}.bn2", net.conv(f"{name}.conv2", out)) + shortcut(net, name, x, stride)
    return relu(out) if ends_in_relu else out


def bottleneck(net: Layers, name: str, x: Tensor, *, stride: int = 1) -> Tensor:
    out = relu(net.norm(f"{name}.bn1", net.conv(f"{name}.conv1", x)))
    out = relu(net.norm(f"{name}.bn2", net.conv(f"{name}.conv2", out, stride)))
    return net.norm(f"{name}.bn3", net.conv(f"{name}.conv3", out)) + shortcut(net, name, x, stride)


def shortcut(net: Layers, name: str, x: Tensor, stride: int) -> Tensor:
    return net.conv_norm(f"{name}.downsample", x, stride) if net.has(f"{name}.downsample.0") else x


def stage(net: Layers, name: str, x: Tensor, blocks: int, *, stride: int = 1) -> Tensor:
    """Basic blocks one after the other; the last ends without ReLU."""
    for index in range(blocks):
        x = basic(net, f"{name}.{index}", x, stride=1 if index else stride, ends_in_relu=index < blocks - 1)
    return x


def attended(net: Layers, name: str, x: Tensor, y: Tensor) -> Tensor:
    """Pag: where both say the same, y counts."""
    alike = net.conv_norm(f"{name}.f_x", x) * enlarged(net.conv_norm(f"{name}.f_y", y), size_of(x))
    gate = torch.sigmoid(alike.sum(dim=1, keepdim=True))
    return x - gate * x + gate * enlarged(y, size_of(x))


def norm_relu_conv(net: Layers, name: str, x: Tensor, first: int = 0, groups: int = 1) -> Tensor:
    """Layers ``first``, ``first`` + 1 and ``first`` + 2 of a sequence."""
    return net.conv(f"{name}.{first + 2}", relu(net.norm(f"{name}.{first}", x)), groups=groups)


def pools(net: Layers, x: Tensor) -> list[Tensor]:
    """Four scales of context, at the size of x. Zeros around the image count in the averages."""
    smaller = [F.avg_pool2d(x, window, stride=stride, padding=window // 2) for window, stride in ((5, 2), (9, 4), (17, 8))]
    smaller.append(average(x))
    named = zip(range(1, 5), smaller, strict=True)
    return [enlarged(norm_relu_conv(net, f"spp.scale{k}", pooled, first=1), size_of(x)) for k, pooled in named]


def pappm(net: Layers, x: Tensor) -> Tensor:
    same = norm_relu_conv(net, "spp.scale0", x)
    together = torch.cat([pooled + same for pooled in pools(net, x)], dim=1)
    together = norm_relu_conv(net, "spp.scale_process", together, groups=4)
    return norm_relu_conv(net, "spp.compression", torch.cat([same, together], dim=1)) + norm_relu_conv(net, "spp.shortcut", x)


def dappm(net: Layers, x: Tensor) -> Tensor:
    scales = [norm_relu_conv(net, "spp.scale0", x)]
    for k, pooled in enumerate(pools(net, x), start=1):
        scales.append(norm_relu_conv(net, f"spp.process{k}", pooled + scales[-1]))
    return norm_relu_conv(net, "spp.compression", torch.cat(scales, dim=1)) + norm_relu_conv(net, "spp.shortcut", x)


def light_bag(net: Layers, p: Tensor, i: Tensor, d: Tensor) -> Tensor:
    edge = torch.sigmoid(d)
    return net.conv_norm("dfm.conv_p", p + (1 - edge) * i) + net.conv_norm("dfm.conv_i", i + edge * p)


def bag(net: Layers, p: Tensor, i: Tensor, d: Tensor) -> Tensor:
    edge = torch.sigmoid(d)
    return norm_relu_conv(net, "dfm.conv", edge * p + (1 - edge) * i)


def head(net: Layers, name: str, x: Tensor) -> Tensor:
    x = net.conv(f"{name}.conv1", relu(net.norm(f"{name}.bn1", x)))
    return net.conv(f"{name}.conv2", relu(net.norm(f"{name}.bn2", x)))
