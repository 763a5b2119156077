"""The state of an unfinished training as one safetensors file: network, optimizers, best weights so far, and where it stands.

Together with the recipe and the seeds this is everything: a training that resumes from it gives the same bits as one that
was never interrupted. Written to a temporary name and renamed, so a half-written checkpoint is never seen.
"""

import contextlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from agentkd import canonical
from agentkd.errors import ArtifactError, StorageError, check_descriptors
from agentkd.names import Digest, TaskKey
from agentkd.task import EpochResult

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


def save_checkpoint(
    path: Path, network: nn.Module, optimizers: dict[str, Optimizer], progress: Progress, *, task: TaskKey
) -> None:
    """Writes the state atomically.

    Raises:
        StorageError: the disk is full or not writable; an older checkpoint stays as it was.
    """
    tensors = {f"network/{name}": value for name, value in copy_state(network).items()}
    tensors["losses"] = torch.tensor(progress.losses, dtype=torch.float64)
    tensors |= {f"best/{name}": value for name, value in progress.best.items()}
    for kind, optimizer in optimizers.items():
        for index, slots in optimizer.state_dict()["state"].items():
            for slot, value in slots.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer/{kind}/{index}/{slot}"] = value.cpu().contiguous()
    metadata = {
        "task": task,
        "progress": json.dumps(
            {
                "step": progress.step,
                "seconds": progress.seconds,
                "loss_sum": progress.loss_sum,
                "history": [epoch.canonical() for epoch in progress.history],
                "best_miou": progress.best_score,
                "best_epoch": progress.best_epoch,
            }
        ),
    }
    temporary = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, metadata=metadata)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise StorageError.of(path, error) from error


def load_checkpoint(path: Path, network: nn.Module, optimizers: dict[str, Optimizer], *, task: TaskKey) -> Progress | None:
    """Restores the state in place and says where it stands; ``None`` if there is no checkpoint of this task.

    Raises:
        ArtifactError: the file is damaged.
        DescriptorsError: no file can be opened now.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        check_descriptors(path, error)
        raise ArtifactError(f"checkpoint {path} is damaged ({error}); remove it to start this task again") from error
    if metadata.get("task") != task:
        return None
    network.load_state_dict(_below(tensors, "network/"))
    for kind, optimizer in optimizers.items():
        _restore_optimizer(optimizer, _below(tensors, f"optimizer/{kind}/"))
    told = json.loads(metadata["progress"])
    told["best_score"] = told.pop("best_miou")
    told["history"] = [EpochResult.model_validate(epoch) for epoch in told["history"]]
    return Progress(**told, best=_below(tensors, "best/"), losses=tensors["losses"].tolist())


def _below(tensors: State, prefix: str) -> State:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _restore_optimizer(optimizer: Optimizer, saved: State) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in saved.items():
        index, _, slot = name.partition("/")
        state.setdefault(int(index), {})[slot] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
