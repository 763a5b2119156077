"""What a search asks of a task, carried out: limits and inherited weights of lessons, and latency, also as a guest says it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from experiments import SPEC
from pydantic import ValidationError

from agentkd.agents.lessons import DirectLesson
from agentkd.agents.work import Surroundings, execute
from agentkd.artifacts.store import Store
from agentkd.coordinator.inspecting import inspect
from agentkd.datasets.opening import open_dataset
from agentkd.errors import ResultError
from agentkd.knowledge.weights import encode_weights
from agentkd.networks.build import build
from agentkd.networks.families import resolve
from agentkd.recipe import Distillation, Recipe, ViewSettings
from agentkd.task import DataSource, Distill, Status, TaskResult, TeacherReference, Train
from agentkd.training.loop import Hooks

CPU = torch.device("cpu")
NETWORK, TEACHER, CHILD = (resolve("tiny_networks:tiny", 5, {"width": width}) for width in (8, 12, 10))
WORK: dict[str, Any] = {
    "architecture": NETWORK,
    "data": DataSource(spec=SPEC, content_digest=open_dataset(SPEC).digest),
    "recipe": Recipe(epochs=3, batch_size=4, learning_rate=0.05, views=ViewSettings(crop_height=32, crop_width=32)),
    "seed": 1,
    "view_seed": 2,
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def lesson(store: Store, **fields: Any) -> Distill:
    weights = store.put(encode_weights(TEACHER, dict(build(TEACHER, seed=1).state_dict())))
    teacher = TeacherReference(architecture=TEACHER, weights=weights)
    return Distill(**WORK | fields, teachers=(teacher,), distillation=Distillation())


def done(task: Train | Distill, store: Store, heard: list[object] | None = None) -> TaskResult:
    def make(task: Any, feed: Any, steps: int) -> DirectLesson:
        if heard is not None:
            heard.append(task)
        return DirectLesson(task, feed, store=store, device=CPU)

    return execute(task, Surroundings(store, CPU, lesson=make))


def test_a_lesson_below_its_bound_is_pruned(store: Store) -> None:
    result = done(lesson(store, prune_below=(0.0, 0.99, 0.99)), store)
    assert (result.status, result.epochs) == (Status.PRUNED, 2)


@pytest.mark.parametrize("limit", [{"max_deploy_parameters": 10}, {"max_num_macs": 10}])
def test_a_lesson_over_its_limit_is_a_result_before_anybody_teaches(store: Store, limit: dict[str, int]) -> None:
    heard: list[object] = []
    result = done(lesson(store, **limit, measures_latency=True), store, heard)
    assert (result.status, result.epochs, result.weights, result.latency_ms) == (Status.INFEASIBLE, 0, "", 0.0) and not heard


@pytest.mark.parametrize("kind", ["train", "distill"])
def test_a_child_inherits_what_matches_in_a_lesson_too(store: Store, kind: str) -> None:
    parent = store.put(encode_weights(NETWORK, dict(build(NETWORK, seed=7).state_dict())))
    once = {"recipe": WORK["recipe"].replace(epochs=1, keep="last")}

    def trained(**fields: Any) -> TaskResult:
        task = Train(**WORK | once | fields) if kind == "train" else lesson(store, **once | fields)
        return done(task, store)

    fresh, inherited, again = trained(), trained(pretrained=parent), trained(pretrained=parent)
    assert inherited.weights == again.weights != fresh.weights
    other = trained(architecture=CHILD, pretrained=parent)
    assert other.status is Status.COMPLETED, "what does not match is left as it was drawn"


@pytest.mark.parametrize("kind", ["train", "distill"])
def test_latency_is_measured_when_asked_and_changes_no_bit(store: Store, kind: str) -> None:
    task = Train(**WORK) if kind == "train" else lesson(store)
    plain, measured = done(task, store), done(task.replace(measures_latency=True), store)
    assert plain.latency_ms == 0.0 and 0 < measured.latency_ms < 10_000
    assert (plain.weights, plain.trace, plain.miou) == (measured.weights, measured.trace, measured.miou)


def test_a_guest_tells_a_latency_where_it_is_asked_for_one_and_nowhere_else(store: Store) -> None:
    plain, asked = Train(**WORK), Train(**WORK, measures_latency=True)
    honest = done(asked, store)
    assert inspect(asked, honest, store).latency_ms == honest.latency_ms
    for task, latency in ((plain, 3.0), (asked, 0.0), (asked, 1e15)):
        with pytest.raises(ResultError, match="it says a latency of"):
            inspect(task, honest.replace(latency_ms=latency), store)


@pytest.mark.parametrize("kind", ["train", "distill"])
def test_what_is_too_slow_ends_before_it_is_trained_and_says_what_it_took(store: Store, kind: str) -> None:
    heard: list[object] = []
    task = Train(**WORK, measures_latency=True) if kind == "train" else lesson(store, measures_latency=True)
    free = done(task, store)
    slow = done(task.replace(max_latency_ms=1e-6), store, heard)
    assert (slow.status, slow.epochs, slow.weights) == (Status.INFEASIBLE, 0, "") and slow.latency_ms > 1e-6 and not heard
    assert "the latency in ms is" in slow.error_text and "above the limit of 1e-06" in slow.error_text
    fast = done(task.replace(max_latency_ms=1e6), store)
    assert (fast.weights, fast.trace, fast.miou) == (free.weights, free.trace, free.miou) and 0 < fast.latency_ms < 1e6


def test_a_training_that_was_begun_was_fast_enough(store: Store, tmp_path: Path) -> None:
    task, place = Train(**WORK, measures_latency=True), tmp_path / "checkpoint"
    whole = execute(task, Surroundings(store, CPU))

    def stop(step: int, steps: int, loss: float) -> None:
        if step == steps // 2:
            raise KeyboardInterrupt

    limited = task.replace(max_latency_ms=1e6)
    with pytest.raises(KeyboardInterrupt):
        execute(limited, Surroundings(store, CPU, checkpoint=place, hooks=Hooks(on_step=stop)))
    assert place.exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agentkd.agents.work.measure_latency_ms", lambda *args, **named: 1e7)
        with_a_slow_device = execute(limited, Surroundings(store, CPU, checkpoint=place))
        anew = execute(limited, Surroundings(store, CPU))
    assert with_a_slow_device.weights == whole.weights and with_a_slow_device.latency_ms == 1e7
    assert anew.status is Status.INFEASIBLE


def test_a_limit_on_what_is_not_measured_is_no_task() -> None:
    with pytest.raises(ValidationError, match="set measures_latency"):
        Train(**WORK, max_latency_ms=3.0)


def test_a_guest_may_say_that_it_was_too_slow_and_by_how_much(store: Store) -> None:
    task = Train(**WORK, measures_latency=True, max_latency_ms=5.0)
    honest = done(task.replace(max_latency_ms=1e-6), store)
    told = inspect(task, honest.replace(latency_ms=7.5, error_text="\x1b[31mmine"), store)
    assert (told.status, told.latency_ms) == (Status.INFEASIBLE, 7.5) and told.num_macs == honest.num_macs
    assert told.error_text == "the latency in ms is 7.5, above the limit of 5"
    for latency in (5.0, 0.0, 1e15):
        with pytest.raises(ResultError, match="can only be"):
            inspect(task, honest.replace(latency_ms=latency), store)
    with pytest.raises(ResultError, match="can only be"):
        inspect(task.replace(max_latency_ms=0.0), honest.replace(latency_ms=7.5), store)


def test_a_guests_lesson_is_held_to_its_limits(store: Store) -> None:
    task = lesson(store, prune_below=(0.0, 0.99, 0.99))
    pruned = done(task, store)
    assert inspect(task, pruned, store).status is Status.PRUNED
    with pytest.raises(ResultError, match="by prune_below and its own history"):
        inspect(lesson(store, prune_below=(0.99,)), done(lesson(store), store), store)
    with pytest.raises(ResultError, match="this task can only be infeasible"):
        inspect(lesson(store, max_num_macs=10), done(lesson(store), store), store)
