"""Weights as a kind of knowledge: how they are stored, and how a network takes them."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationError
from torch import Tensor

from agentkd.architecture import MAX_CLASS_NAME, MAX_CLASSES, MAX_HEADS, Architecture
from agentkd.canonical import FrozenData
from agentkd.errors import ContractError, RemoteProtocolError, Rule
from agentkd.knowledge import tensors
from agentkd.knowledge.contracts import agree_on_channels
from agentkd.knowledge.tensors import Buffer
from agentkd.names import Digest
from agentkd.networks.blocks import SegmentationNetwork
from agentkd.networks.families import is_own, weights_since

LEARNED = ("those that have learned are", "in the other network")
ClassNames = Annotated[tuple[Annotated[str, Field(max_length=MAX_CLASS_NAME)], ...], Field(max_length=MAX_CLASSES)]


class WeightsMetadata(FrozenData):
    """What stored weights say of themselves, and what it means if they do not; what others may add is passed over.

    Args:
        architecture: of the network; its normalization is that of the images on which they learned.
        classes: names, in the order of the logits; empty if nobody knows. Of a network with several heads those of the one that
            learned last.
        heads: those of each head that has learned.
    """

    model_config = ConfigDict(extra="ignore")

    architecture: Architecture | None = None
    classes: ClassNames = ()
    heads: dict[str, ClassNames] = Field(default_factory=dict, max_length=MAX_HEADS)

    def classes_of(self, architecture: Architecture) -> tuple[str, ...]:
        """Those that a network tells apart with these weights, by the head that it has in use; empty if nobody knows."""
        return self.heads.get(architecture.head, ()) if architecture.heads else self.classes

    def heads_with(self, architecture: Architecture, classes: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """What each head tells apart once that in use has learned these classes; nothing of a network without heads."""
        return {**self.heads, architecture.head: tuple(classes)} if architecture.heads else {}


def load_weights(network: SegmentationNetwork, data: Buffer, architecture: Architecture) -> None:
    """Installs stored weights, which must match the network exactly, and the scale of the images that it will see.

    Raises:
        ContractError: other names, shapes or number types, or as ``agree_on_network``.
        RemoteProtocolError: the bytes are no weights that may be (damaged, over a limit, not finite).
    """
    loaded = tensors.decode(data)
    tensors.match(loaded, dict(network.state_dict()))
    agree_on_network(read_metadata(data), architecture)
    network.load_state_dict(loaded)


def agree_on_network(weights: WeightsMetadata, architecture: Architecture) -> None:
    """Checks that weights, if they say what they learned in and on, mean the same in a network and on its images.

    Raises:
        ContractError: its images are of another scale, or its family has computed something else with such weights.
    """
    learned_in = weights.architecture
    if learned_in and learned_in.family == architecture.family and learned_in.revision < weights_since(architecture.family):
        hint = (
            f"{architecture.family} computes something else with them since; train it anew, or let it begin from them as "
            f"pretrained layers (families.{architecture.family}.weights)"
        )
        raise ContractError("revision", learned_in.revision, architecture.revision, hint=hint)
    agree_on_images(weights, architecture)


def agree_on_images(weights: WeightsMetadata, architecture: Architecture) -> None:
    """Checks that weights, if they say on what images they learned, did so on those of the network's scale.

    Raises:
        ContractError: their images were of another one, or of other channels.
    """
    learned_on, shown = (weights.architecture or architecture).normalization, architecture.normalization
    listed = ",".join(shown.channels)
    hint = f"of weights for RGB others can be made: agentkd weights FILE OUT --family {architecture.family} --channels {listed}"
    agree_on_channels(learned_on.channels, shown.channels, hint=hint)
    if (learned_on.mean, learned_on.deviation) != (shown.mean, shown.deviation):
        hint = f"the data state it (normalization in dataset.yaml), or it is that of channels in this order: {listed}"
        if is_own(architecture.family):
            hint = f"the builder of {architecture.family} declared another when they were made; let it declare that again"
        raise ContractError("normalization", str(learned_on), str(shown), hint=hint)


def agree_on_learned(theirs: WeightsMetadata, ours: WeightsMetadata) -> None:
    """Checks that the same heads of two networks have learned: the mean of others is nothing that anybody learned.

    Raises:
        ContractError: one has a head that has learned, and the other's has not.
    """
    if theirs.heads.keys() != ours.heads.keys():
        one, other = (", ".join(sorted(said.heads)) or "none" for said in (theirs, ours))
        raise ContractError("heads", one, other, hint="leave one of them out", sides=LEARNED)


def load_as_learned(network: SegmentationNetwork, data: Buffer, architecture: Architecture) -> None:
    """Installs stored weights in a network that is to be looked at or to teach: one of the code that they were learned by.

    Raises:
        ContractError: as ``load_weights``, or an own network's weights were learned by other code.
        RemoteProtocolError: as ``load_weights``.
    """
    learned_by = read_metadata(data).architecture
    if learned_by and learned_by.code and learned_by.code != architecture.code:
        hint = "community.agent(NAME, FAMILY, weights=DIGEST) takes them for a network of the code as it is now"
        raise ContractError("code", learned_by.code, architecture.code, hint=hint)
    load_weights(network, data, architecture)


def inherit_weights(network: SegmentationNetwork, data: Buffer) -> int:
    """Copies every tensor whose name and shape match; returns how many did."""
    own = network.state_dict()
    given = tensors.decode(data)
    matching = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
    network.load_state_dict({**own, **matching})
    return len(matching)


def encode_weights(
    architecture: Architecture,
    state: dict[str, Tensor],
    classes: Sequence[str] = (),
    heads: Mapping[str, Sequence[str]] | None = None,
) -> bytes:
    """Weights as they are stored: their metadata say which architecture they belong to, and which classes they tell apart.

    Args:
        architecture: its normalization is that of the images on which they learned.
        state: the tensors.
        classes: names, in the order of the logits; empty if nobody knows.
        heads: those of each head that has learned; not given, of the one in use alone.
    """
    return tensors.encode(state, _metadata(architecture, classes, heads))


def digest_of_weights(architecture: Architecture, state: dict[str, Tensor], classes: Sequence[str] = ()) -> Digest:
    """That which they would have stored, of the tensors as they lie: nothing is copied."""
    return tensors.digest(state, _metadata(architecture, classes, None))


def _metadata(architecture: Architecture, classes: Sequence[str], heads: Mapping[str, Sequence[str]] | None) -> dict[str, Any]:
    metadata: dict[str, Any] = {"kind": "weights", "architecture": architecture.canonical()}
    if classes:
        metadata["classes"] = list(classes)
    if architecture.heads:
        known = {architecture.head: classes} if heads is None else heads
        metadata["heads"] = {name: list(listed) for name, listed in sorted(known.items()) if listed}
    return metadata


def read_metadata(data: Buffer) -> WeightsMetadata:
    """What stored weights say of themselves.

    Raises:
        RemoteProtocolError: the bytes are no weights, or say nonsense.
    """
    try:
        return WeightsMetadata.model_validate(tensors.read_metadata(data))
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:3])
        raise RemoteProtocolError(f"what the weights say of themselves is malformed: {said}", Rule.TENSORS) from None
