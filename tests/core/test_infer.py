"""Inference rules that many ops share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from opyard.errors import SpecError
from opyard.infer import elementwise, normalize_axes, normalize_axis, reduction, require_kind, same_as_first
from opyard.spec import TensorSpec

VECTOR = TensorSpec((3,))


@pytest.mark.parametrize(
    ("kind", "good", "bad", "target"),
    [
        ("numeric", "int8", "bool", "float32"),
        ("real", "uint8", "complex64", "float32"),
        ("floating", "bfloat16", "int32", "float32"),
        ("real floating", "float16", "complex64", "float32"),
        ("integer", "uint8", "float32", "int32"),
        ("integer or bool", "bool", "float32", "int32"),
        ("bool", "bool", "int8", "bool"),
    ],
)
def test_kinds(kind: str, good: str, bad: str, target: str) -> None:
    require_kind(TensorSpec((), good), kind)
    with pytest.raises(
        SpecError,
        match=rf"^the mask must be {kind}, it is {bad}\[\]; cast it first: cast\(x, dtype='{target}'",
    ):
        require_kind(TensorSpec((), bad), kind, "the mask")


def test_elementwise_rule() -> None:
    rule = elementwise("numeric")
    assert rule(TensorSpec((2, 1), "int8"), None, TensorSpec((3,), "float32")) == TensorSpec((2, 3))
    assert elementwise("any", dtype="bool")(VECTOR, VECTOR) == TensorSpec((3,), "bool")
    with pytest.raises(SpecError, match=r"input 1 must be numeric, it is bool\[\]"):
        rule(VECTOR, TensorSpec((), "bool"))
    with pytest.raises(SpecError, match="do not broadcast"):
        rule(VECTOR, TensorSpec((2,)))


def test_same_as_first_rule() -> None:
    assert same_as_first("floating")(VECTOR, TensorSpec((9,), "int8"), axis=1) is VECTOR
    with pytest.raises(SpecError, match="the input must be floating"):
        same_as_first("floating")(TensorSpec((), "bool"))


@pytest.mark.parametrize(
    ("attributes", "shape"),
    [
        ({}, ()),
        ({"axis": 0}, (3, 4)),
        ({"axis": -1, "keepdims": True}, (2, 3, 1)),
        ({"axis": (2, 0)}, (3,)),
        ({"axis": ()}, (2, 3, 4)),
        ({"keepdims": True}, (1, 1, 1)),
    ],
)
def test_reduction_rule(attributes: dict[str, Any], shape: tuple[int, ...]) -> None:
    assert reduction()(TensorSpec((2, 3, 4)), **attributes) == TensorSpec(shape)
    assert reduction(dtype="int64")(TensorSpec((2, 3, 4)), **attributes) == TensorSpec(shape, "int64")


def test_axes() -> None:
    one: Any = np.int32(1)
    assert normalize_axis(-1, 3) == 2 and normalize_axis(one, 2) == 1
    assert normalize_axes(None, 2) == (0, 1) and normalize_axes((-1, 0), 3) == (0, 2)
    assert normalize_axes(None, 0) == ()


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: normalize_axis(2, 2), r"axis=2 is out of range for a tensor of rank 2; use -2 to 1"),
        (lambda: normalize_axis(-3, 2, "batch_axis"), r"batch_axis=-3 is out of range"),
        (lambda: normalize_axis(0, 0), r"axis=0 is out of range for a tensor of rank 0; it has no axes"),
        (lambda: normalize_axis(1.0, 2), r"axis is an integer; found 1.0"),  # type: ignore[arg-type]
        (lambda: normalize_axis(True, 2), r"axis is an integer; found True"),
        (lambda: normalize_axes((0, -2), 2), r"axis=\(0, -2\) names an axis twice"),
    ],
)
def test_wrong_axes(check: Callable[[], Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check()
