"""Weights that a script brings along: a digest in the store, a file of ours, or a published checkpoint."""

import re
from pathlib import Path

from agentkd.architecture import Architecture
from agentkd.artifacts.store import Store
from agentkd.errors import AgentKDError, ConfigError
from agentkd.knowledge.weights import WeightsMetadata, agree_on_network, encode_weights, load_weights, read_metadata
from agentkd.names import Digest
from agentkd.networks.build import build
from agentkd.networks.checkpoints import read_checkpoint
from agentkd.networks.weights import import_weights
from agentkd.plain import must_be_file

DIGEST = re.compile(r"[0-9a-f]{64}")


def stored_weights(weights: str | Path, architecture: Architecture, store: Store) -> Digest:
    """Digest of weights that are in the store afterwards, each tensor of the architecture's name and shape.

    Of an own network they are weights of the code that the architecture names: those that were learned by other code are stored
    under a digest of their own.

    Raises:
        ConfigError: no such file or digest, or weights of another architecture.
    """
    network, said = build(architecture, seed=0), what_they_say(weights, store)
    try:
        if DIGEST.fullmatch(str(weights)):
            known = Digest(str(weights))
            load_weights(network, store.get(known), architecture)
            if said.architecture is None or said.architecture.code == architecture.code:
                return known
        else:
            agree_on_network(said, architecture)
            report = import_weights(network, read_checkpoint(Path(weights)), source=f"weights {weights}")
            if report.missing or report.reshaped:
                raise ConfigError(f"weights {weights} are not of this architecture: {report}")
    except ConfigError:
        raise
    except AgentKDError as error:
        raise ConfigError(f"weights {weights}: {error}") from error
    return store.put(encode_weights(architecture, dict(network.state_dict()), said.classes_of(architecture), said.heads))


def what_they_say(weights: str | Path, store: Store) -> WeightsMetadata:
    """What weights say of themselves: those of ours what they are, others nothing."""
    if not DIGEST.fullmatch(str(weights)):
        return what_a_file_says(Path(weights))
    try:
        return read_metadata(store.get(Digest(str(weights))))
    except AgentKDError:
        return WeightsMetadata()


def what_a_file_says(file: Path) -> WeightsMetadata:
    """What weights in a file say of themselves, as ``what_they_say``."""
    try:
        must_be_file(file)
        return read_metadata(file.read_bytes())
    except (AgentKDError, OSError):
        return WeightsMetadata()
