"""Activation functions, elementwise. Source: the ONNX operators of the same names unless stated otherwise.

References compute in float64. Tolerances allow each function of an expression its error in OpenCL C 3.0, section 7.4;
they are scaled where the expression cancels near a zero. At minus infinity the products with a vanishing factor (silu,
mish, gelu, ...) are NaN, as IEEE 754 has 0 * inf.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..cases import Case, Draw, Tolerance, case
from ..errors import SpecError
from ..infer import elementwise, require_kind
from ..opfunction import op
from ..scalar import erf as error_function
from ..spec import TensorSpec
from ._cases import binary_cases, unary_cases
from ._reference import precise
from .arithmetic import EXACT, Array, add, constant_like, multiply
from .comparison import greater
from .exponential import erf
from .selection import where
from .trigonometric import tanh

__all__ = [
    "celu",
    "elu",
    "gelu",
    "hard_sigmoid",
    "hard_swish",
    "hard_tanh",
    "leaky_relu",
    "log_sigmoid",
    "mish",
    "prelu",
    "quick_gelu",
    "relu",
    "relu6",
    "relu_gradient",
    "selu",
    "sigmoid",
    "silu",
    "softplus",
    "softsign",
    "thresholded_relu",
]

_KAPPA = math.sqrt(2 / math.pi)


def _activation(*nonzero: str) -> Callable[..., TensorSpec]:
    """Real floating numbers, and attributes that are numbers; those named must not be zero."""
    rule = elementwise("real floating")

    def infer(*specs: TensorSpec, **attributes: Any) -> TensorSpec:
        for name, value in attributes.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise SpecError(f"{name} is a number; found {value!r}.")
            if name in nonzero and value == 0:
                raise SpecError(f"{name} divides the input and must not be 0; use relu for the limit.")
        return rule(*specs)

    return infer


def _cases_with(**attributes: float) -> Callable[[], list[Case]]:
    """Numbers in [-6, 6], where every activation shows its bend and its limits; then with the attributes given."""

    def cases() -> list[Case]:
        given = (
            case(Draw((6, 5), "float32", -6, 6), **attributes),
            case(Draw((5,), "bfloat16", -6, 6), **attributes),
        )
        return [*unary_cases(-6, 6), *(given if attributes else ())]

    return cases


def _logistic(x: Any) -> Any:
    """1 / (1 + exp(-x)) without overflow."""
    decay = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, decay) / (1 + decay)


def _softplus(x: Any) -> Any:
    """log(1 + exp(x)) without overflow."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


@op(
    "relu",
    scalar="max(x, 0)",
    infer=elementwise("real"),
    cases=lambda: unary_cases(-6, 6, "int32", "uint8"),
    tolerance=EXACT,
)
def relu(x: Array) -> Array:
    """Rectifier: x above zero, else 0, elementwise. ``[...] -> [...]``. Source: Nair and Hinton 2010."""
    x = np.asarray(x)
    return np.maximum(x, np.zeros((), x.dtype))


def _relu_gradient_decompose(y: Array, g: Array) -> Array:
    return where(greater(y, constant_like(0, y)), g, constant_like(0, g))


@op(
    "relu_gradient",
    infer=elementwise("real floating"),
    decompose=_relu_gradient_decompose,
    cases=lambda: [*binary_cases(), case((2, 3, 4, 5), (2, 3, 4, 5))],
    tolerance=EXACT,
)
def relu_gradient(y: Array, g: Array) -> Array:
    """The gradient of ``relu``: ``g`` where relu's output (or input) ``y`` is above 0, else 0. ``[...], [...] -> [...]``."""
    return np.where(np.asarray(y) > 0, g, np.zeros((), np.asarray(g).dtype))


@op(
    "relu6",
    scalar="min(max(x, 0), 6)",
    infer=elementwise("real"),
    cases=lambda: unary_cases(-9, 9, "int32", "uint8"),
    tolerance=EXACT,
)
def relu6(x: Array) -> Array:
    """x limited to [0, 6], elementwise. ``[...] -> [...]``. Source: Krizhevsky 2010."""
    x = np.asarray(x)
    return np.minimum(np.maximum(x, np.zeros((), x.dtype)), np.full((), 6, x.dtype))


@op(
    "leaky_relu",
    scalar="x if x >= 0 else alpha * x",
    infer=_activation(),
    cases=_cases_with(alpha=0.2),
    tolerance=Tolerance(2),
)
def leaky_relu(x: Array, *, alpha: float = 0.01) -> Array:
    """x above zero, alpha * x below, elementwise. ``[...] -> [...]``. Source: Maas et al. 2013."""
    x = precise(x)
    return np.where(x >= 0, x, alpha * x)


@op(
    "prelu",
    scalar="x if x >= 0 else slope * x",
    infer=elementwise("real floating"),
    cases=binary_cases,
    tolerance=Tolerance(2),
)
def prelu(x: Array, slope: Array) -> Array:
    """x above zero, slope * x below, elementwise. ``[...], [...] -> [...]``, broadcast. Source: He et al. 2015."""
    x = precise(x)
    return np.where(x >= 0, x, precise(slope) * x)


@op(
    "thresholded_relu",
    scalar="0 if x <= alpha else x",
    infer=_activation(),
    cases=_cases_with(alpha=-0.5),
    tolerance=EXACT,
)
def thresholded_relu(x: Array, *, alpha: float = 1.0) -> Array:
    """x above alpha, else 0, elementwise. ``[...] -> [...]``. Source: Konda et al. 2014."""
    x = precise(x)
    return np.where(x <= alpha, 0, x)


@op(
    "elu",
    scalar="x if x > 0 else alpha * expm1(x)",
    infer=_activation(),
    cases=_cases_with(alpha=0.5),
    tolerance=Tolerance(6),
)
def elu(x: Array, *, alpha: float = 1.0) -> Array:
    """x above zero, alpha * (exp(x) - 1) below, elementwise. ``[...] -> [...]``. Source: Clevert et al. 2015."""
    x = precise(x)
    return np.where(x > 0, x, alpha * np.expm1(x))


@op(
    "selu",
    scalar="gamma * (x if x > 0 else alpha * expm1(x))",
    infer=_activation(),
    cases=_cases_with(alpha=1.5, gamma=2.0),
    tolerance=Tolerance(6),
)
def selu(
    x: Array, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875
) -> Array:
    """elu with slope gamma above zero, elementwise. ``[...] -> [...]``.

    The defaults keep mean 0 and variance 1 from layer to layer. Source: Klambauer et al. 2017.
    """
    x = precise(x)
    return gamma * np.where(x > 0, x, alpha * np.expm1(x))


@op(
    "celu",
    scalar="max(x, 0) + min(alpha * expm1(x / alpha), 0)",
    infer=_activation("alpha"),
    cases=_cases_with(alpha=2.0),
    tolerance=Tolerance(10),
)
def celu(x: Array, *, alpha: float = 1.0) -> Array:
    """x above zero, alpha * (exp(x / alpha) - 1) below, elementwise; smooth at 0. ``[...] -> [...]``. Source: Barron 2017."""
    x = precise(x)
    return np.maximum(x, 0) + np.minimum(alpha * np.expm1(x / alpha), 0)


@op("sigmoid", scalar="1 / (1 + exp(-x))", infer=_activation(), cases=_cases_with(), tolerance=Tolerance(8))
def sigmoid(x: Array) -> Array:
    """Logistic function 1 / (1 + exp(-x)), elementwise. ``[...] -> [...]``."""
    return _logistic(precise(x))


@op(
    "log_sigmoid",
    scalar="min(x, 0) - log1p(exp(-abs(x)))",
    infer=_activation(),
    cases=_cases_with(),
    tolerance=Tolerance(8),
)
def log_sigmoid(x: Array) -> Array:
    """Natural logarithm of sigmoid, elementwise, without underflow. ``[...] -> [...]``. Source: torch.nn.LogSigmoid."""
    return -_softplus(-precise(x))


@op(
    "softplus",
    scalar="max(x, 0) + log1p(exp(-abs(x)))",
    infer=_activation(),
    cases=_cases_with(),
    tolerance=Tolerance(8),
)
def softplus(x: Array) -> Array:
    """log(1 + exp(x)), elementwise, without overflow. ``[...] -> [...]``."""
    return _softplus(precise(x))


@op("softsign", scalar="x / (1 + abs(x))", infer=_activation(), cases=_cases_with(), tolerance=Tolerance(5))
def softsign(x: Array) -> Array:
    """x / (1 + abs(x)), elementwise; NaN at the infinities. ``[...] -> [...]``."""
    x = precise(x)
    return x / (1 + np.abs(x))


@op("silu", scalar="x / (1 + exp(-x))", infer=_activation(), cases=_cases_with(), tolerance=Tolerance(8))
def silu(x: Array) -> Array:
    """x * sigmoid(x), elementwise; also called swish. ``[...] -> [...]``. Source: Elfwing et al. 2017."""
    x = precise(x)
    return x * _logistic(x)


@op(
    "mish",
    scalar="x * tanh(max(x, 0) + log1p(exp(-abs(x))))",
    infer=_activation(),
    cases=_cases_with(),
    tolerance=Tolerance(16),
)
def mish(x: Array) -> Array:
    """x * tanh(softplus(x)), elementwise. ``[...] -> [...]``. Source: Misra 2019."""
    x = precise(x)
    return x * np.tanh(_softplus(x))


@op(
    "quick_gelu",
    scalar="x / (1 + exp(-alpha * x))",
    infer=_activation(),
    cases=_cases_with(alpha=1.5),
    tolerance=Tolerance(16),
)
def quick_gelu(x: Array, *, alpha: float = 1.702) -> Array:
    """x * sigmoid(alpha * x), elementwise: gelu by one exponential. ``[...] -> [...]``.

    Source: Hendrycks and Gimpel 2016, section 2; ONNX Runtime's QuickGelu.
    """
    x = precise(x)
    return x * _logistic(alpha * x)


def _gelu_spec(x: TensorSpec, *, approximate: str) -> TensorSpec:
    require_kind(x, "real floating")
    if approximate not in ("none", "tanh"):
        raise SpecError(f"approximate is 'none' or 'tanh'; found {approximate!r}.")
    return x


def _gelu(x: Array, *, approximate: str = "none") -> Array:
    if approximate == "tanh":
        cube = multiply(x, multiply(x, x))
        curve = tanh(multiply(add(x, multiply(cube, 0.044715)), _KAPPA))
    else:
        curve = erf(multiply(x, math.sqrt(0.5)))
    return multiply(multiply(x, 0.5), add(curve, 1.0))


def _gelu_cases() -> list[Case]:
    # A single negative number has nothing to scale the cancellation of 1 + erf by.
    draws = [c.inputs[0] for c in unary_cases(-6, 6)]
    inputs = [Draw((), "float32", 0.5, 2) if draw == Draw((), "float32", -6, 6) else draw for draw in draws]
    return [case(draw, approximate=curve) for draw in inputs for curve in ("none", "tanh")]


@op("gelu", infer=_gelu_spec, decompose=_gelu, cases=_gelu_cases, tolerance=Tolerance(18, scaled=True))
def gelu(x: Array, *, approximate: str = "none") -> Array:
    """x times the normal distribution's probability below x, elementwise. ``[...] -> [...]``.

    ``approximate="none"``: ``x/2 * (1 + erf(x / sqrt(2)))``; ``"tanh"``: ``x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 * x**3)))``.
    Source: Hendrycks and Gimpel 2016.
    """
    x = precise(x)
    if approximate == "tanh":
        return x / 2 * (1 + np.tanh(_KAPPA * (x + 0.044715 * x**3)))
    return x / 2 * (1 + error_function(x * math.sqrt(0.5)))


@op(
    "hard_sigmoid",
    scalar="max(min(alpha * x + beta, 1), 0)",
    infer=_activation(),
    cases=_cases_with(alpha=0.25, beta=0.4),
    tolerance=Tolerance(4, scaled=True),
)
def hard_sigmoid(x: Array, *, alpha: float = 0.2, beta: float = 0.5) -> Array:
    """alpha * x + beta limited to [0, 1], elementwise. ``[...] -> [...]``. Source: Courbariaux et al. 2015."""
    return np.clip(alpha * precise(x) + beta, 0, 1)


@op(
    "hard_swish",
    scalar="x * (max(min(x + 3, 6), 0) / 6)",
    infer=_activation(),
    cases=_cases_with(),
    tolerance=Tolerance(4, scaled=True),
)
def hard_swish(x: Array) -> Array:
    """x * hard_sigmoid(x, alpha=1/6, beta=0.5), elementwise. ``[...] -> [...]``. Source: Howard et al. 2019."""
    x = precise(x)
    return x * (np.clip(x + 3, 0, 6) / 6)


def _hard_tanh_spec(x: TensorSpec, *, min_value: float, max_value: float) -> TensorSpec:
    spec = _activation()(x, min_value=min_value, max_value=max_value)
    if min_value > max_value:
        raise SpecError(f"min_value={min_value} is above max_value={max_value}; exchange them.")
    return spec


@op(
    "hard_tanh",
    scalar="min(max(x, min_value), max_value)",
    infer=_hard_tanh_spec,
    cases=_cases_with(min_value=-0.5, max_value=2.0),
    tolerance=Tolerance(1),
)
def hard_tanh(x: Array, *, min_value: float = -1.0, max_value: float = 1.0) -> Array:
    """x limited to [min_value, max_value], elementwise. ``[...] -> [...]``. Source: Collobert 2004; torch.nn.Hardtanh."""
    return np.clip(precise(x), min_value, max_value)
