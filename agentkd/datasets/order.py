"""Which views a step sees: a pure function of the split, the batch size, the view seed and the step.

So a student can name the views of its next steps ahead of need, and two students with one seed see the same views.
"""

from agentkd import seeding

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
