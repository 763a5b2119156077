"""Batches from a dataset: as many as the recipe asks for, of the views that a step names."""

import pytest
import torch
from reference.tasks import small, source

from agentkd.agents.feeding import DatasetFeed, open_source
from agentkd.architecture import IMAGENET
from agentkd.datasets.views import make_view, whole_view
from agentkd.errors import ContractError, DatasetError
from agentkd.recipe import Recipe, ViewSettings
from agentkd.task import Train

SPEC = "generated:seed=5,size=32x32,train=4,validation=9,test=1"


def feed(batch_size: int, **fields: object) -> DatasetFeed:
    recipe = Recipe(batch_size=batch_size, views=ViewSettings(crop_height=32, crop_width=32), **fields)
    return DatasetFeed(Train(architecture=small(), data=source(SPEC), recipe=recipe, view_seed=3))


def test_a_split_of_one_batch_is_enough_and_one_of_less_is_refused() -> None:
    assert feed(4).steps_per_epoch == 1 and feed(2).steps_per_epoch == 2 and feed(4, steps_per_epoch=7).steps_per_epoch == 7
    with pytest.raises(DatasetError, match=r"split 'train' has 4 samples.*at least one batch of 5"):
        feed(5)


def test_a_training_batch_is_made_of_the_views_that_its_step_names() -> None:
    made = feed(2)
    batch = made.training_batch(1)
    assert batch.views == made.views(1) != made.views(0) and batch.labels.dtype == torch.int64
    for image, label, (index, seed) in zip(batch.images, batch.labels, batch.views, strict=True):
        view = make_view(made.dataset, index, seed, ViewSettings(crop_height=32, crop_width=32), IMAGENET)
        assert torch.equal(image, torch.from_numpy(view.image)) and torch.equal(label, torch.from_numpy(view.label).long())


def test_validation_is_the_whole_split_in_its_order_by_eights() -> None:
    made = feed(2)
    batches = list(made.validation_batches())
    assert [len(batch.images) for batch in batches] == [8, 1] and all(batch.views == () for batch in batches)
    images = torch.cat([batch.images for batch in batches])
    for image, index in zip(images, made.dataset.splits["validation"], strict=True):
        assert torch.equal(image, torch.from_numpy(whole_view(made.dataset, index, IMAGENET).image))


def test_data_that_changed_since_the_task_was_planned_are_refused() -> None:
    with pytest.raises(ContractError, match="dataset"):
        open_source(source(SPEC).replace(content_digest="another"))
