"""Batches made ahead: the same ones in the same order whoever makes them, within their cap, and nothing is left of it."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tasks import CPU, Stop, make_task, stop_at

from agentkd.agents import feeding
from agentkd.agents.work import Surroundings, execute
from agentkd.architecture import IMAGENET
from agentkd.artifacts.store import Store
from agentkd.code import barring
from agentkd.datasets.views import View
from agentkd.errors import ConfigError, DatasetError
from agentkd.task import Evaluate
from agentkd.training import ahead
from agentkd.training.ahead import Ahead, Supply, usual_loaders
from agentkd.training.batches import Batch
from agentkd.training.loop import Hooks

PATIENCE_S = 60.0


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("agentkd-loader")]


@settings(max_examples=40)
@given(
    places=st.lists(st.integers(0, 99), max_size=30), loaders=st.integers(0, 5), cap=st.integers(1, 200), stop=st.integers(0, 30)
)
def test_what_is_made_comes_in_its_order_whoever_makes_it_and_whatever_may_wait(
    places: list[int], loaders: int, cap: int, stop: int
) -> None:
    with Ahead(
        lambda place: (place, threading.current_thread()), places, loaders=loaders, size_of=lambda made: 10, max_bytes=cap
    ) as made:
        taken = [made.take() for _ in places[:stop]]
        if stop >= len(places):
            with pytest.raises(IndexError):
                made.take()
    assert [place for place, _ in taken] == places[:stop]
    assert all((thread is threading.current_thread()) == (loaders == 0) for _, thread in taken)
    assert not threads()


@pytest.mark.parametrize(("max_bytes", "most"), [(35, 3), (9, 1), (10**6, 4)])
def test_no_more_is_made_than_the_cap_has_room_for_and_the_first_is_made_alone(max_bytes: int, most: int) -> None:
    begun: list[int] = []
    changed = threading.Condition()

    def make(place: int) -> int:
        with changed:
            begun.append(place)
            changed.notify_all()
        return place

    with Ahead(make, range(20), loaders=2, size_of=lambda made: 10, max_bytes=max_bytes) as made:
        for taken in range(5):
            room = most if taken else 1
            with changed:
                assert changed.wait_for(lambda upto=taken + room: len(begun) >= upto, PATIENCE_S)
            assert sorted(begun) == list(range(taken + room))
            assert made.take() == taken


def test_the_largest_that_was_made_says_how_many_may_wait_and_not_the_newest() -> None:
    begun: list[int] = []
    changed = threading.Condition()

    def make(place: int) -> int:
        with changed:
            begun.append(place)
            changed.notify_all()
        return place

    with Ahead(make, range(20), loaders=2, size_of=lambda place: 40 if place == 0 else 10, max_bytes=45) as made:
        for place in range(5):
            with changed:
                assert changed.wait_for(lambda upto=place + 1: len(begun) >= upto, PATIENCE_S)
            assert made.take() == place and len(made._coming) == 1, "of the first there would be room for one alone"


def test_where_the_size_is_known_all_begin_at_once() -> None:
    together = threading.Barrier(3)
    with Ahead(lambda place: together.wait(PATIENCE_S), range(3), loaders=3, size_of=lambda made: 1, expected_bytes=1) as made:
        assert sorted(made.take() for _ in range(3)) == [0, 1, 2]


def test_a_teachers_views_are_the_same_whoever_makes_them() -> None:
    feed, recipe = feeding.DatasetFeed(make_task()), make_task().recipe
    found = [feeding.view_images(feed.dataset, feed.views(1), recipe.views, IMAGENET, loaders=count) for count in (0, 1, 3)]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    assert torch.equal(found[0], feed.training_batch(1).images)
    assert not threads()


def test_an_error_is_raised_where_its_batch_is_taken_as_it_was() -> None:
    wrong = DatasetError("data", "a file is gone", "it")

    def make(place: int) -> int:
        if place == 3:
            raise wrong
        return place

    with Ahead(make, range(9), loaders=3, size_of=lambda made: 1) as made:
        assert [made.take() for _ in range(3)] == [0, 1, 2]
        with pytest.raises(DatasetError) as caught:
            made.take()
        assert caught.value is wrong
        assert caught.traceback[-1].name == "make", "where it happened is told too"
    assert not threads()


def test_closing_waits_for_what_is_in_hand_and_begins_nothing_more() -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()
    made: list[int] = []

    def make(place: int) -> int:
        if place:
            begun.release()
            assert go_on.wait(PATIENCE_S)
        made.append(place)
        return place

    ahead = Ahead(make, range(50), loaders=2, size_of=lambda made: 1)
    assert ahead.take() == 0 and begun.acquire(timeout=PATIENCE_S) and begun.acquire(timeout=PATIENCE_S)
    closing = threading.Thread(target=ahead.close)
    closing.start()
    go_on.set()
    closing.join(PATIENCE_S)
    assert not closing.is_alive() and not threads()
    assert sorted(made) == [0, 1, 2]


def test_a_thread_that_does_not_end_is_told_and_not_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ahead, "CLOSE_S", 0.0)
    go_on = threading.Event()
    stuck = Ahead(lambda place: go_on.wait(PATIENCE_S), range(2), loaders=1, size_of=lambda made: 1)
    stuck.close()
    assert "still makes a batch that nobody needs" in caplog.text
    go_on.set()
    for thread in threads():
        thread.join(PATIENCE_S)
    assert not threads()


def test_an_agent_on_cuda_has_loaders_and_one_on_a_cpu_none() -> None:
    cuda = torch.device("cuda:0")
    assert (usual_loaders(cuda, 3), usual_loaders(cuda, 64), usual_loaders(CPU, 8)) == (3, 8, 0)


def test_a_supply_on_a_cpu_hands_over_what_the_feed_makes() -> None:
    batches = [Batch(torch.full((1, 3, 2, 2), float(step)), torch.zeros(1, 2, 2).long(), ((step, 0),)) for step in range(5)]

    class Fed:
        steps_per_epoch = 5

        def training_batch(self, step: int) -> Batch:
            return batches[step]

        def validation_batches(self) -> Iterator[Batch]:
            yield batches[0]

    supply = Supply(Fed(), range(2, 5), CPU, loaders=2)
    assert [supply.take().images is batches[step].images for step in (2, 3, 4)] == [True] * 3
    supply.close()


LOADERS = [1, 2, 5]


@pytest.fixture(scope="module")
def in_the_loop(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return execute(make_task(), Surroundings(Store(tmp_path_factory.mktemp("in the loop")), CPU))


@pytest.mark.parametrize("loaders", LOADERS)
def test_a_training_whose_views_are_made_ahead_has_the_same_bits(tmp_path: Path, loaders: int, in_the_loop: Any) -> None:
    made = execute(make_task(), Surroundings(Store(tmp_path), CPU, loaders=loaders))
    assert (made.weights, made.trace, made.miou) == (in_the_loop.weights, in_the_loop.trace, in_the_loop.miou)
    look = Evaluate(architecture=make_task().architecture, data=make_task().data, initial_weights=made.weights)
    scores = [execute(look, Surroundings(Store(tmp_path), CPU, loaders=count)).class_iou for count in (0, loaders)]
    assert scores[0] == scores[1]
    assert not threads()


@pytest.mark.parametrize("loaders", LOADERS)
@pytest.mark.parametrize("step", [3, 6])
def test_one_that_is_cancelled_in_mid_epoch_resumes_to_the_same_bits_and_leaves_no_thread(
    tmp_path: Path, loaders: int, step: int, in_the_loop: Any
) -> None:
    at = {"checkpoint": tmp_path / "checkpoint.safetensors", "checkpoint_every_s": 0.0, "loaders": loaders}
    with pytest.raises(Stop):
        execute(make_task(), Surroundings(Store(tmp_path), CPU, hooks=stop_at(step), **at))
    assert not threads()
    steps: list[int] = []
    hooks = Hooks(on_step=lambda step, *told: steps.append(step))
    resumed = execute(make_task(), Surroundings(Store(tmp_path), CPU, hooks=hooks, **at))
    assert steps[0] == step
    assert (resumed.weights, resumed.trace) == (in_the_loop.weights, in_the_loop.trace)


@pytest.mark.parametrize("loaders", [0, *LOADERS])
@pytest.mark.parametrize("where", ["make_view", "whole_view"])
def test_an_error_in_a_view_reaches_who_learns_as_it_is_after_the_steps_before_it(
    tmp_path: Path, loaders: int, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = DatasetError("data", "a file is gone", "it")
    make: Callable[..., View] = getattr(feeding, where)
    seen: list[int] = []
    feed = feeding.DatasetFeed(make_task())
    last = feed.views(2)[-1] if where == "make_view" else (feed.dataset.splits["validation"][-1],)

    def failing(dataset: Any, *told: Any) -> View:
        if told[: len(last)] == tuple(last):
            raise wrong
        return make(dataset, *told)

    monkeypatch.setattr(feeding, where, failing)
    with pytest.raises(DatasetError) as caught:
        execute(
            make_task(),
            Surroundings(Store(tmp_path), CPU, loaders=loaders, hooks=Hooks(on_step=lambda now, *told: seen.append(now))),
        )
    assert caught.value is wrong
    assert seen == ([1, 2] if where == "make_view" else [1, 2, 3, 4])
    del caught
    assert not threads()


def test_what_own_code_may_not_do_it_may_not_do_on_a_loaders_thread_either(monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task()
    feed = feeding.DatasetFeed(task)
    monkeypatch.setattr(feed, "_barred", barring.running)
    make: Callable[..., View] = feeding.make_view

    def reading(*told: Any) -> View:
        barring.no_files("a file is opened")  # noted, whatever the code makes of it
        return make(*told)

    monkeypatch.setattr(feeding, "make_view", reading)
    with (
        Ahead(feed.training_batch, range(2), loaders=1, size_of=ahead.size_of) as made,
        pytest.raises(ConfigError, match="a file is opened"),
    ):
        made.take()
