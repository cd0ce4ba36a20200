"""Models that run in stages, because numbers decide about shapes, branches and iterations; sequences, optionals and text."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import opyard as oy
from onnx_models import model, reference, single
from opyard_onnx import Model, ModelError, UnsupportedModel

X = np.array([3, 0, -1, 0, 5], "float32")


def run(proto: Any, **feeds: Any) -> list[Any]:
    return Model(proto, devices="reference").run(feeds)


def test_a_model_without_such_numbers_is_one_graph():
    opened = Model(model("g (float[n] x) => (float[n] y) { y = Relu (x) }"), devices="reference")
    np.testing.assert_array_equal(opened.run({"x": X})[0], np.maximum(X, 0))
    np.testing.assert_array_equal(opened.run({"x": X[:2]})[0], [3, 0])
    assert len(list(opened.placements({"x": X}))) == 1


def test_shapes_that_depend_on_numbers_make_stages():
    proto = model(
        """g (float[n] x) => (float[m] y, float[n] z) {
            t = Mul (x, x)
            i = NonZero (t)
            j = Squeeze (i, axes)
            y = Gather (t, j)
            z = Neg (t)
        }""",
        axes=[0],
    )
    opened = Model(proto, devices="reference")
    for x in (X, X + 1, np.zeros(3, "float32"), X):
        y, z = opened.run({"x": x})
        np.testing.assert_array_equal(y, x[x != 0] ** 2)
        np.testing.assert_array_equal(z, -(x**2))
    assert len(list(opened.placements({"x": X}))) == 2


def test_what_is_computed_before_a_stage_is_not_computed_again():
    proto = model(
        "g (float[n] x) => (float[m] y) { a = Exp (x) c = Greater (a, one) y = Compress <axis = 0> (a, c) }",
        one=np.float32(1),
    )
    opened = Model(proto, devices="reference")
    np.testing.assert_allclose(opened.run({"x": X})[0], np.exp(X[X > 0]))
    first, second = opened.placements({"x": X})
    assert [d.node.op.name for d in first.decisions] == ["exp", "greater"]
    assert [d.node.op.name for d in second.decisions] == ["gather"]


def test_several_numbers_of_one_node():
    x = np.arange(12, dtype="float32").reshape(3, 4)
    given = {"x": x, "starts": np.array([1, 0]), "ends": np.array([3, 4]), "axes": np.array([0, 1]), "steps": np.array([1, 2])}  # fmt: skip
    proto = single("Slice", given)
    np.testing.assert_array_equal(run(proto, **given)[0], x[1:3, 0:4:2])


def test_the_numbers_choose_a_branch():
    branches = {
        name: helper.make_graph([helper.make_node(op, ["x"], [name])], name, [], [helper.make_empty_tensor_value_info(name)])
        for name, op in (("a", "Neg"), ("b", "Abs"))
    }  # fmt: skip
    proto = model(
        "g (float[n] x) => (float[n] y) { s = ReduceSum <keepdims = 0> (x) c = Greater (s, zero) }",
        zero=np.float32(0),
    )
    proto.graph.node.append(
        helper.make_node("If", ["c"], ["y"], then_branch=branches["a"], else_branch=branches["b"])
    )
    opened = Model(proto, devices="reference")
    np.testing.assert_array_equal(opened.run({"x": X})[0], -X)
    np.testing.assert_array_equal(opened.run({"x": -X})[0], np.abs(X))


def loop(limit: bool, condition: bool) -> Any:
    """Doubles ``x`` until it is 100 or more, and gives all values on the way."""
    body = onnx.parser.parse_graph(
        "body (int64 i, bool on, float v) => (bool go, float w, float seen) { w = Add (v, v) go = Less (w, hundred) seen = Identity (v) }"
    )
    proto = model(
        "g (float x) => (float y, float[n] seen) { }", hundred=np.float32(100), five=np.int64(5), yes=True
    )
    inputs = ["five" if limit else "", "yes" if condition else "", "x"]
    proto.graph.node.append(helper.make_node("Loop", inputs, ["y", "seen"], body=body))
    return proto


@pytest.mark.parametrize("condition", [True, False])
@pytest.mark.parametrize("limit", [True, False])
def test_the_numbers_end_a_loop(limit: bool, condition: bool):
    y, seen = run(loop(limit, condition), x=np.float32(7))
    np.testing.assert_array_equal(seen, [7, 14, 28, 56])
    assert y == 112


def test_a_loop_that_does_not_end(monkeypatch: pytest.MonkeyPatch):
    from opyard_onnx.operators import unrolled

    monkeypatch.setattr(unrolled, "MOST_ITERATIONS", 8)
    proto = loop(False, True)
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.float32(np.inf), "hundred"))
    with pytest.raises(UnsupportedModel, match="Loop runs more than 8 times; loops are unrolled"):
        Model(proto, devices="reference", unroll=True).run({"x": np.float32(0)})


def test_scan_before_opset_9_with_lengths():
    body = helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "body", [helper.make_tensor_value_info("a", 1, [2])], [helper.make_tensor_value_info("b", 1, [2])])  # fmt: skip
    proto = model("g (int64[1] l, float[1, 3, 2] x) => (float[1, 3, 2] y) { }", opset=8)
    proto.graph.node.append(helper.make_node("Scan", ["l", "x"], ["y"], body=body, num_scan_inputs=1))
    with pytest.raises(UnsupportedModel, match="Scan of opset 8 with sequence_lens"):
        run(proto, l=np.array([3]), x=np.zeros((1, 3, 2), "f4"))


def test_sequences_go_in_and_out():
    proto = model(
        "g (seq(float[2]) x, float[2] z) => (seq(float[2]) y, int64 n) { y = SequenceInsert (x, z) n = SequenceLength (y) }"
    )
    items = [np.zeros(2, "float32"), np.ones(2, "float32")]
    y, n = run(proto, x=items, z=np.full(2, 7, "float32"))
    assert [part.tolist() for part in y] == [[0, 0], [1, 1], [7, 7]] and n == 3


def test_an_optional_without_a_value():
    proto = model("g (float[2] x) => (bool y) { y = OptionalHasElement (x) }")
    element = proto.graph.input[0].type.tensor_type
    proto.graph.input[0].type.optional_type.elem_type.tensor_type.CopyFrom(element)
    assert run(proto, x=None)[0] == np.False_
    assert run(proto, x=np.zeros(2, "float32"))[0] == np.True_
    out = model("g () => (float[2] y) { }")
    out.graph.node.append(helper.make_node("Optional", [], ["y"]))
    assert run(out) == [None]


def test_text_is_computed_at_import():
    proto = model(
        "g (string[n] x) => (string[n] y, int64[n] z) { y = StringConcat (x, x) z = Cast <to = 7> (x) }"
    )
    y, z = run(proto, x=np.array(["1", "22"]))
    assert y.tolist() == ["11", "2222"] and z.tolist() == [1, 22]
    assert run(proto, x=["3"])[1].tolist() == [3]
    with pytest.raises(ModelError, match="a string that is cast to int64 is no number: could not convert"):
        run(proto, x=["three"])
    with pytest.raises(ModelError, match="RegexFullMatch has a pattern that is none: "):
        run(single("RegexFullMatch", {"x": np.array(["a"], object)}, pattern="("), x=["a"])
    labels = model(
        "g (string[n] x) => (int64[n] y) { y = ai.onnx.ml.LabelEncoder <values_int64s = [1]> (x) }",
        domains='"ai.onnx.ml" : 3',
    )
    with pytest.raises(ModelError, match="LabelEncoder needs keys"):
        run(labels, x=["a"])


def test_feeds_that_do_not_fit():
    opened = Model(model("g (float[2] x, float[2] z) => (float[2] y) { y = Add (x, z) }"))
    with pytest.raises(oy.errors.GraphError, match=r"has no input 'xx'\..* Inputs: x, z"):
        opened.run({"xx": X})
    with pytest.raises(oy.errors.GraphError, match="needs a feed for 'x', 'z'"):
        opened.run({})
    assert opened.run({"x": [1, 2], "z": [3, 4]})[0].tolist() == [4, 6]
    with pytest.raises(
        oy.errors.GraphError,
        match=r"feed 'z' is int64\[2\]; .* takes float32 there; convert it: x.astype\('float32'\)",
    ):
        opened.run({"x": X[:2], "z": np.array([1, 2])})
    for wrong in (X, X.reshape(1, -1)):
        with pytest.raises(
            oy.errors.GraphError, match=r"feed 'x' is float32\[.*5\]; .* takes the shape \[2\] there"
        ):
            opened.run({"x": wrong, "z": X[:2]})


def test_results_are_the_callers_own():
    x, text = np.ones(2, "float32"), np.array(["a"], object)
    proto = model(
        "g (float[2] x, string[1] s) => (float[2] y, float[2] z, string[1] t) { }", z=np.zeros(2, "float32")
    )
    proto.graph.node.append(helper.make_node("Identity", ["x"], ["y"]))
    proto.graph.node.append(helper.make_node("Identity", ["s"], ["t"]))
    opened = Model(proto, devices="reference")
    for _ in range(2):
        y, z, t = opened.run({"x": x, "s": text})
        assert y.tolist() == [1, 1] and z.tolist() == [0, 0] and t.tolist() == ["a"]
        y[0], z[0], t[0] = 7, 7, "b"
    assert x.tolist() == [1, 1] and text.tolist() == ["a"]


def test_stages_are_forgotten_beyond_a_limit(monkeypatch: pytest.MonkeyPatch):
    from opyard_onnx import model as module

    monkeypatch.setattr(module, "REMEMBERED", 2)
    opened = Model(model("g (float[n] x) => (float[n] y) { y = Relu (x) }"), devices="reference")
    for size in (1, 2, 3, 4, 1):
        assert opened.run({"x": np.ones(size, "float32")})[0].shape == (size,)
    assert len(opened._first) == 2


def test_recurrent_layers_with_functions_that_onnx_does_not_know():
    given = {"x": np.zeros((1, 1, 1), "f4"), "w": np.zeros((1, 1, 1), "f4"), "r": np.zeros((1, 1, 1), "f4")}
    with pytest.raises(UnsupportedModel, match="RNN with the activation 'Step'; known are Relu, Tanh"):
        run(single("RNN", given, 2, activations=["Step"], hidden_size=1), **given)


# Values that the project's own suite of cases does not have ----------------------------------------------------------

RNG = np.random.default_rng(0)


def normal(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype("float32")


OPERATORS: dict[str, tuple[str, dict[str, Any], dict[str, Any], int]] = {
    "div of negative integers": ("Div", {"a": np.array([7, -7, 7, -7, 0]), "b": np.array([2, 2, -2, -2, -3])}, {}, 21),
    "pow with an integer exponent": ("Pow", {"a": normal(4) ** 2, "b": np.array([2, 0, -1, 3])}, {}, 21),
    "softmax of opset 11 flattens": ("Softmax", {"x": normal(2, 3, 4)}, {"axis": 1}, 11),
    "logsoftmax of opset 11 flattens": ("LogSoftmax", {"x": normal(2, 3, 4)}, {"axis": 0}, 11),
    "reduce nothing": ("ReduceSum", {"x": normal(2, 3), "a": np.array([], "int64")}, {"noop_with_empty_axes": 1}, 18),
    "topk of the smallest": ("TopK", {"x": normal(3, 7), "k": np.array([3])}, {"largest": 0, "axis": -1}, 21),
    "gather from the end": ("Gather", {"x": normal(4, 3), "i": np.array([[-1, 0], [1, -4]])}, {"axis": 0}, 21),
    "split in unequal parts": ("Split", {"x": normal(7, 2)}, {"num_outputs": 3, "axis": 0}, 21),
    "pad negatively": ("Pad", {"x": normal(4, 5), "p": np.array([1, -1, -2, 2])}, {}, 21),
    "grouped transposed convolution": ("ConvTranspose", {"x": normal(1, 4, 5, 5), "w": normal(4, 2, 3, 3)}, {"group": 2, "strides": [2, 2], "output_shape": [11, 10]}, 21),
    "gemm with everything": ("Gemm", {"a": normal(5, 3), "b": normal(4, 5), "c": normal(4)}, {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}, 21),
    "quantize by channel": ("QuantizeLinear", {"x": normal(2, 3, 4) * 100, "s": np.array([0.1, 1, 2], "f4"), "z": np.array([1, 2, 3], "uint8")}, {"axis": 1}, 21),
    "lstm of two directions": ("LSTM", {"x": normal(4, 2, 3), "w": normal(2, 20, 3), "r": normal(2, 20, 5), "b": normal(2, 40)}, {"hidden_size": 5, "direction": "bidirectional"}, 21),
    "gru with the linear layer before": ("GRU", {"x": normal(4, 2, 3), "w": normal(1, 15, 3), "r": normal(1, 15, 5), "b": normal(1, 30)}, {"hidden_size": 5, "linear_before_reset": 1}, 21),
    "resize to other sizes": ("Resize", {"x": normal(1, 2, 5, 6), "r": None, "s": None, "n": np.array([1, 2, 8, 3])}, {"mode": "linear"}, 19),
    "resize by odd scales": ("Resize", {"x": normal(1, 1, 5, 7), "r": None, "s": np.array([1, 1, 1.7, 0.6], "f4")}, {"mode": "cubic"}, 19),
    "maxpool with dilations": ("MaxPool", {"x": normal(1, 2, 9, 9)}, {"kernel_shape": [3, 3], "dilations": [2, 2], "pads": [1, 1, 1, 1]}, 21),
}  # fmt: skip


@pytest.mark.parametrize("title", OPERATORS)
def test_operators_agree_with_onnx_runtime(title: str):
    import onnxruntime

    op_type, given, attributes, opset = OPERATORS[title]
    outputs = {"TopK": 2, "Split": 3, "LSTM": 3, "GRU": 2}.get(op_type, 1)
    proto = single(op_type, given, outputs, opset, **attributes)
    feeds = {name: array for name, array in given.items() if array is not None}
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, feeds)
    for ours, theirs in zip(Model(proto, devices="auto").run(feeds), expected, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)


def test_a_network_means_the_same_in_every_operator_set():
    text = """g (float[2, 3, 8, 8] x) => (float[2, 5] y) {
        c = Conv <pads = [1, 1, 1, 1]> (x, w, b)
        r = Relu (c)
        p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
        f = Flatten (p)
        g1 = Gemm (f, d)
        s = Softmax <axis = 1> (g1)
        y = Mul (s, s)
    }"""
    weights = {"w": normal(4, 3, 3, 3), "b": normal(4), "d": normal(64, 5)}
    x = normal(2, 3, 8, 8)
    (expected,) = reference(model(text, **weights), {"x": x})
    for opset in range(7, onnx.defs.onnx_opset_version() + 1):
        np.testing.assert_allclose(run(model(text, opset, **weights), x=x)[0], expected, rtol=1e-4, atol=1e-6)


def test_positions_of_a_max_pool_count_in_columns_too():
    x = normal(2, 2, 6, 5)
    for order in (0, 1):
        proto = single(
            "MaxPool",
            {"x": x},
            2,
            kernel_shape=[2, 3],
            strides=[2, 1],
            pads=[0, 1, 0, 1],
            storage_order=order,
        )
        for ours, theirs in zip(run(proto, x=x), reference(proto, {"x": x}), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_the_element_types_of_a_graph_are_those_of_onnx():
    from opyard_onnx.tensors import DTYPE_NAMES

    known = {
        value
        for name, value in TensorProto.DataType.items()
        if name not in ("UNDEFINED", "STRING", "FLOAT6E2M3", "FLOAT6E3M2")
    }
    assert set(DTYPE_NAMES) == known
