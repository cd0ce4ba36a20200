"""cond, while_loop, scan and map: in graphs, compiled, and on plain arrays."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opyard as oy
from opyard.errors import GraphError, PlacementError, SpecError
from opyard.takeover import KernelWarning

F32 = np.float32
BOTH = pytest.mark.parametrize("way", [lambda f: f, oy.compile], ids=["arrays", "compiled"])


def rows(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).random(shape, np.float32)


# cond ------------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("limit", [0.0, 100.0])
def test_one_branch_is_computed(way, limit):
    x, w = rows(3, 4), rows(4, 4)

    @way
    def choose(x, limit):
        return oy.cond(
            oy.sum(x) > limit, lambda v: {"y": oy.matmul(v, w), "n": v}, lambda v: {"y": v - 1, "n": v * 2}, x
        )

    found = choose(x, F32(limit))
    expected = {"y": x @ w, "n": x} if limit == 0 else {"y": x - 1, "n": x * 2}
    for key in expected:
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-6)


def test_a_branch_uses_what_is_around_it():
    with oy.Graph() as graph:
        x = graph.input("x", oy.TensorSpec(("n",), "float32"))
        p = graph.input("p", oy.TensorSpec((), "bool"))
        double = x * 2
        graph.output(
            "y",
            oy.cond(p, lambda: double + x, lambda: oy.full(shape=(x.shape[0],), value=7.0, dtype="float32")),
        )
    session = oy.Session(graph)
    assert session.run("y", {"x": np.ones(3, F32), "p": True}).tolist() == [3, 3, 3]
    assert session.run("y", {"x": np.ones(2, F32), "p": False}).tolist() == [7, 7]


def test_a_predicate_that_is_known_while_tracing_leaves_one_branch():
    graph = oy.trace(lambda x: oy.cond(np.bool_(True), oy.exp, oy.log, x), oy.TensorSpec((2,), "float32"))
    assert [node.op.name for node in graph.nodes] == ["exp"]


def test_branches_that_differ_are_told():
    x = oy.TensorSpec((2,), "float32")
    with pytest.raises(
        SpecError,
        match=r"cond: the branches must keep shapes and dtypes; array 0 is float32\[2\] <lambda> and float32\[\]",
    ):
        oy.trace(lambda x: oy.cond(x[0] > 0, lambda: x, lambda: oy.sum(x)), x)
    with pytest.raises(
        SpecError, match=r"cond: the branches must have the same nesting; found \(array, array\)"
    ):
        oy.trace(lambda x: oy.cond(x[0] > 0, lambda: (x, x), lambda: x), x)


def test_a_predicate_is_a_boolean_scalar():
    with pytest.raises(SpecError, match=r"the predicate: bool\[\] expected, found bool\[2\]"):
        oy.trace(lambda x: oy.cond(x > 0, lambda: x, lambda: x), oy.TensorSpec((2,), "float32"))
    with pytest.raises(SpecError, match=r"cond: the condition is a boolean of shape \[\]; found float32\[\]"):
        oy.cond(F32(1), lambda: 1, lambda: 2)


# while_loop ------------------------------------------------------------------------------------------------------


@BOTH
def test_a_loop_ends_when_its_condition_does(way):
    @way
    def collatz(n):
        return oy.while_loop(
            lambda s: s["n"] != 1,
            lambda s: {"n": oy.where(s["n"] % 2 == 0, s["n"] // 2, 3 * s["n"] + 1), "steps": s["steps"] + 1},
            {"n": n, "steps": 0},
        )["steps"]

    assert [int(collatz(np.int64(n))) for n in (1, 6, 27)] == [0, 8, 111]


@BOTH
def test_a_loop_keeps_what_does_not_change(way):
    w = rows(8, 8) / 8

    @way
    def power(x, w, n):
        return oy.while_loop(
            lambda s: s[0] < s[3], lambda s: (s[0] + 1, oy.matmul(s[1], s[2]), s[2], s[3]), (0, x, w, n)
        )

    count, y, same, _ = power(np.eye(8, dtype=F32), w, np.int64(3))
    assert int(count) == 3
    np.testing.assert_allclose(y, w @ w @ w, rtol=1e-5)
    np.testing.assert_array_equal(same, w)


def test_what_does_not_change_is_not_handed_on():
    def function(x, w):
        return oy.while_loop(lambda s: oy.sum(s[0]) < 9, lambda s: (s[0] + s[1], s[1]), (x, w))

    graph = oy.trace(function, *[oy.TensorSpec((3,), "float32")] * 2)
    (loop,) = (node for node in graph.nodes if node.op.name == "while_loop")
    assert loop.call.attrs["state"] == 1


def test_a_state_must_keep_its_specs():
    x = oy.TensorSpec((2,), "float32")
    with pytest.raises(
        SpecError,
        match=r"while_loop: the state must keep shapes and dtypes; array 0 is float32\[2\] before the step and float64\[2\] after it. Convert one: cast\(x, dtype='float32'\)",
    ):
        oy.trace(
            lambda x: oy.while_loop(lambda s: oy.sum(s) < 3, lambda s: oy.cast(s, dtype="float64"), x), x
        )
    with pytest.raises(SpecError, match="while_loop: the state must keep shapes and dtypes"):
        oy.while_loop(lambda s: True, lambda s: oy.concat(s, s), np.ones(2, F32))
    with pytest.raises(
        SpecError, match=r"while_loop: the condition gives a boolean of shape \[\]; found bool\[2\]"
    ):
        oy.trace(lambda x: oy.while_loop(lambda s: s < 3, lambda s: s + 1, x), x)


def test_the_expected_steps_are_a_number():
    with pytest.raises(SpecError, match="expected_steps"):
        oy.trace(
            lambda x: oy.while_loop(lambda s: s < 3, lambda s: s + 1, x, expected_steps=0),
            oy.TensorSpec((), "float32"),
        )


# scan ------------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_is_a_loop_over_items(way, reverse):
    w, xs = rows(5, 5) / 5, rows(7, 5)

    @way
    def network(h, xs):
        return oy.scan(
            lambda h, x: (oy.tanh(oy.matmul(h, w) + x["a"]), (h, oy.sum(x["b"]))),
            h,
            {"a": xs, "b": xs},
            reverse=reverse,
        )

    h, expected, sums = np.zeros(5, F32), [None] * 7, [None] * 7
    for i in reversed(range(7)) if reverse else range(7):
        expected[i], sums[i] = h, xs[i].sum()
        h = np.tanh(h @ w + xs[i])
    last, (states, found) = network(np.zeros(5, F32), xs)
    np.testing.assert_allclose(last, h, rtol=1e-5)
    np.testing.assert_allclose(states, np.stack(expected), rtol=1e-5)
    np.testing.assert_allclose(found, sums, rtol=1e-5)


@BOTH
def test_a_scan_may_have_no_sequences_and_collect_nothing(way):
    def program(x):
        found, nothing = oy.scan(lambda c, _: (c * 2, None), x, length=5)
        assert nothing is None
        return found

    assert way(program)(np.ones(2, F32)).tolist() == [32, 32]


def test_a_scan_of_no_items_collects_empty_arrays():
    run = oy.compile(lambda c, xs: oy.scan(lambda c, x: (c + x, x), c, xs))
    carry, found = run(np.ones(3, F32), np.empty((0, 3), F32))
    assert carry.tolist() == [1, 1, 1]
    assert found.shape == (0, 3)
    with pytest.raises(SpecError, match="without items nothing tells what is collected"):
        oy.scan(lambda c, x: (c + x, x), np.ones(3, F32), np.empty((0, 3), F32))


def test_a_scan_over_a_symbolic_length():
    graph = oy.trace(
        lambda xs: oy.scan(lambda c, x: (c + x, c), np.float32(0), xs), oy.TensorSpec(("n",), "float32")
    )
    session = oy.Session(graph)
    total, before = session.run(graph.result, {"xs": np.arange(5, dtype=F32)})
    assert (float(total), before.tolist()) == (10, [0, 0, 1, 3, 6])


@BOTH
def test_map_stacks_results(way):
    xs = rows(4, 3)
    first, second = way(lambda xs: oy.map(lambda x: (oy.sum(x), x * 2), xs))(xs)
    np.testing.assert_allclose(first, xs.sum(1), rtol=1e-6)
    np.testing.assert_array_equal(second, xs * 2)


def test_scan_refuses_what_it_cannot_loop_over():
    x = np.ones(3, F32)
    for wrong, text in [
        (
            lambda: oy.scan(lambda c, x: (c, x), x, (rows(3), rows(4, 1))),
            r"scan: all sequences have one length; found 3, 4\.",
        ),
        (
            lambda: oy.scan(lambda c, x: (c, x), x, rows(3), length=5),
            r"scan: all sequences have one length; found 5, 3\.",
        ),
        (
            lambda: oy.scan(lambda c, x: (c, x), x, F32(3)),
            r"scan: a sequence has a first axis to go along; found an array of shape \(\)\.",
        ),
        (lambda: oy.scan(lambda c, x: (c, x), x), r"scan: without sequences it needs a length="),
        (
            lambda: oy.scan(lambda c, x: c, x, x),
            "scan: the body gives a pair, the next carry and what is collected, or None for that; found",
        ),
        (
            lambda: oy.scan(lambda c, x: (c + x[None], None), x, rows(3, 3)),
            "scan: the carry must keep shapes and dtypes",
        ),
    ]:
        with pytest.raises(SpecError, match=text):
            wrong()
        with pytest.raises(SpecError, match=text):
            oy.trace(lambda _, wrong=wrong: wrong(), oy.TensorSpec((), "float32"))


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 5), st.integers(0, 4), st.integers(1, 3), st.booleans(), st.randoms(use_true_random=False)
)
def test_scans_agree_with_python(length, size, depth, reverse, random):
    """Of nested loops and branches, with what is around them, on two devices."""
    numbers = np.random.default_rng(random.randrange(1000))
    xs, start = (numbers.integers(-3, 4, shape).astype(F32) for shape in ((length, size), (size,)))

    def step(depth, sum_, where, carry, x):
        carry = carry * 0.5 + x
        if depth > 1:
            carry, _ = oy.scan(lambda c, y: (step(depth - 1, sum_, where, c, y + x), None), carry, xs)
        return oy.cond(oy.sum(carry) > 1, lambda: carry - x, lambda: -carry)

    def program(start, xs):
        return oy.scan(lambda c, x: (step(depth, oy.sum, oy.where, c, x), c), start, xs, reverse=reverse)

    expected = program(start, xs)
    for devices in ("auto", "reference"):
        found = oy.compile(program, devices=devices)(start, xs)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


# Graphs inside of graphs -----------------------------------------------------------------------------------------


def loop_graph() -> tuple[oy.Graph, np.ndarray]:
    w = rows(4, 4)
    return oy.trace(
        lambda x: oy.scan(lambda c, _: (oy.matmul(c, w), None), x, length=3)[0],
        oy.TensorSpec((4,), "float32"),
    ), w


def test_large_constants_lie_around_the_loop():
    graph, w = loop_graph()
    assert [array.shape for array in graph.constants.values()] == [(4, 4)]
    assert next(iter(graph.constants.values())) is w


def test_a_loop_in_the_printed_graph_and_in_the_explanation():
    graph, _ = loop_graph()
    assert "scan(x, constant, body=<region(" in str(graph)
    placement = oy.Session(graph, devices="cpu:0").explain(
        graph.result, {"x": oy.TensorSpec((4,), "float32")}
    )
    assert "    body: predicted" in str(placement)
    assert "        matmul: cpu/" in str(placement)
    (node,) = (row for row in placement.to_json()["nodes"] if row["op"] == "scan")
    assert [inner["op"] for inner in node["bodies"]["body"]["nodes"]] == ["matmul"]


def test_equal_loops_are_run_once():
    def twice(x):
        a, b = (oy.while_loop(lambda s: oy.sum(s) < 9, lambda s: s + 1, x) for _ in range(2))
        return a + b

    graph = oy.simplify(oy.trace(twice, oy.TensorSpec((2,), "float32")))
    assert [node.op.name for node in graph.nodes] == ["while_loop", "add"]


def test_a_pin_holds_inside_of_a_loop():
    def pinned(x):
        def body(c, _):
            with oy.device("reference"):
                return c * 2, None

        return oy.scan(body, x, length=2)[0]

    run = oy.compile(pinned, devices=["cpu:0", "reference"])
    assert run(np.ones(2, F32)).tolist() == [4, 4]
    (decision,) = run.explain(np.ones(2, F32)).decisions
    ((_, body),) = decision.bodies
    assert [inner.chosen.device.name for inner in body.decisions] == ["reference"]


def test_values_of_a_body_stay_inside():
    kept = []

    def leak(x):
        oy.cond(x[0] > 0, lambda: kept.append(x + 1) or x, lambda: x)
        return x + kept[0]

    with pytest.raises(GraphError, match="add: the value 'add' belongs to another graph"):
        oy.trace(leak, oy.TensorSpec((2,), "float32"))


def test_loops_with_constant_inputs_are_not_folded():
    graph = oy.trace(
        lambda x: x + oy.while_loop(lambda s: s >= 0, lambda s: s + 1, np.int64(0)),
        oy.TensorSpec((), "int64"),
    )
    assert [node.op.name for node in oy.simplify(graph).nodes] == ["while_loop", "add"]  # it would not end


def test_memory_limits_do_not_reach_into_loops():
    graph, _ = loop_graph()
    with pytest.raises(
        PlacementError,
        match=r"memory limits do not hold inside of branches and loops, and the graph has scan \(test_control.py:\d+\); leave out memory=",
    ):
        oy.Session(graph, memory={"cpu:0": 1000}).run(graph.result, {"x": np.ones(4, F32)})


def test_a_kernel_that_fails_inside_of_a_loop_is_replaced():
    registry = oy.standard_registry()
    calls = []

    @oy.op("test.twice", scalar="2 * x")
    def twice(x): ...

    registry.op(twice)

    def broken(x):
        calls.append(x)
        if len(calls) > 2:
            raise RuntimeError("no more")
        return oy.testing.NullArray(x._contents * 2, x.device, x.memory)

    oy.testing.add_null_backend(registry)
    registry.kernel(
        "test.twice", backend="null", name="broken", load=lambda x: broken(x), cost=lambda call, device: 0.0
    )

    def step(c, _):
        with oy.device("null", soft=True):
            return twice(c), None

    graph = oy.trace(lambda x: oy.scan(step, x, length=4)[0], oy.TensorSpec((2,), "float32"))
    session = oy.Session(graph, registry=registry, devices=["null:0", "reference"])
    with pytest.warns(KernelWarning, match="kernel null/broken of test.twice raised RuntimeError: no more"):
        assert session.run(graph.result, {"x": np.ones(2, F32)}).tolist() == [16, 16]
    assert len(calls) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert session.run(graph.result, {"x": np.ones(2, F32)}).tolist() == [16, 16]


def test_a_loop_runs_on_another_device():
    xs = rows(6, 3)
    run = oy.compile(
        lambda c, xs: oy.scan(lambda c, x: (c + x, c * 2), c, xs, reverse=True), devices="opencl"
    )
    carry, found = run(np.zeros(3, F32), xs)
    np.testing.assert_allclose(carry, xs.sum(0), rtol=1e-5)
    np.testing.assert_allclose(found[0], 2 * xs[1:].sum(0), rtol=1e-5)
    steps = oy.compile(
        lambda x: oy.while_loop(lambda s: oy.sum(s) < 10, lambda s: s + 1, x), devices="opencl"
    )
    assert steps(np.zeros(3, F32)).tolist() == [4, 4, 4]


def test_tuning_measures_what_is_inside(tmp_path):
    graph, _ = loop_graph()
    costs = oy.MeasuredCosts(oy.CostStore(tmp_path / "costs.sqlite"))
    session = oy.Session(graph, devices=["cpu:0", "reference"], costs=costs)
    report = session.tune(graph.result, {"x": np.ones(4, F32)}, budget_seconds=2, calibrate=False)
    assert any(row.work.startswith("matmul(") for row in report.measured)
    assert not any("scan" in row.work for row in report.measured)


@pytest.mark.parametrize(("most", "steps"), [(None, 7), (0, 0), (3, 3), (100, 7)])
def test_a_loop_ends_after_its_most_steps(most: int | None, steps: int):
    def loop(x: Any) -> Any:
        return oy.while_loop(lambda v: oy.less(v, 7.0), lambda v: oy.add(v, 1.0), x, most_steps=most)

    zero = np.array(0.0)
    assert loop(zero) == steps and oy.compile(loop)(zero) == steps
    (node,) = oy.trace(loop, oy.TensorSpec((), "float64")).nodes
    assert node.call.reference(zero)[0] == steps


def test_most_steps_is_a_number_and_is_reckoned_with():
    spec = oy.TensorSpec((), "float64")

    def loop(most: Any) -> Any:
        return lambda x: oy.while_loop(
            lambda v: oy.less(v, 7.0), lambda v: oy.add(v, 1.0), x, most_steps=most
        )

    with pytest.raises(oy.errors.SpecError, match="most_steps"):
        oy.trace(loop(-1), spec)
    few, many = (oy.trace(loop(most), spec).nodes[0].call.cost.flops for most in (2, 50))
    assert few < many
