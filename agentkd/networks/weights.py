"""Weights that people have: published checkpoints read without unpickling code, matched by name and shape, and reported on."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from agentkd.errors import ConfigError, check_descriptors
from agentkd.networks.blocks import SegmentationNetwork

WRAPPERS = ("state_dict", "model_state_dict", "model")
# What torch raises when a file wants more than plain tensors.
NOT_PLAIN = torch.serialization.pickle.UnpicklingError  # type: ignore[attr-defined]
PREFIXES = ("module.", "model.")
# Where a network keeps the backbone that a checkpoint may hold alone (ImageNet ResNet-18 for the context path).
BACKBONES = ("", "context.")


@dataclass(frozen=True)
class ImportReport:
    """What an import did: tensors loaded, left as they were, not wanted, and of another shape."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded, {len(self.missing)} left as initialized, {len(self.unexpected)} not wanted"]
        if self.reshaped:
            parts.append(f"of another shape (another number of classes?): {', '.join(self.reshaped)}")
        return "; ".join(parts)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` or PyTorch file, by their plain names. Code in the file is never executed.

    Raises:
        ConfigError: no such file, or it holds something else than tensors.
    """
    try:
        found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConfigError(f"no weights file {path}") from None
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        check_descriptors(path, error)
        raise ConfigError(f"{path} cannot be read as weights: {str(error).splitlines()[0]}") from error
    except NOT_PLAIN as error:
        raise ConfigError(f"{path} holds more than tensors; only plain state dicts are read") from error
    for wrapper in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    tensors = (
        {str(name): value for name, value in found.items() if isinstance(value, Tensor)} if isinstance(found, Mapping) else {}
    )
    if not tensors:
        raise ConfigError(f"{path} holds no tensors; expected a state dict")
    for prefix in PREFIXES:
        if any(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    return tensors


def import_weights(network: SegmentationNetwork, tensors: Mapping[str, Tensor]) -> ImportReport:
    """Copies every tensor whose name and shape match into the network; a backbone's own names are found too.

    Raises:
        ConfigError: nothing matches.
    """
    own = network.state_dict()
    backbone = max(BACKBONES, key=lambda prefix: sum(prefix + name in own for name in tensors))
    given = {backbone + name: value for name, value in tensors.items()}
    reshaped = tuple(name for name, value in given.items() if name in own and own[name].shape != value.shape)
    loaded = tuple(name for name in given if name in own and name not in reshaped)
    if not loaded:
        examples = ", ".join(list(given)[:3])
        raise ConfigError(f"none of the tensors ({examples}, ...) belong to this network; is it the right family?")
    network.load_state_dict({**own, **{name: given[name].to(own[name].dtype) for name in loaded}})
    return ImportReport(
        loaded=loaded,
        missing=tuple(name for name in own if name not in given),
        unexpected=tuple(name for name in given if name not in own),
        reshaped=reshaped,
    )
