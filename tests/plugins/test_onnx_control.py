"""If, Loop and Scan: as nodes of one graph wherever their shapes allow, else step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, parser

import opyard as oy
from onnx_models import model
from opyard_onnx import Model, ModelError, UnsupportedModel, load

X = np.array([3, 0, -1, 0, 5], "float32")
CONTROL = ("cond", "scan", "while_loop")


def add(proto: Any, op_type: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
    """The model with one more node, whose graphs are texts."""
    graphs = {k: parser.parse_graph(v) if isinstance(v, str) else v for k, v in attributes.items()}
    proto.graph.node.append(helper.make_node(op_type, inputs, outputs, **graphs))
    return proto


def control_ops(graph: oy.Graph) -> list[str]:
    return [node.op.name for node in oy.simplify(graph).nodes if node.op.name in CONTROL]


def run(graph: oy.Graph, **feeds: Any) -> Any:
    return oy.Session(graph, devices="reference").run(list(graph.outputs), feeds)


def runtime(proto: Any, feeds: dict[str, Any]) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {name: np.asarray(array) for name, array in feeds.items()})


# If --------------------------------------------------------------------------------------------------------------

BRANCHES = {
    "then_branch": "one () => (float[n] a) { b = Mul (x, two) a = Add (b, many) }",
    "else_branch": "other () => (float[n] c) { c = Identity (x) }",
}


def choice(**branches: str) -> Any:
    proto = model(
        "g (float[9] x, bool p) => (float[n] y) { }", two=np.float32(2), many=np.arange(9, dtype="float32")
    )
    return add(proto, "If", ["p"], ["y"], **{**BRANCHES, **branches})


def test_a_branch_is_a_node_of_the_graph():
    graph, x = load(choice()), np.ones(9, "float32")
    assert control_ops(graph) == ["cond"]
    for p in (True, False):
        (found,) = run(graph, x=x, p=np.array(p))
        np.testing.assert_array_equal(found, 2 * x + np.arange(9) if p else x)
    opened = Model(choice(), devices="reference")
    opened.run({"x": x, "p": np.array(True)})
    (placement,) = opened.placements({"x": x, "p": np.array(False)})
    assert [d.node.op.name for d in placement.decisions] == ["cond"]
    assert not opened.notes


def test_a_known_condition_chooses():
    graph = load(choice(), constants={"p": np.array([True])})
    assert control_ops(graph) == [] and "add" in str(graph)


def test_a_condition_of_one_element():
    proto = choice()
    proto.graph.input[1].type.tensor_type.shape.dim.add().dim_value = 1
    x = np.ones(9, "float32")
    (found,) = run(load(proto), x=x, p=np.array([False]))
    np.testing.assert_array_equal(found, x)


@pytest.mark.parametrize(
    ("then", "reason"),
    [
        (
            "one () => (float[m] a) { a = Concat <axis = 0> (x, x) }",
            r"cond: the branches must keep shapes and dtypes; array 0 is float32\[18\] then_branch and float32\[9\] else_branch",
        ),
        (
            "one () => (seq(float[n]) a) { a = SequenceConstruct (x) }",
            "'a' is a sequence, an optional or text",
        ),
        (
            "one () => (float[m] a) { i = NonZero (x) j = Squeeze (i) e = Gather (x, j) a = Concat <axis = 0> (e, x) }",
            "shapes inside of it depend on numbers that are computed there",
        ),
        ("one () => (float[n] a) { a = MatMul (x, two) }", "matmul"),
    ],
)
def test_branches_that_differ_are_chosen_between_stages(then: str, reason: str):
    proto = choice(then_branch=then)
    opened, x = Model(proto, devices="reference"), np.ones(9, "float32")
    (found,) = opened.run({"x": x, "p": np.array(False)})
    np.testing.assert_array_equal(found, x)
    (note,) = opened.notes
    assert note.startswith(
        "If 'y' is no node of a graph, its branch is chosen at import, or between stages: "
    )
    with pytest.raises(
        UnsupportedModel, match=f"If needs the numbers of 'p' .*If 'y' is no node of a graph, .*{reason}"
    ):
        load(proto)


def test_the_branch_that_is_taken_may_be_the_only_one_that_fits():
    proto = choice(then_branch="one () => (float[n] a) { a = MatMul (x, two) }")
    x = np.ones(9, "float32")
    (found,) = Model(proto, devices="reference").run({"x": x, "p": np.array(False)})
    np.testing.assert_array_equal(found, x)
    with pytest.raises(ModelError, match=r"\(in MatMul\)"):
        Model(proto, devices="reference").run({"x": x, "p": np.array(True)})


def test_a_small_number_from_outside_is_known_in_the_next_stage():
    """The shape inside of the branch is that of a feed: one stage asks for it, the next has the branch as a node."""
    proto = model("g (float[n] x, bool p, int64[k] s) => (float[a, b] y) { }")
    add(
        proto,
        "If",
        ["p"],
        ["y"],
        then_branch="one () => (float[a, b] c) { c = Reshape (x, s) }",
        else_branch="other () => (float[a, b] d) { m = Neg (x) d = Reshape (m, s) }",
    )
    opened, x = Model(proto, devices="reference"), np.arange(6, dtype="float32")
    for p, shape in ((True, [2, 3]), (False, [2, 3]), (True, [3, 2])):
        feeds = {"x": x, "p": np.array(p), "s": np.array(shape)}
        (found,) = opened.run(feeds)
        np.testing.assert_array_equal(found, (x if p else -x).reshape(shape))
        assert [d.node.op.name for placed in opened.placements(feeds) for d in placed.decisions] == ["cond"]
    assert not opened.notes


# Loop ------------------------------------------------------------------------------------------------------------

BODIES = {
    "goes on": "body (int64 i, bool on, float v) => (bool go, float w, float seen) { go = Identity (on) w = Add (v, v) seen = Identity (v) }",
    "ends": "body (int64 i, bool on, float v) => (bool go, float w, float seen) { w = Add (v, v) go = Less (w, hundred) seen = Identity (v) }",
    "counts": "body (int64 i, bool on, float v) => (bool go, float w, float seen) { f = Cast <to = 1> (i) w = Add (v, f) go = Less (w, hundred) seen = Mul (f, v) }",
}  # fmt: skip


def loop(body: str, limit: str, start: str, collects: bool) -> tuple[Any, dict[str, Any]]:
    """A loop with bounds that are left out, constant or fed."""
    inputs = ["int64 n"] * (limit == "fed") + ["bool p"] * (start == "fed") + ["float x"]
    outputs = "(float y, float[k] seen)" if collects else "(float y)"
    proto = model(f"g ({', '.join(inputs)}) => {outputs} {{ }}", hundred=np.float32(100), five=np.int64(5), yes=True)  # fmt: skip
    names = {"": "", "constant": "five", "fed": "n"}[limit], {"": "", "constant": "yes", "fed": "p"}[start]
    add(proto, "Loop", [*names, "x"], ["y", "seen"] if collects else ["y"], body=BODIES[body])
    feeds: dict[str, Any] = {"n": np.int64(4)} if limit == "fed" else {}
    return proto, {**feeds, **({"p": np.array(True)} if start == "fed" else {}), "x": np.float32(7)}


@pytest.mark.parametrize("collects", [False, True])
@pytest.mark.parametrize("start", ["", "constant", "fed"])
@pytest.mark.parametrize("limit", ["", "constant", "fed"])
@pytest.mark.parametrize("body", list(BODIES))
def test_loops_agree_with_onnx_runtime(body: str, limit: str, start: str, collects: bool):
    if body == "goes on" and not limit:
        return  # without an end
    proto, feeds = loop(body, limit, start, collects)
    for p in (True, False) if start == "fed" else (True,):
        if start == "fed":
            feeds["p"] = np.array(p)
        opened = Model(proto, devices="reference")
        found = opened.run(feeds)
        expected = runtime(loop(body, limit, start, True)[0], feeds)[: 1 + collects]
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
            np.testing.assert_array_equal(ours, theirs)
        assert not opened.notes
    if not collects:
        known = limit == "constant" and start != "fed" and body == "goes on"
        assert control_ops(load(proto)) == ["scan" if known else "while_loop"]


def test_how_many_steps_there_are_is_counted_where_they_are_collected():
    proto, feeds = loop("ends", "", "", True)
    opened = Model(proto, devices="reference")
    y, seen = opened.run(feeds)
    assert y == 112 and seen.tolist() == [7, 14, 28, 56]
    first, second = opened.placements(feeds)
    assert [d.node.op.name for d in first.decisions] == ["while_loop"]
    assert [d.node.op.name for d in second.decisions] == ["scan"]
    with pytest.raises(UnsupportedModel, match=r"Loop needs the numbers of 'while_loop.*opyard_onnx\.Model"):
        load(proto)


def test_as_many_steps_as_a_size_that_is_open():
    proto = model("g (float[n] x, float v) => (float y, float[n] z) { s = Shape (x) i = Squeeze (s) }")
    body = "body (int64 i, bool on, float v) => (bool go, float w, float o) { go = Identity (on) e = Gather (x, i) w = Add (v, e) o = Identity (w) }"
    graph = load(add(proto, "Loop", ["i", "", "v"], ["y", "z"], body=body))
    assert control_ops(graph) == ["scan"] and [str(n) for n in graph.outputs["z"].shape] == ["n"]
    for size in (5, 3, 0):
        y, z = run(graph, x=X[:size], v=np.float32(1))
        assert y == 1 + X[:size].sum()
        np.testing.assert_array_equal(z, 1 + np.cumsum(X[:size]))


@pytest.mark.parametrize("count", [0, -3])
def test_a_loop_of_no_steps(count: int):
    proto, feeds = loop("goes on", "fed", "", True)
    feeds["n"] = np.int64(count)
    y, seen = Model(proto, devices="reference").run(feeds)
    assert y == 7 and seen.shape == (0,) and seen.dtype == np.float32


def test_a_limit_without_meaning_takes_no_memory():
    proto, feeds = loop("ends", "fed", "", False)
    graph = load(proto, constants={"n": np.int64(2**63 - 1)})
    assert control_ops(graph) == ["while_loop"] and run(graph, x=feeds["x"])[0] == 112


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            "body (int64 i, bool on, float[n] v) => (bool go, float[m] w) { go = Identity (on) w = Concat <axis = 0> (v, x) }",
            r"scan: the carry must keep shapes and dtypes; array 0 is float32\[5\] before the step and float32\[10\] after it\.",
        ),
        (
            "body (int64 i, bool on, float[n] v) => (bool go, float[m] w) { go = Identity (on) r = Range (zero, i, one) w = Cast <to = 1> (r) }",
            None,
        ),
    ],
)
def test_shapes_that_change_from_step_to_step_are_unrolled(body: str, reason: str | None):
    proto = model("g (float[n] x) => (float[m] y) { }", three=np.int64(3), one=np.int64(1), zero=np.int64(0))
    add(proto, "Loop", ["three", "", "x"], ["y"], body=body)
    opened = Model(proto, devices="reference")
    (found,) = opened.run({"x": X})
    np.testing.assert_array_equal(found, runtime(proto, {"x": X})[0])
    if reason is not None:
        assert control_ops(load(proto, specs={"x": oy.TensorSpec((5,))})) == []
        (note,) = opened.notes
        assert note.startswith("Loop 'y' is no node of a graph, it is unrolled: scan: the carry must keep")


def test_a_loop_in_a_loop_in_a_branch():
    inner = "inner (int64 j, bool on2, float u) => (bool go2, float t) { go2 = Identity (on2) q = Add (u, v) t = Add (q, x) }"
    body = parser.parse_graph(
        "outer (int64 i, bool on, float v) => (bool go, float w) { go = Less (v, hundred) }"
    )
    body.node.append(helper.make_node("Loop", ["two", "", "v"], ["w"], body=parser.parse_graph(inner)))
    branch = parser.parse_graph("branch () => (float r) { }")
    branch.node.append(helper.make_node("Loop", ["", "yes", "x"], ["r"], body=body))
    proto = model("g (float x, bool p) => (float y) { }", hundred=np.float32(100), two=np.int64(2), yes=True)
    add(proto, "If", ["p"], ["y"], then_branch=branch, else_branch="other () => (float o) { o = Neg (x) }")
    graph = load(proto)
    assert control_ops(graph) == ["cond"]
    for p in (True, False):
        feeds = {"x": np.float32(2), "p": np.array(p)}
        np.testing.assert_array_equal(run(graph, **feeds)[0], runtime(proto, feeds)[0])


def test_a_loop_that_never_ends_is_not_computed_at_import():
    """Its result is a shape, so import asks for it; only a run would tell."""
    proto = model("g (float[n] x) => (float[m] y) { }", start=np.int64(1), yes=True)
    body = "body (int64 i, bool on, int64 v) => (bool go, int64 w) { go = Identity (on) w = Mul (v, v) }"
    add(proto, "Loop", ["", "yes", "start"], ["size"], body=body)
    proto.graph.node.extend(
        parser.parse_graph("g (float[n] x) => (float[m] y) { y = Expand (x, size) }").node
    )
    with pytest.raises(UnsupportedModel, match="Expand needs the numbers of 'while_loop"):
        load(proto)


def test_sizes_are_computed_through_branches_and_loops():
    proto = model("g (float[n] x) => (float[a, b] y) { s = Shape (x) }", three=np.int64(3), one=[1])
    body = (
        "body (int64 i, bool on, int64[1] v) => (bool go, int64[1] w) { go = Identity (on) w = Add (v, one) }"
    )
    add(proto, "Loop", ["three", "", "one"], ["rows"], body=body)
    proto.graph.node.extend(
        parser.parse_graph(
            "g (float[n] x) => (float[a, b] y) { t = Concat <axis = 0> (rows, s) y = Expand (x, t) }"
        ).node
    )
    graph = load(proto)
    assert [str(n) for n in graph.outputs["y"].shape] == ["4", "n"]


def test_unroll_is_there_for_who_wants_it():
    proto, feeds = loop("goes on", "constant", "", True)
    graph = load(proto, unroll=True)
    assert control_ops(graph) == [] and sum(node.op.name == "add" for node in graph.nodes) == 5
    opened = Model(proto, devices="reference", unroll=True)
    for ours, theirs in zip(opened.run(feeds), run(load(proto), **feeds), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert list(opened.notes) == [
        "Loop 'y' is no node of a graph, it is unrolled: unroll=True was asked for."
    ]


# Scan ------------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.integers(-3, 2), st.integers(-2, 1)),
    st.tuples(st.integers(-2, 1), st.integers(-3, 2)),
    st.tuples(*[st.integers(0, 1)] * 4),
    st.integers(1, 4),
)
def test_scans_along_any_axis_in_any_direction(
    axes: tuple[int, int], out_axes: tuple[int, int], turned: tuple[int, ...], length: int
):
    body = "body (float s, float[2, 3] a, float[4] b) => (float t, float[4] c, float[2, 3] d) { m = ReduceSum <keepdims = 0> (a) t = Add (s, m) c = Mul (b, t) d = Add (a, t) }"
    shapes = [list(s) for s in ((2, 3), (4,))]
    for shape, axis in zip(shapes, axes, strict=True):
        shape.insert(axis % (len(shape) + 1), length)
    proto = model(
        f"g (float s, float{shapes[0]} a, float{shapes[1]} b) => (float y, float[i, j] c, float[k, l, m] d) {{ }}"
    )
    add(
        proto,
        "Scan",
        ["s", "a", "b"],
        ["y", "c", "d"],
        body=body,
        num_scan_inputs=2,
        scan_input_axes=axes,
        scan_input_directions=turned[:2],
        scan_output_axes=out_axes,
        scan_output_directions=turned[2:],
    )
    generator = np.random.default_rng(length)
    feeds = {"s": np.float32(1), "a": generator.standard_normal(shapes[0]).astype("f4"), "b": generator.standard_normal(shapes[1]).astype("f4")}  # fmt: skip
    graph = load(proto)
    assert control_ops(graph) == ["scan"]
    unrolled = run(load(proto, unroll=True), **feeds)
    for ours, other, theirs in zip(run(graph, **feeds), unrolled, runtime(proto, feeds), strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(other, theirs, rtol=1e-5, atol=1e-5)


def test_scans_of_opset_8_go_over_a_batch():
    body = "body (float s, float[2] a) => (float t, float[2] c) { m = ReduceSum <keepdims = 0> (a) t = Add (s, m) c = Mul (a, t) }"
    proto = model("g (float[b] s, float[b, n, 2] a) => (float[b] y, float[b, n, 2] c) { }", opset=8)
    add(proto, "Scan", ["", "s", "a"], ["y", "c"], body=body, num_scan_inputs=1, directions=[1])
    s, a = np.array([1, 2], "f4"), np.arange(12, dtype="f4").reshape(2, 3, 2)
    y, c = run(load(proto), s=s, a=a)
    for ours, theirs in zip(
        (y, c), Model(proto, devices="reference", unroll=True).run({"s": s, "a": a}), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(y, s + a.sum((1, 2)))
    totals = s[:, None] + np.cumsum(a.sum(2)[:, ::-1], axis=1)
    np.testing.assert_array_equal(c, a[:, ::-1] * totals[:, :, None])


# What is wrong with a subgraph ---------------------------------------------------------------------------------------


def test_subgraphs_that_make_no_sense():
    proto, _ = loop("ends", "", "", False)
    del proto.graph.node[0].attribute[0].g.input[2]
    with pytest.raises(ModelError, match="the subgraph 'body' has 2 inputs, and is given 3"):
        load(proto)
    proto, _ = loop("ends", "", "", False)
    proto.graph.node[0].attribute[0].g.input[1].name = "i"
    with pytest.raises(ModelError, match="two inputs of the subgraph 'body' have one name: i, i, v"):
        load(proto)
    proto, _ = loop("ends", "", "", False)
    del proto.graph.node[0].attribute[0].g.output[1:]
    with pytest.raises(ModelError, match="the body of Loop 'y' gives 1 outputs, and carries 1 values"):
        load(proto)
    proto, _ = loop("ends", "", "", False)
    proto.graph.node[0].attribute[0].g.node[0].input[1] = "nothing"
    with pytest.raises(ModelError, match=r"the value 'nothing' is used before anything makes it. \(in Add\)"):
        load(proto)
    for count in (0, 3):
        scan = model("g (float[n] x) => (float[n] y) { }")
        add(
            scan,
            "Scan",
            ["x"],
            ["y"],
            body="body (float a) => (float b) { b = Neg (a) }",
            num_scan_inputs=count,
        )
        with pytest.raises(ModelError, match=f"Scan has 1 inputs, and num_scan_inputs is {count}"):
            load(scan)
        scan.opset_import[0].version = 8
        scan.graph.node[0].input.insert(0, "")
        with pytest.raises(ModelError, match=f"Scan has 1 inputs, and num_scan_inputs is {count}"):
            load(scan)


def test_the_names_of_a_subgraph_go_before_those_around_it():
    proto = model("g (float x, bool p) => (float y) { a = Neg (x) }")
    add(
        proto,
        "If",
        ["p"],
        ["y"],
        then_branch="one () => (float a) { a = Mul (x, x) }",
        else_branch="other () => (float b) { b = Identity (a) }",
    )
    graph = load(proto)
    assert run(graph, x=np.float32(3), p=np.array(True))[0] == 9
    assert run(graph, x=np.float32(3), p=np.array(False))[0] == -3


def nested(levels: int) -> Any:
    """Branches in branches, all with one condition."""
    inner = parser.parse_graph("b0 () => (float y0) { y0 = Relu (x) }")
    other = parser.parse_graph("b () => (float n) { n = Neg (x) }")
    for level in range(1, levels):
        node = helper.make_node("If", ["p"], [f"y{level}"], then_branch=inner, else_branch=other)
        info = onnx.helper.make_tensor_value_info(f"y{level}", 1, [])
        inner = helper.make_graph([node], f"b{level}", [], [info])
    proto = model("g (float x, bool p) => (float y) { }")
    return add(proto, "If", ["p"], ["y"], then_branch=inner, else_branch=other)


@pytest.mark.parametrize("levels", [4, 5, 25])
def test_deep_nesting(levels: int):
    opened = Model(nested(levels), devices="reference")
    feeds = {"x": np.float32(3), "p": np.array(True)}
    assert opened.run(feeds)[0] == 3 and opened.run({**feeds, "p": np.array(False)})[0] == -3
    if levels == 4:
        assert not opened.notes and control_ops(load(nested(4))) == ["cond"]
    else:
        assert any(
            "branches and loops are nodes up to 4 levels inside of each other" in n for n in opened.notes
        )
        with pytest.raises(UnsupportedModel, match="nodes up to 4 levels inside of each other"):
            load(nested(levels))


def test_a_limit_that_is_an_open_size_and_an_end_before_it():
    proto = model(
        "g (float[n] x, float v) => (float y) { s = Shape (x) i = Squeeze (s) }", hundred=np.float32(100)
    )
    body = "body (int64 i, bool on, float v) => (bool go, float w) { w = Add (v, v) go = Less (w, hundred) }"
    graph = load(add(proto, "Loop", ["i", "", "v"], ["y"], body=body))
    assert control_ops(graph) == ["while_loop"]
    for size, expected in ((0, 7), (2, 28), (9, 112)):
        assert run(graph, x=np.ones(size, "float32"), v=np.float32(7))[0] == expected


def test_under_memory_limits_loops_are_unrolled():
    proto, feeds = loop("goes on", "constant", "", False)
    opened = Model(proto, memory={"cpu:0": "1GiB"}, devices=["cpu:0"])
    assert opened.run(feeds)[0] == 7 * 2**5
    (note,) = opened.notes
    assert note.endswith("it is unrolled: memory limits do not hold inside of branches and loops.")
