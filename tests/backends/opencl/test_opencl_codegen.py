"""The printer of scalar expressions."""

from __future__ import annotations

from typing import Any

import pytest

from opyard.scalar import FUNCTIONS, Scalar
from opyard_opencl.codegen import Unprintable, expression, variable
from opyard_opencl.formats import literal


@pytest.mark.parametrize(
    ("text", "compute", "printed"),
    [
        ("x + 1", "float", "(v_x + (1.0f))"),
        ("x + 1", "double", "(v_x + (1.0))"),
        ("x + 1", "char", "((char)(v_x + ((char)(1))))"),
        ("-x * y", "float", "((-v_x) * v_y)"),
        ("x // y", "int", "((int)(floor_divide(v_x, v_y)))"),
        ("x % y", "float", "(modulo(v_x, v_y))"),
        ("x if x > 0 else y", "float", "(((v_x > (0.0f))) != 0 ? v_x : v_y)"),
        ("max(x, min(y, 6))", "float", "greatest_of(v_x, least_of(v_y, (6.0f)))"),
        ("tanh(x)", "float", "hyperbolic_tangent(v_x)"),
        ("x and not y", "uchar", "(((v_x) != 0) && ((((v_y) == 0)) != 0))"),
        ("round(x)", "float", "rint(v_x)"),
        ("round(x)", "int", "v_x"),
        ("isnan(x)", "int", "((v_x), 0)"),
        ("alpha * x", "float", "((0.25f) * v_x)"),
    ],
)
def test_expressions(text: str, compute: str, printed: str) -> None:
    assert expression(Scalar(text, ("x", "y", "alpha")), compute, {"alpha": 0.25}) == printed


def test_inversion_of_truth_values_is_logical() -> None:
    scalar = Scalar("~x", ("x",))
    assert expression(scalar, "uchar", {}, frozenset({"x"})) == "((v_x) == 0)"
    assert expression(scalar, "uchar", {}) == "((uchar)(~v_x))"


@pytest.mark.parametrize(
    ("text", "compute", "attributes", "reason"),
    [
        ("exp(x)", "int", {}, "exp computes in floating numbers, not in int"),
        ("x / 2", "int", {}, "x / 2 has no meaning for int"),
        ("x & 1", "float", {}, "x & 1 has no meaning for float"),
        ("~x", "float", {}, "~x has no meaning for float"),
        ("x * 0.5", "int", {}, "computes in int, which cannot hold 0.5"),
        ("x * alpha", "float", {"alpha": "fast"}, "needs numbers as attributes; alpha is 'fast'"),
    ],
)
def test_what_a_type_cannot_do(text: str, compute: str, attributes: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unprintable, match=reason.replace("*", r"\*")):
        expression(Scalar(text, ("x", "alpha")), compute, attributes)


def test_every_function_of_the_language_is_printed_for_floats() -> None:
    for name in FUNCTIONS:
        arguments = "x, y" if name in _TWO else "x"
        assert expression(Scalar(f"{name}({arguments})", ("x", "y")), "float", {})


_TWO = {"hypot", "copysign", "nextafter", "logaddexp", "fmod", "atan2", "min", "max", "pow"}


@pytest.mark.parametrize(
    ("value", "compute", "text"),
    [
        (float("nan"), "float", "((float)NAN)"),
        (float("-inf"), "double", "(double)(-INFINITY)"),
        (0.1, "float", "(0.1f)"),
        (0.1, "double", "(0.1)"),
        (True, "int", "((int)(1))"),
        (2**40, "long", "((long)(1099511627776L))"),
        (2**64 - 1, "ulong", "((ulong)(18446744073709551615UL))"),
        (-(2**63), "long", "LONG_MIN"),
    ],
)
def test_literals(value: float, compute: str, text: str) -> None:
    assert literal(value, compute) == text


def test_inputs_may_have_names_that_the_language_reserves() -> None:
    assert variable("kernel") == "v_kernel"
