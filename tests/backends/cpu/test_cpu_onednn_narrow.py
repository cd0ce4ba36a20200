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
from opyard.spec import TensorSpec
from opyard_cpu.onednn import bfloat16, library, processors

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


def assert_close(found: Array, expected: Array) -> None:
    """Within one step of bfloat16 of the reference, beside what sums of another order differ by."""
    assert found.dtype == expected.dtype == ml_dtypes.bfloat16
    wide = [array.astype(np.float32) for array in (found, expected)]
    np.testing.assert_allclose(*wide, rtol=2**-7, atol=1e-4)


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
    rank = data.draw(st.integers(1, 3), "rank")
    sizes = data.draw(st.lists(st.integers(3, 8), min_size=rank, max_size=rank), "sizes")
    kernel = data.draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank), "kernel")
    groups = data.draw(st.sampled_from([1, 1, 2]), "groups")
    channels, outputs = groups * data.draw(st.integers(1, 17)), groups * data.draw(st.integers(1, 17))
    attributes = {
        "strides": data.draw(st.integers(1, 2), "strides"),
        "padding": data.draw(st.sampled_from([0, 1, "same_upper", "same_lower"]), "padding"),
        "groups": groups,
    }
    x, w = drawn(2, channels, *sizes), drawn(outputs, channels // groups, *kernel)
    b = data.draw(st.sampled_from([None, drawn(outputs)]))
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
