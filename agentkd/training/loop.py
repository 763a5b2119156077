"""The one training loop. Plain training and distillation differ only in whether teachers add terms to the loss."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from agentkd import seeding
from agentkd.errors import NonFiniteLossError, OutOfMemoryError
from agentkd.names import NO_TASK, TaskKey
from agentkd.recipe import Recipe
from agentkd.task import EpochResult, Status
from agentkd.training.batches import Batch
from agentkd.training.checkpoint import Progress, State, copy_state, load_checkpoint, save_checkpoint, state_digest
from agentkd.training.forms import arranged, follow_layout
from agentkd.training.losses import LossSettings, Outputs, Terms, TrainingLoss
from agentkd.training.metrics import Scores, evaluate
from agentkd.training.optimization import TrainableNetwork, build_optimizers, set_learning_rate

Knowledge = tuple[dict[str, Tensor], ...]


class Feed(Protocol):
    """Where batches come from. ``training_batch`` is a pure function of the step."""

    @property
    def steps_per_epoch(self) -> int: ...
    def training_batch(self, step: int) -> Batch: ...
    def validation_batches(self) -> Iterable[Batch]: ...


class Teaching(Protocol):
    """What teachers add to the steps of a training."""

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
    """How the loop talks to its surroundings. ``on_step`` may raise to stop the training (cancel)."""

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
    checkpoint_every_s: float = math.inf,
    hooks: Hooks | None = None,
) -> Trained:
    """Trains ``network`` in place and returns the kept weights with their validation scores.

    With a ``checkpoint`` path the state is saved after every epoch, and meanwhile every ``checkpoint_every_s`` seconds; a
    checkpoint of the same ``task`` is resumed from, with the same result to the bit as without interruption.

    Raises:
        NonFiniteLossError: the loss is NaN or infinite.
        OutOfMemoryError: the device has too little memory.
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

    while progress.step < total_steps:
        loss = _step(network, optimizers, feed, plan, progress.step, total_steps, device)
        progress.step += 1
        progress.losses.append(loss)
        progress.loss_sum += loss
        hooks.on_step(progress.step, total_steps, loss)
        if progress.step % per_epoch == 0:
            pruned = _end_epoch(network, feed, plan, progress, device, clock, hooks)
            if checkpoint:
                plan.teaching.secure()
                save_checkpoint(checkpoint, network, optimizers, progress, task=task)
                last_save = time.monotonic()
            if pruned:
                status = Status.PRUNED
                break
        elif checkpoint and time.monotonic() - last_save > checkpoint_every_s:
            clock.update()
            plan.teaching.secure()
            save_checkpoint(checkpoint, network, optimizers, progress, task=task)
            last_save = time.monotonic()

    clock.update()
    weights = progress.best if recipe.keep == "best" else copy_state(network)
    network.load_state_dict(weights)
    scores = _validate(network, feed, plan, device)
    return Trained(
        status=status,
        weights=weights,
        scores=scores,
        best_epoch=progress.best_epoch if recipe.keep == "best" else len(progress.history),
        history=tuple(progress.history),
        losses=tuple(progress.losses),
        seconds=progress.seconds,
        images_per_s=progress.step * recipe.batch_size / progress.seconds,
    )


def _step(
    network: nn.Module,
    optimizers: dict[str, Optimizer],
    feed: Feed,
    plan: Plan,
    step: int,
    total_steps: int,
    device: torch.device,
) -> float:
    """One optimizer step; returns the loss. Its only random numbers (dropout) are seeded by the step."""
    recipe, teaching = plan.recipe, plan.teaching
    torch.manual_seed(seeding.derive("step", plan.seed, step))
    batch = feed.training_batch(step)
    batch = Batch(batch.images.to(device), batch.labels.to(device), batch.views)
    set_learning_rate(optimizers["main"], recipe, step, total_steps)
    precision = partial(torch.autocast, device.type, dtype=torch.bfloat16, enabled=recipe.precision == "bfloat16")
    try:
        teaching.attend(network)
        with precision():
            outputs = network(batch.images)
            hard = plan.loss(network, outputs, batch, plan.labels)
        heard = teaching.hear(step, outputs)
        knowledge = tuple({name: payload.to(device) for name, payload in payloads.items()} for payloads in heard)

        def all_terms(hard: Terms, outputs: Outputs) -> Terms:
            terms = teaching.terms(hard, outputs, knowledge, batch, step / total_steps)
            terms = terms | {"penalty": plan.penalty()} if plan.penalty else terms
            return terms | plan.rehearse(step, batch) if plan.rehearse else terms

        with precision():
            terms = all_terms(hard, outputs)
            loss = torch.stack([term.float() for term in terms.values()]).sum()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise _not_finite(step, terms, outputs)
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if step == 0 and not _is_finite(p.grad for p in network.parameters()):  # later it would look like weights grown too large
            with precision():
                outputs = network(batch.images)
                again = all_terms(plan.loss(network, outputs, batch, plan.labels), outputs)
            raise _not_finite(step, terms, outputs, _without_gradient(network, again))
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        text = f"{device} has too little memory for batch {tuple(batch.images.shape)}; lower recipe.batch_size or the crop"
        raise OutOfMemoryError(text) from error
    if recipe.clip_norm:
        nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
    for optimizer in optimizers.values():
        optimizer.step()
    return value


def _not_finite(step: int, terms: Terms, outputs: Outputs, culprits: tuple[str, ...] = ()) -> NonFiniteLossError:
    values = {name: float(term.detach()) for name, term in terms.items()}
    return NonFiniteLossError(step, values, has_finite_outputs=_is_finite(outputs.values()), culprits=culprits)


def _without_gradient(network: nn.Module, terms: Terms) -> tuple[str, ...]:
    """The terms whose own gradient is not finite. Those of a step that failed, computed again: gradients of each cost memory."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]

    def has_none(term: Tensor) -> bool:
        gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True) if term.requires_grad else ()
        return not _is_finite(gradients)

    return tuple(name for name, term in terms.items() if has_none(term))


def _is_finite(tensors: Iterable[Tensor | None]) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors if tensor is not None)


def _end_epoch(
    network: nn.Module, feed: Feed, plan: Plan, progress: Progress, device: torch.device, clock: "_Clock", hooks: Hooks
) -> bool:
    """Validates where the recipe says so, remembers the best weights, and says whether the trial is to be pruned."""
    epoch = progress.step // feed.steps_per_epoch
    scores = _validate(network, feed, plan, device) if plan.recipe.validates(epoch) else None
    if scores is not None and scores.judged_by > progress.best_score:
        progress.best_score, progress.best_epoch = scores.judged_by, epoch
        if plan.recipe.keep == "best":
            progress.best = copy_state(network)
    clock.update()
    seconds = progress.seconds - sum(past.seconds for past in progress.history)
    loss = progress.loss_sum / feed.steps_per_epoch
    result = EpochResult(
        epoch=epoch,
        loss=loss,
        miou=scores.miou if scores else None,
        accuracy=scores.accuracy if scores else None,
        seconds=seconds,
        weights=state_digest(network),
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
    return evaluate(network, feed.validation_batches(), labels.num_classes, labels.ignore_index, device, precision)


class _Clock:
    """Adds the time since the last update to ``progress.seconds``, so that interrupted trainings count once."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.last = progress, time.monotonic()

    def update(self) -> None:
        now = time.monotonic()
        self.progress.seconds += now - self.last
        self.last = now


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error) or "can't allocate memory" in str(error)
