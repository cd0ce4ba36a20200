"""Regions compiled by LLVM give what the references give: any shapes, strides, dtypes and numbers, on any number of threads."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opyard as oy
from opyard.kernels import Kernel
from opyard.region import Region
from opyard.registry import Registry
from opyard.spec import TensorSpec, as_dtype
from opyard_conformance.oracle import expect
from opyard_cpu import plugin
from opyard_cpu.jit import compiled, steps

pytest.importorskip("llvmlite", reason="llvmlite is not installed: opyard-cpu[jit]")

REGISTRY = Registry()
plugin.opyard_register(REGISTRY)
DEVICE = REGISTRY.device("cpu:0")
COMPILER: Kernel = next(kernel for kernel in REGISTRY.region_compilers if kernel.name == "jit")


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder for compiled code that is empty at first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPYARD_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


def region_of(function: Callable[..., Any], *specs: TensorSpec) -> Region:
    """The region of a whole function, its composite ops taken apart."""
    graph = oy.decompose(oy.trace(function, *specs), lambda call: False)
    for node in graph.nodes:
        assert COMPILER.claim_refusal(node.call, DEVICE) is None, node.op.name
    return Region(graph)


def refusal(function: Callable[..., Any], *specs: TensorSpec) -> str | None:
    return COMPILER.refusal(region_of(function, *specs), DEVICE)


def check(work: Region, arrays: list[Any]) -> None:
    """Compiles a region, and compares with the references."""
    assert COMPILER.refusal(work, DEVICE) is None
    run = COMPILER.bind(work, DEVICE)
    expected = expect(work, tuple(np.asarray(array) for array in arrays))
    if expected.problem:
        return
    with np.errstate(all="ignore"):
        found = run(*arrays)
    results = found if work.is_tuple else (found,)
    assert not expected.difference("jit", results)
    for result, spec in zip(results, work.outputs, strict=True):
        assert (result.shape, result.dtype) == (spec.shape, spec.dtype)


# Random graphs -------------------------------------------------------------------------------------------------------

EXACT: tuple[Callable[[Any, Any], Any], ...] = (
    lambda a, b: a + b,
    lambda a, b: a * b - a,
    lambda a, b: oy.relu(a),
    lambda a, b: oy.where(a > b, a, b),
    lambda a, b: oy.where(oy.isnan(a), b, a),
    lambda a, b: oy.clip(a, b, b + 1),
    lambda a, b: oy.abs(a) + oy.sign(b),
    lambda a, b: oy.cast(oy.logical_or(a > 0, b <= 1), dtype="float32") + a,
)
"""Steps of which every bit is that of NumPy, for any numbers."""

SMOOTH: tuple[Callable[[Any, Any], Any], ...] = (
    lambda a, b: oy.tanh(a) + b,
    lambda a, b: oy.sigmoid(a) * b,
    lambda a, b: oy.gelu(a) - b,
    lambda a, b: oy.exp(oy.minimum(a, 2.0)) / (b * b + 1.0),
    lambda a, b: oy.log1p(oy.abs(a)) + b,
    lambda a, b: oy.sqrt(oy.abs(a)) * b,
    lambda a, b: oy.softmax(a) + b,
    lambda a, b: a - oy.mean(b, axis=-1, keepdims=True),
    lambda a, b: oy.max(a, axis=-1, keepdims=True) * b,
    lambda a, b: oy.layer_normalization(a + b),
    lambda a, b: oy.log_softmax(a * b),
)

SHAPES = st.lists(st.sampled_from([1, 2, 3, 5, 17, 70]), max_size=4).filter(lambda s: math.prod(s) < 5000)
DTYPES = st.sampled_from(["float32", "float32", "float64", "int32", "int16", "uint8"])


@st.composite
def broadcast_inputs(draw: Any, most: int = 3, least_rank: int = 0) -> list[np.ndarray[Any, Any]]:
    """Arrays of several dtypes that broadcast together, with any strides; one has the full shape."""
    shape = draw(SHAPES.filter(lambda sizes: len(sizes) >= least_rank))
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    arrays = []
    for number in range(draw(st.integers(2, most))):
        own = [n if number == 0 or draw(st.booleans()) else 1 for n in shape]
        own = own[draw(st.integers(0, len(own))) if number else 0 :]
        step = draw(st.sampled_from([1, 1, 2, -1]))
        dtype = draw(DTYPES) if number else "float32"
        base = generator.uniform(-3, 3, [n * abs(step) for n in own]).astype(dtype)
        array = base[(slice(None, None, step),) * len(own)]
        order = draw(st.sampled_from("CCF"))
        arrays.append(np.asfortranarray(array) if order == "F" else array)
    return arrays


def program_of(steps: Any) -> Any:
    return st.lists(
        st.tuples(st.integers(0, len(steps) - 1), st.integers(0, 99), st.integers(0, 99)),
        min_size=1,
        max_size=6,
    )


def built(steps: Any, program: list[tuple[int, int, int]], *inputs: Any) -> Any:
    values = [oy.cast(value, dtype="float32") for value in inputs]
    values.append(values[0] + values[-1])
    for step, left, right in program:
        values.append(
            steps[step](values[left % len(values)] + values[0], values[right % len(values)] + values[0])
        )
    return values[-1], values[-2]


@settings(max_examples=60, deadline=None)
@given(arrays=broadcast_inputs(), program=program_of(EXACT), special=st.booleans())
def test_arithmetic_is_that_of_numpy_to_the_bit(arrays: Any, program: Any, special: bool) -> None:
    if special and arrays[0].size >= 6:
        arrays[0].flat[:6] = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-42)
    work = region_of(lambda *v: built(EXACT, program, *v), *map(TensorSpec.of, arrays))
    if COMPILER.refusal(work, DEVICE) is not None:
        return
    with np.errstate(all="ignore"):
        found, expected = COMPILER.bind(work, DEVICE)(*arrays), work.reference(*arrays)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@settings(max_examples=60, deadline=None)
@given(arrays=broadcast_inputs(least_rank=1), program=program_of(SMOOTH))
def test_functions_and_reductions_of_rows(arrays: Any, program: Any) -> None:
    work = region_of(lambda *v: built(SMOOTH, program, *v), *map(TensorSpec.of, arrays))
    if COMPILER.refusal(work, DEVICE) is None:
        check(work, arrays)


INTEGERS: tuple[Callable[[Any, Any], Any], ...] = (
    lambda a, b: a + b * a,
    lambda a, b: oy.maximum(a, b) - oy.minimum(a, b),
    lambda a, b: oy.bitwise_xor(oy.bitwise_and(a, b), oy.bitwise_invert(b)),
    lambda a, b: oy.where(a >= b, oy.bitwise_left_shift(a, 1), oy.bitwise_right_shift(b, 1)),
    lambda a, b: oy.abs(a) + oy.negative(oy.square(b)),
    lambda a, b: oy.sign(a) * b,
    lambda a, b: oy.cast(oy.cast(a, dtype="int8"), dtype=a.dtype.name) + oy.sum(b, axis=-1, keepdims=True),
    lambda a, b: oy.max(a, axis=-1, keepdims=True) - b,
)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
@pytest.mark.parametrize("function", INTEGERS)
def test_integers_wrap_around_as_those_of_numpy(function: Any, dtype: str) -> None:
    limits = np.iinfo(dtype)
    generator = np.random.default_rng(0)
    arrays = [generator.integers(limits.min, limits.max, (3, 77), dtype, endpoint=True) for _ in range(2)]
    arrays[0][0, :2] = limits.min, limits.max
    work = region_of(function, *map(TensorSpec.of, arrays))
    (expected,) = work.reference(*arrays)
    np.testing.assert_array_equal(COMPILER.bind(work, DEVICE)(*arrays), expected)


@pytest.mark.parametrize(
    "source", ["bool", "int8", "uint8", "int64", "float16", "bfloat16", "float32", "float64"]
)
@pytest.mark.parametrize(
    "target", ["bool", "int16", "int64", "uint32", "float16", "bfloat16", "float32", "float64"]
)
def test_casts(source: str, target: str) -> None:
    x = as_dtype(source).type(0) + np.arange(0, 90) * (source != "bool")
    x = np.asarray(x).astype(as_dtype(source))
    work = region_of(lambda v: oy.cast(v, dtype=target), TensorSpec.of(x))
    (expected,) = work.reference(x)
    np.testing.assert_array_equal(COMPILER.bind(work, DEVICE)(x), expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_floats_are_rounded_after_each_op(dtype: str) -> None:
    x = np.random.default_rng(0).standard_normal(300).astype(as_dtype(dtype))
    work = region_of(lambda v: oy.relu(v * v + v) - v, TensorSpec.of(x))
    (expected,) = work.reference(x)
    np.testing.assert_array_equal(COMPILER.bind(work, DEVICE)(x), expected)


# Steps ---------------------------------------------------------------------------------------------------------------

REDUCED: tuple[tuple[Callable[..., Any], int], ...] = (
    (lambda x: oy.sum(x, axis=0), 1),
    (lambda x: oy.mean(x, axis=0, keepdims=True), 2),
    (lambda x: oy.sum(x), 1),
    (lambda x: oy.mean(x * x) + oy.max(oy.abs(x)), 2),
    (lambda x: x - oy.mean(x, axis=0, keepdims=True), 2),
    (lambda x: oy.log_softmax(x, axis=0), 3),
    (lambda x: (oy.sum(oy.tanh(x), axis=0), oy.max(x, axis=0)), 1),
    (lambda x: oy.variance(x, axis=0), 3),
)


@pytest.mark.parametrize("count", ["1", "2"])
@pytest.mark.parametrize(("function", "number"), REDUCED)
def test_columns_and_long_rows_are_reduced_in_parts(
    monkeypatch: pytest.MonkeyPatch, function: Any, number: int, count: str
) -> None:
    monkeypatch.setenv("OPYARD_NUM_THREADS", count)
    monkeypatch.setattr(compiled, "THREAD_SECONDS", 1e-9)
    monkeypatch.setattr(compiled, "CHUNK", 5000)
    x = np.random.default_rng(0).standard_normal((70, 1100)).astype(np.float32)
    work = region_of(function, TensorSpec.of(x))
    assert len(steps.steps_of(work)) == number
    check(work, [x])


TRUTH: tuple[Callable[..., Any], ...] = (
    oy.any,
    oy.all,
    lambda x, axis: oy.any(x != 1, axis=axis),
    lambda x, axis: (oy.all(x == x, axis=axis), oy.any(x == 2, axis=axis)),
)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "int8", "bool"])
@pytest.mark.parametrize("shape", [(3, 70), (1, 70_000)])
def test_whether_some_or_all_are_true(dtype: str, shape: tuple[int, ...]) -> None:
    ones = np.ones(shape, as_dtype(dtype))
    other = np.nan if "float" in dtype else 2
    mixed = np.random.default_rng(0).choice(np.asarray([0, 1, 1, other]), shape).astype(ones.dtype)
    arrays = [ones, np.zeros_like(ones), ones.copy(), np.zeros_like(ones), mixed]
    arrays[2][0, -1], arrays[3][0, -1] = 0, 1
    for function, axis in itertools.product(TRUTH, (0, 1) if len(ones) > 1 else (1,)):
        work = region_of(partial(function, axis=axis), TensorSpec.of(ones))
        for array in arrays if COMPILER.refusal(work, DEVICE) is None else ():
            check(work, [array])


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "uint32"])
@pytest.mark.parametrize("shape", [(3, 70), (40, 1100), (1, 70_000)])
def test_products(dtype: str, shape: tuple[int, ...]) -> None:
    x = (
        np.random.default_rng(0)
        .choice([0.5, 1.0, 2.0, 3.0], shape, p=[0.01, 0.975, 0.01, 0.005])
        .astype(dtype)
    )
    for axis in (0, 1, None):
        if axis is None or shape[axis] > 1:
            work = region_of(lambda v, axis=axis: oy.prod(v * v, axis=axis), TensorSpec.of(x))
            check(work, [x])


@pytest.mark.parametrize("seconds", [1.0, 1e-12])
def test_sums_of_columns_into_an_array_that_is_an_input(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(compiled, "THREAD_SECONDS", seconds)
    x, bias = np.random.default_rng(0).standard_normal((30, 400)).astype(np.float32), np.ones(400, np.float32)
    work = region_of(lambda v, b: oy.sum(v + b, axis=0), TensorSpec.of(x), TensorSpec.of(bias))
    run, expected = COMPILER.bind(work, DEVICE), x.sum(axis=0) + 30
    np.testing.assert_allclose(run(x, bias), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(run(np.asfortranarray(x), bias), expected, rtol=1e-4, atol=1e-4)
    assert run(x, bias, out=bias) is bias
    np.testing.assert_allclose(bias, expected, rtol=1e-4, atol=1e-4)


def test_a_sum_of_many_equal_numbers_is_precise() -> None:
    x = np.full((1 << 16, 64), 0.1, np.float32)
    for axis in (None, 0):
        work = region_of(lambda v, axis=axis: oy.mean(v, axis=axis), TensorSpec.of(x))
        np.testing.assert_allclose(COMPILER.bind(work, DEVICE)(x), 0.1, rtol=1e-5)


def test_one_long_row_of_several_passes() -> None:
    x = np.random.default_rng(0).standard_normal((1, 80_000)).astype(np.float32)
    work = region_of(lambda v: oy.log_softmax(v), TensorSpec.of(x))
    assert len(steps.steps_of(work)) == 3
    check(work, [x])


def test_quotients_by_extremes_are_those_of_the_reference_to_the_bit() -> None:
    """What follows may round them to integers, as quantization does; sums are rounded themselves."""

    def quotients(x: Any) -> Any:
        return x / ((oy.max(x, axis=-1, keepdims=True) - oy.min(x, axis=-1, keepdims=True)) / 255.0)

    x = np.random.default_rng(0).standard_normal((50, 97)).astype(np.float32)
    graph = oy.trace(quotients, oy.TensorSpec.of(x))
    with oy.using(prefer=("cpu/jit",)):
        found = oy.Session(graph, devices=["cpu:0"]).run(next(iter(graph.outputs)), {"x": x})
    span = (x.max(axis=-1, keepdims=True) - x.min(axis=-1, keepdims=True)) / np.float32(255)
    np.testing.assert_array_equal(found, x / span)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("function", [oy.exp, oy.exp2])
def test_powers_among_the_smallest_numbers_are_those_next_to_the_right_ones(
    function: Callable[..., Any], dtype: str
) -> None:
    """Subnormal numbers, alone in a vector and beside others, and zeros below them."""
    info = np.finfo(dtype)
    low, high = math.log2(float(info.smallest_subnormal)) - 2, math.log2(float(info.tiny)) + 2
    powers = np.linspace(low, high, 4099) * (math.log(2) if function is oy.exp else 1.0)
    x = np.concatenate((powers, np.resize([-np.inf, 0.0, powers[50], np.nan, -1e30], 70))).astype(dtype)
    work = region_of(function, TensorSpec.of(x))
    found = COMPILER.bind(work, DEVICE)(x)
    with np.errstate(all="ignore"):
        expected = (np.exp if function is oy.exp else np.exp2)(x.astype(np.longdouble)).astype(dtype)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(x))
    assert not np.signbit(found[found == 0]).any()
    distance = np.abs(found - expected)[~np.isnan(x)]
    assert (distance <= np.spacing(expected)[~np.isnan(x)]).all()


@pytest.mark.parametrize("several", [False, True])
def test_parts_of_a_split_array_are_taken_as_they_lie(several: bool) -> None:
    """Views give what their copies give, wherever the result is wanted."""
    spec = TensorSpec((4, 40), "float32")

    def function(a: Any, b: Any) -> Any:
        return (oy.tanh(a) * b, oy.exp(b)) if several else oy.tanh(a) * b

    run = COMPILER.bind(region_of(function, spec, spec), DEVICE)
    whole = np.random.default_rng(0).standard_normal((4, 120)).astype(np.float32)
    views = np.split(whole, 3, -1)[1:]
    expected = run(*(view.copy() for view in views))
    np.testing.assert_array_equal(run(*views), expected)
    if not several:
        for out in (np.empty((4, 40), np.float32), np.empty((40, 4), np.float32).T):
            assert run(*views, out=out) is out
            np.testing.assert_array_equal(out, expected)
