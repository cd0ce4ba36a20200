"""Copies of arrays whose axes lie in another order. See opyard_cpu.jit.transposes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opyard as oy
from opyard.spec import as_dtype
from opyard_cpu.jit import machine, transposes

pytestmark = pytest.mark.skipif(machine.missing() is not None, reason=str(machine.missing()))

DTYPES = ("float32", "int8", "bool", "bfloat16", "uint16", "float64")


def numbered(shape: tuple[int, ...], dtype: str) -> Any:
    return (np.arange(math.prod(shape)) % 251).reshape(shape).astype(as_dtype(dtype))


def agree(array: Any) -> None:
    copy = transposes.dense_copy(array)
    assert copy.flags.c_contiguous
    assert copy.dtype == array.dtype
    np.testing.assert_array_equal(copy, np.array(array, order="C"))


@pytest.fixture(autouse=True)
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transposes, "LEAST", 1)
    monkeypatch.setattr(transposes, "THREAD_BYTES", 1 << 14)


@settings(max_examples=80, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(DTYPES))
def test_any_order_of_axes_and_any_slices(data: Any, dtype: str) -> None:
    shape = data.draw(st.lists(st.sampled_from([1, 2, 3, 16, 17, 40]), min_size=1, max_size=4))
    begins, steps = (
        data.draw(st.tuples(*[st.sampled_from(few)] * len(shape))) for few in ((0, 0, 1), (1, 1, 2, -1))
    )
    base = numbered(
        tuple((n + begin) * abs(step) for n, begin, step in zip(shape, begins, steps, strict=True)), dtype
    )
    array = base[tuple(slice(begin * abs(step), None) for begin, step in zip(begins, steps, strict=True))]
    array = array[tuple(slice(None, None, step) for step in steps)]
    agree(array.transpose(data.draw(st.permutations(range(len(shape))))))


@pytest.mark.parametrize("count", ["1", "2"])
@pytest.mark.parametrize(
    ("shape", "order", "axes"),
    [((200, 333), (1, 0), 0), ((3, 65, 7, 19), (0, 2, 3, 1), 1), ((3, 65, 4, 19), (2, 0, 3, 1), 2)],
)
def test_threads_and_outer_axes(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], order: tuple[int, ...], axes: int, count: str
) -> None:
    monkeypatch.setenv("OPYARD_NUM_THREADS", count)
    array = numbered(shape, "float32").transpose(order)
    found = transposes._matrices(array.shape, array.strides, 4)
    assert found is not None
    assert len(found) == 1 + axes
    agree(array)


def test_what_is_left_to_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    long = numbered((64, 64), "float32")
    for array in (
        long[::-1].T,
        np.broadcast_to(long[0], (64, 64)),
        long[:, :3].T,
        long.reshape(8, 8, 64).transpose(1, 0, 2),
    ):
        assert transposes._matrices(array.shape, array.strides, 4) is None
        agree(array)
    monkeypatch.setattr(transposes, "missing", lambda: "llvmlite is not installed")
    agree(long.T)
    skewed = np.empty(long.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(long.shape)
    skewed[...] = long
    agree(skewed.T)
    np.testing.assert_array_equal(transposes.dense_copy([1.0, 2.0]), [1.0, 2.0])


def test_compiled_loops_take_transposed_arrays() -> None:
    x = np.random.default_rng(0).standard_normal((300, 400)).astype(np.float32)
    graph = oy.trace(lambda v: oy.softmax(v * 2.0), oy.TensorSpec((400, 300)))
    with oy.using(prefer=("cpu/jit",)):
        found = oy.Session(graph, devices=["cpu:0"]).run(
            next(iter(graph.outputs)), {next(iter(graph.inputs)): x.T}
        )
    weights = np.exp(2 * x.T - (2 * x.T).max(axis=-1, keepdims=True))
    np.testing.assert_allclose(found, weights / weights.sum(axis=-1, keepdims=True), rtol=1e-5, atol=1e-6)
