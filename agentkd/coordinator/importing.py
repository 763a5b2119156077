"""Weights that a script brings along: a digest in the store, a file of ours, or a published checkpoint."""

import re
from pathlib import Path

import torch

from agentkd.architecture import RGB, Architecture, Normalization, Setting
from agentkd.artifacts.store import Store
from agentkd.errors import AgentKDError, ConfigError, ContractError, StorageError
from agentkd.knowledge import tensors
from agentkd.knowledge.contracts import agree_on_classes
from agentkd.knowledge.weights import WeightsMetadata, agree_on_network, encode_weights, load_weights, read_metadata
from agentkd.names import Digest
from agentkd.networks import families
from agentkd.networks.blocks import SegmentationNetwork
from agentkd.networks.build import build
from agentkd.networks.checkpoints import read_checkpoint
from agentkd.networks.likeness import differences_told
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
    which = f"weights {str(weights)[:12] if DIGEST.fullmatch(str(weights)) else weights}"
    try:
        if DIGEST.fullmatch(str(weights)):
            known = Digest(str(weights))
            load_weights(network, store.get(known), architecture)
            if said.architecture is None or said.architecture.code == architecture.code:
                return known
        else:
            agree_on_network(_for_channels_of(said, architecture), architecture)
            given = read_checkpoint(Path(weights))
            report = import_weights(network, given, channels=architecture.channels, source=f"weights {weights}")
            if report.missing or report.reshaped:
                raise ConfigError(f"{which} are not of this architecture: {report}")
    except ConfigError:
        raise
    except AgentKDError as error:
        raise ConfigError(_told(which, error, said.architecture, architecture)) from error
    return store.put(encode_weights(architecture, dict(network.state_dict()), said.classes_of(architecture), said.heads))


def must_be_of(architecture: Architecture, stored: bytes, *, which: str) -> None:
    """Checks that stored weights are of an architecture: by what they say of themselves, and by their tensors.

    Of an own network they may have been learned by other code, as long as its tensors are the same.

    Raises:
        ConfigError: they are not, and in what, or they are damaged.
    """
    try:
        said = read_metadata(stored)
        if said.architecture and (told := differences_told(said.architecture, architecture)):
            raise ConfigError(f"{which} are of another network: {told}")
        with torch.device("meta"):
            expected = dict(build(architecture).state_dict())
        tensors.match(tensors.decode(stored), expected)
        agree_on_network(said, architecture)
    except ConfigError:
        raise
    except AgentKDError as error:
        raise ConfigError(f"{which}: {error}") from error


def _told(which: str, error: AgentKDError, said: Architecture | None, architecture: Architecture) -> str:
    """Why weights were not taken: in what their network differs, where they say it and that is why."""
    is_told = isinstance(error, ContractError) and error.field in ("revision", "normalization")
    told = differences_told(said, architecture) if said and isinstance(error, ContractError) and not is_told else ""
    return f"{which} are of another network: {told}" if told else f"{which}: {error}"


def bring(
    file: Path,
    out: Path,
    family: str,
    num_classes: int | None = None,
    names: tuple[str, ...] = (),
    *,
    images: Normalization | None = None,
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
        images: that the network takes; those that the file says, or RGB, if they are not given. See ``import_weights`` for what
            becomes of weights for RGB.
        settings: of the network.
        least_share: see ``import_weights``.

    Raises:
        ConfigError: as ``import_weights``; or the file says that it is of another family, or the names are not K.
        ContractError: what the file says of itself contradicts that.
        StorageError: ``out`` cannot be written.
    """
    given, said = read_checkpoint(file), what_a_file_says(file)
    if said.architecture and said.architecture.family != family:
        raise ConfigError(f"{file} says that it is of {said.architecture.family}, not of {family}")
    known = said.architecture.num_classes if said.architecture else USUAL_CLASSES
    shown = images or (said.architecture.normalization if said.architecture else None)
    architecture = families.resolve(family, num_classes or known, settings, images=shown)
    if names and len(set(names)) != architecture.num_classes:
        raise ConfigError(
            f"{len(names)} names ({', '.join(names)}) for {architecture.num_classes} classes; each needs one of its own"
        )
    agree_on_network(_for_channels_of(said, architecture), architecture)
    network = build(architecture, seed=0)
    report = import_weights(network, given, channels=architecture.channels, source=file, least_share=least_share)
    kept = said.classes if _has_head(report, network) else ()
    if names:
        agree_on_classes(kept, names)
    try:
        must_be_writable_as_file(out)
        out.write_bytes(encode_weights(architecture, dict(network.state_dict()), names or kept))
    except OSError as error:
        raise StorageError.of(out, error) from error
    return report


def _for_channels_of(said: WeightsMetadata, architecture: Architecture) -> WeightsMetadata:
    """What weights for RGB say of themselves once they are made for a network's channels; others as they are."""
    if said.architecture is None or said.architecture.channels != RGB or architecture.channels == RGB:
        return said
    try:
        images = said.architecture.normalization.for_channels(architecture.channels)
    except ValueError:  # which the contract is broken by, and says
        return said
    return said.replace(architecture=said.architecture.replace(normalization=images))


def _has_head(report: ImportReport, network: SegmentationNetwork) -> bool:
    """Whether what tells classes apart was loaded: all of the network's head, or, if it does not say what that is, all of it."""
    places = tuple(f"{place}." for place in network.head_modules) or ("",)
    return not report.reshaped and not any(name.startswith(places) for name in report.missing)


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
