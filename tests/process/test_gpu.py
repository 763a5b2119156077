"""The same bits: two trainings, one that was interrupted, a lesson and their replay. On a CPU, and on a GPU if there is one."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from experiments import SPEC, environment
from small_trainings import CLASSES, FIVE, IGNORE, SMALL, Drawn, batch_of, training

from agentkd import repeatable
from agentkd.agents.teaching import Teacher
from agentkd.agents.work import Surroundings, execute
from agentkd.artifacts.store import Store
from agentkd.datasets.opening import open_dataset
from agentkd.errors import NotRepeatableError
from agentkd.knowledge import objectives
from agentkd.knowledge.objectives import Moment
from agentkd.knowledge.weights import encode_weights
from agentkd.messages.bodies import KnowledgeKind, KnowledgeRequest
from agentkd.networks import families
from agentkd.networks.build import build
from agentkd.objectives import LOGITS, SoftTargets
from agentkd.recipe import Arithmetic, Recipe, ViewSettings
from agentkd.task import DataSource, EpochResult, Train
from agentkd.training import reading
from agentkd.training.ahead import Supply, carried, carry
from agentkd.training.batches import Batch
from agentkd.training.checkpoint import State
from agentkd.training.loop import Hooks
from agentkd.training.losses import LOSSES, LossSettings
from agentkd.training.optimization import build_optimizers
from agentkd.training.reading import Readings

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "determinism.py"
DEVICES = ["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)]
PRECISIONS = ["float32", "bfloat16"]


class Interrupted(Exception):
    """In the middle of a training."""


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    """One that computes repeatably, as an agent has it."""
    name: str = request.param
    if name != "cpu" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    repeatable.prepare(torch.device(name))
    return name


def same(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name].cpu(), second[name].cpu()) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES, indirect=True)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", FIVE)
def test_two_trainings_and_one_that_was_interrupted_have_the_same_bits(
    family: str, precision: str, device: str, tmp_path: Path
) -> None:
    recipe = Recipe.model_validate({"epochs": 2, "batch_size": 2, "precision": precision})
    first, second = (training(family, recipe, device=device, feed=Drawn()) for _ in range(2))
    assert first.losses == second.losses
    assert same(first.weights, second.weights)

    def interrupt(result: EpochResult) -> None:
        if result.epoch == 2:
            raise Interrupted

    place = tmp_path / "checkpoint"
    with pytest.raises(Interrupted):
        training(family, recipe, device=device, checkpoint=place, hooks=Hooks(on_epoch=interrupt))
    assert place.is_file()
    steps: list[int] = []
    resumed = training(
        family, recipe, device=device, checkpoint=place, hooks=Hooks(on_step=lambda step, count, loss: steps.append(step))
    )
    assert steps == [4], "all before were written"
    assert resumed.losses == first.losses
    assert same(resumed.weights, first.weights)


@pytest.mark.gpu
@pytest.mark.parametrize("device", DEVICES[1:], indirect=True)
def test_what_has_no_repeatable_form_on_a_gpu_is_told_with_what_to_write_or_noted_in_the_record(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    network = families.resolve("unrepeatable_networks:resizing", 5)
    data = DataSource(spec=SPEC, content_digest=open_dataset(SPEC).digest)
    recipe = Recipe(epochs=1, batch_size=2, steps_per_epoch=2, views=ViewSettings(crop_height=32, crop_width=32))
    at = Surroundings(Store(tmp_path / "store"), torch.device(device))
    task = Train(architecture=network, data=data, recipe=recipe)
    with pytest.raises(NotRepeatableError, match=r"repeatable\.bilinear") as told:
        execute(task, at)
    assert told.value.operation.startswith("upsample_bilinear2d_backward")
    result = execute(task.replace(recipe=recipe.replace(repeatable=False)), at)
    assert result.environment["unrepeatable"].startswith("upsample_bilinear2d_backward")
    assert result.environment["deterministic"] == "False"


@pytest.mark.gpu
@pytest.mark.parametrize("device", DEVICES[1:], indirect=True)
@pytest.mark.parametrize("fields", [{}, {"folded": True}, {"precision": "bfloat16", "channels_last": True, "folded": True}])
def test_a_teacher_on_a_gpu_says_the_same_bits_again_however_it_computes(device: str, fields: dict[str, Any]) -> None:
    network = families.resolve("pidnet_s", 5, SMALL["pidnet_s"])
    data = DataSource(spec=SPEC, content_digest=open_dataset(SPEC).digest)
    stored = encode_weights(network, dict(build(network, seed=1).state_dict()))
    request = KnowledgeRequest(
        kind=KnowledgeKind.SOFT_TARGETS,
        weights="ab" * 32,
        num_classes=5,
        dataset=data.content_digest,
        views=((0, 1), (1, 2)),
        view_settings=ViewSettings(crop_height=64, crop_width=64),
        arithmetic=Arithmetic(**fields),
    )
    said = []
    for _ in range(2):
        teacher = Teacher(network, "ab" * 32, data, stored=stored, device=torch.device(device))
        said.append(bytes(teacher.answer(request).parcel.view))
    assert said[0] == said[1]


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("device", DEVICES, indirect=True)
def test_trainings_and_lessons_by_agents_are_replayed_to_the_bit(device: str) -> None:
    """All five on a GPU; in bfloat16, which the record says."""
    devices, families = ("cpu:2", ("unetpp",)) if device == "cpu" else (f"{device},{device}", FIVE)
    chosen = ["--devices", devices, "--size", "48", "--steps", "2", "--precisions", "bfloat16", "--families", *families]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *chosen], env=environment(), capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for family in families:
        assert re.search(rf"^{family} +bfloat16 +yes +2 ", done.stdout, re.MULTILINE), done.stdout
    assert "all the same" in done.stdout


@pytest.mark.parametrize("device", DEVICES, indirect=True)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_views_made_ahead_and_losses_read_later_change_no_bit(
    precision: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe.model_validate({"epochs": 2, "batch_size": 2, "precision": precision})
    later = training("pidnet_s", recipe, device=device, feed=Drawn(steps_per_epoch=6), loaders=3)
    monkeypatch.setattr(reading, "READ_LATER", {})
    at_once = training("pidnet_s", recipe, device=device, feed=Drawn(steps_per_epoch=6))
    assert later.losses == at_once.losses
    assert same(later.weights, at_once.weights)
    assert [epoch.weights for epoch in later.history] == [epoch.weights for epoch in at_once.history]


class Numbered:
    """Batches that are full of the number of their step."""

    steps_per_epoch = 40

    def training_batch(self, step: int) -> Batch:
        return Batch(torch.full((4, 3, 256, 256), float(step)), torch.full((4, 256, 256), step), ((step, 0),))

    def validation_batches(self) -> Iterator[Batch]:
        yield self.training_batch(0)


@pytest.mark.parametrize("device", DEVICES, indirect=True)
@pytest.mark.parametrize("loaders", [0, 3])
def test_each_step_sees_its_own_batch_however_busy_the_device_is(loaders: int, device: str) -> None:
    """Memory of a batch that is used again too soon, on either side, would show."""
    work = torch.randn(1024, 1024, device=device) if device != "cpu" else torch.randn(8, 8)
    seen = []
    with closing(Supply(Numbered(), range(3, 40), torch.device(device), loaders=loaders)) as supply:
        for step in range(3, 40):
            batch = supply.take()
            assert batch.views == ((step, 0),) and batch.images.device == batch.labels.device == torch.device(device)
            for _ in range(4):
                work = torch.tanh(work @ work)
            wrong = (batch.images != step).sum() + (batch.labels != step).sum()
            seen.append(wrong)
            del batch
    assert not torch.stack(seen).any()


@pytest.fixture
def nobody_waits() -> Iterator[None]:
    """Whatever waits for the device raises; copies from memory that is not pinned do."""
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("device", [pytest.param("cuda:0", marks=pytest.mark.gpu)], indirect=True)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", FIVE)
def test_a_step_on_a_gpu_is_told_to_it_without_waiting(
    family: str, precision: str, device: str, request: pytest.FixtureRequest
) -> None:
    """With weights of classes, soft targets of a teacher, and a loss that is noted."""
    there = torch.device(device)
    network = build(families.resolve(family, CLASSES, SMALL[family]), seed=1).to(there).train()
    optimizers = build_optimizers(network.parameter_groups(), Recipe(epochs=1, batch_size=2))
    labels = LossSettings(CLASSES, IGNORE, (1.0, 2.0, 1.0, 0.0, 1.0))
    told = torch.randn(2, CLASSES, 10, 13)
    readings = Readings(there, at_once=False)

    def step(number: int) -> None:
        batch = carried(batch_of(number), there)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            outputs = network(batch.images)
            terms = LOSSES[families.loss_name(family)](network, outputs, batch, labels)
            teacher = {LOGITS.name: carry(told, there)}
            terms["soft"] = objectives.loss(SoftTargets(), outputs, [teacher], Moment(batch.labels, IGNORE))
            loss = torch.stack([term.float() for term in terms.values()]).sum()
        readings.note(number, loss, terms, outputs)
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer in optimizers.values():
            optimizer.step()

    step(0)
    step(1)  # what is made once is made
    torch.cuda.synchronize()
    request.getfixturevalue("nobody_waits")
    step(2)
    step(3)
    torch.cuda.set_sync_debug_mode("default")
    assert len(readings.settled()) == 4
