"""What a training is, written down once more in plain torch: the steps one after the other, with nothing of agentkd's in them.

It takes networks that are built already, batches that are made already and settings as plain data. Networks are modules that
return a dictionary with ``logits``; all random numbers are in what it is given.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from reference.losses import LOSSES, cross_entropy, size_of
from reference.objectives import OBJECTIVES, Student, Teacher, Truth, grid_of, reduced, sent
from torch import Tensor, nn
from torch.nn import functional as F

Plain = Mapping[str, Any]
State = dict[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """``parts`` says which of several joined datasets each image comes from."""

    images: Tensor
    labels: Tensor
    parts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Group:
    """Parameters with a rate of their own; ``adam`` those of a discriminator. Those that do not decay have no weight decay."""

    parameters: Sequence[nn.Parameter]
    rate: float = 1.0
    adam: bool = False
    decays: bool = True


@dataclass(frozen=True)
class Teaching:
    """A teacher: a network, and how it is told apart."""

    network: nn.Module
    share: float = 1.0
    class_order: tuple[int, ...] = ()
    class_shares: tuple[float, ...] = ()
    energies: tuple[float, float] | None = None
    parts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Lesson:
    """A distillation's settings, its teachers, and a projection for each number of a teacher and tap of the student."""

    distillation: Plain
    teachers: Sequence[Teaching]
    projections: Mapping[tuple[int, str], nn.Module] = field(default_factory=dict)


@dataclass(frozen=True)
class Consolidation:
    """How much each weight matters, and where it was."""

    anchors: State
    importance: State
    strength: float


@dataclass(frozen=True)
class Course:
    """Everything that a training is a function of, besides the student and its groups."""

    recipe: Plain
    batches: Sequence[Batch]
    validation: Sequence[Batch]
    loss: str
    num_classes: int
    ignore: int
    lesson: Lesson | None = None
    consolidation: Consolidation | None = None


@dataclass(frozen=True)
class Curve:
    """What came of it: the loss of each step, the mIoU of each epoch (or None), and the weights that are kept."""

    losses: list[float]
    mious: list[float | None]
    best_epoch: int
    miou: float
    weights: State


def train(network: nn.Module, groups: Sequence[Group], course: Course) -> Curve:
    """Trains the network in place."""
    recipe = course.recipe
    main = [g for g in groups if not g.adam]
    listed = [
        {"params": list(g.parameters), "lr": 0.0, "weight_decay": recipe["weight_decay"] if g.decays else 0.0} for g in main
    ]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.SGD(listed, momentum=recipe["momentum"])
        if recipe["optimizer"] == "sgd"
        else torch.optim.AdamW(listed, betas=(0.9, 0.999), eps=1e-8)
    ]
    if any(g.adam for g in groups):
        fooled = [p for g in groups if g.adam for p in g.parameters]
        optimizers.append(torch.optim.Adam(fooled, lr=2e-6, betas=(0.5, 0.999)))
    every = [p for g in groups for p in g.parameters]
    an_epoch = len(course.batches) // recipe["epochs"]
    losses: list[float] = []
    mious: list[float | None] = []
    best: tuple[float, int, State] = (-1.0, 0, {})
    for step, batch in enumerate(course.batches):
        for group, its in zip(main, optimizers[0].param_groups, strict=True):
            its["lr"] = group.rate * learning_rate(recipe, step, len(course.batches))
        network.train()
        loss = loss_of_step(network, course, batch, step / len(course.batches))
        for parameter in every:
            parameter.grad = None
        loss.backward()
        losses.append(float(loss.detach()))
        if recipe["clip_norm"]:
            gradients = [p.grad for p in every if p.grad is not None]
            norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in gradients))
            for gradient in gradients if norm > recipe["clip_norm"] else []:
                gradient.mul_(recipe["clip_norm"] / norm)
        for optimizer in optimizers:
            optimizer.step()
        if (step + 1) % an_epoch:
            continue
        epoch = (step + 1) // an_epoch
        is_looked_at = epoch % recipe["validate_every"] == 0 or epoch == recipe["epochs"]
        mious.append(mean_iou(network, course) if is_looked_at else None)
        if is_looked_at and mious[-1] > best[0]:
            best = (mious[-1], epoch, copy.deepcopy(network.state_dict()))
    if recipe["keep"] == "best":
        network.load_state_dict(best[2])
    kept = best[1] if recipe["keep"] == "best" else recipe["epochs"]
    return Curve(losses, mious, kept, mean_iou(network, course), copy.deepcopy(network.state_dict()))


def learning_rate(recipe: Plain, step: int, steps: int) -> float:
    """Rises in equal parts to the full rate, which the last step of the warm-up has, then follows the schedule from its start."""
    full, warm = recipe["learning_rate"], recipe["warmup_steps"]
    if step < warm:
        return full * (step + 1) / warm
    done = (step - warm) / (steps - warm)
    return (
        full
        * {"polynomial": (1 - done) ** recipe["power"], "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}[
            recipe["schedule"]
        ]
    )


def loss_of_step(network: nn.Module, course: Course, batch: Batch, progress: float) -> Tensor:
    d = course.lesson.distillation if course.lesson else None
    taps = sorted({tap for o in d["objectives"] for tap in o.get("taps", {})}) if d else []
    outputs, heard = listened(network, batch.images, taps)
    family = course.loss if course.recipe["loss"] == "family" else "cross_entropy"
    hard = LOSSES[family](network, outputs, batch.images, batch.labels, course.ignore, course.num_classes)
    if d is None:
        total = sum(hard.values())
    else:
        assert course.lesson
        adversary = hard.get("discriminator", 0.0)  # it is not the student that this one teaches
        own = sum(term for name, term in hard.items() if name != "discriminator")
        if d["hard_loss"] == "cross_entropy":
            own, adversary = cross_entropy(outputs["logits"], batch.labels, course.ignore), 0.0
        total = adversary if d["hard_loss"] == "none" else d["alpha"] * own + adversary
        total = total + taught(course.lesson, outputs["logits"], heard, batch, course, progress)
    if course.consolidation:
        c, named = course.consolidation, dict(network.named_parameters())
        pull = sum((c.importance[n].double() * (p.double() - c.anchors[n].double()) ** 2).sum() for n, p in named.items())
        total = total + c.strength / 2 * pull / sum(p.numel() for p in named.values())
    return total


def listened(network: nn.Module, images: Tensor, taps: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The network's outputs, and those of some of its modules by name; a user's own network is the one that it holds."""
    heard: dict[str, Tensor] = {}
    modules = dict(getattr(network, "network", network).named_modules())
    hooks = [modules[tap].register_forward_hook(lambda m, i, out, tap=tap: heard.update({tap: out})) for tap in taps]
    outputs = network(images)
    for hook in hooks:
        hook.remove()
    return outputs, heard


def taught(lesson: Lesson, logits: Tensor, heard: Mapping[str, Tensor], batch: Batch, course: Course, progress: float) -> Tensor:
    """What the objectives add: soft targets by (1 - alpha) times their weight, every other by its weight, as scheduled."""
    d = lesson.distillation
    counts = torch.ones_like(batch.labels, dtype=torch.bool) if d["hard_loss"] == "none" else batch.labels != course.ignore
    routed = any(t.parts for t in lesson.teachers)
    who = (next(i for i, t in enumerate(lesson.teachers) if part in t.parts) for part in (batch.parts if routed else ()))
    truth = Truth(batch.labels, counts, progress, tuple(who))
    projected = {key: module(heard[key[1]]) for key, module in lesson.projections.items()}
    student = Student(logits, heard, projected)
    total = logits.double().sum() * 0
    for o in d["objectives"]:
        teachers = [explained(t, o, d["codec"], batch.images) for t in lesson.teachers]
        weight = o["weight"] * (1 - d["alpha"] if o["kind"] == "soft_targets" else 1.0)
        rising = {"constant": 1.0, "rise": progress, "fall": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}
        total = total + weight * rising[o.get("schedule", "constant")] * OBJECTIVES[o["kind"]](o, student, teachers, truth)
    return total


def explained(teaching: Teaching, o: Plain, codec: str, images: Tensor) -> Teacher:
    """What a teacher, in evaluation mode, says for one objective, as it arrives, its classes in the student's order."""
    teaching.network.eval()
    wanted = sorted(set(o.get("taps", {}).values()))
    with torch.no_grad():
        outputs, heard = listened(teaching.network, images, wanted)
    logits = sent(outputs["logits"], codec, is_logits=True)
    if teaching.class_order:
        logits = torch.stack([logits[:, theirs] for theirs in teaching.class_order], dim=1)
    features: dict[str, Any] = {}
    for tap, x in heard.items():
        features[tap] = sent(reduced(o["kind"], x, o.get("size", 0)), codec, is_logits=False)
        if o["kind"] == "pairwise":
            features[tap] = (features[tap], grid_of(x, o["size"]))
    return Teacher(logits, features, teaching.share, teaching.class_shares, teaching.energies)


def mean_iou(network: nn.Module, course: Course) -> float:
    """In evaluation mode; over the classes that occur in labels or predictions, over all images together."""
    network.eval()
    both, either = [0] * course.num_classes, [0] * course.num_classes
    with torch.no_grad():
        for batch in course.validation:
            logits = F.interpolate(
                network(batch.images)["logits"], size=size_of(batch.labels), mode="bilinear", align_corners=False
            )
            found, counts = logits.argmax(dim=1)[batch.labels != course.ignore], batch.labels[batch.labels != course.ignore]
            for k in range(course.num_classes):
                both[k] += int(((found == k) & (counts == k)).sum())
                either[k] += int(((found == k) | (counts == k)).sum())
    each = [b / e for b, e in zip(both, either, strict=True) if e]
    return sum(each) / len(each)


def inherited(own: State, given: State) -> State:
    """A state with every tensor replaced that the other has by the same name and shape."""
    return {name: given[name] if name in given and given[name].shape == value.shape else value for name, value in own.items()}
