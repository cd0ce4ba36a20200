"""Accuracy of the CPU kernels where case lists do not go: extremes, blocks, ties and large convolutions."""

from __future__ import annotations

import importlib
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import opyard as oy
from opyard.errors import SpecError
from opyard.operation import Op
from opyard.registry import Registry
from opyard.spec import TensorSpec
from opyard.testing import violation
from opyard_cpu import elementwise, plugin, reduction, sorting

REGISTRY = Registry()
plugin.opyard_register(REGISTRY)
DEVICE = REGISTRY.device("cpu:0")


def _op(module: str, name: str) -> Op:
    declared = getattr(importlib.import_module(f"opyard.ops.{module}"), name).op
    assert isinstance(declared, Op)
    return declared


def _compare(declared: Op, *arrays: Any, **attributes: Any) -> None:
    specs = [None if array is None else TensorSpec.of(array) for array in arrays]
    call = declared.call(*specs, **attributes)
    kernels = [
        k for k in REGISTRY.kernels(declared.name) if not k.layouts and k.refusal(call, DEVICE) is None
    ]
    assert kernels
    for kernel in kernels:
        result = kernel.bind(call, DEVICE)(*arrays)
        results = result if call.is_tuple else (result,)
        assert violation(call, arrays, results) is None, kernel


def _random(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_erf_within_four_epsilon(dtype: Any) -> None:
    positive = np.concatenate([np.geomspace(1e-30, 1, 4001), np.linspace(0, 7, 20001)])
    x = np.concatenate([positive, -positive]).astype(dtype)
    expected = np.array([math.erf(value) for value in x])
    error = np.abs(elementwise.erf(x) - expected)
    assert np.all(error <= 4 * np.finfo(dtype).eps * np.abs(expected))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_erf_of_special_values(dtype: Any) -> None:
    x = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1e30, -1e30], dtype)
    found = elementwise.erf(x)
    np.testing.assert_array_equal(found, np.array([1, -1, np.nan, 0, 0, 1, -1], dtype))
    assert not np.signbit(found[3]) and np.signbit(found[4])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "name", ["sigmoid", "log_sigmoid", "softplus", "silu", "mish", "softsign", "elu", "selu", "celu"]
)
def test_activations_at_extremes(name: str, dtype: Any) -> None:
    x = np.array([-1e30, -1e4, -60, -20, -1e-20, -0.0, 0.0, 1e-20, 20, 60, 1e4, 1e30, np.nan, np.inf], dtype)
    _compare(_op("activation", name), x)


def test_sigmoid_is_monotonic_and_bounded() -> None:
    y = elementwise.sigmoid(np.linspace(-200, 200, 9999, dtype=np.float32))
    assert y[0] == 0 and y[-1] == 1
    assert np.all(np.diff(y) >= 0)


@pytest.mark.parametrize("size", [elementwise.BLOCK - 1, elementwise.BLOCK, 2 * elementwise.BLOCK + 3])
def test_blocks_cover_everything(size: int) -> None:
    x = np.linspace(-5, 5, size, dtype=np.float32)
    whole = np.concatenate([elementwise.silu(part) for part in np.array_split(x, 7)])
    np.testing.assert_array_equal(elementwise.silu(x), whole)


@pytest.mark.parametrize("alpha", [-0.5, 0.0, 0.3, 1.0, 2.0])
def test_leaky_relu_of_any_slope(alpha: float) -> None:
    x = np.array([-np.inf, -3, -0.0, 0.0, 2, np.inf, np.nan], np.float32)
    _compare(_op("activation", "leaky_relu"), x, alpha=alpha)


@pytest.mark.parametrize(
    ("shape", "weight", "attributes"),
    [
        pytest.param((2, 32, 30, 29), (48, 32, 3, 3), {"padding": 1}, id="blocks of rows"),
        pytest.param((9, 24, 7, 7), (16, 24, 3, 3), {"padding": 1}, id="several images"),
        pytest.param((2, 24, 15, 15), (40, 24, 1, 1), {"strides": 2}, id="pointwise with strides"),
        pytest.param((2, 24, 9, 9), (40, 12, 1, 1), {"groups": 2}, id="pointwise with groups"),
        pytest.param((2, 40, 33, 31), (40, 1, 5, 3), {"padding": "same_upper", "groups": 40}, id="depthwise"),
        pytest.param(
            (2, 10, 19, 17), (30, 1, 3, 3), {"padding": 1, "groups": 10, "strides": 2}, id="depthwise times 3"
        ),
        pytest.param(
            (1, 6, 9, 9),
            (6, 1, 3, 3),
            {"padding": 4, "dilations": 4, "groups": 6},
            id="taps beyond the input",
        ),
        pytest.param((1, 32, 40, 40), (32, 4, 3, 3), {"padding": 1, "groups": 8}, id="groups"),
        pytest.param((2, 3, 64, 64), (16, 3, 7, 7), {"padding": 3, "strides": 2}, id="first layer"),
        pytest.param((1, 4, 12, 13, 14), (8, 4, 3, 3, 3), {"padding": 1}, id="volume"),
        pytest.param((2, 8, 500), (8, 8, 9), {"padding": "same_lower", "dilations": 2}, id="signal"),
    ],
)
def test_convolutions_of_real_sizes(
    shape: tuple[int, ...],
    weight: tuple[int, ...],
    attributes: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from opyard_cpu import convolution

    for column_bytes in (1 << 16, 1 << 22):  # small enough to need several blocks, and as shipped
        monkeypatch.setattr(convolution, "COLUMN_BYTES", column_bytes)
        monkeypatch.setattr(convolution, "DEPTHWISE_BYTES", column_bytes)
        _compare(
            _op("convolution", "conv"), _random(*shape), _random(*weight), _random(weight[0]), **attributes
        )


def test_transposed_convolution_of_real_size() -> None:
    arrays = (_random(2, 32, 14, 15), _random(32, 12, 4, 4), _random(24))
    _compare(_op("convolution", "conv_transpose"), *arrays, strides=2, padding=1, groups=2)


@pytest.mark.parametrize(
    "attributes", [{"kernel": 3, "strides": 2, "padding": 1}, {"kernel": 7, "ceil_mode": True}]
)
@pytest.mark.parametrize("name", ["max_pool", "average_pool"])
def test_pooling_of_real_sizes(name: str, attributes: dict[str, Any]) -> None:
    _compare(_op("pooling", name), _random(3, 40, 60, 61), **attributes)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("axis", [0, -1])
def test_softmax_of_large_numbers_and_several_blocks(name: str, axis: int) -> None:
    x = _random(300, 400) * 100
    x[0, :3] = (np.inf, -np.inf, np.nan)
    x[7] = -np.inf
    _compare(_op("normalization", name), x, axis=axis)


def test_normalizations_of_several_blocks() -> None:
    x, scale, bias = _random(300, 1000), _random(1000), _random(1000)
    _compare(_op("normalization", "layer_normalization"), x, scale, bias)
    _compare(_op("normalization", "rms_normalization"), x, scale)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_over_several_blocks_of_rows(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from opyard_cpu import attention

    monkeypatch.setattr(attention, "SCORE_BYTES", 1 << 14)
    query, key, value = _random(1, 4, 150, 16), _random(1, 2, 130, 16), _random(1, 2, 130, 8)
    mask = np.random.default_rng(0).random((150, 130)) > 0.3
    mask[5] = False
    _compare(_op("attention", "scaled_dot_product_attention"), query, key, value, mask, causal=causal)


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("special", [None, np.nan, np.inf])
def test_top_k_takes_the_first_of_equals(largest: bool, special: float | None) -> None:
    x = np.random.default_rng(3).integers(0, 6, (50, 40)).astype(np.float32)
    if special is not None:
        x[::3, ::7] = special
    for k in (1, 5, 39, 40):
        _compare(_op("sorting", "top_k"), x, k=k, largest=largest)


def test_slice_limits_beyond_both_ends() -> None:
    x = np.arange(7)
    for start in (None, -20, -8, -7, -1, 0, 3, 6, 7, 20):
        for stop in (None, -20, -8, -7, -1, 0, 3, 6, 7, 20):
            for step in (1, 2, -1, -3):
                _compare(_op("slicing", "slice"), x, starts=(start,), stops=(stop,), steps=(step,))


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "uint64"])
def test_gather_takes_every_index_dtype(dtype: str) -> None:
    _compare(_op("indexing", "gather"), _random(5, 4), np.array([[0, 4], [2, 2]], dtype), axis=0)


def test_gather_out_of_range() -> None:
    declared = _op("indexing", "gather")
    x, indices = _random(5, 4), np.array([5])
    run = REGISTRY.kernels("gather")[0].bind(declared.call(TensorSpec.of(x), TensorSpec.of(indices)), DEVICE)
    with pytest.raises(IndexError, match="out of bounds"):
        run(x, indices)


def test_what_an_op_refuses_is_refused_after_a_right_call_too() -> None:
    registry = oy.standard_registry()
    plugin.opyard_register(registry)
    with oy.using(registry=registry):
        oy.cumulative_sum(_random(4))
        with pytest.raises(SpecError, match="axis may be left out only for a tensor of rank 1"):
            oy.cumulative_sum(_random(4, 4))
        oy.depth_to_space(_random(1, 8, 2, 3), block_size=2)
        with pytest.raises(SpecError, match="the number of channels"):
            oy.depth_to_space(_random(1, 9, 2, 3), block_size=2)
        oy.global_max_pool(_random(1, 2, 3))
        with pytest.raises(SpecError, match="global_max_pool"):
            oy.global_max_pool(_random(1, 2, 3, 3, 3, 3))
    with pytest.raises(ValueError, match="axis=None is for one axis; there are 2"):
        reduction.cumulative_sum(_random(4, 4), axis=None, exclusive=False, reverse=False)
    with pytest.raises(ValueError, match="there are 3 elements along axis 0, not 5"):
        sorting.top_k(_random(3), k=5, axis=0, largest=True, sorted=True)


def test_attention_refuses_mixed_dtypes() -> None:
    declared = _op("attention", "scaled_dot_product_attention")
    (kernel,) = (k for k in REGISTRY.kernels(declared.name) if k.name == "blas")
    spec = TensorSpec((1, 2, 3, 4))
    narrow, wide = spec.with_dtype("float16"), TensorSpec((3, 3), "float64")
    assert (
        kernel.refusal(declared.call(narrow, narrow, narrow), DEVICE)
        == "takes float32 or float64, not float16"
    )
    assert (
        kernel.refusal(declared.call(spec, spec, spec, wide), DEVICE) == "takes mask of float32, not float64"
    )


def test_mixed_precision_gives_the_promoted_dtype() -> None:
    x, weight = _random(2, 4, 9, 9), _random(6, 2, 3, 3).astype(np.float64)
    _compare(_op("convolution", "conv"), x, weight, _random(6), groups=2)
    _compare(_op("convolution", "conv"), x, _random(4, 1, 3, 3).astype(np.float64), None, groups=4)
    _compare(_op("linear_algebra", "linear"), _random(3, 4), _random(4, 5), _random(5).astype(np.float64))
    _compare(_op("normalization", "layer_normalization"), _random(3, 4), _random(4).astype(np.float64), None)


def test_a_prepared_convolution_runs_in_several_threads() -> None:
    declared = _op("convolution", "conv")
    weight, inputs = _random(16, 8, 3, 3), [_random(2, 8, 20, 20) * (i + 1) for i in range(8)]
    call = declared.call(TensorSpec.of(inputs[0]), TensorSpec.of(weight), padding=1)
    run = next(k for k in REGISTRY.kernels("conv") if k.name == "im2col").bind(call, DEVICE)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda x: run(x, weight), inputs))
    for x, found in zip(inputs, results, strict=True):
        assert violation(call, [x, weight], [found]) is None


def test_estimates_know_the_way_of_a_convolution() -> None:
    from opyard_cpu import convolution

    declared, image = _op("convolution", "conv"), TensorSpec((1, 64, 56, 56))
    full = declared.call(image, TensorSpec((64, 64, 3, 3)), padding=1)
    pointwise = declared.call(image, TensorSpec((64, 64, 1, 1)))
    depthwise = declared.call(image, TensorSpec((64, 1, 3, 3)), padding=1, groups=64)
    seconds = [convolution.cost(call, DEVICE) for call in (pointwise, depthwise, full)]
    per_operation = [
        s / call.cost.flops for s, call in zip(seconds, (pointwise, depthwise, full), strict=True)
    ]
    assert seconds[0] < seconds[2]
    assert per_operation[1] == max(per_operation)
