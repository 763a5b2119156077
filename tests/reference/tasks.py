"""A scenario given to agentkd, and the same scenario given to the reference. Tasks are made here and nowhere else."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from reference import training
from reference.scenarios import RECIPE, SCENES, Scenario, TeacherSetting
from torch import Tensor, nn

from agentkd import seeding
from agentkd.agents.feeding import DatasetFeed
from agentkd.agents.lessons import DirectLesson
from agentkd.agents.work import Surroundings, execute
from agentkd.architecture import Architecture
from agentkd.artifacts.store import Store
from agentkd.datasets.opening import open_dataset
from agentkd.knowledge import tensors
from agentkd.knowledge.weights import encode_weights
from agentkd.networks.blocks import SegmentationNetwork
from agentkd.networks.build import build
from agentkd.networks.families import loss_name, resolve
from agentkd.recipe import Distillation, Recipe
from agentkd.task import (
    KINDS,
    Average,
    Consolidation,
    DataSource,
    Distill,
    Mutual,
    Partner,
    Task,
    TaskResult,
    TeacherReference,
    Train,
)

CPU = torch.device("cpu")
SEED, VIEW_SEED, IGNORE = 3, 4, 255
State = dict[str, Tensor]


@dataclass(frozen=True)
class Golden:
    """What is compared: each step's loss, each epoch's mIoU, which epoch is kept, how far each part of the network went."""

    losses: list[float]
    mious: list[float | None]
    best_epoch: int
    miou: float
    moved: dict[str, float]


def source(spec: str) -> DataSource:
    return DataSource(spec=spec, content_digest=open_dataset(spec).digest)


def student_architecture(scenario: Scenario) -> Architecture:
    family, settings = scenario.student
    return resolve(family, 5, dict(settings))


def initial(architecture: Architecture) -> SegmentationNetwork:
    return build(architecture, seed=seeding.derive("initial", SEED))


def teacher_architecture(setting: TeacherSetting) -> Architecture:
    return resolve("tiny_networks:tiny", setting.classes, {"width": setting.width})


def teacher_network(setting: TeacherSetting) -> SegmentationNetwork:
    network = build(teacher_architecture(setting), seed=setting.seed)
    with torch.no_grad():
        last: Any = network.get_submodule("network.head")
        last.weight.mul_(setting.sharpness)
        last.bias.mul_(setting.sharpness).add_(setting.shift)
    return network


def importance_of(architecture: Architecture) -> State:
    """Any positive numbers, the same for everybody."""
    random = torch.Generator().manual_seed(31)
    return {name: torch.rand(p.shape, generator=random) for name, p in build(architecture, seed=1).named_parameters()}


def make_task(scenario: Scenario, store: Store) -> Task:
    """The scenario as a task, with all that it refers to in the store."""
    architecture = student_architecture(scenario)

    def stored(architecture: Architecture, network: nn.Module) -> str:
        return store.put(encode_weights(architecture, dict(network.state_dict())))

    fields: dict[str, Any] = {}
    if scenario.distillation:
        fields["distillation"] = Distillation.model_validate(scenario.distillation)
        fields["teachers"] = tuple(
            TeacherReference(
                architecture=teacher_architecture(setting),
                weights=stored(teacher_architecture(setting), teacher_network(setting)),
                **setting.told,
            )
            for setting in scenario.teachers
        )
    if scenario.pretrained:
        fields["pretrained"] = stored(architecture, build(architecture, seed=scenario.pretrained))
    if scenario.strength:
        matters = store.put(tensors.encode(importance_of(architecture), {"kind": "importance"}))
        anchors = stored(architecture, build(architecture, seed=1))
        fields["consolidation"] = Consolidation(anchors=anchors, importance=matters, strength=scenario.strength)
    kind = Distill if scenario.distillation else Train
    return kind(
        architecture=architecture,
        data=source(scenario.data),
        recipe=Recipe.model_validate({**RECIPE, **scenario.recipe}),
        seed=SEED,
        view_seed=VIEW_SEED,
        **fields,
    )


def run(task: Task, store: Store, **surroundings: Any) -> TaskResult:
    """A task's result, its teachers in this process."""
    lesson = lambda task, feed, steps: DirectLesson(task, feed, store=store, device=CPU)  # noqa: E731
    return execute(task, Surroundings(store, CPU, lesson=lesson, **surroundings))


def by_agentkd(scenario: Scenario, folder: Path) -> Golden:
    store = Store(folder)
    result = run(make_task(scenario, store), store)
    return Golden(
        losses=tensors.decode(store.get(result.trace))["loss"].tolist(),
        mious=[epoch.miou for epoch in result.history],
        best_epoch=result.best_epoch,
        miou=result.miou,
        moved=moved(student_architecture(scenario), tensors.decode(store.get(result.weights))),
    )


def by_reference(scenario: Scenario, folder: Path) -> Golden:
    task = make_task(scenario, Store(folder))
    feed, architecture = DatasetFeed(task), task.architecture
    network, lesson = initial(architecture), None
    if scenario.pretrained:
        given = build(architecture, seed=scenario.pretrained).state_dict()
        network.load_state_dict(training.inherited(network.state_dict(), given))
    teachers = [training.Teaching(teacher_network(setting), **setting.told) for setting in scenario.teachers]
    groups = groups_of(network)
    if scenario.distillation:
        plain = Distillation.model_validate(scenario.distillation).canonical()
        if plain["start"] == "inherit":
            network.load_state_dict(training.inherited(network.state_dict(), teachers[0].network.state_dict()))
        projections = projections_of(plain, network, scenario)
        lesson = training.Lesson(plain, teachers, projections)
        groups += [training.Group([p for one in projections.values() for p in one.parameters()])] if projections else []
    course = training.Course(
        recipe=task.recipe.canonical(),
        batches=[batch_of(feed, step) for step in range(task.recipe.epochs * feed.steps_per_epoch)],
        validation=[training.Batch(batch.images, batch.labels) for batch in feed.validation_batches()],
        loss=loss_name(architecture.family, architecture.code),
        num_classes=architecture.num_classes,
        ignore=IGNORE,
        lesson=lesson,
        consolidation=training.Consolidation(
            anchors=dict(build(architecture, seed=1).state_dict()),
            importance=importance_of(architecture),
            strength=scenario.strength,
        )
        if scenario.strength
        else None,
    )
    curve = training.train(network, groups, course)
    return Golden(curve.losses, curve.mious, curve.best_epoch, curve.miou, moved(architecture, curve.weights))


def batch_of(feed: DatasetFeed, step: int) -> training.Batch:
    batch = feed.training_batch(step)
    return training.Batch(batch.images, batch.labels, tuple(feed.dataset.part(index) for index, _ in batch.views))


def groups_of(network: SegmentationNetwork) -> list[training.Group]:
    """CNN-I2I BiSeNet: backbone at the base rate, I2I branch a hundredth, the rest ten times it, discriminator by an Adam.

    Of all but the discriminator, tensors of four dimensions decay (those of convolutions), the others do not.
    """
    if type(network).__name__ != "CnnI2IBiSeNet":
        return [training.Group(list(network.parameters()))]
    found: dict[str, list[nn.Parameter]] = {"context": [], "rest": [], "i2i": [], "discriminator": []}
    for name, parameter in network.named_parameters():
        found[name.split(".")[0] if name.split(".")[0] in found else "rest"].append(parameter)
    rates = {"context": 1.0, "rest": 10.0, "i2i": 0.01}
    groups = [
        training.Group([p for p in found[name] if (p.dim() == 4) == decays], rate, decays=decays)
        for name, rate in rates.items()
        for decays in (True, False)
    ]
    return [*groups, training.Group(found["discriminator"], adam=True)] if found["discriminator"] else groups


def projections_of(plain: Any, network: SegmentationNetwork, scenario: Scenario) -> dict[tuple[int, str], nn.Module]:
    """A 1x1 convolution without bias from each of the student's taps to the channels of each teacher's, drawn in that order.

    The taps of the tiny networks have as many channels as the network is wide.
    """
    taps = list(dict.fromkeys(tap for o in plain["objectives"] if o["kind"] in ("features", "channel") for tap in o["taps"]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeding.derive("projections", SEED))
        width = scenario.student[1].get("width", 0)
        return {
            (index, tap): nn.Conv2d(width, setting.width, 1, bias=False)
            for index, setting in enumerate(scenario.teachers)
            for tap in taps
        }


def moved(architecture: Architecture, weights: State) -> dict[str, float]:
    """How far the kept weights are from the initial ones, by the network's outermost modules (Euclidean)."""
    found: dict[str, float] = {}
    for name, before in initial(architecture).state_dict().items():
        part = ".".join(name.split(".")[: 3 if name.startswith("network.") else 1])
        if before.is_floating_point():
            found[part] = found.get(part, 0.0) + float(((weights[name].double() - before.double()) ** 2).sum())
    return {part: squared**0.5 for part, squared in found.items()}


def small(width: int = 8) -> Architecture:
    return resolve("tiny_networks:tiny", 5, {"width": width})


def put(store: Store, architecture: Architecture, seed: int) -> str:
    """Stores the weights of a network that was built with a seed."""
    return store.put(encode_weights(architecture, dict(build(architecture, seed=seed).state_dict())))


def look(kind: str, weights: str, **fields: Any) -> Task:
    """A task that learns nothing: ``evaluate``, ``assess``, ``features``, ``consolidate``."""
    return KINDS[kind](architecture=small(), data=source(SCENES), initial_weights=weights, **fields)


def average(shares: Mapping[str, float]) -> Task:
    """The mean of weights by their shares."""
    teachers = tuple(TeacherReference(architecture=small(), weights=weights, share=share) for weights, share in shares.items())
    return Average(architecture=small(), data=source(SCENES), teachers=teachers)


def mutual(*widths: int, **fields: Any) -> Task:
    """The task of the first of several students that teach each other."""
    recipe = Recipe.model_validate(RECIPE)
    first, *others = (
        Partner(architecture=small(width), recipe=recipe, seed=SEED + number) for number, width in enumerate(widths)
    )
    own = {name: getattr(first, name) for name in Partner.model_fields}
    partners = tuple(sorted(others, key=lambda partner: partner.digest))
    distillation = Distillation.model_validate({"alpha": 0.3, "codec": "float32"} | fields)
    return Mutual(data=source(SCENES), partners=partners, distillation=distillation, **own)
