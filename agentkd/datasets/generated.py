"""Generated burnt-area scenes: the built-in dataset, so that everything runs without a download.

Each scene is a pure function of (seed, index), of any size, never stored: terrain and vegetation, burn scars with
half-burnt rims, flame fronts along them, and smoke that partly hides what is below. Always labelled "generated":
these are not photographs, and a mIoU on them says nothing about real fires.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from agentkd import canonical, seeding
from agentkd.architecture import RGB
from agentkd.datasets.samples import IGNORE_INDEX, Color, Floats, Pixels, Sample, Size

GENERATOR_VERSION = 1
CLASSES = ("Burnt", "Half-Burnt", "Non-Burnt", "Fire", "Smoke")
COLORS: tuple[Color, ...] = ((64, 64, 64), (170, 110, 50), (0, 158, 115), (213, 94, 0), (180, 200, 220))
BURNT, HALF_BURNT, NON_BURNT, FIRE, SMOKE = range(5)
SPLIT_STRIDE = 1_000_000
SMOKE_OPACITY_LIMIT = 0.45
BEYOND_COLORS = ("nir", "swir")
# Near infrared: leaves reflect it, ash does not, flames emit it, and smoke lets most of it through. Short-wave infrared: flames
# outshine all else, and smoke is not there. Of each class, in its order.
REFLECTED = {"nir": (0.12, 0.30, 0.58, 0.80, 0.40), "swir": (0.42, 0.38, 0.26, 0.97, 0.30)}
EVERY_SCENE = 1.0


class GeneratedScenes:
    """A ``Dataset`` of generated scenes with splits ``train``, ``validation`` and ``test``.

    Args:
        num_channels: of the images, see ``channels_made``.
        fires: share of the scenes that burn; in the others there is neither fire nor smoke.
    """

    def __init__(
        self,
        *,
        seed: int,
        size: Size,
        counts: Mapping[str, int],
        light: str = "day",
        num_channels: int = len(RGB),
        fires: float = EVERY_SCENE,
    ) -> None:
        self.name = "generated"
        self.channels = channels_made(num_channels)
        self.classes, self.colors, self.ignore_index = CLASSES, COLORS, IGNORE_INDEX
        self.seed, self.size, self.light, self.fires = seed, size, light, fires
        self.splits = {
            split: tuple(range(position * SPLIT_STRIDE, position * SPLIT_STRIDE + count))
            for position, (split, count) in enumerate(counts.items())
        }
        self.digest = canonical.digest(
            {
                "generator": GENERATOR_VERSION,
                "seed": seed,
                "size": list(size),
                "counts": dict(counts),
                "split_stride": SPLIT_STRIDE,
            }
            | ({"light": light} if light != "day" else {})
            | ({"channels": list(self.channels)} if self.channels != RGB else {})
            | ({"fires": fires} if fires != EVERY_SCENE else {})
        )

    def sample(self, index: int) -> Sample:
        """The scene under an index."""
        return make_scene(self.seed, index, self.size, self.light, self.channels, self.fires)

    def size_of(self, index: int) -> Size:
        """(height, width) of every scene."""
        return self.size

    def group(self, index: int) -> str:
        """Every scene is its own group."""
        return str(index)

    def fingerprint(self, index: int) -> bytes:
        """What makes a scene what it is."""
        own = (self.seed, index, self.size, self.light, len(self.channels))
        return repr(own if burns(self.seed, index, self.fires) else (*own, "does not burn")).encode()

    def labels_of(self, index: int) -> NDArray[np.bool_]:
        """Every class that the scene may have: which of them have pixels is not looked at."""
        return np.arange(256) < (len(self.classes) if burns(self.seed, index, self.fires) else FIRE)

    def check(self) -> None:
        """Nothing can be missing."""


def channels_made(count: int) -> tuple[str, ...]:
    """What the channels of generated images are called: gray; with near infrared; and from three on colors, and what is beyond.

    Example:
        >>> channels_made(2), channels_made(4)
        (('gray', 'nir'), ('red', 'green', 'blue', 'nir'))
    """
    named = (*(RGB if count >= len(RGB) else ("gray",)), *BEYOND_COLORS)
    return (*named, *(f"band{number}" for number in range(len(named) + 1, count + 1)))[:count]


def burns(seed: int, index: int, fires: float) -> bool:
    """Whether a scene burns, of which that share does. What burns among few does among more."""
    return fires >= EVERY_SCENE or float(seeding.generator("burns", GENERATOR_VERSION, seed, index).random()) < fires


def make_scene(
    seed: int, index: int, size: Size, light: str = "day", channels: Sequence[str] = RGB, fires: float = EVERY_SCENE
) -> Sample:
    """One scene: ``image [H,W,C]`` and ``label [H,W]``. The light changes the colors alone, and channels neither each other."""
    random = seeding.generator("scene", GENERATOR_VERSION, seed, index)
    relief = noise(random, size, cells=3, octaves=4)
    plants = noise(random, size, cells=12, octaves=3)
    scar = noise(random, size, cells=2, octaves=4)
    burn_level = float(np.quantile(scar, random.uniform(0.45, 0.75)))
    rim = random.uniform(0.05, 0.10)
    label = np.full(size, NON_BURNT, dtype=np.uint8)
    label[scar > burn_level - rim] = HALF_BURNT
    label[scar > burn_level + rim] = BURNT

    image = _ground(random, relief, plants)
    image = _blend(image, _burnt(plants, relief), _ramp(scar, burn_level + rim, 0.02))
    half = _ramp(scar, burn_level - rim, 0.02) * (1 - _ramp(scar, burn_level + rim, 0.02))
    image = _blend(image, _singed(plants), 0.85 * half)

    heat = _front(random, size, scar, burn_level) * np.float32(burns(seed, index, fires))
    label[heat > 0.5] = FIRE
    image = _blend(image, _flames(random, size), np.clip(heat * 1.6, 0, 1))

    opacity = _plumes(random, size, heat)
    label[opacity > SMOKE_OPACITY_LIMIT] = SMOKE
    gray = random.uniform(0.62, 0.88) + 0.12 * (noise(random, size, cells=5, octaves=3) - 0.5)
    image = _blend(image, np.repeat(gray[..., None], 3, axis=2) * np.array([0.98, 1.0, 1.03]), opacity)

    photo = _photograph(random, LIGHTS[light](image), relief)
    return Sample(image=_with_channels(photo, label, seed, index, channels), label=label, name=f"generated-{seed}-{index}")


def _with_channels(photo: Pixels, label: Pixels, seed: int, index: int, channels: Sequence[str]) -> Pixels:
    """The photograph with, or without, its colors, and with what other channels would see there."""
    if tuple(channels) == RGB:
        return photo
    made = {"gray": np.rint(photo.mean(axis=2)).astype(np.uint8), **{name: photo[:, :, at] for at, name in enumerate(RGB)}}
    return np.stack([made[name] if name in made else _beyond(name, label, seed, index) for name in channels], axis=2)


def _beyond(name: str, label: Pixels, seed: int, index: int) -> Pixels:
    """What a channel beyond the colors sees: each class reflects as it does everywhere, with the texture of this scene."""
    random = seeding.generator("channel", GENERATOR_VERSION, seed, index, name)
    known = REFLECTED.get(name) or seeding.generator("reflected", GENERATOR_VERSION, name).uniform(0.1, 0.9, len(CLASSES))
    level = np.asarray(known, dtype=np.float32)[label]
    soft = Image.fromarray((level * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.7))
    texture = 60 * (noise(random, label.shape, cells=8, octaves=3) - 0.5)
    grain = random.normal(0, 4, label.shape)
    return np.clip(np.asarray(soft, dtype=np.float32) + texture + grain, 0, 255).astype(np.uint8)


def noise(random: np.random.Generator, size: Size, *, cells: int, octaves: int) -> Floats:
    """Fractal value noise in [0, 1]: random grids of doubling fineness, smoothly enlarged and added."""
    total = np.zeros(size, dtype=np.float32)
    for octave in range(octaves):
        count = cells * 2**octave + 1
        grid = Image.fromarray(random.random((count, count), dtype=np.float32))
        enlarged = np.asarray(grid.resize((size[1], size[0]), Image.Resampling.BICUBIC))
        total += enlarged * 0.5**octave
    low, high = float(total.min()), float(total.max())
    return (total - low) / (high - low + 1e-6)


def _ground(random: np.random.Generator, relief: Floats, plants: Floats) -> Floats:
    soil = np.array([0.52, 0.44, 0.31]) * random.uniform(0.85, 1.15)
    leaf = np.array([0.20, 0.38, 0.15]) * random.uniform(0.8, 1.2)
    cover = np.clip((plants - 0.3) * 2.2, 0, 1)[..., None]
    return ((1 - cover) * soil + cover * leaf * (0.7 + 0.6 * plants[..., None]) + 0.08 * (relief[..., None] - 0.5)).astype(
        np.float32
    )


def _burnt(plants: Floats, relief: Floats) -> Floats:
    ash = 0.10 + 0.10 * plants + 0.06 * relief
    return np.stack([ash * 1.02, ash, ash * 0.98], axis=2).astype(np.float32)


def _singed(plants: Floats) -> Floats:
    tone = (0.7 + 0.6 * plants)[..., None]
    return (tone * np.array([0.40, 0.26, 0.14])).astype(np.float32)


def _front(random: np.random.Generator, size: Size, scar: Floats, level: float) -> Floats:
    """Heat in [0, 1]: a band along the edge of the scar, alight only where a second noise says so."""
    band = np.exp(-(((scar - level) / random.uniform(0.05, 0.09)) ** 2))
    alight = _ramp(noise(random, size, cells=3, octaves=2), random.uniform(0.4, 0.55), 0.05)
    return (band * alight).astype(np.float32)


def _flames(random: np.random.Generator, size: Size) -> Floats:
    flicker = noise(random, size, cells=16, octaves=2)
    return np.stack([0.95 + 0.05 * flicker, 0.35 + 0.5 * flicker, 0.05 + 0.25 * flicker**2], axis=2).astype(np.float32)


def _plumes(random: np.random.Generator, size: Size, heat: Floats) -> Floats:
    """Opacity in [0, 0.9]: heat smeared along the wind, broken up by noise."""
    height, width = size
    wind, reach = random.uniform(0, 2 * np.pi), random.uniform(0.25, 0.6)
    source = heat * (heat > 0.35)
    plume = np.zeros(size, dtype=np.float32)
    steps = 10
    for step in range(1, steps + 1):
        shift = reach * step / steps
        moved = np.roll(source, (int(np.sin(wind) * shift * height), int(np.cos(wind) * shift * width)), axis=(0, 1))
        plume = np.maximum(plume, moved * (1 - 0.5 * step / steps))
    blurred = Image.fromarray((np.clip(plume, 0, 1) * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(min(size) * 0.05))
    soft = np.asarray(blurred, dtype=np.float32) / 255
    thick = soft * 1.5 * (0.45 + 0.8 * noise(random, size, cells=4, octaves=4))
    return np.clip(thick * (1 - 0.8 * source), 0, 0.9).astype(np.float32)


def _photograph(random: np.random.Generator, image: Floats, relief: Floats) -> Pixels:
    """Lighting across the scene, camera blur and sensor noise."""
    height, width = image.shape[:2]
    angle = random.uniform(0, 2 * np.pi)
    rows, columns = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None, :]
    light = random.uniform(0.8, 1.15) * (1 + 0.15 * (np.sin(angle) * rows + np.cos(angle) * columns) + 0.1 * (relief - 0.5))
    lit = np.clip(image * light[..., None], 0, 1)
    blurred = Image.fromarray((lit * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(random.uniform(0.2, 0.7)))
    grain = random.normal(0, random.uniform(2, 6), image.shape)
    return np.clip(np.asarray(blurred, dtype=np.float32) + grain, 0, 255).astype(np.uint8)


def _ramp(x: Floats, at: float, width: float) -> Floats:
    return np.clip((x - at) / width + 0.5, 0, 1).astype(np.float32)


def _infrared(image: Floats) -> Floats:
    """Heat is bright, vegetation is brighter than soil, and there is no color."""
    red, green, blue = np.moveaxis(image, 2, 0)
    tone = np.clip(0.25 + 1.1 * (red - blue) + 0.5 * (green - red), 0, 1)
    return np.repeat(tone[..., None], 3, axis=2).astype(np.float32)


LIGHTS: dict[str, Callable[[Floats], Floats]] = {
    "day": lambda image: image,
    "dusk": lambda image: (np.clip(image, 0, 1) ** 1.3 * np.array([0.75, 0.35, 0.45]) + [0.05, 0.0, 0.12]).astype(np.float32),
    "haze": lambda image: (0.45 * image[..., ::-1] + 0.45).astype(np.float32),
    "infrared": _infrared,
}


def _blend(below: Floats, above: Floats, opacity: Floats) -> Floats:
    return (below * (1 - opacity[..., None]) + above * opacity[..., None]).astype(np.float32)
