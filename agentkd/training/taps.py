"""Features from inside a network, by the dotted names of its modules, and a student that is compared by them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from agentkd.errors import ContractError
from agentkd.training.optimization import ParameterGroupLike, TrainableNetwork

TAP, PROJECTED = "tap.", "projected."


def tapped(network: nn.Module, images: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
    """The network's outputs, and the output of each tapped module under ``tap.NAME``.

    Raises:
        ContractError: there is no such module, or it does not return a tensor.
    """
    with listening(network, taps) as heard:
        outputs = dict(network(images))
    silent = next((name for name in taps if TAP + name not in heard), None)
    if silent is not None:
        hint = "in this mode, with this head, the network does not use that module"
        raise ContractError("tap", "modules that have looked at the images", silent, hint=hint)
    return outputs | heard


@contextmanager
def listening(network: nn.Module, taps: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collects what the tapped modules return while the context lasts.

    Raises:
        ContractError: as ``tapped``.
    """
    modules: dict[str, nn.Module] = getattr(network, "tappable", None) or dict(network.named_modules())
    heard: dict[str, Tensor] = {}
    handles = []
    try:
        for name in taps:
            if name not in modules or not name:
                top = ", ".join(sorted({module.partition(".")[0] for module in modules if module}))
                raise ContractError("tap", top, name, hint="taps are the dotted names of a network's modules")
            handles.append(modules[name].register_forward_hook(_Listener(name, heard)))
        yield heard
    finally:
        for handle in handles:
            handle.remove()


class _Listener:
    def __init__(self, name: str, heard: dict[str, Tensor]) -> None:
        self._name, self._heard = name, heard

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            raise ContractError("tap", self._name, type(output).__name__, hint="tap a module that returns one tensor")
        self._heard[TAP + self._name] = output


@dataclass(frozen=True)
class _Projections:
    parameters: tuple[nn.Parameter, ...]
    rate: float = 1.0
    optimizer: str = "main"
    decays: bool = True


class Pupil(nn.Module):
    """A student with taps, and 1x1 projections of them that are trained with it and dropped afterwards.

    Outputs hold ``tap.NAME`` and, for each projection, ``projected.KEY``. Everything else is the network's.

    Args:
        projections: by key (``TEACHER.TAP``): the tap, and a module for it.
    """

    def __init__(self, network: nn.Module, taps: Sequence[str], projections: Mapping[str, tuple[str, nn.Module]]) -> None:
        super().__init__()
        self.network = network
        self._taps = tuple(taps)
        self._projected = {key: tap for key, (tap, _) in projections.items()}
        self.projections = nn.ModuleList([module for _, module in projections.values()])

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        if not self.training:
            return dict(self.network(images))
        outputs = tapped(self.network, images, self._taps)
        for index, (key, tap) in enumerate(self._projected.items()):
            outputs[PROJECTED + key] = self.projections[index](outputs[TAP + tap])
        return outputs

    def parameter_groups(self) -> list[ParameterGroupLike]:
        """The network's groups, and one for the projections."""
        own = cast(TrainableNetwork, self.network).parameter_groups()
        return [*own, _Projections(tuple(self.projections.parameters()))] if self.projections else own

    @staticmethod
    def own(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The network's part of a state of this module."""
        return {name.removeprefix("network."): value for name, value in state.items() if name.startswith("network.")}

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)
