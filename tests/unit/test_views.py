"""A view has the bits of the plain formulas, pixel by pixel, however it is computed: records and teachers depend on them."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkd import seeding
from agentkd.architecture import Normalization, usual_normalization
from agentkd.datasets.samples import Floats, Sample
from agentkd.datasets.views import make_view, whole_view
from agentkd.recipe import ViewSettings

CHANNELS = [("red", "green", "blue"), ("nir", "blue", "green", "red"), ("gray",), ("a", "b")]


@dataclass(frozen=True)
class Noise:
    """One sample."""

    height: int
    width: int
    channels: tuple[str, ...]
    digest: str = "0" * 64

    def sample(self, index: int) -> Sample:
        random = np.random.default_rng(index)
        image = random.integers(0, 256, (self.height, self.width, len(self.channels)), dtype=np.uint8)
        return Sample(image, random.integers(0, 5, (self.height, self.width), dtype=np.uint8), "noise")


def normalized(pixels: Floats, normalization: Normalization) -> Floats:
    mean, deviation = (np.array(value, dtype=np.float32) for value in (normalization.mean, normalization.deviation))
    return ((pixels - mean) / deviation).transpose(2, 0, 1)


def colored(pixels: Floats, factors: Floats) -> Floats:
    brightness, contrast, saturation = factors.astype(np.float32)
    pixels = pixels * brightness
    pixels = (pixels - pixels.mean()) * contrast + pixels.mean()
    gray = pixels.mean(axis=2, keepdims=True)
    return np.clip((pixels - gray) * saturation + gray, 0, 1)


@settings(max_examples=150)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    channels=st.sampled_from(CHANNELS),
    color=st.sampled_from([0.0, 0.2, 0.9]),
    seed=st.integers(0, 2**31),
)
def test_a_view_of_a_whole_image_has_the_bits_of_the_formulas(
    height: int, width: int, channels: tuple[str, ...], color: float, seed: int
) -> None:
    data, normalization = Noise(height, width, channels), usual_normalization(channels)
    image = data.sample(3).image
    random = seeding.generator(data.digest, 3, seed)
    is_flipped = random.random(4)[3] < 0.5
    pixels = (image[:, ::-1] if is_flipped else image).astype(np.float32) / 255
    colors = [channels.index(name) for name in ("red", "green", "blue") if name in channels]
    if color and colors:
        pixels[:, :, colors] = colored(np.ascontiguousarray(pixels[:, :, colors]), random.uniform(1 - color, 1 + color, 3))
    made = make_view(data, 3, seed, ViewSettings(color=color), normalization).image
    assert made.dtype == np.float32 and made.flags.c_contiguous and made.flags.writeable
    assert np.array_equal(made, normalized(pixels, normalization))
    assert np.array_equal(whole_view(data, 3, normalization).image, normalized(image.astype(np.float32) / 255, normalization))


@pytest.mark.parametrize("side", [64, 512])
def test_so_has_one_of_the_usual_size(side: int) -> None:
    data, normalization = Noise(side, side, CHANNELS[0]), usual_normalization(CHANNELS[0])
    random = seeding.generator(data.digest, 0, 5)
    image = data.sample(0).image
    pixels = (image[:, ::-1] if random.random(4)[3] < 0.5 else image).astype(np.float32) / 255
    expected = normalized(colored(pixels, random.uniform(0.8, 1.2, 3)), normalization)
    assert np.array_equal(make_view(data, 0, 5, ViewSettings(), normalization).image, expected)
