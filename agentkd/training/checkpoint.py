"""The state of an unfinished training as one safetensors file: network, optimizers, best weights so far, and where it stands.

Together with the recipe and the seeds this is everything: a training that resumes from it gives the same bits as one that
was never interrupted. It is written to a temporary name, synced and renamed, so a half-written checkpoint is never seen; it
holds its own digest, and the one before it is kept, so a damaged one is never resumed from and costs no more than is between two.

Of a training only the copy of its state is made where it runs; the rest is up to a thread of its own (``Checkpoints``).
"""

import contextlib
import json
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from agentkd import canonical
from agentkd.durable import make_folder, put_in_place, sync_file
from agentkd.errors import StorageError, ThreadsError, check_descriptors
from agentkd.names import Digest, TaskKey
from agentkd.shortage import start
from agentkd.task import EpochResult
from agentkd.training.optimization import SURROUNDINGS

log = logging.getLogger(__name__)

State = dict[str, Tensor]


@dataclass
class Progress:
    """Where a training stands. ``step`` counts finished optimizer steps."""

    step: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    history: list[EpochResult] = field(default_factory=list)
    best_score: float = -1.0
    best_epoch: int = 0
    best: State = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)


def copy_state(network: nn.Module) -> State:
    """A copy of parameters and buffers on the CPU."""
    return {name: value.to("cpu", copy=True).contiguous() for name, value in network.state_dict().items()}


def state_digest(network: nn.Module) -> Digest:
    """SHA-256 of all parameters and buffers by name, number type and shape, to the bit."""
    return digest_of_state(network.state_dict())


def digest_of_state(state: State) -> Digest:
    """The same of a state."""
    made = canonical.new_digest()
    for name, value in sorted(state.items()):
        flat = value.cpu().contiguous()
        made.update(f"{name} {flat.dtype} {tuple(flat.shape)}\n".encode())
        made.update(flat.reshape(-1).view(torch.uint8).numpy().data)
    return Digest(made.hexdigest())


@dataclass(frozen=True)
class Copied:
    """A training's state as it was: tensors on the CPU that nobody changes until they are written, and what it says."""

    tensors: State
    metadata: dict[str, str]


class Checkpoints:
    """Writes a training's checkpoints, one at a time, on a thread of their own. One thread calls the methods.

    As a context it ends when the last one is written.

    Raises:
        StorageError: a write failed; by the next call, or at the end if nothing else went wrong. An older checkpoint stays.
    """

    def __init__(self, path: Path, task: TaskKey) -> None:
        self._path, self._task = path, task
        self._copies: State = {}
        self._writing: tuple[threading.Thread, Future[None]] | None = None

    def save(self, network: nn.Module, optimizers: dict[str, Optimizer], progress: Progress) -> None:
        """Has the state written as it is now. Waits until the one before is, whose memory it takes."""
        self._wait()
        made = copied(network, optimizers, progress, task=self._task, copies=self._copies)
        written: Future[None] = Future()

        def write() -> None:
            try:
                write_checkpoint(self._path, made)
            except BaseException as error:  # whatever it was: it is raised where the training is
                written.set_exception(error)
            else:
                written.set_result(None)

        thread = threading.Thread(target=write, name="agentkd-checkpoint", daemon=True)
        try:
            start(thread)
        except ThreadsError as error:
            log.warning("%s; the checkpoint is written where the training is", error)
            write_checkpoint(self._path, made)
        else:
            self._writing = thread, written

    def check(self) -> None:
        """Raises what went wrong, if that is known by now."""
        if self._writing is not None and self._writing[1].done():
            self._wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._wait()
        except StorageError as failed:
            if error is None:
                raise
            log.warning("and the last checkpoint could not be written: %s", failed)

    def _wait(self) -> None:
        if self._writing is not None:
            thread, written = self._writing
            thread.join()  # if that is interrupted, it is waited for again at the end
            self._writing = None
            written.result()


def copied(
    network: nn.Module, optimizers: dict[str, Optimizer], progress: Progress, *, task: TaskKey, copies: State | None = None
) -> Copied:
    """The state as it is now.

    Args:
        network: that is trained.
        optimizers: its optimizers by kind.
        progress: where it stands.
        task: whose it is.
        copies: the tensors of a copy of before that nobody needs, to be used again; those of this one afterwards.
    """
    found = {f"network/{name}": value for name, value in network.state_dict().items()}
    for kind, optimizer in optimizers.items():
        for index, slots in optimizer.state_dict()["state"].items():
            found |= {f"optimizer/{kind}/{index}/{slot}": value for slot, value in slots.items() if isinstance(value, Tensor)}
    kept = {} if copies is None else copies
    for name, value in found.items():
        place = kept.get(name)
        if place is None or place.shape != value.shape or place.dtype != value.dtype:
            kept[name] = value.detach().to("cpu", copy=True).contiguous()
        else:
            place.copy_(value.detach())
    tensors = {name: kept[name] for name in found} | {f"best/{name}": value for name, value in progress.best.items()}
    tensors["losses"] = torch.tensor(progress.losses, dtype=torch.float64)
    told = {
        "step": progress.step,
        "seconds": progress.seconds,
        "loss_sum": progress.loss_sum,
        "history": [epoch.canonical() for epoch in progress.history],
        "best_miou": progress.best_score,
        "best_epoch": progress.best_epoch,
    }
    metadata = {"task": task, "progress": json.dumps(told), "surroundings": json.dumps(SURROUNDINGS)}
    return Copied(tensors, metadata)


def write_checkpoint(path: Path, made: Copied) -> None:
    """Writes a state atomically.

    Raises:
        StorageError: the disk is full or not writable; an older checkpoint stays as it was.
    """
    tensors, metadata = made.tensors, made.metadata | {"digest": _digest(made.tensors, made.metadata)}
    temporary = path.with_suffix(f".{os.getpid()}.part")
    try:
        make_folder(path.parent)
        save_file(tensors, temporary, metadata=metadata)
        sync_file(temporary)
        with contextlib.suppress(FileNotFoundError):
            path.replace(before(path))
        put_in_place(temporary, path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise StorageError.of(path, error) from error


def before(path: Path) -> Path:
    """Where the checkpoint before the last lies."""
    return path.with_suffix(".before")


def load_checkpoint(
    path: Path,
    network: nn.Module,
    optimizers: dict[str, Optimizer],
    *,
    task: TaskKey,
    can_resume: Callable[[int], bool] = lambda step: True,
) -> Progress | None:
    """Restores the state in place and says where it stands; ``None`` if there is no sound checkpoint of this task.

    A damaged one is set aside with a warning, and the one before it is looked at.

    Args:
        path: where the last one lies.
        network: the one that is trained.
        optimizers: its optimizers by kind.
        task: whose checkpoint it must be.
        can_resume: whether all else that a training needs that goes on after so many steps is there.

    Raises:
        StorageError: a damaged one cannot be set aside.
        DescriptorsError: no file can be opened now.
    """
    for place in (path, before(path)):
        read = _read(place)
        if read is None or read[1]["task"] != task:
            continue
        tensors, metadata = read
        if json.loads(metadata.get("surroundings", "{}")) != SURROUNDINGS:
            log.warning("checkpoint %s is not used: it is of another version, which updated weights otherwise", place)
            continue
        told = json.loads(metadata["progress"])
        if not can_resume(told["step"]):
            log.warning("checkpoint %s is not used: what was told before step %d is not there as a whole", place, told["step"])
            continue
        network.load_state_dict(_below(tensors, "network/"))
        for kind, optimizer in optimizers.items():
            _restore_optimizer(optimizer, _below(tensors, f"optimizer/{kind}/"))
        told["best_score"] = told.pop("best_miou")
        told["history"] = [EpochResult.model_validate(epoch) for epoch in told["history"]]
        return Progress(**told, best=_below(tensors, "best/"), losses=tensors["losses"].tolist())
    return None


def _read(place: Path) -> tuple[State, dict[str, str]] | None:
    """What stands in a checkpoint; ``None`` if there is none, or a damaged one, which is then elsewhere."""
    if not place.is_file():
        return None
    try:
        with safe_open(place, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        check_descriptors(place, error)
        reason = str(error)
    else:
        digest = metadata.pop("digest", "")
        if digest == _digest(tensors, metadata):
            return tensors, metadata
        reason = "it does not have the digest that it names" if digest else "it names no digest"
    aside = place.with_name(f"{place.name}.damaged")
    try:
        place.replace(aside)
    except OSError as error:
        raise StorageError.of(place, error) from error
    log.warning("checkpoint %s is damaged (%s); it is set aside as %s, and the task goes on from before it", place, reason, aside)
    return None


def _digest(tensors: State, metadata: dict[str, str]) -> str:
    return canonical.digest([metadata, digest_of_state(tensors)])


def _below(tensors: State, prefix: str) -> State:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _restore_optimizer(optimizer: Optimizer, saved: State) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in saved.items():
        index, _, slot = name.partition("/")
        state.setdefault(int(index), {})[slot] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
