"""What a guest hands in is looked at like what a stranger says, before it counts: nobody's word makes a network good."""

import logging
import random
import threading
from typing import Any

from agentkd.agents.feeding import open_source
from agentkd.agents.work import sizes
from agentkd.artifacts.own_code import codes_of, let_run
from agentkd.artifacts.store import Store
from agentkd.coordinator.remaking import made_again
from agentkd.errors import AgentKDError, DatasetError, ResultError
from agentkd.knowledge import tensors
from agentkd.knowledge.contracts import agree_on_classes
from agentkd.knowledge.weights import WeightsMetadata, load_weights, read_metadata
from agentkd.names import Digest
from agentkd.networks.build import build
from agentkd.task import (
    Assess,
    Average,
    Consolidate,
    Evaluate,
    FeatureMaps,
    Status,
    Task,
    TaskResult,
    Train,
    Training,
)
from agentkd.visible import visible

MAX_COUNTED = 1000
MAX_HEADER_BYTES, MAX_OTHER_BYTES = 16 * 1024**2, 2 * 1024**3
OF_TRAINING = ("best_epoch", "epochs", "history", "images_per_s", "trace")
OF_SCORES = ("miou", "class_iou", "one_class_miou")

_lot = random.SystemRandom()  # nobody knows beforehand which results are measured again
_measuring = threading.Lock()
_counted: dict[tuple[Digest, Digest], dict[str, Any]] = {}  # under the lock

log = logging.getLogger(__name__)


def inspect(task: Task, result: TaskResult, store: Store, *, share: float = 1.0) -> TaskResult:
    """A result whose artifacts are in the store, with what can be counted here counted here. One at a time; from any thread.

    Of what costs a look at the data this ``share`` is made again here, where the dataset is at hand, and then recorded as it is
    here: scores, competence, feature maps, importance. An average is made again always. Of the rest only what a task of this
    kind makes is kept.

    Raises:
        ResultError: it is none of this task: another status, weights of another network or that are not finite, a history that
            its recipe does not have, or numbers that do not come out here.
    """
    try:
        with _measuring:
            let_run(codes_of(task), store)  # what this coordinator's own user has named, or a visitor with access to the folder
            counted = _only_what_is_made(task, result).replace(**_sizes(task))
            _check_status(task, counted)
            if counted.status is not Status.INFEASIBLE:
                _check_history(task, counted)
                _check_artifacts(task, counted, store)
                if isinstance(task, Average) or _lot.random() < share:
                    counted = made_again(task, counted, store)
    except ResultError:
        raise
    except AgentKDError as error:
        raise ResultError(f"what was handed in is no result of this task: {error}") from error
    return counted


def max_bytes(task: Task, store: Store) -> int:
    """The most that an artifact of a task's result can have: twice what the network's own numbers take, if it is one of those.

    Raises:
        AgentKDError: the network cannot be built here.
    """
    if not isinstance(task, Training | Average | Consolidate):
        return MAX_OTHER_BYTES
    with _measuring:
        let_run(codes_of(task), store)
        state = build(task.architecture).state_dict()
    return MAX_HEADER_BYTES + 2 * sum(tensor.numel() * max(4, tensor.element_size()) for tensor in state.values())


def _sizes(task: Task) -> dict[str, Any]:
    """Counted once for each network and dataset: it takes longer than all else that is looked at."""
    key = task.architecture.digest, task.data.digest
    if key not in _counted:
        if len(_counted) >= MAX_COUNTED:
            _counted.clear()
        try:
            _counted[key] = sizes(task)
        except DatasetError as error:
            log.warning("a guest's result is recorded with the sizes that it says itself: %s", error)
            return {}
    return _counted[key]


def _only_what_is_made(task: Task, result: TaskResult) -> TaskResult:
    """Without what a task of another kind would have, and with a harmless environment."""
    leave_out: tuple[str, ...] = () if isinstance(task, Training) else OF_TRAINING
    leave_out += () if isinstance(task, Training | Evaluate) else OF_SCORES
    plain = {name: TaskResult.model_fields[name].default for name in leave_out}
    environment = {visible(name): visible(value) for name, value in result.environment.items()}
    return result.replace(environment=environment, **plain)


def _check_history(task: Task, result: TaskResult) -> None:
    if not isinstance(task, Training):
        return
    count, wanted = len(result.history), task.recipe.epochs
    is_whole = count == wanted or (result.status is Status.PRUNED and 0 < count < wanted)
    if not is_whole or result.epochs != count or [epoch.epoch for epoch in result.history] != list(range(1, count + 1)):
        raise ResultError(f"it says {result.epochs} epochs and tells of {count}; the recipe has {wanted}")
    if result.best_epoch > count:
        raise ResultError(f"its best epoch is {result.best_epoch} of {count}")


def _check_status(task: Task, result: TaskResult) -> None:
    may = {Status.COMPLETED}
    if isinstance(task, Train):
        is_too_large = 0 < task.max_deploy_parameters < result.num_parameters_deploy
        is_too_dear = 0 < task.max_num_macs < result.num_macs
        if is_too_large or is_too_dear:
            may = {Status.INFEASIBLE}
        elif task.prune_below:
            may.add(Status.PRUNED)
    if result.status not in may:
        raise ResultError(f"it says {result.status}, and this task can only be {' or '.join(sorted(may))}")
    if result.exchange is not None and result.exchange.record:
        raise ResultError("it comes with a recording of a lesson, which no guest is asked for")


def _check_artifacts(task: Task, result: TaskResult, store: Store) -> None:
    has = {name for name in ("weights", "knowledge", "predictions", "competence") if getattr(result, name)}
    if isinstance(task, Training | Average):
        _must_be(has, {"weights"})
        stored = store.get(result.weights)
        load_weights(build(task.architecture), stored, task.architecture)
        _check_meaning(task, read_metadata(stored))
        if result.trace:
            tensors.decode(store.get(result.trace))
    elif isinstance(task, Evaluate):
        _must_be(has, has & {"predictions"})
    elif isinstance(task, Assess):
        _must_be(has, {"competence"})
    elif isinstance(task, FeatureMaps | Consolidate):
        _must_be(has, {"knowledge"})
        given = tensors.decode(store.get(result.knowledge))
        if isinstance(task, Consolidate):
            tensors.match(given, dict(build(task.architecture).named_parameters()))


def _check_meaning(task: Training | Average, said: WeightsMetadata) -> None:
    """What the weights say of themselves, if they do, is what the task made them of."""
    if said.architecture not in (None, task.architecture):
        raise ResultError("its weights say that they are of another architecture")
    try:
        agree_on_classes(said.classes, open_source(task.data).classes)
    except DatasetError as error:
        log.warning("the classes of a guest's weights were not compared: %s", error)


def _must_be(has: set[str], expected: set[str]) -> None:
    if has != expected:
        named = ", ".join(sorted(has)) or "nothing"
        raise ResultError(f"it holds {named}; this task makes {', '.join(sorted(expected)) or 'scores alone'}")
