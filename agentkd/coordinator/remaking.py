"""What a guest hands in, made again here: its numbers are held against these, which are then recorded in their place."""

import logging
from typing import Any

import torch

from agentkd.agents.work import Surroundings, class_maps, execute, measure
from agentkd.artifacts.store import Store
from agentkd.coordinator.hearsay import AGREES_WITHIN
from agentkd.errors import DatasetError, ResultError
from agentkd.knowledge import tensors
from agentkd.task import Assess, Average, Competence, Decide, Evaluate, Pack, Task, TaskResult, Training

TINY = 1e-12
MADE_UP = "the guest sees other data, or made it up"

log = logging.getLogger(__name__)


def made_again(task: Task, result: TaskResult, store: Store) -> TaskResult | None:
    """The result with what comes out here in place of what it says, which must be nearly the same.

    Of a training the scores are measured again. ``None`` without the dataset, but for an average, which needs none.

    Raises:
        ResultError: something else comes out here.
    """
    try:
        if isinstance(task, Training | Evaluate):
            return result.replace(**_scores(task, result, store))
        ours = execute(task, Surroundings(store, torch.device("cpu")), size={})
    except DatasetError as error:
        log.warning("a guest's result was not made again: %s", error)
        return None
    if isinstance(task, Assess):
        _compare_competence(result.competence, ours.competence)
        return result.replace(competence=ours.competence)
    if isinstance(task, Decide):
        if result.decision != ours.decision:
            raise ResultError(f"it decides {result.decision}, and by its rules it is {ours.decision}")
        return result
    if isinstance(task, Pack):
        if result.knowledge != ours.knowledge:
            raise ResultError(f"its piece is {result.knowledge[:12]}, and here it is {ours.knowledge[:12]}; {MADE_UP}")
        return result
    made = "weights" if isinstance(task, Average) else "knowledge"
    _compare_tensors(*(tensors.decode(store.get(getattr(one, made))) for one in (result, ours)))
    return result.replace(**{made: getattr(ours, made)})


def pictures(task: Evaluate, store: Store) -> bytes:
    """The class maps of an evaluation, whatever maps were handed in; empty without the dataset."""
    try:
        return class_maps(task, Surroundings(store, torch.device("cpu")))
    except DatasetError as error:
        log.warning("a guest's class maps were left out: %s", error)
        return b""


def _scores(task: Training | Evaluate, result: TaskResult, store: Store) -> dict[str, Any]:
    weights = task.initial_weights if isinstance(task, Evaluate) else result.weights
    look = Evaluate(architecture=task.architecture, data=task.data, initial_weights=weights)
    found = measure(look, Surroundings(store, torch.device("cpu")))
    if abs(found.miou - result.miou) > AGREES_WITHIN:
        raise ResultError(
            f"it says an mIoU of {100 * result.miou:.2f} %, and here these weights have {100 * found.miou:.2f} %; {MADE_UP}"
        )
    if result.accuracy is not None and not _agree(found.accuracy, result.accuracy):  # who is older says none
        raise ResultError(f"it says an accuracy of {result.accuracy}, and here these weights have {found.accuracy}; {MADE_UP}")
    names = ("miou", "class_iou", "one_class_miou", "accuracy")
    return {name: getattr(found, name) for name in names}


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
    if theirs.num_images != ours.num_images:
        raise ResultError("its competence has another num_images than the task")
    accuracy = theirs.accuracy if theirs.accuracy is not None else ours.accuracy  # who is older says none
    theirs = theirs.replace(accuracy=accuracy)
    shares = [(one.miou, one.accuracy, one.known_fraction, *one.predicted) for one in (theirs, ours)]
    if not all(map(_agree, *shares)):
        raise ResultError(f"its competence is not what comes out here; {MADE_UP}")


def _agree(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= AGREES_WITHIN
