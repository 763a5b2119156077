"""A network with both ends put on: images of any size in, probabilities of their pixels out."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agentkd.architecture import RGB, Architecture
from agentkd.errors import ConfigError, must_be
from agentkd.networks.blocks import SegmentationNetwork, resize
from agentkd.networks.families import is_own
from agentkd.networks.trying import Tried, try_network

MIN_SIDE = 32
MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
# Floats are [0, 1]; augmentation may go a little beyond. What is far from it is something else: 0..255, or normalized already.
LEAST, MOST = -0.5, 1.5


class Segmenter(nn.Module):
    """A network for images as they are: normalization before it, full size and softmax behind it. It trains like any module.

    ``forward(images)`` takes images of the architecture's channels, RGB if these are three without other names, ``[N,C,H,W]`` or
    ``[C,H,W]``: uint8 in 0..255, or floats in 0..1. It returns probabilities ``[N,K,H,W]`` (N is 1 for ``[C,H,W]``); with
    ``raw=True`` logits. Between the two nothing else happens than when agentkd
    evaluates: an image is normalized, and the logits are enlarged bilinearly to its size. A height or width that the network does
    not take, one below 32 or no multiple of ``multiple``, is filled up first: the last row and column are repeated at the bottom
    and to the right, and what the network says there is cut off.

    Args:
        network: takes normalized images; its names stand behind ``network.`` in the state.
        architecture: of the network.
        classes: names, in the order of the logits; empty if nobody knows.
        raw: what ``forward`` returns if it is not said there.
        multiple: that sides must be of; found by trying if it is not given.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        network: SegmentationNetwork,
        architecture: Architecture,
        classes: tuple[str, ...] = (),
        *,
        raw: bool = False,
        multiple: int | None = None,
    ) -> None:
        must_be(network, nn.Module, "the network", "a torch.nn.Module")
        must_be(architecture, Architecture, "the architecture", "an agentkd.Architecture")
        if multiple is not None and (not isinstance(multiple, int) or multiple < 1):
            raise ConfigError(f"multiple is {multiple!r}; expected a whole number from 1 on")
        super().__init__()
        self.network, self.architecture, self.classes, self.raw = network, architecture, classes, raw
        self.multiple = smallest_multiple(architecture) if multiple is None else multiple
        for name in ("mean", "deviation"):
            value = torch.tensor(getattr(architecture.normalization, name))[:, None, None]
            self.register_buffer(name, value, persistent=False)

    def forward(self, images: Tensor, raw: bool | None = None) -> Tensor:
        """Probabilities, or logits, of every pixel.

        Shapes:
            images: [N,C,H,W] or [C,H,W], uint8 in 0..255 or floats in 0..1; C as the network has it, H and W any.
            what is returned: [N,K,H,W], float; probabilities add up to 1 over K.

        Args:
            images: as they are, not normalized.
            raw: logits instead of probabilities; as the network was loaded if it is not given.

        Raises:
            ConfigError: they are no such images, which it says.
        """
        _must_be_images(images, self.architecture.channels)
        images = images[None] if images.dim() == 3 else images
        height, width = images.shape[-2:]
        filled = self._filled_up(self._normalized(images))
        logits = _enlarged(self.network(filled)["logits"], filled)[..., :height, :width]
        return logits if (self.raw if raw is None else raw) else logits.softmax(dim=1)

    def extra_repr(self) -> str:
        """What it is, in the module's ``repr``."""
        told = ", ".join(self.classes) or f"{self.architecture.num_classes} classes"
        head = f", head={self.architecture.head}" if self.architecture.head else ""
        return f"family={self.architecture.family}{head}, classes=({told}), multiple={self.multiple}, raw={self.raw}"

    def _normalized(self, images: Tensor) -> Tensor:
        pixels = images.to(self.mean.dtype).contiguous()
        return ((pixels if images.is_floating_point() else pixels / 255) - self.mean) / self.deviation

    def _filled_up(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if self.multiple == 1 and height >= MIN_SIDE and width >= MIN_SIDE:
            return images
        below, beside = (max(MIN_SIDE, -(-side // self.multiple) * self.multiple) - side for side in (height, width))
        return F.pad(images, (0, beside, 0, below), mode="replicate")


def _enlarged(logits: Tensor, like: Tensor) -> Tensor:
    if torch.compiler.is_compiling():  # whether they are as large already would be a question about sizes, in a program for all
        return F.interpolate(logits, size=like.shape[-2:], mode="bilinear", align_corners=False)
    return resize(logits, like.shape[-2:])


def smallest_multiple(architecture: Architecture) -> int:
    """Of what the sides of images must be multiples for a network to take them; 1 if it takes all, or none that was tried.

    agentkd's families take all sides from 32 on. A user's own network is tried.
    """
    if not is_own(architecture.family):
        return 1
    tried = try_network(architecture)
    return next((multiple for multiple in MULTIPLES if _takes(tried, multiple)), 1)


def _takes(tried: Tried, multiple: int) -> bool:
    """Whether it takes images whose sides are of the first four multiples from 32 on."""
    first = -(-MIN_SIDE // multiple) * multiple
    sides = [first + multiple * number for number in range(4)]
    try:
        for height, width in zip(sides, reversed(sides), strict=True):
            tried.passes(1, height, width, is_training=False)
    except ConfigError:
        return False
    return True


def _must_be_images(images: object, channels: tuple[str, ...]) -> None:
    count = len(channels)
    what = "RGB" if channels == RGB else f"the channels {', '.join(channels)}"
    wanted = f"[N,{count},H,W] or [{count},H,W]"
    hint = f"{what}, channels first; an array [H,W,{count}] becomes that with torch.from_numpy(array).permute(2, 0, 1)"
    if not isinstance(images, Tensor):
        raise ConfigError(f"the images are of {type(images).__name__}; expected a tensor {wanted}, {hint}")
    if images.dim() not in (3, 4) or images.shape[-3] != count:
        raise ConfigError(f"images of shape {list(images.shape)}; expected {wanted}, {hint}")
    if images.dtype is not torch.uint8 and not images.is_floating_point():
        raise ConfigError(f"images of {images.dtype}; expected torch.uint8 in 0..255, or floats in 0..1")
    if torch.compiler.is_compiling():
        return  # a program has no images yet
    if not images.numel():
        raise ConfigError(f"images of shape {list(images.shape)}; there must be at least one pixel")
    if images.is_floating_point() and not images.is_meta:
        least, most = (float(value) for value in images.detach().aminmax())
        if not (least >= LEAST and most <= MOST):  # NaN is in no range
            hint = "give uint8, or divide by 255, and do not normalize: the network does"
            raise ConfigError(f"images with values from {least:g} to {most:g}; expected floats in 0..1: {hint}")
