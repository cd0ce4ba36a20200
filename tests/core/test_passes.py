"""Passes leave the meaning of every output as it was, and do what they are for."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opyard as oy
from opyard.passes import fold, merge_linear, merge_movement, share_parts, skip_trivial
from opyard.spec import TensorSpec

SPEC = TensorSpec((2, 3))
PASSES: dict[str, Callable[[oy.Graph], oy.Graph]] = {
    "prune": oy.prune,
    "eliminate_common": oy.eliminate_common,
    "fold_constants": oy.fold_constants,
    "decompose": lambda graph: oy.decompose(graph, lambda call: False),
    "skip_trivial": skip_trivial,
    "merge_movement": merge_movement,
    "share_parts": share_parts,
    "merge_linear": merge_linear,
    "simplify": oy.simplify,
}

STEPS: tuple[Callable[[Any, Any], Any], ...] = (
    lambda a, b: oy.add(a, b),
    lambda a, b: oy.multiply(a, b),
    lambda a, b: oy.subtract(a, 0.5),
    lambda a, b: oy.where(oy.less(a, b), a, b),
    lambda a, b: oy.clip(a, None, b),
    lambda a, b: oy.softmax(a, axis=-1),
    lambda a, b: oy.sigmoid(a) + oy.sum(b, axis=0, keepdims=True),
    lambda a, b: oy.concat(*oy.split(a, sections=2, axis=0), axis=0),
    lambda a, b: oy.permute_dims(oy.permute_dims(a, axes=(1, 0)), axes=(1, 0)),
)

programs = st.lists(
    st.tuples(st.integers(0, len(STEPS) - 1), st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=8
)


def build(program: list[tuple[int, int, int]], outputs: list[int]) -> oy.Graph:
    """Each step takes two of the values so far: two inputs, two constants and the results of earlier steps."""
    with oy.Graph() as graph:
        values = [graph.input("x", SPEC), graph.input("y", SPEC)]
        values += [graph.constant(np.full((2, 3), v, np.float32)) for v in (0.25, -1.5)]
        for step, left, right in program:
            values.append(STEPS[step](values[left % len(values)], values[right % len(values)]))
        for number, index in enumerate(outputs):
            graph.output(f"output_{number}", values[index % len(values)])
    return graph


def evaluate(graph: oy.Graph, **feeds: Any) -> dict[str, np.ndarray[Any, Any]]:
    """The outputs, computed node by node with the references."""
    known = {graph.inputs[name]: array for name, array in feeds.items()} | graph.constants
    for node in graph.nodes:
        arrays = (None if value is None else known[value] for value in node.inputs)
        known.update(zip(node.outputs, node.call.reference(*arrays), strict=True))
    return {name: known[value] for name, value in graph.outputs.items()}


def op_names(graph: oy.Graph) -> list[str]:
    return [node.op.name for node in graph.nodes]


@pytest.mark.parametrize("name", PASSES)
@settings(max_examples=25, deadline=None)
@given(program=programs, outputs=st.lists(st.integers(0, 99), min_size=1, max_size=3), seed=st.integers(0, 9))
def test_meaning_is_kept(
    name: str, program: list[tuple[int, int, int]], outputs: list[int], seed: int
) -> None:
    graph = build(program, outputs)
    text = str(graph)
    changed = PASSES[name](graph).check()
    assert str(graph) == text, "the old graph is not touched"
    assert [v.spec for v in changed.inputs.values()] == [SPEC, SPEC]
    generator = np.random.default_rng(seed)
    feeds = {key: generator.uniform(-1, 1, (2, 3)).astype(np.float32) for key in ("x", "y")}
    expected, found = evaluate(graph, **feeds), evaluate(changed, **feeds)
    assert list(found) == list(expected)
    for key, array in expected.items():
        assert found[key].dtype == array.dtype
        np.testing.assert_allclose(found[key], array, rtol=2e-5, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(programs, st.integers(0, 99))
def test_simplifying_twice_changes_nothing_more(program: list[tuple[int, int, int]], output: int) -> None:
    once = oy.simplify(build(program, [output]))
    twice = oy.simplify(once)
    assert op_names(twice) == op_names(once)
    assert len(twice.constants) == len(once.constants)


def test_simplify_merges_what_folding_made_equal() -> None:
    graph = oy.trace(lambda x: oy.exp(x + oy.sqrt(x.graph.constant(np.float32(4)))) * oy.exp(x + 2), SPEC)
    assert op_names(oy.simplify(graph)) == ["add", "exp", "multiply"]


def test_simplify_keeps_one_of_two_equal_large_results() -> None:
    graph = oy.Graph()
    large = graph.constant(np.zeros(2000, np.float32))
    graph.output("y", oy.exp(large) + graph.input("x", SPEC.with_shape((1,))) + oy.exp(large))
    assert len(oy.simplify(graph).constants) == 1


# Prune ---------------------------------------------------------------------------------------------------------------


def test_prune_leaves_out_what_no_output_needs() -> None:
    graph = oy.trace(lambda x, y: (oy.exp(x), oy.sin(y) + np.ones(3, np.float32))[0], SPEC, SPEC)
    pruned = oy.prune(graph)
    assert op_names(pruned) == ["exp"]
    assert not pruned.constants
    assert list(pruned.inputs) == ["x", "y"], "inputs are the interface of the graph"


def test_prune_keeps_a_node_of_which_one_output_is_needed() -> None:
    graph = oy.trace(lambda x: oy.split(x, sections=2, axis=0)[1], SPEC)
    pruned = oy.prune(graph)
    assert op_names(pruned) == ["split"]
    assert pruned.outputs["output_0"].index == 1


def test_prune_of_a_long_chain_does_not_recurse() -> None:
    def chain(x: Any) -> Any:
        for _ in range(2000):
            x = oy.negative(x)
        return x

    assert len(oy.prune(oy.trace(chain, SPEC)).nodes) == 2000


# Common subexpressions -----------------------------------------------------------------------------------------------


def test_equal_calls_are_merged_down_the_chain() -> None:
    graph = oy.trace(lambda x: oy.exp(oy.sin(x)) + oy.exp(oy.sin(x)), SPEC)
    assert op_names(oy.eliminate_common(graph)) == ["sin", "exp", "add"]


def test_calls_of_several_outputs_are_merged() -> None:
    def function(x: Any) -> Any:
        first, second = oy.split(x, sections=2, axis=0), oy.split(x, sections=2, axis=0)
        return first[0] + second[1]

    merged = oy.eliminate_common(oy.trace(function, SPEC))
    assert op_names(merged) == ["split", "add"]
    assert [value.index for value in merged.nodes[1].inputs if value is not None] == [0, 1]


def test_other_attributes_and_other_inputs_are_other_calls() -> None:
    graph = oy.trace(
        lambda x, y: (oy.sum(x, axis=0), oy.sum(x, axis=1), oy.subtract(x, y), oy.subtract(y, x)), SPEC, SPEC
    )
    assert len(oy.eliminate_common(graph).nodes) == 4


def test_equal_attributes_of_other_types_are_other_calls() -> None:
    @oy.op("test.shifted", infer=lambda x, *, by: x)
    def shifted(x: Any, *, by: Any) -> Any:
        return x + by

    graph = oy.trace(lambda x: [shifted(x, by=by) for by in (1, 1.0, True, 1)], SPEC)
    assert len(oy.eliminate_common(graph).nodes) == 3


def test_small_constants_are_merged_by_contents() -> None:
    graph = oy.trace(lambda x: (x + 1) * (x + 1) + np.float32(2) + np.float32(2), SPEC)
    merged = oy.eliminate_common(graph)
    assert op_names(merged) == ["add", "multiply", "add", "add"]
    assert len(merged.constants) == 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.float32(0.0), np.float32(-0.0)),
        (np.array([0], np.float32), np.array([0], np.int32)),
        (np.array([0], np.float32), np.array([[0]], np.float32)),
        (np.zeros(2000, np.float32), np.zeros(2000, np.float32)),
    ],
    ids=["sign", "dtype", "shape", "large"],
)
def test_other_constants_stay_apart(one: Any, other: Any) -> None:
    graph = oy.Graph()
    for number, array in enumerate((one, other)):
        graph.output(f"y{number}", graph.constant(array))
    assert len(oy.eliminate_common(graph).constants) == 2


# Constant folding ----------------------------------------------------------------------------------------------------


def test_constant_calls_are_computed() -> None:
    weights = np.array([[1, 2], [3, 4]], np.float32)

    def function(x: Any) -> Any:
        return oy.matmul(x, oy.permute_dims(oy.exp(x.graph.constant(weights)), axes=(1, 0)))

    folded = oy.prune(oy.fold_constants(oy.trace(function, SPEC.with_shape((1, 2)))))
    assert op_names(folded) == ["matmul"]
    (constant,) = folded.constants.values()
    np.testing.assert_allclose(constant, np.exp(weights).T, rtol=1e-6)


def test_every_output_of_a_constant_call_is_folded() -> None:
    def function(x: Any) -> Any:
        first, second = oy.split(oy.exp(x.graph.constant(np.zeros((2, 3), np.float32))), sections=2, axis=0)
        return first - second + x

    assert op_names(oy.fold_constants(oy.trace(function, SPEC))) == ["add"]


def test_a_constant_output_is_folded() -> None:
    def function(x: Any) -> Any:
        return oy.sqrt(x.graph.constant(np.float32(16)))

    folded = oy.fold_constants(oy.trace(function, SPEC))
    assert not folded.nodes
    assert folded.constants[folded.outputs["output_0"]] == 4


def test_optional_inputs_left_out_do_not_hinder() -> None:
    graph = oy.Graph()
    graph.output("y", oy.clip(graph.constant(np.array([1, 5], np.float32)), None, 2.0))
    folded = oy.fold_constants(graph)
    np.testing.assert_array_equal(folded.constants[folded.outputs["y"]], [1, 2])


def test_what_is_too_large_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = oy.Graph()
    graph.output("y", oy.exp(graph.constant(np.zeros(8, np.float32))))
    monkeypatch.setattr(fold, "LIMIT", 31)
    assert op_names(oy.fold_constants(graph)) == ["exp"]
    monkeypatch.setattr(fold, "LIMIT", 32)
    assert op_names(oy.fold_constants(graph)) == []


def test_what_raises_stays_to_raise_when_it_runs() -> None:
    @oy.op("test.broken", infer=lambda x: x)
    def broken(x: Any) -> Any:
        raise RuntimeError("broken")

    graph = oy.Graph()
    graph.output("y", oy.exp(broken(graph.constant(np.zeros(8, np.float32)))))
    folded = oy.fold_constants(graph)
    assert op_names(folded) == ["test.broken", "exp"]
    assert folded.nodes[0].source == graph.nodes[0].source


def test_sizes_that_depend_on_data_stay() -> None:
    @oy.op("test.kept", infer=lambda x: x.with_shape(("kept",)))
    def kept(x: Any) -> Any:
        return x[x > 0]

    graph = oy.Graph()
    graph.output("y", kept(graph.constant(np.array([0, 1, 2]))))
    assert op_names(oy.fold_constants(graph)) == ["test.kept"]


# Trivial calls -------------------------------------------------------------------------------------------------------

SPECIAL = np.array([[0.0, -0.0, np.inf], [-np.inf, np.nan, 1e-45]], np.float32)


def bits(array: Any) -> list[str]:
    """Numbers to the bit, all NaN alike."""
    return [number.hex() for number in np.asarray(array, np.float64).reshape(-1).tolist()]


@pytest.mark.parametrize(
    "call",
    [
        lambda x: oy.identity(x),
        lambda x: oy.positive(x),
        lambda x: oy.cast(x, dtype="float32"),
        lambda x: oy.reshape(x, shape=(2, -1)),
        lambda x: oy.flatten(x),
        lambda x: oy.broadcast_to(x, shape=(2, 3)),
        lambda x: oy.permute_dims(x, axes=(0, 1)),
        lambda x: oy.where(x > 0, x, x),
        lambda x: 1.0 * (x * 1.0),
        lambda x: x / np.ones((2, 3), np.float32),
        lambda x: x**1.0,
        lambda x: x - 0.0,
        lambda x: -0.0 + (x + -0.0),
    ],
)
def test_trivial_calls_give_way_to_their_input(call: Callable[[Any], Any]) -> None:
    graph = oy.trace(call, SPEC)
    skipped = oy.prune(skip_trivial(graph)).check()
    assert op_names(skipped) == []
    assert bits(evaluate(skipped, x=SPECIAL)["output_0"]) == bits(evaluate(graph, x=SPECIAL)["output_0"])


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x + 0.0,  # makes 0.0 of -0.0
        lambda x: x - -0.0,
        lambda x: 0.0 - x,
        lambda x: 1.0 / x,
        lambda x: x * -1.0,
        lambda x: x * np.array([1, 1, 2], np.float32),
        lambda x: x - np.array([0, 0, -0.0], np.float32),
        lambda x: x * np.ones((4, 1, 1), np.float32),
        lambda x: x * np.ones((2, 3), np.float64),
        lambda x: oy.cast(x, dtype="float64"),
        lambda x: oy.reshape(x, shape=(3, 2)),
        lambda x: oy.flatten(x, axis=0),
    ],
)
def test_calls_that_change_something_stay(call: Callable[[Any], Any]) -> None:
    graph = oy.trace(call, SPEC)
    assert op_names(skip_trivial(graph)) == op_names(graph)


def test_a_permutation_of_equal_sizes_stays() -> None:
    graph = oy.trace(lambda x: oy.permute_dims(x, axes=(1, 0)), TensorSpec((3, 3)))
    assert op_names(skip_trivial(graph)) == ["permute_dims"]


def test_complex_numbers_times_one_stay() -> None:
    graph = oy.trace(lambda x: x * 1.0, TensorSpec((2,), "complex64"))
    assert op_names(skip_trivial(graph)) == ["multiply"], "infinity times 1 + 0i has a NaN in it"


def test_an_identity_that_is_pinned_stays() -> None:
    def function(x: Any) -> Any:
        with oy.device("cpu:0"):
            return oy.identity(x) * 1.0

    assert op_names(skip_trivial(oy.trace(function, SPEC))) == ["identity"]


def test_trivial_calls_of_symbolic_sizes_give_way() -> None:
    graph = oy.trace(lambda x: oy.reshape(oy.cast(x, dtype="float32"), shape=x.shape), TensorSpec(("n", 3)))
    assert op_names(skip_trivial(graph)) == []


# Movement ------------------------------------------------------------------------------------------------------------

SHAPE = (2, 3, 1, 4)


def moved(x: Any, moves: list[tuple[int, int]]) -> Any:
    """The value after some reshapes and permutations, drawn as numbers."""
    for kind, number in moves:
        if kind == 0:
            orders = list(itertools.permutations(range(x.ndim)))
            x = oy.permute_dims(x, axes=orders[number % len(orders)])
        elif kind == 1:
            shapes = [(24,), (6, 4), (4, 6), (2, 3, 4), (2, 12), (1, 24), (2, 3, 2, 2), SHAPE, (8, 1, 3)]
            x = oy.reshape(x, shape=shapes[number % len(shapes)])
        elif kind == 2 and x.ndim < 5:
            x = oy.expand_dims(x, axis=number % (x.ndim + 1))
        elif kind == 3:
            x = oy.squeeze(x, axis=tuple(a for a in range(x.ndim) if x.shape[a] == 1))
        elif x.ndim > 1:
            x = oy.matrix_transpose(x) if number % 2 else oy.flatten(x, axis=number % x.ndim)
    return x


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 119)), max_size=8))
def test_chains_of_movement_move_the_same(moves: list[tuple[int, int]]) -> None:
    graph = oy.trace(lambda x: moved(x, moves), TensorSpec(SHAPE, "int64"))
    merged = oy.prune(merge_movement(graph)).check()
    x = np.arange(24).reshape(SHAPE)
    expected = evaluate(graph, x=x)["output_0"]
    np.testing.assert_array_equal(evaluate(merged, x=x)["output_0"], expected)
    assert len(merged.nodes) <= len(oy.prune(graph).nodes)
    assert op_names(oy.prune(merge_movement(merged))) == op_names(merged)


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda x: oy.matrix_transpose(oy.matrix_transpose(x)), []),
        (lambda x: oy.matrix_transpose(x), ["matrix_transpose"]),
        (lambda x: oy.permute_dims(oy.reshape(x, shape=(3, 1, 2)), axes=(0, 2, 1)), ["reshape"]),
        (
            lambda x: oy.reshape(oy.matrix_transpose(oy.reshape(x, shape=(2, 3))), shape=(3, 2)),
            ["permute_dims"],
        ),
        (lambda x: oy.reshape(oy.matrix_transpose(x), shape=(6,)), ["matrix_transpose", "reshape"]),
    ],
)
def test_what_remains_of_movement(call: Callable[[Any], Any], names: list[str]) -> None:
    assert op_names(oy.prune(merge_movement(oy.trace(call, SPEC)))) == names


@pytest.mark.parametrize("sizes", [("n", 3), (0, 3)])
def test_movement_of_unknown_or_no_elements_stays(sizes: tuple[Any, ...]) -> None:
    graph = oy.trace(lambda x: oy.matrix_transpose(oy.matrix_transpose(x)), TensorSpec(sizes))
    assert len(merge_movement(graph).nodes) == 2


# Shared parts --------------------------------------------------------------------------------------------------------

KEY = TensorSpec((2,), "uint32")


def dropped_twice(x: Any, y: Any, key: Any) -> Any:
    return oy.dropout(x, key, rate=0.25), oy.dropout(y, key, rate=0.25)


def test_the_mask_of_two_dropouts_is_made_once() -> None:
    spec = TensorSpec((32, 32))
    graph = oy.trace(dropped_twice, spec, spec, KEY)
    shared = oy.simplify(graph).check()
    assert op_names(shared).count("random_bernoulli") == 1
    assert "dropout" not in op_names(shared)
    x, y = np.random.default_rng(0).standard_normal((2, 32, 32)).astype(np.float32)
    feeds = {"x": x, "y": y, "key": np.array([1, 2], np.uint32)}
    expected, found = evaluate(graph, **feeds), evaluate(shared, **feeds)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y, key: oy.dropout(x, key, rate=0.25),
        lambda x, y, key: (oy.dropout(x, key, rate=0.25), oy.dropout(y, key, rate=0.5)),
        lambda x, y, key: (oy.dropout(x, key, rate=0.25), oy.dropout(y[:16], key, rate=0.25)),
        lambda x, y, key: (oy.dropout(x, key), oy.dropout(y, oy.split_key(key)[0])),
        lambda x, y, key: (oy.softmax(x, axis=-1), oy.log_softmax(x, axis=-1)),
    ],
    ids=["alone", "other rate", "other shape", "other key", "large inputs"],
)
def test_composites_without_such_a_part_stay_whole(function: Callable[..., Any]) -> None:
    graph = oy.trace(function, TensorSpec((32, 32)), TensorSpec((32, 32)), KEY)
    assert share_parts(graph) is graph


def test_a_small_mask_is_made_again() -> None:
    graph = oy.trace(dropped_twice, SPEC, SPEC, KEY)
    assert share_parts(graph) is graph


def test_under_checkpoint_the_mask_is_made_again() -> None:
    spec = TensorSpec((32, 32))

    def loss(x: Any, key: Any) -> Any:
        return oy.sum(oy.checkpoint(lambda v: oy.sin(oy.dropout(v, key, rate=0.25)))(x))

    graph = oy.trace(lambda x, key: oy.grad(loss)(x, key), spec, KEY)
    assert op_names(oy.simplify(graph)).count("dropout") > 0


# Dense layers --------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(st.integers(0, 4), max_size=2),
    sizes=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    dtype=st.sampled_from(["float32", "float64", "float16", "bfloat16", "int32"]),
    first=st.booleans(),
    seed=st.integers(0, 9),
)
def test_a_dense_layer_is_linear_to_the_bit(
    rows: list[int], sizes: tuple[int, int], dtype: str, first: bool, seed: int
) -> None:
    shapes = ((*rows, sizes[0]), sizes, sizes[1:])

    def layer(x: Any, weight: Any, bias: Any) -> Any:
        product = oy.matmul(x, weight)
        return oy.add(bias, product) if first else oy.add(product, bias)

    graph = oy.trace(layer, *(TensorSpec(shape, dtype) for shape in shapes))
    merged = oy.simplify(graph).check()
    assert op_names(merged) == (["linear"] if dtype in ("float32", "float64") else ["matmul", "add"])
    assert op_names(oy.simplify(merged)) == op_names(merged)
    generator = np.random.default_rng(seed)
    arrays = [generator.uniform(-9, 9, shape).astype(TensorSpec((), dtype).dtype) for shape in shapes]
    feeds = dict(zip(graph.inputs, arrays, strict=True))
    expected, found = evaluate(graph, **feeds)["output_0"], evaluate(merged, **feeds)["output_0"]
    assert (expected.dtype, expected.tobytes()) == (found.dtype, found.tobytes())


def read_twice(x: Any, w: Any, b: Any) -> Any:
    product = oy.matmul(x, w)
    return oy.add(product, b), oy.exp(product)


def in_two_scopes(x: Any, w: Any, b: Any) -> Any:
    with oy.device("cpu:0"):
        product = oy.matmul(x, w)
    return oy.add(product, b)


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (read_twice, ((2, 3), (3, 4), (4,))),
        (in_two_scopes, ((2, 3), (3, 4), (4,))),
        (lambda x, w, b: oy.add(oy.matmul(x, w), b), ((2, 3), (3, 4), (2, 4))),
        (lambda x, w, b: oy.add(oy.matmul(x, w), b), ((2, 3), (2, 3, 4), (4,))),
        (lambda x, w, b: oy.add(oy.matmul(x, w), b), ((2, 3), (3, 1), (4,))),
        (lambda x, w, b: oy.add(oy.matmul(w, x), b), ((3,), (2, 3), (2,))),
    ],
    ids=["read twice", "two scopes", "no vector", "stack", "widened", "column"],
)
def test_other_products_stay(function: Callable[..., Any], shapes: tuple[tuple[int, ...], ...]) -> None:
    graph = oy.trace(function, *(TensorSpec(shape) for shape in shapes))
    assert "linear" not in op_names(merge_linear(graph))


# Decompose -----------------------------------------------------------------------------------------------------------


@oy.op("test.inner", infer=lambda x: x, decompose=lambda x: oy.multiply(x, x))
def inner(x: Any) -> Any: ...


@oy.op("test.outer", infer=lambda x: (x, x), decompose=lambda x: (inner(x), np.zeros(x.shape, x.dtype)))
def outer(x: Any) -> Any: ...


def test_composites_are_expanded_again_and_again() -> None:
    graph = oy.trace(lambda x: [oy.exp(y) for y in outer(x)], SPEC)
    expanded = oy.decompose(graph, lambda call: False)
    assert op_names(expanded) == ["multiply", "exp", "exp"]
    assert len(expanded.constants) == 1
    assert {node.source for node in expanded.nodes} == {node.source for node in graph.nodes}


def test_what_is_kept_stays_whole() -> None:
    graph = oy.trace(lambda x: [oy.exp(y) for y in outer(x)], SPEC)
    assert oy.decompose(graph, lambda call: True) is graph
    kept = oy.decompose(graph, lambda call: call.op is inner.op)
    assert op_names(kept) == ["test.inner", "exp", "exp"]


def test_keep_sees_each_call() -> None:
    graph = oy.trace(lambda x, y: (inner(x), inner(y)), SPEC, SPEC.with_shape((1,)))
    kept = oy.decompose(graph, lambda call: call.inputs[0] == SPEC)
    assert op_names(kept) == ["test.inner", "multiply"]


def test_keep_is_not_asked_about_primitives() -> None:
    def keep(call: oy.Call) -> bool:
        assert call.op.decompose is not None
        return False

    oy.decompose(oy.trace(lambda x: oy.softmax(oy.exp(x), axis=-1), SPEC), keep)


def test_symbolic_sizes_survive() -> None:
    graph = oy.trace(lambda x: oy.softmax(x, axis=-1), TensorSpec(("batch", 4)))
    expanded = oy.simplify(oy.decompose(graph, lambda call: False))
    assert expanded.check().outputs["output_0"].spec == TensorSpec(("batch", 4))
