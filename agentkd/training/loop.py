"""The one training loop. Plain training and distillation differ only in whether teachers add terms to the loss."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from agentkd import seeding
from agentkd.errors import OutOfMemoryError
from agentkd.names import NO_TASK, TaskKey
from agentkd.recipe import Recipe
from agentkd.shortage import lacks_memory
from agentkd.task import EpochResult, Status
from agentkd.training.ahead import Supply, carry
from agentkd.training.batches import Batch, Feed
from agentkd.training.checkpoint import Checkpoints, Progress, State, copy_state, digest_of_state, load_checkpoint
from agentkd.training.forms import arranged, follow_layout
from agentkd.training.losses import LossSettings, Outputs, Terms, TrainingLoss
from agentkd.training.metrics import Scores, evaluate
from agentkd.training.optimization import TrainableNetwork, build_optimizers, set_learning_rate
from agentkd.training.reading import Readings, is_finite, not_finite

Knowledge = tuple[dict[str, Tensor], ...]


class Teaching(Protocol):
    """What teachers add to the steps of a training."""

    @property
    def is_heard(self) -> bool:
        """Whether others hear what the student makes of a step, so that its loss must be known to be finite before the next."""
        ...

    def attend(self, network: nn.Module) -> None:
        """Notes who learns. Comes before the forward pass, which may change running statistics."""
        ...

    def hear(self, step: int, outputs: Outputs) -> Knowledge:
        """What each teacher makes of the step's batch, payloads by name; may be told what the student makes of it. Waits."""
        ...

    def terms(self, hard: Terms, outputs: Outputs, knowledge: Knowledge, batch: Batch, progress: float) -> Terms:
        """The hard loss and what the teachers add to it, weighted."""
        ...

    def secure(self) -> None:
        """Waits until what a training that resumes here needs of the steps so far is on disk."""
        ...

    def can_resume(self, step: int) -> bool:
        """Whether what a training needs of the steps before this one, if it goes on here, is there."""
        ...


class Untaught:
    """Nobody teaches."""

    is_heard = False

    def attend(self, network: nn.Module) -> None:
        """Nobody is there to know."""

    def hear(self, step: int, outputs: Outputs) -> Knowledge:
        """Nothing."""
        return ()

    def terms(self, hard: Terms, outputs: Outputs, knowledge: Knowledge, batch: Batch, progress: float) -> Terms:
        """The hard loss alone."""
        return hard

    def secure(self) -> None:
        """Nothing was said."""

    def can_resume(self, step: int) -> bool:
        """Nothing is needed."""
        return True


@dataclass(frozen=True)
class Hooks:
    """How the loop talks to its surroundings. ``on_step`` may raise to stop the training (cancel).

    It is told of steps in their order, on a GPU when later ones may be under way already.
    """

    on_step: Callable[[int, int, float], None] = lambda step, steps, loss: None
    on_epoch: Callable[[EpochResult], None] = lambda result: None


@dataclass(frozen=True)
class Plan:
    """Everything that decides the result of a training, besides network and data. ``penalty`` is added to the loss.

    So are the terms that ``rehearse`` has for a step and its batch.
    """

    recipe: Recipe
    loss: TrainingLoss
    labels: LossSettings
    seed: int
    prune_below: tuple[float, ...] = ()
    teaching: Teaching = field(default_factory=Untaught)
    penalty: Callable[[], Tensor] | None = None
    rehearse: Callable[[int, Batch], Terms] | None = None


@dataclass(frozen=True)
class Trained:
    """Result of a training. ``weights`` are those that the recipe's ``keep`` asks for."""

    status: Status
    weights: State
    scores: Scores
    best_epoch: int
    history: tuple[EpochResult, ...]
    losses: tuple[float, ...]
    seconds: float
    images_per_s: float


def train(
    network: nn.Module,
    feed: Feed,
    plan: Plan,
    *,
    device: torch.device,
    checkpoint: Path | None = None,
    task: TaskKey = NO_TASK,
    checkpoint_every_s: float = 0.0,
    loaders: int = 0,
    hooks: Hooks | None = None,
) -> Trained:
    """Trains ``network`` in place and returns the kept weights with their validation scores.

    With a ``checkpoint`` path the state is saved every ``checkpoint_every_s`` seconds, after each step if that is 0; a checkpoint
    of the same ``task`` is resumed from, with the same result to the bit as without interruption. It is written, and batches are
    made by as many ``loaders``, on threads of their own, which have ended when this returns or raises.

    Raises:
        NonFiniteLossError: the loss is NaN or infinite.
        OutOfMemoryError: the device has too little memory.
        StorageError: a checkpoint could not be written.
    """
    hooks = hooks or Hooks()
    recipe = plan.recipe
    arranged(network.to(device), recipe).train()
    optimizers = build_optimizers(cast(TrainableNetwork, network).parameter_groups(), recipe)
    can_resume = plan.teaching.can_resume
    found = load_checkpoint(checkpoint, network, optimizers, task=task, can_resume=can_resume) if checkpoint else None
    follow_layout(optimizers)
    progress = found or Progress()
    per_epoch = feed.steps_per_epoch
    total_steps = recipe.epochs * per_epoch
    status = Status.COMPLETED
    clock = _Clock(progress)
    last_save = time.monotonic()
    readings = Readings(device, at_once=plan.teaching.is_heard)
    scores: dict[int, Scores] = {}  # of the epochs that were validated here
    supply = Supply(feed, range(progress.step, total_steps), device, loaders=loaders)

    def tell(losses: list[float]) -> None:
        for loss in losses:
            progress.losses.append(loss)
            progress.loss_sum += loss
            hooks.on_step(len(progress.losses), total_steps, loss)

    with closing(supply), Checkpoints(checkpoint, task) if checkpoint else nullcontext() as checkpoints:
        while progress.step < total_steps:
            batch = supply.take()
            with readings:
                _step(network, optimizers, batch, plan, progress.step, total_steps, device, readings)
            progress.step += 1
            tell(readings.due())
            if progress.step % per_epoch == 0:
                tell(readings.settled())
                if _end_epoch(network, feed, plan, progress, device, clock, hooks, scores):
                    status = Status.PRUNED
                    break
            if checkpoints is None:
                continue
            checkpoints.check()
            if time.monotonic() - last_save > checkpoint_every_s:
                tell(readings.settled())
                clock.update()
                plan.teaching.secure()
                checkpoints.save(network, optimizers, progress)
                last_save = time.monotonic()

    clock.update()
    weights, epoch = (
        (progress.best, progress.best_epoch) if recipe.keep == "best" else (copy_state(network), len(progress.history))
    )
    if epoch != len(progress.history):
        network.load_state_dict(weights)
    return Trained(
        status=status,
        weights=weights,
        scores=scores.get(epoch) or _validate(network, feed, plan, device),
        best_epoch=epoch,
        history=tuple(progress.history),
        losses=tuple(progress.losses),
        seconds=progress.seconds,
        images_per_s=progress.step * recipe.batch_size / progress.seconds,
    )


def _step(
    network: nn.Module,
    optimizers: dict[str, Optimizer],
    batch: Batch,
    plan: Plan,
    step: int,
    total_steps: int,
    device: torch.device,
    readings: Readings,
) -> None:
    """One optimizer step, whose loss is noted. Its only random numbers (dropout) are seeded by the step."""
    recipe, teaching = plan.recipe, plan.teaching
    torch.manual_seed(seeding.derive("step", plan.seed, step))
    set_learning_rate(optimizers["main"], recipe, step, total_steps)
    precision = partial(torch.autocast, device.type, dtype=torch.bfloat16, enabled=recipe.precision == "bfloat16")
    try:
        teaching.attend(network)
        with precision():
            outputs = network(batch.images)
            hard = plan.loss(network, outputs, batch, plan.labels)
        heard = teaching.hear(step, outputs)
        knowledge = tuple({name: carry(payload, device) for name, payload in payloads.items()} for payloads in heard)

        def all_terms(hard: Terms, outputs: Outputs) -> Terms:
            terms = teaching.terms(hard, outputs, knowledge, batch, step / total_steps)
            terms = terms | {"penalty": plan.penalty()} if plan.penalty else terms
            return terms | plan.rehearse(step, batch) if plan.rehearse else terms

        with precision():
            terms = all_terms(hard, outputs)
            loss = torch.stack([term.float() for term in terms.values()]).sum()
        readings.note(step, loss, terms, outputs)
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if step == 0 and not is_finite(p.grad for p in network.parameters()):  # later it would look like weights grown too large
            with precision():
                outputs = network(batch.images)
                again = all_terms(plan.loss(network, outputs, batch, plan.labels), outputs)
            is_sound = is_finite(outputs.values())
            raise not_finite(step, terms, has_finite_outputs=is_sound, culprits=_without_gradient(network, again))
    except RuntimeError as error:
        if not lacks_memory(error):
            raise
        text = f"{device} has too little memory for batch {tuple(batch.images.shape)}; lower recipe.batch_size or the crop"
        raise OutOfMemoryError(text) from error
    if recipe.clip_norm:
        nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
    for optimizer in optimizers.values():
        optimizer.step()


def _without_gradient(network: nn.Module, terms: Terms) -> tuple[str, ...]:
    """The terms whose own gradient is not finite. Those of a step that failed, computed again: gradients of each cost memory."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]

    def has_none(term: Tensor) -> bool:
        gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True) if term.requires_grad else ()
        return not is_finite(gradients)

    return tuple(name for name, term in terms.items() if has_none(term))


def _end_epoch(
    network: nn.Module,
    feed: Feed,
    plan: Plan,
    progress: Progress,
    device: torch.device,
    clock: "_Clock",
    hooks: Hooks,
    validated: dict[int, Scores],
) -> bool:
    """Validates where the recipe says so, remembers the best weights, and says whether the trial is to be pruned."""
    epoch = progress.step // feed.steps_per_epoch
    scores = _validate(network, feed, plan, device) if plan.recipe.validates(epoch) else None
    if scores is not None:
        validated[epoch] = scores
    if scores is not None and scores.judged_by > progress.best_score:
        progress.best_score, progress.best_epoch = scores.judged_by, epoch
        if plan.recipe.keep == "best":
            progress.best = copy_state(network)
    clock.update()
    seconds = progress.seconds - sum(past.seconds for past in progress.history)
    loss = progress.loss_sum / feed.steps_per_epoch
    is_copied = bool(progress.best) and progress.best_epoch == epoch
    result = EpochResult(
        epoch=epoch,
        loss=loss,
        miou=scores.miou if scores else None,
        accuracy=scores.accuracy if scores else None,
        seconds=seconds,
        weights=digest_of_state(progress.best if is_copied else network.state_dict()),
    )
    progress.history.append(result)
    progress.loss_sum = 0.0
    hooks.on_epoch(result)
    judged = [past.judged_by for past in progress.history if past.judged_by is not None]
    return scores is not None and is_below(plan.prune_below, epoch, max(judged))


def is_below(bounds: Sequence[float], epoch: int, best: float) -> bool:
    """Whether a training is stopped after a validated epoch, from 1, with the best score so far: the bounds are of each epoch."""
    return epoch <= len(bounds) and best < bounds[epoch - 1]


def _validate(network: nn.Module, feed: Feed, plan: Plan, device: torch.device) -> Scores:
    labels, precision = plan.labels, plan.recipe.validation_precision
    with closing(feed.validation_batches()) as batches:
        return evaluate(network, batches, labels.num_classes, labels.ignore_index, device, precision)


class _Clock:
    """Adds the time since the last update to ``progress.seconds``, so that interrupted trainings count once."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.last = progress, time.monotonic()

    def update(self) -> None:
        now = time.monotonic()
        self.progress.seconds += now - self.last
        self.last = now
