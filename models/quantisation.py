"""Quantise an ONNX graph to int8 so that every row keeps its own scale.

ONNX Runtime's dynamic quantisation takes one scale from everything in a run, so that a text's vector would change with
its neighbours. Here each row of activations, one token, is scaled by its own largest value. That makes a row's result a
function of the row alone, bit for bit, and is more exact too: models/SERVING.md has the figures.
"""

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

# CPUs without VNNI add pairs of products of 8-bit activations and weights in 16 bits. Weights of 7 bits can't overflow.
_WEIGHT_LIMIT = 63
_TABLE_LIMIT = 127
_STEP = "row_quantisation_step"  # rows are divided by their largest value, so that one step fits them all
_ZERO = "row_quantisation_zero"
_CONTRIB = "com.microsoft"


def quantise_rows(model: onnx.ModelProto) -> None:
    """Replace, in place, products with constant matrices by int8 ones and embedding tables by int8 tables."""
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    constants = {_STEP: np.array(1 / 127, np.float32), _ZERO: np.array(128, np.uint8)}
    quantised_inputs: set[str] = set()
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.op_type == "MatMul" and _is_matrix(weights.get(node.input[1])):
            rows, name = node.input
            if rows not in quantised_inputs:
                nodes += _quantise_activations(rows)
                quantised_inputs.add(rows)
            constants |= _quantised(name, numpy_helper.to_array(weights[name]), axis=0, limit=_WEIGHT_LIMIT)
            nodes += _product(rows, name, node.output[0])
        elif node.op_type == "Gather" and _is_matrix(weights.get(node.input[0])):
            name, ids = node.input
            constants |= _quantised(name, numpy_helper.to_array(weights[name]), axis=1, limit=_TABLE_LIMIT)
            nodes += _lookup(name, ids, node.output[0])
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for name, tensor in weights.items() if name in used]
    added = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept + added)
    if all(opset.domain != _CONTRIB for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_CONTRIB, 1))


def _is_matrix(tensor: onnx.TensorProto | None) -> bool:
    return tensor is not None and len(tensor.dims) == 2 and tensor.data_type == onnx.TensorProto.FLOAT


def _quantised(name: str, matrix: NDArray[np.float32], axis: int, limit: int) -> dict[str, NDArray[np.generic]]:
    """Int8 values and one scale for each column (axis 0) or row (axis 1) of `matrix`."""
    scale = np.maximum(np.abs(matrix).max(axis=axis, keepdims=True), 1e-12) / limit
    scale = scale.astype(np.float32)
    values = np.rint(matrix / scale).astype(np.int8)
    return {f"{name}.int8": values, f"{name}.scale": scale if axis == 1 else scale[0]}


def _quantise_activations(rows: str) -> Iterator[NodeProto]:
    """Float rows to uint8 around 128; a row of zeros may give anything, its product is multiplied by zero."""
    yield helper.make_node("Abs", [rows], [f"{rows}.magnitude"])
    yield helper.make_node("ReduceMax", [f"{rows}.magnitude"], [f"{rows}.largest"], axes=[-1], keepdims=1)
    yield helper.make_node("Div", [rows, f"{rows}.largest"], [f"{rows}.unit"])
    yield helper.make_node("QuantizeLinear", [f"{rows}.unit", _STEP, _ZERO], [f"{rows}.uint8"])


def _product(rows: str, weight: str, output: str) -> Iterator[NodeProto]:
    inputs = [f"{rows}.uint8", f"{weight}.int8", _STEP, f"{weight}.scale", _ZERO]
    yield helper.make_node("MatMulIntegerToFloat", inputs, [f"{output}.unit"], domain=_CONTRIB)
    yield helper.make_node("Mul", [f"{output}.unit", f"{rows}.largest"], [output])


def _lookup(table: str, ids: str, output: str) -> Iterator[NodeProto]:
    yield helper.make_node("Gather", [f"{table}.int8", ids], [f"{output}.int8"])
    yield helper.make_node("Cast", [f"{output}.int8"], [f"{output}.unit"], to=onnx.TensorProto.FLOAT)
    yield helper.make_node("Gather", [f"{table}.scale", ids], [f"{output}.scale"])
    yield helper.make_node("Mul", [f"{output}.unit", f"{output}.scale"], [output])
