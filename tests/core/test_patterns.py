"""Patterns are traced without specs; what matches them computes what the graph computes there, and nothing else matches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opyard as oy
from hosts import HostDevice
from opyard.errors import GraphError, RegistryError, SpecError
from opyard.kernels import Kernel
from opyard.ops import STANDARD
from opyard.placement.match import Match
from opyard.placement.matching import SMALL, Index, find_matches
from opyard.placement.patterns import Pattern
from opyard.placement.wholes import expand
from opyard.region import Region
from opyard.spec import TensorSpec

Function = Callable[..., Any]
SPEC = TensorSpec((2, 3))


def kernel(function: Function, **facts: Any) -> Kernel:
    return Kernel("", "toy", "fused", prepare=np.add, pattern=function, **facts)


def pattern(function: Function) -> Pattern:
    return Pattern(kernel(function))


def matches(function: Function, program: Function, *specs: TensorSpec) -> list[Match]:
    graph = oy.trace(program, *(specs or (SPEC,) * program.__code__.co_argcount))
    return list(find_matches(pattern(function), graph))


def count(function: Function, program: Function, *specs: TensorSpec) -> int:
    return len(matches(function, program, *specs))


def names(match: Match) -> list[str | None]:
    return [None if value is None else value.name for value in match.inputs]


def region(match: Match) -> Region:
    assert isinstance(match.work, Region)
    return match.work


def values(graph: oy.Graph, *arrays: Any) -> dict[Any, Any]:
    """Every value of the graph, computed node by node with the references."""
    known: dict[Any, Any] = dict(zip(graph.inputs.values(), arrays, strict=True)) | graph.constants
    for node in graph.nodes:
        inputs = (None if value is None else known[value] for value in node.inputs)
        known.update(zip(node.outputs, node.call.reference(*inputs), strict=True))
    return known


def assert_equals_graph(match: Match, known: dict[Any, Any]) -> None:
    inner = region(match).graph.check()
    arrays = [known[value] for value in match.inputs if value is not None]
    found = values(inner, *arrays)
    for value, output in zip(match.outputs, inner.outputs.values(), strict=True):
        np.testing.assert_array_equal(found[output], known[value])


# Tracing ---------------------------------------------------------------------------------------------------------


def test_a_pattern_is_traced_without_specs_and_once_for_each_kernel() -> None:
    fused = kernel(lambda x, w, b: oy.relu(oy.add(oy.conv(x, w), b)))
    traced = Pattern.of(fused)
    assert Pattern.of(fused) is traced
    assert [step.op.name for step in traced.steps] == ["conv", "add", "relu"]
    assert [p.name for p in traced.parameters] == ["x", "w", "b"]
    assert repr(traced) == "<Pattern of toy/fused: conv add relu>"


def test_operators_work_as_on_values() -> None:
    def everything(x: Any, y: Any) -> Any:
        z = abs(-x + y) * 2 - 1 / x
        return (z @ y) ** 2 < np.float32(3), ~(x > y) & (x <= y) | (x >= y)

    direct = oy.trace(everything, TensorSpec((3, 3)), TensorSpec((3, 3)))
    assert [s.op.name for s in pattern(everything).steps] == [n.op.name for n in direct.nodes]


def test_equality_in_a_pattern_is_an_op() -> None:
    assert count(lambda x, y: oy.where(x == y, 1.0, x), lambda a, b: oy.where(oy.equal(b, a), 1.0, a)) == 1


def test_tracing_a_pattern_leaves_the_caches_of_ops_alone() -> None:
    x = np.ones(3, np.float32)
    before = oy.square(x)
    pattern(lambda x: oy.square(x) + 1)
    np.testing.assert_array_equal(oy.square(x), before)
    with pytest.raises(AttributeError, match="dtype"):
        pattern(lambda x: oy.square(x)).parameters[0].dtype  # noqa: B018


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x, y: oy.exp(x), "its pattern never uses its parameter 'y'; leave it out"),
        (lambda x: x, "its pattern calls no op; write for example lambda"),
        (lambda x: (oy.exp(x), x), "its pattern returns x; it returns results of ops"),
        (lambda x: (oy.exp(x), 2), "its pattern returns 2; it returns results of ops"),
        (lambda x: [oy.exp(x)] * 2, "its pattern returns one result twice"),
        (
            lambda x, y: (oy.exp(x), oy.log(y)),
            "its pattern falls into parts that share no value: log has nothing to do with exp; register two",
        ),
        (lambda x: (oy.log(x), oy.exp(x))[1], "its pattern calls log and uses its result for nothing"),
        (lambda *xs: oy.concat(*xs), r"its pattern takes '\*xs'; name each parameter"),
        (lambda x, *, axis: oy.exp(x), "its pattern takes 'axis'; name each parameter"),
        (
            lambda x: oy.exp(x) if x > 0 else x,
            "greater has no truth value in a pattern; register one pattern for each case",
        ),
        (
            lambda x: oy.reshape(x, shape=(x.shape[0], -1)),
            r"its pattern function failed \(AttributeError: .*shape.*\); it can call ops, and has no shapes",
        ),
        (lambda x: next(iter(oy.top_k(x, k=2))), r"top_k cannot be unpacked in a pattern; select the outputs .*\[0\]"),
        (lambda x: oy.exp(x[0]), r"select outputs of ops that give a tuple; found x\[0\]. For parts .* oy.slice"),
        (lambda x: oy.exp(oy.exp(x)[:, 0]), r"found exp\[\(slice\(None, None, None\), 0\)\]"),
        (lambda x: oy.top_k(x, k=2)[0][0], r"select outputs of ops that give a tuple"),
        (lambda x: oy.top_k(x, k=2)[-1], r"select outputs of ops that give a tuple"),
        (lambda x: x + np.ones(3), "add takes ndarray in a pattern, where only .* can be; make it a parameter"),
        (lambda x: oy.concat(x, "y"), "concat takes str in a pattern"),
    ],
)  # fmt: skip
def test_patterns_that_cannot_be_meant(function: Function, message: str) -> None:
    with pytest.raises(RegistryError, match=r"^pattern kernel toy/fused: .*" + message):
        pattern(function)


def test_one_op_both_whole_and_by_output() -> None:
    def both(x: Any) -> Any:
        pair = oy.top_k(x, k=2)
        return oy.exp(pair), pair[0]

    with pytest.raises(RegistryError, match=r"its pattern uses top_k both whole and by output; select each"):
        pattern(both)


def test_a_kernel_without_pattern() -> None:
    with pytest.raises(RegistryError, match="kernel toy/k of op 'add' has no pattern; it is registered with"):
        Pattern.of(Kernel("add", "toy", "k", load=np.add))


# Commutative ops -------------------------------------------------------------------------------------------------


def test_what_commutes_has_two_inputs() -> None:
    with pytest.raises(
        SpecError, match=r"op 'acme.f': two inputs can commute, both of them required; acme.f\(x\)"
    ):
        oy.op("acme.f", scalar="x + 1", commutative=True)(lambda x: ...)  # fmt: skip


COMMUTATIVE = [name for name, function in STANDARD.items() if function.op.commutative]


def test_the_standard_ops_that_commute() -> None:
    assert {*COMMUTATIVE} == {
        *("add", "multiply", "maximum", "minimum", "hypot", "logaddexp", "equal", "not_equal"),
        *("logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor"),
    }


@pytest.mark.parametrize("name", COMMUTATIVE)
def test_what_commutes_gives_the_same_both_ways(name: str) -> None:
    op: oy.Op = STANDARD[name].op
    for a, b in ((1, 0), (-2, 3), (5, 5)):
        dtype = {"l": "bool", "b": "int32"}.get(name[0], "float32") if name != "logaddexp" else "float32"
        left, right = (np.asarray([v], dtype) for v in (a, b))
        call = op.call(TensorSpec((1,), dtype), TensorSpec((1,), dtype))
        np.testing.assert_array_equal(call.reference(left, right), call.reference(right, left))


def test_operands_match_in_either_order_and_the_written_order_first() -> None:
    def scaled(x: Any, y: Any) -> Any:
        return oy.add(oy.multiply(x, y), y)

    (swapped,) = matches(scaled, lambda a, b: oy.add(a, oy.multiply(a, b)))
    assert names(swapped) == ["b", "a"]
    (straight,) = matches(scaled, lambda a, b: oy.add(oy.multiply(a, b), b))
    assert names(straight) == ["a", "b"]
    assert count(scaled, lambda a, b: oy.subtract(oy.multiply(a, b), b)) == 0
    (both,) = matches(lambda x, y: oy.exp(x) + oy.exp(y), lambda a, b: oy.exp(a) + oy.exp(b))
    assert names(both) == ["a", "b"]
    assert count(lambda x, y: oy.exp(x - y), lambda a, b: oy.exp(a - b)) == 1
    (ordered,) = matches(lambda x, y: oy.exp(x) - y, lambda a, b: (oy.exp(a) - b, a - oy.exp(b)))
    assert names(ordered) == ["a", "b"]


def test_the_region_has_the_operands_as_the_pattern_has_them() -> None:
    (match,) = matches(
        lambda x, b: oy.relu(oy.add(oy.exp(x), b)),
        lambda x, b: oy.relu(b + oy.exp(x)),
        *(TensorSpec((4, 3)), TensorSpec((3,))),
    )
    add = region(match).graph.nodes[1]
    assert add.call.inputs == (TensorSpec((4, 3)), TensorSpec((3,)))
    assert [n.op.name for n in region(match).graph.nodes] == ["exp", "add", "relu"]


# Parameters, numbers, attributes ---------------------------------------------------------------------------------


def test_a_parameter_used_twice_is_one_value() -> None:
    assert count(lambda x: x * oy.exp(x), lambda a, b: a * oy.exp(a)) == 1
    assert count(lambda x: x * oy.exp(x), lambda a, b: a * oy.exp(b)) == 0
    (match,) = matches(lambda x, y: x * oy.exp(y), lambda a: a * oy.exp(a))
    assert names(match) == ["a", "a"] and region(match).inputs == (SPEC, SPEC)


def test_numbers_match_filled_constants() -> None:
    def halved(x: Any) -> Any:
        return oy.multiply(x, 0.1)

    tenth = np.full((2, 3), 0.1, np.float32)
    assert count(halved, lambda a: a * 0.1) == count(halved, lambda a: 0.1 * a) == 1
    assert count(halved, lambda a: a * tenth) == count(halved, lambda a: a * tenth[:1, :1]) == 1
    assert count(halved, lambda a: a * 0.2) == count(halved, lambda a, b: a * b) == 0
    assert count(halved, lambda a: a * np.array([0.1, 0.1, 0.2], np.float32)) == 0
    assert count(halved, lambda a: a * np.empty((0,), np.float32), TensorSpec((1,))) == 0
    large = np.full((SMALL // 4 + 1,), 0.1, np.float32)
    assert count(halved, lambda a: a * large, TensorSpec((1,))) == 0
    assert count(halved, lambda a: a * large[1:], TensorSpec((1,))) == 1


@pytest.mark.parametrize(
    ("number", "array", "equal"),
    [
        (2, np.int32(2), True),
        (2, np.float32(2), True),
        (2.0, np.int32(2), True),
        (2.5, np.int32(2), False),
        (2**70, np.int64(0), False),
        (0, np.float32(-0.0), False),
        (float("nan"), np.float32("nan"), True),
        (float("inf"), np.float32("inf"), True),
        (1, np.complex64(1), True),
        (1j, np.complex64(1j), True),
        (1j, np.float32(1), False),
        (1j, np.int32(1), False),
        (0.1, np.float64(np.float32(0.1)), False),
    ],
)
def test_numbers_are_compared_as_the_dtype_of_the_constant_rounds_them(
    number: complex, array: Any, equal: bool
) -> None:
    array = np.asarray(array)
    found = count(lambda x: oy.add(x, number), lambda a: oy.add(a, array), TensorSpec((3,), array.dtype.name))
    assert found == equal


def test_truth_values_are_no_numbers() -> None:
    spec, one = TensorSpec((3,), "bool"), TensorSpec((3,), "int32")
    assert count(lambda x: oy.logical_and(x, True), lambda a: oy.logical_and(a, True), spec) == 1
    assert count(lambda x: oy.logical_and(x, 1), lambda a: oy.logical_and(a, True), spec) == 0
    assert count(lambda x: oy.add(x, True), lambda a: oy.add(a, np.int32(1)), one) == 0


def test_four_bit_integers_are_not_rounded_to() -> None:
    dtype = TensorSpec((), "int4").dtype
    array, spec = np.asarray(0, dtype), TensorSpec((3,), "int4")
    assert count(lambda x: oy.equal(x, 0.5), lambda a: oy.equal(a, array), spec) == 0
    assert count(lambda x: oy.equal(x, 0), lambda a: oy.equal(a, array), spec) == 1


def test_attributes_at_their_default_match_any_value() -> None:
    assert count(lambda x: oy.softmax(x), lambda a: oy.softmax(a, axis=0)) == 1
    assert count(lambda x: oy.softmax(x, axis=0), lambda a: oy.softmax(a, axis=0)) == 1
    assert count(lambda x: oy.softmax(x, axis=0), lambda a: oy.softmax(a, axis=1)) == 0
    assert count(lambda x: oy.reshape(x, shape=[3, 2]), lambda a: oy.reshape(a, shape=(3, 2))) == 1
    assert count(lambda x: oy.reshape(x, shape=(6,)), lambda a: oy.reshape(a, shape=(3, 2))) == 0


def test_the_kernel_sees_the_real_attributes() -> None:
    (match,) = matches(lambda x: oy.exp(oy.softmax(x)), lambda a: oy.exp(oy.softmax(a, axis=0)))
    assert region(match).graph.nodes[0].call.attrs["axis"] == 0


def test_optional_inputs_that_are_left_out() -> None:
    specs = (TensorSpec((1, 2, 5, 5)), TensorSpec((3, 2, 3, 3)), TensorSpec((3,)))

    def with_bias(x: Any, w: Any, b: Any) -> Any:
        return oy.relu(oy.conv(x, w, b))

    (match,) = matches(with_bias, lambda a, c, d: oy.relu(oy.conv(a, c)), *specs)
    assert names(match) == ["a", "c", None]
    assert region(match).input_names == ("x", "w", "b")
    assert region(match).inputs == (*specs[:2], None)
    assert str(region(match)).startswith(
        "region(v0: float32[1, 2, 5, 5], v1: float32[3, 2, 3, 3], none); v2: "
    )
    assert region(match).cost.bytes == 4 * (50 + 54 + 27)
    (given_bias,) = matches(with_bias, lambda a, c, d: oy.relu(oy.conv(a, c, d)), *specs)
    assert names(given_bias) == ["a", "c", "d"]
    without = matches(lambda x, w: oy.relu(oy.conv(x, w)), lambda a, c, d: oy.relu(oy.conv(a, c, d)), *specs)
    assert without == []


def test_any_number_of_inputs() -> None:
    def joined(x: Any, y: Any) -> Any:
        return oy.exp(oy.concat(x, y, axis=0))

    assert count(joined, lambda a, b: oy.exp(oy.concat(a, b, axis=0))) == 1
    assert count(joined, lambda a, b: oy.exp(oy.concat(a, b, a, axis=0))) == 0


def test_outputs_of_ops_that_give_a_tuple() -> None:
    def best(x: Any) -> Any:
        return oy.exp(oy.top_k(x, k=2)[0])

    (match,) = matches(best, lambda a: oy.exp(oy.top_k(a, k=2)[0]))
    assert len(match.nodes) == 2
    assert count(best, lambda a: oy.exp(oy.cast(oy.top_k(a, k=2)[1], dtype="float32"))) == 0
    assert count(best, lambda a: (oy.exp(oy.top_k(a, k=2)[0]), oy.exp(a))) == 1

    def both_used(a: Any) -> Any:
        top, where = oy.top_k(a, k=2)
        return oy.exp(top), where

    assert count(best, both_used) == 0
    assert count(lambda x: (lambda t: (oy.exp(t[0]), t[1]))(oy.top_k(x, k=2)), both_used) == 1
    assert (
        count(lambda x: oy.exp(oy.split(x, sections=2)[2]), lambda a: oy.exp(oy.split(a, sections=2)[0])) == 0
    )
    assert count(lambda x: oy.exp(oy.log(x)[0]), lambda a: oy.exp(oy.log(a))) == 0


# What must not match ---------------------------------------------------------------------------------------------


def test_interior_values_do_not_escape() -> None:
    def fused(x: Any) -> Any:
        return oy.relu(oy.exp(x))

    assert count(fused, lambda a: oy.relu(oy.exp(a))) == 1
    assert count(fused, lambda a: (lambda e: (oy.relu(e), e))(oy.exp(a))) == 0
    assert count(fused, lambda a: (lambda e: (oy.relu(e), oy.log(e)))(oy.exp(a))) == 0
    (match,) = matches(
        lambda x: (lambda e: (oy.relu(e), e))(oy.exp(x)), lambda a: (lambda e: (oy.relu(e), oy.log(e)))(oy.exp(a))
    )  # fmt: skip
    assert [value.node.op.name for value in match.outputs if value.node] == ["relu", "exp"]


def test_a_match_takes_nothing_that_it_makes() -> None:
    assert count(lambda x, y: oy.exp(x) + y, lambda a: (lambda e: e + e)(oy.exp(a))) == 0
    assert count(lambda x, y: oy.exp(x) + oy.exp(y), lambda a: (lambda e: e + e)(oy.exp(a))) == 1


def test_matches_are_convex() -> None:
    def fused(x: Any, y: Any) -> Any:
        e = oy.exp(x)
        return e + y, e

    def outside(a: Any, b: Any) -> Any:
        e = oy.exp(a)
        return e + oy.log(e), b

    assert count(fused, lambda a, b: (lambda e: (e + b, oy.log(e)))(oy.exp(a))) == 1
    assert count(fused, outside) == 0
    assert count(fused, lambda a, b: (lambda e: e + oy.sin(oy.log(e) * b))(oy.exp(a))) == 0


# Several outputs -------------------------------------------------------------------------------------------------


def test_outputs_that_share_only_a_parameter() -> None:
    def projections(x: Any, w: Any, v: Any) -> Any:
        return oy.matmul(x, w), oy.matmul(x, v)

    specs = (SPEC, TensorSpec((3, 3)), TensorSpec((3, 3)))
    (match,) = matches(projections, lambda a, c, d: oy.matmul(a, c) + oy.exp(oy.matmul(a, d)), *specs)
    assert names(match) == ["a", "c", "d"]
    assert count(projections, lambda a, c, d: oy.matmul(a, c) + oy.matmul(oy.exp(a), d), *specs) == 0
    three = matches(projections, lambda a, c, d: (a @ c, a @ d, a @ (c + d)), *specs)
    assert [names(match)[1:] for match in three] == [["c", "d"], ["c", "add"], ["d", "add"]]


def test_outputs_of_which_one_depends_on_the_other() -> None:
    def two(x: Any, w: Any, v: Any) -> Any:
        return x - w, x - v

    assert count(two, lambda a, b: (lambda d: a - oy.exp(d))(a - b)) == 0
    assert count(two, lambda a, b: a - b) == 0


def test_values_with_many_users_are_followed_for_a_while() -> None:
    def two(x: Any) -> Any:
        return oy.exp(x), oy.log(x)

    assert count(two, lambda a: [oy.log(a), *[oy.exp(a) for _ in range(40)]]) == 40
    assert count(two, lambda a: [oy.exp(a), *[oy.log(a) for _ in range(40)]]) == 16


# Composite ops ---------------------------------------------------------------------------------------------------


def test_composites_match_as_calls_and_their_parts_as_plain_ops() -> None:
    graph = oy.trace(lambda x, w, b: oy.relu(oy.linear(x, w, b)), SPEC, TensorSpec((3, 4)), TensorSpec((4,)))
    as_written = pattern(lambda x, w, b: oy.relu(oy.linear(x, w, b)))
    (unexpanded,) = find_matches(as_written, graph)
    assert len(unexpanded.nodes) == 2
    expanded, wholes = expand(graph)
    index = Index(expanded, wholes)
    (match,) = find_matches(as_written, index)
    assert match.nodes == tuple(expanded.nodes)
    assert [n.op.name for n in region(match).graph.nodes] == ["linear", "relu"]
    assert names(match) == ["x", "w", "b"]
    assert str(region(match)) == str(region(unexpanded))
    (part,) = find_matches(pattern(lambda y, b: oy.relu(oy.add(y, b))), index)
    assert part.nodes == tuple(expanded.nodes[-2:])
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal(v.shape).astype(np.float32) for v in expanded.inputs.values()]
    assert_equals_graph(part, values(expanded, *arrays))
    assert_equals_graph(match, values(expanded, *arrays))


# Regions and kernels ---------------------------------------------------------------------------------------------


def test_equal_regions_have_equal_text() -> None:
    def fused(x: Any, y: Any) -> Any:
        return oy.relu(oy.exp(x) * 2 + y)

    first, second = matches(
        fused, lambda a, b, c: (oy.relu(oy.exp(a) * 2 + b), oy.relu(oy.sin(c) + 2 * oy.exp(oy.cos(c))))
    )
    assert str(region(first)) == str(region(second))
    assert "v2 = constant float32[] 2.0" in str(region(first)) and "\n" not in str(region(first))
    (other,) = matches(fused, lambda a, b: oy.relu(oy.exp(a) * 2 + b), SPEC, TensorSpec((3,)))
    (same,) = matches(fused, lambda a: oy.relu(oy.exp(a) * 2 + a))
    assert len({str(region(m)) for m in (first, other, same)}) == 2, "only specs and connections count"


def test_the_text_of_large_constants_is_a_checksum() -> None:
    def add(number: float) -> str:
        (match,) = matches(
            lambda x: x + 1.0 * number, lambda a: a + np.full((3, 3), number, np.float32), TensorSpec((3, 3))
        )
        return str(region(match))  # fmt: skip

    assert add(1.0) == add(1.0) != add(2.0)
    assert "constant float32[3, 3] checksum " in add(1.0)


def test_a_region_of_nodes() -> None:
    big = np.arange(3, dtype=np.float32)
    graph = oy.trace(lambda a, b: oy.exp(oy.add(a, b) * big), SPEC, SPEC)
    product, last = graph.nodes[1:]
    found = Region.of([product, last], [product.inputs[0], None], last.outputs)
    assert found.inputs == (SPEC, None) and found.outputs == (SPEC,) and not found.is_tuple
    assert found.input_names == ("input_0", "input_1") and len(found.graph.check().nodes) == 2
    assert len(found.graph.constants) == 1
    with pytest.raises(
        GraphError, match="a region with node 'exp' needs 'multiply' among its inputs, or the node"
    ):
        Region.of([last], [], last.outputs)
    twice = Region.of(
        [graph.nodes[0]], [graph.inputs["a"], graph.inputs["b"], graph.inputs["a"]], graph.nodes[0].outputs
    )
    assert twice.inputs == (SPEC,) * 3  # fmt: skip


def test_kernels_take_regions() -> None:
    (match,) = matches(
        lambda x, w: oy.relu(oy.matmul(x, w)), lambda a, b: oy.relu(a @ b), SPEC, TensorSpec((3, 2))
    )
    device = HostDevice("toy:0")

    def prepare(work: Region, device: oy.Device) -> Callable[..., Any]:
        matmul, relu = work.graph.nodes
        assert (matmul.op, relu.op) == (oy.matmul.op, oy.relu.op)
        return lambda x, w: np.maximum(x @ w, 0)

    def made(**facts: Any) -> Kernel:
        return Kernel("", "toy", "fused", prepare=prepare, pattern=lambda x, w: x, **facts)

    assert made(dtypes={"w": ("float32",)}, ranks=(2, 2)).refusal(match.work, device) is None
    assert made(dtypes={"w": ("int8",)}).refusal(match.work, device) == "takes w of int8, not float32"
    assert made(dtypes=("float64",)).refusal(match.work, device) == "takes x of float64, not float32"
    assert made(ranks=(3, 4)).refusal(match.work, device) == "takes rank 3 to 4, the input has rank 2"
    refused = made(accepts=lambda work, device: f"not {work.graph.nodes[1].op.name}")
    assert refused.refusal(match.work, device) == "not relu"
    x, w = np.ones((2, 3), np.float32), np.full((3, 2), -1, np.float32)
    np.testing.assert_array_equal(made().bind(match.work, device)(x, w), np.zeros((2, 2)))


# Random graphs ---------------------------------------------------------------------------------------------------

PATTERNS: list[Function] = [
    lambda x: oy.relu(oy.exp(x)),
    lambda x, y: oy.exp(x) * y + 0.5,
    lambda x, y: oy.sin(x * y + y),
    lambda x, y: (lambda m: (m + x, oy.sin(m)))(oy.maximum(x, y)),
    lambda x, y: oy.where(oy.less(x, y), x - y, y - x),
]
FILLER: list[Function] = [oy.add, oy.multiply, oy.subtract, lambda a, b: oy.cos(a), oy.minimum]


@given(
    st.integers(0, len(PATTERNS) - 1),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99), st.integers(0, 99)), min_size=3, max_size=25),
)
@settings(max_examples=60, deadline=None)
def test_planted_patterns_are_found_and_compute_the_same(
    which: int, program: list[tuple[int, int, int]]
) -> None:
    function, planted = PATTERNS[which], 0
    graph = oy.Graph()
    known: list[Any] = [graph.input(name, SPEC) for name in "ab"]
    arity = function.__code__.co_argcount
    safe = list(known)
    for kind, left, right in program:
        if kind < len(FILLER):
            safe.append(FILLER[kind](safe[left % len(safe)], safe[right % len(safe)]))
        else:
            made = function(*(safe[n % len(safe)] for n in (left, right)[:arity]))
            safe += made if isinstance(made, tuple) else [made]
            planted += 1
    for number, value in enumerate(safe):  # nothing inside a planted pattern is among these
        graph.output(f"output_{number}", value)
    found = list(find_matches(pattern(function), graph))
    assert len(found) >= planted
    assert len({match.nodes for match in found}) == len(found)
    rng = np.random.default_rng(len(program))
    everything = values(graph, *(rng.uniform(-1, 1, (2, 3)).astype(np.float32) for _ in "ab"))
    for match in found:
        assert_equals_graph(match, everything)
        assert list(match.nodes) == sorted(match.nodes, key=graph.nodes.index)
    for node in graph.nodes:  # the mutant in which everything escapes
        graph.output(f"{node.name}_too", node.outputs[0])
    assert list(find_matches(pattern(function), graph)) == []


def test_a_large_graph_and_a_pattern_with_many_orders() -> None:
    graph = oy.Graph()
    value = x = graph.input("x", SPEC)
    for _ in range(1000):
        value = oy.relu(x + oy.exp(value) * 2.0)
    graph.output("y", value)
    index = Index(graph)
    assert len(list(find_matches(pattern(lambda a, b: oy.relu(oy.exp(a) * 2 + b)), index))) == 1000
    assert len(list(find_matches(pattern(lambda a, b, c, d: a + b + c + d), index))) == 0
