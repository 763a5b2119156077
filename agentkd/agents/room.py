"""Is there room for a task on this agent's device, which others share? An estimate, asked before the task begins.

It is never the last word: who is alone on a device begins, whatever is estimated.
"""

import torch

from agentkd.agents.feeding import open_source
from agentkd.checks.needs import of_training
from agentkd.datasets.samples import split_indices
from agentkd.errors import ConfigError, OutOfMemoryError
from agentkd.networks.trying import try_network
from agentkd.task import Task, Training
from agentkd.training.memory import free_bytes


def check_room(task: Task, device: torch.device, *, free: int | None = None) -> None:
    """Whether what a task takes, about, is free on a device; of what can be estimated.

    Args:
        task: of which trainings are looked at.
        device: where it is to be done.
        free: bytes there; by default what the device says.

    Raises:
        OutOfMemoryError: it is not.
    """
    there = free_bytes(device) if free is None else free
    needed = needed_bytes(task)
    if there is not None and needed > there:
        text = f"{device} has {_mib(there)} free, and this needs about {_mib(needed)}"
        raise OutOfMemoryError(f"{text}, as is estimated by parameters, batch and layers")


def needed_bytes(task: Task) -> int:
    """What a task takes besides its process, about; 0 if that cannot be said."""
    if not isinstance(task, Training):
        return 0
    views = task.recipe.views
    try:
        height, width = views.crop_height, views.crop_width
        if not height:
            dataset = open_source(task.data)
            height, width = dataset.sample(split_indices(dataset, task.data.train)[0]).label.shape
        taught = len(task.taught_by) + len(task.partner_tasks())
        tried = try_network(task.architecture)
        needed = of_training(task.recipe, tried, task.recipe.batch_size, height, width, num_teachers=taught)
    except ConfigError:
        return 0  # the training says why
    return needed.likely


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
