"""Equal trainings have equal digests, and others have not; what was written before keeps its own."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from agentkd.architecture import IMAGENET, Architecture
from agentkd.datasets.opening import open_dataset
from agentkd.datasets.views import make_view
from agentkd.messages.bodies import TaskRequest
from agentkd.networks.blocks import ParameterGroup
from agentkd.recipe import AS_WRITTEN, CONDITIONS, Distillation, Recipe, ViewSettings
from agentkd.task import DataSource, Train, read_task
from agentkd.training.optimization import build_optimizers, set_learning_rate

STEPS_OF_DATA = 7  # of an epoch, where the recipe leaves that to the data; more than any warm-up here
RECIPES = st.fixed_dictionaries(
    {
        "epochs": st.integers(1, 3),
        "steps_per_epoch": st.integers(0, 3),
        "optimizer": st.sampled_from(["sgd", "adamw"]),
        "momentum": st.sampled_from([0.0, 0.8, 0.9]),
        "schedule": st.sampled_from(["polynomial", "cosine", "constant"]),
        "power": st.sampled_from([0.5, 0.9, 1.0, 2.0]),
        "warmup_steps": st.integers(0, 4),
        "validate_every": st.integers(1, 5),
        "keep": st.sampled_from(["best", "last"]),
        "views": st.fixed_dictionaries(
            {
                "crop_height": st.sampled_from([0, 16]),
                "scale_min": st.sampled_from([0.5, 0.7]),
                "scale_max": st.sampled_from([1.0, 2.0]),
            }
        ).map(lambda views: views | {"crop_width": views["crop_height"]}),
    }
)


@dataclass(frozen=True)
class Trace:
    """What a recipe makes of a training: with steps of an epoch as the data would have it where it does not say."""

    weights: tuple[float, ...]
    mious: tuple[int, ...]
    kept: int
    pixels: bytes


def trace(recipe: Recipe, dataset: Any) -> Trace:
    per_epoch = recipe.steps_per_epoch or STEPS_OF_DATA
    total = recipe.epochs * per_epoch
    weight = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = build_optimizers([ParameterGroup((weight,))], recipe)["main"]
    followed = []
    for step in range(total):
        set_learning_rate(optimizer, recipe, step, total)
        optimizer.zero_grad()
        ((weight - 0.3 * step) ** 2).sum().backward()
        optimizer.step()
        followed += weight.detach().tolist()
    validated = [epoch for epoch in range(1, recipe.epochs + 1) if recipe.validates(epoch)]
    kept = {"best": validated[0], "last": recipe.epochs}[recipe.keep]  # the first validated was the best
    views = [make_view(dataset, 0, seed, recipe.views, IMAGENET).image.tobytes() for seed in range(4)]
    return Trace(tuple(followed), tuple(validated), kept, b"".join(views))


@pytest.fixture(scope="module")
def dataset() -> Any:
    return open_dataset("generated:seed=5,size=32x32,train=2,validation=1,test=1")


@settings(max_examples=400, deadline=None)
@given(first=RECIPES, changes=RECIPES, names=st.sets(st.sampled_from(sorted(Recipe.model_fields)), min_size=1, max_size=3))
def test_recipes_that_train_the_same_have_one_digest_and_no_others(
    dataset: Any, first: dict[str, Any], changes: dict[str, Any], names: set[str]
) -> None:
    """Where the steps depend on the data, recipes that train the same with some data alone are others."""
    second = first | {name: changes[name] for name in names & changes.keys()}
    one, other = Recipe.model_validate(first), Recipe.model_validate(second)
    if one.steps_per_epoch == other.steps_per_epoch:
        alike = trace(as_written(first), dataset) == trace(as_written(second), dataset)
        assert alike == (one.digest == other.digest), (first, second)
    assert trace(one, dataset) == trace(as_written(first), dataset), "what stands for it trains as it does"
    assert Recipe.model_validate(one.canonical()) == one


def as_written(fields: dict[str, Any]) -> Recipe:
    return Recipe.model_validate(fields, context=AS_WRITTEN)


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "momentum of AdamW": ({"optimizer": "adamw"}, {"optimizer": "adamw", "momentum": 0.8}),
    "power of a cosine": ({"schedule": "cosine"}, {"schedule": "cosine", "power": 2.0}),
    "power of none": ({"schedule": "constant"}, {"schedule": "constant", "power": 2.0}),
    "scale without a crop": ({"views": {}}, {"views": {"scale_min": 1.0, "scale_max": 1.5}}),
    "validated after the end": ({"epochs": 4, "validate_every": 4}, {"epochs": 4, "validate_every": 9}),
    "kept of one": ({"epochs": 4, "validate_every": 4}, {"epochs": 4, "validate_every": 4, "keep": "last"}),
    "a single step": (
        {"epochs": 1, "steps_per_epoch": 1},
        {"epochs": 1, "steps_per_epoch": 1, "schedule": "cosine", "momentum": 0.1},
    ),
    "a rise to the end": (
        {"epochs": 1, "steps_per_epoch": 5, "warmup_steps": 9},
        {"epochs": 1, "steps_per_epoch": 5, "warmup_steps": 9, "schedule": "constant"},
    ),
    "a rise of one step": ({"schedule": "constant"}, {"schedule": "constant", "warmup_steps": 1}),
}


@pytest.mark.parametrize(("one", "other"), CASES.values(), ids=CASES.keys())
def test_fields_that_make_no_difference_are_in_no_digest(one: dict[str, Any], other: dict[str, Any]) -> None:
    first, second = Recipe.model_validate(one), Recipe.model_validate(other)
    assert first == second and first.digest == second.digest


def test_a_field_that_is_wrong_is_refused_where_it_makes_no_difference_too() -> None:
    for fields in ({"optimizer": "adamw", "momentum": 7}, {"schedule": "cosine", "power": -1}, {"views": {"scale_min": 3.0}}):
        with pytest.raises(ValueError, match=r"momentum|power|scale_min"):
            Recipe.model_validate(fields)


def task_with(recipe: Recipe) -> Train:
    data = DataSource(spec="generated:seed=7", content_digest="d" * 64)
    return Train(architecture=Architecture(family="unet", num_classes=3), data=data, recipe=recipe)


@pytest.mark.parametrize("other", [other for _, other in CASES.values()], ids=CASES.keys())
def test_a_record_of_before_and_what_another_agent_says_keep_their_keys(other: dict[str, Any]) -> None:
    before = task_with(as_written(other))
    assert before.key != task_with(Recipe.model_validate(other)).key
    read = read_task(before.canonical())
    assert read.key == before.key and read == before and read.canonical()["recipe"] == as_written(other).canonical()
    said = TaskRequest.from_wire(TaskRequest(task=before, label="", attempt=1).model_dump(mode="json"))
    assert said.key == before.key == said.task.key and said.task.recipe == before.recipe
    assert read.replace(seed=3).recipe == before.recipe, "a task made of it is trained as it was"


def test_a_condition_says_when_a_field_is_kept() -> None:
    odd = {"momentum": 0.123, "power": 0.123, "sampler_temperature": 0.123}
    assert odd.keys() == CONDITIONS.keys()
    for optimizer in ("sgd", "adamw"):
        for schedule in ("polynomial", "cosine", "constant"):
            for sampler in ("uniform", "rare_class"):
                fields = {"optimizer": optimizer, "schedule": schedule, "sampler": sampler}
                recipe = Recipe.model_validate(fields | odd)
                for name, condition in CONDITIONS.items():
                    assert (getattr(recipe, name) == 0.123) == condition.holds(fields) and set(condition.names) <= fields.keys()


def test_a_budget_that_no_codec_looks_at_is_in_no_digest() -> None:
    assert Distillation(max_kl=0.5) == Distillation() and Distillation(codec="auto", max_kl=0.5) != Distillation(codec="auto")


def test_what_a_usual_recipe_is_digested_to_stays() -> None:
    assert ViewSettings().canonical()["scale_min"] == 0.5 and Recipe().canonical()["momentum"] == 0.9
    assert Recipe() == as_written({}) and Recipe(optimizer="adamw", schedule="cosine") == as_written(
        {"optimizer": "adamw", "schedule": "cosine"}
    )
