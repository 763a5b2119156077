"""A network as an ONNX file: images of any size in, probabilities out, and what they mean within."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from agentkd.code.running import told
from agentkd.deploy.inference import Inference, as_program, quietly
from agentkd.networks.segmenter import MIN_SIDE

IMAGES, PROBABILITIES = "images", "probabilities"
FILLED, OF_FILLED = "filled_images", "filled_probabilities"
METADATA_KEY = "agentkd"
FATAL = 4  # of the severities of ONNX Runtime: what it says on standard error below that, it raises as well
Floats = NDArray[np.floating[Any]]


def as_onnx(inference: Inference) -> ModelProto:
    """The network as ONNX: ``images`` float32 ``[N,C,H,W]`` to ``probabilities`` ``[N,K,H,W]``, for all N, H and W.

    What a ``Segmenter`` does with sizes that the network does not take is done inside: the last row and column are repeated.

    Raises:
        ConfigError: the network cannot be exported, or has an operation that ONNX does not have.
    """
    program = as_program(inference)
    with quietly(), told("it cannot be written as ONNX"):
        made = torch.onnx.export(
            program,
            (),
            dynamo=True,
            verbose=False,
            input_names=[FILLED],
            output_names=[OF_FILLED],
        )
    assert made is not None
    model = made.model_proto
    for node in model.graph.node:  # where in which file it was made is nobody's business
        del node.metadata_props[:]
        node.doc_string = ""
    del model.graph.value_info[:], model.metadata_props[:], model.graph.metadata_props[:]
    _softmax_by_parts(model)
    _for_all_sizes(model, inference.multiple)
    onnx.checker.check_model(model)
    return model


def _softmax_by_parts(model: ModelProto) -> None:
    """Writes a softmax over channels as what it consists of: in one piece it takes ONNX Runtime more time than some networks."""
    graph, axis = model.graph, "softmax_axis"
    nodes: list[onnx.NodeProto] = []
    for number, node in enumerate(graph.node):
        if node.op_type != "Softmax" or {one.name: one.i for one in node.attribute}.get("axis") != 1:
            nodes.append(node)
            continue
        most, below, powers, total = (f"softmax_{number}_{part}" for part in ("most", "below", "powers", "total"))
        for kind, inputs, output in (
            ("ReduceMax", [node.input[0], axis], most),
            ("Sub", [node.input[0], most], below),
            ("Exp", [below], powers),
            ("ReduceSum", [powers, axis], total),
            ("Div", [powers, total], node.output[0]),
        ):
            nodes.append(helper.make_node(kind, inputs, [output], name=f"softmax_{number}_{kind}"))
    if len(nodes) > len(graph.node):
        graph.initializer.append(numpy_helper.from_array(np.array([1], dtype=np.int64), axis))
        del graph.node[:]
        graph.node.extend(nodes)


def _for_all_sizes(model: ModelProto, multiple: int) -> None:
    """Puts what fills images up before the network, and what cuts that off behind it."""
    graph = model.graph
    num_channels, num_classes = (one.type.tensor_type.shape.dim[1].dim_value for one in (graph.input[0], graph.output[0]))

    def constant(name: str, values: Sequence[int]) -> str:
        graph.initializer.append(numpy_helper.from_array(np.array(values, dtype=np.int64), f"size_{name}"))
        return f"size_{name}"

    def node(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(kind, list(inputs), [output], name=f"size_{output}", **attributes)

    many, one_less, least = constant("multiple", [multiple]), constant("rest", [multiple - 1]), constant("least", [MIN_SIDE])
    nothing, starts, axes = constant("none", [0] * 6), constant("starts", [0, 0]), constant("axes", [2, 3])
    before = [
        node("Shape", [IMAGES], "sides", start=2, end=4),
        node("Add", ["sides", one_less], "enough"),
        node("Div", ["enough", many], "times"),
        node("Mul", ["times", many], "rounded"),
        node("Max", ["rounded", least], "wanted"),
        node("Sub", ["wanted", "sides"], "lacking"),
        node("Concat", [nothing, "lacking"], "margins", axis=0),
        node("Pad", [IMAGES, "margins"], FILLED, mode="edge"),
    ]
    behind = [node("Slice", [OF_FILLED, starts, "sides", axes], PROBABILITIES)]
    nodes = [*before, *graph.node, *behind]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    graph.input.append(helper.make_tensor_value_info(IMAGES, TensorProto.FLOAT, ["N", num_channels, "H", "W"]))
    graph.output.append(helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, ["N", num_classes, "H", "W"]))


def describe(model: ModelProto, metadata: Mapping[str, Any]) -> None:
    """Writes into a model what its numbers mean, in place of what it said before."""
    del model.metadata_props[:]
    model.metadata_props.add(key=METADATA_KEY, value=json.dumps(metadata, ensure_ascii=False, sort_keys=True))
    model.producer_name = "agentkd"


class Session:
    """A model as ONNX Runtime runs it on this machine's processor: called with images ``[N,C,H,W]``, returns probabilities.

    Args:
        model: the file's bytes.
        threads: for one operation; 0 leaves it to ONNX Runtime.
    """

    def __init__(self, model: bytes, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = FATAL
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def __call__(self, images: Floats) -> Floats:
        found = self._session.run([PROBABILITIES], {IMAGES: images})[0]
        assert isinstance(found, np.ndarray)
        return found
