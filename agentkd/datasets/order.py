"""Which views a step sees: a pure function of the split, the batch size, the view seed and the step.

So a student can name the views of its next steps ahead of need, and two students with one seed see the same views.
"""

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from agentkd import seeding
from agentkd.datasets.balance import Counts, rare_class_shares

ViewKey = tuple[int, int]
WHOLE_IMAGES, WHOLE_PIXELS = 8, 2**22


def whole_at_once(num_pixels: int) -> int:
    """How many whole images of so many pixels are looked at together: eight of 1024x512; of larger ones fewer."""
    return max(1, min(WHOLE_IMAGES, WHOLE_PIXELS // num_pixels))


def steps_per_epoch(num_samples: int, batch_size: int, wanted: int = 0) -> int:
    """Steps of one epoch; by default whole batches of one pass (the last partial batch is dropped)."""
    return wanted or num_samples // batch_size


def step_views(indices: tuple[int, ...], batch_size: int, *, view_seed: int, step: int, epoch_steps: int) -> tuple[ViewKey, ...]:
    """(sample index, view seed) of every image of a step. Each pass over the split is a fresh permutation."""
    epoch, within = divmod(step, epoch_steps)
    per_pass = max(1, len(indices) // batch_size)
    pass_number, position = divmod(within, per_pass)
    seed = seeding.derive("views", view_seed, epoch, pass_number)
    order = seeding.generator("order", seed).permutation(len(indices))
    chosen = order[position * batch_size : (position + 1) * batch_size]
    return tuple((indices[i], seed) for i in chosen)


@dataclass(frozen=True)
class RareClasses:
    """Which images are drawn where rare classes are to be seen more often: first a class, then one of the images that have it.

    Args:
        up_to: of each class that occurs: how often it or one before it is drawn, in [0, 1].
        members: the sample indices of the images that have pixels of it.
    """

    up_to: tuple[float, ...]
    members: tuple[tuple[int, ...], ...]

    def step_views(self, batch_size: int, *, view_seed: int, step: int, epoch_steps: int) -> tuple[ViewKey, ...]:
        """(sample index, view seed) of every image of a step. Each has a seed of its own, for an image may be drawn twice."""
        epoch, within = divmod(step, epoch_steps)
        random = seeding.generator("rare classes", view_seed, epoch, within)
        keys = []
        for at, (first, second) in enumerate(random.random((batch_size, 2)).tolist()):
            members = self.members[min(bisect.bisect_right(self.up_to, first), len(self.members) - 1)]
            keys.append((members[int(second * len(members))], seeding.derive("rare class", view_seed, epoch, within, at)))
        return tuple(keys)


def rare_classes(indices: Sequence[int], pixels: Counts, temperature: float) -> RareClasses:
    """By what is drawn from a split, see ``balance.rare_class_shares``.

    Args:
        indices: the split's samples.
        pixels: of each of them and each class, [N,K]; not all zero.
        temperature: of the draw.
    """
    shares = rare_class_shares(pixels.sum(axis=0).tolist(), temperature)
    found = [(share, pixels[:, label] > 0) for label, share in enumerate(shares) if share]
    members = tuple(tuple(index for index, has_it in zip(indices, which, strict=True) if has_it) for _, which in found)
    return RareClasses(tuple(itertools.accumulate(share for share, _ in found)), members)
