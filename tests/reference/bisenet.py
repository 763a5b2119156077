"""CNN-I2I BiSeNet from its description (Yu et al., ECCV 2018, and the image-to-image branch), with all that trains. Nothing here
calls agentkd.

``NAMES`` says what agentkd calls each part. Context features are up-sampled, then fused with the synapse's, then refined.
"""

from collections.abc import Mapping

import torch
from reference.layers import Layers, Size, average, enlarged, relu, size_of
from torch import Tensor
from torch.nn import functional as F

NAMES = {
    "residual network": "context",
    "spatial path": "spatial",
    "global context": "pool.1",
    "attention at 1/32": "refine32",
    "attention at 1/16": "refine16",
    "refinement at 1/16": "smooth16",
    "refinement at 1/8": "smooth8",
    "synapse's attention at 1/16": "tap_refine16",
    "synapse's attention at 1/8": "tap_refine8",
    "synapse's fusion at 1/16": "tap_fuse16",
    "synapse's fusion at 1/8": "tap_fuse8",
    "fusion": "fuse",
    "main head": "head",
    "head at 1/16": "aux16",
    "head at 1/8": "aux8",
    "painted up to 1/16": "i2i.up16",
    "painted at 1/16": "i2i.conv16",
    "painted up to 1/8": "i2i.up8",
    "painted at 1/8": "i2i.conv8",
    "painted classes": "i2i.segment",
    "painted colors": "i2i.paint",
    "discriminator": "discriminator.layers",
}


def forward(
    tensors: Mapping[str, Tensor], images: Tensor, *, is_training: bool, align_corners: bool = False
) -> dict[str, Tensor]:
    """All heads at 1/8, the classes that the image-to-image branch tells apart, and the picture that it paints of them."""
    net = Layers(tensors, is_training=is_training)

    def up(x: Tensor, size: Size) -> Tensor:
        return enlarged(x, size, align_corners=align_corners)

    f8, f16, f32 = residual_network(net, images)
    size8, size16 = size_of(f8), size_of(f16)

    tap16 = net.conv_norm_relu(NAMES["painted at 1/16"], painted_up(net, NAMES["painted up to 1/16"], f32, size16))
    tap8 = painted_up(net, NAMES["painted up to 1/8"], tap16, size8)
    classes = net.conv_norm_relu(NAMES["painted at 1/8"], tap8)
    name = NAMES["painted classes"]
    classes = F.pad(classes, (3, 3, 3, 3), mode="reflect")
    classes = F.conv2d(classes, net.tensors[f"{name}.0.weight"], net.tensors[f"{name}.0.bias"])
    classes = relu(net.norm(f"{name}.1", classes))
    picture = torch.tanh(net.conv(f"{NAMES['painted colors']}.0", classes))

    x = attention(net, NAMES["attention at 1/32"], f32) + net.conv_norm_relu(NAMES["global context"], average(f32))
    x = up(x, size16)
    x = fusion(net, NAMES["synapse's fusion at 1/16"], x, attention(net, NAMES["synapse's attention at 1/16"], tap16))
    x16 = net.conv_norm_relu(NAMES["refinement at 1/16"], x)
    x = up(attention(net, NAMES["attention at 1/16"], f16) + x16, size8)
    x = fusion(net, NAMES["synapse's fusion at 1/8"], x, attention(net, NAMES["synapse's attention at 1/8"], tap8))
    x8 = net.conv_norm_relu(NAMES["refinement at 1/8"], x)

    fused = fusion(net, NAMES["fusion"], spatial_path(net, images), x8)
    return {
        "logits": head(net, NAMES["main head"], fused),
        "aux16_logits": up(head(net, NAMES["head at 1/16"], x16), size8),
        "aux8_logits": head(net, NAMES["head at 1/8"], x8),
        "i2i_logits": classes,
        "picture": picture,
    }


def residual_network(net: Layers, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """ResNet-18 without its classifier: features at 1/8, 1/16 and 1/32."""
    name = NAMES["residual network"]
    x = relu(net.norm(f"{name}.bn1", net.conv(f"{name}.conv1", images, 2)))
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    found = []
    for layer in (1, 2, 3, 4):
        for index in (0, 1):
            x = residual(net, f"{name}.layer{layer}.{index}", x, 2 if layer > 1 and index == 0 else 1)
        found.append(x)
    return found[1], found[2], found[3]


def residual(net: Layers, name: str, x: Tensor, stride: int) -> Tensor:
    out = relu(net.norm(f"{name}.bn1", net.conv(f"{name}.conv1", x, stride)))
    out = net.norm(f"{name}.bn2", net.conv(f"{name}.conv2", out))
    return relu(out + (net.conv_norm(f"{name}.downsample", x, stride) if net.has(f"{name}.downsample.0") else x))


def spatial_path(net: Layers, images: Tensor) -> Tensor:
    x = images
    for index, stride in enumerate((2, 2, 2, 1)):
        x = net.conv_norm_relu(f"{NAMES['spatial path']}.{index}", x, stride)
    return x


def attention(net: Layers, name: str, x: Tensor) -> Tensor:
    x = net.conv_norm_relu(f"{name}.conv", x)
    return x * torch.sigmoid(net.norm(f"{name}.gate.2", net.conv(f"{name}.gate.1", average(x))))


def fusion(net: Layers, name: str, a: Tensor, b: Tensor) -> Tensor:
    x = net.conv_norm_relu(f"{name}.conv", torch.cat([a, b], dim=1))
    gate = net.conv(f"{name}.gate.3", relu(net.conv(f"{name}.gate.1", average(x))))
    return x * (1 + torch.sigmoid(gate))


def head(net: Layers, name: str, x: Tensor) -> Tensor:
    return net.conv(f"{name}.1", net.conv_norm_relu(f"{name}.0", x))


def painted_up(net: Layers, name: str, x: Tensor, size: Size) -> Tensor:
    """Transposed 3x3 convolution of stride 2, which may have one row or column more or less than twice as many."""
    more = [wanted - (2 * have - 1) for wanted, have in zip(size, size_of(x), strict=True)]
    x = F.conv_transpose2d(x, net.tensors[f"{name}.conv.weight"], stride=2, padding=1, output_padding=more)
    return relu(net.norm(f"{name}.tail.0", x))


def judged(tensors: Mapping[str, Tensor], images: Tensor, picture: Tensor, *, is_training: bool) -> Tensor:
    """The discriminator's opinion of a picture of 32 pixels or more: 4x4 convolutions of stride 2, 2, 2, 1 and 1."""
    net, name = Layers(tensors, is_training=is_training), NAMES["discriminator"]
    x = torch.cat([images, picture], dim=1)
    for position, stride in ((0, 2), (2, 2), (5, 2), (8, 1), (11, 1)):
        weight, bias = net.tensors[f"{name}.{position}.weight"], net.tensors.get(f"{name}.{position}.bias")
        x = F.conv2d(x, weight, bias, stride=stride, padding=1)
        if position in (2, 5, 8):
            x = net.norm(f"{name}.{position + 1}", x)
        if position < 11:
            x = torch.where(x > 0, x, 0.2 * x)
    return x
