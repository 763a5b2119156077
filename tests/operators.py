"""Which operators a computation is made of, forward and backward, and which of them PyTorch has no repeatable form of on CUDA."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from agentkd import repeatable

LIST = tomllib.loads((Path(__file__).parent / "nondeterministic.toml").read_text(encoding="utf-8"))
RAISING: dict[str, list[dict[str, Any]]] = {}
for entry in LIST["raises"]:
    for operator in entry["operators"]:
        RAISING.setdefault(operator, []).append(entry)
MEANT = {
    "weights": lambda told: told.get("weights") is not None,
    "floating": lambda told: told["self"].is_floating_point() or told["self"].is_complex(),
    "prod": lambda told: told["reduce"] == "prod",
    "quantized": lambda told: told["self"].is_quantized,
}


class Recorded(TorchDispatchMode):
    """Notes every operator that is dispatched while it is entered; ``raising`` has what is on the list, with its words."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.raising: dict[str, str] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        told = dict(zip((one.name for one in func._schema.arguments), args, strict=False)) | dict(kwargs or {})
        self.seen.add(name)
        for known in (name, f"{name}.{func._schema.overload_name}"):
            for entry in RAISING.get(known, ()):
                if "only" not in entry or MEANT[entry["only"]](told):
                    self.raising[known] = entry["text"]
        return func(*args, **(kwargs or {}))


@contextmanager
def recorded() -> Iterator[Recorded]:
    """Operators, as they are where repeatable algorithms are demanded."""
    with demanded(), Recorded() as record:
        yield record


@contextmanager
def demanded() -> Iterator[None]:
    """Repeatable algorithms are demanded, as on CUDA."""
    begun = repeatable.settings()
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    before = repeatable.keep()
    try:
        yield
    finally:
        repeatable.keep_to(before)
        repeatable.set_again(begun)
