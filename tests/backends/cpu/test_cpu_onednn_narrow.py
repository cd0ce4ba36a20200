"""Products and convolutions of bfloat16 and of bytes on oneDNN. See opyard_cpu.onednn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opyard as oy
from opyard.placement.matching import find_matches
from opyard.placement.patterns import Pattern
from opyard.spec import TensorSpec
from opyard_cpu.onednn import bfloat16, integers, library, processors

pytestmark = pytest.mark.skipif(library.missing() is not None, reason=str(library.missing()))
needs_bfloat16 = pytest.mark.skipif(
    bool(processors.refusal("bfloat16")), reason=str(processors.refusal("bfloat16"))
)

Array = np.ndarray[Any, Any]
GENERATOR = np.random.default_rng(0)


def device() -> Any:
    return oy.default_registry().device("cpu:0")


def drawn(*shape: int) -> Array:
    return GENERATOR.standard_normal(shape).astype(ml_dtypes.bfloat16)


def call_of(op: Any, *arrays: Array | None, **attributes: Any) -> Any:
    return op.op.call(*(None if a is None else TensorSpec.of(a) for a in arrays), **attributes)


def kernels_of(function: Callable[..., Any], *arrays: Array) -> list[str]:
    registry = oy.default_registry()
    with oy.using(block=("opencl",)):
        graph = oy.trace(function, *map(TensorSpec.of, arrays))
        placement = oy.place(graph, [registry.device("cpu:0")], registry, oy.costs.Roofline())
    return [decision.chosen.kernel.id for decision in placement.decisions]


@st.composite
def convolutions(draw: st.DrawFn, most_axes: int) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]:
    """The shapes of two images and of a weight, and attributes of ``conv``, for one to ``most_axes`` axes in space."""
    rank = draw(st.integers(1, most_axes))
    sizes = draw(st.lists(st.integers(3, 8), min_size=rank, max_size=rank))
    kernel = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    groups = draw(st.sampled_from([1, 1, 2]))
    channels, outputs = draw(st.integers(1, 17)), groups * draw(st.integers(1, 17))
    padding = draw(st.sampled_from([0, 1, "same_upper", "same_lower"]))
    attributes = {"strides": draw(st.integers(1, 2)), "padding": padding, "groups": groups}
    return (2, groups * channels, *sizes), (outputs, channels, *kernel), attributes


def assert_close(found: Array, expected: Array) -> None:
    """Within one step of bfloat16 of the reference, beside what sums of another order differ by."""
    assert found.dtype == expected.dtype == ml_dtypes.bfloat16
    np.testing.assert_allclose(found.astype(np.float32), expected.astype(np.float32), rtol=2**-7, atol=1e-4)


@needs_bfloat16
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_products_of_bfloat16_are_those_of_the_reference(data: st.DataObject) -> None:
    rows, depth, columns = (data.draw(st.integers(1, 70), name) for name in ("rows", "depth", "columns"))
    outer = data.draw(st.sampled_from([(), (3,), (2, 3)]), "outer")
    stacked = data.draw(st.booleans(), "stacked")
    x, w = drawn(*outer, rows, depth), drawn(*(outer if stacked else ()), depth, columns)
    call = call_of(oy.matmul, x, w)
    assert bfloat16.accepts_product(call, device()) is None
    assert_close(bfloat16.prepare_plain(call, device())(x, w), call.reference(x, w)[0])


@needs_bfloat16
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_convolutions_of_bfloat16_are_those_of_the_reference(data: st.DataObject) -> None:
    images, weight, attributes = data.draw(convolutions(most_axes=3), "convolution")
    x, w = drawn(*images), drawn(*weight)
    b = data.draw(st.sampled_from([None, drawn(weight[0])]))
    call = call_of(oy.conv, x, w, b, **attributes)
    if bfloat16.accepts_conv(call, device()) is None:
        assert_close(bfloat16.prepare_plain(call, device())(x, w, b), call.reference(x, w, b)[0])


@needs_bfloat16
def test_a_network_of_bfloat16_stays_channels_last_and_is_that_of_the_reference() -> None:
    w1, w2, b, w3 = drawn(64, 64, 3, 3), drawn(64, 64, 3, 3), drawn(64), drawn(64 * 32 * 32, 10)

    def network(x: Any) -> Any:
        y = oy.conv(oy.conv(x, w1, b, padding=1), w2, padding=1)
        return oy.linear(oy.reshape(y, shape=(2, 64 * 32 * 32)), w3, b[:10])

    x = drawn(2, 64, 32, 32)
    found = kernels_of(network, x)
    assert found[:2] == ["cpu/onednn_bfloat16_nhwc"] * 2
    assert "cpu/onednn_bfloat16_packed" in found
    result = np.asarray(oy.compile(network)(x))
    assert result.dtype == ml_dtypes.bfloat16
    exact = network_in_float32(x, w1, w2, b, w3)
    np.testing.assert_allclose(result.astype(np.float32), exact, atol=0.01 * np.abs(exact).max())


def network_in_float32(x: Array, w1: Array, w2: Array, b: Array, w3: Array) -> Array:
    x, w1, w2, b, w3 = (array.astype(np.float32) for array in (x, w1, w2, b, w3))
    y = oy.conv.op.reference(oy.conv.op.reference(x, w1, b, padding=1), w2, padding=1)
    return y.reshape(2, -1) @ w3 + b[:10]  # type: ignore[no-any-return]


@needs_bfloat16
def test_sums_are_made_in_float32() -> None:
    x, w = np.ones((1, 4096), ml_dtypes.bfloat16), np.ones((4096, 1), ml_dtypes.bfloat16)
    call = call_of(oy.matmul, x, w)
    assert bfloat16.prepare_plain(call, device())(x, w) == 4096  # in bfloat16 the sum stays at 256


@needs_bfloat16
def test_what_is_given_for_the_result_is_filled() -> None:
    x, w = drawn(8, 16), drawn(16, 8)
    run = bfloat16.prepare_plain(call_of(oy.matmul, x, w), device())
    for out in (np.empty((8, 8), x.dtype), np.empty((8, 8), x.dtype).T):
        assert run(x, w, out=out) is out
        np.testing.assert_array_equal(out, run(x, w))
    np.testing.assert_array_equal(run(x, w.T.copy().T), run(x, w))


def test_float32_never_comes_to_kernels_of_bfloat16() -> None:
    x, w = np.ones((512, 512), np.float32), np.ones((512, 512), np.float32)
    for op in (oy.matmul, oy.linear):
        arrays = (x, w) if op is oy.matmul else (x, w, None)
        call = call_of(op, *arrays)
        for kernel in oy.default_registry().kernels(op.op.name):
            if kernel.name.startswith("onednn_bfloat16"):
                assert "of bfloat16, not float32" in str(kernel.refusal(call, device()))
    mixed = call_of(oy.linear, x.astype(ml_dtypes.bfloat16), w.astype(ml_dtypes.bfloat16), w[0])
    (kernel,) = (k for k in oy.default_registry().kernels("linear") if k.name == "onednn_bfloat16")
    assert kernel.refusal(mixed, device()) == "takes bias of bfloat16, not float32"


@pytest.mark.parametrize(("dtype", "name"), [("bfloat16", "avx512_core_vnni"), ("int8", "avx512_core")])
def test_processors_without_such_products_refuse(
    monkeypatch: pytest.MonkeyPatch, dtype: str, name: str
) -> None:
    monkeypatch.setattr(library.Library, "instruction_set", lambda self: name)
    found = str(processors.refusal(dtype))
    assert found.startswith(f"products of {dtype} need a processor with ")
    assert found.endswith(f"oneDNN finds {name} here")
    monkeypatch.setattr(processors, "missing", lambda: "oneDNN is not installed")
    assert processors.refusal(dtype) == "oneDNN is not installed"


@needs_bfloat16
def test_what_bfloat16_kernels_refuse() -> None:
    w = drawn(4, 4)
    refused = bfloat16.accepts_product(call_of(oy.matmul, drawn(4), w), device())
    assert refused == "takes matrices, not vectors"
    refused = bfloat16.accepts_product(call_of(oy.matmul, drawn(0, 4), w), device())
    assert refused == "an empty tensor is nothing for oneDNN"
    refused = bfloat16.accepts_packed(call_of(oy.matmul, drawn(2, 4, 4), drawn(2, 4, 4)), device())
    assert str(refused).startswith("packed weights are [k, n], not ")
    x, kernel = drawn(1, 4, 5, 5), drawn(4, 4, 3, 3)
    assert bfloat16.accepts_conv(call_of(oy.conv, x[:0], kernel, None), device()) == (
        "an empty tensor is nothing for oneDNN"
    )


needs_int8 = pytest.mark.skipif(bool(processors.refusal("int8")), reason=str(processors.refusal("int8")))


def drawn_bytes(dtype: str, *shape: int) -> Array:
    limits = np.iinfo(dtype)
    return GENERATOR.integers(limits.min, limits.max + 1, shape).astype(dtype)


def centred(x: Any, zero: Any) -> Any:
    whole = oy.cast(x, dtype="int32")
    return whole if zero is None else oy.subtract(whole, zero)


def product(x: Any, weight: Any, zero: Any = None, weight_zero: Any = None) -> Any:
    """MatMulInteger as the import of ONNX writes it; int32 weights are what folding makes of constants."""
    is_folded = weight.dtype == "int32"
    if x.dtype == "int32":
        return oy.matmul(x, weight)
    return oy.matmul(centred(x, zero), weight if is_folded else centred(weight, weight_zero))


def convolved(x: Any, weight: Any, zero: Any = None, **attributes: Any) -> Any:
    """ConvInteger as the import of ONNX writes it, with the float64 weights that folding makes of constants."""
    wide = oy.cast(centred(x, zero), dtype="float64")
    return oy.cast(oy.conv(wide, weight, **attributes), dtype="int32")


def matched(function: Callable[..., Any], **arrays: Array | None) -> tuple[Any, Any, tuple[Array, ...]]:
    """The kernel whose pattern is all of a function, the region, and the arrays in the order of its inputs."""
    given = {name: array for name, array in arrays.items() if array is not None}
    names = list(given)
    graph = oy.trace(
        lambda *values: function(**dict(zip(names, values, strict=True))),
        *map(TensorSpec.of, given.values()),
    )
    kernels = [k for k in oy.default_registry().patterns if k.name.startswith("onednn_int8")]
    works = [(k, match.work) for k in kernels for match in find_matches(Pattern.of(k), graph)]
    ((kernel, work),) = [(k, w) for k, w in works if set(w.input_names) == set(names) and whole(w, graph)]
    return kernel, work, tuple(given[name] for name in work.input_names)


def whole(work: Any, graph: Any) -> bool:
    return len(work.graph.nodes) == len(graph.nodes)


def assert_same_bits(function: Callable[..., Any], **arrays: Array | None) -> None:
    """The kernel gives what the reference gives, whether the weights are known beforehand or not."""
    kernel, work, given = matched(function, **arrays)
    assert kernel.refusal(work, device()) is None
    (expected,) = work.reference(*given)
    is_weight = [name.startswith("weight") for name in work.input_names]
    known = tuple(array if fixed else None for array, fixed in zip(given, is_weight, strict=True))
    for constants in (None, known):
        found = kernel.bind(work, device(), constants)(*given)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, expected)


numbers = st.integers(-(2**31), 2**31 - 1) | st.integers(-128, 255)


@needs_int8
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_products_of_bytes_are_exact(data: st.DataObject) -> None:
    rows, depth, columns = (data.draw(st.integers(1, 70), name) for name in ("rows", "depth", "columns"))
    outer = data.draw(st.sampled_from([(), (2, 3)]), "outer")
    dtypes = [data.draw(st.sampled_from(["int8", "uint8"])) for _ in range(2)]
    x, weight = drawn_bytes(dtypes[0], *outer, rows, depth), drawn_bytes(dtypes[1], depth, columns)
    zero = data.draw(st.none() | numbers, "zero")
    weight_zero = data.draw(
        st.sampled_from([None, (), (1,), (columns,)]), "shape of the zero points of weights"
    )
    moved = None if weight_zero is None else np.asarray(data.draw(numbers) + np.zeros(weight_zero), np.int32)
    zeros = {"zero": None if zero is None else np.array(zero, np.int32)}
    if data.draw(st.booleans(), "folded"):
        folded = weight.astype(np.int32) - (np.zeros(1, np.int32) if moved is None else moved)
        assert_same_bits(product, x=x, weight=folded, **zeros)
    else:
        assert_same_bits(product, x=x, weight=weight, **zeros, weight_zero=moved)


@needs_int8
@pytest.mark.parametrize("dtypes", [("uint8", "int8"), ("int8", "int8"), ("int8", "uint8")])
@pytest.mark.parametrize("rows", [1, 7, 64])
def test_large_sums_of_bytes_are_exact(dtypes: tuple[str, str], rows: int) -> None:
    x = np.full((rows, 4001), np.iinfo(dtypes[0]).max, dtypes[0])
    weight = np.full((4001, 5), np.iinfo(dtypes[1]).max, dtypes[1])
    x[:, ::3] -= 1
    assert_same_bits(product, x=x, weight=weight)


@needs_int8
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_convolutions_of_bytes_are_exact(data: st.DataObject) -> None:
    images, weight, attributes = data.draw(convolutions(most_axes=2), "convolution")
    dtype = data.draw(st.sampled_from(["int8", "uint8"]), "dtype")
    x, w = drawn_bytes(dtype, *images), drawn_bytes("int8", *weight)
    zero = data.draw(st.none() | st.integers(-128, 255), "zero")
    given_zero = None if zero is None else np.array(zero, np.int32)

    def function(**arrays: Any) -> Any:
        return convolved(**arrays, **attributes)

    kernel_found, work, _ = matched(function, x=x, weight=w.astype(np.float64), zero=given_zero)
    if kernel_found.refusal(work, device()) is None:
        assert_same_bits(function, x=x, weight=w.astype(np.float64), zero=given_zero)


@needs_int8
@pytest.mark.parametrize("weight", [300.0, 0.5, np.nan, -129.0])
def test_weights_that_are_no_bytes_are_convolved_by_the_reference(weight: float) -> None:
    x, weights = drawn_bytes("uint8", 1, 4, 5, 5), np.ones((4, 4, 3, 3))
    weights[0, 0, 1, 1] = weight
    with np.errstate(invalid="ignore"):
        assert_same_bits(convolved, x=x, weight=weights)


@needs_int8
def test_int32_that_are_no_bytes_are_multiplied_by_the_reference() -> None:
    weight = GENERATOR.integers(-(2**31), 2**31, (16, 8)).astype(np.int32)
    assert_same_bits(product, x=drawn_bytes("int8", 4, 16), weight=weight)


@needs_int8
@pytest.mark.parametrize(
    ("low", "high"), [(0, 255), (-128, 127), (-300, -46), (2**31 - 256, 2**31 - 1), (0, 256)]
)
def test_int32_that_are_bytes_are_multiplied_as_bytes(low: int, high: int) -> None:
    x = GENERATOR.integers(low, high + 1, (9, 33)).astype(np.int32)
    x[0, :2] = low, high
    assert_same_bits(product, x=x, weight=drawn_bytes("int8", 33, 17).astype(np.int32))


@needs_int8
def test_products_that_share_a_tensor_without_its_zero_point_are_of_bytes() -> None:
    first, second = (drawn_bytes("int8", 256, 64).astype(np.int32) for _ in range(2))

    def model(x: Any, zero: Any) -> Any:
        whole = centred(x, zero)
        return oy.matmul(whole, first), oy.matmul(whole, second)

    x, zero = drawn_bytes("uint8", 64, 256), np.array(7, np.int32)
    assert kernels_of(model, x, zero)[-2:] == ["cpu/onednn_int8_matmul_shared"] * 2
    for found, weight in zip(oy.compile(model)(x, zero), (first, second), strict=True):
        np.testing.assert_array_equal(found, (x.astype(np.int32) - 7) @ weight)


@needs_int8
def test_a_model_of_bytes_goes_to_these_kernels() -> None:
    w1, w2 = drawn_bytes("int8", 32, 32, 3, 3), drawn_bytes("uint8", 32 * 16 * 16, 64)

    def model(x: Any, zero: Any) -> Any:
        folded = centred(w2, np.int32(131))
        y = convolved(x, oy.cast(oy.cast(w1, dtype="int32"), dtype="float64"), zero, padding=1)
        small = oy.cast(oy.minimum(oy.maximum(y, np.int32(-128)), np.int32(127)), dtype="int8")
        flat = oy.reshape(small, shape=(4, 32 * 16 * 16))
        return oy.matmul(oy.cast(flat, dtype="int32"), folded)

    x, zero = drawn_bytes("uint8", 4, 32, 16, 16), np.array(7, np.int32)
    found = kernels_of(model, x, zero)
    assert found[0] == "cpu/onednn_int8_conv_zero" and found[-1] == "cpu/onednn_int8_matmul"
    y = oy.conv.op.reference(x.astype(float) - 7, w1.astype(float), padding=1).clip(-128, 127)
    expected = y.astype(np.int32).reshape(4, -1) @ (w2.astype(np.int32) - 131)
    np.testing.assert_array_equal(oy.compile(model)(x, zero), expected)


def refused(function: Callable[..., Any], **arrays: Array | None) -> str:
    kernel, work, _ = matched(function, **arrays)
    return str(kernel.refusal(work, device()))


@needs_int8
def test_what_kernels_of_bytes_refuse() -> None:
    x, w = drawn_bytes("uint8", 4, 8), drawn_bytes("int8", 8, 4)
    assert refused(product, x=x[:0], weight=w) == "an empty tensor is nothing for oneDNN"
    assert refused(product, x=x[0], weight=w) == "takes stacks of rows and one matrix of weights"
    column, stack = np.ones((4, 1), np.int32), np.ones((8, 1), np.int32)
    assert refused(product, x=x, weight=w, zero=column).startswith("takes one zero point of x, not ")
    reason = refused(product, x=x, weight=w, weight_zero=stack)
    assert reason.startswith("takes one zero point of the weights, or one for each column, not ")
    images, deep = drawn_bytes("uint8", 1, 70000, 1, 1), np.ones((1, 70000, 1, 1))
    assert refused(convolved, x=images, weight=deep) == "sums of 70000 products of bytes may be beyond int32"
    half = x.astype(np.int16)
    assert refused(product, x=half, weight=w) == "takes x of int8, uint8, not int16"


def test_implementations_that_round_are_refused() -> None:
    class Found:
        implementation = "jit_int8:avx512_core_vnni"

    found: Any = Found()
    assert integers._exact(found, 514) == found
    assert integers._exact(found, 515) == (
        "oneDNN's jit_int8:avx512_core_vnni rounds sums of 515 products of bytes"
    )
