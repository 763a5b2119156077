"""Weights that a script brings along: a digest in the store, a file of ours, or a published checkpoint."""

import re
from pathlib import Path

from agentkd.architecture import Architecture, Setting
from agentkd.artifacts.store import Store
from agentkd.errors import AgentKDError, ConfigError, StorageError
from agentkd.knowledge.contracts import agree_on_classes
from agentkd.knowledge.weights import WeightsMetadata, agree_on_network, encode_weights, load_weights, read_metadata
from agentkd.names import Digest
from agentkd.networks import families
from agentkd.networks.build import build
from agentkd.networks.checkpoints import read_checkpoint
from agentkd.networks.weights import LEAST_SHARE, ImportReport, import_weights
from agentkd.plain import must_be_file, must_be_writable_as_file

DIGEST = re.compile(r"[0-9a-f]{64}")
USUAL_CLASSES = 5


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


def bring(
    file: Path,
    out: Path,
    family: str,
    num_classes: int | None = None,
    names: tuple[str, ...] = (),
    *,
    settings: dict[str, Setting] | None = None,
    least_share: float = LEAST_SHARE,
) -> ImportReport:
    """Writes weights of any origin in our form, for a network of this family; what the file lacks is as it was initialized.

    Args:
        file: is read.
        out: is written, if the file is not refused.
        family: of the network.
        num_classes: K; that which the file says, or 5, if it is not given.
        names: of the classes, in the order of the logits; those that the file says if they are not given.
        settings: of the network.
        least_share: see ``import_weights``.

    Raises:
        ConfigError: as ``import_weights``; or the file says that it is of another family, or the names are not K.
        ContractError: what the file says of itself contradicts that.
        StorageError: ``out`` cannot be written.
    """
    tensors, said = read_checkpoint(file), what_a_file_says(file)
    if said.architecture and said.architecture.family != family:
        raise ConfigError(f"{file} says that it is of {said.architecture.family}, not of {family}")
    known = said.architecture.num_classes if said.architecture else USUAL_CLASSES
    architecture = families.resolve(family, num_classes or known, settings)
    if names and len(set(names)) != architecture.num_classes:
        raise ConfigError(
            f"{len(names)} names ({', '.join(names)}) for {architecture.num_classes} classes; each needs one of its own"
        )
    agree_on_network(said, architecture)
    network = build(architecture, seed=0)
    report = import_weights(network, tensors, source=file, least_share=least_share)
    kept = said.classes if not report.reshaped else ()
    if names:
        agree_on_classes(kept, names)
    try:
        must_be_writable_as_file(out)
        out.write_bytes(encode_weights(architecture, dict(network.state_dict()), names or kept))
    except OSError as error:
        raise StorageError.of(out, error) from error
    return report


def num_classes_of(weights: str | Path, store: Store) -> int | None:
    """As many as weights of ours say that they tell apart; ``None`` for others."""
    architecture = what_they_say(weights, store).architecture
    return architecture.num_classes if architecture else None


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
