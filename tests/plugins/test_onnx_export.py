"""Graphs as ONNX models: every op that has a form, on the cases of the op, by ONNX Runtime; random graphs; round trips."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opyard as oy
from opyard.ops import STANDARD
from opyard_onnx import UnsupportedModel, export, load
from opyard_onnx.operators.exports import EXPORTS

onnxruntime.set_default_logger_severity(4)
OPS = {name: function.op for name, function in STANDARD.items()}
THEIRS = ("float32", "float64", "int64", "int32", "bool")
"""Dtypes that ONNX Runtime has kernels for, for most operators."""


def theirs(proto: Any, feeds: dict[str, Any]) -> list[Any]:
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[Any] = session.run(None, feeds)
    return found


def graph_of(op: oy.Op, specs: list[oy.TensorSpec | None], attributes: dict[str, Any]) -> oy.Graph:
    graph = oy.Graph()
    values = [None if spec is None else graph.input(f"in{i}", spec) for i, spec in enumerate(specs)]
    made = graph.apply(op, values, attributes)
    for number, value in enumerate(made if isinstance(made, tuple) else (made,)):
        graph.output(f"out{number}", value)
    return graph


@pytest.mark.parametrize("name", sorted(EXPORTS))
def test_every_form_agrees_with_onnx_runtime_on_the_cases_of_the_op(name: str):
    compared = 0
    for number, case in enumerate(OPS[name].cases()):
        arrays = case.arrays(number)
        if any(a is not None and (a.dtype.name not in THEIRS or not a.size) for a in arrays):
            continue
        call = OPS[name].call(
            *(None if a is None else oy.TensorSpec.of(a) for a in arrays), **dict(case.attributes)
        )
        expected = call.reference(*arrays)
        specs = [None if a is None else oy.TensorSpec.of(a) for a in arrays]
        graph = graph_of(OPS[name], specs, dict(case.attributes))
        feeds = {f"in{i}": a for i, a in enumerate(arrays) if a is not None}
        if any(value.dtype.name not in THEIRS for value in graph.outputs.values()):
            continue
        try:
            found = theirs(export(graph), feeds)
        except UnsupportedModel as error:
            assert "ONNX has no " in str(error)  # of this dtype
            continue
        except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented:
            continue  # a dtype that ONNX Runtime has no kernel for
        for a, b in zip(found, expected, strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
        compared += 1
    assert compared, "no case was compared"


UNARY = (oy.tanh, oy.relu, oy.abs, oy.square, oy.sigmoid, oy.softplus, oy.negative, oy.gelu, oy.silu)
BINARY = (oy.add, oy.subtract, oy.multiply, oy.maximum, oy.minimum)


def step(pool: list[Any], choice: tuple[int, int, int]) -> Any:
    """One more value out of those that are there, all ``[batch, 4]``."""
    kind, first, second = choice
    a, b = pool[first % len(pool)], pool[second % len(pool)]
    forms = [
        lambda: UNARY[second % len(UNARY)](a),
        lambda: BINARY[first % len(BINARY)](a, b),
        lambda: oy.matmul(a, np.linspace(-1, 1, 16, dtype="float32").reshape(4, 4)),
        lambda: oy.softmax(a, axis=second % 2),
        lambda: oy.layer_normalization(a),
        lambda: oy.subtract(a, oy.mean(b, axis=1, keepdims=True)),
        lambda: oy.reshape(oy.permute_dims(oy.reshape(a, shape=(-1, 2, 2)), axes=(0, 2, 1)), shape=(-1, 4)),
        lambda: oy.concat(*oy.split(a, sections=2, axis=1)[::-1], axis=1),
        lambda: oy.where(oy.greater(a, b), a, oy.multiply(b, 0.5)),
        lambda: oy.slice(oy.pad(a, pads=((0, 0), (1, 2))), starts=(2,), stops=(6,), axes=(1,)),
        lambda: oy.clip(a, np.float32(-1), np.float32(2)),
        lambda: oy.cast(oy.cast(a, dtype="float64"), dtype="float32"),
    ]
    return forms[kind % len(forms)]()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=12),
    st.integers(1, 5),
)
def test_random_graphs_agree_with_onnx_runtime_and_come_back(choices: list[tuple[int, int, int]], batch: int):
    graph = oy.Graph()
    pool: list[Any] = [
        graph.input("x", oy.TensorSpec(("batch", 4))),
        graph.input("z", oy.TensorSpec(("batch", 4))),
    ]
    for choice in choices:
        pool.append(step(pool, choice))
    graph.output("y", pool[-1])
    generator = np.random.default_rng(len(choices))
    feeds = {name: generator.standard_normal((batch, 4)).astype("float32") for name in ("x", "z")}
    expected = oy.Session(graph, devices="reference").run("y", feeds)
    proto = export(graph)
    np.testing.assert_allclose(theirs(proto, feeds)[0], expected, rtol=1e-4, atol=1e-4)
    back = load(proto)
    assert list(back.inputs) == ["x", "z"] and back.outputs["y"].shape == graph.outputs["y"].shape
    again = oy.Session(back, devices="reference").run("y", feeds)
    np.testing.assert_allclose(again, expected, rtol=1e-5, atol=1e-5)


def test_names_sizes_and_weights_stay():
    weights = np.ones((4, 3), "float32")
    with oy.Graph() as graph:
        x = graph.input("images", oy.TensorSpec(("batch", 4)))
        graph.output("scores", oy.softmax(oy.matmul(x, weights)))
    proto = export(graph, name="net")
    assert proto.graph.name == "net" and proto.producer_name == "opyard"
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", 21)] and proto.ir_version == 10
    (given_,) = proto.graph.input
    assert given_.name == "images" and given_.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert [n.op_type for n in proto.graph.node] == ["MatMul", "Softmax", "Identity"]
    assert [tuple(t.dims) for t in proto.graph.initializer] == [(4, 3)]


def test_shapes_of_symbolic_sizes_are_computed():
    with oy.Graph() as graph:
        x = graph.input("x", oy.TensorSpec(("n", "m", 2)))
        n, m, _ = x.shape
        graph.output("y", oy.broadcast_to(oy.mean(x, axis=0, keepdims=True), shape=(n, m, 2)))
    x = np.arange(12, dtype="float32").reshape(2, 3, 2)
    (found,) = theirs(export(graph), {"x": x})
    np.testing.assert_allclose(found, np.broadcast_to(x.mean(0), x.shape))
    with oy.Graph() as other:
        x = other.input("x", oy.TensorSpec(("n", 2)))
        other.output("y", oy.full(shape=(x.shape[0] * 3,), value=1.0))
    with pytest.raises(UnsupportedModel, match=r"the size 3\*n is computed of others, which is not exported"):
        export(other)


def test_an_output_may_be_an_input_or_a_constant_or_there_twice():
    with oy.Graph() as graph:
        x = graph.input("x", oy.TensorSpec((2,)))
        y = oy.relu(x)
        graph.output("a", y)
        graph.output("b", y)
        graph.output("c", x)
        graph.output("relu", graph.constant(np.ones(3, "float32")))
    found = theirs(export(graph), {"x": np.array([-1, 1], "float32")})
    assert [part.tolist() for part in found] == [[0, 1], [0, 1], [-1, 1], [1, 1, 1]]


def test_what_has_no_form():
    with oy.Graph() as graph:
        key = graph.input("key", oy.TensorSpec((2,), "uint32"))
        graph.output("y", oy.random_normal(key, shape=(3,)))
    with pytest.raises(
        UnsupportedModel, match=r"the op random_normal \(at test_onnx_export.py:\d+\) has no ONNX form yet"
    ):
        export(graph)
    doubles = oy.trace(oy.celu, oy.TensorSpec((2,), "float64"))
    with pytest.raises(UnsupportedModel, match=r"ONNX has no Celu of float64; cast it first"):
        export(doubles)
