"""Images as agents send them: channels in [0, 1], RGB if three, whatever the networks on either side want. Each normalizes."""

import torch
from torch import Tensor

from agentkd.architecture import MAX_CHANNELS, Normalization
from agentkd.errors import ContractError
from agentkd.knowledge import tensors
from agentkd.knowledge.tensors import Buffer

IMAGES = "images"


def encode_images(images: Tensor) -> bytes:
    """Images [N,C,H,W] in [0, 1] as they are sent, in float32.

    Raises:
        ContractError: they are others.
    """
    sent = images.detach().float().cpu().contiguous()
    _check(sent)
    return tensors.encode({IMAGES: sent})


def decode_images(data: Buffer) -> Tensor:
    """Images [N,C,H,W] in [0, 1] that somebody sent.

    Raises:
        ContractError: they are others.
        RemoteProtocolError: the bytes are no tensors that may be.
    """
    images = tensors.decode(data).get(IMAGES)
    if images is None or images.dtype != torch.float32:
        raise ContractError(IMAGES, "float32 [N,C,H,W]", None if images is None else str(images.dtype))
    _check(images)
    return images


def normalized(images: Tensor, normalization: Normalization) -> Tensor:
    """Images [N,C,H,W] in [0, 1] as a network wants them: to the bit what its own views of the same pixels are.

    Raises:
        ContractError: they are of another number of channels.
    """
    channels = normalization.channels
    if images.shape[1] != len(channels):
        hint = f"the network is for images of {', '.join(channels)}"
        raise ContractError("channels", len(channels), images.shape[1], hint=hint)
    mean, deviation = (torch.tensor(value)[:, None, None] for value in (normalization.mean, normalization.deviation))
    return (images - mean) / deviation


def _check(images: Tensor) -> None:
    if images.dim() != 4 or not 1 <= images.shape[1] <= MAX_CHANNELS or not images.numel():
        raise ContractError(IMAGES, "[N,C,H,W]", tuple(images.shape))
    least, most = (float(value) for value in images.aminmax())
    if not (least >= 0 and most <= 1):  # NaN is in no range
        hint = "send channels divided by 255, not normalized; each network normalizes for itself"
        raise ContractError(IMAGES, "values in [0, 1]", f"{least:g} to {most:g}", hint=hint)
