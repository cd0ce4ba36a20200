"""Reading and writing by position: against plain loops, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from opyard.dim import Dim
from opyard.errors import SpecError
from opyard.ops import indexing as i
from opyard.ops.scattering import scatter, scatter_nd
from opyard.spec import TensorSpec, as_dtype

BATCH = Dim.symbol("batch")
X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def run(function: Any, *arrays: Any, **attributes: Any) -> Any:
    call = function.op.call(*map(TensorSpec.of, arrays), **attributes)
    (result,) = call.reference(*arrays)
    assert TensorSpec.of(result) == call.output
    return result


def shape_of(function: Any, *specs: TensorSpec, **attributes: Any) -> Any:
    return function.op.call(*specs, **attributes).output.shape


def refuses(text: str, function: Any, *specs: TensorSpec, **attributes: Any) -> None:
    with pytest.raises(SpecError) as caught:
        function.op.call(*specs, **attributes)
    assert text in str(caught.value)


def spec(*shape: Any, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(shape, dtype)


def at(*shape: Any) -> TensorSpec:
    """The spec of indices."""
    return TensorSpec(shape, "int64")


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather(axis: int) -> None:
    indices = np.array([[0, -1], [1, -2]])
    np.testing.assert_array_equal(run(i.gather, X, indices, axis=axis), np.take(X, indices, axis=axis))


def test_gather_edges() -> None:
    assert run(i.gather, X, np.int64(1)).shape == (3, 4)
    assert run(i.gather, X, np.array([], np.int32), axis=1).shape == (2, 0, 4)
    np.testing.assert_array_equal(run(i.gather, X[::-1].T, np.array([3], np.uint64)), X[::-1].T[[3]])
    for index in (2, -3):
        with pytest.raises(IndexError, match="out of bounds"):
            run(i.gather, X, np.array([index]))
    assert shape_of(i.gather, spec("batch", 5), at(3)) == (3, 5)
    assert shape_of(i.gather, spec(7, 5), at("batch", 2)) == (BATCH, 2, 5)
    refuses("the indices must be integer, it is float32[2]", i.gather, spec(3), spec(2))
    refuses("axis=1 is out of range", i.gather, spec(3), at(2), axis=1)


def test_gather_nd() -> None:
    indices = np.array([[[0, 1], [1, -1]], [[1, 0], [-2, 2]]])
    expected = np.stack([np.stack([X[tuple(pair)] for pair in row]) for row in indices])
    np.testing.assert_array_equal(run(i.gather_nd, X, indices), expected)
    np.testing.assert_array_equal(run(i.gather_nd, X, np.array([1, 2, 3])), X[1, 2, 3])
    batched = run(i.gather_nd, X, indices[..., :1], batch_dims=1)
    np.testing.assert_array_equal(batched, np.stack([X[b][indices[b, :, 0]] for b in range(2)]))
    two = np.array([[[1], [2], [3]], [[0], [0], [-1]]])
    np.testing.assert_array_equal(run(i.gather_nd, X, two, batch_dims=2), [[1, 6, 11], [12, 16, 23]])
    with pytest.raises(IndexError, match="out of bounds"):
        run(i.gather_nd, X, np.array([[0, 3]]))
    assert shape_of(i.gather_nd, spec("batch", 4, 5), at("batch", 7, 1), batch_dims=1) == (BATCH, 7, 5)


def test_gather_nd_refuses() -> None:
    refuses("batch_dims=1 leaves nothing to index", i.gather_nd, spec(3), at(3, 1), batch_dims=1)
    refuses(
        "is the length of an index: from 1 to 2 for float32[2, 3] with batch_dims=0",
        i.gather_nd,
        spec(2, 3),
        at(5, 3),
    )
    refuses("is the length of an index: from 1 to 2", i.gather_nd, spec(2, 3), at(5, 0))
    refuses(
        "the first 1 sizes of float32[2, 3] and int64[1, 1] must be equal",
        i.gather_nd,
        spec(2, 3),
        at(1, 1),
        batch_dims=1,
    )
    refuses("the indices have no last axis", i.gather_nd, spec(2, 3), at())
    refuses(
        "int64[2, batch], is the length of an index and must be a number",
        i.gather_nd,
        spec(2, 3),
        at(2, "batch"),
    )
    refuses("the indices must be integer", i.gather_nd, spec(2, 3), spec(2, 1))
    refuses("batch_dims is at least 0; found -1", i.gather_nd, spec(2, 3), at(2, 1), batch_dims=-1)


OPERATIONS: dict[str, Any] = {
    "none": lambda old, new: new,
    "add": lambda old, new: old + new,
    "mul": lambda old, new: old * new,
    "max": max,
    "min": min,
}


@pytest.mark.parametrize("reduction", OPERATIONS)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_scatter_by_loops(reduction: str, axis: int) -> None:
    generator = np.random.default_rng(3)
    shape = {0: (5, 2, 3), 1: (2, 5, 3), -1: (2, 2, 5)}[axis]
    indices = generator.integers(-2, 2, shape)
    if reduction == "none":  # no index twice
        indices = np.moveaxis(np.moveaxis(indices, axis, 0)[:1], 0, axis)
    updates = generator.integers(-4, 4, indices.shape).astype(np.float32)
    expected = X.copy()
    for place in np.ndindex(*indices.shape):
        target = list(place)
        target[axis] = indices[place]
        expected[tuple(target)] = OPERATIONS[reduction](expected[tuple(target)], updates[place])
    before = X.copy()
    np.testing.assert_array_equal(run(scatter, X, indices, updates, axis=axis, reduction=reduction), expected)
    np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize("reduction", OPERATIONS)
@pytest.mark.parametrize("length", [1, 2, 3])
def test_scatter_nd_by_loops(reduction: str, length: int) -> None:
    generator = np.random.default_rng(4)
    indices = generator.integers(-2, 2, (1 if reduction == "none" else 6, length))
    updates = generator.integers(-4, 4, (len(indices), *X.shape[length:])).astype(np.float32)
    expected = X.copy()
    for index, update in zip(indices, updates, strict=True):
        for rest in np.ndindex(*X.shape[length:]):
            target = (*index, *rest)
            expected[target] = OPERATIONS[reduction](expected[target], update[rest])
    np.testing.assert_array_equal(run(scatter_nd, X, indices, updates, reduction=reduction), expected)


def test_scatter_edges() -> None:
    empty = np.zeros((0, 3, 4), np.int64)
    np.testing.assert_array_equal(run(scatter, X, empty, empty.astype(np.float32)), X)
    np.testing.assert_array_equal(
        run(scatter_nd, X, np.array([1, 0, -1]), np.float32(99))[1, 0], [12, 13, 14, 99]
    )
    counts = run(
        scatter, np.zeros(3, np.int8), np.array([1, 1, 1]), np.full(3, 100, np.int8), reduction="add"
    )
    assert counts.tolist() == [0, 44, 0]  # int8 wraps
    found = run(scatter, np.array([1.0, 2.0]), np.array([0]), np.array([np.nan]), reduction="max")
    assert np.isnan(found[0])
    bfloat16 = as_dtype("bfloat16")
    ones = np.ones(512, bfloat16)
    total = run(scatter, np.zeros(1, bfloat16), np.zeros(512, np.int64), ones, reduction="add")
    assert float(total[0]) == 512  # in bfloat16 itself the sum would stick at 256
    with pytest.raises(IndexError, match="out of bounds"):
        run(scatter, X, np.full((1, 1, 1), 2), np.ones((1, 1, 1), np.float32))


def test_scatter_refuses() -> None:
    refuses("the indices must have the rank of x, 2; they are int64[3]", scatter, spec(2, 3), at(3), spec(3))
    refuses(
        "axis 1 of the indices has 4 elements, more than the 3 of float32[2, 3]",
        scatter,
        spec(2, 3),
        at(9, 4),
        spec(9, 4),
    )
    refuses(
        "the updates must have the shape (2, 3), they are float32[2, 2]",
        scatter,
        spec(2, 3),
        at(2, 3),
        spec(2, 2),
    )
    refuses(
        "the updates are float64, x is float32; cast them", scatter, spec(2), at(2), spec(2, dtype="float64")
    )
    refuses(
        "reduction is one of 'none', 'add', 'mul', 'max', 'min'; found 'sum'",
        scatter,
        spec(2),
        at(2),
        spec(2),
        reduction="sum",
    )
    bools = spec(2, dtype="bool")
    refuses("must be numeric, it is bool[2]", scatter, bools, at(2), bools, reduction="add")
    refuses("must be real, it is bool[2]", scatter, bools, at(2), bools, reduction="max")
    refuses("the indices must be integer", scatter, spec(2), spec(2), spec(2))
    refuses(
        "is the length of an index: from 1 to 2, the rank of float32[2, 3]",
        scatter_nd,
        spec(2, 3),
        at(5, 3),
        spec(5),
    )
    refuses(
        "the updates must have the shape (5, 3), they are float32[5]",
        scatter_nd,
        spec(2, 3),
        at(5, 1),
        spec(5),
    )
    assert shape_of(scatter, spec("batch", 3), at("n", 3), spec("n", 3)) == (BATCH, 3)
    assert shape_of(scatter_nd, spec("batch", 3), at("n", 1), spec("n", 3)) == (BATCH, 3)


def test_take_along_axis() -> None:
    order = np.argsort(-X, axis=1)
    np.testing.assert_array_equal(run(i.take_along_axis, X, order, axis=1), X[:, ::-1])
    last = np.array([[[-1]], [[0]]])
    np.testing.assert_array_equal(run(i.take_along_axis, X, last), np.stack([X[0, :, -1:], X[1, :, :1]]))
    assert shape_of(i.take_along_axis, spec("batch", 3), at("batch", 7)) == (BATCH, 7)
    refuses("the indices must have the rank of x, 2; they are int64[3]", i.take_along_axis, spec(2, 3), at(3))
    refuses("do not broadcast", i.take_along_axis, spec(2, 3), at(4, 3))
    refuses("the indices must be integer", i.take_along_axis, spec(2), spec(2))


@pytest.mark.parametrize("k", [-9, -1, 0, 2, 9])
def test_triangles(k: int) -> None:
    np.testing.assert_array_equal(run(i.tril, X, k=k), np.tril(X, k))
    np.testing.assert_array_equal(run(i.triu, X, k=k), np.triu(X, k))
    nans = np.full((2, 2), np.nan)
    assert run(i.tril, nans)[0, 1] == 0


def test_triangles_refuse() -> None:
    refuses("a matrix has at least two axes, the input is float32[3]", i.tril, spec(3))
    refuses("k is an integer; found 0.5", i.triu, spec(3, 3), k=0.5)
    assert shape_of(i.triu, spec("batch", 3)) == (BATCH, 3)


def test_one_hot() -> None:
    indices = np.array([0, 2, -1, 3, -4])
    expected = [[1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 0, 0], [0, 0, 0]]
    np.testing.assert_array_equal(run(i.one_hot, indices, depth=3), expected)
    np.testing.assert_array_equal(
        run(i.one_hot, indices, depth=3, axis=0, dtype="int8"), np.transpose(expected)
    )
    found = run(i.one_hot, np.array([[1, 255]], np.uint8), depth=2, on_value=5, off_value=-1, axis=1)
    np.testing.assert_array_equal(found, [[[-1, -1], [5, -1]]])
    assert run(i.one_hot, np.int64(1), depth=2).tolist() == [0, 1]
    assert run(i.one_hot, indices, depth=0).shape == (5, 0)
    assert shape_of(i.one_hot, at("batch"), depth=3) == (BATCH, 3)


def test_one_hot_refuses() -> None:
    refuses("depth is at least 0; found -1", i.one_hot, at(2), depth=-1)
    refuses("on_value=300 is no value of dtype uint8", i.one_hot, at(2), depth=3, on_value=300, dtype="uint8")
    refuses(
        "off_value=0.5 is no value of dtype int32", i.one_hot, at(2), depth=3, off_value=0.5, dtype="int32"
    )
    refuses("axis=2 is out of range for a tensor of rank 2", i.one_hot, at(2), depth=3, axis=2)
    refuses("the indices must be integer", i.one_hot, spec(2), depth=3)


def test_embedding() -> None:
    table = X[0]
    np.testing.assert_array_equal(
        run(i.embedding, np.array([[2, 0], [-1, 1]]), table), table[[[2, 0], [-1, 1]]]
    )
    refuses("the table of an embedding is [entries, features], it is float32[3]", i.embedding, at(2), spec(3))
    refuses("the indices must be integer", i.embedding, spec(2), spec(3, 4))
    with pytest.raises(IndexError, match="out of bounds"):
        run(i.embedding, np.array([3]), table)


def test_cost_does_not_count_what_is_not_read() -> None:
    table, indices = spec(1000, 8), at(4)
    assert i.gather.op.call(table, indices).cost.bytes == 4 * 8 * 4 + 4 * 8, "equal indices read one row"
    assert i.embedding.op.call(indices, table).cost.bytes == 4 * 8 * 4 + 4 * 8
    updates = spec(4, 8)
    assert scatter_nd.op.call(table, at(4, 1), updates, reduction="add").cost.flops == 32
