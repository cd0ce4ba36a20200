"""Attention in machine code, alone and in plans. See opyard_cpu.gemm.attention."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opyard as oy
from opyard.operation import Call
from opyard.region import Region
from opyard.spec import TensorSpec
from opyard_cpu.gemm import attention
from opyard_cpu.gemm.attention_source import AttentionSource
from opyard_cpu.jit import machine
from opyard_cpu.jit.launch import KERNEL
from opyard_cpu.onednn import library
from opyard_cpu.onednn.addresses import address

REASON = library.missing() or machine.missing()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

Array = np.ndarray[Any, Any]
GENERATOR = np.random.default_rng(0)
OP = oy.scaled_dot_product_attention.op


def drawn(*shape: int) -> Array:
    return GENERATOR.standard_normal(shape).astype(np.float32)


def device() -> Any:
    return oy.default_registry().device("cpu:0")


def call_of(*arrays: Array | None, **attributes: Any) -> Call:
    return OP.call(*(None if a is None else TensorSpec.of(a) for a in arrays), **attributes)


def check(found: Array, *arrays: Array | None, **attributes: Any) -> None:
    wide = (a if a is None or a.dtype == bool else a.astype(np.float64) for a in arrays)
    with np.errstate(all="ignore"):
        expected = OP.reference(*wide, **attributes)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_attention_of_any_sizes_is_that_of_the_reference(data: st.DataObject) -> None:
    length, keys = data.draw(st.integers(1, 21), "length"), data.draw(st.integers(1, 70), "keys")
    batch, groups = data.draw(st.integers(1, 2), "batch"), data.draw(st.integers(1, 2), "groups")
    heads = groups * data.draw(st.integers(1, 2), "shared")
    width, values = (32 * data.draw(st.integers(1, 2), name) for name in ("width", "values"))
    attributes = {
        "causal": data.draw(st.booleans(), "causal"),
        "scale": data.draw(st.sampled_from([None, 0.3])),
    }
    masks = [None, (length, keys), (batch, 1, 1, keys), (heads, length, 1), (1,)]
    sizes = data.draw(st.sampled_from(masks), "mask")
    mask = None if sizes is None else drawn(*sizes)
    if mask is not None and data.draw(st.booleans(), "boolean"):
        mask = mask > -0.5
    arrays = []
    for count, rows, columns in ((heads, length, width), (groups, keys, width), (groups, keys, values)):
        array = drawn(batch, rows, count, columns).transpose(0, 2, 1, 3)  # heads are views, as in models
        arrays.append(array if data.draw(st.booleans()) else np.ascontiguousarray(array))
    call = call_of(*arrays, mask, **attributes)
    assert attention.accepts(call, device()) is None
    check(attention.prepare(call, device())(*arrays, mask), *arrays, mask, **attributes)


@pytest.mark.parametrize(
    ("lanes", "parts", "length"), [(4, 1, 37), (8, 3, 37), (16, 2, 37), (4, 1, 1), (8, 1, 7)]
)
def test_parts_of_the_work_with_other_vectors(lanes: int, parts: int, length: int) -> None:
    """Units of work in any order give the same as all at once, for any width of vectors."""
    q, k, v = drawn(2, 3, length, 32), drawn(2, 3, 50, 32), drawn(2, 3, 50, 32)
    shape = replace(attention.shape_of(call_of(q, k, v, causal=True)), lanes=lanes, parts=parts)
    module = machine.compiler().function(AttentionSource(shape).text())
    results = []
    for bounds in ([(0, shape.units)], [(n, n + 1) for n in reversed(range(shape.units))]):
        result = np.full(q.shape, np.nan, np.float32)
        words = (ctypes.c_void_p * 5)(*map(address, (q, k, v, result)), 0)
        steps = [step // 4 for array in (q, k, v, result) for step in array.strides[:3]]
        table = (ctypes.c_int64 * 15)(*steps, 0, 0, 0)
        for begin, end in bounds:
            KERNEL(module.address)(words, table, begin, end)
        results.append(result)
    check(results[0], q, k, v, causal=True)
    assert np.array_equal(*results)


def joined(axis: int, scale: float | None = None, causal: bool = False) -> Any:
    """A step of a decoder, with the caches that it gives."""

    def step(query: Any, past_key: Any, key: Any, past_value: Any, value: Any, *mask: Any) -> Any:
        keys = oy.concat(past_key, key, axis=axis)
        values = oy.concat(past_value, value, axis=axis)
        attended = oy.scaled_dot_product_attention(query, keys, values, *mask, scale=scale, causal=causal)
        return keys, values, attended

    return step


def region_of(function: Any, *arrays: Array) -> Region:
    graph = oy.trace(function, *map(TensorSpec.of, arrays))
    return Region.of(graph.nodes, graph.inputs.values(), graph.outputs.values())


def check_joined(found: Any, *arrays: Array, **attributes: Any) -> None:
    query, past_key, key, past_value, value, *mask = arrays
    keys, values = np.concatenate((past_key, key), axis=2), np.concatenate((past_value, value), axis=2)
    assert np.array_equal(found[0], keys) and np.array_equal(found[1], values)
    check(found[2], query, keys, values, *mask, **attributes)


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_attention_behind_caches_joins_them_and_attends_to_all(data: st.DataObject) -> None:
    length, past, new = (
        data.draw(st.integers(1, n), name) for n, name in ((7, "q"), (70, "past"), (8, "new"))
    )
    batch, groups = data.draw(st.integers(1, 2), "batch"), data.draw(st.integers(1, 2), "groups")
    heads = groups * data.draw(st.integers(1, 2), "shared")
    width, values = (32 * data.draw(st.integers(1, 2), name) for name in ("width", "values"))
    scale, causal = data.draw(st.sampled_from([None, 0.3])), data.draw(st.booleans(), "causal")
    sizes = [(heads, length, width), (groups, past, width), (groups, new, width)]
    arrays = []
    for count, rows, columns in (*sizes, (groups, past, values), (groups, new, values)):
        array = drawn(batch, rows, count, columns).transpose(0, 2, 1, 3)
        arrays.append(array if data.draw(st.booleans()) else np.ascontiguousarray(array))
    if data.draw(st.booleans(), "mask"):
        arrays.append(drawn(length, past + new))
    region = region_of(joined(2, scale, causal), *arrays)
    assert attention.accepts(region, device()) is None
    run = attention.prepare_cached(region, device())
    check_joined(run(*arrays), *arrays, scale=scale, causal=causal)


@pytest.mark.parametrize("axis", [2, -2])
def test_a_plan_joins_caches_on_the_way(axis: int) -> None:
    """Caches that are large enough go past those of the processor; where they are no outputs, nothing else is computed twice."""
    arrays = [drawn(3, 4, rows, 64) for rows in (1, 100, 1, 100, 1)]
    graph = oy.trace(joined(axis), *map(TensorSpec.of, arrays))
    assert attention.shape_of(region_of(joined(axis), *arrays)).streams
    placement = oy.place(graph, [device()], oy.default_registry(), oy.costs.Roofline())
    kernels = {decision.chosen.kernel.name for decision in placement.decisions}
    assert kernels == {"gemm_cached_attention" if axis == 2 else "gemm_cached_attention_last"}
    with oy.using(block=("opencl",)):
        check_joined(oy.compile(joined(axis))(*arrays), *arrays)
        (attended,) = (oy.compile(lambda *given: joined(axis)(*given)[2])(*arrays),)
    check(attended, arrays[0], *(np.concatenate(arrays[n : n + 2], axis=2) for n in (1, 3)))


def test_caches_that_are_not_joined_on_the_way() -> None:
    new, old = drawn(1, 2, 1, 64), drawn(1, 2, 5, 64)
    many = drawn(1, 2, 8, 64)
    found = attention.accepts(region_of(joined(2), many, old, many, old, many), device())
    assert found == "joins caches for fewer than 8 queries, not 8"
    longer, two = drawn(1, 2, 4, 64), drawn(1, 2, 2, 64)
    found = attention.accepts(region_of(joined(2), new, old, new, longer, two), device())
    assert found == "takes as many keys as values, at least one, not 5 and 4"


def test_what_is_not_finite() -> None:
    """NaN of a query or a visible key is a row of NaN, rows that see nothing are zeros, and huge scores do not overflow."""
    q, k, v = drawn(1, 1, 9, 32), drawn(1, 1, 9, 32), drawn(1, 1, 9, 32)
    run = attention.prepare(call_of(q, k, v, np.zeros((9, 9), bool)), device())
    mask = np.ones((9, 9), bool)
    mask[3] = False
    q[0, 0, 3, :2] = np.inf, -np.inf  # what is hidden does not count, whatever the query is
    q[0, 0, 5, 0] = np.nan
    found = run(q, k, v, mask)
    assert (found[0, 0, 3] == 0).all() and np.isnan(found[0, 0, 5]).all()
    others = [0, 1, 2, 4, 6, 7, 8]
    check(found[:, :, others], q[:, :, others], k, v)
    large = 1e10 * np.eye(9, 32, dtype=np.float32)[None, None]
    np.testing.assert_array_equal(run(large, large, v, np.ones((9, 9), bool)), v)


@pytest.mark.parametrize("spread", [0.0, 80.0, 86.9, 87.1, 95.0, 104.0, 1e4])
def test_keys_far_below_the_best_one(spread: float) -> None:
    """Their shares go through the smallest numbers to zero; where all are as far down they are equal."""
    q, k, v = (drawn(1, 1, 9, 32) for _ in range(3))
    mask = np.zeros((9, 9), np.float32)
    mask[:, 4:] = -spread
    mask[3] = -min(spread, 104.0)  # float32 has no more digits of a score that is further down
    check(attention.prepare(call_of(q, k, v, mask), device())(q, k, v, mask), q, k, v, mask)


def test_what_is_not_compiled_says_why() -> None:
    q, k = drawn(1, 2, 9, 64), drawn(1, 2, 5, 64)

    def reason(*arrays: Array | None) -> str | None:
        return attention.accepts(call_of(*arrays), device())

    unit = 2 * machine.host().vector_bytes // 4
    assert reason(q, k, k) is None
    odd = drawn(1, 2, 9, 65)
    assert reason(odd, odd, q) == f"takes heads whose widths are multiples of {unit}, not 65 and 64"
    assert reason(q, k[:, :, :0], k[:, :, :0]) == "an attention without elements needs no compiler"
    assert reason(q.astype(np.float16), k, k) == "takes query of float32, not float16"
    mask = np.zeros((9, 5))
    assert reason(q, k, k, mask) == "takes a mask of float32 or bool, not float64"
    many = np.broadcast_to(q[:, :, :1], (1, 2, 9000, 64))
    found = reason(many, many, many)
    assert found is not None and found.startswith(
        "keeps keys and values of a head in 1048576 bytes, and these take "
    )


def test_a_plan_takes_heads_as_they_lie() -> None:
    """The result has its heads behind the positions in memory, so joining them copies nothing."""
    x, w = drawn(1, 64, 3 * 128), drawn(128, 128)

    def network(x: Any) -> Any:
        parts = oy.split(x, sections=3, axis=2)
        heads = (oy.permute_dims(oy.reshape(p, shape=(1, 64, 2, 64)), axes=(0, 2, 1, 3)) for p in parts)
        joined = oy.permute_dims(oy.scaled_dot_product_attention(*heads), axes=(0, 2, 1, 3))
        return oy.matmul(oy.reshape(joined, shape=(1, 64, 128)), w)

    registry = oy.default_registry()
    placement = oy.place(oy.trace(network, TensorSpec.of(x)), [device()], registry, oy.costs.Roofline())
    assert "cpu/gemm" in [
        decision.chosen.kernel.id
        for decision in placement.decisions
        if decision.chosen.kernel.op == "scaled_dot_product_attention"
    ]
    q, k, v = (part.reshape(1, 64, 2, 64).transpose(0, 2, 1, 3) for part in np.split(x, 3, axis=2))
    result = attention.prepare(call_of(q, k, v), device())(q, k, v)
    assert result.transpose(0, 2, 1, 3).flags.c_contiguous
    with oy.using(block=("opencl",)):
        found = np.asarray(oy.compile(network)(x))
    expected = (
        OP.reference(*(a.astype(np.float64) for a in (q, k, v))).transpose(0, 2, 1, 3).reshape(1, 64, 128) @ w
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
