"""Matrix products in machine code, with what follows them, alone and in plans. See opyard_cpu.gemm."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opyard as oy
from opyard.operation import Call
from opyard.placement.matching import find_matches
from opyard.placement.patterns import Pattern
from opyard.spec import TensorSpec
from opyard_cpu.gemm import products, row, source, tail
from opyard_cpu.jit import machine
from opyard_cpu.jit.launch import KERNEL
from opyard_cpu.onednn import library, registration
from opyard_cpu.onednn.addresses import address
from opyard_cpu.onednn.layouts import Packed

REASON = library.missing() or machine.missing()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

Array = np.ndarray[Any, Any]
GENERATOR = np.random.default_rng(0)
PROCESSORS = {
    "AVX-512": "+avx512f,+avx512bw,+avx512vl,+avx512dq,+avx2",
    "AVX2": "+avx2,+fma",
    "SSE": "+sse2",
}


def drawn(*shape: int) -> Array:
    return GENERATOR.standard_normal(shape).astype(np.float32)


def device() -> Any:
    return oy.default_registry().device("cpu:0")


def call_of(op: Any, *arrays: Array | None) -> Call:
    return op.op.call(*(None if a is None else TensorSpec.of(a) for a in arrays))  # type: ignore[no-any-return]


def check(call: Call, found: Array, *arrays: Array | None) -> None:
    """The result is within the op's tolerance of the reference."""
    wide = [None if a is None else a.astype(np.float64) for a in arrays]
    (expected,) = call.reference(*wide)
    magnitude = call.op.reference(*(None if a is None else np.abs(a) for a in wide))
    tolerance = oy.cases.Tolerance(terms=float(arrays[1].shape[0]))  # type: ignore[union-attr]
    assert found.shape == expected.shape and found.dtype == np.float32
    violation = tolerance.violation(found, expected.astype(np.float32), magnitude)
    assert violation is None, violation


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_products_of_any_sizes_are_those_of_the_reference(data: st.DataObject) -> None:
    depth, columns = data.draw(st.integers(1, 40), "depth"), data.draw(st.integers(1, 110), "columns")
    outer = data.draw(st.sampled_from([(), (1,), (4,), (9,), (1, 1), (2, 13), (1, 2, 3)]), "outer")
    x, w = drawn(*outer, depth), drawn(depth, columns)
    b = data.draw(st.sampled_from([None, drawn(columns)]), "bias")
    call = call_of(oy.linear, x, w, b)
    rows = int(np.prod(outer, dtype=int))
    assert (products.accepts_row(call, device()) is None) == (rows == 1)
    assert (products.accepts_packed(call, device()) is None) == (rows >= products.LEAST_ROWS)
    if rows == 1:
        check(call, products.prepare_row(call, device())(x, w, b), x, w, b)
    if rows >= products.LEAST_ROWS:
        check(call, products.prepare_packed(call, device())(x, Packed(w), b), x, w, b)


@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize(
    ("rows", "depth", "columns", "threads"),
    [(21, 2051, 100, 3), (3, 5, 7, 2), (16, 64, 24, 1), (13, 33, 128, 2)],
)
def test_tiles_of_other_processors_and_parts_of_the_work(
    processor: str, rows: int, depth: int, columns: int, threads: int
) -> None:
    """The text for other widths of vectors runs here, too; units of work in any order give the same as all at once."""
    x, w, b = drawn(rows, depth), drawn(depth, columns), drawn(columns)
    call = call_of(oy.linear, x, w, b)
    found = tail.tail_of(call)
    assert isinstance(found, tail.Tail)
    target = machine.processor("x", PROCESSORS[processor], "x86_64-linux")
    cut = source.blocking(rows, depth, columns, target, threads)
    assert cut.units == cut.panels * cut.parts and cut.parts <= cut.blocks
    assert threads == 1 or cut.units >= min(threads, cut.blocks)
    module = machine.compiler().function(source.Source(cut, found).text())
    packed, scratch = products.panels(w, cut), np.empty(max(1, cut.scratch_bytes), np.uint8)
    results = []
    for bounds in ([(0, cut.units)], [(n, n + 1) for n in reversed(range(cut.units))], [(1, 1)]):
        result = np.full((rows, columns), np.nan, np.float32)
        words = (ctypes.c_void_p * 5)(*map(address, (x, packed, b, result, scratch)))
        for begin, end in bounds:
            KERNEL(module.address)(words, None, begin, end)
        results.append(result)
    check(call, results[0], x, w, b)
    assert np.array_equal(results[0], results[1])
    assert np.isnan(results[2]).all()


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize(("depth", "columns"), [(1, 1), (7, 16), (8, 17), (29, 70)])
def test_one_row_in_parts(lanes: int, depth: int, columns: int) -> None:
    x, w, b = drawn(1, depth), drawn(depth, columns), drawn(columns)
    call = call_of(oy.linear, x, w, b)
    found = tail.tail_of(call)
    assert isinstance(found, tail.Tail)
    module = machine.compiler().function(row.RowSource(found, lanes).text())
    result = np.full((1, columns + 1), np.nan, np.float32)
    words = (ctypes.c_void_p * 4)(*map(address, (x, w, b, result)))
    vectors = -(-columns // lanes)
    for begin in range(vectors):
        KERNEL(module.address)(words, None, begin, begin + 1)
    check(call, result[:, :columns], x, w, b)
    assert np.isnan(result[0, columns])  # nothing is written beyond the end


def test_threads_are_as_many_as_have_enough_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row of a large matrix is much to read, though little to compute."""
    monkeypatch.setattr(products, "num_threads", lambda: 3)
    for rows, depth, columns, expected in (
        (1, 64, 64, 1),
        (1, 1024, 1024, 3),
        (1, 512, 160, 2),
        (64, 256, 128, 2),
    ):
        found = tail.tail_of(call_of(oy.matmul, drawn(rows, depth), drawn(depth, columns)))
        assert isinstance(found, tail.Tail)
        assert products._threads(found) == expected


def matched(name: str, function: Callable[..., Any], *arrays: Array) -> tuple[Any, Any]:
    """A pattern kernel, and the place where it is found."""
    kernel = next(k for k in oy.default_registry().patterns if k.id == name)
    graph = oy.trace(function, *map(TensorSpec.of, arrays))
    (match,) = find_matches(Pattern.of(kernel), graph)
    return kernel, match


@pytest.mark.parametrize("rows", [1, 12])
@pytest.mark.parametrize("activation", registration.DENSE)
def test_each_activation_keeps_what_is_not_finite(activation: str, rows: int) -> None:
    x, w, b, function = drawn(rows, 8), drawn(8, 60), drawn(60), getattr(oy, activation)
    b[:6] = [np.inf, -np.inf, np.nan, 3e38, -3e38, -0.0]
    kind = "gemv" if rows == 1 else "gemm"
    kernel, match = matched(
        f"cpu/{kind}_linear_{activation}", lambda x, w, b: function(oy.linear(x, w, b)), x, w, b
    )
    assert kernel.refusal(match.work, device()) is None
    run = kernel.bind(match.work, device())
    found = run(x, w if rows == 1 else Packed(w), b)
    with np.errstate(all="ignore"):
        expected = np.asarray(function.op.reference(x.astype(np.float64) @ w + b))
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("rows", [1, 12])
def test_a_residual_is_added_and_results_are_written_where_the_plan_says(rows: int) -> None:
    x, w, b, r = drawn(rows, 8), drawn(8, 50), drawn(50), drawn(rows, 50)
    kind = "gemv" if rows == 1 else "gemm"
    kernel, match = matched(f"cpu/{kind}_linear_add", lambda x, w, b, r: oy.linear(x, w, b) + r, x, w, b, r)
    run = kernel.bind(match.work, device())
    weight: Any = w if rows == 1 else Packed(w)
    expected = x.astype(np.float64) @ w + b + r
    out, columns = np.empty((rows, 50), np.float32), np.empty((50, rows), np.float32).T
    for target in (out, columns):
        assert run(x, weight, b, r, out=target) is target
        np.testing.assert_allclose(target, expected, rtol=1e-5, atol=1e-5)
    turned = np.asfortranarray(x)
    np.testing.assert_array_equal(run(turned, weight, b, np.asfortranarray(r)), out)


def test_what_is_not_compiled_says_why() -> None:
    x, w = drawn(3, 4), drawn(4, 5)
    one, few, many = (call_of(oy.matmul, drawn(n, 4), w) for n in (1, 3, 4))
    assert products.accepts_row(few, device()) == "takes one row, not 3"
    assert (
        products.accepts_packed(few, device())
        == "takes 4 rows or more, not 3; fewer wait for the weights, however they lie"
    )
    assert products.accepts_row(one, device()) is products.accepts_packed(many, device()) is None
    stacked = call_of(oy.matmul, drawn(2, 3, 4), drawn(2, 4, 5))
    assert (
        products.accepts_packed(stacked, device()) == "takes a matrix of weights [k, n], not float32[2, 4, 5]"
    )
    empty = call_of(oy.matmul, drawn(0, 4), w)
    assert products.accepts_row(empty, device()) == "a product without elements needs no compiler"
    _, match = matched("cpu/gemm_matmul_add", lambda x, w, r: oy.matmul(x, w) + r, x, w, drawn(3, 1))
    assert (
        products.accepts_packed(match.work, device())
        == "[3, 1] is neither a number, nor [5], nor as large as the result"
    )
    _, match = matched("cpu/gemm_matmul_add", lambda x, w, r: oy.matmul(x, w) + r, x, w, drawn(2, 3, 5))
    assert (
        products.accepts_packed(match.work, device())
        == "[2, 3, 5] is neither a number, nor [5], nor as large as the result"
    )


def test_plans_use_them_and_weights_are_packed_once() -> None:
    w, b, v = drawn(512, 768), drawn(768), drawn(768, 512)

    def network(x: Any) -> Any:
        return oy.linear(oy.gelu(oy.linear(x, w, b)), v) + x

    for rows, kind in ((64, "gemm"), (1, "gemv")):
        x = drawn(1, rows, 512)
        graph = oy.trace(network, TensorSpec.of(x))
        registry = oy.default_registry()
        placement = oy.place(graph, [device()], registry, oy.costs.Roofline())
        found = [decision.chosen.kernel.id for decision in placement.decisions]
        assert [name for name in found if "gem" in name] == [
            f"cpu/{kind}_linear_gelu",
            f"cpu/{kind}_linear_add",
        ], found
        with oy.using(block=("opencl",)):
            result = np.asarray(oy.compile(network)(x))
        inner = oy.gelu.op.reference(x.astype(np.float64) @ w + b)
        np.testing.assert_allclose(result, inner @ v + x, rtol=1e-3, atol=1e-3)
    call, packed = call_of(oy.matmul, drawn(8, 512), w), Packed(w)
    run = products.prepare_packed(call, device())
    run(drawn(8, 512), packed)
    (form,) = packed.forms.values()
    run(drawn(8, 512), packed)
    assert [one is form for one in packed.forms.values()] == [True]
