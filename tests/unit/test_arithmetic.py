"""How networks compute, as recorded settings: precision, layout, folding, compiling. Nothing is said of what is usual."""

from pathlib import Path
from typing import Any

import pytest
import torch
from experiments import SPEC
from pydantic import ValidationError
from small_trainings import SMALL, Drawn, training

from agentkd import canonical
from agentkd.agents.feeding import DatasetFeed
from agentkd.agents.lessons import DirectLesson, lesson_request, request_digest, unpack
from agentkd.agents.teaching import Teacher
from agentkd.agents.work import Surroundings, execute
from agentkd.artifacts.store import Store
from agentkd.datasets.opening import open_dataset
from agentkd.knowledge import tensors
from agentkd.knowledge.weights import encode_weights
from agentkd.networks.build import build
from agentkd.networks.families import resolve
from agentkd.objectives import Features, SoftTargets
from agentkd.recipe import Arithmetic, Distillation, Recipe, ViewSettings
from agentkd.task import DataSource, Distill, EpochResult, Evaluate, TaskResult, TeacherReference
from agentkd.task.inputs import Partner
from agentkd.task.kinds import Mutual, read_task
from agentkd.training.checkpoint import State
from agentkd.training.forms import arranged, follow_layout
from agentkd.training.loop import Hooks

CPU = torch.device("cpu")
NETWORK = resolve("pidnet_s", 5, SMALL["pidnet_s"])
SOURCE = DataSource(spec=SPEC, content_digest=open_dataset(SPEC).digest)
RECIPE = Recipe(epochs=1, batch_size=2, steps_per_epoch=2, views=ViewSettings(crop_height=64, crop_width=64))
OTHERWISE = [
    Arithmetic(precision="bfloat16"),
    Arithmetic(channels_last=True),
    Arithmetic(folded=True),
    Arithmetic(precision="bfloat16", channels_last=True, folded=True),
]
HOW = ["bfloat16", "channels last", "folded", "all of it"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def weights(store: Store) -> str:
    """Of a network whose normalizations have seen something."""
    network = build(NETWORK, seed=1)
    with torch.no_grad():
        network.train()(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    return store.put(encode_weights(NETWORK, dict(network.state_dict())))


def lesson(weights: str, **fields: Any) -> Distill:
    return Distill(
        architecture=NETWORK,
        data=SOURCE,
        recipe=RECIPE,
        teachers=(TeacherReference(architecture=NETWORK, weights=weights),),
        distillation=Distillation(**fields),
    )


def told(task: Distill, store: Store) -> dict[str, torch.Tensor]:
    """What the teacher makes of a step."""
    (reference,) = task.teachers
    teacher = Teacher(NETWORK, reference.weights, SOURCE, stored=store.get(reference.weights), device=CPU)
    return unpack(task, reference, teacher.answer(lesson_request(task, DatasetFeed(task), reference, 0)).parcel.view)


def test_what_is_as_usual_stands_in_no_record_and_no_digest() -> None:
    assert Arithmetic().canonical() == {}
    assert "arithmetic" not in Distillation().canonical()
    assert not {"validation_precision", "channels_last", "compiled"} & Recipe().canonical().keys()
    task = Evaluate(architecture=NETWORK, data=SOURCE, initial_weights="ab" * 32)
    assert "arithmetic" not in task.canonical() and "arithmetic" not in task.model_dump(mode="json")
    request = lesson_request(lesson("ab" * 32), DatasetFeed(lesson("ab" * 32)), lesson("ab" * 32).teachers[0], 0)
    plain = request.model_dump(exclude={"ways", "step", "classes", "head", "arithmetic"})
    assert request_digest(request) == canonical.digest(plain), "recordings of before are found"


@pytest.mark.parametrize("arithmetic", OTHERWISE, ids=HOW)
def test_what_is_otherwise_is_part_of_what_is_asked_and_done(arithmetic: Arithmetic) -> None:
    usual, other = lesson("ab" * 32), lesson("ab" * 32, arithmetic=arithmetic)
    assert usual.key != other.key and usual.lesson_digest(usual.teachers[0]) != other.lesson_digest(other.teachers[0])
    feed = DatasetFeed(usual)
    asked = [lesson_request(task, feed, task.teachers[0], 0) for task in (usual, other)]
    assert request_digest(asked[0]) != request_digest(asked[1])
    assert read_task(other.canonical()) == other
    looked = Evaluate(architecture=NETWORK, data=SOURCE, initial_weights="ab" * 32, arithmetic=arithmetic)
    assert read_task(looked.canonical()) == looked and looked.key != looked.replace(arithmetic=Arithmetic()).key


@pytest.mark.parametrize("arithmetic", OTHERWISE, ids=HOW)
def test_a_teacher_says_nearly_the_same_and_the_same_again(store: Store, weights: str, arithmetic: Arithmetic) -> None:
    fields: dict[str, Any] = {"codec": "float32", "objectives": (SoftTargets(), Features({"layer3": "layer3"}))}
    usual, other, again = (
        told(lesson(weights, arithmetic=one, **fields), store) for one in (Arithmetic(), arithmetic, arithmetic)
    )
    for name, value in usual.items():
        assert value.dtype == other[name].dtype == torch.float32
        assert torch.equal(other[name], again[name])
        far = 0.1 if arithmetic.precision == "bfloat16" else 1e-3
        assert (other[name] - value).norm() <= far * value.norm()
    assert any(not torch.equal(other[name], value) for name, value in usual.items())


def test_what_a_tapped_convolution_makes_is_not_what_its_normalization_makes_of_it(store: Store, weights: str) -> None:
    """It is not folded where somebody looks at it."""
    fields: dict[str, Any] = {"codec": "float32", "objectives": (Features({"conv1.0": "conv1.0"}),)}
    modules = dict(build(NETWORK, seed=1).named_modules())
    assert isinstance(modules["conv1.0"], torch.nn.Conv2d) and isinstance(modules["conv1.1"], torch.nn.BatchNorm2d)
    usual, folded = (told(lesson(weights, arithmetic=Arithmetic(folded=one), **fields), store) for one in (False, True))
    (name,) = usual
    torch.testing.assert_close(folded[name], usual[name])


def test_one_teacher_answers_students_of_all_kinds_and_is_itself_unchanged(store: Store, weights: str) -> None:
    teacher = Teacher(NETWORK, weights, SOURCE, stored=store.get(weights), device=CPU)
    before = {name: value.clone() for name, value in teacher._network.state_dict().items()}
    tasks = [lesson(weights, arithmetic=one) for one in (Arithmetic(), *OTHERWISE, Arithmetic())]
    asked = [lesson_request(task, DatasetFeed(task), task.teachers[0], 0) for task in tasks]
    answers = [teacher.answer(one) for one in asked]
    assert [answer.is_cached for answer in answers] == [False] * 5 + [True]
    state = teacher._network.state_dict()
    assert before.keys() == state.keys() and all(torch.equal(before[name], state[name]) for name in before)


def test_a_lesson_is_taught_so_and_says_it(store: Store, weights: str) -> None:
    def result(arithmetic: Arithmetic) -> TaskResult:
        task = lesson(weights, arithmetic=arithmetic)
        return execute(
            task,
            Surroundings(store, CPU, lesson=lambda task, feed, steps: DirectLesson(task, feed, store=store, device=CPU)),
        )

    usual, other, again = (result(one) for one in (Arithmetic(), OTHERWISE[-1], OTHERWISE[-1]))
    assert usual.weights != other.weights == again.weights


@pytest.mark.parametrize("arithmetic", OTHERWISE, ids=HOW)
def test_an_evaluation_computes_so(store: Store, weights: str, arithmetic: Arithmetic) -> None:
    def result(one: Arithmetic) -> TaskResult:
        task = Evaluate(architecture=NETWORK, data=SOURCE, initial_weights=weights, arithmetic=one)
        return execute(task, Surroundings(store, CPU))

    usual, other, again = result(Arithmetic()), result(arithmetic), result(arithmetic)
    assert other.miou == pytest.approx(usual.miou, abs=0.1)
    assert (other.miou, other.predictions) == (again.miou, again.predictions)
    maps = [tensors.decode(store.get(one.predictions)) for one in (usual, other)]
    assert all((maps[0][name] == maps[1][name]).float().mean() > 0.8 for name in maps[0])


def same(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("family", ["pidnet_s", "unet", "cnn_i2i_bisenet"])
def test_a_training_laid_out_by_pixels_goes_on_from_a_checkpoint_with_the_same_bits(
    family: str, optimizer: Any, tmp_path: Path
) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(result: EpochResult) -> None:
        if result.epoch == 2:
            raise Interrupted

    recipe = Recipe(epochs=2, batch_size=2, optimizer=optimizer, channels_last=True)
    usual, whole = training(family, recipe.replace(channels_last=False)), training(family, recipe)
    assert whole.losses[0] == pytest.approx(usual.losses[0], rel=1e-3)
    assert all(value.is_contiguous() for value in whole.weights.values())
    place = tmp_path / "checkpoint"
    with pytest.raises(Interrupted):
        training(family, recipe, checkpoint=place, hooks=Hooks(on_epoch=interrupt))
    resumed = training(family, recipe, checkpoint=place)
    assert resumed.losses == whole.losses and same(resumed.weights, whole.weights)


def test_what_an_optimizer_remembers_is_laid_out_as_its_parameters_after_a_checkpoint() -> None:
    """Fused optimizers go through both by their place in memory."""
    network = arranged(torch.nn.Conv2d(4, 8, 3), Recipe(channels_last=True))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.randn(1, 4, 8, 8)).sum().backward()
    optimizer.step()
    saved = optimizer.state_dict()
    saved["state"] = {index: {name: v.contiguous() for name, v in slots.items()} for index, slots in saved["state"].items()}
    optimizer.load_state_dict(saved)
    before = [slots["momentum_buffer"].clone() for slots in optimizer.state.values()]
    assert optimizer.state[network.weight]["momentum_buffer"].stride() != network.weight.stride()
    follow_layout({"main": optimizer})
    assert optimizer.state[network.weight]["momentum_buffer"].stride() == network.weight.stride()
    assert all(torch.equal(slots["momentum_buffer"], one) for slots, one in zip(optimizer.state.values(), before, strict=True))


def test_a_validation_in_bfloat16_changes_no_weight() -> None:
    recipe = Recipe(epochs=2, batch_size=2, keep="last")
    usual, other = (training("unet", recipe.replace(validation_precision=one)) for one in ("float32", "bfloat16"))
    assert same(usual.weights, other.weights) and usual.losses == other.losses
    assert other.scores.miou == pytest.approx(usual.scores.miou, abs=0.1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_compiled_training_has_the_names_and_nearly_the_numbers_of_another_and_the_same_bits_again() -> None:
    recipe = Recipe(epochs=1, batch_size=2)
    feed = Drawn(size=(64, 64))
    usual, first, second = (
        training("unet", recipe.replace(compiled=one), settings={"base": 8, "depth": 1}, feed=feed) for one in (False, True, True)
    )
    assert usual.weights.keys() == first.weights.keys()
    assert first.losses == pytest.approx(usual.losses, rel=1e-3)
    assert same(first.weights, second.weights)


def test_nobody_looks_into_a_compiled_student() -> None:
    with pytest.raises(ValidationError, match="nobody can look into a compiled network"):
        lesson("ab" * 32, objectives=(Features({"layer3": "layer3"}),)).replace(recipe=RECIPE.replace(compiled=True))
    assert lesson("ab" * 32).replace(recipe=RECIPE.replace(compiled=True)).recipe.compiled


def test_students_that_teach_each_other_compute_as_they_learn() -> None:
    partner = Partner(architecture=NETWORK, recipe=RECIPE, seed=9)
    fields: dict[str, Any] = {"architecture": NETWORK, "data": SOURCE, "recipe": RECIPE, "partners": (partner,)}
    assert Mutual(**fields, distillation=Distillation()).partners
    with pytest.raises(ValidationError, match="leave arithmetic out"):
        Mutual(**fields, distillation=Distillation(arithmetic=Arithmetic(folded=True)))


@pytest.mark.parametrize("wrong", [{"folded": 1}, {"channels_last": "yes"}, {"precision": "float16"}, {"fast": True}])
def test_what_it_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Arithmetic.model_validate(wrong)
