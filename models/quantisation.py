"""Quantise an ONNX graph to int8 so that every row keeps its own scale.

ONNX Runtime's dynamic quantisation takes one scale from everything in a run, so that a text's vector would change with
its neighbours. Here each row of activations, one token, is scaled by its own largest value. That makes a row's result a
function of the row alone, bit for bit, and is more exact too: models/SERVING.md has the figures.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

# CPUs without VNNI add pairs of products of 8-bit activations and weights in 16 bits. Weights of 7 bits can't overflow.
_WEIGHT_LIMIT = 63
_TABLE_LIMIT = 127
_CONTRIB = "com.microsoft"
_GELUS = {"BiasGelu", "Gelu", "FastGelu"}
_GELU_LEAST = 0.1702  # below zero no GELU goes further than this


class _Range(NamedTuple):
    """How rows of one kind are spread over 0 to 255."""

    zero: int  # what a zero becomes
    steps: int  # from there to the largest value

    @property
    def name(self) -> str:
        return f"rows_around_{self.zero}"


_BOTH_SIDES = _Range(128, 127)
_AFTER_GELU = _Range(20, 235)  # hardly anything lies below zero: nearly all steps are for what lies above


def quantise_rows(model: onnx.ModelProto) -> None:
    """Replace, in place, products with constant matrices by int8 ones and embedding tables by int8 tables.

    GELU becomes its approximation by tanh, which differs by less than a step of 8 bits and takes a third less time.
    """
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    maker = {name: node.op_type for node in graph.node for name in node.output}
    constants = _constants()
    ranges: dict[str, _Range] = {}
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.op_type == "MatMul" and _is_matrix(weights.get(node.input[1])):
            rows, name = node.input
            matrix = numpy_helper.to_array(weights[name])
            if rows not in ranges:
                within = _AFTER_GELU if maker.get(rows) in _GELUS else _BOTH_SIDES
                nodes += _quantise_activations(rows, within, first=within not in ranges.values())
                ranges[rows] = within
                constants[f"{rows}.flat_shape"] = np.array([-1, len(matrix)], np.int64)
            constants |= _quantised(name, matrix, axis=0, limit=_WEIGHT_LIMIT)
            nodes += _product(rows, ranges[rows], name, node.output[0])
        elif node.op_type == "Gather" and _is_matrix(weights.get(node.input[0])):
            name, ids = node.input
            constants |= _quantised(name, numpy_helper.to_array(weights[name]), axis=1, limit=_TABLE_LIMIT)
            nodes += _lookup(name, ids, node.output[0])
        elif node.op_type in _GELUS:
            nodes.append(helper.make_node("FastGelu", list(node.input), list(node.output), domain=_CONTRIB))
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for name, tensor in weights.items() if name in used]
    added = [numpy_helper.from_array(array, name) for name, array in constants.items() if name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept + added)
    if all(opset.domain != _CONTRIB for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_CONTRIB, 1))


def _constants() -> dict[str, NDArray[np.generic]]:
    """Return what all quantised rows share."""
    constants: dict[str, NDArray[np.generic]] = {
        "rows_one": np.array(1, np.float32),
        "rows_column": np.array([-1], np.int64),
        "rows_least_step": np.array(_GELU_LEAST / _AFTER_GELU.zero, np.float32),
    }
    for within in (_BOTH_SIDES, _AFTER_GELU):
        constants[within.name] = np.array(within.zero, np.uint8)
        constants[f"{within.name}.share"] = np.array(1 / within.steps, np.float32)
    return constants


def _is_matrix(tensor: onnx.TensorProto | None) -> bool:
    return tensor is not None and len(tensor.dims) == 2 and tensor.data_type == onnx.TensorProto.FLOAT


def _quantised(name: str, matrix: NDArray[np.float32], axis: int, limit: int) -> dict[str, NDArray[np.generic]]:
    """Int8 values and one scale for each column (axis 0) or row (axis 1) of `matrix`."""
    scale = np.maximum(np.abs(matrix).max(axis=axis, keepdims=True), 1e-12) / limit
    scale = scale.astype(np.float32)
    values = np.rint(matrix / scale).astype(np.int8)
    return {f"{name}.int8": values, f"{name}.scale": scale if axis == 1 else scale[0]}


def _quantise_activations(rows: str, within: _Range, *, first: bool) -> Iterator[NodeProto]:
    """Float rows to uint8; a row of zeros may give anything, its product is multiplied by zero.

    ``first``: nothing has been quantised within this range yet, so that its zeros [rows] have to be made.
    """
    largest, share, step = f"{rows}.largest", f"{within.name}.share", f"{rows}.step"
    if within is _BOTH_SIDES:
        yield helper.make_node("Abs", [rows], [f"{rows}.magnitude"])
        yield helper.make_node("ReduceMax", [f"{rows}.magnitude"], [largest], axes=[-1], keepdims=1)
        yield helper.make_node("Mul", [largest, share], [step])
    else:  # a row without large values still has to hold what lies below zero
        yield helper.make_node("ReduceMax", [rows], [largest], axes=[-1], keepdims=1)
        yield helper.make_node("Mul", [largest, share], [f"{rows}.scaled"])
        yield helper.make_node("Max", [f"{rows}.scaled", "rows_least_step"], [step])
    # One step for each row is what QuantizeLinear takes along the first axis only.
    yield helper.make_node("Reshape", [rows, f"{rows}.flat_shape"], [f"{rows}.flat"])
    yield helper.make_node("Reshape", [step, "rows_column"], [f"{rows}.steps"])
    if first:
        yield helper.make_node("Shape", [f"{rows}.steps"], [f"{within.name}.count"])
        yield helper.make_node("Expand", [within.name, f"{within.name}.count"], [f"{within.name}.zeros"])
    inputs = [f"{rows}.flat", f"{rows}.steps", f"{within.name}.zeros"]
    yield helper.make_node("QuantizeLinear", inputs, [f"{rows}.flat_uint8"], axis=0)
    yield helper.make_node("Shape", [rows], [f"{rows}.shape"])
    yield helper.make_node("Reshape", [f"{rows}.flat_uint8", f"{rows}.shape"], [f"{rows}.uint8"])


def _product(rows: str, within: _Range, weight: str, output: str) -> Iterator[NodeProto]:
    inputs = [f"{rows}.uint8", f"{weight}.int8", "rows_one", f"{weight}.scale", within.name]
    yield helper.make_node("MatMulIntegerToFloat", inputs, [f"{output}.unit"], domain=_CONTRIB)
    yield helper.make_node("Mul", [f"{output}.unit", f"{rows}.step"], [output])


def _lookup(table: str, ids: str, output: str) -> Iterator[NodeProto]:
    yield helper.make_node("Gather", [f"{table}.int8", ids], [f"{output}.int8"])
    yield helper.make_node("Cast", [f"{output}.int8"], [f"{output}.unit"], to=onnx.TensorProto.FLOAT)
    yield helper.make_node("Gather", [f"{table}.scale", ids], [f"{output}.scale"])
    yield helper.make_node("Mul", [f"{output}.unit", f"{output}.scale"], [output])
