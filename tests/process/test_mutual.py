"""Students that teach each other: the same bits as deep mutual learning in one process, also if one is killed in the middle."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from experiments import SPEC, agents_of, environment
from torch import Tensor
from torch.nn import functional as F

import agentkd
from agentkd import seeding
from agentkd.agents.feeding import DatasetFeed
from agentkd.agents.mutual import weights_digest
from agentkd.agents.saying import read_said
from agentkd.artifacts.journal import Journal
from agentkd.community.handles import AgentHandle
from agentkd.datasets.opening import open_dataset
from agentkd.knowledge import tensors
from agentkd.networks.build import build
from agentkd.networks.families import resolve
from agentkd.task import Task
from agentkd.training.optimization import build_optimizers, set_learning_rate

pytestmark = pytest.mark.process
VIEWS = agentkd.ViewSettings(crop_height=32, crop_width=32)
TEN_STEPS = {"epochs": 1, "steps_per_epoch": 10, "batch_size": 4, "keep": "last", "views": VIEWS, "learning_rate": 0.05}


@pytest.fixture(autouse=True)
def _own_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])


def students(community: agentkd.Community, count: int = 2) -> list[AgentHandle]:
    families = [("tiny", 8), ("other", 16), ("tiny", 12)][:count]
    return [community.agent(f"{name}-{width}", f"tiny_networks:{name}", width=width) for name, width in families]


def tasks_of(place: Path) -> list[tuple[Task, str]]:
    with Journal(place / "journal.sqlite", read_only=True) as journal:
        return [(record.task, record.result.weights) for record in journal.records()]


def in_one_process(tasks: list[Task]) -> list[str]:
    """Deep mutual learning as one would write it down: all forward, then each its own step."""
    networks = [build(task.architecture, seed=seeding.derive("initial", task.seed)).train() for task in tasks]
    optimizers = [
        build_optimizers(network.parameter_groups(), task.recipe) for network, task in zip(networks, tasks, strict=True)
    ]
    feed = DatasetFeed(tasks[0])
    for step in range(10):
        batch = feed.training_batch(step)
        logits = [network(batch.images)["logits"].float() for network in networks]
        logs = [F.log_softmax(enlarged(one, batch.labels), dim=1) for one in logits]
        for i, task in enumerate(tasks):
            set_learning_rate(optimizers[i]["main"], task.recipe, step, 10)
            others = [logs[other].detach() for other in order_of_partners(tasks, i)]
            teacher = others[0] if len(others) == 1 else mean_of(others)
            divergence = (teacher.exp() * (teacher - logs[i])).sum(dim=1)
            valid = batch.labels != feed.dataset.ignore_index
            mutual = (divergence * valid).sum() / valid.sum()
            each = F.cross_entropy(
                enlarged(logits[i], batch.labels), batch.labels, ignore_index=feed.dataset.ignore_index, reduction="none"
            )
            hard = each.sum() / valid.sum()
            optimizers[i]["main"].zero_grad()
            torch.stack([0.5 * hard, 0.5 * mutual]).sum().backward()
        for one in optimizers:
            one["main"].step()
    return [
        weights_digest(task.architecture, network, feed.dataset.classes) for task, network in zip(tasks, networks, strict=True)
    ]


def enlarged(logits: Tensor, labels: Tensor) -> Tensor:
    return F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)


def order_of_partners(tasks: list[Task], mine: int) -> list[int]:
    known = {task.key: index for index, task in enumerate(tasks)}
    return [known[partner.key] for partner in tasks[mine].partner_tasks()]


def mean_of(logs: list[Tensor]) -> Tensor:
    return torch.logsumexp(torch.stack(logs) + torch.tensor(1 / len(logs)).log(), dim=0)


@pytest.mark.parametrize("count", [2, 3])
def test_ten_steps_equal_deep_mutual_learning_in_one_process(tmp_path: Path, count: int) -> None:
    with agentkd.Community(devices=f"cpu:{count}", record=tmp_path / "run") as community:
        lessons = agentkd.mutual(*students(community, count), data=SPEC, codec="float32", **TEN_STEPS)
        results = [lesson.result(timeout=120) for lesson in lessons]
    recorded = tasks_of(tmp_path / "run")
    assert {weights for _, weights in recorded} == {result.weights for result in results}
    assert in_one_process([task for task, _ in recorded]) == [weights for _, weights in recorded]
    assert all(result.exchange and result.exchange.requests >= 10 * (count - 1) for result in results)
    assert not list((tmp_path / "run" / "checkpoints").iterdir()), "what was said is removed once all have ended"


def test_what_is_said_names_the_weights_that_said_it(tmp_path: Path) -> None:
    with agentkd.Community(devices="cpu:2", record=tmp_path / "run") as community:
        lessons = agentkd.mutual(*students(community), data=SPEC, **TEN_STEPS | {"epochs": 200})
        next(event for event in lessons[0].progress() if event.step > 1)
        folder = next((tmp_path / "run" / "checkpoints").glob("*.said"))
        said = [tensors.read_metadata(read_said(folder / f"{step}.safetensors")) for step in (0, 1)]
    architecture = [resolve("tiny_networks:tiny", 5, {"width": 8}), resolve("tiny_networks:other", 5, {"width": 16})]
    initial = {
        weights_digest(one, build(one, seed=seeding.derive("initial", seeding.derive(1, name))), open_dataset(SPEC).classes)
        for one, name in zip(architecture, ("tiny-8", "other-16"), strict=True)
    }
    assert said[0]["weights"] in initial and said[1]["weights"] not in initial


def killed_in_the_middle(place: Path, *, victims: int) -> list[str]:
    recipe: dict[str, Any] = TEN_STEPS | {"epochs": 12, "keep": "best"}
    with agentkd.Community(devices="cpu:2", record=place, checkpoint_every_s=0.2) as community:
        lessons = agentkd.mutual(*students(community), data=SPEC, **recipe)
        for event in lessons[0].progress():
            if event.step >= 20:
                for child in list(agents_of(os.getpid()).values())[:victims]:
                    child.kill()
                break
        return [lesson.result(timeout=200).weights for lesson in lessons]


@pytest.mark.timeout(400)
def test_a_student_that_is_killed_begins_again_and_all_end_with_the_same_weights(tmp_path: Path) -> None:
    undisturbed = killed_in_the_middle(tmp_path / "undisturbed", victims=0)
    assert killed_in_the_middle(tmp_path / "one", victims=1) == undisturbed
    assert killed_in_the_middle(tmp_path / "both", victims=2) == undisturbed


def test_what_cannot_be_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with agentkd.Community(devices="cpu:1", record=tmp_path / "run") as community:
        first, second = students(community)
        with pytest.raises(agentkd.ConfigError, match="need as many agents, and there are 1"):
            agentkd.mutual(first, second, data=SPEC)
        with pytest.raises(agentkd.ConfigError, match="two or more"):
            agentkd.mutual(first, data=SPEC)
    with agentkd.Community(devices="cpu:2", record=tmp_path / "run") as community:
        first, second = students(community)
        features = agentkd.Features({"body.0": "body.0"})
        with pytest.raises(agentkd.ConfigError, match="logits alone"):
            agentkd.mutual(first, second, data=SPEC, objectives=[features])
