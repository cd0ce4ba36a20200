"""Scalar expressions: the language, and its meaning on arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opyard.errors import SpecError
from opyard.scalar import FUNCTIONS, Scalar, erf

PYTHON = {"exp": math.exp, "abs": abs, "min": min, "max": max}

numbers = st.floats(-3, 3, allow_subnormal=False)


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "x + y * 2 - y / 4",
        "x // 0.75 + y % 0.75",
        "-x if x < y else +y",
        "x if x > 0 and y > 0 else y",
        "x if x > 0 or y > 0 or x == y else 1.5",
        "x if not (x >= y) else y",
        "(x if y != 0 else 1) if x <= 1 else max(x, min(y, 0))",
        "exp(abs(x)) ** 0.5",
    ],
)
@settings(max_examples=25, deadline=None)
@given(x=st.lists(numbers, min_size=1, max_size=4), y=numbers)
def test_arrays_hold_what_python_computes_for_each_element(text: str, x: list[float], y: float) -> None:
    found = np.asarray(Scalar(text, ("x", "y"))(x=np.array(x), y=np.array(y)))
    expected = [eval(text, dict(PYTHON), {"x": element, "y": y}) for element in x]
    np.testing.assert_allclose(np.broadcast_to(found, len(x)), expected, rtol=1e-12, atol=1e-12)


def test_bits() -> None:
    x, y = np.array([0b1100, 0b1010], np.uint8), np.array([0b1010, 3], np.uint8)
    evaluate = Scalar("(x & y) | (x ^ ~y)", ("x", "y"))
    np.testing.assert_array_equal(evaluate(x=x, y=y), (x & y) | (x ^ ~y))
    np.testing.assert_array_equal(Scalar("x << 2 >> 1", ("x",))(x=x), x << 2 >> 1)


def test_nested_logic_on_booleans() -> None:
    x, y = np.array([False, False, True, True]), np.array([False, True, False, True])
    np.testing.assert_array_equal(Scalar("not (x and not y or y and not x)", ("x", "y"))(x=x, y=y), x == y)


def test_special_values_pass_through() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 0.0])
    np.testing.assert_array_equal(
        Scalar("x if isfinite(x) else -x", ("x",))(x=x), [np.nan, -np.inf, np.inf, 0]
    )


def test_an_expression_without_names() -> None:
    assert Scalar("2 ** 3 + 1", ())() == 9


def test_attributes_are_names_too() -> None:
    leaky = Scalar("x if x >= 0 else slope * x", ("x", "slope"))
    np.testing.assert_array_equal(leaky(x=np.array([-2.0, 3.0]), slope=0.5), [-1.0, 3.0])
    assert repr(leaky) == leaky.text == "x if x >= 0 else slope * x"
    assert leaky.names == ("x", "slope")


def test_evaluating_leaves_the_tree_for_code_generators() -> None:
    import ast

    scalar = Scalar("x if x > 0 and y > 0 else not y", ("x", "y"))
    before = ast.dump(scalar.tree)
    scalar(x=np.ones(2), y=np.ones(2))
    assert ast.dump(scalar.tree) == before


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_every_function_can_be_called(name: str) -> None:
    arity = (
        2
        if name in ("hypot", "copysign", "nextafter", "logaddexp", "fmod", "atan2", "min", "max", "pow")
        else 1
    )
    text = f"{name}({', '.join(('x', 'y')[:arity])})"
    # inside the domain of every function but acosh, which begins at 1
    result = (
        Scalar(text, ("x", "y"))(x=np.array([1.0, 1.0]), y=np.array([0.5, 0.25])) if name != "atanh" else 0
    )
    assert np.all(np.isfinite(np.asarray(result, np.float64)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x +", "'x \\+' is not a Python expression: invalid syntax"),
        ("x = 1", "is not a Python expression"),
        ("x.real", "uses Attribute, which the language does not have; see docs/writing-a-kernel.md"),
        ("x[0]", "uses Subscript, which"),
        ("(lambda: x)()", "calls '\\(?lambda: x\\)?', which is not known|uses Lambda, which"),
        ("x @ x", "uses MatMult, which"),
        ("x is x", "uses Is, which"),
        ("f'{x}'", "uses JoinedStr, which"),
        ("expp(x)", "calls 'expp', which is not known. Did you mean exp.* Known: abs, "),
        ("exp(x=x)", "calls 'exp', which is not known"),
        ("x(1)", "calls 'x', which is not known|calls 'x', which is also the name"),
        ("z + x", "uses 'z', which is no input or attribute; there are x."),
        ("exp + x", "uses 'exp', which is no input or attribute"),
        ("0 < x < 1", "chains comparisons; join two with 'and'"),
        ("x + 'a'", "holds 'a'; constants are numbers"),
        ("x + 1j", "holds 1j; constants are numbers"),
        ("min(x)", r"calls min\(x\); min takes 2 arguments\."),
        ("exp(x, x)", r"calls exp\(x, x\); exp takes 1 argument\."),
        ("exp(*x)", "uses Starred, which"),
        (
            "+".join(["x"] * 900),
            r"'x\+x.*'\.\.\. nests more than 100 operations; write a NumPy reference or decompose",
        ),
        ("-" * 5000 + "x", "nests more than 100 operations"),
        ("(" * 400 + "x" + ")" * 400, "too many nested parentheses"),
        ("__import__('os')", "calls '__import__', which is not known"),
    ],
)
def test_what_the_language_does_not_have(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Scalar(text, ("x",))


def test_a_name_that_hides_a_function() -> None:
    with pytest.raises(
        SpecError, match="calls 'min', which is also the name of an input or attribute; rename that one"
    ):
        Scalar("min(x, min)", ("x", "min"))
    assert Scalar("max(x, min)", ("x", "min"))(x=1, min=2) == 2


def test_no_names_at_all() -> None:
    with pytest.raises(SpecError, match="uses 'x', which is no input or attribute; there are none"):
        Scalar("x", ())


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "bool"])
def test_erf(dtype: str) -> None:
    x: Any = np.array([0, 1, 1], dtype)
    expected = np.array([math.erf(float(v)) for v in x])
    found = erf(x)
    assert found.dtype == (dtype if dtype.startswith("float") else "float64")
    np.testing.assert_array_equal(found, expected.astype(found.dtype))
    assert erf(np.zeros((0, 2), np.float32)).shape == (0, 2)
    assert np.isnan(erf(np.nan))


def test_round_goes_to_even_and_leaves_integers() -> None:
    evaluate = Scalar("round(x)", ("x",))
    np.testing.assert_array_equal(evaluate(x=np.array([0.5, 1.5, -2.5])), [0, 2, -2])
    big = np.array([2**62 + 1])
    np.testing.assert_array_equal(evaluate(x=big), big)


def test_an_expression_is_a_string() -> None:
    with pytest.raises(SpecError, match=r"a scalar expression is a string, such as 'x \* x'; found 3"):
        Scalar(3, ("x",))  # type: ignore[arg-type]
