"""Activation functions against independent formulas, at their bends, their limits and in narrow dtypes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import scipy.special
import scipy.stats

from opyard.eager import using
from opyard.errors import SpecError
from opyard.ops import activation
from opyard.runtime import standard_registry
from opyard.spec import TensorSpec

INF, NAN = math.inf, math.nan
X = np.concatenate([np.linspace(-40, 40, 81), [-700.0, 700.0, -0.0, 1e-12, -1e-12, 3.0, -3.0, 2.5, -2.5]])


def run(function: Any, *arrays: Any, **attributes: Any) -> np.ndarray[Any, Any]:
    """The reference's result; numbers and lists are float32."""
    given = [a if isinstance(a, np.ndarray) else np.asarray(a, np.float32) for a in arrays]
    call = function.op.call(*map(TensorSpec.of, given), **attributes)
    with np.errstate(all="ignore"):
        result: np.ndarray[Any, Any] = call.reference(*given)[0]
    return result


def elu(x: float, alpha: float = 1.0) -> float:
    return x if x > 0 else alpha * math.expm1(x)


FORMULAS: dict[str, Callable[[float], float]] = {
    "relu": lambda x: x if x > 0 else 0.0,
    "relu6": lambda x: min(max(x, 0.0), 6.0),
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "thresholded_relu": lambda x: x if x > 1 else 0.0,
    "elu": elu,
    "selu": lambda x: 1.05070102214813232421875 * elu(x, 1.67326319217681884765625),
    "celu": elu,
    "sigmoid": scipy.special.expit,
    "log_sigmoid": scipy.special.log_expit,
    "softplus": lambda x: -scipy.special.log_expit(-x),
    "softsign": lambda x: x / (1 + math.fabs(x)),
    "silu": lambda x: x * scipy.special.expit(x),
    "mish": lambda x: x * math.tanh(-scipy.special.log_expit(-x)),
    "quick_gelu": lambda x: x * scipy.special.expit(1.702 * x),
    "hard_sigmoid": lambda x: max(0.0, min(1.0, 0.2 * x + 0.5)),
    "hard_swish": lambda x: x * max(0.0, min(1.0, x / 6 + 0.5)),
    "hard_tanh": lambda x: max(-1.0, min(1.0, x)),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name: str) -> None:
    expected = [FORMULAS[name](float(x)) for x in X]
    np.testing.assert_allclose(run(getattr(activation, name), X), expected, rtol=2e-13, atol=1e-300)


def test_every_activation_is_compared() -> None:
    assert {*FORMULAS, "gelu", "prelu", "relu_gradient"} == set(activation.__all__)


def test_the_gradient_of_relu_passes_where_it_is_above_zero() -> None:
    y = np.array([-1.0, -0.0, 0.0, 2.0, np.nan, np.inf])
    found = run(activation.relu_gradient, y, np.array([7.0, np.inf, np.nan, -3.0, 5.0, np.nan]))
    np.testing.assert_array_equal(found, [0.0, 0.0, 0.0, -3.0, 0.0, np.nan])


def test_gelu_is_x_times_the_normal_distribution() -> None:
    expected = X * scipy.stats.norm.cdf(X)
    np.testing.assert_allclose(run(activation.gelu, X), expected, atol=1e-15)


def test_gelu_by_tanh_is_near_the_exact_one() -> None:
    exact, approximate = run(activation.gelu, X), run(activation.gelu, X, approximate="tanh")
    np.testing.assert_allclose(approximate, exact, atol=5e-4)
    assert run(activation.gelu, np.array(1.0), approximate="tanh") == pytest.approx(
        0.8411919906082768, rel=1e-14
    )


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_decomposition_keeps_the_dtype(approximate: str) -> None:
    x = np.linspace(-3, 3, 13).astype(ml_dtypes.bfloat16)
    decompose: Any = activation.gelu.op.decompose
    with using(registry=standard_registry()):
        found = decompose(x, approximate=approximate)
    assert found.dtype == x.dtype
    np.testing.assert_allclose(
        found.astype(np.float64), run(activation.gelu, x).astype(np.float64), atol=0.03
    )


@pytest.mark.parametrize(
    ("name", "at_minus_infinity"),
    [
        *(
            ("relu", 0.0),
            ("relu6", 0.0),
            ("leaky_relu", -INF),
            ("thresholded_relu", 0.0),
            ("elu", -1.0),
            ("celu", -1.0),
        ),
        *(
            ("selu", np.float32(-1.7580993175506592)),
            ("sigmoid", 0.0),
            ("log_sigmoid", -INF),
            ("softplus", 0.0),
        ),
        *(
            ("hard_sigmoid", 0.0),
            ("hard_tanh", -1.0),
            ("silu", NAN),
            ("mish", NAN),
            ("gelu", NAN),
            ("quick_gelu", NAN),
        ),
        *(("hard_swish", NAN), ("softsign", NAN)),
    ],
)
def test_infinities_and_nan(name: str, at_minus_infinity: float) -> None:
    found = run(getattr(activation, name), [-INF, NAN, INF])
    np.testing.assert_allclose(found[:2], [at_minus_infinity, NAN], rtol=1e-6)
    above = {
        "relu6": 6.0,
        "sigmoid": 1.0,
        "log_sigmoid": 0.0,
        "hard_sigmoid": 1.0,
        "hard_tanh": 1.0,
        "softsign": NAN,
    }
    np.testing.assert_array_equal(found[2], above.get(name, INF))


def test_attributes_shape_the_curve() -> None:
    x = [-2.0, 3.0]
    np.testing.assert_allclose(run(activation.leaky_relu, x, alpha=0.5), [-1, 3])
    np.testing.assert_allclose(run(activation.elu, x, alpha=2.0), [2 * math.expm1(-2), 3], rtol=1e-6)
    np.testing.assert_allclose(run(activation.celu, x, alpha=2.0), [2 * math.expm1(-1), 3], rtol=1e-6)
    np.testing.assert_allclose(
        run(activation.selu, x, alpha=1.0, gamma=2.0), [2 * math.expm1(-2), 6], rtol=1e-6
    )
    np.testing.assert_allclose(run(activation.thresholded_relu, x, alpha=3.0), [0, 0])
    np.testing.assert_allclose(run(activation.hard_sigmoid, x, alpha=0.1, beta=0.4), [0.2, 0.7], rtol=1e-6)
    np.testing.assert_allclose(run(activation.hard_tanh, x, min_value=-3.0, max_value=2.5), [-2, 2.5])
    np.testing.assert_allclose(run(activation.quick_gelu, x, alpha=1.0), run(activation.silu, x))


def test_prelu_broadcasts_its_slopes() -> None:
    x = np.array([[-1.0, 2.0], [-3.0, -4.0]], np.float32)
    np.testing.assert_array_equal(run(activation.prelu, x, [0.5, 2.0]), [[-0.5, 2], [-1.5, -8]])


def test_relu_of_integers_and_zeros() -> None:
    np.testing.assert_array_equal(run(activation.relu, np.array([-3, 0, 2**62 + 1])), [0, 0, 2**62 + 1])
    np.testing.assert_array_equal(run(activation.relu6, np.array([0, 5, 200], np.uint8)), [0, 5, 6])
    assert run(activation.relu, np.ones((0, 2), np.float32)).shape == (0, 2)


@pytest.mark.parametrize("name", [*FORMULAS, "gelu", "prelu"])
def test_narrow_result_is_rounded_once(name: str) -> None:
    x = np.linspace(-5, 5, 41).astype(np.float16)
    function = getattr(activation, name)
    inputs = (x, np.array(0.25, np.float16)) if name == "prelu" else (x,)
    narrow = run(function, *inputs)
    exact = run(function, *(i.astype(np.float64) for i in inputs)).astype(np.float16)
    np.testing.assert_array_equal(narrow, exact)


@pytest.mark.parametrize(
    ("function", "dtype", "attributes", "text"),
    [
        (activation.sigmoid, "int32", {}, "must be real floating, it is int32"),
        (activation.silu, "complex64", {}, "must be real floating"),
        (activation.relu, "complex64", {}, "must be real"),
        (activation.gelu, "int32", {}, "must be real floating"),
        (activation.gelu, "float32", {"approximate": "erf"}, "approximate is 'none' or 'tanh'; found 'erf'"),
        (activation.leaky_relu, "float32", {"alpha": "0.1"}, "alpha is a number; found '0.1'"),
        (activation.elu, "float32", {"alpha": None}, "alpha is a number; found None"),
        (
            activation.celu,
            "float32",
            {"alpha": 0.0},
            "alpha divides the input and must not be 0; use relu for the limit",
        ),
        (
            activation.hard_tanh,
            "float32",
            {"min_value": 2.0},
            "min_value=2.0 is above max_value=1.0; exchange them",
        ),
    ],
)
def test_refused(function: Any, dtype: str, attributes: dict[str, Any], text: str) -> None:
    with pytest.raises(SpecError, match=text):
        function.op.call(TensorSpec((2,), dtype), **attributes)
