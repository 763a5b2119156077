"""U-Net (Ronneberger et al. 2015, batch-normalized and padded) and UNet++ (Zhou et al. 2018). Nothing here calls agentkd.

``NAMES`` says what agentkd calls each part, by level from full resolution and, in UNet++, column.
"""

from collections.abc import Mapping

import torch
from reference.layers import Layers, enlarged, size_of
from torch import Tensor
from torch.nn import functional as F

NAMES = {
    "way down": "encoder.{level}",
    "raised": "ups.{step}.before",
    "way up": "decoder.{step}",
    "head": "head",
    "node": "nodes.{level}_{column}",
    "raised node": "ups.{level}_{column}.before",
    "head of a column": "heads.{column}",
}


def unet(tensors: Mapping[str, Tensor], images: Tensor, depth: int, *, is_training: bool) -> dict[str, Tensor]:
    net = Layers(tensors, is_training=is_training)
    levels = [block(net, NAMES["way down"].format(level=0), images)]
    for level in range(1, depth + 1):
        levels.append(block(net, NAMES["way down"].format(level=level), halved(levels[-1])))
    x = levels[depth]
    for step, level in enumerate(range(depth - 1, -1, -1)):
        raised = doubled(net, NAMES["raised"].format(step=step), x, levels[level])
        x = block(net, NAMES["way up"].format(step=step), torch.cat([levels[level], raised], dim=1))
    return {"logits": net.conv(NAMES["head"], x)}


def unetpp(
    tensors: Mapping[str, Tensor], images: Tensor, depth: int, *, is_training: bool, columns: tuple[int, ...]
) -> dict[str, Tensor]:
    """``columns``: those whose top node has a head. The network's output is the mean of the heads."""
    net = Layers(tensors, is_training=is_training)
    nodes: dict[tuple[int, int], Tensor] = {}
    for column in range(depth + 1):
        for level in range(depth + 1 - column):
            if column:
                beside = [nodes[level, earlier] for earlier in range(column)]
                name = NAMES["raised node"].format(level=level, column=column)
                given = torch.cat([*beside, doubled(net, name, nodes[level + 1, column - 1], beside[0])], dim=1)
            else:
                given = halved(nodes[level - 1, 0]) if level else images
            nodes[level, column] = block(net, NAMES["node"].format(level=level, column=column), given)
    heads = torch.stack([net.conv(NAMES["head of a column"].format(column=c), nodes[0, c]) for c in columns])
    return {"logits": heads.mean(dim=0), "deep_logits": heads}


def block(net: Layers, name: str, x: Tensor) -> Tensor:
    """Twice convolution, normalization, ReLU."""
    for first in (0, 3):
        x = torch.relu(net.norm(f"{name}.{first + 1}", net.conv(f"{name}.{first}", x)))
    return x


def halved(x: Tensor) -> Tensor:
    """The largest of each two by two; what is over at the border makes a row or column of its own."""
    return F.max_pool2d(x, 2, ceil_mode=True)


def doubled(net: Layers, name: str, x: Tensor, like: Tensor) -> Tensor:
    """Transposed 2x2 convolution of stride 2, brought to the size of what it is joined with."""
    x = F.conv_transpose2d(x, net.tensors[f"{name}.weight"], net.tensors[f"{name}.bias"], stride=2)
    return x if size_of(x) == size_of(like) else enlarged(x, size_of(like))
