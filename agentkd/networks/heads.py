"""A network with a head for each task: one trunk, and at each place of its head one module for every task, of which one is used.

Whose modules those are a network says itself (``head_modules``): all whose shape depends on the number of classes. Names and
shapes of its tensors are the same whichever head is in use: ``final_layer.NAME.conv1.weight`` beside the trunk's, as it was.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from agentkd.architecture import Architecture
from agentkd.errors import ConfigError, Problem
from agentkd.networks import families
from agentkd.networks.blocks import SegmentationNetwork


class Heads(nn.Module):
    """What stands in a network where its head stood: a module for each task. The one in use is called, and it alone learns.

    The others stay as they are to the bit: their parameters take no gradient, and their normalizations are in evaluation mode.
    """

    def __init__(self, modules: Mapping[str, nn.Module], head: str) -> None:
        super().__init__()
        self.head = self.learns = head
        for name in sorted(modules):
            self._modules[name] = modules[name]  # add_module has no name that a module has an attribute of, such as training
            if name != head:
                modules[name].requires_grad_(requires_grad=False).eval()

    def forward(self, *given: Any, **named: Any) -> Any:
        return self._now(*given, **named)

    def train(self, mode: bool = True) -> "Heads":  # as torch has it
        """In training mode is the one that learns."""
        super().train(mode)
        for name, module in self._modules.items():
            if module is not None and name != self.learns:
                module.eval()
        return self

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            text = f"a module of head_modules is used by calling it alone, as there is one for each head; {name!r} of it was used"
            raise AttributeError(text) from None

    @property
    def _now(self) -> nn.Module:
        module = self._modules[self.head]
        assert module is not None
        return module


@contextmanager
def using(network: nn.Module, head: str) -> Iterator[None]:
    """Has a network answer with another of its heads while the context lasts. What learns is what did before."""
    switches = [module for module in network.modules() if isinstance(module, Heads)]
    before = [switch.head for switch in switches]
    try:
        for switch in switches:
            switch.head = head
        yield
    finally:
        for switch, name in zip(switches, before, strict=True):
            switch.head = name


def with_heads(architecture: Architecture, construct: Callable[[Architecture], SegmentationNetwork]) -> SegmentationNetwork:
    """The network of an architecture with heads. What it is before it has learned depends neither on their order nor on ``head``.

    Args:
        architecture: as data.
        construct: makes a network without heads; the trunk is that of the first head by name.

    Raises:
        ConfigError: an own network does not say which of its modules are its head, or not all of them.
    """
    made = {name: construct(_alone(architecture, count)) for name, count in sorted(architecture.heads.items())}
    network = next(iter(made.values()))
    _check_places(architecture, network, made)
    if families.is_own(architecture.family) and len(set(architecture.heads.values())) == 1:
        with torch.random.fork_rng(devices=[]):
            other = construct(_alone(architecture, architecture.num_classes + 1))
        _check_trunks(architecture, network, other)
    for place in network.head_modules:
        parent, _, name = place.rpartition(".")
        switch = Heads({head: one.get_submodule(place) for head, one in made.items()}, architecture.head)
        setattr(network.get_submodule(parent), name, switch)
    network.resting = tuple(f"{place}.{head}" for place in network.head_modules for head in made if head != architecture.head)
    return network


def _alone(architecture: Architecture, num_classes: int) -> Architecture:
    return architecture.replace(heads={}, head="", num_classes=num_classes)


def _check_places(architecture: Architecture, network: SegmentationNetwork, made: Mapping[str, SegmentationNetwork]) -> None:
    family, places = architecture.family, network.head_modules
    if not places:
        text = (
            f"{family} does not say which of its modules are its head, so it can have one alone: let the module that the builder "
            'returns have an attribute head_modules = ("classifier",), the names of all whose shape depends on num_classes'
        )
        raise ConfigError([Problem("heads", text)])
    known = dict(network.named_modules(remove_duplicate=False))
    reasons: dict[str, str] = {}
    for number, place in enumerate(places):
        before = places[:number]
        within = next((other for other in places if place.startswith(f"{other}.")), None)
        same = next((other for other in before if known.get(other) is known.get(place)), None)
        if place not in known:
            reasons[place] = "it has no such module"
        elif within is not None:
            reasons[place] = f"it is within another, {within}"
        elif place in before:
            reasons[place] = "it is named twice"
        elif same is not None:
            reasons[place] = f"it is the same module as {same}; let the network have it under one name"
    for place, why in reasons.items():
        raise ConfigError([Problem("heads", f"{family}: head_modules names {place}, but {why}")])
    _check_ties(family, network)
    for other in made.values():
        _check_trunks(architecture, network, other)


def _check_ties(family: str, network: SegmentationNetwork) -> None:
    """Whether nothing of a head is of the trunk too: it would learn and not learn."""
    prefixes = tuple(f"{place}." for place in network.head_modules)
    tensors = [*network.named_parameters(remove_duplicate=False), *network.named_buffers(remove_duplicate=False)]
    trunk = {id(value): name for name, value in tensors if not name.startswith(prefixes)}
    tied = next(((name, trunk[id(value)]) for name, value in tensors if name.startswith(prefixes) and id(value) in trunk), None)
    if tied:
        text = f"{family}: {tied[0]} of its head is {tied[1]} of its trunk too, so no head could stay as it is; name both modules"
        raise ConfigError([Problem("heads", f"{text} in head_modules, or give each weights of its own")])


def _check_trunks(architecture: Architecture, one: SegmentationNetwork, other: SegmentationNetwork) -> None:
    """Whether two networks for other classes are the same but for their heads."""
    shapes, others = _trunk_shapes(one), _trunk_shapes(other)
    strange = [name for name in (*shapes, *others) if shapes.get(name) != others.get(name)]
    if strange:
        parent = strange[0].rpartition(".")[0]
        is_bare = one.get_submodule(parent) is one.tap_root if parent in dict(one.named_modules()) else False
        what = "put it into a module, and name that in head_modules" if is_bare else "name its module in head_modules"
        text = f"{architecture.family}: {strange[0]} depends on num_classes too; {what}"
        raise ConfigError([Problem("heads", text)])


def _trunk_shapes(network: SegmentationNetwork) -> dict[str, torch.Size]:
    prefixes = tuple(f"{place}." for place in network.head_modules)
    return {name: value.shape for name, value in network.state_dict().items() if not name.startswith(prefixes)}
