"""Batches from a dataset: the seam between torch-free views and the training loop. Teacher and student use the same code."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import nullcontext
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from agentkd.architecture import Normalization
from agentkd.code import barring
from agentkd.datasets.balance import class_weights
from agentkd.datasets.caching import SharedSamples
from agentkd.datasets.opening import Opened, open_again
from agentkd.datasets.order import RareClasses, ViewKey, rare_classes, step_views, steps_per_epoch, whole_at_once
from agentkd.datasets.samples import Dataset, split_indices
from agentkd.datasets.views import View, make_view, whole_view
from agentkd.errors import ContractError, DatasetError
from agentkd.knowledge.contracts import agree_on_channels
from agentkd.recipe import ViewSettings
from agentkd.task import DataSource, Taught, Training
from agentkd.training.ahead import Ahead
from agentkd.training.batches import Batch

_shared: list[SharedSamples] = []  # of this process: none until it is said where


def share_samples(shared: SharedSamples) -> None:
    """Has every dataset of this process, which has opened none yet, share its decoded samples with other agents of the host."""
    _shared[:] = [shared]


@lru_cache(maxsize=4)
def open_source(source: DataSource) -> Opened:
    """The dataset of a task, opened once a process, with the content that the task was planned for.

    Raises:
        ContractError: the content here differs from what the coordinator saw.
    """
    dataset = open_again(source.spec, source.code)
    if dataset.digest != source.content_digest:
        raise ContractError("dataset", dataset.digest, source.content_digest, hint=f"the files of {source.spec} changed")
    for shared in _shared:
        dataset.share_samples(shared)
    return dataset


def view_images(
    dataset: Dataset, views: Sequence[ViewKey], settings: ViewSettings, normalization: Normalization, *, loaders: int = 0
) -> Tensor:
    """Images [N,C,H,W] of named views, for a network with this normalization, made side by side by so many threads."""

    def make(at: int) -> View:
        index, seed = views[at]
        return make_view(dataset, index, seed, settings, normalization)

    size = settings.crop_height * settings.crop_width * (4 * len(normalization.channels) + 1)
    with Ahead(make, range(len(views)), loaders=loaders, size_of=_size_of, expected_bytes=size) as made:
        return torch.from_numpy(np.stack([made.take().image for _ in views]))


def evaluation_images(source: DataSource, normalization: Normalization) -> Iterator[Tensor]:
    """The validation split for a network with this normalization, whole images [1,C,H,W], one after the other."""
    dataset = open_source(source)
    for index in split_indices(dataset, source.validation):
        yield torch.from_numpy(whole_view(dataset, index, normalization).image)[None]


def class_weights_of(task: Training) -> tuple[float, ...]:
    """What a pixel of each class counts in a task: by those of its training split; empty if all count the same.

    Raises:
        DatasetError: the data cannot be read, or do not go with what the recipe says.
    """
    recipe = task.recipe
    if recipe.class_weights == "none" or (isinstance(task, Taught) and task.distillation.hard_loss == "none"):
        return ()
    dataset = open_source(task.data)
    counts = dataset.class_pixels(split_indices(dataset, task.data.train)).sum(axis=0).tolist()
    return class_weights(recipe.class_weights, counts, name=dataset.name)


class DatasetFeed:
    """The batches of one task. Several threads may make them at once.

    Args:
        task: whose they are.
        loaders: threads that make the views of a validation ahead.
    """

    def __init__(self, task: Training, *, loaders: int = 0) -> None:
        self._loaders, self._barred = loaders, barring.running if task.data.code else nullcontext
        self.dataset = open_source(task.data)
        agree_on_channels(task.architecture.channels, self.dataset.channels)
        self._recipe, self._view_seed, self._normalization = task.recipe, task.view_seed, task.architecture.normalization
        self._train = split_indices(self.dataset, task.data.train)
        self._validation = split_indices(self.dataset, task.data.validation)
        self.steps_per_epoch = steps_per_epoch(len(self._train), task.recipe.batch_size, task.recipe.steps_per_epoch)
        if len(self._train) < task.recipe.batch_size:
            text = f"split {task.data.train!r} has {len(self._train)} samples"
            raise DatasetError(self.dataset.name, text, f"at least one batch of {task.recipe.batch_size}")
        self.class_weights = class_weights_of(task)
        self._rare = self._rare_classes() if task.recipe.sampler == "rare_class" else None

    def views(self, step: int) -> tuple[ViewKey, ...]:
        """The views of a training step."""
        if self._rare is not None:
            return self._rare.step_views(
                self._recipe.batch_size, view_seed=self._view_seed, step=step, epoch_steps=self.steps_per_epoch
            )
        return step_views(
            self._train, self._recipe.batch_size, view_seed=self._view_seed, step=step, epoch_steps=self.steps_per_epoch
        )

    def _rare_classes(self) -> RareClasses:
        """By what images are drawn.

        Raises:
            DatasetError: no class has a pixel.
        """
        pixels = self.dataset.class_pixels(self._train)
        if not pixels.any():
            raise DatasetError(self.dataset.name, "no pixel of the training split is labelled", "labels, or sampler: uniform")
        return rare_classes(self._train, pixels, self._recipe.sampler_temperature)

    def training_batch(self, step: int) -> Batch:
        """The batch of a training step."""
        keys = self.views(step)
        with self._barred():
            views = [make_view(self.dataset, index, seed, self._recipe.views, self._normalization) for index, seed in keys]
        return _stack(views, keys)

    def validation_batches(self) -> Generator[Batch, None, None]:
        """The validation split, whole images, in batches of equal size."""
        pending: list[View] = []
        with Ahead(self._whole_view, self._validation, loaders=self._loaders, size_of=_size_of) as views:
            for _ in self._validation:
                view = views.take()
                if pending and (len(pending) == whole_at_once(view.label.size) or pending[0].label.shape != view.label.shape):
                    yield _stack(pending, ())
                    pending = []
                pending.append(view)
            yield _stack(pending, ())

    def _whole_view(self, index: int) -> View:
        with self._barred():
            return whole_view(self.dataset, index, self._normalization)


def _size_of(view: View) -> int:
    return view.image.nbytes + view.label.nbytes


def _stack(views: list[View], keys: tuple[ViewKey, ...]) -> Batch:
    """By numpy, which works on this thread alone: torch would start others beside each thread that makes batches."""
    images = np.stack([view.image for view in views])
    labels = np.stack([view.label for view in views]).astype(np.int64)
    return Batch(torch.from_numpy(images), torch.from_numpy(labels), keys)
