"""A network tried with shapes alone: whether it is built, takes images of a size, and what its outputs need. Nothing is computed.

It is made on torch's ``meta`` device, where tensors have shapes and no numbers. What is refused there is tried again with
numbers, for not everything that a user's own network may do is possible without.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn

from agentkd.architecture import RGB, Architecture
from agentkd.code.running import told
from agentkd.errors import ConfigError, Problem
from agentkd.networks.blocks import SegmentationNetwork
from agentkd.networks.build import build

Made = TypeVar("Made")
FEW = 2
FLOAT = 4
MAX_TRIED_BYTES = 2**26


@dataclass(frozen=True)
class Passed:
    """What went through a network.

    Args:
        output: shape of the logits.
        activation_bytes: what all modules without parts put out, which is about what a step in training keeps.
    """

    output: tuple[int, ...]
    activation_bytes: int


@dataclass(frozen=True)
class Tried:
    """A network that was built: it, the bytes of its state, those of its trainable parameters, and where it is."""

    network: SegmentationNetwork
    architecture: Architecture
    state_bytes: int
    trainable_bytes: int
    device: str
    _known: dict[tuple[int, int, int, bool], Passed | ConfigError] = field(default_factory=dict, compare=False, repr=False)

    @property
    def modules(self) -> frozenset[str]:
        """The names by which its modules can be tapped."""
        return frozenset(self.network.tappable)

    def passes(self, count: int, height: int, width: int, *, is_training: bool) -> Passed:
        """What so many images of a size make of it.

        Raises:
            ConfigError: it does not take them, or its logits are of another number of images or classes.
        """
        asked = (count, height, width, is_training)
        if asked not in self._known:
            try:
                self._known[asked] = self._try(*asked)
            except ConfigError as error:
                self._known[asked] = error
        known = self._known[asked]
        if isinstance(known, ConfigError):
            raise known
        return known

    def _try(self, count: int, height: int, width: int, is_training: bool) -> Passed:
        try:
            passed = self._pass(self.network, (count, self.architecture.num_channels, height, width), self.device, is_training)
        except ConfigError as refusal:
            if self.device == "meta":
                passed = self._pass_with_numbers(count, height, width, is_training, refusal)
            else:
                raise
        expected = (count, self.architecture.num_classes)
        if len(passed.output) != 4 or passed.output[:2] != expected:
            given, wanted = [count, self.architecture.num_channels, height, width], f"[{count}, {expected[1]}, h, w]"
            raise ConfigError([Problem("", f"makes logits of shape {list(passed.output)} of images {given}; expected {wanted}")])
        return passed

    def _pass_with_numbers(self, count: int, height: int, width: int, is_training: bool, refusal: ConfigError) -> Passed:
        """The same of a few images with numbers; of images that are too large for that, nothing is known."""
        few, channels = min(count, FEW), self.architecture.num_channels
        if FLOAT * few * channels * height * width > MAX_TRIED_BYTES:
            return Passed((count, self.architecture.num_classes, 1, 1), 0)
        network = _or_refused("builds", lambda: build(self.architecture, seed=0))
        try:
            passed = self._pass(network, (few, channels, height, width), "cpu", is_training)
        except ConfigError as error:
            raise error from refusal
        grown = (count, *passed.output[1:]) if passed.output[:1] == (few,) else passed.output
        return Passed(grown, passed.activation_bytes * count // few)

    def _pass(self, network: SegmentationNetwork, shape: tuple[int, ...], device: str, is_training: bool) -> Passed:
        sizes: list[int] = []

        def note(module: nn.Module, given: object, made: object) -> None:
            if isinstance(made, Tensor):
                sizes.append(made.numel() * made.element_size())

        hooks = [m.register_forward_hook(note) for m in network.modules() if not any(m.children())]

        def run() -> tuple[int, ...]:
            network.train(is_training)
            with torch.device(device), torch.random.fork_rng(devices=[]), torch.set_grad_enabled(is_training):
                return tuple(network(torch.zeros(shape))["logits"].shape)

        mode = "training" if is_training else "evaluation"
        try:
            output = _or_refused(f"takes {shape[0]} images of {_size(shape)} in {mode}", run)
        finally:
            for hook in hooks:
                hook.remove()
        return Passed(output, sum(sizes))


def try_network(architecture: Architecture) -> Tried:
    """A network without numbers, if it can be built.

    Raises:
        ConfigError: it cannot.
    """
    device = "meta"
    try:
        with torch.device("meta"):
            network = _or_refused("builds", lambda: build(architecture))
    except ConfigError:
        device = "cpu"
        network = _or_refused("builds", lambda: build(architecture, seed=0))
    state = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    trainable = sum(p.numel() * p.element_size() for p in network.parameters() if p.requires_grad)
    return Tried(network, architecture, state, trainable, device)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[3]}x{shape[2]}" + (f" with {shape[1]} channels" if shape[1] != len(RGB) else "")


def _or_refused(what: str, make: Callable[[], Made]) -> Made:
    verb = "cannot be built" if what == "builds" else what.replace("takes", "does not take", 1)
    try:
        with told(verb):
            return make()
    except ConfigError as error:
        raise ConfigError([Problem("", "; ".join(p.text for p in error.problems))]) from error
