"""Graphs as ONNX models: every op that has a form, on the cases of the op, by ONNX Runtime; random graphs; round trips."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opyard as oy
from onnx_runtime import theirs
from opyard.ops import STANDARD
from opyard_onnx import UnsupportedModel, export, load
from opyard_onnx.operators.export_parts import WITHOUT

OPS = {name: function.op for name, function in STANDARD.items()}
THEIRS = (
    *("float64", "float32", "float16", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
"""Dtypes that ONNX Runtime takes from NumPy and has kernels for, for most operators."""

ERRORS = onnxruntime.capi.onnxruntime_pybind11_state
ROUNDING = {"bfloat16": 2e-2, "float16": 4e-3}


def graph_of(op: oy.Op, specs: list[oy.TensorSpec | None], attributes: dict[str, Any]) -> oy.Graph:
    graph = oy.Graph()
    values = [None if spec is None else graph.input(f"in{i}", spec) for i, spec in enumerate(specs)]
    made = graph.apply(op, values, attributes)
    for number, value in enumerate(made if isinstance(made, tuple) else (made,)):
        graph.output(f"out{number}", value)
    return graph


@pytest.mark.parametrize("name", sorted(STANDARD.keys() - WITHOUT.keys()))
def test_every_op_agrees_with_onnx_runtime_on_its_cases(name: str):
    """Cases in dtypes that ONNX Runtime does not know run by opyard, after export and import."""
    compared = 0
    for number, case in enumerate(OPS[name].cases()):
        arrays = case.arrays(number)
        specs = [None if a is None else oy.TensorSpec.of(a) for a in arrays]
        call = OPS[name].call(*specs, **dict(case.attributes))
        graph = graph_of(OPS[name], specs, dict(case.attributes))
        feeds = {f"in{i}": a for i, a in enumerate(arrays) if a is not None}
        dtypes = {value.dtype.name for value in (*graph.inputs.values(), *graph.outputs.values())}
        try:
            proto = export(graph)
        except UnsupportedModel as error:
            assert dtypes & {"complex64", "complex128"} or (name, "int32") == ("max_pool", dtypes.pop()), (
                error
            )
            continue
        if dtypes <= set(THEIRS):
            try:
                found = theirs(proto, feeds)
            except ERRORS.NotImplemented:
                continue  # a dtype that ONNX Runtime has no kernel for
            except ERRORS.Fail as error:
                assert name == "pad" and "Unexpected mode" in str(error)  # it has no "wrap"
                continue
            compared += 1
        else:
            found = oy.Session(load(proto), devices="reference").run(list(graph.outputs), feeds)
        relative = max(ROUNDING.get(dtype, 2e-4) for dtype in dtypes)
        for a, b in zip(found, call.reference(*arrays), strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype
            wide = np.float64 if b.dtype.kind in "fV" else b.dtype
            # sums of large terms of both signs are as exact as the terms
            least = (
                relative / 10 * (float(np.abs(b).max()) if name == "conv_weight_gradient" and b.size else 1)
            )
            np.testing.assert_allclose(a.astype(wide), b.astype(wide), rtol=relative, atol=least)
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


@oy.op("acme.bend", scalar="x / (1 + abs(x)) * factor if x < limit else factor * x")
def bend(x: Any, *, factor: float, limit: float = 0.25) -> Any: ...


def _mixed(x: Any, y: Any, *, weights: tuple[float, ...]) -> tuple[Any, Any]:
    first = oy.add(bend(x, factor=weights[0]), oy.multiply(y, weights[-1]))
    return first, oy.subtract(y, oy.log1p(oy.abs(first)))


@oy.op("acme.layers.mix", infer=lambda x, y, **_: (x, x), decompose=_mixed)
def mix(x: Any, y: Any, *, weights: tuple[float, ...]) -> Any: ...


SHAPES = ((), (0,), (1,), (3,), (2, 3), (2, 0), (2, 1, 3))
FLOATS, INTEGERS = ("float32", "float64", "float16"), ("int32", "int64", "uint8", "int8")
WEIGHTS = ((0.5,), (0.1, -0.75), (2.0, 1.0))


def change(x: Any, kind: int, pick: int) -> Any:
    """A value of the same shape and dtype, by ops that ONNX Runtime has for the dtype."""
    floating = x.dtype.kind == "f"
    if not floating:
        forms = [
            lambda: oy.add(x, x),
            lambda: oy.where(oy.greater(x, 1), x, oy.multiply(x, 2)),
            lambda: oy.cast(oy.floor_divide(oy.cast(x, dtype="int32"), pick % 5 + 1), dtype=x.dtype.name),
            lambda: oy.cast(oy.remainder(oy.cast(x, dtype="int64"), -(pick % 5) - 1), dtype=x.dtype.name),
            lambda: oy.bitwise_left_shift(x, np.asarray(pick % 3, x.dtype)),
            lambda: oy.bitwise_right_shift(x, np.asarray(pick % 3, x.dtype)),
        ]
        return forms[kind % len(forms)]()
    forms = [
        lambda: bend(x, factor=WEIGHTS[pick % 3][0]),
        lambda: mix(x, oy.tanh(x), weights=WEIGHTS[pick % 3])[pick % 2],
        lambda: oy.hypot(x, np.asarray(1, x.dtype)),
        lambda: oy.expm1(oy.minimum(x, np.asarray(2, x.dtype))),
        lambda: oy.flip(x, axis=-1) if x.ndim else x,
        lambda: oy.roll(x, shift=pick, axis=None),
        lambda: oy.subtract(x, oy.mean(x, keepdims=True)) if 0 not in x.shape else x,
        lambda: oy.broadcast_to(oy.sum(x, axis=-1, keepdims=True), shape=x.shape) if x.ndim else x,
        lambda: oy.where(oy.isfinite(x), oy.trunc(x), x),
        lambda: oy.copysign(oy.sqrt(oy.abs(x)), oy.negative(x)),
        lambda: oy.softmax(x, axis=-1) if x.ndim else x,
    ]
    return forms[kind % len(forms)]()


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(SHAPES),
    st.sampled_from(FLOATS + INTEGERS),
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=6),
    st.booleans(),
)
def test_random_graphs_of_all_shapes_and_dtypes_with_functions(
    shape: tuple[int, ...], dtype: str, choices: list[tuple[int, int]], known: bool
):
    """Without dimensions, without elements, with ops of others; the same with the ops installed and without."""
    with oy.Graph() as graph:
        x = graph.input("x", oy.TensorSpec(shape, dtype))
        for choice in choices:
            x = change(x, *choice)
        graph.output("y", x)
    low, high = (-3, 3) if dtype != "uint8" else (0, 9)
    generator = np.random.default_rng(len(choices))
    feeds = {"x": np.asarray(generator.uniform(low, high, shape)).astype(dtype)}
    expected = oy.Session(graph, devices="reference").run("y", feeds)
    proto = export(graph)
    close = {"rtol": 1e-4, "atol": 1e-4} if dtype != "float16" else {"rtol": 2e-2, "atol": 2e-2}
    found = theirs(proto, feeds)[0]
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, **close)
    registry = oy.standard_registry()
    if known:
        registry.ops_from({"bend": bend, "mix": mix})
    with oy.using(registry=registry):
        back = load(proto)
        again = oy.Session(back, devices="reference").run("y", feeds)
    np.testing.assert_allclose(again, expected, **close)
    called = {node.op.name for node in graph.nodes if "." in node.op.name}
    assert {node.op.name for node in back.nodes if "." in node.op.name} == (called if known else set())


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
        x = other.input("x", oy.TensorSpec(("n", "m")))
        n, m = x.shape
        other.output("y", oy.full(shape=(n * 3 - m * n + 8, (n + 1) // m), value=1.0))
    (found,) = theirs(export(other), {"x": np.zeros((7, 3), "float32")})
    assert found.shape == (8, 2)
    with oy.Graph() as hidden:
        x = hidden.input("x", oy.TensorSpec((oy.TensorSpec(("n",)).shape[0] * 2,)))
        hidden.output("y", oy.full(shape=(x.shape[0] // 2,), value=1.0))
    with pytest.raises(
        UnsupportedModel, match="no value of the graph has the size n, which another one depends on"
    ):
        export(hidden)


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
        UnsupportedModel,
        match=r"the op random_normal \(at test_onnx_export.py:\d+\) has no ONNX form: ONNX does not define",
    ):
        export(graph)
    numbers = oy.trace(oy.sqrt, oy.TensorSpec((2,), "complex64"))
    with pytest.raises(UnsupportedModel, match=r"ONNX has no Sqrt of complex64; cast it first"):
        export(numbers)
