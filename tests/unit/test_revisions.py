"""A family's name may come to mean another network or loss. What was recorded keeps its digest and is not executed as the new."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from experiments import EXPERIMENT
from reference.tasks import CPU, run, source
from typer.testing import CliRunner

from agentkd.agents.teaching import Teacher
from agentkd.architecture import Architecture
from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.run_folder import RunFolder
from agentkd.artifacts.store import Store
from agentkd.cli.app import app
from agentkd.code.taking import take
from agentkd.config import check_experiment
from agentkd.coordinator import own_parts
from agentkd.coordinator.importing import stored_weights
from agentkd.coordinator.run import read_run, run_experiment
from agentkd.errors import AgentKDError, ConfigError, ContractError
from agentkd.experiment import Experiment
from agentkd.knowledge.weights import encode_weights, load_as_learned, load_weights
from agentkd.names import Digest
from agentkd.networks.build import build, count_architecture
from agentkd.networks.families import FAMILIES, complete, look_at, resolve
from agentkd.pipeline.plan import Outlook, Planner
from agentkd.replay.perform import ReplayOptions, replay
from agentkd.report.table import csv_table
from agentkd.task import Average, EpochResult, Evaluate, Status, TaskResult, TeacherReference, Train, read_task

DATA = "generated:seed=5,size=64x64,train=4,validation=2,test=2"
SMALL = {
    "cnn_i2i_bisenet": {"width": 0.5, "i2i_width": 8, "context_planes": 16, "discriminator_width": 8},
    "pidnet_s": {"planes": 16, "num_blocks3": 1, "num_blocks4": 1},
}
# Digests of published networks of five classes, by the version that had no revisions.
BEFORE = {
    "pidnet_s": "4a5ba3441a3d9f1f018c3fa8a4e083b04be8ba952bf499724c6ee0fdade6a799",
    "cnn_i2i_bisenet": "7c196eab2040ae8892808abcf399019b630a55a233396d04028350fc2b4dd572",
    "unet": "c712178ecb93e07984d9d54bf37f967043dec7621450706b5a417d8dab7816a2",
    "unetpp": "85e5a7618bda5b7981f91e67763c088ecf06d141742ef0e8f8725d84d6802903",
}
CHANGED = pytest.mark.parametrize("family", ["pidnet_s", "cnn_i2i_bisenet"])


def of_before(architecture: Architecture) -> Architecture:
    """The same as a version without revisions has written it."""
    plain = json.loads(json.dumps(architecture.canonical()))
    plain.pop("revision", None)
    return Architecture.model_validate(plain)


@pytest.mark.parametrize("family", BEFORE)
def test_a_digest_is_another_where_the_network_or_its_loss_is_another_and_the_same_elsewhere(family: str) -> None:
    now = resolve(family, 5)
    assert of_before(now).digest == BEFORE[family]
    assert (now.digest == BEFORE[family]) == (FAMILIES[family].revision == 1)
    assert Architecture.model_validate(now.canonical()) == now == complete(now)


@CHANGED
@pytest.mark.parametrize("use", [complete, build, count_architecture])
def test_what_was_recorded_before_can_be_read_but_not_built(family: str, use: Callable[[Architecture], Any]) -> None:
    before = of_before(resolve(family, 5))
    assert (before.revision, before.settings) == (1, resolve(family, 5).settings)
    with pytest.raises(ConfigError, match=f"{family} of revision 1, and this version of agentkd builds revision 2.*begin anew"):
        use(before)


def test_what_is_of_a_later_version_is_not_built_either() -> None:
    for family in FAMILIES:
        with pytest.raises(ConfigError, match=r"of revision 9.* Update agentkd"):
            build(resolve(family, 5).replace(revision=9))
    own = resolve("tiny_networks:tiny", 5).replace(revision=9)
    with pytest.raises(ConfigError, match="Update agentkd"):
        build(own)


def test_a_users_own_network_changes_where_the_loss_that_it_names_has() -> None:
    own = look_at("tiny_networks:tiny", take("tiny_networks:tiny"))
    assert own.architecture(5, {}).revision == 1
    for loss, revision in {"pidnet": 2, "bisenet": 2, "dice": 1}.items():
        made = own.replace(loss=loss).architecture(5, {})
        assert made.revision == revision and ("revision" in made.canonical()) == (revision > 1)


@CHANGED
def test_a_task_of_before_has_a_key_of_its_own_and_is_not_executed(family: str, tmp_path: Path) -> None:
    now = Train(architecture=resolve(family, 5, SMALL[family]), data=source(DATA))
    before = read_task(now.canonical() | {"architecture": of_before(now.architecture).canonical()})
    assert before.key != now.key
    with pytest.raises(ConfigError, match="revision 1"):
        run(before, Store(tmp_path))


def weights_of(family: str, store: Store, *, revision: int) -> tuple[Architecture, str]:
    architecture = resolve(family, 5, SMALL[family])
    state = dict(build(architecture, seed=1).state_dict())
    return architecture, store.put(encode_weights(architecture.replace(revision=revision), state))


def load(architecture: Architecture, weights: str, store: Store) -> None:
    load_weights(build(architecture), store.get(weights), architecture)


def look(architecture: Architecture, weights: str, store: Store) -> None:
    load_as_learned(build(architecture), store.get(weights), architecture)


def score(architecture: Architecture, weights: str, store: Store) -> None:
    run(Evaluate(architecture=architecture, data=source(DATA), initial_weights=weights), store)


def teach(architecture: Architecture, weights: str, store: Store) -> None:
    Teacher(architecture, weights, source(DATA), stored=store.get(weights), device=CPU)


def average(architecture: Architecture, weights: str, store: Store) -> None:
    other = store.put(encode_weights(architecture, dict(build(architecture, seed=2).state_dict())))
    teachers = tuple(TeacherReference(architecture=architecture, weights=one) for one in (weights, other))
    run(Average(architecture=architecture, data=source(DATA), teachers=teachers), store)


def take_up(architecture: Architecture, weights: str, store: Store) -> None:
    assert stored_weights(weights, architecture, store) == weights


def bring(architecture: Architecture, weights: str, store: Store) -> None:
    file = store.place / "brought.safetensors"
    file.write_bytes(store.get(weights))
    stored_weights(file, architecture, store)


USES = pytest.mark.parametrize("use", [load, look, score, teach, average, take_up, bring])


@USES
def test_weights_of_another_network_are_not_taken_for_those_of_this_one(use: Any, tmp_path: Path) -> None:
    store = Store(tmp_path)
    architecture, weights = weights_of("cnn_i2i_bisenet", store, revision=1)
    with pytest.raises((ContractError, ConfigError), match="revision"):
        use(architecture, weights, store)


@USES
@pytest.mark.parametrize(("family", "revision"), [("pidnet_s", 1), ("pidnet_s", 2), ("cnn_i2i_bisenet", 2)])
def test_weights_that_mean_the_same_are(use: Any, family: str, revision: int, tmp_path: Path) -> None:
    """PIDNet's main output is what it was: only its training has changed."""
    store = Store(tmp_path)
    architecture, weights = weights_of(family, store, revision=revision)
    use(architecture, weights, store)


@pytest.mark.parametrize("revision", [1, 2])
def test_the_command_that_imports_weights_refuses_them_too(revision: int, tmp_path: Path) -> None:
    file, out = tmp_path / "mine.safetensors", tmp_path / "out.safetensors"
    architecture = resolve("cnn_i2i_bisenet", 5)
    state = dict(build(architecture, seed=1).state_dict())
    file.write_bytes(encode_weights(architecture.replace(revision=revision), state))
    result = CliRunner().invoke(app, ["weights", str(file), str(out), "--family", "cnn_i2i_bisenet"])
    assert out.exists() == (revision == 2) == (result.exit_code == 0)
    assert revision == 2 or "revision" in str(result.exception)


def experiment() -> Experiment:
    families = {"pidnet_s": {"settings": SMALL["pidnet_s"]}, "unet": {"settings": {"base": 8, "depth": 2}}}
    changes = {"families": families, "data": {"dataset": DATA}}
    return check_experiment(yaml.safe_load(yaml.safe_dump(EXPERIMENT | changes)), source="test")


def invented(weights: Digest, number: int) -> TaskResult:
    return TaskResult(
        status=Status.COMPLETED,
        weights=weights,
        miou=0.3 + number / 100,
        epochs=1,
        num_parameters_total=1000 - number,
        num_parameters_network=1000 - number,
        num_parameters_deploy=1000 - number,
        num_macs=1000,
        history=(EpochResult(epoch=1, loss=1, miou=0.3, seconds=1),),
    )


def new_folder(place: Path) -> RunFolder:
    (place / "run").mkdir()
    return RunFolder(place / "run")


def recorded(folder: RunFolder, revisions: dict[str, int], num_tasks: int = 1000) -> Outlook:
    """A run whose first tasks are done, as the version of these revisions would have done them."""
    given = experiment()
    own, dataset = own_parts.take_up(given)
    planner = Planner(given, dataset, own=own, revisions=revisions)
    results: dict[Any, TaskResult] = {}
    with Journal(folder.journal) as journal:
        journal.begin_sitting({"version": "of before"})
        journal.set_meta("pretrained", {})
        journal.set_meta("experiment", given.canonical())
        outlook = planner.outlook(results)
        while outlook.steps and len(results) < num_tasks:
            step = outlook.steps[0]
            results[step.key] = invented(folder.store.put(step.key.encode()), len(results))
            journal.commit(Record(step.task, results[step.key], agent="a", attempts=1, label=step.label))
            outlook = planner.outlook(results)
    return outlook


def test_a_run_of_before_is_reported_as_it_was(tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    was = recorded(folder, {"pidnet_s": 1, "unet": 1})
    assert was.is_finished and was.winner is not None
    _, planner, now, journal = read_run(folder)
    with journal:
        assert len(list(journal.records())) == len(was.keys)
    assert now.is_finished and csv_table(now) == csv_table(was) and now.winner == was.winner
    with pytest.raises(ConfigError, match="pidnet_s of revision 1"):
        planner.check_revisions()


def test_a_run_of_before_is_not_gone_on_with(tmp_path: Path) -> None:
    """It would be half of the one and half of the other."""
    folder = new_folder(tmp_path)
    recorded(folder, {"pidnet_s": 1, "unet": 1}, num_tasks=3)
    with pytest.raises(AgentKDError, match=r"pidnet_s of revision 1.*begin anew in another folder"):
        run_experiment(experiment(), folder)


def test_a_run_of_before_is_not_replayed(tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    recorded(folder, {"pidnet_s": 1, "unet": 1}, num_tasks=2)
    with pytest.raises(ConfigError, match="pidnet_s of revision 1"):
        replay(folder, RunFolder(tmp_path / "again"), ReplayOptions())


def test_a_finished_run_of_before_is_still_finished(tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    was = recorded(folder, {"pidnet_s": 1, "unet": 1})
    assert csv_table(run_experiment(experiment(), folder)) == csv_table(was)


def test_a_run_of_now_is_gone_on_with(tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    was = recorded(folder, {}, num_tasks=3)
    _, planner, now, journal = read_run(folder)
    with journal:
        assert [r.task.architecture.revision for r in journal.records() if r.task.architecture.family == "pidnet_s"] == [2] * 3
    planner.check_revisions()
    assert not now.is_finished and now.steps == was.steps
