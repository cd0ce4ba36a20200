"""Pattern kernels and composite kernels in placements and sessions: chosen by cost, run as one step, with honest prices."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opyard as oy
from opyard.region import Region
from opyard.testing import NullDevice, ScriptedCosts, add_null_backend

RNG = np.random.default_rng(0)
X, W, B = (RNG.standard_normal(shape).astype(np.float32) for shape in ((4, 3), (3, 5), (5,)))


def dense(x: Any, w: Any, b: Any) -> Any:
    return oy.relu(oy.add(oy.matmul(x, w), b))


def prepare_dense(region: Region, device: NullDevice) -> Callable[..., Any]:
    def run(x: Any, w: Any, b: Any) -> Any:
        x, w, b = (device.download(array) for array in (x, w, b))
        return device.upload(np.maximum(x @ w + b, 0))

    return run


def registry(**facts: Any) -> oy.Registry:
    made = oy.standard_registry()
    add_null_backend(made, ops=["matmul", "add", "relu", "exp", "negative"])
    made.pattern(dense, backend="null", name="dense", prepare=prepare_dense, **facts)
    return made


def placed(
    function: Callable[..., Any], *arrays: Any, made: oy.Registry | None = None, **prices: float
) -> oy.Placement:
    made = made or registry()
    costs = ScriptedCosts({"null/null": 1e-6, "null/dense": 1e-6, "reference/reference": 1.0} | prices)
    graph = oy.trace(function, *(oy.TensorSpec.of(a) for a in arrays))
    null = made.device("null:0")
    return oy.place(graph, made.devices(), made, costs, home=null)


def kernels(placement: oy.Placement) -> list[str]:
    return [decision.chosen.kernel.id for decision in placement.decisions]


def test_a_cheaper_pattern_replaces_its_ops() -> None:
    placement = placed(dense, X, W, B)
    assert kernels(placement) == ["null/dense"]
    assert placement.seconds == pytest.approx(1e-6)
    assert [node.op.name for node in placement.decisions[0].match.nodes] == ["matmul", "add", "relu"]
    found = {
        (a.node.op.name, a.candidate.kernel.id): a.extra_seconds for a in placement.decisions[0].alternatives
    }
    for op in ("matmul", "add", "relu"):  # without the pattern all three ops run by themselves
        assert found[op, "null/null"] == pytest.approx(2e-6)
        assert found[op, "reference/reference"] > 0.9


def test_rows_are_named_by_all_that_is_computed() -> None:
    def function(x: Any, w: Any, b: Any) -> Any:
        return oy.exp(dense(x, w, b))

    rows = [row for row in str(placed(function, X, W, B)).splitlines() if not row.startswith(" ")]
    assert [row.partition(":")[0] for row in rows[1:]] == ["matmul + add + relu (relu)", "exp"]


def test_long_names_of_rows_are_shortened() -> None:
    made = oy.standard_registry()
    add_null_backend(made)

    def long(x: Any) -> Any:
        for op in (oy.exp, oy.negative, oy.tanh, oy.abs, oy.sqrt, oy.negative):
            x = op(x)
        return x

    made.pattern(long, backend="null", name="dense", prepare=prepare_dense)
    placement = placed(long, X, made=made)
    title = "exp + negative + 3 more + negative"
    assert (
        str(placement).splitlines()[1].startswith(f"{title} ({placement.decisions[0].node.name}): null/dense")
    )
    dear = placed(long, X, made=made, **{"null/dense": 99.0})
    assert f"null/dense on null:0 for {title}: +" in str(dear)


def test_a_dearer_pattern_does_not() -> None:
    placement = placed(dense, X, W, B, **{"null/dense": 5e-6})
    assert kernels(placement) == ["null/null"] * 3
    for decision in placement.decisions:
        (pattern,) = [a for a in decision.alternatives if a.candidate.kernel.id == "null/dense"]
        assert pattern.extra_seconds == pytest.approx(2e-6)
        assert str(pattern).startswith("null/dense on null:0 for matmul + add + relu: +2 us")


def test_an_interior_value_that_is_used_elsewhere_keeps_the_ops_apart() -> None:
    def function(x: Any, w: Any, b: Any) -> Any:
        product = oy.matmul(x, w)
        return oy.relu(oy.add(product, b)), oy.exp(product)

    assert kernels(placed(function, X, W, B)) == ["null/null"] * 4


def test_a_pattern_kernel_may_refuse() -> None:
    made = registry(accepts=lambda region, device: f"has {len(region.graph.nodes)} ops")
    placement = placed(dense, X, W, B, made=made)
    assert kernels(placement) == ["null/null"] * 3
    assert {
        a.refusal for d in placement.decisions for a in d.alternatives if a.candidate.kernel.name == "dense"
    } == {"has 3 ops"}


def test_a_pin_of_an_inner_op_forbids_the_pattern() -> None:
    made = registry()
    with oy.using(registry=made, pin={"add": "null/null"}):
        placement = placed(dense, X, W, B, made=made)
    assert kernels(placement) == ["null/null"] * 3
    assert "add is pinned to null/null" in {a.refusal for a in placement.decisions[0].alternatives}


def test_sessions_run_patterns() -> None:
    made = registry()
    costs = ScriptedCosts({"null/null": 1e-3, "null/dense": 1e-6, "reference/reference": 1.0})
    function = oy.compile(
        lambda x, w, b: oy.negative(dense(x, w, b)), registry=made, devices="null:0", costs=costs
    )
    np.testing.assert_allclose(function(X, W, B), -np.maximum(X @ W + B, 0), rtol=1e-6)
    assert kernels(function.explain(X, W, B)) == ["null/dense", "null/null"]


def test_a_failing_pattern_is_replaced_by_its_ops() -> None:
    made = oy.standard_registry()
    add_null_backend(made, ops=["matmul", "add", "relu"])

    def broken(region: Region, device: NullDevice) -> Callable[..., Any]:
        def run(*arrays: Any) -> Any:
            raise RuntimeError("out of luck")

        return run

    made.pattern(dense, backend="null", name="dense", prepare=broken)
    costs = ScriptedCosts({"null/null": 1e-3, "null/dense": 1e-6, "reference/reference": 1.0})
    function = oy.compile(dense, registry=made, devices="null:0", costs=costs)
    with pytest.warns(
        oy.KernelWarning, match=r"kernel null/dense of matmul \+ add \+ relu raised RuntimeError: out of luck"
    ):
        found = function(X, W, B)
    np.testing.assert_allclose(found, np.maximum(X @ W + B, 0), rtol=1e-6)
    assert list(made.failures) == ["matmul + add + relu null/dense"]
    assert kernels(function.explain(X, W, B)) == ["null/null"] * 3


def test_composites_are_whole_or_in_parts_by_cost() -> None:
    made = oy.standard_registry()
    add_null_backend(made, ops=["softmax", "max", "subtract", "exp", "sum", "divide"])
    prices = {"softmax null/null": 3e-6, "null/dense": 1.0}
    assert kernels(placed(oy.softmax, X, made=made, **prices)) == ["null/null"]
    prices["softmax null/null"] = 9e-6
    placement = placed(oy.softmax, X, made=made, **prices)
    assert [d.match.title for d in placement.decisions] == ["max", "subtract", "exp", "sum", "divide"]
    (whole,) = {
        a.extra_seconds
        for a in placement.decisions[0].alternatives
        if a.match.title == "softmax" and a.candidate.kernel.backend == "null"
    }
    assert whole == pytest.approx(4e-6)


def test_a_pinned_composite_is_not_decomposed() -> None:
    made = oy.standard_registry()
    add_null_backend(made, ops=["softmax", "max", "subtract", "exp", "sum", "divide"])
    with oy.using(registry=made, pin={"softmax": "null/null"}):
        placement = placed(oy.softmax, X, made=made, **{"softmax null/null": 9e-1})
    assert [d.match.title for d in placement.decisions] == ["softmax"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_covers_agree_with_brute_force(data: Any) -> None:
    """A chain of unary ops with patterns for its links: the cheapest cover is found by dynamic programming, too."""
    ops = [oy.exp, oy.negative, oy.abs]
    chain = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=7))
    seconds = st.integers(1, 20)
    made = oy.standard_registry()
    add_null_backend(made, ops=["exp", "negative", "abs"])
    prices: dict[str, float] = {"reference/reference": 1.0}
    lengths: dict[tuple[int, ...], float] = {}
    for op in range(3):
        prices[f"{ops[op].__name__} null/null"] = lengths[(op,)] = data.draw(seconds) * 1e-6
    for link in itertools.chain(itertools.product(range(3), repeat=2), [(0, 1, 2), (1, 1, 1)]):
        if data.draw(st.booleans()):
            name = "link" + "".join(map(str, link))

            def function(x: Any, link: tuple[int, ...] = link) -> Any:
                for op in link:
                    x = ops[op](x)
                return x

            made.pattern(
                eval("lambda x: f(x)", {"f": function}), backend="null", name=name, prepare=prepare_dense
            )
            prices[f"null/{name}"] = lengths[link] = data.draw(seconds) * 1e-6

    def whole(x: Any) -> Any:
        for op in chain:
            x = ops[op](x)
        return x

    best = [0.0] + [np.inf] * len(chain)
    for end in range(1, len(chain) + 1):
        for link, price in lengths.items():
            if tuple(chain[max(0, end - len(link)) : end]) == link:
                best[end] = min(best[end], best[end - len(link)] + price)
    placement = placed(whole, X, made=made, **prices)
    assert placement.is_optimal
    assert placement.seconds == pytest.approx(best[-1], abs=1e-12)


def two_outputs(x: Any, y: Any) -> Any:
    return oy.exp(x), oy.add(x, y)


def crossing(x: Any, z: Any) -> Any:
    """Two places for the pattern ``two_outputs``, each of which needs what the other gives."""
    a, b = oy.exp(x), oy.exp(z)
    return oy.add(x, b), oy.add(z, a)


def prepare_parts(region: Region, device: NullDevice) -> Callable[..., Any]:
    def run(x: Any, y: Any) -> Any:
        x, y = device.download(x), device.download(y)
        return device.upload(np.exp(x)), device.upload(x + y)

    return run


def test_matches_that_would_wait_for_each_other_are_not_taken_together() -> None:
    made = oy.standard_registry()
    add_null_backend(made, ops=["exp", "add"])
    made.pattern(two_outputs, backend="null", name="two", prepare=prepare_parts)
    prices = {"null/two": 1e-6, "null/null": 9e-6}
    placement = placed(crossing, X, X, made=made, **prices)
    assert sorted(kernels(placement)) == ["null/null", "null/null", "null/two"]
    assert placement.seconds == pytest.approx(19e-6)
    assert placement.is_optimal
    function = oy.compile(crossing, registry=made, devices="null:0", costs=ScriptedCosts(prices))
    for found, expected in zip(function(X, 2 * X), (X + np.exp(2 * X), 2 * X + np.exp(X)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_kernels_that_cannot_be_combined_are_explained() -> None:
    made = oy.standard_registry()
    null = add_null_backend(made)[0]
    made.kernel(
        "exp", backend="null", name="odd", prepare=prepare_dense, layouts={"x": "odd", "output": "odd"}
    )
    graph = oy.trace(oy.exp, oy.TensorSpec.of(X))
    with pytest.raises(
        oy.errors.PlacementError, match="cannot be combined: no way of bringing tensors between them"
    ):
        oy.place(graph, [null], made, ScriptedCosts(), home=null)


def test_a_bad_pattern_is_put_aside_and_shown() -> None:
    made = registry()
    made.pattern(lambda x, w, z: oy.relu(oy.matmul(x, w)), backend="null", name="bad", prepare=prepare_dense)
    for _ in range(2):
        assert kernels(placed(dense, X, W, B, made=made)) == ["null/dense"]
    (reason,) = made.failures.values()
    assert "its pattern never uses its parameter 'z'" in reason
