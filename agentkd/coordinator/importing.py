"""Weights that a script brings along: a digest in the store, a file of ours, or a published checkpoint."""

import re
from pathlib import Path

from agentkd.architecture import Architecture
from agentkd.artifacts.store import Store
from agentkd.errors import AgentKDError, ConfigError
from agentkd.knowledge import tensors
from agentkd.knowledge.weights import encode_weights, load_weights
from agentkd.names import Digest
from agentkd.networks.build import build
from agentkd.networks.weights import import_weights, read_checkpoint

DIGEST = re.compile(r"[0-9a-f]{64}")


def stored_weights(weights: str | Path, architecture: Architecture, store: Store) -> Digest:
    """Digest of weights that are in the store afterwards, each tensor of the architecture's name and shape.

    Raises:
        ConfigError: no such file or digest, or weights of another architecture.
    """
    network = build(architecture, seed=0)
    try:
        if DIGEST.fullmatch(str(weights)):
            known = Digest(str(weights))
            load_weights(network, store.get(known))
            return known
        report = import_weights(network, read_checkpoint(Path(weights)))
    except ConfigError:
        raise
    except AgentKDError as error:
        raise ConfigError(f"weights {weights}: {error}") from error
    if report.missing or report.reshaped:
        raise ConfigError(f"weights {weights} are not of this architecture: {report}")
    return store.put(encode_weights(architecture, dict(network.state_dict())))


def num_classes_of(weights: str | Path, store: Store) -> int | None:
    """What weights of ours say about themselves; ``None`` for others."""
    try:
        data = store.get(Digest(str(weights))) if DIGEST.fullmatch(str(weights)) else Path(weights).read_bytes()
        said = tensors.read_metadata(data).get("architecture")
    except (AgentKDError, OSError):
        return None
    found = said.get("num_classes") if isinstance(said, dict) else None
    return found if isinstance(found, int) else None
