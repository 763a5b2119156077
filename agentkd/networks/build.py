"""Networks from architectures, and how large they are."""

import importlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from agentkd.architecture import Architecture
from agentkd.errors import ConfigError, Problem
from agentkd.names import TENSOR_NAME
from agentkd.networks import families
from agentkd.networks.blocks import Outputs, SegmentationNetwork
from agentkd.networks.families import CHANNELS_PARAMETER
from agentkd.networks.heads import with_heads


class OwnNetwork(SegmentationNetwork):
    """A user's module in our shape: a bare tensor output becomes ``logits``, those of a whole image [N,K] become [N,K,1,1]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training_only = tuple(f"network.{name}" for name in getattr(network, "training_only", ()))
        self.head_modules = tuple(f"network.{name}" for name in getattr(network, "head_modules", ()))
        self.places = dict(getattr(network, "places", {}))

    @property
    def tap_root(self) -> nn.Module:
        """The user's module, so that taps are named as the user names them."""
        return self.network

    def forward(self, images: Tensor) -> Outputs:
        outputs = self.network(images)
        named = dict(outputs) if isinstance(outputs, dict) else {"logits": outputs}
        if named["logits"].dim() == 2:
            named["logits"] = named["logits"][:, :, None, None]
        return named


@dataclass(frozen=True)
class ParameterCounts:
    """Trainable parameters: all (the paper's convention), without discriminator, and what inference needs.

    All heads count in the first two, in the last the one in use.
    """

    total: int
    network: int
    deploy: int


def build(architecture: Architecture, *, seed: int | None = None) -> SegmentationNetwork:
    """The network, initialized from ``seed`` (a pure function of architecture and seed) or from torch's global state.

    Raises:
        ConfigError: the family does not exist, its code is not there, or its settings are illegal.
    """
    resolved = families.complete(architecture)
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        network = with_heads(resolved, _construct) if resolved.heads else _construct(resolved)
    if families.is_own(resolved.family):
        _check_names(resolved.family, network)
    return network


def _check_listed(family: str, attribute: str, said: object) -> None:
    """Checks that an attribute of an own network lists submodules.

    Raises:
        ConfigError: it does not.
    """
    if not isinstance(said, tuple | list) or not all(isinstance(name, str) and name for name in said):
        text = f'{family}: {attribute} is {said!r}; expected the names of submodules in a tuple, such as ("classifier",)'
        raise ConfigError([Problem("family", text)])


def _check_names(family: str, network: SegmentationNetwork) -> None:
    """Checks that a network's weights can be handed over.

    Raises:
        ConfigError: a tensor's name is none that knowledge can have.
    """
    strange = next((name for name in network.state_dict() if not TENSOR_NAME.fullmatch(name)), None)
    if strange is not None:
        text = (
            f"{family}: a tensor is called {strange[:100]!r}, so its weights could not be handed over; call its module "
            "otherwise, by letters, digits and _, and 200 characters at most with all modules that it is in"
        )
        raise ConfigError([Problem("family", text)])


def count_parameters(network: SegmentationNetwork) -> ParameterCounts:
    """The three counts of a network, built on any device (``meta`` is enough)."""
    resting = tuple(f"{name}." for name in network.resting)
    sizes = {name: p.numel() for name, p in network.named_parameters() if p.requires_grad or name.startswith(resting)}
    adversary = f"{network.adversary}." if network.adversary else None
    without = sum(n for name, n in sizes.items() if not (adversary and name.startswith(adversary)))
    deploy = sum(p.numel() for _, p in network.deploy_parameters() if p.requires_grad)
    return ParameterCounts(total=sum(sizes.values()), network=without, deploy=deploy)


def count_architecture(architecture: Architecture) -> ParameterCounts:
    """The three counts, without allocating the parameters."""
    with torch.device("meta"):
        return count_parameters(build(architecture))


def _construct(architecture: Architecture) -> SegmentationNetwork:
    if families.is_own(architecture.family):
        builder = families.load_own(architecture.family, architecture.code)
        channels = {CHANNELS_PARAMETER: architecture.num_channels} if families.takes_channels(builder) else {}
        network = builder(num_classes=architecture.num_classes, **channels, **architecture.settings)
        if not isinstance(network, nn.Module):
            found = type(network).__name__
            raise ConfigError([Problem("family", f"{architecture.family} returned {found}; expected a torch.nn.Module")])
        for attribute in ("training_only", "head_modules"):
            _check_listed(architecture.family, attribute, getattr(network, attribute, ()))
        return network if isinstance(network, SegmentationNetwork) else OwnNetwork(network)
    row = families.FAMILIES[architecture.family]
    module_name, _, attribute = row.builder.partition(":")
    constructor = getattr(importlib.import_module(module_name), attribute)
    network = constructor(architecture.num_classes, row.settings(**architecture.settings), architecture.num_channels)
    assert isinstance(network, SegmentationNetwork)
    return network
