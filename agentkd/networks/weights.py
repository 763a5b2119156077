"""Weights that people have, matched with a network by name and shape, and reported on. They are read in ``checkpoints``."""

import dataclasses
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agentkd.errors import ConfigError
from agentkd.networks.blocks import SegmentationNetwork
from agentkd.networks.checkpoints import AVERAGED

# Prefixes of so many parts are looked at: module., _orig_mod.module., model.net.
MAX_PREFIX = 6
# An ending of a name that more of the network's have says nothing of where it belongs.
MAX_ALIKE = 1000
# Counted by networks that never use it, and not there in files of before PyTorch 0.4.1.
COUNTER = "num_batches_tracked"
# What torch puts into names, wherever a part of a network was compiled, sharded or recomputed.
WRAPPED = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
LEAST_SHARE = 0.5
LEAST_OF_NETWORK = 0.1
MAX_SAID = 6


@dataclass(frozen=True)
class ImportReport:
    """What an import did: tensors loaded, left as they were, not wanted, and of another shape, by the network's names.

    Args:
        loaded: these are the file's now.
        missing: the network has them and the file does not.
        unexpected: the file has them and the network does not.
        reshaped: both have them, with different shapes.
        shapes: of those, in the file and in the network.
        share: of the tensors that could have been loaded, which are as many as whoever has fewer of them has, those that were.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    share: float

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded, {len(self.missing)} left as initialized, {len(self.unexpected)} not wanted"]
        if self.reshaped:
            parts.append(f"of another shape (another number of classes?): {', '.join(self.reshaped)}")
        return "; ".join(parts)

    def as_data(self) -> dict[str, Any]:
        """The same as plain data."""
        return dataclasses.asdict(self)

    def lines(self) -> Iterator[str]:
        """Every tensor that was not loaded, with why, one a line."""
        yield from (f"left as initialized: {name}" for name in self.missing)
        yield from (f"not wanted: {name}" for name in self.unexpected)
        for name in self.reshaped:
            theirs, ours = (list(shape) for shape in self.shapes[name])
            yield f"of another shape: {name} is {theirs} in the file and {ours} in the network"


def import_weights(
    network: SegmentationNetwork,
    tensors: Mapping[str, Tensor],
    *,
    source: object = "weights",
    least_share: float = LEAST_SHARE,
) -> ImportReport:
    """Copies every tensor whose name and shape match into the network, whatever stands before all names in the file.

    That is ``module.`` of parallel training, ``_orig_mod.`` of a compiled network, ``model.`` of a frame around it, in any order.
    Where the file's names are those of a part of the network (a backbone, or a user's own network, which has its place inside
    ours), that part takes them. Number types are turned into the network's.

    Args:
        network: takes them; unchanged if they are refused.
        tensors: by their names in the file.
        source: where the tensors are from, for an error to say.
        least_share: refused below it, see ``ImportReport.share``.

    Raises:
        ConfigError: nothing matches, or less than that share, or less than a tenth of the network; several networks in the file
            match, or parts of the network;  a tensor is not finite, or of integers where the network has none.
    """
    own = network.state_dict()
    given, others = _as_named_here(tensors, own)
    shapes = {n: (tuple(value.shape), tuple(own[n].shape)) for n, value in given.items() if n in own}
    reshaped = tuple(name for name, (theirs, ours) in shapes.items() if theirs != ours)
    loaded = tuple(name for name in shapes if name not in reshaped)
    report = ImportReport(
        loaded=loaded,
        missing=tuple(name for name in own if name not in given and not name.endswith(COUNTER)),
        unexpected=tuple(name for name in given if name not in own),
        reshaped=reshaped,
        shapes={name: shapes[name] for name in reshaped},
        share=_count(loaded) / max(1, min(_count(given), _count(own))),
    )
    if not _count(loaded) and _count(own):
        examples = ", ".join(list(tensors)[:3])
        why = f"none of the tensors ({examples}, ...) belong to this network"
        raise ConfigError(f"{source}: {why}; is it the right family, with the right settings? {_examples(report)}")
    if report.share < least_share or _count(loaded) < LEAST_OF_NETWORK * _count(own):
        why = f"only {_count(loaded)} of its {_count(given)} tensors belong to this network, which has {_count(own)}"
        need = f"at least {least_share:.0%} of the file or of the network, and {LEAST_OF_NETWORK:.0%} of the network, must"
        raise ConfigError(f"{source}: {why}; {need}; is it the right family, with the right settings? {_examples(report)}")
    if others:
        raise ConfigError(f"{source}: {others}")
    network.load_state_dict({**own, **_as_numbers(given, own, loaded, source)})
    return report


def _count(names: Mapping[str, Tensor] | tuple[str, ...]) -> int:
    return sum(not name.endswith(COUNTER) for name in names)


def _examples(report: ImportReport) -> str:
    kinds = [list(lines) for _, lines in itertools.groupby(report.lines(), lambda line: line.partition(":")[0])]
    lines = [line for row in itertools.zip_longest(*kinds) for line in row if line]
    shown = lines[:MAX_SAID]
    return "; ".join(shown) + (f"; and {len(lines) - MAX_SAID} more" if len(lines) > MAX_SAID else "")


def _as_numbers(
    given: Mapping[str, Tensor], own: Mapping[str, Tensor], loaded: tuple[str, ...], source: object
) -> dict[str, Tensor]:
    """The tensors to be loaded, in the network's number types."""
    wanted = {name: given[name] for name in loaded}
    hollow = [name for name, value in wanted.items() if value.is_meta or value.layout is not torch.strided]
    if hollow:
        raise ConfigError(f"{source}: without values, or sparse: {', '.join(hollow[:3])}; save them as usual dense tensors")
    whole = [n for n, value in wanted.items() if own[n].is_floating_point() and not value.is_floating_point()]
    if whole:
        found = ", ".join(f"{name} ({wanted[name].dtype})" for name in whole[:3])
        raise ConfigError(f"{source}: not of floating point where the network is: {found}; give weights that are not quantized")
    turned = {name: value.detach().to(own[name].dtype) for name, value in wanted.items()}
    strange = [name for name, value in turned.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if strange:
        raise ConfigError(f"{source}: not finite (NaN or infinite): {', '.join(strange[:3])}")
    return turned


def _as_named_here(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """The tensors by the network's names: without the prefix, and in the place, with which most of them are the network's.

    Returns:
        They, and why others could have been meant as well; empty if not.
    """
    plain = {WRAPPED.sub("", name): name for name in tensors}
    ours = {WRAPPED.sub("", name): name for name in own}
    ends: dict[str, list[str]] = defaultdict(list)
    for name in ours:
        for place in _prefixes(name):
            ends[name.removeprefix(place)].append(place)
    votes: Counter[tuple[str, str]] = Counter()
    for name, as_given in plain.items():
        for prefix in _prefixes(name):
            places = ends.get(end := name.removeprefix(prefix), [])
            for place in places if len(places) <= MAX_ALIKE else ():
                votes[prefix, place] += 1 + (tensors[as_given].shape == own[ours[place + end]].shape)
    prefix, place, others = _chosen(votes)
    found = {}
    for name, as_given in plain.items():
        placed = place + name.removeprefix(prefix)
        found[ours.get(placed, placed) if name.startswith(prefix) else name] = tensors[as_given]
    return found, others


def _chosen(votes: Mapping[tuple[str, str], int]) -> tuple[str, str, str]:
    """The prefix in the file and the place in the network that most names speak for, and which others as many do."""
    most = max(votes.values(), default=0)
    best = sorted((pair for pair, count in votes.items() if count == most), key=lambda pair: (len("".join(pair)), pair))
    # Of a network and its average in one file the network is meant.
    named = [pair for pair in best if not AVERAGED.search(pair[0])] or best
    prefix, place = named[0] if named else ("", "")
    networks = {other for other, _ in named if not other.startswith(prefix) and not prefix.startswith(other)}
    parts = {other for _, other in named if not other.startswith(place) and not place.startswith(other)}
    if networks:
        several = ", ".join([prefix, *sorted(networks)][:MAX_SAID])
        return prefix, place, f"several networks in it fit ({several}); save the one that is meant alone"
    if parts:
        several = ", ".join([place, *sorted(parts)][:MAX_SAID])
        return prefix, place, f"it fits several parts of the network alike ({several}); name its tensors as the network does"
    return prefix, place, ""


def _prefixes(name: str) -> Iterator[str]:
    """What may stand before a name, the shortest first: nothing, and its first parts."""
    parts = name.split(".")
    yield from (".".join([*parts[:count], ""]) if count else "" for count in range(min(len(parts), MAX_PREFIX + 1)))
