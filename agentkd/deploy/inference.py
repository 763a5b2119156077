"""A trained network in the form in which it leaves: as little as inference needs, and for images of all sizes at once."""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as open_sizes
from torch.nn import functional as F

from agentkd.code.running import told
from agentkd.errors import ConfigError
from agentkd.networks.folding import drop_training_parts, fold_normalizations
from agentkd.networks.segmenter import MIN_SIDE, Segmenter

# Of the image by which a network is looked at: no two of its maps have the same size by chance. It is never filled with numbers.
LOOKED_AT = (1157, 1291)
TRIED_SIDE = 64
NOISY = ("torch.__trace", "torch.onnx", "torch.export", "torch.fx", "onnxscript", "onnx_ir")


class Inference(nn.Module):
    """A network for inference: ``forward(images [N,C,H,W])``, floats in [0, 1], returns probabilities ``[N,K,H,W]``.

    It does what a ``Segmenter`` does with sides that are of ``multiple``, and 32 or more. It does not train.

    Args:
        segmenter: whose network it is; that stays as it is.
        is_folded: whether normalizations become part of convolutions.

    Raises:
        ConfigError: an own network fails without what it says training alone needs.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, segmenter: Segmenter, *, is_folded: bool = True) -> None:
        super().__init__()
        self.multiple = segmenter.multiple
        self.network = copy.deepcopy(segmenter.network).eval().requires_grad_(requires_grad=False)
        self.register_buffer("mean", segmenter.mean.clone())
        self.register_buffer("deviation", segmenter.deviation.clone())
        with told(f"{segmenter.architecture.family} cannot be made ready for inference"):
            drop_training_parts(self.network)
            side = -(-TRIED_SIDE // self.multiple) * self.multiple
            images = torch.zeros(1, segmenter.architecture.num_channels, side, side, device=segmenter.mean.device)
            self.num_folded = fold_normalizations(self.network, images) if is_folded else 0
            with torch.no_grad():
                self(images)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities of every pixel."""
        logits = self.network((images - self.mean) / self.deviation)["logits"]
        return F.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False).softmax(dim=1)


def as_program(inference: Inference) -> ExportedProgram:
    """The network as a program of ``torch.export`` for all N, and all H and W from 32 on that are of its multiple.

    Raises:
        ConfigError: it cannot be written as one, mostly because what an own network does depends on its input.
    """
    multiple = inference.multiple
    sides = [side // multiple * multiple for side in LOOKED_AT]
    least = -(-MIN_SIDE // multiple)
    height, width = (Dim(name, min=least) * multiple if multiple > 1 else Dim(name, min=least) for name in ("rows", "columns"))
    shapes = {"images": {0: Dim("num_images", min=1), 2: height, 3: width}}
    with quietly(), told("it cannot be exported for images of all sizes"), _without_zero_and_one():
        return torch.export.export(
            inference,
            (torch.zeros(2, inference.mean.numel(), *sides),),
            dynamic_shapes=shapes,
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def _without_zero_and_one() -> AbstractContextManager[None]:
    """Sizes of 0 and 1 are sizes like others, so that nothing is asked about them."""
    patched: AbstractContextManager[None] = open_sizes.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    return patched


@contextmanager
def quietly() -> Iterator[None]:
    """Without what the libraries say about themselves while they export."""
    loggers = {logging.getLogger(name): logging.getLogger(name).level for name in NOISY}
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in loggers.items():
            logger.setLevel(level)


def must_have(package: str) -> None:
    """Checks that what an export needs is installed.

    Raises:
        ConfigError: it is not.
    """
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise ConfigError(f"{package} is not installed; run: pip install 'agentkd[export]'")
