"""Weights that people have, matched with a network by name and shape, and reported on. They are read in ``checkpoints``."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from agentkd.errors import ConfigError
from agentkd.networks.blocks import SegmentationNetwork

# Where a network keeps the backbone that a checkpoint may hold alone (ImageNet ResNet-18 for the context path), or a user's own.
PLACES = ("", "context.", "network.")
# Prefixes of so many parts are looked at: module., _orig_mod.module., model.net.
MAX_PREFIX = 3
# Counted by networks that never use it, and not there in files of before PyTorch 0.4.1.
COUNTER = "num_batches_tracked"


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


def import_weights(network: SegmentationNetwork, tensors: Mapping[str, Tensor], *, source: object = "weights") -> ImportReport:
    """Copies every tensor whose name and shape match into the network, whatever stands before all names in the file.

    That is ``module.`` of parallel training, ``_orig_mod.`` of a compiled network, ``model.`` of a frame around it. A backbone's
    own names are found too, and those of a user's own network, which has its place inside ours.

    Args:
        network: takes them.
        tensors: by their names in the file.
        source: where the tensors are from, for an error to say.

    Raises:
        ConfigError: nothing matches, several networks in the file do alike, or a tensor is not finite.
    """
    own = network.state_dict()
    given = _as_named_here(tensors, own, source)
    reshaped = tuple(name for name, value in given.items() if name in own and own[name].shape != value.shape)
    loaded = tuple(name for name in given if name in own and name not in reshaped)
    if not loaded:
        examples = ", ".join(list(tensors)[:3])
        raise ConfigError(f"{source}: none of the tensors ({examples}, ...) belong to this network; is it the right family?")
    strange = [name for name in loaded if given[name].is_floating_point() and not bool(given[name].isfinite().all())]
    if strange:
        raise ConfigError(f"{source}: not finite (NaN or infinite): {', '.join(strange[:3])}")
    network.load_state_dict({**own, **{name: given[name].to(own[name].dtype) for name in loaded}})
    return ImportReport(
        loaded=loaded,
        missing=tuple(name for name in own if name not in given and not name.endswith(COUNTER)),
        unexpected=tuple(name for name in given if name not in own),
        reshaped=reshaped,
    )


def _as_named_here(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], source: object) -> dict[str, Tensor]:
    """The tensors by the network's names: without the prefix, and in the place, with which most of them are the network's.

    Raises:
        ConfigError: two prefixes fit alike: there are two networks in the file.
    """
    best: dict[str, str] = {}
    rivals: list[str] = []
    chosen = ("", "")
    for prefix in dict.fromkeys(prefix for name in tensors for prefix in _prefixes(name)):
        for place in PLACES:
            renamed = {name: place + name.removeprefix(prefix) for name in tensors if name.startswith(prefix)}
            fitting = {name: new for name, new in renamed.items() if new in own}
            if len(fitting) > len(best):
                best, rivals, chosen = fitting, [], (prefix, place)
            elif best and len(fitting) == len(best) and not fitting.keys() & best.keys():
                rivals.append(prefix)
    prefix, place = chosen
    if rivals:
        several = ", ".join([prefix, *rivals])
        raise ConfigError(f"{source}: several networks in it fit ({several}); save the one that is meant alone")
    return {place + name.removeprefix(prefix) if name.startswith(prefix) else name: value for name, value in tensors.items()}


def _prefixes(name: str) -> Iterator[str]:
    """What may stand before a name, the shortest first: nothing, and its first parts."""
    parts = name.split(".")
    yield from (".".join([*parts[:count], ""]) for count in range(min(len(parts), MAX_PREFIX + 1)))
