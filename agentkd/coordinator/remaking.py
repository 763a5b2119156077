"""What a guest hands in, made again here: its numbers are held against these, which are then recorded in their place."""

import logging
from typing import Any

import torch

from agentkd.agents.work import Surroundings, execute, measure
from agentkd.artifacts.store import Store
from agentkd.errors import DatasetError, ResultError
from agentkd.knowledge import tensors
from agentkd.task import Assess, Average, Competence, Evaluate, Task, TaskResult, Training

AGREES_WITHIN = 0.01  # of a share, or of the largest number of a tensor: other devices add up in another order
TINY = 1e-12
MADE_UP = "the guest sees other data, or made it up"

log = logging.getLogger(__name__)


def made_again(task: Task, result: TaskResult, store: Store) -> TaskResult:
    """The result with what comes out here in place of what it says, which must be nearly the same.

    Of a training the scores are measured again. Without the dataset it stays as it is, but for an average, which needs none.

    Raises:
        ResultError: something else comes out here.
    """
    try:
        if isinstance(task, Training | Evaluate):
            return result.replace(**_scores(task, result, store))
        ours = execute(task, Surroundings(store, torch.device("cpu")), size={})
    except DatasetError as error:
        log.warning("a guest's result was not made again: %s", error)
        return result
    if isinstance(task, Assess):
        _compare_competence(result.competence, ours.competence)
        return result.replace(competence=ours.competence)
    made = "weights" if isinstance(task, Average) else "knowledge"
    _compare_tensors(*(tensors.decode(store.get(getattr(one, made))) for one in (result, ours)))
    return result.replace(**{made: getattr(ours, made)})


def _scores(task: Training | Evaluate, result: TaskResult, store: Store) -> dict[str, Any]:
    weights = task.initial_weights if isinstance(task, Evaluate) else result.weights
    look = Evaluate(architecture=task.architecture, data=task.data, initial_weights=weights)
    found = measure(look, Surroundings(store, torch.device("cpu")))
    if abs(found.miou - result.miou) > AGREES_WITHIN:
        raise ResultError(
            f"it says an mIoU of {100 * result.miou:.2f} %, and here these weights have {100 * found.miou:.2f} %; {MADE_UP}"
        )
    return {"miou": found.miou, "class_iou": found.class_iou, "one_class_miou": found.one_class_miou}


def _compare_tensors(theirs: tensors.Tensors, ours: tensors.Tensors) -> None:
    tensors.match(theirs, ours)
    for name, value in ours.items():
        if not value.numel():
            continue
        difference, largest = (float(one.double().abs().max()) for one in (theirs[name].double() - value.double(), value))
        if difference > AGREES_WITHIN * max(largest, TINY):
            raise ResultError(f"{name} differs by {difference:g} from what comes out here; {MADE_UP}")


def _compare_competence(theirs: Competence | None, ours: Competence | None) -> None:
    assert theirs is not None and ours is not None
    for name in ("weights", "dataset", "split", "num_images"):
        if getattr(theirs, name) != getattr(ours, name):
            raise ResultError(f"its competence has another {name} than the task")
    shares = [(one.miou, one.known_fraction, *one.predicted) for one in (theirs, ours)]
    if len(shares[0]) != len(shares[1]) or not all(map(_agree, *shares)):
        raise ResultError(f"its competence is not what comes out here; {MADE_UP}")


def _agree(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= AGREES_WITHIN
