"""What a guest hands in is looked at like what a stranger says, before it counts: nobody's word makes a network good."""

import logging
import random
import threading
from typing import Any

import torch

from agentkd.agents.feeding import class_weights_of, open_source
from agentkd.agents.work import check_limits, count_parameters, encode_knowledge, encode_trace, sizes
from agentkd.artifacts.own_code import codes_of, let_run
from agentkd.artifacts.store import Store
from agentkd.coordinator import hearsay
from agentkd.coordinator.remaking import made_again, pictures
from agentkd.datasets.order import steps_per_epoch
from agentkd.datasets.samples import split_indices
from agentkd.errors import AgentKDError, DatasetError, InfeasibleArchitectureError, ResultError
from agentkd.knowledge import tensors
from agentkd.knowledge.contracts import agree_on_classes
from agentkd.knowledge.sharing import ARCHITECTURE, MAX_ARCHITECTURE_BYTES
from agentkd.knowledge.weights import WeightsMetadata, encode_weights, load_weights, read_metadata
from agentkd.names import NO_DIGEST, Digest
from agentkd.networks.build import build
from agentkd.task import (
    Assess,
    Average,
    Consolidate,
    Decide,
    Evaluate,
    FeatureMaps,
    Limited,
    Pack,
    Status,
    Task,
    TaskResult,
    Training,
)
from agentkd.training.checkpoint import digest_of_state

MAX_COUNTED = 1000
MAX_HEADER_BYTES, MAX_OTHER_BYTES = 16 * 1024**2, 2 * 1024**3
OF_TRAINING = ("best_epoch", "epochs", "history", "images_per_s", "latency_ms", "trace", "exchange", "class_weights")
OF_SCORES = ("miou", "class_iou", "one_class_miou", "accuracy")
OF_ANY = {"environment", "seconds", "peak_memory_bytes", "error_code", "error_text", "num_macs", "uncounted_operations"}
OF_ANY |= {"num_parameters_total", "num_parameters_network", "num_parameters_deploy"}

_lot = random.SystemRandom()  # nobody knows beforehand which results are measured again
_measuring = threading.Lock()
_counted: dict[tuple[Digest, Digest], dict[str, Any]] = {}  # under the lock

log = logging.getLogger(__name__)


def inspect(task: Task, result: TaskResult, store: Store, *, share: float = 1.0) -> TaskResult:
    """A result whose artifacts are in the store, as it is to be recorded. One at a time; from any thread.

    Of what costs a look at the data this ``share`` is made again here, where the dataset is at hand, and then recorded as it is
    here: scores, competence, feature maps, importance. Averages, packed pieces, sizes and class maps are made here always. All
    other artifacts are stored in this coordinator's own form, with its own metadata, so they may have other digests than those
    that were handed in. What is a guest's word alone is held to what the task allows (``hearsay``), or left out.

    Raises:
        ResultError: it is none of this task: another status, weights of another network or that are not finite, a history that
            its recipe does not have, or numbers that do not come out here.
    """
    try:
        with _measuring:
            let_run(codes_of(task), store)  # what this coordinator's own user has named, or a visitor with access to the folder
            size = _sizes(task)
            took = _told_too_slow(task, result)
            too_large = _why_infeasible(task, size | took)
            _check_status(task, result.status, is_infeasible=bool(too_large))
            if too_large:
                bare = _nothing_else(result.replace(latency_ms=0.0) if took else result)
                return bare.replace(error_code=InfeasibleArchitectureError.code, error_text=too_large, **size, **took)
            said = hearsay.bounded(_only_what_is_made(task, result)).replace(**size)
            made = _check_artifacts(task, said, store)
            is_drawn = isinstance(task, Average | Pack | Decide) or _lot.random() < share
            again = made_again(task, said, store) if is_drawn else None
            if isinstance(task, Training):
                return _training(task, again or said, made, store, is_measured=again is not None)
            if isinstance(task, Evaluate):
                maps = pictures(task, store)
                return (again or said).replace(predictions=store.put(maps) if maps else NO_DIGEST)
            if isinstance(task, FeatureMaps | Consolidate) and again is None:
                return said.replace(knowledge=store.put(encode_knowledge(task, made)))
            return again or said
    except ResultError:
        raise
    except AgentKDError as error:
        raise ResultError(f"what was handed in is no result of this task: {error}") from error


def max_bytes(task: Task, store: Store) -> int:
    """The most that an artifact of a task's result can have: twice what the network's own numbers take, if it is one of those.

    Raises:
        AgentKDError: the network cannot be built here.
    """
    if isinstance(task, Pack) and task.what == ARCHITECTURE:
        return MAX_ARCHITECTURE_BYTES
    if not isinstance(task, Training | Average | Consolidate):
        return MAX_OTHER_BYTES
    with _measuring:
        let_run(codes_of(task), store)
        state = build(task.architecture).state_dict()
    return MAX_HEADER_BYTES + 2 * sum(tensor.numel() * max(4, tensor.element_size()) for tensor in state.values())


def _sizes(task: Task) -> dict[str, Any]:
    """Counted once for each network and dataset: it takes longer than all else that is looked at. Without data, no MACs."""
    key = task.architecture.digest, task.data.digest
    if key not in _counted:
        if len(_counted) >= MAX_COUNTED:
            _counted.clear()
        try:
            _counted[key] = sizes(task)
        except DatasetError as error:
            log.warning("a guest's result is recorded with the MACs that it says itself: %s", error)
            return count_parameters(task) | {"uncounted_operations": ()}
    return _counted[key]


def _only_what_is_made(task: Task, result: TaskResult) -> TaskResult:
    """Without what a task of another kind would have."""
    if result.exchange is not None and result.exchange.record:
        raise ResultError("it comes with a recording of a lesson, which no guest is asked for")
    leave_out: tuple[str, ...] = () if isinstance(task, Training) else OF_TRAINING
    leave_out += () if isinstance(task, Training | Evaluate) else OF_SCORES
    return result.replace(**{name: TaskResult.model_fields[name].default for name in leave_out})


def _why_infeasible(task: Task, size: dict[str, Any]) -> str:
    """Which limit of the task is broken, as it is counted here; empty if none is."""
    try:
        if isinstance(task, Limited):
            check_limits(task, size)
    except InfeasibleArchitectureError as error:
        return str(error)
    return ""


def _told_too_slow(task: Task, result: TaskResult) -> dict[str, float]:
    """The latency by which it says that it broke a limit, and did not begin: a guest's word, since nobody here has its device."""
    limit = task.max_latency_ms if isinstance(task, Limited) and result.status is Status.INFEASIBLE else 0.0
    return {"latency_ms": result.latency_ms} if 0 < limit < result.latency_ms <= hearsay.MAX_LATENCY_MS else {}


def _check_status(task: Task, status: Status, *, is_infeasible: bool) -> None:
    may = {Status.INFEASIBLE if is_infeasible else Status.COMPLETED}
    if isinstance(task, Limited) and task.prune_below and not is_infeasible:
        may.add(Status.PRUNED)
    if status not in may:
        raise ResultError(f"it says {status}, and this task can only be {' or '.join(sorted(may))}")


def _nothing_else(result: TaskResult) -> TaskResult:
    """The result of a task that was not begun; there can be nothing in it."""
    bare = hearsay.bounded(TaskResult(status=result.status, environment=result.environment))
    told = {name for name in TaskResult.model_fields if getattr(result, name) != getattr(bare, name)} - OF_ANY
    if told:
        raise ResultError(f"it says {result.status}, before anything is made, and comes with {', '.join(sorted(told))}")
    return bare


def _check_artifacts(task: Task, said: TaskResult, store: Store) -> tensors.Tensors:
    """Returns what the task has made: weights, or knowledge."""
    has = {name for name in ("weights", "knowledge", "predictions", "competence", "decision") if getattr(said, name)}
    if isinstance(task, Training | Average):
        _must_be(has, {"weights"})
        stored = store.get(said.weights)
        load_weights(build(task.architecture), stored, task.architecture)
        if read_metadata(stored).architecture not in (None, task.architecture):
            raise ResultError("its weights say that they are of another architecture")
        return tensors.decode(stored)
    if isinstance(task, Evaluate):
        _must_be(has, has & {"predictions"})
        hearsay.check_classes(task, said)
    elif isinstance(task, Assess):
        _must_be(has, {"competence"})
        assert said.competence is not None
        hearsay.check_competence(task, said.competence)
    elif isinstance(task, Decide):
        _must_be(has, {"decision"})
    elif isinstance(task, Pack):
        _must_be(has, {"knowledge"})
        hearsay.check_packed(task, store.must_have(said.knowledge), said.knowledge)
    else:
        _must_be(has, {"knowledge"})
        given = tensors.decode(store.get(said.knowledge))
        if isinstance(task, Consolidate):
            tensors.match(given, dict(build(task.architecture).named_parameters()))
            hearsay.check_importance(given)
        else:
            hearsay.check_maps(task, given)
        return given
    return {}


def _training(task: Training, result: TaskResult, state: tensors.Tensors, store: Store, *, is_measured: bool) -> TaskResult:
    """What is recorded of a training: nothing of it is stored before all of it has been looked at."""
    hearsay.check_limits_as_said(task, result)
    hearsay.check_latency(task, result)
    hearsay.check_classes(task, result)
    hearsay.check_history(task, result)
    _check_other_heads(task, state, store)
    each = _steps_per_epoch(task)
    trace = tensors.decode(store.get(result.trace)) if result.trace and each else None
    if trace is not None and each:
        hearsay.check_trace(task, result, trace, each)
    num_steps = each * result.epochs if each else None
    classes = _classes(task, store.get(result.weights))
    before = read_metadata(store.get(task.initial_weights)) if task.initial_weights else WeightsMetadata()
    weights = encode_weights(task.architecture, state, classes, before.heads_with(task.architecture, classes))
    settled = hearsay.history_by(task, result, digest_of_state(state), is_measured=is_measured).replace(
        exchange=hearsay.exchange_of(task, result.exchange, num_steps),
        class_weights=_class_weights(task),
        images_per_s=hearsay.pace((num_steps or 0) * task.recipe.batch_size, result.seconds),
    )
    stored = {"weights": store.put(weights), "trace": store.put(encode_trace(trace["loss"])) if trace else NO_DIGEST}
    return settled.replace(**stored)


def _check_other_heads(task: Training, state: tensors.Tensors, store: Store) -> None:
    """Checks that the heads that did not learn are what they were.

    Raises:
        ResultError: one is not.
    """
    if not (task.architecture.heads and task.initial_weights):
        return
    with torch.device("meta"):
        resting = tuple(f"{name}." for name in build(task.architecture).resting)
    before = tensors.decode(store.get(task.initial_weights))
    changed = [name for name, value in before.items() if name.startswith(resting) and not torch.equal(value, state[name])]
    if changed:
        raise ResultError(f"its {changed[0]} is another than before, and is of a head that does not learn in this task")


def _steps_per_epoch(task: Training) -> int:
    """0 if nobody knows here."""
    recipe = task.recipe
    try:
        count = 0 if recipe.steps_per_epoch else len(split_indices(open_source(task.data), task.data.train))
    except DatasetError as error:
        log.warning("the steps of a guest's training were not counted: %s", error)
        return 0
    return steps_per_epoch(count, recipe.batch_size, recipe.steps_per_epoch)


def _class_weights(task: Training) -> tuple[float, ...]:
    """As they are here, whatever a guest says; without the data none."""
    try:
        return class_weights_of(task)
    except DatasetError as error:
        log.warning("the class weights of a guest's training were not made again: %s", error)
        return ()


def _classes(task: Training, stored: bytes) -> tuple[str, ...]:
    """Those of the data, which the weights may leave out and must not contradict; without the data, what the weights say.

    Raises:
        ContractError: they say others, or another order.
    """
    said = read_metadata(stored).classes_of(task.architecture)
    try:
        known = open_source(task.data).classes
    except DatasetError as error:
        log.warning("the classes of a guest's weights were not compared: %s", error)
        return said
    agree_on_classes(said, known)
    return known


def _must_be(has: set[str], expected: set[str]) -> None:
    if has != expected:
        named = ", ".join(sorted(has)) or "nothing"
        raise ResultError(f"it holds {named}; this task makes {', '.join(sorted(expected)) or 'scores alone'}")
