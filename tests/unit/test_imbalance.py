"""Weights of classes, hard pixels and the sampler in a training: which terms they change, by hand, and what is recorded."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from reference.tasks import run, small, source
from torch import Tensor, nn
from torch.nn import functional as F

from agentkd.agents.feeding import DatasetFeed, class_weights_of
from agentkd.agents.lessons import Blend
from agentkd.architecture import Architecture
from agentkd.artifacts.store import Store
from agentkd.checks.balance import check_balance
from agentkd.checks.plan import RunPlan
from agentkd.checks.script import DataChecks
from agentkd.datasets.caching import SharedSamples
from agentkd.datasets.generated import GeneratedScenes
from agentkd.datasets.opening import open_dataset
from agentkd.errors import ConfigError, DatasetError
from agentkd.experiment import Experiment
from agentkd.messages.bodies import TaskRequest
from agentkd.networks.build import build
from agentkd.networks.families import FAMILIES, resolve
from agentkd.objectives import SoftTargets
from agentkd.pipeline.own import OwnParts
from agentkd.recipe import LATER, Distillation, Recipe, ViewSettings
from agentkd.search.space import Choices
from agentkd.task import Distill, Mutual, Partner, TaskResult, TeacherReference, Train, read_task
from agentkd.training.batches import Batch
from agentkd.training.loop import Hooks
from agentkd.training.losses import LOSSES, LossSettings, cross_entropy, ohem_cross_entropy

SPEC = "generated:seed=5,size=32x32,train=8,validation=2,test=1,fires=0.5"
IGNORE = 255


def logits_with(true: list[float]) -> Tensor:
    """Two classes, one row of pixels, labels 0, 0, 1, 1 and so on: with these probabilities of the true class."""
    p = torch.tensor(true, dtype=torch.float64)
    is_second = torch.arange(len(true)) % 4 >= 2
    second = torch.where(is_second, p, 1 - p)
    return torch.stack([(1 - second).log(), second.log()])[None, :, None].float()


LABELS = torch.tensor([[[0, 0, 1, 1]]])
TRUE = [0.9, 0.5, 0.8, 0.25]


def test_cross_entropy_is_a_mean_weighted_by_class() -> None:
    losses = [-math.log(p) for p in TRUE]
    by_hand = (1 * losses[0] + 1 * losses[1] + 3 * losses[2] + 3 * losses[3]) / 8
    assert float(cross_entropy(logits_with(TRUE), LABELS, IGNORE, (1.0, 3.0))) == pytest.approx(by_hand, rel=1e-5)
    theirs = F.cross_entropy(logits_with(TRUE), LABELS, weight=torch.tensor([1.0, 3.0]))
    assert float(theirs) == pytest.approx(by_hand, rel=1e-5)


def test_weights_of_one_tell_nothing_and_their_scale_neither() -> None:
    plain = cross_entropy(logits_with(TRUE), LABELS, IGNORE)
    assert torch.equal(cross_entropy(logits_with(TRUE), LABELS, IGNORE, (1.0, 1.0)), plain)
    one, other = (cross_entropy(logits_with(TRUE), LABELS, IGNORE, weights) for weights in ((0.5, 1.5), (2.0, 6.0)))
    assert float(one) == pytest.approx(float(other), rel=1e-6) != pytest.approx(float(plain), rel=1e-3)


def test_hard_pixels_are_chosen_by_probability_and_then_weighted() -> None:
    """Below 0.6 are the second and the last; with one of each kept at least, the weights do not choose others."""
    found = ohem_cross_entropy(logits_with(TRUE), LABELS, IGNORE, threshold=0.6, min_kept=1, class_weights=(1.0, 3.0))
    assert float(found) == pytest.approx((-math.log(0.5) - 3 * math.log(0.25)) / 4, rel=1e-5)
    three = ohem_cross_entropy(logits_with(TRUE), LABELS, IGNORE, threshold=0.1, min_kept=3, class_weights=(100.0, 1.0))
    expected = (-100 * math.log(0.5) - math.log(0.25) - math.log(0.8)) / 102
    assert float(three) == pytest.approx(expected, rel=1e-5)


def test_a_class_that_weighs_nothing_is_as_if_it_were_not_labelled() -> None:
    hidden = LABELS.where(LABELS == 1, torch.full_like(LABELS, IGNORE))
    assert float(cross_entropy(logits_with(TRUE), LABELS, IGNORE, (0.0, 2.0))) == pytest.approx(
        float(cross_entropy(logits_with(TRUE), hidden, IGNORE)), rel=1e-6
    )
    for labels in (LABELS, torch.full_like(LABELS, IGNORE)):  # nothing counts
        logits = logits_with(TRUE).requires_grad_()
        mined = {"threshold": 0.6, "min_kept": 2, "class_weights": (0.0, 0.0)}
        loss = cross_entropy(logits, labels, IGNORE, (0.0, 0.0)) + ohem_cross_entropy(logits, labels, IGNORE, **mined)
        loss.backward()
        assert float(loss.detach()) == 0 and not logits.grad.any()
    few = ohem_cross_entropy(logits_with(TRUE), LABELS, IGNORE, threshold=0.01, min_kept=2, class_weights=(0.0, 1.0))
    assert float(few) == pytest.approx(-(math.log(0.8) + math.log(0.25)) / 2, rel=1e-5), "two of those that count"


# Which terms of each family's loss take weights, and which are over hard pixels only if all are to be.
WEIGHED = {
    "pidnet": {"p_head", "main", "main_on_boundary"},
    "bisenet": {"main", "aux16", "aux8", "i2i"},
    "dice": {"cross_entropy"},
    "cross_entropy": {"cross_entropy"},
}
MINED_BY_CHOICE = {"pidnet": {"p_head"}, "bisenet": set(), "dice": {"cross_entropy"}, "cross_entropy": {"cross_entropy"}}
NETWORKS = {
    "pidnet": ("pidnet_s", {"planes": 16}),
    "bisenet": ("cnn_i2i_bisenet", {"width": 0.5, "discriminator": True}),
    "dice": ("unetpp", {"base": 8}),
    "cross_entropy": ("unet", {"base": 16, "depth": 2}),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_weights_and_mining_change_the_terms_that_they_are_for_and_no_others(loss: str) -> None:
    assert set(NETWORKS) == set(LOSSES) and {family.loss for family in FAMILIES.values()} <= set(LOSSES)
    family, settings = NETWORKS[loss]
    network = build(resolve(family, 3, settings), seed=1).train()
    random = torch.Generator().manual_seed(2)
    images = torch.rand(2, 3, 64, 64, generator=random)
    labels = (torch.rand(2, 64, 64, generator=random) < 0.1).long() + torch.zeros(2, 64, 64, dtype=torch.long)
    labels[:, :8] = 2
    with torch.no_grad():
        outputs = network(images)

        def terms(**settings: Any) -> dict[str, Tensor]:
            torch.manual_seed(0)
            return LOSSES[loss](network, outputs, Batch(images, labels), LossSettings(3, IGNORE, **settings))

        plain = terms()
        weighed, mined = terms(class_weights=(0.1, 2.0, 0.9)), terms(mines_all=True)
    assert {name for name in plain if not torch.equal(plain[name], weighed[name])} == WEIGHED[loss]
    assert {name for name in plain if not torch.equal(plain[name], mined[name])} == MINED_BY_CHOICE[loss]


def test_the_hard_loss_of_a_student_is_weighed_and_its_soft_targets_are_not() -> None:
    teacher = TeacherReference(architecture=small(), weights="ab" * 32)
    batch = Batch(torch.zeros(1, 3, 1, 4), LABELS)
    logits = torch.cat([logits_with(TRUE), torch.full((1, 3, 1, 4), -9.0)], dim=1)

    def terms(hard_loss: str, weights: tuple[float, ...]) -> dict[str, Tensor]:
        distillation = Distillation(objectives=(SoftTargets(),), hard_loss=hard_loss, alpha=0 if hard_loss == "none" else 0.5)
        blend = Blend(distillation, open_dataset(SPEC), (teacher,), weights)
        given = {"cross_entropy": torch.tensor(7.0)}
        return blend.terms(given, {"logits": logits}, ({"logits": logits.flip(3)},), batch, 0.0)

    weights = (1.0, 3.0, 1.0, 1.0, 1.0)
    plain, weighed = terms("cross_entropy", ()), terms("cross_entropy", weights)
    assert float(weighed["cross_entropy"]) == pytest.approx(0.5 * float(cross_entropy(logits, LABELS, IGNORE, weights)))
    assert not torch.equal(plain["cross_entropy"], weighed["cross_entropy"])
    assert torch.equal(plain["0.soft_targets"], weighed["0.soft_targets"])
    assert float(terms("family", weights)["cross_entropy"]) == 3.5, "the family's own was weighed where it was made"
    assert terms("none", weights).keys() == {"0.soft_targets"}


def train(architecture: Architecture | None = None, spec: str = SPEC, **fields: Any) -> Train:
    recipe = Recipe(**{"epochs": 2, "batch_size": 4, "views": ViewSettings()} | fields)
    return Train(architecture=architecture or small(), data=source(spec), recipe=recipe, view_seed=3)


def test_what_a_recipe_had_before_has_the_digest_that_it_had() -> None:
    assert Recipe().digest == "6c440ce0efb786c6c332c23cd8fba45b9d853f96bb97efa8dcc944bf210fb342"
    assert not set(LATER) & Recipe().canonical().keys() and not set(LATER) & Recipe(sampler_temperature=3).canonical().keys()
    assert Recipe(sampler_temperature=3) == Recipe() and "class_weights" not in TaskResult(status="completed").canonical()
    changed = [
        {"class_weights": "inverse"},
        {"class_weights": "effective"},
        {"class_weights": [1, 2]},
        {"class_weights": [2, 1]},
        {"loss": "ohem"},
        {"sampler": "rare_class"},
        {"sampler": "rare_class", "sampler_temperature": 1.0},
    ]
    keys = {train(**fields).key for fields in [{}, *changed]}
    assert len(keys) == len(changed) + 1
    for fields in changed:
        task = train(**fields)
        assert read_task(task.canonical()).key == task.key
        assert TaskRequest.from_wire(TaskRequest(task=task, attempt=1).model_dump(mode="json")).task == task


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"class_weights": "inverce"}, "did you mean 'inverse'"),
        ({"class_weights": "balanced"}, "known: none, inverse, effective"),
        ({"class_weights": 2}, "or a list with a number for each class"),
        ({"class_weights": None}, "or a list with a number for each class"),
        ({"class_weights": []}, "give one for each"),
        ({"class_weights": [1.0]}, "give one for each"),
        ({"class_weights": [1.0, -0.5]}, "greater than or equal to 0"),
        ({"class_weights": [1.0, math.nan]}, "finite"),
        ({"class_weights": [1.0, math.inf]}, "finite"),
        ({"class_weights": [0.0, 0]}, "every class weighs 0"),
        ({"class_weights": ["1", "2"]}, "valid number"),
        ({"class_weights": [True, False]}, "valid number"),
        ({"class_weights": [1.0] * 256}, "at most 255"),
        ({"sampler": "rarest_class"}, "did you mean 'rare_class'"),
        ({"sampler": "rare_class", "sampler_temperature": 0}, "greater than or equal to"),
        ({"sampler_temperature": -1}, "greater than or equal to"),
        ({"loss": "OHEM"}, "did you mean 'ohem'"),
        ({"loss": "focal"}, "known: family, cross_entropy, ohem"),
    ],
)
def test_what_is_no_way_to_weigh_or_to_draw_is_refused_with_the_nearest(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Recipe(**fields)


def test_the_feed_draws_by_rare_class_and_the_same_after_a_restart() -> None:
    task = train(sampler="rare_class", epochs=4)
    whole = [DatasetFeed(task).views(step) for step in range(8)]
    resumed = DatasetFeed(task)
    assert [resumed.views(step) for step in range(5, 8)] == whole[5:]
    assert whole != [DatasetFeed(train(epochs=4)).views(step) for step in range(8)]
    burning = {index for index in open_dataset(SPEC).splits["train"] if open_dataset(SPEC).labels_of(index)[3]}
    assert {index for keys in whole for index, _ in keys} <= burning and 1 < len(burning) < 8
    batch = resumed.training_batch(5)
    assert batch.views == whole[5] and torch.equal(batch.images, DatasetFeed(task).training_batch(5).images)


def test_questions_to_a_teacher_differ_where_other_views_are_seen() -> None:
    teacher = TeacherReference(architecture=small(), weights="ab" * 32)
    recipes = [Recipe(), Recipe(sampler="rare_class"), Recipe(sampler="rare_class", sampler_temperature=1.0)]
    lessons = [
        Distill(architecture=small(), data=source(SPEC), recipe=recipe, teachers=(teacher,), distillation=Distillation())
        for recipe in [*recipes, Recipe(class_weights="inverse")]
    ]
    asked = [lesson.lesson_digest(teacher) for lesson in lessons]
    assert len(set(asked)) == 3 and asked[3] == asked[0], "weights change no question"
    with pytest.raises(ValueError, match=r"equal epochs, .*sampler"):
        partner = Partner(architecture=small(), recipe=recipes[1], seed=1)
        Mutual(architecture=small(), data=source(SPEC), distillation=Distillation(), partners=(partner,))


@pytest.mark.parametrize(
    "fields", [{"class_weights": "inverse", "sampler": "rare_class"}, {"loss": "ohem", "learning_rate": 1.0}]
)
def test_a_training_comes_out_the_same_again_and_after_an_interruption(fields: dict[str, Any], tmp_path: Path) -> None:
    class Interrupted(Exception):
        pass

    def stop(step: int, steps: int, loss: float) -> None:
        if step == 3:
            raise Interrupted

    task, store = train(**fields), Store(tmp_path / "store")
    whole = run(task, store)
    plain = run(train(**{name: value for name, value in fields.items() if name == "learning_rate"}), store)
    assert whole.weights == run(task, store).weights != plain.weights
    with pytest.raises(Interrupted):
        run(task, store, checkpoint=tmp_path / "checkpoint", hooks=Hooks(on_step=stop))
    resumed = run(task, store, checkpoint=tmp_path / "checkpoint")
    assert (resumed.weights, resumed.trace, resumed.class_weights) == (whole.weights, whole.trace, whole.class_weights)


def test_the_weights_of_the_training_split_are_in_the_result_and_in_the_loss(tmp_path: Path) -> None:
    store = Store(tmp_path)
    result = run(train(class_weights="inverse", epochs=1), store)
    data = open_dataset(SPEC)
    counts = data.class_pixels(data.splits["train"]).sum(axis=0)
    expected = (1 / counts) / (1 / counts).mean()
    assert result.class_weights == pytest.approx(expected.tolist()) == class_weights_of(train(class_weights="inverse"))
    assert result.canonical()["class_weights"] == list(result.class_weights)
    assert TaskResult.model_validate(result.canonical()) == result
    as_list = run(train(class_weights=list(result.class_weights), epochs=1), store)
    assert as_list.weights == result.weights
    plain = run(train(epochs=1), store)
    assert plain.class_weights == () and plain.weights != result.weights


def test_a_lesson_without_labels_needs_no_weights_and_a_sampler_by_class_is_refused_there() -> None:
    unlabelled = f"unlabelled:{SPEC}"
    teacher = TeacherReference(architecture=small(), weights="ab" * 32)
    taught = Distill(
        architecture=small(),
        data=source(unlabelled),
        recipe=Recipe(class_weights="inverse"),
        teachers=(teacher,),
        distillation=Distillation(alpha=0, hard_loss="none"),
    )
    assert class_weights_of(taught) == ()
    with pytest.raises(DatasetError, match="labelled"):
        class_weights_of(train(spec=unlabelled, class_weights="inverse"))
    with pytest.raises(DatasetError, match="labelled"):
        DatasetFeed(train(spec=unlabelled, sampler="rare_class"))


class WholeImages(nn.Module):
    """A classifier: one answer for an image."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 5, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.mean(dim=(2, 3), keepdim=True))


def test_a_classifier_takes_weights_of_classes_too() -> None:
    outputs = {"logits": WholeImages()(torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)))}
    labels = torch.stack([torch.zeros(8, 8), torch.full((8, 8), 3)]).long()
    loss = LOSSES["cross_entropy"]
    weighed = loss(nn.Identity(), outputs, Batch(torch.zeros(2, 3, 8, 8), labels), LossSettings(5, IGNORE, (1.0, 1, 1, 4, 1)))
    own = F.cross_entropy(outputs["logits"][..., 0, 0], torch.tensor([0, 3]), weight=torch.tensor([1.0, 1, 1, 4, 1]))
    assert float(weighed["cross_entropy"]) == pytest.approx(float(own), rel=1e-5)


def test_counts_are_read_once_for_all_agents_of_a_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = open_dataset(SPEC), open_dataset(SPEC)
    for data in (one, other):
        data.share_samples(SharedSamples(tmp_path / "cache", max_bytes=10**7))
    counts = one.class_pixels(one.splits["train"])
    (kept,) = (tmp_path / "cache").glob("*/*.counts")
    for index in one.splits["train"]:
        (kept.parent / str(index)).unlink()
    monkeypatch.setattr(GeneratedScenes, "sample", None)
    assert other.class_pixels(other.splits["train"]).tolist() == counts.tolist(), "no sample was read"
    monkeypatch.undo()
    for damaged in (b"", b"agentkdc", kept.read_bytes()[:-3]):
        kept.write_bytes(damaged)
        again = open_dataset(SPEC)
        again.share_samples(SharedSamples(tmp_path / "cache", max_bytes=10**7))
        assert again.class_pixels(again.splits["train"]).tolist() == counts.tolist()


def test_a_script_is_told_before_anything_starts(caplog: pytest.LogCaptureFixture) -> None:
    looked, data = DataChecks(), open_dataset(SPEC)

    def look(spec: str = SPEC, *, needs_labels: bool = True, **fields: Any) -> None:
        recipe = Recipe(batch_size=4, **fields)
        looked.must_be_learnable(open_dataset(spec), recipe, needs_labels=needs_labels, name="one")

    assert len(data.classes) == 5
    look(class_weights=[1, 1, 1, 1, 5], sampler="rare_class", loss="ohem")
    with pytest.raises(ConfigError, match=r"class_weights has 3 numbers, and there are 5 classes.*Smoke"):
        look(class_weights=[1, 2, 3])
    never = SPEC.replace("fires=0.5", "fires=0")
    with pytest.raises(ConfigError, match="0 for every class that has pixels"):
        look(never, class_weights=[0, 0, 0, 1, 1])
    caplog.clear()
    look(never, class_weights="inverse")
    assert "no pixel of the training split is 'Fire', 'Smoke', which weighs 0" in caplog.text
    look(f"unlabelled:{SPEC}", needs_labels=False, class_weights="inverse")
    with pytest.raises(ConfigError, match="sampler rare_class goes by the labels"):
        look(f"unlabelled:{SPEC}", needs_labels=False, sampler="rare_class")


def plan_with(**changes: Any) -> list[str]:
    """What is said of an experiment before anything starts, each with its place."""
    data = {"dataset": "generated:seed=5,size=32x32,train=8,validation=2,test=2"}
    told = {"name": "t", "data": data, "families": ["unet", "cnn_i2i_bisenet"], "baseline": {"epochs": 1}} | changes
    experiment = Experiment.model_validate(told)
    return [f"{c.path}: {c.text}" for c in check_balance(RunPlan(experiment, open_dataset(experiment.data.dataset), OwnParts()))]


def test_an_experiment_is_told_before_anything_starts() -> None:
    assert plan_with(recipe={"class_weights": "inverse", "sampler": "rare_class"}) == []
    said = plan_with(families={"unet": {"recipe": {"class_weights": [1, 2]}}}, round1={"recipe": {"class_weights": [1] * 6}})
    assert [text.partition(" (")[0] for text in said] == [
        "families.unet.recipe.class_weights: class_weights has 2 numbers, and there are 5 classes; give one for each",
        "round1.recipe.class_weights: class_weights has 6 numbers, and there are 5 classes; give one for each",
    ]
    ohem = {"search": {"recipe_space": {"loss": {"values": ["family", "ohem"]}}}}
    (same,) = plan_with(**ohem)
    assert same.startswith("search.recipe_space.loss: the own loss of cnn_i2i_bisenet is over hard pixels alone already")
    assert plan_with(families=["unet"], **ohem) == []
    hidden = {"data": {"dataset": "unlabelled:generated:seed=5,size=32x32,train=8,validation=2,test=2"}, "families": ["unet"]}
    searched = {"search": {"recipe_space": {"class_weights": {"values": ["none", "effective"]}}}}
    (lacking,) = plan_with(**hidden, **searched)
    assert lacking.startswith("search.recipe_space.class_weights: class_weights effective goes by the labels")
    assert plan_with(**hidden) == []


def test_lists_of_weights_are_refused_in_a_search_space_with_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"none of the values that can be searched.*recipe"):
        Choices(values=("none", [1.0, 2.0]))
    assert Choices(values=("none", "inverse")).values == ("none", "inverse")
