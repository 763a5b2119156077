"""What a guest says of its work that nobody can make again: held to what its task allows, and left out where it says more.

Nothing here looks at data or weights; what those say is handed in.
"""

import logging
import math
from pathlib import Path

import torch

from agentkd.datasets.shared import SharedDataset
from agentkd.errors import ResultError
from agentkd.exchange.pieces import MAX_PIECE_BYTES
from agentkd.knowledge.sharing import ARCHITECTURE, decode_architecture
from agentkd.knowledge.tensors import Tensors
from agentkd.names import NO_DIGEST, Digest
from agentkd.task import (
    Assess,
    Competence,
    EpochResult,
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
from agentkd.task.inputs import ENERGY
from agentkd.training.loop import is_below
from agentkd.visible import visible_line

AGREES_WITHIN = 0.01  # of a share, or of the largest number of a tensor: other devices add up in another order
LARGEST_LOSS = torch.finfo(torch.float32).max
ROUNDING = 1e-3  # below zero, of losses that are sums of divergences
MAX_SECONDS, MAX_MEMORY_BYTES = 10 * 366 * 86_400.0, 2**46
MAX_LATENCY_MS = 1000 * MAX_SECONDS
MAX_PACE = 1e7  # images a second
MAX_SURROUNDINGS, MAX_NAME, MAX_VALUE = 32, 64, 256
MAX_ASKINGS = 4  # of one question: a teacher may be busy, lack the data, or be replaced

log = logging.getLogger(__name__)


def bounded(result: TaskResult) -> TaskResult:
    """The result with its surroundings in harmless and short text, its times and memory possible, and no error."""
    listed = list(result.environment.items())[:MAX_SURROUNDINGS]
    return result.replace(
        environment={visible_line(name)[:MAX_NAME]: visible_line(value)[:MAX_VALUE] for name, value in listed},
        seconds=_possible(result.seconds),
        peak_memory_bytes=result.peak_memory_bytes if result.peak_memory_bytes <= MAX_MEMORY_BYTES else 0,
        error_code="",
        error_text="",
    )


def pace(num_images: float, seconds: float) -> float:
    """Images a second, of so many in a time that somebody says; 0 where nobody can have been so fast."""
    return num_images / seconds if seconds > 0 and num_images <= MAX_PACE * seconds else 0.0


def check_history(task: Training, result: TaskResult) -> None:
    """Checks that a history is one of the task's recipe, and that the training ended as it says: completed, or pruned.

    Raises:
        ResultError: it is not.
    """
    history, wanted = result.history, task.recipe.epochs
    count = len(history)
    is_whole = count == wanted or (result.status is Status.PRUNED and 0 < count < wanted)
    if not is_whole or result.epochs != count or [epoch.epoch for epoch in history] != list(range(1, count + 1)):
        raise ResultError(f"it says {result.epochs} epochs and tells of {count}; the recipe has {wanted}")
    for epoch in history:
        _check_loss(task, epoch.loss, f"epoch {epoch.epoch}")
        if epoch.miou is None and task.recipe.validates(epoch.epoch):
            raise ResultError(f"it tells no mIoU of epoch {epoch.epoch}, which the recipe has validated")
        if epoch.accuracy is not None and None in (result.accuracy, epoch.miou):
            raise ResultError(f"it tells an accuracy of epoch {epoch.epoch}, and none of its weights, or no mIoU")
    if result.best_epoch > count or (task.recipe.keep == "best" and result.best_epoch and not _is_best(task, result)):
        raise ResultError(f"its best epoch is {result.best_epoch} of {count}, by its own history another")
    pruned_at = _pruned_at(task, history)
    if pruned_at != (count if result.status is Status.PRUNED else 0):
        by_it = f"is pruned after epoch {pruned_at}" if pruned_at else "is never pruned"
        raise ResultError(f"it says {result.status} after epoch {count}, and by prune_below and its own history it {by_it}")


def kept_epoch(task: Training, result: TaskResult) -> int:
    """The epoch whose weights the recipe has handed in."""
    if task.recipe.keep == "last":
        return len(result.history)
    scored = [epoch for epoch in result.history if epoch.miou is not None and task.recipe.validates(epoch.epoch)]
    return result.best_epoch or max(scored, key=lambda epoch: (epoch.judged_by or 0.0, -epoch.epoch)).epoch


def history_by(task: Training, result: TaskResult, state: Digest, *, is_measured: bool) -> TaskResult:
    """The result with a history that is above what its weights have nowhere, and names weights only where they are these.

    Args:
        task: what was to be done.
        result: its mIoU is that of the weights; its history has passed ``check_history``.
        state: digest of the weights' numbers (``training.checkpoint.digest_of_state``).
        is_measured: whether the mIoU was measured here, or is what the guest says.

    Raises:
        ResultError: the history has another mIoU for the epoch of these weights.
    """
    kept = kept_epoch(task, result)
    said = result.history[kept - 1].miou or 0.0
    if said - result.miou > AGREES_WITHIN or (is_measured and result.miou - said > AGREES_WITHIN):
        raise ResultError(
            f"its history has an mIoU of {100 * said:.2f} % for epoch {kept}, whose weights are handed in, "
            f"and these have {100 * result.miou:.2f} %"
        )

    ceiling = result.miou if is_measured else max(result.miou, said)

    def settled(epoch: EpochResult) -> EpochResult:
        miou = epoch.miou if task.recipe.validates(epoch.epoch) else None
        weights, seconds = NO_DIGEST, _possible(epoch.seconds)
        if epoch.epoch == kept:
            miou, weights = (result.miou if is_measured else miou), (state if epoch.weights == state else NO_DIGEST)
        elif miou is not None and miou > ceiling:
            miou = ceiling if task.recipe.keep == "best" else None  # by rounding; or of weights that nobody has here
        accuracy = epoch.accuracy if miou is not None else None
        if accuracy is not None and result.accuracy is not None and (epoch.epoch == kept or accuracy > result.accuracy):
            accuracy = result.accuracy
        return epoch.replace(miou=miou, accuracy=accuracy, weights=weights, seconds=seconds)

    return result.replace(history=tuple(map(settled, result.history)), best_epoch=kept)


def check_trace(task: Training, result: TaskResult, trace: Tensors, steps_per_epoch: int) -> None:
    """Checks that a trace has the loss of each step of the history, and nothing else.

    Raises:
        ResultError: it does not.
    """
    losses, wanted = trace.get("loss"), len(result.history) * steps_per_epoch
    if losses is None or len(trace) > 1 or losses.dtype != torch.float64 or tuple(losses.shape) != (wanted,):
        told = ", ".join(f"{name} {tuple(value.shape)} {value.dtype}" for name, value in list(trace.items())[:3])
        raise ResultError(f"its trace holds {told or 'nothing'}; the task has {wanted} steps: loss ({wanted},) torch.float64")
    for extreme in (losses.min(), losses.max()) if wanted else ():
        _check_loss(task, float(extreme), "a step")
    means = losses.view(len(result.history), -1).mean(dim=1).tolist()
    for epoch, mean in zip(result.history, means, strict=True):
        if not math.isclose(epoch.loss, mean, rel_tol=1e-6, abs_tol=1e-9):
            raise ResultError(f"its history has a loss of {epoch.loss:g} for epoch {epoch.epoch}, and its trace {mean:g}")


def exchange_of(task: Task, said: ExchangeSummary | None, num_steps: int | None) -> ExchangeSummary | None:
    """What crossed the wire, if a task of so many steps can have that; ``num_steps`` is ``None`` if nobody knows here."""
    if said is None or not isinstance(task, Taught) or num_steps is None:
        return None
    num_teachers = len(task.partners) if isinstance(task, Mutual) else len(task.teachers)
    questions = (num_steps + 2) * num_teachers  # weights to begin with, and a look at what comes
    times = (said.waited_s, said.teacher_s, said.saved_s, said.kept_s)
    is_possible = (
        said.requests <= MAX_ASKINGS * questions
        and said.cached <= said.requests
        and said.recorded <= questions
        and said.bytes_received <= (said.requests + said.recorded) * MAX_PIECE_BYTES
        and all(time == _possible(time) for time in times)
    )
    if not is_possible:
        log.warning(
            "what a guest says of its lesson is left out: %s, in %d steps with %d teachers", said, num_steps, num_teachers
        )
    return said if is_possible else None


def check_competence(task: Assess, said: Competence) -> None:
    """Checks that competence is of the task's weights, data and classes, and holds what the task asks for.

    Raises:
        ResultError: it is not, or does not.
    """
    expected = {"weights": task.initial_weights, "dataset": task.data.content_digest, "split": task.data.validation}
    for name, value in expected.items():
        if getattr(said, name) != value:
            raise ResultError(f"its competence has another {name} than the task")
    num_classes, knows_home = task.architecture.num_classes, task.home is not None
    if len(said.predicted) != num_classes or len(said.class_iou) not in (0, num_classes):
        raise ResultError(f"its competence is not of {num_classes} classes")
    is_labelled = said.miou is not None
    if (bool(said.class_iou), said.calibration_error is not None) != (is_labelled, is_labelled):
        raise ResultError("its competence is of labelled images by half")
    if said.score != task.score:
        raise ResultError(f"its competence is by {said.score}; the task asks for {task.score}")
    is_by_energy = knows_home and task.score == ENERGY
    if (said.known_fraction is not None, said.energies is not None) != (knows_home, is_by_energy):
        raise ResultError(f"its competence is {'not ' if knows_home else ''}held against data that the network knows")
    if abs(sum(said.predicted) - 1) > AGREES_WITHIN:
        raise ResultError(f"its competence predicts {sum(said.predicted):g} of all pixels")


def check_importance(said: Tensors) -> None:
    """Checks that importance, which is a mean of squares, is nowhere below zero.

    Raises:
        ResultError: it is.
    """
    for name, value in said.items():
        if value.numel() and float(value.min()) < 0:
            raise ResultError(f"its importance of {name} is below zero")


def check_maps(task: FeatureMaps, said: Tensors) -> None:
    """Checks that feature maps are of the task's views and taps.

    Raises:
        ResultError: they are not.
    """
    wanted, count = {"logits", *task.taps}, len(task.views)
    if said.keys() != wanted:
        raise ResultError(f"it holds maps of {', '.join(sorted(said)[:5])}; the task asks for {', '.join(sorted(wanted))}")
    for name, value in said.items():
        if value.dtype != torch.float32 or value.shape[:1] != (count,):
            raise ResultError(f"its {name} is {tuple(value.shape)} {value.dtype}; the task has {count} views, of float32")


def check_packed(task: Pack, file: Path, digest: Digest) -> None:
    """Checks that a piece is what its task asks for: the architecture, or data of the task's splits and for its network.

    Raises:
        ResultError: it is not.
        AgentKDError: it is no such piece.
    """
    if task.what == ARCHITECTURE:
        said, _ = decode_architecture(file.read_bytes())
        if said != task.architecture:
            raise ResultError("its piece is another architecture than the task's")
        return
    data = SharedDataset(file, digest)
    if tuple(data.splits) != task.splits or len(data.classes) > task.architecture.num_classes:
        told = f"splits {', '.join(data.splits)} of {len(data.classes)} classes"
        raise ResultError(f"its data have {told}; the task asks for {', '.join(task.splits)}")


def check_limits_as_said(task: Task, result: TaskResult) -> None:
    """Checks that a network is within its task's limits, also where its MACs are not counted here but said.

    Raises:
        ResultError: it is not.
    """
    if isinstance(task, Limited) and 0 < task.max_num_macs < result.num_macs:
        raise ResultError(
            f"it says {result.status} of a network of {result.num_macs:,} MACs; the task allows {task.max_num_macs:,}"
        )


def check_latency(task: Training, result: TaskResult) -> None:
    """Checks that a latency is told if the task asks for one, and only then. It is a guest's word: nobody here has its device.

    Raises:
        ResultError: it is not, or no network takes so long.
    """
    wants = isinstance(task, Limited) and task.measures_latency
    if wants != bool(result.latency_ms) or result.latency_ms > MAX_LATENCY_MS:
        asked = "asks for one" if wants else "does not ask for one"
        raise ResultError(f"it says a latency of {result.latency_ms:g} ms, and its task {asked}")


def check_classes(task: Task, result: TaskResult) -> None:
    """Checks that scores are of as many classes as the task has.

    Raises:
        ResultError: they are not.
    """
    if len(result.class_iou) not in (0, task.architecture.num_classes):
        raise ResultError(f"its class_iou is of {len(result.class_iou)} classes, the task has {task.architecture.num_classes}")


def _possible(seconds: float) -> float:
    return seconds if seconds <= MAX_SECONDS else 0.0


def _check_loss(task: Training, loss: float, where: str) -> None:
    has_own = not isinstance(task, Train) and bool(task.distillation.codes)  # which may go below zero
    least = -LARGEST_LOSS if has_own else -ROUNDING
    if not least <= loss <= LARGEST_LOSS:
        raise ResultError(f"it says a loss of {loss:g} for {where}, which its task cannot have")


def _is_best(task: Training, result: TaskResult) -> bool:
    said = result.history[result.best_epoch - 1]
    scores = [epoch.judged_by for epoch in result.history if task.recipe.validates(epoch.epoch)]
    return task.recipe.validates(said.epoch) and said.judged_by == max(score for score in scores if score is not None)


def _pruned_at(task: Training, history: tuple[EpochResult, ...]) -> int:
    """The epoch after which the training is stopped; 0 for none."""
    bounds = task.prune_below if isinstance(task, Limited) else ()
    best = -1.0
    for epoch in history:
        if epoch.miou is None or not task.recipe.validates(epoch.epoch):
            continue
        best = max(best, epoch.judged_by or 0.0)
        if is_below(bounds, epoch.epoch, best):
            return epoch.epoch
    return 0
