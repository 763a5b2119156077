"""Images as agents send them: RGB in [0, 1], whatever the networks on either side want. Each normalizes for itself."""

import torch
from torch import Tensor

from agentkd.architecture import Normalization
from agentkd.errors import ContractError
from agentkd.knowledge import tensors
from agentkd.knowledge.tensors import Buffer

IMAGES = "images"


def encode_images(images: Tensor) -> bytes:
    """Images [N,3,H,W] in [0, 1] as they are sent, in float32.

    Raises:
        ContractError: they are others.
    """
    sent = images.detach().float().cpu().contiguous()
    _check(sent)
    return tensors.encode({IMAGES: sent})


def decode_images(data: Buffer) -> Tensor:
    """Images [N,3,H,W] in [0, 1] that somebody sent.

    Raises:
        ContractError: they are others.
        RemoteProtocolError: the bytes are no tensors that may be.
    """
    images = tensors.decode(data).get(IMAGES)
    if images is None or images.dtype != torch.float32:
        raise ContractError(IMAGES, "float32 [N,3,H,W]", None if images is None else str(images.dtype))
    _check(images)
    return images


def normalized(images: Tensor, normalization: Normalization) -> Tensor:
    """Images [N,3,H,W] in [0, 1] as a network wants them: to the bit what its own views of the same pixels are."""
    mean, deviation = (torch.tensor(value)[:, None, None] for value in (normalization.mean, normalization.deviation))
    return (images - mean) / deviation


def _check(images: Tensor) -> None:
    if images.dim() != 4 or images.shape[1] != 3 or not images.numel():
        raise ContractError(IMAGES, "[N,3,H,W]", tuple(images.shape))
    least, most = (float(value) for value in images.aminmax())
    if not (least >= 0 and most <= 1):  # NaN is in no range
        hint = "send RGB divided by 255, not normalized; each network normalizes for itself"
        raise ContractError(IMAGES, "values in [0, 1]", f"{least:g} to {most:g}", hint=hint)
