"""Special values, limits of integers, accuracy over whole ranges, and odd sizes on an OpenCL device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from opyard.ops import STANDARD
from opyard.registry import Registry
from opyard.spec import TensorSpec, as_dtype
from opyard.testing import violation
from opyard_opencl import plugin

_REGISTRY = Registry()
_REGISTRY.ops_from(STANDARD)
plugin.opyard_register(_REGISTRY)


def _run(device: Any, name: str, *arrays: np.ndarray[Any, Any] | None, **attributes: Any) -> Any:
    """What a kernel of the op gives for NumPy arrays, what the reference gives, and how a kernel differs if one does."""
    declared = STANDARD[name].op
    call = declared.call(*(None if a is None else TensorSpec.of(a) for a in arrays), **attributes)
    kernels = [kernel for kernel in _REGISTRY.kernels(name) if kernel.refusal(call, device) is None]
    assert kernels
    given = [None if a is None else device.upload(a) for a in arrays]
    results = [device.download(kernel.bind(call, device)(*given)) for kernel in kernels]
    differences = [violation(call, arrays, [found]) for found in results]
    return results[0], call.reference(*arrays)[0], next(filter(None, differences), None)


_SPECIAL = np.array(
    [
        np.nan,
        np.inf,
        -np.inf,
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        -0.5,
        1e-30,
        -1e-30,
        1e-42,
        88.7,
        -87.5,
        -103.0,
        3e38,
        -3e38,
    ],
    np.float32,
)


@pytest.mark.parametrize(
    "name",
    [
        "abs",
        "acosh",
        "exp",
        "expm1",
        "log",
        "log1p",
        "tanh",
        "erf",
        "sigmoid",
        "sign",
        "sqrt",
        "round",
        "floor",
        "isnan",
        "isinf",
        "isfinite",
        "signbit",
        "relu",
    ],
)
def test_special_values(name: str, opencl: Any) -> None:
    _, _, difference = _run(opencl, name, _SPECIAL)
    assert difference is None


@pytest.mark.parametrize("name", ["expm1", "tanh", "erf"])
def test_zeros_keep_their_sign(name: str, opencl: Any) -> None:
    found, _, _ = _run(opencl, name, np.array([0.0, -0.0] * 20, np.float32))
    np.testing.assert_array_equal(np.signbit(found), [False, True] * 20)


@pytest.mark.parametrize(
    "name", ["maximum", "minimum", "logaddexp", "pow", "remainder", "floor_divide", "fmod", "equal", "less"]
)
def test_special_pairs(name: str, opencl: Any) -> None:
    values = _SPECIAL[:10]
    _, _, difference = _run(opencl, name, values[:, None], values)
    assert difference is None


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("exp", -103.0, 89.0),
        ("expm1", -20.0, 88.0),
        ("tanh", -10.0, 10.0),
        ("sigmoid", -110.0, 110.0),
        ("erf", -5.0, 5.0),
        ("log", 1e-6, 1e6),
        ("log1p", -0.999, 9.0),
    ],
)
def test_polynomials_over_their_range(name: str, low: float, high: float, opencl: Any) -> None:
    values = np.concatenate(
        [np.linspace(low, high, 100_001), np.linspace(-0.9, 0.9, 20_001).clip(max(low, -0.9))]
    ).astype(np.float32)
    declared = STANDARD[name].op
    (kernel,) = _REGISTRY.kernels(name)
    result = kernel.bind(declared.call(TensorSpec.of(values)), opencl)(opencl.upload(values))
    with np.errstate(over="ignore"):
        exact = declared.reference(values.astype(np.float64)).astype(np.float32)  # the reference in float64
    assert declared.tolerance.violation(opencl.download(result), exact) is None


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8"])
@pytest.mark.parametrize("name", ["floor_divide", "remainder", "fmod"])
def test_integer_division_at_its_limits(name: str, dtype: str, opencl: Any) -> None:
    limits = np.iinfo(dtype)
    left = np.array([limits.min, limits.max, 7, 0, 5], dtype)
    right = np.array([limits.max, 2, 3, 1] + ([-1, -3] if limits.min else []), dtype)
    found, expected, _ = _run(opencl, name, left[:, None], right)
    np.testing.assert_array_equal(found, expected)


def test_integer_division_by_zero_gives_zero_and_not_a_signal(opencl: Any) -> None:
    left, right = np.array([5, -5, 0], np.int32), np.zeros(3, np.int32)
    found, _, _ = _run(opencl, "floor_divide", left, right)
    np.testing.assert_array_equal(found, 0)


def test_shifts_by_the_width_and_more(opencl: Any) -> None:
    left, right = np.array([-8, 8, 1], np.int32)[:, None], np.array([0, 1, 31, 32, 40], np.int32)
    for name in ("bitwise_left_shift", "bitwise_right_shift"):
        found, expected, _ = _run(opencl, name, left, right)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_floats_round_to_even(dtype: str, opencl: Any) -> None:
    values = np.random.default_rng(0).normal(size=4096).astype(np.float32) * np.logspace(
        -9, 5, 4096, dtype=np.float32
    )
    values = np.concatenate([values, [np.inf, -np.inf, 0, -0.0, 65504, 65519, 65520, 6e-8, 2.9e-8]]).astype(
        np.float32
    )
    with np.errstate(over="ignore"):
        narrow = values.astype(as_dtype(dtype))
    found, expected, _ = _run(opencl, "positive", narrow)
    np.testing.assert_array_equal(found.view(np.uint16), expected.view(np.uint16))
    found, expected, _ = _run(opencl, "add", narrow, narrow)
    np.testing.assert_array_equal(found.view(np.uint16), expected.view(np.uint16))


@pytest.mark.parametrize("axis", [None, 0, 1, (0, 2), (1, 2)])
@pytest.mark.parametrize("name", ["sum", "max"])
def test_long_reductions_keep_their_digits(name: str, axis: Any, opencl: Any) -> None:
    x = np.random.default_rng(1).uniform(0.5, 1.5, (37, 129, 61)).astype(np.float32)
    found, expected, _ = _run(opencl, name, x, axis=axis)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_sum_of_infinities(opencl: Any) -> None:
    x = np.array([[1, np.inf, 2], [np.inf, -np.inf, 0], [np.nan, 1, 2]], np.float32)
    with np.errstate(invalid="ignore"):
        found, expected, _ = _run(opencl, "sum", x, axis=1)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("shape", [(6, 16, 16), (7, 300, 17), (1, 33, 5), (13, 1, 40)])
def test_products_of_odd_sizes(shape: tuple[int, int, int], opencl: Any) -> None:
    m, k, n = shape
    generator = np.random.default_rng(2)
    a, b = generator.normal(size=(m, k)).astype(np.float32), generator.normal(size=(k, n)).astype(np.float32)
    _, _, difference = _run(opencl, "matmul", a, b)
    assert difference is None


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_weights_that_are_not_finite_touch_no_padding(value: float, opencl: Any) -> None:
    """Zeros beyond the borders times infinity would be NaN: these products must not be part of the sum."""
    generator = np.random.default_rng(5)
    x = generator.normal(size=(2, 4, 5, 7)).astype(np.float32)
    weight = generator.normal(size=(4, 3, 3, 3)).astype(np.float32)
    weight[1, 2, 0, 2] = value
    bias = np.ones(6, np.float32)
    found, _, difference = _run(
        opencl, "conv_transpose", x, weight, bias, strides=(2, 1), padding=(1, 0), groups=2
    )
    assert difference is None
    assert np.isfinite(found).any()
    assert not np.isfinite(found).all()


@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": 5},  # places that no tap reaches
        {"strides": (1, 3), "padding": ((2, 0), (0, 1)), "output_padding": (0, 2)},
        {"strides": 2, "dilations": (3, 2), "padding": "same_lower", "groups": 3},
    ],
)
def test_transposed_convolutions_of_odd_geometry(attributes: dict[str, Any], opencl: Any) -> None:
    generator = np.random.default_rng(6)
    x = generator.normal(size=(2, 6, 13, 19)).astype(np.float32)
    weight = generator.normal(size=(6, 2, 3, 4)).astype(np.float32)
    _, _, difference = _run(opencl, "conv_transpose", x, weight, None, **attributes)
    assert difference is None
