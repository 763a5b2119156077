"""A task executed: the pure function from inputs to result, whoever calls it. Weights go into the store, metrics come back."""

import os
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from agentkd import repeatable, seeding
from agentkd.agents.assessing import assess, feature_maps
from agentkd.agents.averaging import averaged
from agentkd.agents.deciding import decision_of
from agentkd.agents.feeding import DatasetFeed, open_source
from agentkd.agents.packing import packed
from agentkd.agents.readying import made_ready
from agentkd.agents.rehearsing import Rehearsing
from agentkd.artifacts.own_code import codes_of
from agentkd.artifacts.store import Store
from agentkd.code import barring
from agentkd.datasets.samples import split_indices
from agentkd.datasets.views import whole_view
from agentkd.errors import InfeasibleArchitectureError
from agentkd.knowledge import tensors
from agentkd.knowledge.contracts import agree_on_classes, agree_on_order
from agentkd.knowledge.tensors import Buffer
from agentkd.knowledge.weights import (
    WeightsMetadata,
    agree_on_images,
    encode_weights,
    inherit_weights,
    load_as_learned,
    load_weights,
    read_metadata,
)
from agentkd.names import Digest
from agentkd.networks import families
from agentkd.networks.blocks import SegmentationNetwork
from agentkd.networks.build import ParameterCounts, build, count_architecture
from agentkd.networks.cost import Cost, measure_cost
from agentkd.networks.latency import measure_latency_ms
from agentkd.objectives import Payload
from agentkd.task import (
    Assess,
    Average,
    Consolidate,
    Decide,
    Distill,
    Evaluate,
    ExchangeSummary,
    FeatureMaps,
    Limited,
    Mutual,
    Pack,
    Status,
    Task,
    TaskResult,
    Taught,
    Train,
    Training,
)
from agentkd.training.ahead import Ahead, size_of
from agentkd.training.batches import Batch
from agentkd.training.checkpoint import before
from agentkd.training.continual import accumulate, elastic_penalty, importance
from agentkd.training.forms import in_precision
from agentkd.training.loop import Hooks, Knowledge, Plan, Teaching, Trained, Untaught, train
from agentkd.training.losses import LOSSES, LossSettings
from agentkd.training.memory import peak_bytes, reset_peak
from agentkd.training.metrics import Scores, evaluate
from agentkd.training.optimization import SURROUNDINGS
from agentkd.training.taps import TAP, Pupil, tapped
from agentkd.unrepeatable import Repeatably

NUM_PICTURES = 4
MAX_CONSOLIDATED = 256


class TaskTeaching(Teaching, Protocol):
    """The teaching of a task: it can be looked into beforehand, hands over a teacher's weights, and says what it cost."""

    def peek(self, step: int) -> Knowledge: ...
    def fetch_weights(self, weights: Digest) -> Buffer: ...
    def summary(self) -> ExchangeSummary: ...


@dataclass(frozen=True)
class Surroundings:
    """Where a task is executed; none of it changes the result.

    Args:
        lesson: makes the lesson of a distillation from its feed and its number of steps.
        checkpoint_every_s: seconds between checkpoints; 0 for one after each step.
        loaders: threads that make views ahead; 0 to make them where they are needed.
    """

    store: Store
    device: torch.device
    checkpoint: Path | None = None
    hooks: Hooks | None = None
    lesson: Callable[[Taught, DatasetFeed, int], TaskTeaching] | None = None
    checkpoint_every_s: float = 0.0
    loaders: int = 0


def execute(task: Task, at: Surroundings, *, size: dict[str, Any] | None = None) -> TaskResult:
    """The result of a task. An architecture over its limit is a result too (``infeasible``), found before training.

    Args:
        task: what is to be done.
        at: where.
        size: what ``sizes`` says of the task, where it is known.
    """
    with barring.running() if codes_of(task) else nullcontext(), Repeatably(is_allowed=not _is_repeatable(task)) as held:
        result = _execute(task, at, size=sizes(task) if size is None else size)
    return result.replace(environment=result.environment | held.told) if held.told else result


def _execute(task: Task, at: Surroundings, *, size: dict[str, Any]) -> TaskResult:
    try:
        if isinstance(task, Limited):
            check_limits(task, size)
            if task.measures_latency:
                size = size | {"latency_ms": _latency_ms(task, at)}
                is_begun = at.checkpoint is not None and (at.checkpoint.exists() or before(at.checkpoint).exists())
                check_limits(task, {} if is_begun else size)  # it was fast enough when it was begun
    except InfeasibleArchitectureError as error:
        return TaskResult(
            status=Status.INFEASIBLE, error_code=error.code, error_text=str(error), environment=environment(at.device), **size
        )
    reset_peak(at.device)
    result = EXECUTIONS[type(task)](task, at, size)
    return result.replace(peak_memory_bytes=peak_bytes(at.device))


def _is_repeatable(task: Task) -> bool:
    if isinstance(task, Training):
        return task.recipe.repeatable
    return task.arithmetic.repeatable if isinstance(task, Evaluate) else True


def sizes(task: Task) -> dict[str, Any]:
    """Those fields of a task's result that say how large the network is and what an image of the dataset costs it."""
    return {**count_parameters(task), **_cost_fields(task)}


def count_parameters(task: Task) -> dict[str, Any]:
    """Those of them that need no data."""
    return _count_fields(count_architecture(task.architecture))


def check_limits(task: Limited, size: Mapping[str, Any]) -> None:
    """Checks that what is known of a task's ``sizes`` is within its limits.

    Raises:
        InfeasibleArchitectureError: it is not.
    """
    for name, field, limit in (
        ("deploy parameters", "num_parameters_deploy", task.max_deploy_parameters),
        ("MACs", "num_macs", task.max_num_macs),
        ("the latency in ms", "latency_ms", task.max_latency_ms),
    ):
        value = size.get(field, 0)
        if limit and value > limit:
            raise InfeasibleArchitectureError(name, value, limit)


def measure(task: Evaluate, at: Surroundings) -> Scores:
    """The scores of a network, as it is, on a split.

    Raises:
        ContractError: its weights tell other classes apart, or have them in another order.
    """
    dataset = open_source(task.data)
    agree_on_classes(_said_by(task.initial_weights, at).classes_of(task.architecture), dataset.classes)
    network, indices = _network_to_score(task, at), split_indices(dataset, task.data.validation)
    num_classes, precision = task.architecture.num_classes, task.arithmetic.precision
    with Ahead(partial(_whole_batch, task), indices, loaders=at.loaders, size_of=size_of) as made:
        batches = (made.take() for _ in indices)
        return evaluate(network, batches, num_classes, dataset.ignore_index, at.device, precision)


def environment(device: torch.device) -> dict[str, str]:
    """What besides the inputs decides bits."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": str(torch.get_num_threads()),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "onednn": str(torch.backends.mkldnn.is_available()),  # type: ignore[no-untyped-call]
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": str(os.cpu_count()),
        **repeatable.surroundings(device),
    }


def _train(task: Training, at: Surroundings, size: dict[str, Any]) -> TaskResult:
    feed = DatasetFeed(task, loaders=at.loaders)
    lesson = None
    if isinstance(task, Taught):
        assert at.lesson
        lesson = at.lesson(task, feed, task.recipe.epochs * feed.steps_per_epoch)
    network = _initial_network(task, at, lesson)
    student: nn.Module = network
    if lesson and isinstance(task, Distill) and task.distillation.student_taps:
        student = _pupil(task, network, feed, lesson)
    is_plain = task.recipe.loss == "cross_entropy"
    loss = "cross_entropy" if is_plain else families.loss_name(task.architecture.family, task.architecture.code)
    plan = Plan(
        recipe=task.recipe,
        loss=LOSSES[loss],
        labels=LossSettings(
            task.architecture.num_classes, feed.dataset.ignore_index, feed.class_weights, mines_all=task.recipe.loss == "ohem"
        ),
        seed=task.seed,
        prune_below=task.prune_below if isinstance(task, Limited) else (),
        teaching=lesson or Untaught(),
        penalty=_penalty(task, network.to(at.device), at),
        rehearse=_rehearse(task, network, at),
    )
    trained = train(
        student,
        feed,
        plan,
        device=at.device,
        checkpoint=at.checkpoint,
        task=task.key,
        hooks=at.hooks,
        checkpoint_every_s=at.checkpoint_every_s,
        loaders=at.loaders,
    )
    own = student.own(trained.weights) if isinstance(student, Pupil) else trained.weights
    classes, known = feed.dataset.classes, _said_by(task.initial_weights, at)
    return TaskResult(
        status=trained.status,
        weights=at.store.put(encode_weights(task.architecture, own, classes, known.heads_with(task.architecture, classes))),
        trace=at.store.put(encode_trace(torch.tensor(trained.losses, dtype=torch.float64))),
        exchange=lesson.summary() if lesson else None,
        environment=environment(at.device) | SURROUNDINGS | (repeatable.compiler(at.device) if task.recipe.compiled else {}),
        class_weights=feed.class_weights,
        **size,
        **_score_fields(trained.scores),
        **_training_fields(trained),
    )


def encode_trace(losses: Tensor) -> bytes:
    """The losses [steps], float64, of a training as an artifact."""
    return tensors.encode({"loss": losses}, {"kind": "trace"})


def encode_knowledge(task: FeatureMaps | Consolidate, made: tensors.Tensors) -> bytes:
    """What such a task has made of its network, as an artifact."""
    metadata: dict[str, Any] = {"kind": "importance", "weights": task.initial_weights}
    if isinstance(task, FeatureMaps):
        metadata |= {"kind": "feature_maps", "views": [list(view) for view in task.views]}
    return tensors.encode(made, metadata)


def _penalty(task: Training, network: SegmentationNetwork, at: Surroundings) -> Callable[[], Tensor] | None:
    kept = None if isinstance(task, Mutual) else task.consolidation
    if kept is None:
        return None
    anchors, matters = (tensors.decode(at.store.get(digest)) for digest in (kept.anchors, kept.importance))
    return elastic_penalty(network, anchors, matters, kept.strength)


def _rehearse(task: Training, network: SegmentationNetwork, at: Surroundings) -> Rehearsing | None:
    if isinstance(task, Mutual) or not task.rehearsals:
        return None
    before = build(task.architecture).to(at.device).eval()
    load_weights(before, at.store.get(task.initial_weights), task.architecture)
    return Rehearsing(task, network, before)


def _said_by(weights: Digest, at: Surroundings) -> WeightsMetadata:
    """What stored weights say of themselves; nothing if there are none."""
    return read_metadata(at.store.get(weights)) if weights else WeightsMetadata()


def _consolidate(task: Consolidate, at: Surroundings, size: dict[str, Any]) -> TaskResult:
    """How much each weight matters for what the network knows now, and for what it knew before."""
    started = time.monotonic()
    dataset, before = open_source(task.data), task.consolidation
    indices = split_indices(dataset, task.data.train)
    images = (_whole_batch(task, index).images for index in indices[:MAX_CONSOLIDATED])
    matters = importance(_network_as_it_is(task, at), images, seed=task.seed)
    if before is not None:
        matters = accumulate(tensors.decode(at.store.get(before.importance)), matters, before.decay)
    knowledge = at.store.put(encode_knowledge(task, matters))
    seconds = time.monotonic() - started
    return TaskResult(status=Status.COMPLETED, knowledge=knowledge, environment=environment(at.device), seconds=seconds, **size)


def _initial_network(task: Training, at: Surroundings, lesson: TaskTeaching | None) -> SegmentationNetwork:
    network = build(task.architecture, seed=seeding.derive("initial", task.seed))
    if isinstance(task, Limited) and task.pretrained:
        _take_layers(network, at.store.get(task.pretrained), task)
    if task.initial_weights:
        _start_from(network, task, at)
    if lesson and isinstance(task, Distill) and task.distillation.start == "inherit":
        inherit_weights(network, lesson.fetch_weights(task.teachers[0].weights))
    return network


def _take_layers(network: SegmentationNetwork, stored: bytes, task: Training) -> None:
    """Copies pretrained layers that match, learned on images of the network's scale, and not of its classes in another order."""
    said = read_metadata(stored)
    agree_on_order(said.classes, open_source(task.data).classes)
    agree_on_images(said, task.architecture)
    inherit_weights(network, stored)


def _start_from(network: SegmentationNetwork, task: Training, at: Surroundings) -> None:
    """Installs the weights that the training goes on from. Other classes may be learned, but not the same in another order."""
    stored = at.store.get(task.initial_weights)
    agree_on_order(read_metadata(stored).classes_of(task.architecture), open_source(task.data).classes)
    load_weights(network, stored, task.architecture)


def _pupil(task: Distill, network: SegmentationNetwork, feed: DatasetFeed, lesson: TaskTeaching) -> Pupil:
    """The student with its taps, and a projection to the channels of each teacher's features where an objective needs one.

    Raises:
        ContractError: a tap that the student does not have.
    """
    distillation = task.distillation
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        own = tapped(network.eval(), feed.training_batch(0).images, distillation.student_taps)
        torch.manual_seed(seeding.derive("projections", task.seed))
        projections: dict[str, tuple[str, nn.Module]] = {}
        for index, taught in enumerate(lesson.peek(0) if distillation.projected_taps else ()):
            for tap, its in distillation.projected_taps:
                channels = taught[Payload(form="features", tap=its).name].shape[1]
                projections[f"{index}.{tap}"] = (tap, nn.Conv2d(own[TAP + tap].shape[1], channels, kernel_size=1, bias=False))
    return Pupil(network.train(), distillation.student_taps, projections)


def _evaluate(task: Evaluate, at: Surroundings, size: dict[str, Any]) -> TaskResult:
    """Scores on a split, and the class maps of its first samples for the report."""
    started = time.monotonic()
    scores = measure(task, at)
    return TaskResult(
        status=Status.COMPLETED,
        predictions=at.store.put(class_maps(task, at)),
        environment=environment(at.device),
        seconds=time.monotonic() - started,
        **size,
        **_score_fields(scores),
    )


def class_maps(task: Evaluate, at: Surroundings) -> bytes:
    """What a network makes of the first samples of a split, as an artifact."""
    network, maps = _network_to_score(task, at), {}
    with torch.no_grad():
        for index in split_indices(open_source(task.data), task.data.validation)[:NUM_PICTURES]:
            batch = _whole_batch(task, index)
            with in_precision(at.device, task.arithmetic.precision):
                logits = network(batch.images.to(at.device))["logits"].float()
            full = repeatable.bilinear(logits, batch.labels.shape[-2:])
            maps[f"sample.{index}"] = full.argmax(dim=1)[0].to(torch.uint8).cpu()
    return tensors.encode(maps, {"kind": "predictions"})


def _assess(task: Assess, at: Surroundings, size: dict[str, Any]) -> TaskResult:
    """What a network knows about data."""
    started = time.monotonic()
    classes = _said_by(task.initial_weights, at).classes_of(task.architecture)
    competence = assess(_network_as_it_is(task, at), task, at.device, classes=classes)
    seconds = time.monotonic() - started
    return TaskResult(status=Status.COMPLETED, competence=competence, environment=environment(at.device), seconds=seconds, **size)


def _feature_maps(task: FeatureMaps, at: Surroundings, size: dict[str, Any]) -> TaskResult:
    """What a network makes of views inside."""
    started = time.monotonic()
    maps = feature_maps(_network_as_it_is(task, at), task, at.device)
    knowledge = at.store.put(encode_knowledge(task, maps))
    seconds = time.monotonic() - started
    return TaskResult(status=Status.COMPLETED, knowledge=knowledge, environment=environment(at.device), seconds=seconds, **size)


def _average(task: Average, at: Surroundings, size: dict[str, Any]) -> TaskResult:
    """Weights that are the mean of several networks'."""
    started = time.monotonic()
    weights = at.store.put(averaged(task, [at.store.get(teacher.weights) for teacher in task.teachers]))
    seconds = time.monotonic() - started
    return TaskResult(status=Status.COMPLETED, weights=weights, environment=environment(at.device), seconds=seconds, **size)


def _pack(task: Pack, at: Surroundings, size: dict[str, Any]) -> TaskResult:
    """What is to be handed over, as one piece."""
    started = time.monotonic()
    knowledge = at.store.put(packed(task))
    seconds = time.monotonic() - started
    return TaskResult(status=Status.COMPLETED, knowledge=knowledge, environment=environment(at.device), seconds=seconds, **size)


def _decide(task: Decide, at: Surroundings, size: dict[str, Any]) -> TaskResult:
    """What an agent does about data."""
    started = time.monotonic()
    decision = decision_of(task)
    seconds = time.monotonic() - started
    return TaskResult(status=Status.COMPLETED, decision=decision, environment=environment(at.device), seconds=seconds, **size)


def _network_as_it_is(task: Evaluate | Assess | FeatureMaps | Consolidate, at: Surroundings) -> SegmentationNetwork:
    """The task's network with its weights, in evaluation mode."""
    network = build(task.architecture).to(at.device).eval()
    load_as_learned(network, at.store.get(task.initial_weights), task.architecture)
    return network


def _network_to_score(task: Evaluate, at: Surroundings) -> SegmentationNetwork:
    """The same, as it is to compute."""
    network = _network_as_it_is(task, at)
    if task.arithmetic.folded or task.arithmetic.channels_last:
        first = split_indices(open_source(task.data), task.data.validation)[0]
        with torch.no_grad():
            made_ready(network, task.arithmetic, _whole_batch(task, first).images.to(at.device))
    return network


def _whole_batch(task: Task, index: int) -> Batch:
    with barring.running() if task.data.code else nullcontext():
        view = whole_view(open_source(task.data), index, task.architecture.normalization)
    return Batch(torch.from_numpy(view.image)[None], torch.from_numpy(view.label)[None].long())


def _count_fields(counts: ParameterCounts) -> dict[str, Any]:
    return {
        "num_parameters_total": counts.total,
        "num_parameters_network": counts.network,
        "num_parameters_deploy": counts.deploy,
    }


def _cost_fields(task: Task) -> dict[str, Any]:
    """MACs for one whole image of the dataset."""
    cost: Cost = measure_cost(task.architecture, *_image_size(task))
    return {"num_macs": cost.num_macs, "uncounted_operations": cost.uncounted_operations}


def _latency_ms(task: Limited, at: Surroundings) -> float:
    """Of the network, which takes as long before it is trained as after, for one whole image of the dataset."""
    network = build(task.architecture, seed=task.seed).to(at.device)
    return measure_latency_ms(network, *_image_size(task), at.device, num_channels=task.architecture.num_channels)


def _image_size(task: Task) -> tuple[int, int]:
    """Height and width of the first image that the network is scored on."""
    dataset = open_source(task.data)
    height, width = dataset.sample(split_indices(dataset, task.data.validation)[0]).label.shape
    return height, width


def _score_fields(scores: Scores) -> dict[str, Any]:
    return {
        "miou": scores.miou,
        "class_iou": scores.class_iou,
        "one_class_miou": scores.one_class_miou,
        "accuracy": scores.accuracy,
    }


def _training_fields(trained: Trained) -> dict[str, Any]:
    return {
        "best_epoch": trained.best_epoch,
        "epochs": len(trained.history),
        "history": trained.history,
        "seconds": trained.seconds,
        "images_per_s": trained.images_per_s,
    }


EXECUTIONS: dict[type[Task], Callable[[Any, Surroundings, dict[str, Any]], TaskResult]] = {
    Train: _train,
    Distill: _train,
    Mutual: _train,
    Evaluate: _evaluate,
    Assess: _assess,
    FeatureMaps: _feature_maps,
    Consolidate: _consolidate,
    Average: _average,
    Pack: _pack,
    Decide: _decide,
}
