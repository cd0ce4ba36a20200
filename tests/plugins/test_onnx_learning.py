"""Decision trees and gradients of ONNX models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, parser

import opyard as oy
from onnx_models import model
from opyard_onnx import Model, ModelError, UnsupportedModel, load

# Trees -----------------------------------------------------------------------------------------------------------


def forest(**changes: Any) -> Any:
    """Two trees over ``float[n, 3]``: one of three nodes with a set, one of a single node."""
    given = {
        "nodes_splits": np.array([0.5, 0, -1, 2], "float32"),
        "nodes_featureids": [0, 1, 2, 1],
        "nodes_modes": np.array([0, 6, 4, 3], "uint8"),
        "nodes_truenodeids": [1, 0, 1, 3],
        "nodes_trueleafs": [0, 1, 1, 1],
        "nodes_falsenodeids": [2, 1, 2, 4],
        "nodes_falseleafs": [0, 1, 1, 1],
        "leaf_targetids": [0, 1, 0, 1, 0],
        "leaf_weights": np.array([1, 2, 4, 8, 16], "float32"),
        "membership_values": np.array([1, 3, np.nan], "float32"),
        "tree_roots": [0, 3],
        "n_targets": 2,
        **changes,
    }
    attributes = {
        key: numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
        for key, value in given.items()
        if value is not None
    }
    proto = model("g (float[n, 3] x) => (float[n, 2] y) { }", domains='"ai.onnx.ml" : 5')
    proto.graph.node.append(helper.make_node("TreeEnsemble", ["x"], ["y"], domain="ai.onnx.ml", **attributes))
    return proto


def predicted(proto: Any, x: Any) -> Any:
    (found,) = oy.Session(load(proto), devices="reference").run(["y"], {"x": np.asarray(x, "float32")})
    return found


def test_trees_are_walked_at_once():
    graph = load(forest())
    assert [node.op.name for node in oy.simplify(graph).nodes].count("scan") == 1
    x = [[0, 1, 0], [0, 2, 0], [1, 3, -1], [1, 2.5, 0], [np.nan, 0, -1]]
    np.testing.assert_array_equal(predicted(forest(), x), [[17, 0], [16, 2], [0, 10], [4, 8], [16, 2]])


def test_missing_numbers_may_lead_to_the_true_side():
    proto = forest(nodes_missing_value_tracks_true=[1, 0, 0, 0])
    np.testing.assert_array_equal(predicted(proto, [[np.nan, 1, 0]]), [[17, 0]])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 3), st.integers(0, 5), st.lists(st.integers(-2, 4), min_size=6, max_size=6))
def test_modes_and_aggregates_agree_with_onnx(kind: int, mode: int, numbers: list[int]):
    from onnx.reference import ReferenceEvaluator

    proto = forest(aggregate_function=kind, nodes_modes=np.array([mode, 6, 4, (mode + 1) % 6], "uint8"))
    x = np.array(numbers, "float32").reshape(2, 3) / 2
    (expected,) = ReferenceEvaluator(proto).run(None, {"x": x})
    np.testing.assert_array_equal(predicted(proto, x), expected.astype("float32"))


def test_what_is_made_of_the_sums():
    x = [[0, 1, 0]]
    logits = predicted(forest(), x)
    np.testing.assert_allclose(predicted(forest(post_transform=2), x), 1 / (1 + np.exp(-logits)), rtol=1e-6)
    np.testing.assert_allclose(predicted(forest(post_transform=1), x).sum(), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nodes_featureids": [0]}, "TreeEnsemble has 4 nodes, and 1 nodes_featureids"),
        ({"leaf_targetids": [0]}, "TreeEnsemble has 5 leaf, and 1 leaf_targetids"),
        (
            {"nodes_modes": np.array([0, 6, 4, 9], "uint8")},
            "needs a mode from 0 to 6 for each of its 4 nodes",
        ),
        ({"nodes_truenodeids": [1, 0, 1, 5]}, "TreeEnsemble has nodes_truenodeids that name nothing"),
        ({"tree_roots": [4]}, "TreeEnsemble has tree_roots that name nothing"),
        ({"membership_values": None}, "has 1 nodes that ask for members, and 0 sets"),
        ({"nodes_truenodeids": [0, 0, 1, 3]}, "the nodes of a TreeEnsemble lead in circles"),
        ({"post_transform": 4}, "TreeEnsemble with the post_transform 4; known are 0, 1 and 2"),
        ({"aggregate_function": 4}, "the aggregate_function of TreeEnsemble is 0 to 3; found 4"),
        ({"n_targets": 1}, "TreeEnsemble has leaf_targetids beyond its 1 targets"),
    ],
)
def test_trees_that_make_no_sense(changes: dict[str, Any], message: str):
    with pytest.raises(ModelError, match=message):
        load(forest(**changes))


# Gradients -------------------------------------------------------------------------------------------------------


def differentiated(text: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
    proto = model(text, domains='"ai.onnx.preview.training" : 1', two=np.float32(2))
    for name in outputs:
        proto.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]))
    node = helper.make_node("Gradient", inputs, outputs, domain="ai.onnx.preview.training", **attributes)
    proto.graph.node.append(node)
    return proto


MODEL = "g (float[3] x, float[3] z) => (float y) { s = Mul (x, x) p = Mul (s, z) y = ReduceSum <keepdims = 0> (p) }"


def test_gradients_of_a_model():
    proto = differentiated(MODEL, ["x", "z"], ["dx"], xs=["x"], zs=["z"], y="y")
    x, z = np.array([1, 2, 3], "float32"), np.array([3, 4, 5], "float32")
    y, dx = oy.Session(load(proto), devices="reference").run(["y", "dx"], {"x": x, "z": z})
    assert y == np.sum(x * x * z)
    np.testing.assert_array_equal(dx, 2 * x * z)


def test_gradients_of_gradients():
    proto = differentiated(MODEL, ["x"], ["dx"], xs=["x"], y="y")
    second = helper.make_node("Gradient", ["x"], ["d2"], domain="ai.onnx.preview.training", xs=["x"], y="dx")
    proto.graph.node.append(second)
    proto.graph.output.append(helper.make_tensor_value_info("d2", TensorProto.FLOAT, [3]))
    z = np.array([3, 4, 5], "float32")
    (found,) = oy.Session(load(proto), devices="reference").run(["d2"], {"x": np.ones(3, "f4"), "z": z})
    np.testing.assert_array_equal(found, 2 * z)


def test_gradients_that_are_not_imported():
    with pytest.raises(UnsupportedModel, match="Gradient whose inputs are other tensors than those that xs"):
        load(differentiated(MODEL, ["z"], ["dx"], xs=["x"], y="y"))
    text = "g (float[3] x) => (float y) { i = NonZero (x) j = Squeeze (i) s = Gather (x, j) y = ReduceSum <keepdims = 0> (s) }"
    proto = differentiated(text, ["x"], ["dx"], xs=["x"], y="y")
    with pytest.raises(
        UnsupportedModel, match="Gradient behind a number that is only known when the model runs"
    ):
        Model(proto, devices="reference").run({"x": np.ones(3, "f4")})


def test_a_gradient_through_a_loop_that_counts():
    body = parser.parse_graph(
        "body (int64 i, bool on, float[3] v) => (bool go, float[3] w) { go = Identity (on) w = Mul (v, x) }"
    )
    proto = model("g (float[3] x) => (float y) { }", domains='"ai.onnx.preview.training" : 1', n=np.int64(2))
    proto.graph.node.append(helper.make_node("Loop", ["n", "", "x"], ["cube"], body=body))
    proto.graph.node.append(helper.make_node("ReduceSum", ["cube"], ["y"], keepdims=0))
    proto.graph.node.append(
        helper.make_node("Gradient", ["x"], ["dx"], domain="ai.onnx.preview.training", xs=["x"], y="y")
    )
    proto.graph.output.append(helper.make_tensor_value_info("dx", TensorProto.FLOAT, [3]))
    x = np.array([1, 2, -3], "float32")
    (found,) = oy.Session(load(proto), devices="reference").run(["dx"], {"x": x})
    np.testing.assert_allclose(found, 3 * x**2)
