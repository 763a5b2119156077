"""Seeded views: an augmented image is a pure function of (dataset digest, sample index, view seed).

Whoever holds the dataset makes the same pixels from the same seed, whatever the worker, process or order. That is why
teacher and student can look at the same view without sending it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from agentkd import seeding
from agentkd.architecture import Normalization, are_same_channels, colors_among
from agentkd.datasets.samples import Dataset, Floats, Pixels, channels_of, resized
from agentkd.errors import ContractError
from agentkd.recipe import ViewSettings


@dataclass(frozen=True)
class View:
    """``image [C,H,W]`` float32, normalized as its network wants it, and ``label [H,W]`` uint8."""

    image: Floats
    label: Pixels


def make_view(dataset: Dataset, index: int, view_seed: int, settings: ViewSettings, normalization: Normalization) -> View:
    """The view of one sample under one seed. What changes colors changes red, green and blue, and leaves other channels alone.

    Raises:
        ContractError: the network is for images of other channels.
    """
    channels = _channels_for(dataset, normalization)
    sample = dataset.sample(index)
    random = seeding.generator(dataset.digest, index, view_seed)
    scale, at_y, at_x, flip = random.random(4)
    image, label = sample.image, sample.label
    if settings.crop_height:
        image, label = _scaled_crop(image, label, settings, scale, at_y, at_x)
    if flip < settings.flip:
        image, label = image[:, ::-1], label[:, ::-1]
    pixels: Floats = image.astype(np.float32)
    pixels /= 255
    factors = random.uniform(1 - settings.color, 1 + settings.color, 3) if settings.color else None
    planes = _planes(pixels) if factors is None else _change_color(pixels, factors, channels)
    return View(image=_normalize(planes, normalization), label=np.ascontiguousarray(label))


def whole_view(dataset: Dataset, index: int, normalization: Normalization) -> View:
    """The unchanged sample, as validation and testing see it.

    Raises:
        ContractError: the network is for images of other channels.
    """
    _channels_for(dataset, normalization)
    sample = dataset.sample(index)
    pixels: Floats = sample.image.astype(np.float32)
    pixels /= 255
    return View(image=_normalize(_planes(pixels), normalization), label=np.ascontiguousarray(sample.label))


def _scaled_crop(
    image: Pixels, label: Pixels, settings: ViewSettings, scale_draw: float, at_y: float, at_x: float
) -> tuple[Pixels, Pixels]:
    """One crop of the enlarged image, computed as one resize of a source rectangle; small images are enlarged to fit."""
    height, width = image.shape[:2]
    crop_h, crop_w = settings.crop_height, settings.crop_width
    scale = settings.scale_min + scale_draw * (settings.scale_max - settings.scale_min)
    scale = max(scale, crop_h / height, crop_w / width)
    box_h, box_w = min(crop_h / scale, height), min(crop_w / scale, width)
    top, left = at_y * (height - box_h), at_x * (width - box_w)
    box = (left, top, min(left + box_w, width), min(top + box_h, height))
    size = (crop_w, crop_h)
    return (
        resized(image, size, Image.Resampling.BILINEAR, box),
        np.asarray(Image.fromarray(label).resize(size, Image.Resampling.NEAREST, box=box)),
    )


def _channels_for(dataset: Dataset, normalization: Normalization) -> tuple[str, ...]:
    """The channels of a dataset's images, if a network is for such."""
    channels = channels_of(dataset)
    if not are_same_channels(normalization.channels, channels):
        hint = "the network must be for images of the channels that these data have, in the same order"
        raise ContractError("channels", ", ".join(normalization.channels), ", ".join(channels), hint=hint)
    return channels


def _planes(pixels: Floats) -> Floats:
    """[H,W,C] as [C,H,W]: what is the same for all pixels of a channel is computed several times as fast there."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _change_color(pixels: Floats, factors: Floats, channels: Sequence[str]) -> Floats:
    """Planes of pixels [H,W,C], of which the colors are changed."""
    colors = colors_among(channels)
    if colors is None:
        return _planes(pixels)
    if len(channels) > len(colors):
        planes = _planes(pixels)
        planes[list(colors)] = _change_rgb(np.ascontiguousarray(pixels[:, :, list(colors)]), factors)
        return planes
    return _change_rgb(pixels, factors)


def _change_rgb(pixels: Floats, factors: Floats) -> Floats:
    """Planes [3,H,W] of RGB pixels [H,W,3], which are used up.

    The mean is that of pixels as they lie, and gray is added up from red to blue: another order would be another view.
    """
    brightness, contrast, saturation = factors.astype(np.float32)
    pixels *= brightness
    mean = pixels.mean()
    planes = _planes(pixels)
    planes -= mean
    planes *= contrast
    planes += mean
    gray = planes[0] + planes[1]
    gray += planes[2]
    gray /= 3
    planes -= gray
    planes *= saturation
    planes += gray
    return np.clip(planes, 0, 1, out=planes)


def _normalize(planes: Floats, normalization: Normalization) -> Floats:
    mean, deviation = (np.array(value, dtype=np.float32) for value in (normalization.mean, normalization.deviation))
    planes -= mean[:, None, None]
    planes /= deviation[:, None, None]
    return planes
