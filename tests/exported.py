"""Small networks as agentkd exports them: a convolution with known weights, and a softmax."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

CLASSES = ("Burnt", "Fire", "Smoke")
COLORS = ((64, 64, 64), (213, 94, 0), (180, 200, 220))
WRITTEN = {"format": 1, "classes": list(CLASSES), "colors": [list(color) for color in COLORS], "multiple": 1, "channels": 3}


def random_weights(radius: int, seed: int = 0, num_classes: int = 3) -> NDArray[np.float32]:
    """A kernel ``[K,3,s,s]`` that looks so many pixels far."""
    side = 2 * radius + 1
    return np.random.default_rng(seed).normal(size=(num_classes, 3, side, side)).astype(np.float32)


def by_channel() -> NDArray[np.float32]:
    """A kernel that makes of red, green and blue a class each: the largest wins."""
    return (50 * np.eye(3, dtype=np.float32))[:, :, None, None]


def export(
    path: Path,
    weights: NDArray[np.float32] | None = None,
    metadata: Any = WRITTEN,
    *,
    size: tuple[int, int] | None = None,
    gives: str = "probabilities",
    stride: int = 1,
) -> Path:
    """Writes a network.

    Args:
        path: to write to.
        weights: of its convolution; by default each class is a channel.
        metadata: under the key ``agentkd``: data, or a text as it is; None: none.
        size: the only (height, width) that it takes; None: any.
        gives: ``probabilities``, ``logits`` or ``numbers`` of classes.
        stride: the output is so many times smaller.
    """
    kernel = by_channel() if weights is None else weights
    count, radius = kernel.shape[0], kernel.shape[2] // 2
    sides: list[Any] = list(size) if size else ["h", "w"]
    is_float = gives != "numbers"
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, *sides])
    shape = ["n", count, "y", "x"] if is_float else ["n", "y", "x"]
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT if is_float else TensorProto.INT64, shape)
    last = "probabilities" if gives == "logits" else "logits"
    nodes = [helper.make_node("Conv", ["images", "kernel"], [last], pads=[radius] * 4, strides=[stride] * 2)]
    if gives == "probabilities":
        nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1))
    elif gives == "numbers":
        nodes.append(helper.make_node("ArgMax", ["logits"], ["probabilities"], axis=1, keepdims=0))
    graph = helper.make_graph(nodes, "network", [images], [output], [numpy_helper.from_array(kernel, "kernel")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    if metadata is not None:
        text = metadata if isinstance(metadata, str) else json.dumps(metadata)
        helper.set_model_props(model, {"agentkd": text})
    onnx.save(model, str(path))
    return path


def logits_of(pixels: NDArray[np.uint8], weights: NDArray[np.float32]) -> NDArray[np.float64]:
    """What such a convolution gives for an image ``[H,W,3]``, by the definition."""
    values, side = pixels.astype(np.float64) / 255, weights.shape[2]
    around = np.pad(values, ((side // 2, side // 2), (side // 2, side // 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(around, (side, side), axis=(0, 1))
    return np.einsum("hwcij,kcij->khw", windows, weights.astype(np.float64))


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities ``[K,H,W]``."""
    found = np.exp(logits - logits.max(axis=0))
    return found / found.sum(axis=0)


def scene(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Random pixels ``[H,W,3]``."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
