"""What a guest hands in: it is recorded only if it can be the result of its task."""

import contextlib
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
from agentkd.coordinator.hearsay import check_history
from agentkd.coordinator.inspecting import MAX_HEADER_BYTES, inspect, max_bytes
from agentkd.datasets.opening import open_dataset
from agentkd.errors import DatasetError, ResultError
from agentkd.exchange.pieces import MAX_PIECE_BYTES
from agentkd.knowledge import tensors
from agentkd.knowledge.weights import encode_weights, read_metadata
from agentkd.names import Digest
from agentkd.networks.build import build
from agentkd.networks.families import resolve
from agentkd.objectives import Own
from agentkd.recipe import Distillation, Recipe, ViewSettings
from agentkd.task import (
    Assess,
    Average,
    Consolidate,
    DataSource,
    Distill,
    EpochResult,
    Evaluate,
    ExchangeSummary,
    FeatureMaps,
    Pack,
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
        Pack(architecture=NETWORK, data=DATA, what="data", splits=("train", "validation")),
    ]
    return store, found | {type(task): (task, execute(task, at)) for task in others}


@pytest.mark.parametrize("kind", [Train, Evaluate, Assess, FeatureMaps, Consolidate, Average, Pack])
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


def test_a_classifiers_accuracy_is_measured_and_who_is_older_says_none(tmp_path: Path) -> None:
    store, at = Store(tmp_path), Surroundings(Store(tmp_path), torch.device("cpu"))
    network = resolve("tiny_networks:classifier", 5, {"width": 8})
    task = TRAIN.replace(architecture=network, recipe=RECIPE.replace(epochs=2))
    honest = execute(task, at)
    recorded = inspect(task, honest, store)
    assert honest.accuracy is not None and recorded.accuracy == honest.accuracy and recorded.best_epoch == honest.best_epoch
    assert [epoch.accuracy for epoch in recorded.history] == [epoch.accuracy for epoch in honest.history]
    older = honest.replace(accuracy=None, history=tuple(epoch.replace(accuracy=None) for epoch in honest.history))
    best = max(older.history, key=lambda epoch: (epoch.miou or 0, -epoch.epoch)).epoch
    if best == honest.best_epoch:
        assert inspect(task, older, store).accuracy == honest.accuracy
    better = honest.replace(accuracy=min(1.0, honest.accuracy + 0.5) if honest.accuracy < 0.5 else 0.0)
    dense = execute(TRAIN, at)
    claims = tuple(epoch.replace(accuracy=0.9) for epoch in dense.history)
    for wrong, done in (
        (better, task),
        (dense.replace(accuracy=0.9, history=claims), TRAIN),
        (dense.replace(history=claims), TRAIN),
    ):
        with pytest.raises(ResultError, match="accuracy"):
            inspect(done, wrong, store)
    look: dict[str, Any] = {"architecture": network, "data": DATA, "initial_weights": honest.weights}
    for kind in (Evaluate(**look), Assess(**look)):
        made = execute(kind, at)
        said = made.replace(accuracy=None, competence=made.competence and made.competence.replace(accuracy=None))
        assert inspect(kind, said, store) == inspect(kind, made, store) == made


@pytest.mark.parametrize("what", ["data", "architecture"])
def test_a_piece_that_is_packed_is_the_one_that_is_packed_here(done: Any, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = done
    task = Pack(architecture=NETWORK, data=DATA, what=what, splits=("train",) if what == "data" else ())
    honest = execute(task, Surroundings(store, torch.device("cpu")))
    other = task.replace(**{"splits": ("test",)} if what == "data" else {"architecture": OTHER})
    made_up = execute(other, Surroundings(store, torch.device("cpu"))).knowledge
    weights = store.put(weights_of(untouched))
    assert inspect(task, honest, store) == honest
    with monkeypatch.context() as patch:
        for _ in range(2):  # with the dataset at hand, and without
            for wrong in (made_up, weights):
                with pytest.raises(ResultError):
                    inspect(task, honest.replace(knowledge=wrong), store)
            patch.setattr("agentkd.agents.packing.open_source", not_here)


def not_here(source: DataSource) -> None:
    raise DatasetError(source.spec, "is not here")


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
    uncounted = {"trace": "", "images_per_s": 0.0}  # nobody knows here how many steps there were
    assert inspect(elsewhere, invented, store) == invented.replace(**uncounted)
    counted = inspect(elsewhere, invented.replace(num_parameters_deploy=1, uncounted_operations=("\x1b",)), store)
    assert (counted.num_parameters_deploy, counted.uncounted_operations) == (result.num_parameters_deploy, ())
    with pytest.raises(ResultError, match="differs"):
        inspect(elsewhere, result.replace(weights=store.put(weights_of(lacking))), store)


THREE = TRAIN.replace(recipe=RECIPE.replace(epochs=3, learning_rate=0.05))


@pytest.fixture(scope="module")
def three(done: Any) -> TaskResult:
    """An honest result of three epochs."""
    store, _ = done
    return execute(THREE, Surroundings(store, torch.device("cpu")))


def in_history(result: TaskResult, number: int, **change: Any) -> TaskResult:
    """The same with something else in one epoch, counted from 1."""
    history = [epoch.replace(**change) if epoch.epoch == number else epoch for epoch in result.history]
    return result.replace(history=tuple(history))


def test_a_history_names_weights_only_where_they_are_those_that_were_handed_in(done: Any, three: TaskResult) -> None:
    store, _ = done
    best = three.best_epoch
    found = inspect(THREE, three, store)
    expected = tuple(epoch if epoch.epoch == best else epoch.replace(weights="") for epoch in three.history)
    assert found == three.replace(history=expected) and found.history[best - 1].weights
    invented = in_history(three, best, weights="ab" * 32, seconds=1e300)
    assert [(epoch.weights, epoch.seconds <= 1e9) for epoch in inspect(THREE, invented, store).history] == [("", True)] * 3


@pytest.mark.parametrize("loss", [-1e300, 1e300, -1.0])
def test_a_loss_that_the_task_cannot_have_is_refused(done: Any, three: TaskResult, loss: float) -> None:
    store, _ = done
    for result in (in_history(three, 1, loss=loss), in_history(three.replace(trace=""), 1, loss=loss)):
        with pytest.raises(ResultError, match="loss of"):
            inspect(THREE, result, store)


def test_an_own_objective_may_be_below_zero_and_what_is_built_in_may_not(done: Any) -> None:
    _, results = done
    teacher = TeacherReference(architecture=NETWORK, weights=results[Train][1].weights)
    own = Distillation(objectives=(Own(path="mine:objective", code="ab" * 32),))
    for distillation, is_refused in ((own, False), (Distillation(), True)):
        lesson = Distill(architecture=NETWORK, data=DATA, recipe=RECIPE, teachers=(teacher,), distillation=distillation)
        result = in_history(results[Train][1], 1, loss=-1.0)
        with pytest.raises(ResultError, match="loss of -1") if is_refused else contextlib.nullcontext():
            check_history(lesson, result)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_no_epoch_of_a_history_is_above_what_was_measured(done: Any, three: TaskResult, share: float) -> None:
    store, _ = done
    for best in (three.best_epoch, 0):
        with pytest.raises(ResultError, match=r"mIoU|best epoch"):
            inspect(THREE, in_history(three, 1, miou=0.99).replace(best_epoch=best), store, share=share)
    last = THREE.replace(recipe=THREE.recipe.replace(keep="last"))
    result = in_history(execute(last, Surroundings(store, torch.device("cpu"))), 1, miou=0.99)
    assert inspect(last, result, store, share=share).history[0].miou is None, "of weights that nobody has here"
    with pytest.raises(ResultError, match="epoch 3, whose weights are handed in"):
        inspect(last, in_history(result, 3, miou=0.99), store, share=share)


def test_what_a_history_says_of_the_weights_is_recorded_as_it_is_measured(done: Any) -> None:
    store, results = done
    task, result = results[Train]
    near = in_history(result, 1, miou=result.miou - 0.009).replace(best_epoch=0)
    assert inspect(task, near, store) == result
    with pytest.raises(ResultError, match="its history has an mIoU"):
        inspect(task, in_history(result, 1, miou=0.0), store)


def test_an_epoch_that_the_recipe_does_not_validate_has_no_score_and_each_other_one_has(done: Any, three: TaskResult) -> None:
    store, _ = done
    with pytest.raises(ResultError, match="no mIoU of epoch 2"):
        inspect(THREE, in_history(three, 2, miou=None), store)
    seldom = THREE.replace(recipe=THREE.recipe.replace(validate_every=2))
    result = execute(seldom, Surroundings(store, torch.device("cpu")))
    assert [epoch.miou is None for epoch in result.history] == [True, False, False]
    assert inspect(seldom, in_history(result, 1, miou=0.0), store).history[0].miou is None


def test_a_training_is_pruned_where_its_history_is_below_the_bound_and_nowhere_else(done: Any, three: TaskResult) -> None:
    store, _ = done
    free, low = (THREE.replace(prune_below=bounds) for bounds in ((0.0, 1e-9), (0.0, 0.999)))
    assert inspect(free, three, store).status is Status.COMPLETED
    pruned = execute(low, Surroundings(store, torch.device("cpu")))
    assert inspect(low, pruned, store).status is Status.PRUNED and pruned.epochs == 2
    cut = pruned.replace(status=Status.PRUNED)
    for task, result in (
        (free, cut),
        (free, three.replace(status=Status.PRUNED)),
        (low, three),
        (low, three.replace(status=Status.PRUNED)),
        (low, pruned.replace(epochs=1, history=pruned.history[:1], best_epoch=1, trace="")),
    ):
        with pytest.raises(ResultError, match="by prune_below and its own history"):
            inspect(task, result, store)


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "ab" * 32},
        {"trace": "ab" * 32},
        {"miou": 0.99},
        {"epochs": 1},
        {"exchange": ExchangeSummary()},
        {"class_iou": (1.0,)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_with_what_is_infeasible_comes_nothing_else(done: Any, change: dict[str, Any]) -> None:
    store, _ = done
    task = TRAIN.replace(max_deploy_parameters=1)
    honest = execute(task, Surroundings(store, torch.device("cpu")))
    assert inspect(task, honest, store) == honest
    said = honest.replace(error_code="storage", error_text="\x1b[2J", num_parameters_deploy=1, seconds=1e300)
    assert inspect(task, said, store) == honest
    with pytest.raises(ResultError, match=next(iter(change))):
        inspect(task, honest.replace(**change), store)


def test_what_is_infeasible_is_found_by_what_is_counted_here(done: Any, tmp_path: Path) -> None:
    store, results = done
    _, result = results[Train]
    elsewhere = DataSource(spec=f"folder:path={tmp_path / 'nothing'}", content_digest="d")
    nothing = TaskResult(status=Status.INFEASIBLE, num_macs=2**40, num_parameters_deploy=2**40)
    task = TRAIN.replace(data=elsewhere, max_num_macs=result.num_macs, max_deploy_parameters=10**9)
    with pytest.raises(ResultError, match="can only be completed"):
        inspect(task, nothing, store)
    with pytest.raises(ResultError, match="the task allows"):
        inspect(task, result.replace(num_macs=2**40), store)
    assert inspect(task.replace(max_deploy_parameters=1), nothing, store).status is Status.INFEASIBLE


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_class_maps_of_an_evaluation_are_made_here(done: Any, tmp_path: Path, share: float) -> None:
    store, results = done
    task, result = results[Evaluate]
    maps = tensors.decode(store.get(result.predictions))
    others = store.put(tensors.encode({name: (value + 1) % 5 for name, value in maps.items()}, {"kind": "predictions"}))
    for said in (others, store.put(b"garbage"), "cd" * 32, ""):
        assert inspect(task, result.replace(predictions=said), store, share=share) == result
    elsewhere = task.replace(data=DataSource(spec=f"folder:path={tmp_path / 'nothing'}", content_digest="d"))
    assert inspect(elsewhere, result.replace(predictions=others), store, share=share).predictions == ""


@pytest.mark.parametrize(
    "trace",
    [
        {"loss": torch.zeros(100_000, dtype=torch.float64)},
        {"x": torch.zeros(1)},
        {},
        {"loss": torch.zeros(1)},
        "more",
        "garbage",
        "others",
    ],
    ids=str,
)
def test_a_trace_has_the_loss_of_each_step_and_nothing_else(done: Any, three: TaskResult, trace: Any) -> None:
    store, _ = done
    losses = tensors.decode(store.get(three.trace))["loss"]
    made = (
        {"more": {"loss": losses, "x": torch.zeros(1)}, "others": {"loss": losses + 0.1}}.get(trace, trace)
        if str(trace) == trace
        else trace
    )
    data = b"garbage" if trace == "garbage" else tensors.encode(made)
    with pytest.raises(ResultError, match=r"trace|no result of this task"):
        inspect(THREE, three.replace(trace=store.put(data)), store)
    assert inspect(THREE, three.replace(trace=""), store).trace == ""
    slightly = store.put(tensors.encode({"loss": losses * (1 + 1e-4)}))
    with pytest.raises(ResultError, match="and its trace"):
        inspect(THREE, three.replace(trace=slightly), store)
    renamed = store.put(tensors.encode({"loss": losses}, {"kind": "evil"}))
    assert inspect(THREE, three.replace(trace=renamed), store).trace == three.trace


def test_what_crossed_the_wire_is_told_of_lessons_alone_and_within_their_steps(done: Any) -> None:
    store, results = done
    task, result = results[Train]
    assert inspect(task, result.replace(exchange=ExchangeSummary(requests=1)), store) == result
    teacher = TeacherReference(architecture=NETWORK, weights=result.weights)
    lesson = Distill(architecture=NETWORK, data=DATA, recipe=RECIPE, teachers=(teacher,), distillation=Distillation())
    steps = len(tensors.decode(store.get(result.trace))["loss"])
    good = ExchangeSummary(requests=steps, bytes_received=10**6, cached=1, teacher_s=1.0)
    assert inspect(lesson, result.replace(exchange=good), store).exchange == good
    most = good.replace(bytes_received=steps * MAX_PIECE_BYTES)
    assert inspect(lesson, result.replace(exchange=most), store).exchange == most
    for change in (
        {"requests": 10**15},
        {"cached": steps + 1},
        {"recorded": 10**6},
        {"bytes_received": 10**15},
        {"bytes_received": steps * MAX_PIECE_BYTES + 1},
        {"teacher_s": 1e300},
        {"waited_s": 1e300},
    ):
        assert inspect(lesson, result.replace(exchange=good.replace(**change)), store).exchange is None


def test_surroundings_times_and_memory_are_short_and_possible_and_a_result_is_no_error(done: Any) -> None:
    store, results = done
    task, result = results[Train]
    said = {f"k{number}\n\x1b" + "y" * 1000: "x" * 60_000 for number in range(1000)}
    found = inspect(task, result.replace(environment=said, error_code="storage", error_text="\x1b]0;x"), store)
    assert len(str(found.environment)) < 20_000 and "\x1b" not in str(found.environment)
    assert (found.error_code, found.error_text) == ("", "")
    found = inspect(task, result.replace(seconds=1e308, images_per_s=1e308, peak_memory_bytes=2**62), store)
    assert (found.seconds, found.images_per_s, found.peak_memory_bytes) == (0.0, 0.0, 0)
    assert inspect(task, result.replace(images_per_s=1e9), store) == result
    assert not any("\x1b" in text or "\n" in text for entry in found.environment.items() for text in entry)
    names = inspect(task, result.replace(environment={"a\x1b[2J": "b\x9b"}), store).environment
    assert names == {"a\\x1b[2J": "b\\x9b"}
    for seconds in (1e-300, 1e-12):
        assert inspect(task, result.replace(seconds=seconds), store).images_per_s == 0.0, "nobody is so fast"
    slow = inspect(task, result.replace(seconds=2.0), store).images_per_s
    assert slow == pytest.approx(inspect(task, result.replace(seconds=1.0), store).images_per_s / 2) and slow > 0


@pytest.mark.parametrize(
    "change",
    [
        {"predicted": (1.0, 0.0, 0.0, 0.0, 0.0, 0.0)},
        {"class_iou": (0.5,) * 6},
        {"energies": (1.0, 2.0)},
        {"known_fraction": 0.5},
        {"calibration_error": None},
        {"predicted": (1.0,) * 5},
        {"predicted": (0.1,) * 5},
        {"split": "test"},
    ],
    ids=str,
)
def test_competence_is_of_the_task_also_where_it_is_not_made_again(done: Any, change: dict[str, Any]) -> None:
    store, results = done
    task, result = results[Assess]
    with pytest.raises(ResultError, match="competence"):
        inspect(task, result.replace(competence=result.competence.replace(**change)), store, share=0.0)


def test_knowledge_is_of_the_task_and_in_our_form_also_where_it_is_not_made_again(done: Any) -> None:
    store, results = done
    for kind in (FeatureMaps, Consolidate):
        task, result = results[kind]
        made = tensors.decode(store.get(result.knowledge))
        other_form = store.put(tensors.encode(made, {"kind": "evil"}))
        assert inspect(task, result.replace(knowledge=other_form), store, share=0.0) == result
        name = next(iter(made))
        for wrong in (
            made | {"x": torch.zeros(1)},
            made | {name: made[name].double() if kind is FeatureMaps else -made[name] - 1},
            made | {name: -made[name] - 1} if kind is Consolidate else {name: made[name][:0]},
        ):
            with pytest.raises(ResultError):
                inspect(task, result.replace(knowledge=store.put(tensors.encode(wrong))), store, share=0.0)


def test_what_is_small_everywhere_is_compared_by_its_own_size(done: Any) -> None:
    store, results = done
    _, result = results[Train]
    small = {
        name: value * 1e-4 if value.is_floating_point() else value
        for name, value in tensors.decode(store.get(result.weights)).items()
    }
    teacher = TeacherReference(architecture=NETWORK, weights=store.put(encode_weights(NETWORK, small)))
    task = Average(architecture=NETWORK, data=DATA, teachers=(teacher,))
    honest = execute(task, Surroundings(store, torch.device("cpu")))
    assert inspect(task, honest, store) == honest
    with pytest.raises(ResultError, match="from what comes out here"):
        inspect(task, honest.replace(weights=zeroed(store, honest.weights)), store)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_weights_are_recorded_with_their_architecture_and_classes_whatever_a_guest_writes(done: Any, share: float) -> None:
    store, results = done
    task, result = results[Train]
    state = tensors.decode(store.get(result.weights))
    metadata = {"kind": "weights", "architecture": NETWORK.canonical()}
    for said in (
        None,
        {"kind": "weights"},
        metadata,
        {"classes": list(open_dataset(SPEC).classes)},
        metadata | {"evil": "x" * 1000},
    ):
        assert inspect(task, result.replace(weights=store.put(tensors.encode(state, said))), store, share=share) == result
    assert read_metadata(store.get(result.weights)).classes == open_dataset(SPEC).classes


def test_weights_of_classes_are_recorded_as_they_are_here_whatever_a_guest_says(done: Any) -> None:
    store, results = done
    task, result = results[Train]
    assert inspect(task, result.replace(class_weights=(1.0, 2.0)), store).class_weights == ()
    weighed = task.replace(recipe=task.recipe.replace(class_weights="inverse"))
    honest = execute(weighed, Surroundings(store, torch.device("cpu")))
    assert len(honest.class_weights) == NETWORK.num_classes
    for said in ((), (1.0,) * NETWORK.num_classes, honest.class_weights):
        assert inspect(weighed, honest.replace(class_weights=said), store).class_weights == honest.class_weights
