"""What memory a training takes, by parameters, batch and what goes through the layers: numbers of a network that was tried.

What is sure: weights, gradients, the optimizer's state, the best weights so far, the batch and its logits. What a step keeps of
the layers in between depends on what torch does, and is estimated: twice what the modules put out.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentkd.recipe import Recipe

if TYPE_CHECKING:
    from agentkd.networks.trying import Tried

FLOAT = 4
LABEL = 8


@dataclass(frozen=True)
class Needed:
    """Bytes without which a training cannot be, and bytes that it will take, about; neither counts the process itself."""

    least: int
    likely: int


def held_bytes(recipe: Recipe, tried: "Tried") -> int:
    """Of weights, gradients, the optimizer's state, and the best weights so far."""
    moments = 2 if recipe.optimizer == "adamw" else 1 if recipe.momentum else 0
    return 2 * tried.state_bytes + (1 + moments) * tried.trainable_bytes


def pixel_bytes(tried: "Tried") -> int:
    """Of a pixel with its label, as a network is shown it."""
    return tried.architecture.num_channels * FLOAT + LABEL


def of_training(recipe: Recipe, tried: "Tried", batch: int, height: int, width: int, *, num_teachers: int = 0) -> Needed:
    """What a training takes with batches of so many images of a size, and logits of so many teachers.

    Raises:
        ConfigError: the network does not take them.
    """
    passed = tried.passes(batch, height, width, is_training=True)
    logits = math.prod(passed.output) * FLOAT
    least = held_bytes(recipe, tried) + batch * height * width * pixel_bytes(tried) + logits
    return Needed(least, least + num_teachers * logits + 2 * passed.activation_bytes)
