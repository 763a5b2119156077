"""Agents that do not see the coordinator's folder: weights come from the coordinator, and results are fetched by it."""

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from experiments import SPEC, environment
from live_agent import NETWORK

import agentkd
from agentkd.artifacts.own_code import keep_code
from agentkd.artifacts.run_folder import RunFolder
from agentkd.coordinator.crew import Crew
from agentkd.coordinator.watching import Silent
from agentkd.datasets.opening import open_dataset
from agentkd.exchange.keys import KeyPair
from agentkd.knowledge.weights import encode_weights
from agentkd.launch.devices import Slot
from agentkd.launch.launcher import Started
from agentkd.launch.local import LocalLauncher
from agentkd.launch.settings import LaunchConfig
from agentkd.names import AgentName
from agentkd.networks.build import build
from agentkd.networks.families import resolve
from agentkd.recipe import Distillation, Recipe, ViewSettings
from agentkd.task import DataSource, Distill, Status, TeacherReference, Train

pytestmark = pytest.mark.process


class Elsewhere(LocalLauncher):
    """Agents that are told the same and find another folder, as on another machine."""

    def __init__(self, here: RunFolder, elsewhere: RunFolder) -> None:
        super().__init__(here)
        self._here, self._there = (str(folder.place.absolute()) for folder in (here, elsewhere))

    def start(self, name: AgentName, slot: Slot, arguments: Sequence[str], key: KeyPair) -> Started:
        return super().start(name, slot, [word.replace(self._here, self._there) for word in arguments], key)


@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_weights_go_there_and_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: str) -> None:
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    here, elsewhere = RunFolder(tmp_path / "here"), RunFolder(tmp_path / "elsewhere")
    start = here.store.put(encode_weights(NETWORK, dict(build(NETWORK, seed=5).state_dict())))
    recipe = Recipe(epochs=1, batch_size=4, learning_rate=0.05, views=ViewSettings(crop_height=32, crop_width=32))
    source = DataSource(spec=SPEC, content_digest=open_dataset(SPEC).digest)
    task = Train(architecture=NETWORK, data=source, recipe=recipe, initial_weights=start)
    keep_code(task, here.store)
    config = LaunchConfig(transport=transport)
    finished, deadline = [], time.monotonic() + 90
    with Crew(here, (Slot("cpu", 1),), config, Silent(), launcher=Elsewhere(here, elsewhere)) as crew:
        crew.want([(task.key, task, "a task elsewhere")])
        while not finished and time.monotonic() < deadline:
            finished += crew.turn()
    result = finished[0].result
    assert result.status is Status.COMPLETED, result.error_text
    assert result.weights in here.store and start in elsewhere.store and result.weights in elsewhere.store
    assert here.store.get(result.weights) == elsewhere.store.get(result.weights)


def test_a_teacher_elsewhere_is_handed_the_code_that_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(agentkd.__file__).parents[1]))
    here, elsewhere = RunFolder(tmp_path / "here"), RunFolder(tmp_path / "elsewhere")
    network = resolve("own.families:plain", 5)
    weights = here.store.put(encode_weights(network, dict(build(network, seed=5).state_dict())))
    task = Distill(
        architecture=NETWORK,
        data=DataSource(spec=SPEC, content_digest=open_dataset(SPEC).digest),
        recipe=Recipe(epochs=1, batch_size=4, views=ViewSettings(crop_height=32, crop_width=32)),
        teachers=(TeacherReference(architecture=network, weights=weights),),
        distillation=Distillation(),
    )
    keep_code(task, here.store)
    finished, deadline = [], time.monotonic() + 90
    with Crew(here, (Slot("cpu", 1),), LaunchConfig(transport="tcp"), Silent(), launcher=Elsewhere(here, elsewhere)) as crew:
        crew.want([(task.key, task, "a lesson elsewhere")])
        while not finished and time.monotonic() < deadline:
            finished += crew.turn()
    assert finished[0].result.status is Status.COMPLETED, finished[0].result.error_text
    assert {network.code, NETWORK.code} <= {path.stem for path in elsewhere.store.place.rglob("*.safetensors")}
