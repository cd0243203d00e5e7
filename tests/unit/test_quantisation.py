"""Int8 products: how near they come to float32, row by row, and that rows do not see each other."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.quantisation import quantise_rows

WIDTH, COLUMNS = 64, 16


def session(gelu: bool, *, quantised: bool) -> onnxruntime.InferenceSession:
    """A product with a constant matrix, of rows [batch, length, WIDTH] that may come from a GELU."""
    matrix = np.random.default_rng(7).normal(size=(WIDTH, COLUMNS)).astype(np.float32)
    activation = [helper.make_node("Gelu", ["rows"], ["activated"], domain="com.microsoft")] if gelu else []
    product = helper.make_node("MatMul", ["activated" if gelu else "rows", "matrix"], ["product"])
    graph = helper.make_graph(
        [*activation, product],
        "product",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["batch", "length", WIDTH])],
        [helper.make_tensor_value_info("product", TensorProto.FLOAT, ["batch", "length", COLUMNS])],
        [numpy_helper.from_array(matrix, "matrix")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    if quantised:
        quantise_rows(model)
        assert "MatMulIntegerToFloat" in {node.op_type for node in model.graph.node}
        assert "matrix" not in {tensor.name for tensor in model.graph.initializer}
    onnx.checker.check_model(model)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def products(rows: np.ndarray, *, gelu: bool, quantised: bool) -> np.ndarray:
    (found,) = session(gelu, quantised=quantised).run(None, {"rows": rows[None].astype(np.float32)})
    return found[0]


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("size", [1e-3, 1.0, 300.0])
def test_a_row_of_any_size_is_close_to_float32(gelu, size):
    rows = np.random.default_rng(3).normal(size=(20, WIDTH)) * size
    exact, found = (products(rows, gelu=gelu, quantised=quantised) for quantised in (False, True))
    # A row's values are rounded to the 127th part of its largest, or after a GELU to the 235th or to a 117th of one.
    largest = np.abs(rows).max(axis=1, keepdims=True)
    step = np.maximum(largest / 235, 1 / 117) if gelu else largest / 127
    assert (np.abs(found - exact) < 40 * step).all()


def test_what_a_gelu_leaves_of_negative_values_is_not_cut_off():
    rows = np.full((1, WIDTH), -0.75)  # where a GELU is least: -0.17
    exact, found = (products(rows, gelu=True, quantised=quantised) for quantised in (False, True))
    assert np.abs(exact).max() > 1
    np.testing.assert_allclose(found, exact, rtol=0.05, atol=0.05)


def test_a_row_of_zeros_stays_one():
    found = products(np.zeros((2, WIDTH)), gelu=False, quantised=True)
    assert (found == 0).all()


@pytest.mark.parametrize("gelu", [False, True])
def test_a_row_has_the_same_bytes_whatever_stands_beside_it(gelu):
    rows = np.random.default_rng(5).normal(size=(9, WIDTH))
    alone = [products(row[None], gelu=gelu, quantised=True)[0] for row in rows]
    rows_beside = np.concatenate([rows, rows * 1_000])
    beside = products(rows_beside, gelu=gelu, quantised=True)[: len(rows)]
    assert [row.tobytes() for row in alone] == [row.tobytes() for row in beside]
