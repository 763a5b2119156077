"""What a guest hands in: it is recorded only if it can be the result of its task."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from experiments import SPEC
from pydantic import ValidationError

from agentkd.agents.work import Surroundings, execute
from agentkd.artifacts.store import Store
from agentkd.coordinator import inspecting
from agentkd.coordinator.inspecting import MAX_HEADER_BYTES, inspect, max_bytes
from agentkd.datasets.opening import open_dataset
from agentkd.errors import ResultError
from agentkd.knowledge import tensors
from agentkd.knowledge.weights import encode_weights
from agentkd.names import Digest
from agentkd.networks.build import build
from agentkd.networks.families import resolve
from agentkd.recipe import Recipe, ViewSettings
from agentkd.task import (
    Assess,
    Average,
    Consolidate,
    DataSource,
    EpochResult,
    Evaluate,
    ExchangeSummary,
    FeatureMaps,
    Status,
    Task,
    TaskResult,
    TeacherReference,
    Train,
)

NETWORK, OTHER = (resolve("tiny_networks:tiny", 5, {"width": width}) for width in (8, 12))
DATA = DataSource(spec=SPEC, content_digest=open_dataset(SPEC).digest)
RECIPE = Recipe(epochs=1, batch_size=4, views=ViewSettings(crop_height=32, crop_width=32))
TRAIN = Train(architecture=NETWORK, data=DATA, recipe=RECIPE)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[type[Task], tuple[Task, TaskResult]]]:
    """A task of each kind that needs no teacher, with its honest result."""
    store = Store(tmp_path_factory.mktemp("store"))
    at = Surroundings(store, torch.device("cpu"))
    found: dict[type[Task], tuple[Task, TaskResult]] = {Train: (TRAIN, execute(TRAIN, at))}
    weights = found[Train][1].weights
    look: dict[str, Any] = {"architecture": NETWORK, "data": DATA, "initial_weights": weights}
    others: list[Task] = [
        Evaluate(**look),
        Assess(**look),
        FeatureMaps(**look, views=((0, 0),), view_settings=RECIPE.views, taps=()),
        Consolidate(**look),
        Average(architecture=NETWORK, data=DATA, teachers=(TeacherReference(architecture=NETWORK, weights=weights),)),
    ]
    return store, found | {type(task): (task, execute(task, at)) for task in others}


@pytest.mark.parametrize("kind", [Train, Evaluate, Assess, FeatureMaps, Consolidate, Average])
def test_an_honest_result_is_recorded_as_it_is(done: Any, kind: type[Task]) -> None:
    store, results = done
    task, result = results[kind]
    assert inspect(task, result, store) == result


def test_what_can_be_counted_here_is_counted_here(done: Any) -> None:
    store, results = done
    task, result = results[Train]
    assert inspect(task, result.replace(num_parameters_deploy=1, num_macs=0), store) == result


def test_every_artifact_of_an_honest_result_is_within_its_limit_and_the_limit_goes_with_the_network(done: Any) -> None:
    store, made = done
    for task, result in made.values():
        sizes = [store.path(digest).stat().st_size for digest in result.artifacts]
        assert all(size <= max_bytes(task, store) - MAX_HEADER_BYTES // 2 for size in sizes), type(task).__name__
    task, result = made[Train]
    numbers = sum(4 * tensor.numel() for tensor in build(task.architecture).state_dict().values())
    assert MAX_HEADER_BYTES + 2 * numbers <= max_bytes(task, store) < MAX_HEADER_BYTES + 3 * numbers


def test_a_networks_size_is_counted_once_for_each_dataset(done: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store, results = done
    counted: list[Task] = []
    monkeypatch.setattr(inspecting, "_counted", {})
    monkeypatch.setattr(inspecting, "MAX_COUNTED", 1)
    monkeypatch.setattr(inspecting, "sizes", lambda task: counted.append(task) or {"num_macs": len(counted)})
    task, result = results[Evaluate]
    elsewhere = task.replace(data=task.data.replace(train="validation"))
    assert [inspect(one, result, store, share=0).num_macs for one in (task, task, elsewhere, task)] == [1, 1, 2, 3]


def weights_of(change: Callable[[dict[str, torch.Tensor]], None], architecture: Any = NETWORK) -> bytes:
    state = {name: value.clone() for name, value in build(architecture, seed=3).state_dict().items()}
    change(state)
    return encode_weights(architecture, state)


def untouched(state: dict[str, torch.Tensor]) -> None: ...


def lacking(state: dict[str, torch.Tensor]) -> None:
    del state[next(iter(state))]


def infinite(state: dict[str, torch.Tensor]) -> None:
    next(iter(state.values())).view(-1)[0] = torch.inf


def doubled(state: dict[str, torch.Tensor]) -> None:
    name = next(iter(state))
    state[name] = state[name].double()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"no weights", "is no result of this task"),
        (weights_of(untouched, OTHER), "differs"),
        (weights_of(lacking), "differs"),
        (weights_of(doubled), "differs"),
        (tensors.encode({"loss": torch.ones(3)}, {}), "another architecture"),
        (weights_of(infinite), "NaN or infinite"),
        (weights_of(untouched), "says an mIoU of 99.00 %, and here these weights have"),
    ],
    ids=["junk", "another network's", "one is missing", "another type", "a trace", "not finite", "invented"],
)
def test_weights_that_are_not_what_was_said_are_refused(done: Any, data: bytes, told: str) -> None:
    store, results = done
    task, result = results[Train]
    with pytest.raises(ResultError, match=told):
        inspect(task, result.replace(weights=store.put(data), miou=0.99), store)


@pytest.mark.parametrize(
    "change",
    [
        {"weights": ""},
        {"status": Status.FAILED},
        {"status": Status.PRUNED},
        {"status": Status.INFEASIBLE},
        {"knowledge": "ab" * 32},
        {"weights": "cd" * 32},
        {"exchange": ExchangeSummary(record="ab" * 32)},
    ],
    ids=str,
)
def test_a_result_that_this_task_cannot_have_is_refused(done: Any, change: dict[str, Any]) -> None:
    store, results = done
    task, result = results[Train]
    with pytest.raises(ResultError):
        inspect(task, result.replace(**change), store)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (Average, {"weights": ""}),
        (Average, {"weights": "cd" * 32}),
        (Evaluate, {"weights": "cd" * 32}),
        (Assess, {"competence": None}),
        (FeatureMaps, {"knowledge": ""}),
        (FeatureMaps, {"knowledge": "cd" * 32}),
        (Consolidate, {"knowledge": ""}),
        (Consolidate, {"knowledge": "a trace"}),
    ],
    ids=str,
)
def test_so_is_one_of_any_other_kind(done: Any, kind: type[Task], change: dict[str, Any]) -> None:
    store, results = done
    task, result = results[kind]
    if change.get("knowledge") == "a trace":
        change = {"knowledge": results[Train][1].trace}
    with pytest.raises(ResultError):
        inspect(task, result.replace(**change), store)


def test_a_task_with_limits_may_be_infeasible_and_one_with_bounds_pruned_and_only_then(done: Any) -> None:
    store, results = done
    _, result = results[Train]
    for limits in ({"max_deploy_parameters": 1}, {"max_num_macs": 1}):
        task = TRAIN.replace(**limits)
        nothing = TaskResult(status=Status.INFEASIBLE)
        assert inspect(task, nothing, store).num_parameters_deploy == result.num_parameters_deploy
        with pytest.raises(ResultError, match="can only be infeasible"):
            inspect(task, result, store)
    with pytest.raises(ResultError, match="says infeasible"):
        inspect(TRAIN.replace(max_deploy_parameters=10**9), nothing, store)
    at_its_limits = TRAIN.replace(max_deploy_parameters=result.num_parameters_deploy, max_num_macs=result.num_macs)
    assert inspect(at_its_limits, result, store) == result
    pruned = result.replace(status=Status.PRUNED)
    assert inspect(TRAIN.replace(prune_below=(0.9,)), pruned, store) == pruned


def test_a_score_is_believed_within_a_hundredth_and_measured_as_often_as_is_wanted(
    done: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, results = done
    for kind in (Train, Evaluate):
        task, result = results[kind]
        near, far = result.replace(miou=result.miou + 0.009), result.replace(miou=result.miou + 0.011)
        assert inspect(task, near, store) == result, "what is measured here is recorded"
        for wrong in (far, result.replace(miou=result.miou - 0.011)):
            with pytest.raises(ResultError, match="or made it up"):
                inspect(task, wrong, store)
        assert inspect(task, far, store, share=0.0) == far
        monkeypatch.setattr(inspecting._lot, "random", lambda: 0.5)
        assert inspect(task, far, store, share=0.5) == far
        with pytest.raises(ResultError, match="or made it up"):
            inspect(task, far, store, share=0.51)
        monkeypatch.undo()


def zeroed(store: Store, digest: Digest) -> Digest:
    """The same artifact with numbers that are all nothing."""
    data = store.get(digest)
    state = {name: torch.zeros_like(value) for name, value in tensors.decode(data).items()}
    return store.put(tensors.encode(state, tensors.read_metadata(data)))


def test_an_average_is_made_again_whatever_is_measured(done: Any) -> None:
    store, results = done
    task, result = results[Average]
    assert inspect(task, result.replace(miou=0.99, epochs=7), store) == result, "it has no score, and no epochs"
    invented = result.replace(weights=zeroed(store, result.weights), miou=0.99)
    elsewhere = task.replace(data=DataSource(spec="folder:path=nothing", content_digest="d"))
    for one in (task, elsewhere):
        with pytest.raises(ResultError, match="from what comes out here"):
            inspect(one, invented, store, share=0.0)


@pytest.mark.parametrize("kind", [FeatureMaps, Consolidate])
def test_knowledge_that_does_not_come_out_here_is_refused(done: Any, kind: type[Task]) -> None:
    store, results = done
    task, result = results[kind]
    with pytest.raises(ResultError, match="from what comes out here"):
        inspect(task, result.replace(knowledge=zeroed(store, result.knowledge)), store)
    with pytest.raises(ResultError):
        inspect(task, result.replace(knowledge=store.put(tensors.encode({"evil": torch.zeros(3)}))), store)


@pytest.mark.parametrize(
    "change",
    [
        {"weights": Digest("0" * 64)},
        {"dataset": Digest("d")},
        {"split": "validation\x9b"},
        {"num_images": 1},
        {"known_fraction": 0.99},
        {"miou": 1.0},
        {"miou": None},
        {"predicted": (1.0,)},
        {"predicted": (1.0, 0.0, 0.0, 0.0, 0.0)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_competence_that_does_not_come_out_here_is_refused(done: Any, change: dict[str, Any]) -> None:
    store, results = done
    task, result = results[Assess]
    with pytest.raises(ResultError, match="competence"):
        inspect(task, result.replace(competence=result.competence.replace(**change)), store)


def test_what_is_measured_is_recorded_as_it_is_here(done: Any) -> None:
    store, results = done
    task, result = results[Train]
    invented = result.replace(class_iou=(1.0,) * 5, one_class_miou=0.0, environment={"device": "\x1b[31mcpu"})
    found = inspect(task, invented, store)
    assert (found.class_iou, found.one_class_miou) == (result.class_iou, result.one_class_miou)
    assert "\x1b" not in found.environment["device"]


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 10**9},
        {"history": ()},
        {"history": (EpochResult(epoch=7, loss=1.0, seconds=1.0),)},
        {"best_epoch": 2},
    ],
    ids=["epochs", "none", "another number", "best"],
)
def test_a_history_that_the_recipe_does_not_have_is_refused(done: Any, change: dict[str, Any]) -> None:
    store, results = done
    task, result = results[Train]
    with pytest.raises(ResultError, match="epoch"):
        inspect(task, result.replace(**change), store)


def test_weights_that_say_they_are_of_another_network_or_other_classes_are_refused(done: Any) -> None:
    store, results = done
    task, result = results[Train]
    state = tensors.decode(store.get(result.weights))
    classes = open_dataset(SPEC).classes
    for architecture, names in ((OTHER, classes), (NETWORK, classes[::-1])):
        weights = store.put(encode_weights(architecture, state, names))
        with pytest.raises(ResultError, match=r"another architecture|classes"):
            inspect(task, result.replace(weights=weights), store, share=0.0)


@pytest.mark.parametrize(
    "field", ["epochs", "best_epoch", "num_parameters_total", "num_macs", "seconds", "images_per_s", "peak_memory_bytes"]
)
def test_no_result_says_less_than_nothing(field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        TaskResult.model_validate({"status": "completed", field: -1})


def test_without_the_dataset_the_weights_are_looked_at_all_the_same(done: Any, tmp_path: Path) -> None:
    store, results = done
    _, result = results[Train]
    elsewhere = TRAIN.replace(data=DataSource(spec=f"folder:path={tmp_path / 'nothing'}", content_digest="d"))
    invented = result.replace(miou=0.5)
    assert inspect(elsewhere, invented, store) == invented
    with pytest.raises(ResultError, match="differs"):
        inspect(elsewhere, result.replace(weights=store.put(weights_of(lacking))), store)
