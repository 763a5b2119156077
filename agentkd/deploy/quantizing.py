"""A network in fewer bits: int8 where it bears it, float where it does not, as measured; or float16."""

import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from agentkd.datasets.samples import Pixels
from agentkd.deploy.agreement import Agreement, Reference, Tolerance, as_floats
from agentkd.deploy.onnx_files import IMAGES, Floats, Session

# What ONNX Runtime computes in integers on a processor. The last enlargement and the softmax stay as they are.
CONVOLUTION = "Conv"
KINDS = (CONVOLUTION, "Add", "Mul", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "Resize")
MEASURING_S = 120.0
NUM_PROBED = 4
"""Images on which a single layer is measured."""


@dataclass(frozen=True)
class Quantized:
    """A network in int8.

    Args:
        model: the file.
        agreement: with the network that it was made of.
        in_float: layers that were left in float, by name.
        num_layers: convolutions that there are.
        kinds: of operations that are in int8.
    """

    model: ModelProto
    agreement: Agreement
    in_float: tuple[str, ...]
    num_layers: int
    kinds: tuple[str, ...]


def in_int8(
    model: ModelProto,
    calibration: Sequence[Pixels],
    reference: Reference,
    tolerance: Tolerance,
    *,
    measuring_s: float = MEASURING_S,
) -> Quantized:
    """The network with 8-bit weights, a scale for each channel, and 8-bit activations, their ranges from images (static).

    Everything that can be is in int8 at first. If that is not good enough, only convolutions are; then each convolution is put
    into int8 alone, and those that change most pixels stay in float, twice as many each time, until it is. Of what was measured
    the best is returned, good enough or not.

    Args:
        model: in float32.
        calibration: images ``[H,W,C]``.
        reference: the network itself.
        tolerance: what is good enough.
        measuring_s: seconds for measuring single layers; those that it was not enough for count as harmless.
    """
    with tempfile.TemporaryDirectory(prefix="agentkd-int8-") as scratch, _quietly():
        attempts = _Attempts(Path(scratch), model, calibration)

        def judged(kinds: Sequence[str], in_float: Sequence[str]) -> Quantized:
            made = attempts.make(kinds, exclude=in_float)
            agreement = reference.compare(Session(made.SerializeToString()))
            there = tuple(kind for kind in kinds if kind in attempts.kinds)
            return Quantized(made, agreement, tuple(in_float), len(attempts.layers), there)

        best = judged(KINDS, ())
        if not best.agreement.problem(tolerance):
            return best
        best = _better(best, judged((CONVOLUTION,), ()))
        if not best.agreement.problem(tolerance):
            return best
        harm = _harm(attempts, reference, time.monotonic() + measuring_s)
        ranked = sorted(attempts.layers, key=lambda name: -harm.get(name, 0.0))
        count = 1
        while count < len(ranked):
            best = _better(best, judged((CONVOLUTION,), ranked[:count]))
            if not best.agreement.problem(tolerance):
                return best
            count *= 2
        return best


def _better(one: Quantized, other: Quantized) -> Quantized:
    return max(one, other, key=lambda made: (made.agreement.miou or 0.0, made.agreement.agreement))


def _harm(attempts: "_Attempts", reference: Reference, deadline: float) -> dict[str, float]:
    """By layer, the share of pixels that change if it alone is in int8; of as many layers as there is time for."""
    found: dict[str, float] = {}
    for name in attempts.layers:
        if time.monotonic() > deadline:
            break
        made = attempts.make((CONVOLUTION,), only=[name])
        found[name] = 1 - reference.compare(Session(made.SerializeToString()), first=NUM_PROBED).agreement
    return found


class _Attempts:
    """Quantizes one model in several ways; ranges are measured once."""

    def __init__(self, scratch: Path, model: ModelProto, calibration: Sequence[Pixels]) -> None:
        self._plain, self._prepared = scratch / "plain.onnx", scratch / "prepared.onnx"
        self._made, self._ranges = scratch / "made.onnx", scratch / "ranges.json"
        self._images = [as_floats(image) for image in calibration]
        onnx.save_model(model, self._plain)
        quant_pre_process(self._plain, self._prepared, skip_symbolic_shape=True)
        prepared = onnx.load_model(self._prepared)
        for number, node in enumerate(prepared.graph.node):
            node.name = node.name or f"{node.op_type.lower()}_{number}"
        onnx.save_model(prepared, self._prepared)
        self.kinds = {node.op_type for node in prepared.graph.node}
        self.layers = [node.name for node in prepared.graph.node if node.op_type == CONVOLUTION]
        self._never = _last_enlargement(prepared)
        self.make(KINDS)

    def make(self, kinds: Sequence[str], *, exclude: Sequence[str] = (), only: Sequence[str] = ()) -> ModelProto:
        """The model with the nodes of these kinds in int8, but for some, or none but some."""
        quantize_static(
            self._prepared,
            self._made,
            _Reader(self._images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(kinds),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=list(only),
            nodes_to_exclude=[*exclude, *self._never],
            calibration_cache_path=self._ranges,
        )
        return onnx.load_model(self._made)


def _last_enlargement(model: ModelProto) -> list[str]:
    """What enlarges the logits to the size of the image, if there is such: the last of its kind, behind all convolutions."""
    last = next((node for node in reversed(model.graph.node) if node.op_type in ("Resize", CONVOLUTION)), None)
    return [last.name] if last is not None and last.op_type == "Resize" else []


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Hands out images one by one."""

    def __init__(self, images: Sequence[Floats]) -> None:
        self._images: Iterator[Floats] = iter(images)

    def get_next(self) -> dict[str, Any] | None:
        """The next, or ``None`` after the last."""
        image = next(self._images, None)
        return None if image is None else {IMAGES: image}


def in_float16(model: ModelProto) -> ModelProto:
    """The network with weights and activations in float16. Images and probabilities stay in float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with _quietly():
        made = convert_float_to_float16(model, keep_io_types=True)
    assert isinstance(made, ModelProto)
    return made


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what ONNX Runtime says of itself meanwhile."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
